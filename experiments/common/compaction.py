"""Turns the many files of a directory of runs into few, in which each setting lies together.

The runs are ordered by what was trained, then by initializer and seed, so that who reads one
setting reads one part of one file. Memory is bounded: the runs are divided into parts of that order
first, each of which is then sorted by itself. Sweeps can go on meanwhile: what they add is left for
the next time. A file is deleted only if this process has read all of it, and has written all of its
runs. See `experiments.common.run_files` for why nothing can be lost.
"""

import contextlib
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from experiments.common import files, grouping, run_files
from experiments.common.config import UsageError

_ORDER = ["init", "rules", *run_files.SETTING, "seed", "key"]
_PLACE = "place"
_SCRATCH = ".compaction-"
_PART = 2**27  # bytes, uncompressed: what is sorted at once


class Compacted(NamedTuple):
    """What a compaction did."""

    runs: int
    before: int
    """Number of files that it read."""
    after: int
    """Number of files that it wrote."""


def compact(directory: pathlib.Path, show: Callable[[int], None] = lambda done: None) -> Compacted:
    """Replaces the files of a directory by few.

    Args:
      directory: of the runs.
      show: is told from time to time how many files have been read.

    Raises:
      UsageError: there are no runs, or a file can't be read.
      OSError: the directory is not writable.
    """
    tables = run_files.read_all(directory, _ORDER)
    if not sum(map(len, tables.values())):
        raise UsageError(f"{directory} holds no runs")
    folder = directory / run_files.COMPACTED
    order = _order(pa.concat_tables(tables.values()))
    starts = np.cumsum([0, *map(len, tables.values())])
    places = {
        path: order[start:end]
        for path, start, end in zip(tables, starts[:-1], starts[1:], strict=True)
    }
    runs, before = int(order.max()) + 1, len(tables)
    if all(path.parent == folder for path in places) and runs == len(order):
        return Compacted(runs, before, before)
    del tables
    parts = max(1, round(sum(map(_uncompressed, places)) / _PART))
    ends = np.linspace(0, runs, parts + 1).astype(int)[1:]
    folder.mkdir(exist_ok=True)
    files.remove_abandoned(directory, f"{_SCRATCH}*")
    files.remove_abandoned(folder, ".*.tmp")
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=directory) as temporary:
        scratch = [pathlib.Path(temporary, str(part)) for part in range(parts)]
        read = _scatter(places, ends, scratch, show)
        # A part is empty if other processes have replaced all of its files.
        sorted_parts = (rows for path in scratch if len(rows := _sorted(path)))
        written = [run_files.write(folder, rows) for rows in sorted_parts]
    run_files.remove(read, [folder])
    for emptied in {path.parent for path in read} - {directory, folder}:
        with contextlib.suppress(OSError):  # it holds new files
            emptied.rmdir()
            emptied.parent.rmdir()
    return Compacted(runs, before, len(written))


def _order(table: pa.Table) -> np.ndarray:
    """(rows,): the place of each run in the order of all.

    All copies of a run have one place, since any of them can be gone when it is to be read.
    """
    keys = table["key"].combine_chunks().dictionary_encode().indices.to_numpy()
    _, first = np.unique(keys, return_index=True)
    table = table.take(first)
    settings = grouping.groups(table, run_files.SETTING)
    inits = grouping.groups(table, ["init", "rules"])
    rank = np.empty(len(first), np.int64)
    rank[np.lexsort((table["seed"].to_numpy(), inits, settings))] = np.arange(len(first))
    return rank[keys]


def _uncompressed(path: pathlib.Path) -> int:
    """The bytes of all runs in a file; none if it is gone."""
    with contextlib.suppress(FileNotFoundError), run_files.opened(path) as file:
        groups = (file.metadata.row_group(number) for number in range(file.num_row_groups))
        return sum(group.total_byte_size for group in groups)
    return 0


def _scatter(
    places: Mapping[pathlib.Path, np.ndarray],
    ends: np.ndarray,
    scratch: Sequence[pathlib.Path],
    show: Callable[[int], None],
) -> list[pathlib.Path]:
    """Divides the runs of all files into files of consecutive parts of the order.

    Args:
      places: for each file, the places of its rows in the order.
      ends: (parts,): where each part ends.
      scratch: the files of the parts.
      show: see `compact`.

    Returns:
      The files that were read; the others are gone.
    """
    read = []
    schema = run_files.SCHEMA.append(pa.field(_PLACE, pa.int64()))
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(ipc.new_file(path, schema)) for path in scratch]
        for done, (path, order) in enumerate(places.items()):
            with contextlib.suppress(FileNotFoundError):
                for rows in run_files.row_groups(path):
                    mine, order = order[: len(rows)], order[len(rows) :]
                    rows = rows.cast(run_files.SCHEMA).append_column(_PLACE, pa.array(mine))
                    parts = np.searchsorted(ends, mine, "right")
                    rows = rows.take(np.argsort(parts, kind="stable"))
                    bounds = np.searchsorted(np.sort(parts), range(len(ends) + 1)).tolist()
                    for writer, start, end in zip(writers, bounds[:-1], bounds[1:], strict=True):
                        if start < end:
                            writer.write_table(rows.slice(start, end - start))
                read.append(path)
            show(done + 1)
    return read


def _sorted(scratch: pathlib.Path) -> pa.Table:
    """The runs of one part in their order, each once."""
    with ipc.open_file(scratch) as file:
        rows = file.read_all()
    _, places = np.unique(rows[_PLACE].to_numpy(), return_index=True)
    return rows.drop_columns([_PLACE]).take(places)
