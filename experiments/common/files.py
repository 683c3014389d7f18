"""Files that are never half-written: whole files, JSON, and JSON lines."""

import contextlib
import json
import math
import os
import pathlib
import shutil
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

from experiments.common.config import UsageError

FORMAT_VERSION = 1
ABANDONED = 24 * 3600.0
"""Seconds after which a temporary file is left over, since writing takes moments."""

_PROBE = 2**16  # bytes: more than a full disk may still have room for

Record = dict[str, Any]


def prepare(directory: pathlib.Path, remedy: str, new: bool = False) -> pathlib.Path:
    """Makes a directory if needed and writes to it, so that an error comes before the work.

    Args:
      directory: where results will be written.
      remedy: what the user can do if that is not possible.
      new: whether a directory that exists is a FileExistsError.

    Returns:
      The directory.

    Raises:
      UsageError: the directory can't be made or written to; then nothing is left of it.
    """
    missing = absent(directory)
    probe = directory / f".{os.urandom(8).hex()}.tmp"
    try:
        directory.mkdir(parents=True, exist_ok=not new)
        write(probe, bytes(_PROBE))
        probe.unlink()
    except OSError as error:
        if new and isinstance(error, FileExistsError):
            raise
        remove_empty(missing)
        reason = "it is not a directory" if os.path.isfile(directory) else error.strerror
        raise UsageError(f"cannot write to {directory} ({reason}); {remedy}") from None
    return directory


def absent(directory: pathlib.Path) -> list[pathlib.Path]:
    """The directories that would have to be made for this one, which comes first."""
    return [path for path in (directory, *directory.parents) if not os.path.lexists(path)]


def remove_empty(directories: Iterable[pathlib.Path]) -> None:
    """Removes those directories that are empty, in this order."""
    for directory in directories:
        with contextlib.suppress(OSError):
            directory.rmdir()


def remove(path: pathlib.Path) -> None:
    """Removes a file or a whole directory, unless another process was faster."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def now(directory: pathlib.Path) -> float:
    """The time, in seconds, by the clock that gives the files of a directory their times.

    It makes a file and removes it, after which a network file system lists the directory anew,
    instead of answering with what it was some time ago.
    """
    probe = directory / f".{os.urandom(8).hex()}.tmp"
    try:
        with open(probe, "xb") as file:
            return os.fstat(file.fileno()).st_mtime
    finally:
        probe.unlink(missing_ok=True)


def remove_abandoned(directory: pathlib.Path, pattern: str) -> None:
    """Removes what killed processes have left over in a directory, a day ago or earlier.

    Args:
      directory: where it is, if it exists.
      pattern: of the names of temporary files or directories.
    """
    found = list(directory.glob(pattern))
    with contextlib.suppress(OSError):  # another process removes the directory
        before = now(directory) - ABANDONED if found else 0.0
        for path in found:
            with contextlib.suppress(OSError):  # or this path
                if path.stat().st_mtime < before:
                    remove(path)


def write(path: pathlib.Path, content: bytes) -> os.stat_result:
    """Writes a file that is either complete or absent, whatever happens to the process.

    Returns:
      What identifies the file, even once another process has put its own in its place.
    """
    # A random name, since processes on many machines may write to one directory.
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            written = os.fstat(file.fileno())
        os.replace(temporary, path)
        return written
    except OSError as error:
        if error.errno and error.filename in (None, str(temporary)):  # such as about a full disk
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Writes a record as indented JSON, with the version of this format."""
    content = json.dumps({"format_version": FORMAT_VERSION, **_finite(record)}, indent=2)
    write(path, content.encode() + b"\n")


def append_lines(file: pathlib.Path | BinaryIO, records: Iterable[Record]) -> None:
    """Appends records to a file of JSON lines in one write and flushes them to disk."""
    lines = "".join(json.dumps(_finite(record), allow_nan=False) + "\n" for record in records)
    with (
        open(file, "ab", 0) if isinstance(file, pathlib.Path) else contextlib.nullcontext(file) as f
    ):
        f.write(lines.encode())
        os.fsync(f.fileno())


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
