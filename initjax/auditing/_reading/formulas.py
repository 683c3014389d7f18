"""Formulas that a loss is written in: sigmoids, differences and their squares.

Each function goes from a value to what it is made of.
"""

from __future__ import annotations

from initjax.auditing._reading.inlined import Node, Value
from initjax.auditing._reading.values import before_clips, made_by, through_layout

_LONGEST = 16  # equations between an outer function and a difference


def logistic_in(node: Node) -> Value | None:
    """The logit, if a logarithm is that of a sigmoid, or of one minus a sigmoid."""
    value = node.operands[0]
    if node.name == "log1p":
        if (power := made_by(value, "exp")) is not None:  # log(1 + exp(x))
            return _unsigned(power.operands[0])
        inner = made_by(value, "neg")
        if inner is None:
            return None
        value = inner.operands[0]  # log(1 - x)
    inner = before_clips(value)
    if inner is not None and inner.name == "sub" and inner.operands[0].number == 1:
        inner = before_clips(inner.operands[1])
    if inner is not None and inner.name == "add" and 1 in [v.number for v in inner.operands]:
        power = made_by(next(v for v in inner.operands if v.number is None), "exp")
        return None if power is None else _unsigned(power.operands[0])
    return inner.operands[0] if inner is not None and inner.name == "logistic" else None


def _unsigned(value: Value) -> Value:
    """A value whatever its sign is."""
    while (node := value.node) is not None:
        zero = node.name == "sub" and node.operands[1].number == 0
        if node.name not in ("neg", "abs") and not zero:
            break
        value = node.operands[0]
    return value


def difference_in(value: Value) -> tuple[Value, Value] | None:
    """The outputs and the targets, if a value is their difference, perhaps times a weight."""
    for _ in range(_LONGEST):
        node = through_layout(value).node
        if node is None:
            return None
        operands = [operand for operand in node.operands if operand.parametric]
        others = [operand for operand in node.operands if is_stopped(operand)]
        if node.name == "sub" and len(others) == 1:
            (output,) = (operand for operand in node.operands if operand is not others[0])
            return output, others[0]
        weighted = node.name == "mul" or (node.name == "div" and operands[0] is node.operands[0])
        if node.name not in ("neg", "select_n") and not (weighted and operands):
            return None
        value = operands[0]
    return None


def factors_before(value: Value) -> list[Value]:
    """What multiplies or divides a difference, on the way that `difference_in` takes."""
    found: list[Value] = []
    for _ in range(_LONGEST):
        node = through_layout(value).node
        operands = [operand for operand in node.operands if operand.parametric] if node else []
        if node is None or not operands or node.name not in ("mul", "div", "neg", "select_n"):
            break
        value = operands[0]
        if node.name in ("mul", "div"):
            found += [operand for operand in node.operands if operand is not value]
    return found


def is_stopped(value: Value) -> bool:
    """Whether no gradient goes through a value: it has no parameters, or only behind a
    stop_gradient."""
    seen: set[Value] = set()
    stack = [value]
    while stack:
        value = stack.pop()
        stopped = value.node is not None and value.node.name == "stop_gradient"
        if value in seen or not value.parametric or stopped:
            continue
        if value.node is None or len(seen) > 4 * _LONGEST:
            return False
        seen.add(value)
        stack.extend(value.node.operands)
    return True


def is_square(node: Node) -> bool:
    if node.name == "integer_pow":
        return node.eqn.params["y"] % 2 == 0
    twice = len(node.operands) == 2 and node.operands[0] is node.operands[1]
    return twice and node.name in ("mul", "dot_general")
