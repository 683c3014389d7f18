"""Which learning rate is best for networks of several sizes, and whether it stays the same.

A *family* is a network at several widths or depths, trained from the same seeds at the same
learning rates in one or more parametrizations. A rate is judged by the training loss at the end,
the mean over the last steps; the test set is not used to choose it. A run that diverged, or is
worse than guessing, counts as guessing.

The *best rate* of a size is the minimum of a parabola through the logarithm of the loss by the
logarithm of the rate, fitted to the rates within a factor of four of the lowest loss. It is found
for each seed by itself, and so is its *drift*: the slope of log2 best rate over log2 size. So
Student's t interval over seeds holds for both; a bootstrap of few seeds would be too narrow.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from experiments.common import comparison, description, grouping, statistics
from experiments.common.config import SCHEMES

WINDOW = 100
"""How many last steps a training loss is the mean of, at most."""
_NEAR = 2.0  # in log2 of the rate: how far from the lowest loss the parabola is fitted
_FEWEST = 3  # rates that a parabola needs

# What the runs of a family have in common.
_COMMON = (
    "model residual normalization activation inputs dtype init output_init bias_init optimizer"
    " epochs steps batch_size base dataset digest"
).split()


class Losses(NamedTuple):
    """Of one size at one rate for each seed; arrays (seeds,)."""

    train: np.ndarray
    test: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Curves:
    """Losses of one parametrization, by size and learning rate."""

    scheme: str
    sizes: np.ndarray
    """(sizes,), ascending; the first is the base network's."""
    rates: np.ndarray
    """(rates,), ascending: learning rates of the base network."""
    losses: np.ndarray
    """(sizes, rates, seeds): training loss over the last steps."""
    test_losses: np.ndarray
    """(sizes, rates, seeds): test loss after training."""

    @property
    def means(self) -> np.ndarray:
        """(sizes, rates): the mean training loss of the seeds."""
        return self.losses.mean(axis=2)

    @property
    def at_edge(self) -> np.ndarray:
        """(sizes,): whether the lowest mean loss is at the lowest or highest rate tried."""
        lowest = self.means.argmin(axis=1)
        return (lowest == 0) | (lowest == len(self.rates) - 1)

    @functools.cached_property
    def log_best(self) -> np.ndarray:
        """(sizes, seeds): log2 of the best rate."""
        return np.apply_along_axis(functools.partial(lowest, np.log2(self.rates)), 1, self.losses)

    @property
    def best(self) -> list[statistics.Interval]:
        """(sizes,): the best rate, with an interval over seeds."""
        found = [statistics.mean_interval(values) for values in self.log_best]
        return [statistics.Interval(*(2**number for number in one)) for one in found]

    @property
    def slopes(self) -> np.ndarray:
        """(seeds,): the drift of the best rate, the exponent of size that it follows."""
        return np.polyfit(np.log2(self.sizes), self.log_best, 1)[0]

    def at_best(self, size: int, of: int) -> Losses:
        """Losses of one size at the best of the rates tried, of the same or another size.

        For each seed, the rate is the one with the lowest training loss of the other seeds, so that
        choosing flatters no rate.

        Args:
          size: whose losses; a place in `sizes`.
          of: for which size the rate is best; a place in `sizes`.
        """
        losses = self.losses[of]
        if losses.shape[1] > 1:
            losses = losses.sum(axis=1, keepdims=True) - losses
        chosen, seeds = losses.argmin(axis=0), np.arange(losses.shape[1])
        return Losses(self.losses[size, chosen, seeds], self.test_losses[size, chosen, seeds])


def lowest(positions: np.ndarray, losses: np.ndarray) -> float:
    """Where a parabola through log losses is lowest, within the positions.

    Args:
      positions: (rates,), ascending.
      losses: (rates,), above zero.
    """
    place = int(losses.argmin())
    near = np.abs(positions - positions[place]) <= _NEAR + 1e-9
    if near.sum() < _FEWEST:
        return float(positions[place])
    middle = positions[near] - positions[place]
    bend, slope, _ = np.polyfit(middle, np.log(losses[near]), 2)
    if bend <= 0:  # not a minimum
        return float(positions[place])
    found = np.clip(-slope / (2 * bend), middle[0], middle[-1])
    return float(positions[place] + found)


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """A network at several sizes, in one or more parametrizations."""

    fields: dict[str, Any]
    """What the runs have in common: columns of `sweep_directory.SCHEMA`."""
    axis: str
    """What grows: `width` or `depth`."""
    fixed: int
    """The other one of the two."""
    seeds: list[int]
    curves: list[Curves]
    """One of each parametrization."""
    window: int
    """How many last steps a training loss is the mean of."""

    @property
    def loss(self) -> str:
        """What the training losses are."""
        return f"training loss, mean of the last {description.count(self.window, 'step')}"

    @property
    def guessing(self) -> float:
        """The loss of equal probabilities."""
        return float(np.log(self.fields["classes"]))


def family(runs: pa.Table, complete: Callable[[pa.Table], pa.Table] = lambda rows: rows) -> Family:
    """A family of runs.

    Args:
      runs: the rows of all schemes, sizes, rates and seeds, see `sweep_directory.read`. They may
        differ in nothing else.
      complete: adds the columns of steps to some of the rows, if they lack them.
    """
    settings = grouping.places(grouping.groups(runs, ["scheme", "hidden", "learning_rate"]))
    rows = runs.take([places[0] for places in settings]).to_pylist()
    shapes = [(row["hidden"][0], len(row["hidden"])) for row in rows]
    widths, depths = (sorted(set(column)) for column in zip(*shapes, strict=True))
    place = 1 if len(depths) > 1 else 0
    numbers = runs["seed"].to_numpy()
    axes: list[list[Any]] = [
        sorted({row["scheme"] for row in rows}, key=SCHEMES.index),
        depths if place else widths,
        sorted({row["learning_rate"] for row in rows}),
        np.unique(numbers).tolist(),
    ]
    guessing = np.log(rows[0]["classes"])
    train, test = np.full((2, *map(len, axes)), np.nan)
    steps = 0
    for row, shape, places in zip(rows, shapes, settings, strict=True):
        values = row["scheme"], shape[place], row["learning_rate"]
        at = tuple(axis.index(value) for axis, value in zip(axes, values, strict=False))
        whole = complete(runs.take(places))
        losses = comparison.lists(whole["step_loss"])
        steps = max(steps, losses.shape[1])
        seeds = np.searchsorted(axes[-1], numbers[places])
        train[*at, seeds] = _bounded(losses[:, -WINDOW:].astype(float).mean(axis=1), guessing)
        test[*at, seeds] = _bounded(comparison.lists(whole["val_loss"])[:, -1], guessing)
    schemes, sizes, rates, seeds = axes
    return Family(
        fields={name: rows[0][name] for name in (*_COMMON, "classes")},
        axis="depth" if place else "width",
        fixed=(widths if place else depths)[0],
        seeds=seeds,
        curves=[
            Curves(scheme, np.array(sizes), np.array(rates), train[number], test[number])
            for number, scheme in enumerate(schemes)
        ],
        window=min(WINDOW, steps),
    )


def _bounded(losses: np.ndarray, most: float) -> np.ndarray:
    return np.where(np.isfinite(losses), np.minimum(losses, most), most)
