"""Formulas that a loss is written in: softmax, sigmoid, differences and their squares.

Each function goes from a value to what it is made of.
"""

from __future__ import annotations

import math

import numpy as np

from initjax.auditing._reading.inlined import Node, Value
from initjax.auditing._reading.primitives import primitive_of
from initjax.auditing._reading.ranges import chosen, is_softmax, made_by, through_layout

_LONGEST = 16  # equations between an outer function and a difference


def softmax_in(value: Value) -> tuple[Value, int, int, int] | None:
    """The logits, the number of classes and the number of softmaxes, if a value whose logarithm is
    taken is a softmax or the sum of its exponentials; and -1 or 1 for these."""
    node, power = before_clips(value), 1
    if node is not None and is_softmax(node):
        power = -1
        node = through_layout(node.operands[1]).node
    if node is None or node.name != "reduce_sum":
        return None
    exponent = exponent_of(node)
    if exponent is None:
        return None
    return _unshifted(exponent), summed(node), node.results[0].aval.size, power


def exponent_of(total: Node) -> Value | None:
    """What is exponentiated, if a node sums exponentials."""
    power = through_layout(total.operands[0]).node
    while power is not None and power.name in ("mul", "select_n"):  # by a mask
        operands = [operand for operand in power.operands if operand.parametric]
        power = through_layout(operands[0]).node if len(operands) == 1 else None
    return power.operands[0] if power is not None and power.name == "exp" else None


def summed(total: Node) -> int:
    """Over how many numbers a node sums."""
    shape = total.operands[0].shape
    return math.prod(shape[axis] for axis in total.eqn.params["axes"])


def _unshifted(value: Value) -> Value:
    """A value without the subtraction of the largest number along an axis."""
    node = value.node
    if node is not None and node.name == "sub" and is_largest(node.operands[1]):
        return node.operands[0]
    return value


def is_largest(value: Value) -> bool:
    """Whether a value is the largest of others."""
    node = before_clips(value)
    return node is not None and node.name == "reduce_max"


def before_clips(value: Value) -> Node | None:
    """What makes a value, apart from clips, small numbers added, and other layouts."""
    while (node := through_layout(value).node) is not None:
        operands = [operand for operand in node.operands if operand.parametric]
        if node.name == "select_n":
            operands = cases_of(node)
        if node.name not in _PASSIVE or len(operands) != 1:
            break
        if node.name == "add" and any(
            other.number is not None and abs(float(other.number)) > 0.1 for other in node.operands
        ):
            break
        value = operands[0]
    return node


_PASSIVE = frozenset("max min clamp add select_n abs".split())


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


def normalizes(power: Value) -> bool:
    """Whether an exponential is a part of a softmax, of a sigmoid or of an activation: a sum of it
    divides, or its logarithm is taken, or it is chosen where its argument is negative."""
    seen, waiting = {power}, [power]
    while waiting:
        value = waiting.pop()
        for node, position in value.users:
            divides = node.name == "div" and position == 1 and through_layout(value) is not power
            if node.name in ("log", "log1p", "select_n") or divides:
                return True
            if node.name == "add" and 1 not in [operand.number for operand in node.operands]:
                continue
            passes = node.name in ("reduce_sum", "add", "neg", "convert_element_type")
            if passes or primitive_of(node.eqn).kind == "layout":
                fresh = [result for result in node.results if result not in seen]
                seen.update(fresh)
                waiting += fresh
    return False


def without_scale(value: Value) -> Value:
    """A value without a sign and a number that multiplies it."""
    while (node := through_layout(value).node) is not None:
        operands = [operand for operand in node.operands if operand.number is None]
        if node.name not in ("neg", "mul") or len(operands) != 1:
            break
        (value,) = operands
    return through_layout(value)


def one_minus(value: Value) -> Value | None:
    """What a value is one minus of, up to its sign and scale; None if it isn't."""
    node = without_scale(value).node
    if node is None or node.name != "sub" or node.operands[0].number != 1:
        return None
    return through_layout(node.operands[1])


def class_numbers(labels: Value) -> Value | None:
    """The numbers of classes, last along an axis, that labels pick or are one-hot of; None if they
    aren't known."""
    value = labels
    while not np.issubdtype(value.aval.dtype, np.integer):
        node = value.node
        if node is None:
            return None
        operands = [operand for operand in node.operands if operand.number is None]
        if node.name == "eq":
            columns = [operand for operand in operands if operand.shape[-1:] == (1,)]
            if len(operands) != 2 or len(columns) != 1:
                return None
            (value,) = columns
            break
        if node.name not in ("convert_element_type", "mul", "add", "neg") or len(operands) != 1:
            return None
        (value,) = operands
    return value if value.shape and not value.parametric else None


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


def cases_of(node: Node) -> list[Value]:
    """What a select can choose, as far as it depends on parameters."""
    which, *cases = node.operands
    return [case for case in chosen(which, cases) if case.parametric]
