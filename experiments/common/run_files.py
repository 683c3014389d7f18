"""The Parquet files that hold the runs of a directory, and how they stay few.

    runs-ID.parquet               of processes that train a whole grid
    shards/LABEL/runs-ID.parquet  of one shard, see `experiments.common.shards`
    compacted/runs-ID.parquet     of `experiments.compact`

A file is written under a temporary name, flushed to disk, renamed, and never changed. Its name is
random, so no name comes again. A process replaces files that it has read by new ones with all of
their runs, and deletes them once those are on disk. So the file of a run that was written last is
never deleted, whoever is killed, and any number of processes can write and replace files at the
same time. What it can cost is that a run is in two files, where it counts once, and that a reader
meets a file that is gone: it lists the directory again. This relies on the file system to rename a
file in one step.
"""

import contextlib
import io
import math
import os
import pathlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.common import files, shards
from experiments.common.config import UsageError

FORMAT_VERSION = 1

PARTS = "runs-*.parquet"
SHARDS = "shards"
COMPACTED = "compacted"
LARGE = 2**26
"""Bytes of a file that is not merged with others any more."""

_REMEDY = "if it is damaged, delete it, and a sweep will train its runs again"
# Seconds before each listing if the last one was out of date: a minute, as long as NFS keeps one.
_WAITS = [0.0, *np.geomspace(0.01, 20, 19)]
_SMALL = 2**16  # bytes of a file of the lowest level
_FAN = 4  # files of a level are merged; those of the next are about so many times as large
_ROW_GROUP = 2**24  # bytes, uncompressed: what is read at least to get one run

SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # identifies the run: digest of the configuration and the data
        ("status", pa.string()),  # finished, or diverged (a loss is not finite)
        # What was run: the fields of `Config`, and the digest of the data.
        ("init", pa.string()),
        ("rules", pa.string()),  # what the name of an initializer stands for; null: it says so
        ("output_init", pa.string()),
        ("bias_init", pa.string()),
        ("seed", pa.int64()),
        ("model", pa.string()),
        ("hidden", pa.list_(pa.int64())),
        ("residual", pa.bool_()),
        ("normalization", pa.string()),
        ("activation", pa.string()),
        ("inputs", pa.string()),
        ("dtype", pa.string()),
        ("optimizer", pa.string()),
        ("learning_rate", pa.float64()),
        ("epochs", pa.int64()),
        ("steps", pa.int64()),  # null: as many as there are in the epochs
        ("batch_size", pa.int64()),
        ("scheme", pa.string()),  # null: initializers and learning rate as they are at this size
        ("base", pa.list_(pa.int64())),  # null without a scheme
        ("dataset", pa.string()),
        ("digest", pa.string()),
        # Results: of every epoch (val_: also before training, unless steps are counted), and of
        # every step.
        ("loss", pa.list_(pa.float64())),
        ("acc", pa.list_(pa.float64())),
        ("val_loss", pa.list_(pa.float64())),
        ("val_acc", pa.list_(pa.float64())),
        ("step_loss", pa.list_(pa.float32())),
        ("step_acc", pa.list_(pa.float32())),
        # Where and when.
        ("features", pa.int64()),  # inputs of the network: the pixels of an image, or of a patch
        ("classes", pa.int64()),
        ("test_images", pa.int64()),
        ("guess_acc", pa.float64()),  # of always predicting the most common class
        ("seconds", pa.float64()),  # wall time, divided by the runs of a batch
        ("finished", pa.timestamp("s", tz="UTC")),
        ("host", pa.string()),
        ("device", pa.string()),
        ("versions", pa.string()),  # such as "jax 0.10.2, flax 0.12.8"
    ],
    metadata={"format_version": str(FORMAT_VERSION)},
)

# How they are stored: texts repeat, and losses of steps, which are most of the data, are smaller
# and faster to write with their bytes apart.
_ENCODING: dict[str, Any] = {
    "compression": "zstd",
    "use_dictionary": [field.name for field in SCHEMA if field.type == pa.string()],
    "use_byte_stream_split": [f"{name}.list.element" for name in ("step_loss", "step_acc")],
}

SETTING = (
    "model hidden residual normalization activation inputs dtype optimizer learning_rate epochs"
    " steps batch_size output_init bias_init scheme base digest"
).split()
"""The columns that runs have in common which differ only in initializer and seed."""

# Columns that older files lack, and what their runs have.
_ADDED = {
    "rules": None,
    "model": "mlp",
    "residual": False,
    "normalization": "none",
    "inputs": "unit",
    "steps": None,
    "scheme": None,
    "base": None,
}


def folder(directory: pathlib.Path, label: str) -> pathlib.Path:
    """Where a process writes its files.

    Args:
      directory: of the runs.
      label: of its shard; empty without one.
    """
    return directory / SHARDS / label if label else directory


def folders(directory: pathlib.Path, label: str = "") -> list[pathlib.Path]:
    """The folders of the files that can hold runs of a shard, or of all.

    Args:
      directory: of the runs.
      label: of the shard. The other shards of its grid hold none of its runs.
    """
    found = _entries(directory / SHARDS)
    others = [path for path in found if not shards.are_siblings(path.name, label)]
    # The last one is where runs move to, so one that moves meanwhile is found there.
    return [directory, *others, directory / COMPACTED]


def listed(folders: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """The files of runs in some folders, of which some may be gone by now."""
    return [
        path
        for folder in folders
        for path in _entries(folder)
        if path.name.startswith("runs-") and path.suffix == ".parquet"
    ]


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
    try:
        return [folder / name for name in os.listdir(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_all(
    directory: pathlib.Path,
    columns: Sequence[str] | None = None,
    reader: Callable[[pathlib.Path, Sequence[str] | None], pa.Table] | None = None,
) -> dict[pathlib.Path, pa.Table]:
    """Reads all files of a directory, in the order of their names.

    Args:
      directory: of the runs.
      columns: what to read of each file; None means all.
      reader: reads a file; None means `read`.

    Raises:
      UsageError: a file can't be read, or files that are gone are still listed after a minute.
    """
    tables: dict[pathlib.Path, pa.Table] = {}
    gone: set[pathlib.Path] = set()
    new: set[pathlib.Path] = set()
    stale = False
    # A file can be missed that replaces another one while the directory is being listed.
    for wait in _WAITS:
        if stale and not new:
            time.sleep(wait)
        found = set(listed(folders(directory)))
        stale = bool(found & gone)  # a network file system answers with what it listed before
        new = found - tables.keys() - gone
        if not new and not stale:
            break
        for path in new:
            try:
                tables[path] = (reader or read)(path, columns)
            except FileNotFoundError:  # it was replaced: list again
                gone.add(path)
                stale = True
    if stale:  # what has replaced these files may be missing
        raise UsageError(f"{directory} keeps changing; try again")
    return dict(sorted(tables.items()))


def read(path: pathlib.Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads some or all columns of a file.

    Raises:
      FileNotFoundError: it is gone.
      UsageError: it can't be read.
    """
    with opened(path) as file:
        return read_from(file, path, columns)


def read_from(
    file: pq.ParquetFile, path: pathlib.Path, columns: Sequence[str] | None = None
) -> pa.Table:
    """Reads some or all columns of a file that is open."""
    return conformed(file.read(_there(file, columns)), path, columns)


def row_groups(path: pathlib.Path) -> Iterator[pa.Table]:
    """The runs of a file, a part at a time.

    Raises:
      FileNotFoundError: it is gone.
      UsageError: it can't be read.
    """
    with opened(path) as file:
        for number in range(file.num_row_groups):
            yield conformed(file.read_row_group(number, _there(file, None)), path)


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[pq.ParquetFile]:
    """A file, of which a part is to be read.

    Raises:
      FileNotFoundError: it is gone.
      UsageError: it can't be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            version = (file.schema_arrow.metadata or {}).get(b"format_version", b"none").decode()
            if version != str(FORMAT_VERSION):
                raise UsageError(f"{path} has format version {version}, expected {FORMAT_VERSION}")
            yield file
    except (pa.ArrowException, OSError) as error:
        if not path.exists():  # NFS reports a file that was deleted while it was open as stale
            raise FileNotFoundError(path) from None
        reason = " ".join(str(error).split())
        raise UsageError(f"cannot read {path}: {reason}; {_REMEDY}") from None


def _there(file: pq.ParquetFile, columns: Sequence[str] | None) -> list[str]:
    """Those of some columns, or of all, that a file has."""
    return [name for name in file.schema_arrow.names if name in (columns or SCHEMA.names)]


def conformed(
    table: pa.Table, path: pathlib.Path, columns: Sequence[str] | None = None
) -> pa.Table:
    """What was read of a file, with the columns that older files lack.

    Raises:
      UsageError: a column is missing.
    """
    names = list(columns or SCHEMA.names)
    for name in set(names) & _ADDED.keys() - set(table.column_names):
        values = pa.array([_ADDED[name]] * len(table), SCHEMA.field(name).type)
        table = table.append_column(name, values)
    if missing := set(names) - set(table.column_names):
        raise UsageError(f"{path} has no column {min(missing)}; {_REMEDY}")
    return table.select(names)


def write(folder: pathlib.Path, table: pa.Table) -> tuple[pathlib.Path, int]:
    """Writes runs to a file in a folder, which is made if needed.

    Returns:
      The path and the size of the file.
    """
    path = folder / PARTS.replace("*", os.urandom(8).hex())
    buffer = io.BytesIO()
    rows = max(1, _ROW_GROUP * len(table) // max(1, table.nbytes))
    pq.write_table(table, buffer, row_group_size=rows, **_ENCODING)
    while True:
        try:
            files.write(path, buffer.getvalue())
            return path, buffer.tell()
        except FileNotFoundError:  # it is the first, or a compaction has removed the empty folder
            folder.mkdir(parents=True, exist_ok=True)


def merge(folder: pathlib.Path, paths: Collection[pathlib.Path]) -> tuple[pathlib.Path, int] | None:
    """Replaces files by one with all of their runs.

    Returns:
      The path and the size of that file; None if the others are gone.

    Raises:
      UsageError: a file can't be read.
      OSError: the file can't be written.
    """
    tables: dict[pathlib.Path, pa.Table] = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # replaced by another process
            tables[path] = read(path).cast(SCHEMA)  # versions of Arrow differ in names inside lists
    if not tables:
        return None
    path, size = write(folder, once(pa.concat_tables(tables.values())))
    remove(tables, [folder])
    return path, size


def once(table: pa.Table) -> pa.Table:
    """The rows of a table without those whose runs come again later."""
    return table.take(last_places(table["key"]))


def last_places(keys: pa.ChunkedArray) -> pa.Array:
    """The ascending places at which keys are found that don't come again later."""
    table = pa.table({"key": keys, "place": np.arange(len(keys))})
    places = table.group_by("key").aggregate([("place", "max")])["place_max"]
    return pa.array(np.sort(places.to_numpy()))


def remove(paths: Iterable[pathlib.Path], replaced_in: Iterable[pathlib.Path]) -> None:
    """Deletes files whose runs are all in other files.

    Args:
      paths: the files.
      replaced_in: the folders of the other files.
    """
    for folder in replaced_in:  # or a crash of the machine could undo the renaming alone
        with contextlib.suppress(OSError):  # Windows opens no folders
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    for path in paths:
        with contextlib.suppress(OSError):  # another process deleted it, or Windows reads it
            path.unlink()


def full_level(sizes: dict[pathlib.Path, int]) -> list[pathlib.Path]:
    """The files to merge next so that they stay few; none if they are.

    Files of about the same size are merged once there are four. So each run is written again at
    most once for each level, and there are at most three files of each.

    Args:
      sizes: of files, in bytes.
    """
    levels: dict[int, list[pathlib.Path]] = {}
    for path, size in sizes.items():
        if size < LARGE:
            level = max(0, math.ceil(math.log(size / _SMALL, _FAN)))
            levels.setdefault(level, []).append(path)
    return next((paths for _, paths in sorted(levels.items()) if len(paths) >= _FAN), [])
