"""The directory of a sweep, which any number of processes can fill: one row per run.

    *.parquet            the runs, see `experiments.common.run_files`
    .unfinished/         the state of runs in progress, see `experiments.common.unfinished`
    .claims              which process trains which run, see `experiments.common.claims`

A process writes each finished batch to a file and merges its own files as it goes. One that is
killed loses none of its finished batches. Other tools can read all files at once, for example
`duckdb.sql("from 'runs/sweep/**/*.parquet'")`.
"""

import contextlib
import pathlib
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments.common import claims, files, run_files, step_columns
from experiments.common.config import UsageError
from experiments.common.run_files import PARTS, SCHEMA

# At most this share of the time is spent on looking for new runs in other folders than the own one.
# Not to know of them costs only time, and a thousand processes can't list all after each batch.
_LOOKING = 0.02
_LISTINGS = 3  # of a folder, until no file is missing


class SweepDirectory:
    """A directory of results. Enter it as a context to add runs, which makes it if needed.

    Entering raises a UsageError if the directory can't be made or is not writable.
    """

    def __init__(self, directory: str | pathlib.Path, label: str = ""):
        """A directory, for a process that trains all of a grid, or the shard with this label."""
        self.directory = pathlib.Path(directory)
        self._label = label
        self._folder = run_files.folder(self.directory, label)
        self._sizes: dict[pathlib.Path, int] = {}  # of the files that this process merges
        self._files: set[pathlib.Path] = set()
        self._finished: set[str] = set()
        self._listed = -np.inf  # when all folders were
        self._listing = 0.0  # seconds that it took
        self._claims = claims.Claims(self.directory / ".claims")

    def __enter__(self) -> "SweepDirectory":
        self._made = files.absent(self.directory)
        files.prepare(self.directory, "name another --workdir")
        files.remove_abandoned(self._folder, f".{PARTS}.*.tmp")
        if self._label:  # the files of a shard are its own, whichever process wrote them
            for path in run_files.listed([self._folder]):
                with contextlib.suppress(FileNotFoundError):
                    self._sizes[path] = path.stat().st_size
        self._claims.__enter__()
        self._claims.tidy(self.finished(), files.now(self.directory))
        return self

    def __exit__(self, *error: Any) -> None:
        self._merge([path for path, size in self._sizes.items() if size < run_files.LARGE])
        self._claims.__exit__(*error)
        if self._made and not self.finished():  # nothing is left behind if nothing was trained
            self._claims.clear()
            files.remove_empty(self._made)

    def finished(self) -> set[str]:
        """The keys of all runs in the directory now, from all processes.

        Runs that were written for other shards of the same grid can be missing. So can the latest
        in other folders than that of this process, where there are so many that listing them takes
        long.
        """
        folders, started = [self._folder], time.monotonic()
        everywhere = (started - self._listed) * _LOOKING >= self._listing
        if everywhere:
            folders = run_files.folders(self.directory, self._label)
        # A file that is gone was replaced by one that the next listing shows.
        for _ in range(_LISTINGS):
            if self._read_all(set(run_files.listed(folders)) - self._files):
                break
        if everywhere:
            self._listed = time.monotonic()
            self._listing = self._listed - started
        return self._finished

    def _read_all(self, paths: Iterable[pathlib.Path]) -> bool:
        """Reads the keys of runs from files; returns whether all were there."""
        complete = True
        for path in paths:
            try:
                self._finished.update(run_files.read(path, ["key"])["key"].to_pylist())
                self._files.add(path)
            except FileNotFoundError:
                complete = False
        return complete

    def claim(self, keys: Iterable[str], most: int) -> list[str]:
        """Claims runs for this process, until they are added or the process ends.

        Args:
          keys: of the runs to choose from, in order of preference.
          most: the maximum number of runs to claim.

        Returns:
          The keys of runs that are neither finished nor claimed by another process.
        """
        # What isn't known to be finished is looked up after it was claimed.
        unknown = (key for key in keys if key not in self._finished)
        return self._claims.claim(unknown, most, self._finished_now)

    def doubt(self) -> float | None:
        """Seconds until more is known of the processes that hold claims, see `Claims.doubt`."""
        return self._claims.doubt()

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Writes the runs of a finished batch to disk and releases the claims."""
        path, size = run_files.write(self._folder, pa.Table.from_pylist(rows, SCHEMA))
        keys = [row["key"] for row in rows]
        self._found(path, size, keys)
        self._claims.release(keys)
        while full := run_files.full_level(self._sizes):
            self._merge(full)

    def _merge(self, paths: list[pathlib.Path]) -> None:
        """Replaces some of the files of this process by one."""
        if len(paths) < 2:
            return
        merged = None
        with contextlib.suppress(OSError, UsageError, pa.ArrowException):  # they stay as they are
            merged = run_files.merge(self._folder, paths)
        for path in paths:
            del self._sizes[path]
        if merged:
            self._found(*merged, [])

    def _found(self, path: pathlib.Path, size: int, keys: list[str]) -> None:
        """Remembers a file of this process, and that these runs are finished."""
        self._sizes[path] = size
        self._files.add(path)
        self._finished.update(keys)

    def _finished_now(self) -> set[str]:
        with contextlib.suppress(FileNotFoundError):  # the folder of a shard without runs so far
            files.now(self._folder)  # so that a network file system lists it anew
        return self.finished()


def read(
    directory: str | pathlib.Path, wanted: Collection[str] | None = None, *, steps: bool = True
) -> pa.Table:
    """Reads the runs of a directory, each once, in an order that depends only on the runs.

    Args:
      directory: see `SweepDirectory`.
      wanted: the keys of the runs to read; None means all.
      steps: whether to read the columns of every step, too, which are most of the data.

    Raises:
      UsageError: there are no runs, or a file can't be read.
    """
    columns = [name for name in SCHEMA.names if steps or not name.startswith("step_")]
    tables = list(run_files.read_all(pathlib.Path(directory), columns).values())
    if not any(map(len, tables)):
        raise _no_runs(pathlib.Path(directory))
    table = pa.concat_tables(tables)  # without a copy
    return table.take(_order(table, wanted))


def scan(
    directory: str | pathlib.Path, wanted: Collection[str] | None = None
) -> tuple[pa.Table, Callable[[pa.Table], pa.Table]]:
    """Reads the runs of a directory without the columns of steps, which it can read later.

    So a directory can be much larger than the memory, if it has been compacted.

    Args:
      directory: see `SweepDirectory`.
      wanted: the keys of the runs to read; None means all.

    Returns:
      The runs in the order of `read`, without their keys, with a column that says where they are;
      and a function that takes some of these rows and returns them with the columns of steps.

    Raises:
      UsageError: as `read`; or the files that are not compacted are too large.
    """
    directory = pathlib.Path(directory)
    steps = step_columns.StepColumns(directory)
    tables = steps.read([name for name in SCHEMA.names if not name.startswith("step_")]).values()
    if not any(map(len, tables)):
        raise _no_runs(directory)
    table = pa.concat_tables(tables)
    table = table.append_column(step_columns.PLACE, pa.array(np.arange(len(table))))
    return table.drop_columns(["key"]).take(_order(table, wanted)), steps.complete


def _no_runs(directory: pathlib.Path) -> UsageError:
    below = [path for path in directory.glob("*/") if run_files.listed(run_files.folders(path))]
    advice = f"name a sweep: {' or '.join(map(str, sorted(below)))}"
    if not below:
        advice = "run python -m experiments.sweep first"
    return UsageError(f"{directory} holds no runs; {advice}")


def _order(table: pa.Table, wanted: Collection[str] | None = None) -> pa.ChunkedArray:
    """The places of the wanted runs, each once, by seed and key."""
    rows = table.select(["seed", "key"]).append_column("at", pa.array(np.arange(len(table))))
    rows = rows.take(run_files.last_places(table["key"]))
    if wanted is not None:
        rows = rows.filter(pc.field("key").isin(list(wanted)))
    return rows.sort_by([("seed", "ascending"), ("key", "ascending")])["at"]
