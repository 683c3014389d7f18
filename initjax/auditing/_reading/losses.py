"""What a loss is made of, read from its end: cross entropies, distances to targets, and dead ends.

The way back from the loss ends at layers, loops, and products of two layers' outputs. On it, a
logarithm of a softmax is a cross entropy, and the square or the size of a difference from something
without parameters is a distance. What the model gives there, its outputs, and the targets are
watched.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from initjax.auditing._measuring.losses import first_rows, invalid, of_outputs
from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.inlined import Graph, Node, Value, place_of
from initjax.auditing._reading.primitives import primitive_of
from initjax.auditing._reading.ranges import (
    ANY,
    Range,
    chosen,
    is_softmax,
    range_of,
    through_layout,
)
from initjax.auditing._reading.terms import Kind, Losses, Risk, Term
from initjax.auditing._reading.watches import Watch

_LONG = 500  # equations
_MOST = 16  # terms, and risky operations, that are looked at


def read_losses(graph: Graph, sites: Collection[Path]) -> tuple[Losses, dict[str, Watch]]:
    """Reads what a loss is made of.

    Args:
      graph: the program.
      sites: the paths of its layers.

    Returns:
      What it is made of, and what has to be measured for it.
    """
    inside: dict[Path, list[Path]] = {}
    for site in sites:
        for length in range(1, len(site) + 1, 2):
            inside.setdefault(site[:length], []).append(site)
    reader = _Reader(set(sites), inside, {}, {}, set())
    terms: list[Term] = []
    cuts: list[str] = []
    risks: list[tuple[Path, Risk]] = []
    visits = list(_visits(graph.results[0], reader))
    denominators = [through_layout(value) for visit in visits for value in visit.divisors]
    for visit in visits:
        node = visit.node
        cut = _cut(node)
        if cut and cut not in cuts:
            cuts.append(cut)
        term = _term(visit, reader, denominators) if len(terms) < _MOST else None
        terms += [term] if term is not None else []
        if len(risks) < _MOST:
            risks += [(node.path, risk) for risk in _risks(node, reader)]
    ordered = tuple(risk for _, risk in sorted(risks, key=lambda pair: pair[0]))
    return Losses(tuple(terms), tuple(cuts), ordered), reader.watches


# The way back


class _Reader(NamedTuple):
    """What is known while a loss is read."""

    sites: set[Path]
    inside: dict[Path, list[Path]]
    """The sites at or within an equation."""
    ranges: dict[Value, Range]
    watches: dict[str, Watch]
    outputs: set[tuple[Kind, Value]]
    """What the terms that have been found compare."""


class _Visit(NamedTuple):
    """A node on the way back from the loss."""

    node: Node
    linear: bool
    """Whether the loss depends on it by sums, factors and choices alone."""
    factors: tuple[Value, ...]
    """What multiplies it on the way, apart from numbers."""
    scale: float
    """The number that multiplies it, by absolute value."""
    divisors: tuple[Value, ...]
    """What it is divided by, apart from numbers."""


def _visits(loss: Value, reader: _Reader) -> Iterator[_Visit]:
    """The nodes on the way back from the loss, each once, the linear part of the way first."""
    if loss.node is None:
        return
    first, later = [_Visit(loss.node, True, (), 1.0, ())], []
    seen: set[Node] = set()
    while first or later:
        visit = first.pop() if first else later.pop()
        if visit.node in seen or not visit.node.results[0].parametric:
            continue
        seen.add(visit.node)
        yield visit
        for following in _before(visit, reader):
            (first if following.linear else later).append(following)


def _before(visit: _Visit, reader: _Reader) -> Iterator[_Visit]:
    """What the operands of a node are made by."""
    node, name = visit.node, visit.node.name
    kind = primitive_of(node.eqn).kind
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
                factors = (*factors, other)
            elif known is None:
                divisors = (*divisors, other)
            else:
                size = abs(float(known))
                scale = scale * size if name == "mul" else scale / size if size else math.nan
    elif name == "select_n":
        operands = [case for case in chosen(*_which(node)) if case.parametric]
    elif kind == "product" and others:
        factors = (*factors, others[0])
    elif not (
        name in _LINEAR or kind == "layout" or node.results[0].aval.size == 1 or name == "gather"
    ):
        linear = False
    for operand in operands:
        if operand.node is not None:
            yield _Visit(operand.node, linear, factors, scale, divisors)


_LINEAR = frozenset(
    "add add_any sub neg reduce_sum convert_element_type concatenate pad cumsum max".split()
)
"""Besides products; a maximum is part of many formulas for log(1 + exp(x))."""


def _which(node: Node) -> tuple[Value, tuple[Value, ...]]:
    which, *cases = node.operands
    return which, tuple(cases)


def _cut(node: Node) -> str:
    """What of a node lets no gradient through; "" if it lets some."""
    if is_softmax(node) or node.name == "log":
        total = through_layout(node.operands[node.name == "div"]).node
        if total is not None and total.name == "reduce_sum" and _exponent(total):
            return "softmax over one unit" if _summed(total) == 1 else ""
    if node.name == "stop_gradient":  # of the largest number, it is part of a softmax
        return "" if _largest(node.operands[0]) else node.name
    return node.name if node.name in _FLAT else ""


_FLAT = frozenset("argmax argmin round floor ceil sign lt le gt ge eq ne".split())


# Terms


def _term(visit: _Visit, reader: _Reader, denominators: list[Value]) -> Term | None:
    """The term of a loss that a node is, if it is one that was not found before."""
    node = visit.node
    if node.name in ("log", "log1p") and visit.linear:
        found = _softmax_in(node.operands[0]) if node.name == "log" else None
        if found is not None:
            logits, classes, instances = found
            guess = classes > 1 and _mean(visit, instances, denominators)
            return _watched("cross entropy", logits, None, reader, classes, guess)
        logit = _logistic_in(node)
        if logit is not None:
            return _watched("binary cross entropy", logit, None, reader)
        if range_of(node.operands[0], reader.ranges)[0] > 0 and _clipped(node.operands[0]):
            return _watched("logarithm", node.operands[0], None, reader)
    if node.name in ("abs", "square") or _squares(node):
        pair = _difference_in(node.operands[0])
        if pair is not None and place_of(pair[1]) is not None and _layers_before(pair[0], reader):
            return _watched("distance", *pair, reader)
    return None


def _clipped(value: Value) -> bool:
    node = through_layout(value).node
    return node is not None and node.name in ("max", "min", "clamp")


def _squares(node: Node) -> bool:
    if node.name == "integer_pow":
        return node.eqn.params["y"] % 2 == 0
    twice = len(node.operands) == 2 and node.operands[0] is node.operands[1]
    return twice and node.name in ("mul", "dot_general")


def _watched(
    kind: Kind,
    output: Value,
    target: Value | None,
    reader: _Reader,
    classes: int = 0,
    guess: bool = False,
) -> Term | None:
    """A term, and the watch of its outputs and targets; None for one that is known."""
    place = place_of(output)
    if (kind, output) in reader.outputs or place is None:
        return None
    reader.outputs.add((kind, output))
    places = {"outputs": place}
    if target is not None and (of_targets := place_of(target)) is not None:
        places["targets"] = of_targets
    limits = range_of(output, reader.ranges)
    name = f"outputs {len(reader.watches)}"
    reader.watches[name] = Watch(places, of_outputs, limits, first_rows)
    return Term(
        kind=kind,
        layers=frozenset(_layers_before(output, reader)),
        range=limits,
        bound=_bound(output, reader) if limits != ANY else "",
        classes=classes,
        guess=guess,
        given=target is not None and _given(target),
        watch=name,
    )


def _given(target: Value) -> bool:
    """Whether a target comes from the batch or from random numbers, without any product."""
    seen: set[Value] = set()
    stack = [target]
    while stack:
        value = stack.pop()
        if value in seen or value.node is None:
            continue
        seen.add(value)
        kind = primitive_of(value.node.eqn).kind
        if kind in ("product", "scan", "while", "cond", "unknown") or len(seen) > _LONG:
            return False
        stack.extend(value.node.operands)
    return True


def _softmax_in(value: Value) -> tuple[Value, int, int] | None:
    """The logits, the number of classes and the number of softmaxes, if a value whose logarithm is
    taken is a softmax or the sum of its exponentials."""
    node = _passive(value)
    if node is not None and is_softmax(node):
        node = through_layout(node.operands[1]).node
    if node is None or node.name != "reduce_sum":
        return None
    exponent = _exponent(node)
    if exponent is None:
        return None
    return _unshifted(exponent), _summed(node), node.results[0].aval.size


def _exponent(total: Node) -> Value | None:
    """What is exponentiated, if a node sums exponentials."""
    power = through_layout(total.operands[0]).node
    while power is not None and power.name in ("mul", "select_n"):  # by a mask
        operands = [operand for operand in power.operands if operand.parametric]
        power = through_layout(operands[0]).node if len(operands) == 1 else None
    return power.operands[0] if power is not None and power.name == "exp" else None


def _summed(total: Node) -> int:
    """Over how many numbers a node sums."""
    shape = total.operands[0].shape
    return math.prod(shape[axis] for axis in total.eqn.params["axes"])


def _unshifted(value: Value) -> Value:
    """A value without the subtraction of the largest number along an axis."""
    node = value.node
    if node is not None and node.name == "sub" and _largest(node.operands[1]):
        return node.operands[0]
    return value


def _largest(value: Value) -> bool:
    """Whether a value is the largest of others."""
    node = _passive(value)
    return node is not None and node.name == "reduce_max"


def _passive(value: Value) -> Node | None:
    """What makes a value, apart from clips, small numbers added, and other layouts."""
    while (node := through_layout(value).node) is not None:
        operands = [operand for operand in node.operands if operand.parametric]
        if node.name == "select_n":
            operands = [case for case in chosen(*_which(node)) if case.parametric]
        if node.name not in _PASSIVE or len(operands) != 1:
            break
        if node.name == "add" and any(
            other.number is not None and abs(float(other.number)) > 0.1 for other in node.operands
        ):
            break
        value = operands[0]
    return node


_PASSIVE = frozenset("max min clamp add select_n abs".split())


def _logistic_in(node: Node) -> Value | None:
    """The logit, if a logarithm is that of a sigmoid, or of one minus a sigmoid."""
    value = node.operands[0]
    if node.name == "log1p":
        inner = through_layout(value).node
        if inner is not None and inner.name == "exp":  # log(1 + exp(x))
            return _unsigned(inner.operands[0])
        return _unsigned(_logit(inner)) if inner is not None and inner.name == "neg" else None
    inner = _passive(value)
    if inner is not None and inner.name == "sub" and inner.operands[0].number == 1:
        inner = _passive(inner.operands[1])
    if inner is not None and inner.name == "add" and 1 in [v.number for v in inner.operands]:
        inner = through_layout(next(v for v in inner.operands if v.number is None)).node
        return _unsigned(inner.operands[0]) if inner is not None and inner.name == "exp" else None
    return inner.operands[0] if inner is not None and inner.name == "logistic" else None


def _logit(node: Node) -> Value:
    """The logit, if a node is minus a sigmoid; else what it is the negative of."""
    inner = _passive(node.operands[0])
    return inner.operands[0] if inner is not None and inner.name == "logistic" else node.operands[0]


def _unsigned(value: Value) -> Value:
    """A value whatever its sign is."""
    while (node := value.node) is not None:
        zero = node.name == "sub" and node.operands[1].number == 0
        if node.name not in ("neg", "abs") and not zero:
            break
        value = node.operands[0]
    return value


def _difference_in(value: Value) -> tuple[Value, Value] | None:
    """The outputs and the targets, if a value is their difference, perhaps times a weight."""
    for _ in range(_MOST):
        node = through_layout(value).node
        if node is None:
            return None
        operands = [operand for operand in node.operands if operand.parametric]
        others = [operand for operand in node.operands if not operand.parametric]
        if node.name == "sub" and len(others) == 1:
            return operands[0], others[0]
        weighted = node.name == "mul" or (node.name == "div" and operands[0] is node.operands[0])
        if node.name not in ("neg", "select_n") and not (weighted and operands):
            return None
        value = operands[0]
    return None


def _layers_before(value: Value, reader: _Reader) -> set[Path]:
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


def _bound(value: Value, reader: _Reader) -> str:
    """What limits the range of a value: the first equation of the model that does."""
    node = value.node
    while node is not None:
        limited = [
            operand
            for operand in node.operands
            if operand.parametric and range_of(operand, reader.ranges) != ANY
        ]
        if is_softmax(node) or not limited:
            break
        node = limited[0].node
    if node is None:
        return ""
    return "softmax" if is_softmax(node) else _BOUNDS.get(node.name, node.name)


_BOUNDS = {
    "logistic": "sigmoid", "max": "relu", "clamp": "clip", "min": "clip", "integer_pow": "square",
    "log1p": "softplus",
}  # fmt: skip


def _mean(visit: _Visit, instances: int, denominators: list[Value]) -> bool:
    """Whether a loss has the mean of so many logarithms in it, perhaps over a mask."""
    weights = [through_layout(factor) for factor in visit.factors if factor.aval.size > 1]
    for weight in weights:
        # One number for each class chooses among classes. True and false are a mask.
        if weight.parametric or not (weight.aval.size > instances or _is_mask(weight)):
            if weight.parametric or not any(_sums(total, weight) for total in denominators):
                return False
    if visit.divisors or any(factor.aval.size == 1 for factor in visit.factors):
        return True
    return abs(visit.scale * instances - 1) < 0.01


def _is_mask(value: Value) -> bool:
    """Whether a value is true or false."""
    while value.node is not None and value.node.name == "mul":
        value = value.node.operands[0]
    return through_layout(value).aval.dtype == np.bool_


def _sums(total: Value, weight: Value) -> bool:
    """Whether a value is the sum of another."""
    node: Any = total.node
    while node is not None and node.name in ("max", "add"):
        made = [operand for operand in node.operands if operand.node is not None]
        node = through_layout(made[0]).node if made else None
    return (
        node is not None
        and node.name == "reduce_sum"
        and through_layout(node.operands[0]) is weight
    )


# What may not be defined


def _risks(node: Node, reader: _Reader) -> Iterator[Risk]:
    """The operands of a node for which it may not be defined."""
    least = _LEAST.get(node.name)
    position = 1 if node.name == "div" else 0
    if least is None and node.name != "div":
        return
    operand = node.operands[position]
    low, high = range_of(operand, reader.ranges)
    if not operand.parametric or low > (least or 0) or (node.name == "div" and high < 0):
        return
    place = place_of(operand)
    if place is None:
        return
    name = f"risk {len(reader.watches)}"
    reader.watches[name] = Watch({"operand": place}, invalid, node.name)
    yield Risk(
        node.name,
        node.name == "log" and high <= 0,
        frozenset(_layers_before(operand, reader)),
        name,
    )


_LEAST = {"log": 0.0, "log1p": -1.0, "sqrt": 0.0, "rsqrt": 0.0}
