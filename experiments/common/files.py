"""Files that are never half-written: whole files, JSON, and JSON lines."""

import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

FORMAT_VERSION = 1

Record = dict[str, Any]


def write(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that is either complete or absent, whatever happens to the process."""
    # A random name, since processes on many machines may write to one directory.
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Writes a record as indented JSON, with the version of this format."""
    content = json.dumps({"format_version": FORMAT_VERSION, **_finite(record)}, indent=2)
    write(path, content.encode() + b"\n")


def append_lines(path: pathlib.Path, records: Iterable[Record]) -> None:
    """Appends records to a file of JSON lines in one write and flushes them to disk."""
    lines = "".join(json.dumps(_finite(record), allow_nan=False) + "\n" for record in records)
    with open(path, "ab", buffering=0) as file:
        file.write(lines.encode())
        os.fsync(file.fileno())


def read_lines(path: pathlib.Path) -> list[Record]:
    """Reads a file of JSON lines, except a last line that a crash cut short."""
    whole, _, _ = path.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def _finite(value: Any) -> Any:
    """The value with null for NaN and infinities, which JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _finite(content) for name, content in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(content) for content in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
