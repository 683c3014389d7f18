"""The commands that train the runs of a directory again, from what the runs say of themselves."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

import initjax
from experiments.common import description, grouping
from experiments.common.config import OPTIMIZERS, Config, grouped, model_defaults

Grid = tuple[tuple[Any, ...], ...]
"""For each axis the values that are combined with those of all others."""

Row = Mapping[str, Any]
"""The fields of a `Config`, of which `seed` holds all seeds of runs that differ in nothing else."""

Commands = dict[tuple[str, ...], int]
"""Commands, with the numbers of runs that they train."""

_AXES: tuple[str, ...] = ("seed", "init", "hidden", "activation", "learning_rate", "optimizer")
_DEPTH_AXES: tuple[str, ...] = (
    "seeds",
    "weight_variance",
    "init",
    "bias_variance",
    "depth",
    "width",
    "activation",
    "learning_rate",
)
_MOST = 4  # commands for runs that have everything but these in common
_BUNDLED = "mnist"  # the dataset that needs no flag
_USUAL = {field.name: field.default for field in dataclasses.fields(Config)} | {"dataset": _BUNDLED}
_NETWORK = ("model", "residual", "normalization")  # and its hidden sizes


def of_runs(runs: pa.Table, directory: str) -> list[str]:
    """The commands that train these runs, as few as there can be.

    They are commands of `experiments.sweep`, or of `experiments.depth` where these are as good. For
    runs of a network of the user's own, which `experiments.compare` trains, there is none.

    A directory that was filled only in part may need many. Then one command names the whole
    grid, and trains the missing runs, too.

    Args:
      runs: rows as in `experiments.common.sweep_directory`.
      directory: where they are.
    """
    names = [name for name in _USUAL if name in runs.column_names]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    numbers = grouping.groups(runs, [name for name in names if name != "seed"])
    places = grouping.places(numbers)
    firsts = runs.select(names).take([mine[0] for mine in places]).to_pylist()
    seeds = runs["seed"].to_numpy()
    for row, mine in zip(firsts, places, strict=True):
        if row["hidden"] is None:
            continue
        row["seed"] = tuple(np.unique(seeds[mine]).tolist())
        row["hidden"] = tuple(row["hidden"])
        if row.get("base") is not None:
            row["base"] = tuple(row["base"])
        key = tuple(row[name] for name in names if name not in (*_AXES, "bias_init"))
        groups.setdefault((*key, row["optimizer"] if row["steps"] else None), []).append(row)
    found = []
    for rows in groups.values():
        written = [_of_sweep(rows)]
        written += filter(None, [_of_depth(rows, rule) for rule in (_plain, _per_layer)])
        best = min(written[::-1], key=lambda commands: (sum(commands.values()), len(commands)))
        found += [description.quoted([*command, f"--workdir={directory}"]) for command in best]
    return sorted(found)


def _of_sweep(rows: Sequence[Row]) -> Commands:
    by_biases: dict[str, list[Row]] = {}
    for row in rows:
        by_biases.setdefault(row["bias_init"], []).append(row)
    return {
        _sweep(mine[0], dict(zip(_AXES, grid, strict=True))): math.prod(map(len, grid))
        for mine in by_biases.values()
        for grid in _grids((row["seed"], *(row[name] for name in _AXES[1:])) for row in mine)
    }


def _sweep(row: Row, axes: Mapping[str, tuple[Any, ...]]) -> tuple[str, ...]:
    given = [f"--init={','.join(axes['init'])}", f"--seeds={seeds(axes['seed'])}"]
    usual = _usual(row)
    if axes["hidden"] != (usual["hidden"],):
        given += [f"--hidden={','.join(grouped(sizes))}" for sizes in axes["hidden"]]
    for name in ("activation", "optimizer"):
        if axes[name] != (getattr(Config, name),):
            given.append(f"--{name}={','.join(axes[name])}")
    if any((OPTIMIZERS[name],) != axes["learning_rate"] for name in axes["optimizer"]):
        given.append(f"--learning_rate={_listed(axes['learning_rate'])}")
    others = [name for name in row if name not in _AXES and row[name] != usual[name]]
    given += [f"--{name}={_text(row[name])}" for name in others]
    return "python", "-m", "experiments.sweep", *given


def _text(value: Any) -> str:
    """The value of a flag."""
    return ",".join(grouped(value)) if isinstance(value, tuple) else str(value)


def _usual(row: Row) -> dict[str, Any]:
    """The defaults of the fields, of which some depend on the network of a run."""
    return {**_USUAL, **model_defaults(row["model"])}


def _of_depth(rows: Sequence[Row], rate: Callable[[float, int], str]) -> Commands | None:
    """The same for `experiments.depth`; None if it can't train one of them.

    Args:
      rows: runs that have all but `_AXES` and the initializer of the biases in common.
      rate: writes a learning rate, given the depth.
    """
    if rows[0].get("scheme") is not None:
        return None
    points = []
    for row in rows:
        biases = _bias_variance(row["bias_init"])
        if biases is None or len(set(row["hidden"])) != 1 or row["steps"] is None:
            return None
        match initjax.get(row["init"]):
            case initjax.variance_scaling(scale=scale, mode="fan_in", distribution="normal"):
                kernels = (scale, "")
            case _:
                kernels = (0.0, row["init"])
        depth = len(row["hidden"])
        network = depth, row["hidden"][0], row["activation"]
        points.append((row["seed"], *kernels, biases, *network, rate(row["learning_rate"], depth)))
    found: Commands = {}
    for named in (True, False):  # a command takes initializers, or weight variances
        if mine := [point for point in points if bool(point[2]) == named]:
            for grid in _grids(mine):
                axes = dict(zip(_DEPTH_AXES, grid, strict=True))
                found[_depth(rows[0], axes, named)] = math.prod(map(len, grid))
    return found


def _depth(row: Row, axes: Mapping[str, tuple[Any, ...]], named: bool) -> tuple[str, ...]:
    left_out, usual = "weight_variance" if named else "init", _usual(row)
    given = {
        **{name: _listed(values) for name, values in axes.items() if name != left_out},
        "seeds": seeds(axes["seeds"]),
        **{name: row[name] for name in "output_init inputs optimizer steps batch_size".split()},
        **{name: row[name] for name in (*_NETWORK, "dtype", "dataset") if row[name] != usual[name]},
    }
    return "python", "-m", "experiments.depth", *(f"--{n}={value}" for n, value in given.items())


def _bias_variance(spec: str) -> float | None:
    """The variance from which `experiments.depth` makes this initializer; None if there is none."""
    match initjax.get(spec):
        case initjax.constant(value=0.0):
            return 0.0
        case initjax.random_normal(mean=0.0, stddev=stddev):
            variance = float(f"{stddev**2:.5g}")
            return variance if f"{variance**0.5:.6g}" == f"{stddev:.6g}" else None
    return None


def _plain(rate: float, depth: int) -> str:
    return str(rate)


def _per_layer(rate: float, depth: int) -> str:
    """A learning rate as NUMBER/depth, if it is a round number."""
    number = float(f"{rate * depth:.4g}")
    return f"{number:g}/depth" if float(f"{number / depth:.6g}") == rate else str(rate)


def _grids(points: Iterable[tuple[Any, ...]]) -> list[Grid]:
    """Grids that hold these points, of which the first coordinate stands for several each."""
    found: dict[tuple[Any, ...], set[Any]] = {}
    for first, *others in points:
        found.setdefault(tuple(others), set()).update(first)
    start = sorted((_ordered(first), others) for others, first in found.items())
    lines: list[Grid] = [(first, *((value,) for value in others)) for first, others in start]
    grids = covering(lines)
    if len(grids) > _MOST:
        return [tuple(_ordered(set().union(*values)) for values in zip(*lines, strict=True))]
    return grids


def covering(lines: Sequence[Grid]) -> list[Grid]:
    """Grids that together hold each point of these lines once, and nothing else.

    Args:
      lines: grids that have several values on the first axis only; no two share a point.

    Example:
      >>> covering([((0, 1), ("a",)), ((0, 1), ("b",)), ((7,), ("b",))])
      [((0, 1), ('a', 'b')), ((7,), ('b',))]
    """
    grids = list(lines)
    for axis in range(1, len(grids[0])):
        merged: dict[Grid, list[Any]] = {}
        for grid in grids:
            merged.setdefault((*grid[:axis], *grid[axis + 1 :]), []).extend(grid[axis])
        grids = [
            (*others[:axis], _ordered(values), *others[axis:]) for others, values in merged.items()
        ]
    return grids


def _ordered(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(sorted(set(values)))


def _listed(values: Iterable[Any]) -> str:
    return ",".join(f"{value:.12g}" if isinstance(value, float) else str(value) for value in values)


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
