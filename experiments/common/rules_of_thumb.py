"""The rules of thumb for initializers put to the test: at which depths they hold, and why."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import pyarrow as pa

import initjax
from experiments.common import comparison, description, formatting, statistics, verdicts
from experiments.common.trainability import Cell, Grid

RULES = {
    "relu": ("He", ("he_normal", "he_uniform")),
    "leaky_relu": ("He", ("he_normal", "he_uniform")),
    "sigmoid": ("Glorot", ("glorot_normal", "glorot_uniform")),
    "tanh": ("Glorot", ("glorot_normal", "glorot_uniform")),
    "selu": ("LeCun", ("lecun_normal", "lecun_uniform")),
}
"""For each activation, the initializers that are said to suit it: their name, and which they are.

The source is "Weight Initialization in Deep Learning", a tutorial; for selu, Keras."""

# Initializers that draw each weight by itself.
_INDEPENDENT = (
    initjax.variance_scaling,
    *(initjax.normal, initjax.truncated_normal, initjax.uniform, initjax.bounded_normal),
    *(initjax.random_normal, initjax.random_truncated_normal, initjax.random_uniform),
    initjax.siren,
)

Kind = Literal["holds", "outdone", "fails", "no difference", "nothing trains"]

_WORDS: dict[Kind, str] = {
    "holds": "holds",
    "outdone": "is outdone by kernels whose weights are not independent, such as orthogonal ones",
    "fails": "does not hold",
    "no difference": "is not shown to matter",
    "nothing trains": "does not help",
}


class Outcome(NamedTuple):
    """What the tests say about a rule of thumb at one depth."""

    depth: int
    kind: Kind
    reason: str
    """The results of the tests, for a sentence."""


def compared(cells: Sequence[Cell]) -> comparison.Setting:
    """Cells that differ in initializer, as a setting: each at its own best learning rate."""
    found = comparison.settings(pa.concat_tables([cell.runs for cell in cells]))
    return found[-1]  # that of all rates comes last


def by_depth(grid: Grid) -> dict[int, list[Cell]]:
    """The cells to compare at each depth: those in no diagram, with the first of their biases."""
    found: dict[int, list[Cell]] = {}
    for cell in grid.others:
        if cell.bias_init == grid.others[0].bias_init:
            found.setdefault(cell.depth, []).append(cell)
    return found


def outcomes(grid: Grid) -> list[Outcome]:
    """What the tests say about the rule of thumb for a grid's activation, at each depth.

    The rule *holds* if its initializer trains, is shown to be ahead of another one in test
    accuracy, and none is shown to be ahead of it. It *fails* if one is that draws its weights
    independently, too; it is *outdone* if only others are, such as orthogonal ones. The tests are
    those of a sweep, see `verdicts.finding`, adjusted for all pairs of a depth.
    """
    _, family = RULES.get(grid.fields["activation"], ("", ()))
    found = []
    for depth, cells in by_depth(grid).items():
        named = [cell for cell in cells if cell.init in family]
        others = [cell for cell in cells if cell.init not in family]
        if named and others:
            best = max(named, key=lambda cell: float(cell.test_accuracy.mean()))
            rivals = [cell for cell in named if cell is not best]
            found.append(Outcome(depth, *_outcome(best, others, rivals)))
    return found


def _outcome(best: Cell, others: Sequence[Cell], rivals: Sequence[Cell]) -> tuple[Kind, str]:
    """Compares the best initializer of a rule with the others.

    Its rivals within the rule count in the adjustment, since it was chosen among them.
    """
    if not any(cell.trained.value for cell in (best, *others)):
        return "nothing trains", "no initializer trains"
    if (seeds := len(best.accuracy)) < statistics.FEWEST_TO_SETTLE:
        return "no difference", f"{description.count(seeds, 'seed')} can't settle it"
    setting = compared([best, *others, *rivals])
    rest = {cell.init for cell in others}
    ahead: dict[str, str] = {}
    behind: dict[str, str] = {}
    for pair in comparison.pairs(setting, "final_acc"):
        kind, first, second = verdicts.finding(pair, setting.endpoints["final_acc"])
        points = 100 * abs(pair.comparison.difference.value)
        by = f"by {points:.1f} points, {formatting.p_equals(pair.p)}"
        if kind == "ahead" and first == best.init and second in rest:
            behind[second] = f"{second} ({by})"
        elif kind == "ahead" and second == best.init and first in rest:
            ahead[first] = f"{first} ({by})"
    reasons = []
    if ahead:
        verb = "is" if len(ahead) == 1 else "are"
        reasons.append(
            f"{verdicts.listed(list(ahead.values()), 'and')} {verb} ahead of {best.init}"
        )
    if behind:
        reasons.append(f"{best.init} is ahead of {verdicts.listed(list(behind.values()), 'and')}")
    reason = "; ".join(reasons) or f"no other initializer is shown to differ from {best.init}"
    if any(isinstance(initjax.get(name), _INDEPENDENT) for name in ahead):
        return "fails", reason
    if ahead:
        return "outdone", reason
    return ("holds" if behind and best.trained.value else "no difference"), reason


def sentences(grid: Grid) -> list[str]:
    """The outcomes in words; none if there is no rule for the activation, or nothing to compare."""
    found = outcomes(grid)
    if not found:
        return []
    activation = grid.fields["activation"]
    name, _ = RULES[activation]
    parts = []
    for kind, words in _WORDS.items():
        if depths := [str(one.depth) for one in found if one.kind == kind]:
            parts.append(f"{words} at depth {verdicts.listed(depths, 'and')}")
    return [
        f'"{name} for {activation}" {"; ".join(parts)}',
        *(f"depth {one.depth}: {one.reason}" for one in found),
    ]
