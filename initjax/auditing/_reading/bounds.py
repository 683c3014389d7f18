"""What limits the range of a value, in a word: 'tanh', 'relu', 'clip'."""

from __future__ import annotations

import math

from initjax.auditing._reading.inlined import Value
from initjax.auditing._reading.ranges import ANY, Range, one_turn, range_of
from initjax.auditing._reading.softmaxes import is_softmax
from initjax.auditing._reading.values import before_clips, cases_of, through_layout


def bound_of(value: Value, known: dict[Value, Range]) -> str:
    """What limits the range of a value: the first equation of the model that does.

    Args:
      value: a value of a graph.
      known: the ranges that have been found already.
    """
    both = all(math.isfinite(end) for end in range_of(value, known))
    node = value.node
    while node is not None and not is_softmax(node):
        turn = one_turn(node.results[value.position]) if node.name == "scan" else None
        if turn is not None:
            value, node = turn, turn.node
            continue
        operands = cases_of(node) if node.name == "select_n" else node.operands
        limited = [
            operand
            for operand in operands
            if operand.parametric and range_of(operand, known) != ANY
        ]
        if any(operand.node is not None and operand.node.name == "log1p" for operand in limited):
            return "softplus"
        if not limited:
            break
        value, node = limited[0], limited[0].node
    if node is None:
        return ""
    if is_softmax(node):
        return "softmax"
    if node.name == "max" and (both or 0 not in [operand.number for operand in node.operands]):
        return "clip"
    return _BOUNDS.get(node.name, node.name)


_BOUNDS = {
    "logistic": "sigmoid", "max": "relu", "clamp": "clip", "min": "clip", "integer_pow": "square",
    "log1p": "softplus",
}  # fmt: skip


def is_clipped(value: Value, known: dict[Value, Range]) -> bool:
    """Whether a value is clipped that might be negative without it."""
    node = before_clips(value)
    maker = through_layout(value).node
    while maker is not None and maker.name == "add":  # of a small number, after a rectifier
        operands = [operand for operand in maker.operands if operand.number is None]
        maker = through_layout(operands[0]).node if len(operands) == 1 else None
    clip = maker is not None and maker.name in ("max", "min", "clamp")
    return clip and (node is None or range_of(node.results[0], known)[0] < 0)
