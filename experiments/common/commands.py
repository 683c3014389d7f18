"""The commands that train the runs of a directory again, from what the runs say of themselves."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from experiments.common import description
from experiments.common.config import OPTIMIZERS, Config, grouped

Grid = tuple[tuple[Any, ...], ...]
"""For each of `_AXES` the values that are combined with those of all others."""

_AXES = ("seed", "init", "hidden", "activation", "learning_rate", "optimizer")
_MOST = 4  # commands for runs that have everything but these in common
_BUNDLED = "mnist"  # the dataset that needs no flag


def of_runs(runs: pa.Table, directory: str) -> list[str]:
    """The commands of `experiments.sweep` that train these runs, as few as there can be.

    A directory that was filled only in part may need many of them. Then one command names the whole
    grid, and trains the missing runs, too.

    Args:
      runs: rows as in `experiments.common.sweep_directory`.
      directory: where they are.
    """
    names = {field.name for field in dataclasses.fields(Config)} & set(runs.column_names)
    groups: dict[tuple[tuple[str, Any], ...], set[tuple[Any, ...]]] = {}
    for row in runs.select(sorted(names)).to_pylist():
        row["hidden"] = tuple(row["hidden"])
        common = tuple((name, row[name]) for name in sorted(names) if name not in _AXES)
        groups.setdefault(common, set()).add(tuple(row[name] for name in _AXES))
    found = []
    for common, points in groups.items():
        grids = covering(points)
        if len(grids) > _MOST:
            grids = [tuple(_ordered(values) for values in zip(*points, strict=True))]
        found += [_command(dict(common), grid, directory) for grid in grids]
    return sorted(found)


def covering(points: Iterable[tuple[Any, ...]]) -> list[Grid]:
    """Grids that together hold each of these points once, and nothing else.

    Example:
      >>> covering([(0, "a"), (0, "b"), (1, "a"), (1, "b"), (2, "b")])
      [((0, 1), ('a',)), ((0, 1, 2), ('b',))]
    """
    grids: list[Grid] = [tuple((value,) for value in point) for point in sorted(points)]
    for axis in range(len(grids[0])):
        merged: dict[Grid, list[Any]] = {}
        for grid in grids:
            merged.setdefault((*grid[:axis], *grid[axis + 1 :]), []).extend(grid[axis])
        grids = [
            (*others[:axis], _ordered(values), *others[axis:]) for others, values in merged.items()
        ]
    return grids


def _ordered(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(sorted(set(values)))


def _command(common: Mapping[str, Any], grid: Grid, directory: str) -> str:
    axes = dict(zip(_AXES, grid, strict=True))
    given = [f"--init={','.join(axes['init'])}", f"--seeds={seeds(axes['seed'])}"]
    if axes["hidden"] != (Config.hidden,):
        given += [f"--hidden={','.join(grouped(sizes))}" for sizes in axes["hidden"]]
    for name in ("activation", "optimizer"):
        if axes[name] != (getattr(Config, name),):
            given.append(f"--{name}={','.join(axes[name])}")
    if any((OPTIMIZERS[name],) != axes["learning_rate"] for name in axes["optimizer"]):
        rates = ",".join(f"{rate!r}" for rate in axes["learning_rate"])
        given.append(f"--learning_rate={rates}")
    usual = {field.name: field.default for field in dataclasses.fields(Config)}
    usual["dataset"] = _BUNDLED
    given += [f"--{name}={value}" for name, value in common.items() if value != usual[name]]
    program = ["python", "-m", "experiments.sweep"]
    return description.quoted([*program, *given, f"--workdir={directory}"])


def seeds(numbers: Sequence[int]) -> str:
    """Ascending seeds as `--seeds` takes them.

    Example:
      >>> seeds([0, 1, 2]), seeds([5]), seeds([0, 1, 7, 8, 9])
      ('3', '5-5', '0-1,7-9')
    """
    if list(numbers) == list(range(len(numbers))):
        return str(len(numbers))
    ranges = [
        [number for _, number in group]
        for _, group in itertools.groupby(enumerate(numbers), lambda item: item[1] - item[0])
    ]
    if len(ranges) == len(numbers) > 1:
        return ",".join(map(str, numbers))
    return ",".join(f"{run[0]}-{run[-1]}" for run in ranges)
