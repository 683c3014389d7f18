"""The rules of thumb for initializers put to the test: at which depths they hold, and why."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import pyarrow as pa

from experiments.common import comparison, formatting, statistics, verdicts
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

Kind = Literal["holds", "fails", "no difference", "nothing trains"]

_WORDS: dict[Kind, str] = {
    "holds": "holds",
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


def outcomes(grid: Grid) -> list[Outcome]:
    """What the tests say about the rule of thumb for a grid's activation, at each depth.

    The rule *holds* if its initializer trains, is shown to be ahead of another one in test
    accuracy, and none is shown to be ahead of it. It *fails* if one is. The tests are those of a
    sweep, see `verdicts.finding`, adjusted for all pairs of a depth.
    """
    _, family = RULES.get(grid.fields["activation"], ("", ()))
    groups: dict[tuple[int, str], list[Cell]] = {}
    for cell in grid.others:
        groups.setdefault((cell.depth, cell.bias_init), []).append(cell)
    found = []
    for (depth, _), cells in sorted(groups.items()):
        named = [cell for cell in cells if cell.init in family]
        others = [cell for cell in cells if cell.init not in family]
        if named and others:
            best = max(named, key=lambda cell: float(cell.test_accuracy.mean()))
            found.append(Outcome(depth, *_outcome(best, others)))
    return found


def _outcome(best: Cell, others: Sequence[Cell]) -> tuple[Kind, str]:
    if not any(cell.trained.value for cell in (best, *others)):
        return "nothing trains", "no initializer trains"
    if len(best.accuracy) < statistics.FEWEST_TO_SETTLE:
        return "no difference", f"{len(best.accuracy)} seeds settle nothing"
    setting = compared([best, *others])
    ahead, behind = [], []
    for pair in comparison.pairs(setting, "final_acc"):
        if best.init in (pair.first, pair.second):
            kind, first, second = verdicts.finding(pair, setting.endpoints["final_acc"])
            points = 100 * abs(pair.comparison.difference.value)
            by = f"by {points:.1f} points, {formatting.p_equals(pair.p)}"
            if kind == "ahead" and first == best.init:
                ahead.append(f"{second} ({by})")
            elif kind == "ahead":
                behind.append(f"{first} ({by})")
    if behind:
        verb = "is" if len(behind) == 1 else "are"
        return "fails", f"{verdicts.listed(behind, 'and')} {verb} ahead of {best.init}"
    if ahead and best.trained.value:
        return "holds", f"{best.init} is ahead of {verdicts.listed(ahead, 'and')}"
    return "no difference", f"no other initializer is shown to differ from {best.init}"


def sentences(grid: Grid) -> list[str]:
    """The outcomes in words; none if there is no rule for the activation, or nothing to compare."""
    found = outcomes(grid)
    if not found:
        return []
    activation = grid.fields["activation"]
    name, _ = RULES[activation]
    kinds = {kind: [str(one.depth) for one in found if one.kind == kind] for kind in _WORDS}
    parts = [
        f"{_WORDS[kind]} at depth {verdicts.listed(depths, 'and')}"
        for kind, depths in kinds.items()
        if depths
    ]
    return [
        f'"{name} for {activation}" {"; ".join(parts)}',
        *(f"depth {one.depth}: {one.reason}" for one in found),
    ]
