"""The columns of steps of a large directory of runs, which are read for some runs at a time."""

import functools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from experiments.common import run_files
from experiments.common.config import UsageError

PLACE = "place"
"""A column that counts the rows of all files."""

_NAMES = ["step_loss", "step_acc"]
_MOST = 2**30  # bytes of files that are not compacted, which are held in memory
_KEPT = 16  # row groups of compacted files that are held in memory, each of 16 MB


class _File(NamedTuple):
    rows: list[int]
    """The number in each row group."""
    steps: list[pa.Table]
    """The columns of steps of each row group, if they are held in memory."""


class StepColumns:
    """Reads the columns of steps for rows that were read without them."""

    def __init__(self, directory: pathlib.Path):
        """Steps of the runs in a directory, once `read` has read the rest."""
        self._directory = directory
        self._files: dict[pathlib.Path, _File] = {}
        self._loose, self._bytes = 0, 0  # files that are not compacted, and their size

    def read(self, columns: Sequence[str]) -> dict[pathlib.Path, pa.Table]:
        """Reads other columns of each file. `PLACE` counts their rows in this order.

        What is not compacted can be replaced at any time, so its steps are read at once.

        Raises:
          UsageError: the files that are not compacted are too large, or a file can't be read.
        """
        tables = run_files.read_all(self._directory, columns, self._read_file)
        if self._bytes > _MOST:
            raise UsageError(
                f"{self._directory} holds {self._bytes / 1e9:.1f} GB in {self._loose:,} files: run"
                f" python -m experiments.compact {self._directory} first"
            )
        # Files and row groups.
        self._parts = [(path, n) for path in tables for n in range(len(self._files[path].rows))]
        self._starts = np.cumsum([0, *(self._files[path].rows[n] for path, n in self._parts)])
        return tables

    def _read_file(self, path: pathlib.Path, columns: Sequence[str] | None) -> pa.Table:
        with run_files.opened(path) as file:
            table = run_files.read_from(file, path, columns)
            groups = [file.metadata.row_group(n) for n in range(file.num_row_groups)]
            steps, size = [], 0
            if path.parent.name != run_files.COMPACTED:
                size = sum(group.total_byte_size for group in groups)
                if self._bytes + size <= _MOST:
                    steps = [file.read_row_group(n, _NAMES) for n in range(len(groups))]
        self._files[path] = _File([group.num_rows for group in groups], steps)
        self._loose += size > 0
        self._bytes += size
        return table

    def complete(self, rows: pa.Table) -> pa.Table:
        """These rows with the columns of steps, without `PLACE`."""
        places = rows[PLACE].to_numpy()
        of_part = np.searchsorted(self._starts, places, "right") - 1
        order = np.argsort(of_part, kind="stable")
        found = []
        for mine in np.split(order, np.flatnonzero(np.diff(of_part[order])) + 1):
            path, number = self._parts[of_part[mine[0]]]
            steps = self._files[path].steps
            table = steps[number] if steps else _read_lately(path, number)
            found.append(table.take(places[mine] - self._starts[of_part[mine[0]]]))
        columns = pa.concat_tables(found).take(np.argsort(order))
        rows = rows.drop_columns([PLACE])
        for name in _NAMES:
            rows = rows.append_column(name, columns[name])
        return rows


def _read(path: pathlib.Path, number: int) -> pa.Table:
    try:
        with run_files.opened(path) as file:
            return file.read_row_group(number, _NAMES)
    except FileNotFoundError:
        raise UsageError(f"{path} has been replaced in the meantime; try again") from None


_read_lately = functools.lru_cache(maxsize=_KEPT)(_read)
