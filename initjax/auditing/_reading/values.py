"""What a value of a graph is made of, up to steps that say nothing new, and where it varies."""

from __future__ import annotations

from collections.abc import Sequence

from initjax.auditing._reading.inlined import Node, Value
from initjax.auditing._reading.layout import Axes, axes_before
from initjax.auditing._reading.primitives import primitive_of

DEEPEST = 50  # equations that a recursion follows; farther back, nothing is looked for


def even(value: Value, axes: Axes | None, depth: int = 8) -> bool:
    """Whether a value is the same all along some axes."""
    if axes is None:
        return False
    axes = tuple(axis for axis in axes if axis < len(value.shape) and value.shape[axis] > 1)
    if not axes:
        return True
    node = value.node
    if node is None or not depth:
        return False
    row = primitive_of(node.eqn)
    if row.kind not in ("elementwise", "layout"):
        return False
    operands = node.operands if row.kind == "elementwise" else node.operands[:1]
    return all(
        even(operand, axes_before(node.eqn, axes, number), depth - 1)
        for number, operand in enumerate(operands)
    )


def all_axes(value: Value) -> Axes:
    return tuple(range(len(value.shape)))


def other_operand(node: Node, value: Value) -> Value:
    return node.operands[1] if node.operands[0] is value else node.operands[0]


def factor_of(node: Node, operand: Value) -> float | None:
    """The number by which a node multiplies an operand; None if that is not all it does."""
    if node.name == "convert_element_type":
        return 1.0
    if node.name == "neg":
        return -1.0
    number = other_operand(node, operand).number if len(node.operands) == 2 else None
    if number is None or node.name not in ("mul", "div"):
        return None
    if node.name == "div":
        return 1 / float(number) if node.operands[0] is operand and number else None
    return float(number)


def through_layout(value: Value) -> Value:
    """What a value is made of by moving, repeating or converting its elements alone."""
    while value.node is not None and (
        primitive_of(value.node.eqn).kind == "layout"
        or value.node.name in ("convert_element_type", "stop_gradient")
    ):
        value = value.node.operands[0]
    return value


def made_by(value: Value, *names: str) -> Node | None:
    """The node that makes a value, up to its layout, if it has one of these names."""
    node = through_layout(value).node
    return node if node is not None and node.name in names else None


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


def chosen(which: Value, cases: Sequence[Value]) -> Sequence[Value]:
    """The cases that a select can choose among: not what replaces NaN."""
    test = which.node
    if test is not None and test.name in ("ne", "eq") and test.operands[0] is test.operands[1]:
        return [cases[test.name == "eq"]]
    return cases


def cases_of(node: Node) -> list[Value]:
    """What a select can choose, as far as it depends on parameters."""
    which, *cases = node.operands
    return [case for case in chosen(which, cases) if case.parametric]
