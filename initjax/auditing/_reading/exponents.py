"""Exponentials of what layers give, such as of the logarithm of a standard deviation."""

from __future__ import annotations

import math
from collections.abc import Iterator

from initjax.auditing._reading.expressions import floating
from initjax.auditing._reading.inlined import Node, Value, place_of
from initjax.auditing._reading.primitives import primitive_of
from initjax.auditing._reading.ranges import range_of
from initjax.auditing._reading.terms import Exponential, OutputShape
from initjax.auditing._reading.values import through_layout
from initjax.auditing._reading.visits import Reader
from initjax.auditing._reading.watches import Watch

_AFFINE = frozenset("add sub mul div neg convert_element_type".split())


def exponentials_at(node: Node, reader: Reader) -> Iterator[Exponential]:
    """The exponential that a node is, if it is one of what a layer gives, apart from numbers.

    Those that are a part of a softmax, a sigmoid or an activation are none.
    """
    if node.name != "exp" or range_of(node.operands[0], reader.ranges)[1] < math.inf:
        return
    exponent = node.operands[0]
    if not floating(exponent.aval.dtype) or not exponent.aval.size:
        return
    value, place = exponent, place_of(exponent)
    while value.node is not None and value.node.path not in reader.sites:
        data = [operand for operand in value.node.operands if operand.data]
        layout = primitive_of(value.node.eqn).kind == "layout"
        if len(data) != 1 or not (layout or value.node.name in _AFFINE):
            return
        (value,) = data
    if value.node is None or place is None or _normalizes(node.results[0]):
        return
    name = f"exponent {len(reader.watches)}"
    static = OutputShape(range_of(exponent, reader.ranges), exponent.shape)
    reader.watches[name] = Watch({"outputs": place}, "outputs", static)
    yield Exponential(frozenset([value.node.path]), name)


def _normalizes(power: Value) -> bool:
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
