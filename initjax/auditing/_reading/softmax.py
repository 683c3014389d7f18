"""Softmaxes as they are read: exponentials of a layer's units, and their sum over an axis."""

from __future__ import annotations

import math
from typing import Any

from initjax.auditing._reading.expressions import Expression
from initjax.auditing._reading.layout import moved_axes
from initjax.auditing._reading.primitives import LAYOUT
from initjax.auditing._reading.tags import Softmax, Tag

_KEEPING = frozenset(
    "abs add add_any clamp convert_element_type div max min mul reduce_precision select_n"
    " stop_gradient sub".split()
)


def softmax_after(eqn: Any, tags: list[Tag]) -> Softmax | None:
    """How far the result of an equation is on the way to a softmax; None if it is on none."""
    name = eqn.primitive.name
    known = [_known(tag) for tag in tags]
    own = [found for found in known if found is not None]
    if not own:
        return None
    first = known[0]
    if name in LAYOUT or name == "gather":
        if first is None or first.stage == "sum":
            return first
        axes = moved_axes(eqn, first.axes)
        return first._replace(axes=axes) if axes else None
    if name == "reduce_sum" and first is not None:
        return _summed(eqn, first)
    if name in ("exp", "exp2") and first is not None and first.stage == "units":
        return first._replace(stage="exponentials")
    if name not in _KEEPING:
        return None
    if name == "div" and [found.stage for found in own] == ["exponentials", "sum"]:
        return own[1]
    if len({(found.axes, found.stage) for found in own}) > 1:
        return None
    others = [tag for tag, found in zip(tags, known, strict=True) if found is None]
    if name in ("mul", "div") and any(tag.sites and not tag.statistic for tag in others):
        return None
    return own[0]._replace(sites=frozenset().union(*(found.sites for found in own)))


def _known(tag: Tag) -> Softmax | None:
    signal = tag.signal
    if signal is None or signal.site is None:
        return tag.softmax
    if signal.axes is None or not isinstance(signal.expression, Expression):
        return None
    power = getattr(signal.expression.primitive, "name", "") in ("exp", "exp2")
    stage = "exponentials" if power else "units"
    return Softmax(frozenset([signal.site]), signal.axes, stage)


def _summed(eqn: Any, found: Softmax) -> Softmax | None:
    """The sum over some axes: of exponentials over units, or of what is a softmax already."""
    if found.stage != "exponentials":
        return found if found.stage == "sum" else None
    shape = eqn.invars[0].aval.shape
    axes = {axis for axis in eqn.params["axes"] if shape[axis] > 1}
    if not axes or not axes <= set(found.axes):
        return None
    return Softmax(found.sites, (), "sum", math.prod(shape[axis] for axis in axes))
