"""Softmax, as it stands in a program: exponentials, and their sum over an axis.

Everything that looks for one in a graph does it here: losses, attention, the ranges of values, and
what happens to the examples of a batch. `softmax.py` has the rules for tags, which tell logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from initjax.auditing._reading.inlined import Node, Value
from initjax.auditing._reading.values import all_axes, before_clips, even, made_by, through_layout

EXPONENTIALS = ("exp", "exp2")


def exponential_in(value: Value, masks: int = 3) -> Node | None:
    """The exponential that a value is, up to its layout, its precision, and so many masks."""
    node = through_layout(value).node
    if node is None or node.name in EXPONENTIALS:
        return node
    if not masks or node.name not in ("select_n", "mul"):
        return None
    cases = node.operands[1:] if node.name == "select_n" else node.operands
    varying = [case for case in cases if not even(case, all_axes(case))]
    made = [found for case in varying if (found := exponential_in(case, masks - 1))]
    return made[0] if len(made) == 1 else None


def unshifted(value: Value, axes: Sequence[int]) -> Value:
    """Exponents without what is subtracted along whole axes, as their largest is."""
    node = value.node
    wide = tuple(axis for axis in axes if axis < len(value.shape) and value.shape[axis] > 1)
    if node is not None and wide and node.name in ("sub", "add") and even(node.operands[1], wide):
        return node.operands[0]
    return value


def softmax_in(value: Value) -> tuple[Value, int, int, int] | None:
    """The logits, the number of classes and the number of softmaxes, if a value whose logarithm is
    taken is a softmax or the sum of its exponentials; and -1 or 1 for these."""
    node, power = before_clips(value), 1
    if node is not None and is_softmax(node):
        power = -1
        node = through_layout(node.operands[1]).node
    if node is None or node.name != "reduce_sum":
        return None
    exponential = exponential_in(node.operands[0])
    if exponential is None:
        return None
    logits = unshifted(exponential.operands[0], node.eqn.params["axes"])
    return logits, summed(node), node.results[0].aval.size, power


def summed(total: Node) -> int:
    """Over how many numbers a node sums."""
    shape = total.operands[0].shape
    return math.prod(shape[axis] for axis in total.eqn.params["axes"])


def is_softmax(node: Node) -> bool:
    """Whether an equation divides exponentials, or sigmoids, by their sum over an axis."""
    if node.name != "div":
        return False
    above, below = node.operands
    total = made_by(below, "reduce_sum")
    if total is None:
        return False
    parts = total.operands[0]
    same = parts is above or through_layout(parts) is through_layout(above)
    return same and made_by(above, *EXPONENTIALS, "logistic") is not None


def is_log_softmax(node: Node) -> bool:
    """Whether an equation subtracts the logarithm of the sum of exponentials from an exponent."""
    if node.name != "sub":
        return False
    above, below = node.operands
    logarithm = made_by(below, "log")
    total = logarithm and made_by(logarithm.operands[0], "reduce_sum")
    power = total and made_by(total.operands[0], *EXPONENTIALS)
    return power is not None and power.operands[0] is above


def normalized_by(total: Node, logits: Value) -> Value | None:
    """The softmax or its logarithm that is made with a sum of exponentials, if one is.

    Args:
      total: the node that sums them.
      logits: what is exponentiated.
    """
    powers, value = total.operands[0], total.results[0]
    before = unshifted(logits, total.eqn.params["axes"])
    for _ in range(8):
        steps = [user for user, _ in value.users if user.results]
        for user in steps:
            if user.name == "div" and user.operands[0] is powers:
                return user.results[0]
            if user.name == "sub" and user.operands[1] is value:
                if user.operands[0] in (logits, before):
                    return user.results[0]
        passing = [u for u in steps if u.name in _TO_NORMALIZE]
        if len(passing) != 1:
            return None
        value = passing[0].results[0]
    return None


_TO_NORMALIZE = frozenset(
    "log add broadcast_in_dim reshape squeeze expand_dims convert_element_type".split()
)
