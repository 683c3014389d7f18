"""Rules that recognize a softmax: exponentials of a layer's units, and their sum over an axis.

Each rule maps an equation, the tags of its operands, and the step of a softmax that each operand
is (or None) to the step that the result is. `primitives.py` says which primitive has which rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from initjax.auditing._reading.expressions import Expression
from initjax.auditing._reading.layout import MoveAxes
from initjax.auditing._reading.state import Reading
from initjax.auditing._reading.tags import Softmax, Tag, union

_Steps = Sequence[Softmax | None]
SoftmaxRule = Callable[[Any, Sequence[Tag], _Steps], Softmax | None]


def softmax_after(rule: SoftmaxRule | None, eqn: Any, tags: Sequence[Tag]) -> Softmax | None:
    """Which step of a softmax the result of an equation is; None if it is not one."""
    if rule is None:
        return None
    steps = [_step(tag) for tag in tags]
    return rule(eqn, tags, steps) if any(steps) else None


def note_logits(reading: Reading, logarithm_of: Tag) -> None:
    """Marks sites as logits: the logarithm of a softmax over their units is taken."""
    softmax = logarithm_of.softmax
    if softmax is not None and softmax.stage == "sum":
        for path in softmax.sites:
            reading.sites[path].classes = softmax.classes


def _step(tag: Tag) -> Softmax | None:
    signal = tag.signal
    if signal is None or signal.site is None:
        return tag.softmax
    if signal.axes is None or not isinstance(signal.expression, Expression):
        return None
    power = getattr(signal.expression.primitive, "name", "") in ("exp", "exp2")
    stage = "exponentials" if power else "units"
    return Softmax(frozenset([signal.site]), signal.axes, stage)


def moved(move_axes: MoveAxes) -> SoftmaxRule:
    """The rule for a primitive that moves axes."""

    def rule(eqn: Any, tags: Sequence[Tag], steps: _Steps) -> Softmax | None:
        first = steps[0]
        if first is None or first.stage == "sum":
            return first
        axes = move_axes(eqn, first.axes)
        return first._replace(axes=axes) if axes else None

    return rule


def exponential(eqn: Any, tags: Sequence[Tag], steps: _Steps) -> Softmax | None:
    """The rule for an exponential."""
    (step,) = steps
    return step._replace(stage="exponentials") if step and step.stage == "units" else None


def summed(eqn: Any, tags: Sequence[Tag], steps: _Steps) -> Softmax | None:
    """The rule for a sum: over the units of exponentials, or of a finished softmax."""
    (step,) = steps
    if step is None or step.stage != "exponentials":
        return step if step and step.stage == "sum" else None
    shape = eqn.invars[0].aval.shape
    axes = {axis for axis in eqn.params["axes"] if shape[axis] > 1}
    if not axes or not axes <= set(step.axes):
        return None
    return Softmax(step.sites, (), "sum", math.prod(shape[axis] for axis in axes))


def combined(eqn: Any, tags: Sequence[Tag], steps: _Steps) -> Softmax | None:
    """The rule for elementwise primitives that shift, bound or select values."""
    own = [step for step in steps if step is not None]
    if len({(step.axes, step.stage) for step in own}) > 1:
        return None
    return own[0]._replace(sites=union([step.sites for step in own]))


def multiplied(eqn: Any, tags: Sequence[Tag], steps: _Steps) -> Softmax | None:
    """The rule for a product: factors from other layers end a softmax."""
    for tag, step in zip(tags, steps, strict=True):
        if step is None and tag.sites and not tag.statistic:
            return None
    return combined(eqn, tags, steps)


def divided(eqn: Any, tags: Sequence[Tag], steps: _Steps) -> Softmax | None:
    """The rule for a quotient: exponentials divided by their sum are the softmax."""
    above, below = steps
    if above and below and (above.stage, below.stage) == ("exponentials", "sum"):
        return below
    return multiplied(eqn, tags, steps)
