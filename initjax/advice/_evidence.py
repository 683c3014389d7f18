"""What was measured near a network, and which choice that supports."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from initjax.advice.table import Row, Setting, Table, as_good_as_best, best

Outcome = Literal["ahead", "no measurable difference", "behind"]
_Z = 1.959963984540054  # the normal quantile of a 95% interval


class Interval(NamedTuple):
    """An estimate and the bounds of its 95% interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Measured:
    """A setting near the network: the recommended initializer beside the best other one."""

    width: int
    depth: int
    learning_rate: float
    """The best of the recommended one's."""
    runs: int
    """The seeds, which both share."""
    trained: int
    """Runs of the recommended one that are better than guessing."""
    accuracy: float
    """The mean of their final test accuracies."""
    stddev: float
    """Over the seeds."""
    other: str
    """The specification of the best other one."""
    other_trained: int
    other_accuracy: float
    difference: Interval
    """The mean paired difference of accuracies, recommended minus other. The interval is
    simultaneous for all initializers of the setting."""

    @property
    def outcome(self) -> Outcome:
        """What the interval says; without a difference there is none that was measured."""
        if self.difference.low > 0:
            return "ahead"
        return "behind" if self.difference.high < 0 else "no measurable difference"


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Training runs near the network, from the table that is part of the library."""

    settings: tuple[Measured, ...]
    """The closest first."""
    untrained: tuple[tuple[str, str], ...]
    """The specifications of which no run was better than guessing at some setting where the
    recommended one was, each with these settings, such as 'depth 50, width 64'."""
    initializers: int
    """How many were compared."""
    runs: int
    """From all of them, at each one's best learning rate."""
    trained: Interval
    """The share of the recommended one's runs that are better than guessing, with Wilson's
    interval."""
    optimizer: str
    steps: int
    batch_size: int
    data: str
    """What was trained on, such as 'standardized mnist'."""


def chosen(proposal: str, settings: Sequence[Setting]) -> str:
    """The name of the choice that runs support, of those that were measured in all settings.

    That is theory's, unless it is measurably worse than the best one at some setting. Then it is
    the one with the highest mean accuracy among those that aren't, or else at the closest setting.

    Args:
      proposal: the name of theory's choice.
      settings: from `around`, at least one.
    """
    names = [row.name for row in settings[0]]
    for setting in settings[1:]:
        names = [name for name in names if any(row.name == name for row in setting)]
    for compared in (settings, settings[:1]):
        good = [
            name
            for name in names
            if all(as_good_as_best(_named(name, setting), setting) for setting in compared)
        ]
        if proposal in good:
            return proposal
        if good:
            return max(
                good, key=lambda name: sum(_named(name, setting).accuracy for setting in settings)
            )
    return proposal


_SMALL = 0.01  # of accuracy: about what a pair of seeds differs by


def where_worse(name: str, settings: Sequence[Setting]) -> str:
    """Where a choice was measurably worse than the best one, at the closest such setting: such as
    " (depth 5, width 64: accuracy 0.922, glorot_uniform 0.930; a small difference: either will
    do)". Empty if it was nowhere."""
    for setting in settings:
        for row in setting:
            if row.name == name and not as_good_as_best(row, setting):
                other = best(setting)
                small = other.accuracy - row.accuracy < _SMALL and row.trained >= other.trained
                return (
                    f" (depth {row.depth}, width {row.width}: accuracy {row.accuracy:.3f},"
                    f" {other.init} {other.accuracy:.3f}"
                    f"{'; a small difference: either will do' if small else ''})"
                )
    return ""


def evidence(name: str, settings: Sequence[Setting], table: Table) -> Evidence | None:
    """What was measured of a choice.

    Args:
      name: of the choice.
      settings: from `around`.
      table: theirs.

    Returns:
      The evidence; None if there is none for this choice.
    """
    settings = [
        setting
        for setting in settings
        if len(setting) > 1 and any(row.name == name for row in setting)
    ]
    if not settings:
        return None
    mine = [_named(name, setting) for setting in settings]
    untrained: dict[str, list[str]] = {}
    for row, setting in zip(mine, settings, strict=True):
        for other in setting:
            if row.trained and not other.trained:
                places = untrained.setdefault(other.init, [])
                places.append(f"depth {other.depth}, width {other.width}")
    runs = sum(row.runs for row in mine)
    return Evidence(
        settings=tuple(
            _measured(row, setting) for row, setting in zip(mine, settings, strict=True)
        ),
        untrained=tuple((init, " and ".join(places)) for init, places in untrained.items()),
        initializers=max(map(len, settings)),
        runs=sum(row.runs for setting in settings for row in setting),
        trained=wilson(sum(row.trained for row in mine), runs),
        optimizer=mine[0].optimizer,
        steps=table.steps,
        batch_size=table.batch_size,
        data=table.data,
    )


def _measured(mine: Row, setting: Setting) -> Measured:
    other = best([row for row in setting if row.name != mine.name])
    difference = Interval(mine.difference, mine.low, mine.high)
    if mine.name == best(setting).name:
        difference = Interval(-other.difference, -other.high, -other.low)
    return Measured(
        mine.width,
        mine.depth,
        mine.learning_rate,
        mine.runs,
        mine.trained,
        mine.accuracy,
        mine.stddev,
        other.init,
        other.trained,
        other.accuracy,
        difference,
    )


def wilson(count: int, n: int) -> Interval:
    """The share of `count` in `n` with Wilson's 95% interval."""
    share, z2 = count / n, _Z**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def _named(name: str, setting: Setting) -> Row:
    return next(row for row in setting if row.name == name)
