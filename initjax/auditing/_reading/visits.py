"""The way back from a loss to the layers that it is made of.

It ends at layers, loops, and products of two layers' outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from initjax.auditing._reading.expressions import Path, floating
from initjax.auditing._reading.inlined import Node, Value, body
from initjax.auditing._reading.primitives import primitive_of
from initjax.auditing._reading.ranges import Range
from initjax.auditing._reading.softmaxes import exponential_in, is_softmax, summed
from initjax.auditing._reading.terms import Kind
from initjax.auditing._reading.values import cases_of, factor_of, is_largest, through_layout
from initjax.auditing._reading.watches import Watch


class Reader(NamedTuple):
    """What is known while a loss is read."""

    sites: set[Path]
    inside: dict[Path, list[Path]]
    """The sites at or within an equation."""
    ranges: dict[Value, Range]
    watches: dict[str, Watch]
    outputs: set[tuple[Kind, Value]]
    """What the terms that have been found compare."""


class Visit(NamedTuple):
    """A node on the way back from the loss."""

    node: Node
    linear: bool
    """Whether the loss depends on it by sums, factors and choices alone."""
    factors: tuple[Value, ...]
    """What multiplies it on the way, apart from numbers."""
    scale: float
    """The number that multiplies it; NaN if that is not known, as for a part of a loop."""
    divisors: tuple[Value, ...]
    """What it is divided by, apart from numbers."""


def visits_of(loss: Value, reader: Reader) -> Iterator[Visit]:
    """The nodes on the way back from the loss, each once, the linear part of the way first."""
    if loss.node is None:
        return
    first, later = [Visit(loss.node, True, (), 1.0, ())], []
    seen: set[Node] = set()
    while first or later:
        visit = first.pop() if first else later.pop()
        if visit.node in seen or not visit.node.results[0].parametric:
            continue
        seen.add(visit.node)
        yield visit
        for following in _before(visit, reader):
            (first if following.linear else later).append(following)


def _before(visit: Visit, reader: Reader) -> Iterator[Visit]:
    """What the operands of a node are made by."""
    node, name = visit.node, visit.node.name
    kind = primitive_of(node.eqn).kind
    if kind == "scan" and node.eqn.params["length"]:
        # The loss may be summed over chunks, or mapped over examples.
        for result in body(node).results:
            if result.node is not None:
                yield Visit(result.node, visit.linear, visit.factors, math.nan, visit.divisors)
    if node.path in reader.sites or kind in ("scan", "while", "cond", "unknown"):
        return
    operands = [operand for operand in node.operands if operand.parametric]
    others = [operand for operand in node.operands if not operand.parametric]
    if kind == "product" and len(operands) > 1 and node.operands[0] is not node.operands[1]:
        return
    linear, factors, scale, divisors = visit.linear, visit.factors, visit.scale, visit.divisors
    if name == "mul" or (name == "div" and operands[:1] == [node.operands[0]]):
        for other in others or node.operands[1:]:
            known = other.number
            if known is None and name == "mul":
                factor, size = _without_numbers(other)
                factors, scale = (*factors, factor), scale * size
            elif known is None:
                divisors = (*divisors, other)
            else:
                size = float(known)
                scale = scale * size if name == "mul" else scale / size if size else math.nan
    elif name == "select_n":
        operands = cases_of(node)
    elif kind == "product" and others:
        factors = (*factors, others[0])
    elif not (
        name in _LINEAR or kind == "layout" or node.results[0].aval.size == 1 or name == "gather"
    ):
        linear = False
    for operand in operands:
        if operand.node is not None:
            negative = name == "neg" or (name == "sub" and operand is not node.operands[0])
            signed = -scale if negative else scale
            yield Visit(operand.node, linear, factors, signed, divisors)


def _without_numbers(factor: Value) -> tuple[Value, float]:
    """A factor without the numbers that multiply it, and their product: labels may be negated."""
    scale = 1.0
    while (node := factor.node) is not None:
        given = [operand for operand in node.operands if operand.number is None]
        if node.name == "convert_element_type" or len(given) != 1:
            break
        size = factor_of(node, given[0])
        if size is None:
            break
        factor, scale = given[0], scale * size
    return factor, scale


_LINEAR = frozenset(
    "add add_any sub neg reduce_sum convert_element_type concatenate pad cumsum max".split()
)
"""Besides products; a maximum is part of many formulas for log(1 + exp(x))."""


def cut_at(node: Node) -> str:
    """What of a node lets no gradient through; "" if it lets some."""
    if is_softmax(node) or node.name == "log":
        total = through_layout(node.operands[node.name == "div"]).node
        if total is not None and total.name == "reduce_sum" and exponential_in(total.operands[0]):
            return "softmax over one unit" if summed(total) == 1 else ""
    if node.name == "stop_gradient":  # of the largest number, it is part of a softmax
        return "" if is_largest(node.operands[0]) else node.name
    if node.name == "convert_element_type" and not floating(node.results[0].aval.dtype):
        return "a conversion to integers" if floating(node.operands[0].aval.dtype) else ""
    return node.name if node.name in _FLAT else ""


_FLAT = frozenset("argmax argmin round floor ceil sign lt le gt ge eq ne".split())


def layers_before(value: Value, reader: Reader) -> set[Path]:
    """The sites that a value is made of, with no other site between."""
    found: set[Path] = set()
    seen: set[Value] = set()
    stack = [value]
    while stack:
        value = stack.pop()
        if value in seen or value.node is None or not value.parametric:
            continue
        seen.add(value)
        inside = reader.inside.get(value.node.path, ())
        found.update(inside)
        if not inside:
            stack.extend(value.node.operands)
    return found
