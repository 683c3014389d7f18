"""The columns of steps of a large directory of runs, which are read for some runs at a time."""

import functools
import pathlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from experiments.common import run_files
from experiments.common.config import UsageError

PLACE = "place"
"""A column that counts the rows of all files."""

_NAMES = ["step_loss", "step_acc"]
_MOST = 2**30  # bytes of files that are not compacted, which are held in memory
_KEPT = 16  # row groups of compacted files that are held in memory, each of 16 MB


class StepColumns:
    """Reads the columns of steps for rows that were read without them."""

    def __init__(self, directory: pathlib.Path, tables: Mapping[pathlib.Path, pa.Table]):
        """Prepares to read.

        Args:
          directory: of the runs.
          tables: the other columns of each file. `PLACE` counts their rows in this order.

        Raises:
          UsageError: the files that are not compacted are too large, or a file can't be read.
        """
        self._parts: list[tuple[pathlib.Path, int]] = []  # files and row groups
        sizes: list[int] = []
        loose = {path: 0 for path in tables if path.parent.name != run_files.COMPACTED}
        for path in tables:
            with run_files.opened(path) as file:
                groups = [file.metadata.row_group(n) for n in range(file.num_row_groups)]
            if path in loose:
                loose[path] = sum(group.total_byte_size for group in groups)
            self._parts += [(path, number) for number in range(len(groups))]
            sizes += [group.num_rows for group in groups]
        if (total := sum(loose.values())) > _MOST:
            raise UsageError(
                f"{directory} holds {total / 1e9:.1f} GB in {len(loose):,} files: run"
                f" python -m experiments.compact {directory} first"
            )
        self._starts = np.cumsum([0, *sizes])
        self._kept = {part: _read(*part) for part in self._parts if part[0] in loose}

    def complete(self, rows: pa.Table) -> pa.Table:
        """These rows with the columns of steps, without `PLACE`."""
        places = rows[PLACE].to_numpy()
        of_part = np.searchsorted(self._starts, places, "right") - 1
        order = np.argsort(of_part, kind="stable")
        found = []
        for mine in np.split(order, np.flatnonzero(np.diff(of_part[order])) + 1):
            part = self._parts[of_part[mine[0]]]
            table = self._kept[part] if part in self._kept else _read_lately(*part)
            found.append(table.take(places[mine] - self._starts[of_part[mine[0]]]))
        steps = pa.concat_tables(found).take(np.argsort(order))
        rows = rows.drop_columns([PLACE])
        for name in _NAMES:
            rows = rows.append_column(name, steps[name])
        return rows


def _read(path: pathlib.Path, number: int) -> pa.Table:
    try:
        with run_files.opened(path) as file:
            return file.read_row_group(number, _NAMES)
    except FileNotFoundError:
        raise UsageError(f"{path} has been replaced in the meantime; try again") from None


_read_lately = functools.lru_cache(maxsize=_KEPT)(_read)
