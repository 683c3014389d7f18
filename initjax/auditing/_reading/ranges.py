"""The range that a value can have, whatever the parameters are.

Interval arithmetic, from a value back to the layers or data that it is made of, of which any number
is possible. So a sigmoid has the range (0, 1), and a rectifier [0, inf).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from initjax.auditing._reading.inlined import Node, Value, body
from initjax.auditing._reading.primitives import primitive_of, scan_counts
from initjax.auditing._reading.softmaxes import is_log_softmax, is_softmax
from initjax.auditing._reading.values import DEEPEST, chosen

Range = tuple[float, float]
ANY: Range = (-math.inf, math.inf)
_TINY = 1e-300
_COMPARISONS = frozenset("eq ne lt le gt ge is_finite and or not xor".split())
_LAYOUTS = frozenset("gather reduce_max reduce_min sort stop_gradient reduce_precision".split())


def range_of(value: Value, known: dict[Value, Range], depth: int = 0) -> Range:
    """The least and the largest number that a value can have, whatever the parameters are.

    Args:
      value: a value of a graph.
      known: the ranges that have been found already.
      depth: how many equations later the caller is.
    """
    if value not in known:
        known[value] = _range(value, known, depth)
    return known[value]


def _range(value: Value, known: dict[Value, Range], depth: int) -> Range:
    number, node = value.number, value.node
    if number is not None and not np.isnan(number):
        return float(number), float(number)
    if value.aval.dtype == bool:
        return 0, 1
    if node is None or depth > DEEPEST:
        return ANY
    name = node.name
    turn = one_turn(value)
    if turn is not None:
        return range_of(turn, known, depth + 1)
    if is_softmax(node):
        return 0, 1
    if is_log_softmax(node):
        return -math.inf, 0

    def ranges(operands: Sequence[Value]) -> list[Range]:
        return [range_of(operand, known, depth + 1) for operand in operands]

    if name in _RULES:
        return _RULES[name](node, ranges(node.operands))
    kind = primitive_of(node.eqn).kind
    if kind == "layout" or name in _LAYOUTS:
        return ranges(node.operands[:1])[0]
    if name == "select_n":
        which, *cases = node.operands
        return _union(ranges(chosen(which, cases)))
    if name in ("concatenate", "pad"):
        return _union(ranges(node.operands))
    if name == "reduce_sum":
        count = node.operands[0].aval.size / max(1, value.aval.size)
        return _product(ranges(node.operands)[0], (count, count))
    return ANY


def one_turn(value: Value) -> Value | None:
    """What one turn of a loop adds to a value that is stacked from all turns; None for others."""
    node = value.node
    if node is None or node.name != "scan":
        return None
    _, carried = scan_counts(node.eqn.params)
    return body(node).results[value.position] if value.position >= carried else None


def _union(ranges: Sequence[Range]) -> Range:
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _product(one: Range, other: Range) -> Range:
    ends = [0.0 if 0 in (a, b) else a * b for a in one for b in other]
    return min(ends), max(ends)


def _quotient(node: Node, ranges: list[Range]) -> Range:
    above, (low, high) = ranges
    if low <= 0 <= high:
        # Of a number that isn't negative and one that isn't, none is negative.
        return (0, math.inf) if above[0] >= 0 and low >= 0 else ANY
    return _product(above, (1 / high, 1 / low))


def _power(node: Node, ranges: list[Range]) -> Range:
    power = node.eqn.params.get("y", 2)
    low, high = ranges[0]
    if power % 2 == 0 and power > 0:
        ends = sorted((abs(low), abs(high)))
        least = 0.0 if low <= 0 <= high else ends[0] ** power
        return least, _grown(ends[1], power)
    return ANY if power <= 0 else (_grown(low, power), _grown(high, power))


def _grown(base: float, power: int) -> float:
    try:
        return base**power
    except OverflowError:
        return math.inf


def _times(node: Node, ranges: list[Range]) -> Range:
    if node.operands[0] is node.operands[1]:
        return _power(node, ranges)
    return _product(*ranges)


def _monotone(function: Callable[[Any], Any], low: float, high: float) -> Callable:
    """The rule of an increasing function that is defined between two numbers."""

    def rule(node: Node, ranges: list[Range]) -> Range:
        ((least, largest),) = ranges[:1]
        with np.errstate(all="ignore"):
            ends = [float(function(np.clip(end, low, high))) for end in (least, largest)]
        return ends[0], ends[1]

    return rule


def _sum(node: Node, ranges: list[Range]) -> Range:
    (a, b), (c, d) = ranges
    return a + c, b + d


def _difference(node: Node, ranges: list[Range]) -> Range:
    (a, b), (c, d) = ranges
    return a - d, b - c


def _negative(node: Node, ranges: list[Range]) -> Range:
    ((low, high),) = ranges
    return -high, -low


def _absolute(node: Node, ranges: list[Range]) -> Range:
    ((low, high),) = ranges
    return 0.0 if low <= 0 <= high else min(abs(low), abs(high)), max(abs(low), abs(high))


def _bounded(low: float, high: float) -> Callable:
    return lambda node, ranges: (low, high)


def _clamp(node: Node, ranges: list[Range]) -> Range:
    (low, _), (least, largest), (_, high) = ranges
    return min(max(least, low), high), max(min(largest, high), low)


def _exponential(node: Node, ranges: list[Range]) -> Range:
    ((low, high),) = ranges
    # Never zero, as far as mathematics goes.
    return max(math.exp(min(low, 700)), _TINY), math.exp(high) if high < 700 else math.inf


def _logistic(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


_RULES: dict[str, Callable[[Node, list[Range]], Range]] = {
    "add": _sum,
    "add_any": _sum,
    "sub": _difference,
    "mul": _times,
    "div": _quotient,
    "neg": _negative,
    "abs": _absolute,
    "square": _power,
    "integer_pow": _power,
    "clamp": _clamp,
    "max": lambda node, ranges: (max(r[0] for r in ranges), max(r[1] for r in ranges)),
    "min": lambda node, ranges: (min(r[0] for r in ranges), min(r[1] for r in ranges)),
    "exp": _exponential,
    "expm1": _monotone(np.expm1, -math.inf, math.inf),
    "log": _monotone(np.log, 0, math.inf),
    "log1p": _monotone(np.log1p, -1, math.inf),
    "sqrt": _monotone(np.sqrt, 0, math.inf),
    "logistic": _monotone(_logistic, -math.inf, math.inf),
    "tanh": _monotone(np.tanh, -math.inf, math.inf),
    "atan": _monotone(np.arctan, -math.inf, math.inf),
    "round": _monotone(np.round, -math.inf, math.inf),
    "floor": _monotone(np.floor, -math.inf, math.inf),
    "ceil": _monotone(np.ceil, -math.inf, math.inf),
    "convert_element_type": lambda node, ranges: ranges[0],
    "rsqrt": _bounded(0, math.inf),
    "erf": _bounded(-1, 1),
    "erfc": _bounded(0, 2),
    "sin": _bounded(-1, 1),
    "cos": _bounded(-1, 1),
    "sign": _bounded(-1, 1),
    **dict.fromkeys(_COMPARISONS, _bounded(0, 1)),
}
