"""The outcomes of training runs, by network and initialization."""

import collections
import math
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from advice import grid
from advice.held_out import HeldOut
from experiments.common import comparison, sweep_directory
from experiments.common.config import canonical

_LAST = 0.2  # of the steps, whose mean loss chooses the learning rate
_COMMON = (
    "steps batch_size inputs output_init dataset digest dtype epochs"  # to all runs of a table
).split()


class Outcome(NamedTuple):
    """The runs from one initialization, at its best learning rate."""

    init: str
    bias_init: str
    learning_rate: float
    accuracies: dict[int, float]
    """Of the test set, by seed; guessing where a run diverged."""
    trained: dict[int, bool]
    """Whether they are better than guessing, by five standard errors."""


class Difference(NamedTuple):
    """A mean paired difference, and its simultaneous 95% interval."""

    mean: float
    low: float
    high: float


class Runs(NamedTuple):
    """All outcomes, and what the runs have in common."""

    outcomes: dict[HeldOut, list[Outcome]]
    common: dict[str, object]
    rates: int
    """How many learning rates were tried, at most."""


def read(directories: Iterable[pathlib.Path]) -> Runs:
    """Reads runs; of those that differ in more than a setting, the most common ones count."""
    runs: Any = collections.defaultdict(
        lambda: collections.defaultdict(lambda: collections.defaultdict(dict))
    )
    for directory in directories:
        table = sweep_directory.read(directory)
        accuracies = comparison.column(table, "val_acc")[:, -1]
        trained = comparison.better_than_guessing(table).tolist()
        losses = comparison.column(table, "step_loss")
        losses = losses[:, -math.ceil(_LAST * losses.shape[1]) :].mean(axis=1)
        names = [name for name in table.column_names if not name.startswith("step_")]
        rows = table.select(names).to_pylist()
        outcomes = zip(accuracies.tolist(), trained, losses.tolist(), strict=True)
        for row, outcome in zip(rows, outcomes, strict=True):
            network = _network(row)
            if network is None:
                continue
            kind = row["init"], canonical(row["bias_init"])
            common = tuple(str(row[name]) for name in _COMMON)
            found = runs[common][network][kind].setdefault(row["learning_rate"], {})
            found[row["seed"]] = outcome
    common = max(runs, key=lambda common: len(runs[common]))
    networks = {
        network: [_best(init, biases, rates) for (init, biases), rates in kinds.items()]
        for network, kinds in runs[common].items()
    }
    most = max(len(rates) for kinds in runs[common].values() for rates in kinds.values())
    return Runs(networks, dict(zip(_COMMON, common, strict=True)), most)


def _network(row: dict[str, Any]) -> HeldOut | None:
    """The network of a run; None if no table has it."""
    sizes = set(row["hidden"])
    fields = {name: value for kind in grid.KINDS.values() for name, value in kind.items()}
    kinds = [
        kind
        for kind, given in grid.KINDS.items()
        if all((row.get(name) == value) == (name in given) for name, value in fields.items())
    ]
    if len(sizes) != 1 or len(kinds) != 1 or row.get("model", "mlp") != "mlp":
        return None
    depth = len(row["hidden"])
    return HeldOut(kinds[0], row["activation"], sizes.pop(), depth, row["optimizer"])


def _best(init: str, bias_init: str, rates: dict[float, Any]) -> Outcome:
    losses = {
        rate: np.array([loss for _, _, loss in seeds.values()]) for rate, seeds in rates.items()
    }
    rate, _ = comparison.best_rate(losses)
    accuracies = {seed: accuracy for seed, (accuracy, _, _) in sorted(rates[rate].items())}
    trained = {seed: better for seed, (_, better, _) in sorted(rates[rate].items())}
    return Outcome(init, bias_init, rate, accuracies, trained)


def shared(outcomes: list[Outcome]) -> list[int]:
    """The seeds that all of them have."""
    return sorted(set.intersection(*(set(outcome.accuracies) for outcome in outcomes)))


def difference(first: Outcome, second: Outcome, seeds: list[int], comparisons: int) -> Difference:
    """The mean difference of accuracies, with Student's t interval.

    Args:
      first: minus second.
      second: from other initial weights, on the same batches.
      seeds: which are paired.
      comparisons: for how many of them 95% is the level of all intervals together (Bonferroni).
    """
    values = np.array([first.accuracies[seed] - second.accuracies[seed] for seed in seeds])
    quantile = scipy.stats.t.ppf(1 - 0.025 / max(1, comparisons), len(values) - 1)
    half = float(quantile * values.std(ddof=1) / len(values) ** 0.5)
    return Difference(float(values.mean()), float(values.mean()) - half, values.mean() + half)
