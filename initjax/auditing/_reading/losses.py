"""What a loss is made of, read from its end: cross entropies, distances to targets, and dead ends.

The way back from the loss ends at layers, loops, and products of two layers' outputs. On it, a
logarithm of a softmax is a cross entropy, and the square or the size of a difference from something
without parameters is a distance. What the model gives there, its outputs, and the targets are
watched.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from initjax.auditing._measuring.losses import first_rows, invalid, invalid_parts, of_outputs
from initjax.auditing._reading.expressions import Path, floating
from initjax.auditing._reading.formulas import (
    before_clips,
    cases_of,
    class_numbers,
    difference_in,
    exponent_of,
    factors_before,
    is_largest,
    is_square,
    logistic_in,
    normalizes,
    one_minus,
    softmax_in,
    summed,
    without_scale,
)
from initjax.auditing._reading.inlined import Graph, Node, Value, body, place_of
from initjax.auditing._reading.primitives import primitive_of
from initjax.auditing._reading.ranges import (
    ANY,
    Range,
    is_softmax,
    one_turn,
    range_of,
    through_layout,
)
from initjax.auditing._reading.terms import Exponential, Kind, Losses, Risk, Term
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
    exponentials: list[Exponential] = []
    visits = list(_visits(graph.results[0], reader))
    around = _Around(
        divisors=[through_layout(value) for visit in visits for value in visit.divisors],
        factors=[value for visit in visits for value in visit.factors],
        weighted=[pair for visit in visits if visit.linear for pair in _weighted(visit.node)],
        indices=[
            visit.node.operands[1]
            for visit in visits
            if visit.node.name == "gather"
            and not visit.node.operands[1].parametric
            and visit.node.path not in reader.sites
        ],
    )
    for visit in visits:
        node = visit.node
        cut = _cut(node)
        if cut and cut not in cuts:
            cuts.append(cut)
        term = _term(visit, reader, around) if len(terms) < _MOST else None
        terms += [term] if term is not None else []
        if len(exponentials) < _MOST:
            exponentials += _exponentials(node, reader)
        if len(risks) < _MOST:
            risks += [(node.path, risk) for risk in _risks(node, reader)]
    ordered = tuple(risk for _, risk in sorted(risks, key=lambda pair: pair[0]))
    whole = not any(
        visit.linear and primitive_of(visit.node.eqn).kind in ("while", "cond", "unknown")
        for visit in visits
    )
    losses = Losses(tuple(terms), tuple(cuts), ordered, tuple(exponentials), whole)
    return losses, reader.watches


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
    """The number that multiplies it; NaN if that is not known, as for a part of a loop."""
    divisors: tuple[Value, ...]
    """What it is divided by, apart from numbers."""


class _Around(NamedTuple):
    """What stands beside the way back from the loss, and depends on no parameter or is a factor."""

    divisors: list[Value]
    factors: list[Value]
    weighted: list[tuple[Value, Value]]
    """What depends on parameters, and what multiplies it without depending on any."""
    indices: list[Value]
    """Of elements that are taken out, as that of the right class is."""

    def labels(self, logits: Value, instances: int) -> Value | None:
        """The classes of a cross entropy, as numbers or one-hot; None if they aren't found."""
        for value in self.factors:
            if value.shape == logits.shape and not value.parametric:
                return value
        for value in self.indices:
            if value.shape and value.aval.size == instances * value.shape[-1]:
                return value
        return None

    def chances(self, logit: Value, factors: Sequence[Value]) -> Value | None:
        """The labels of a binary cross entropy; None if they aren't found.

        They multiply the logit itself, or one of the logarithms, and one minus them the other.
        """
        for output, factor in self.weighted:
            if through_layout(output) is through_layout(logit) and factor.shape == logit.shape:
                return factor
        complements = [one_minus(factor) for factor in self.factors]
        for factor in factors:
            label = without_scale(factor)
            if any(each is label for each in complements):
                return label
            label = one_minus(factor)
            if label and any(without_scale(each) is label for each in self.factors):
                return label
        return None


def _weighted(node: Node) -> Iterator[tuple[Value, Value]]:
    if node.name == "mul" and sum(operand.parametric for operand in node.operands) == 1:
        left, right = node.operands
        yield (left, right) if left.parametric else (right, left)


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
    if (
        kind == "scan" and node.eqn.params["length"]
    ):  # the loss may be summed over chunks, or mapped over examples
        for result in body(node).results:
            if result.node is not None:
                yield _Visit(result.node, visit.linear, visit.factors, math.nan, visit.divisors)
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
            yield _Visit(operand.node, linear, factors, signed, divisors)


_LINEAR = frozenset(
    "add add_any sub neg reduce_sum convert_element_type concatenate pad cumsum max".split()
)
"""Besides products; a maximum is part of many formulas for log(1 + exp(x))."""


def _cut(node: Node) -> str:
    """What of a node lets no gradient through; "" if it lets some."""
    if is_softmax(node) or node.name == "log":
        total = through_layout(node.operands[node.name == "div"]).node
        if total is not None and total.name == "reduce_sum" and exponent_of(total):
            return "softmax over one unit" if summed(total) == 1 else ""
    if node.name == "stop_gradient":  # of the largest number, it is part of a softmax
        return "" if is_largest(node.operands[0]) else node.name
    if node.name == "convert_element_type" and not floating(node.results[0].aval.dtype):
        return "a conversion to integers" if floating(node.operands[0].aval.dtype) else ""
    return node.name if node.name in _FLAT else ""


_FLAT = frozenset("argmax argmin round floor ceil sign lt le gt ge eq ne".split())


# Terms


def _term(visit: _Visit, reader: _Reader, around: _Around) -> Term | None:
    """The term of a loss that a node is, if it is one that was not found before."""
    node = visit.node
    if node.name in ("log", "log1p") and visit.linear:
        found = softmax_in(node.operands[0]) if node.name == "log" else None
        if found is not None:
            logits, classes, instances, power = found
            if visit.scale * power < 0:  # as in the likelihood of a mixture
                return None
            guess = classes > 1 and _mean(visit, instances, around.divisors)
            rectified = range_of(logits, reader.ranges) == (0, math.inf)
            labels = around.labels(logits, instances)
            more = {"labels": labels} if rectified and labels is not None else {}
            numbers = class_numbers(labels) if labels is not None else None
            if numbers is not None and logits.shape[-1:] == (classes,):
                more["classes"] = numbers
            return _watched("cross entropy", logits, more, reader, classes, guess)
        logit = logistic_in(node)
        if logit is not None:
            chances = around.chances(logit, visit.factors)
            given = chances is not None and not chances.parametric and chances.aval.size > 1
            more = {"chances": chances} if chances is not None and given else {}
            return _watched("binary cross entropy", logit, more, reader)
        if range_of(node.operands[0], reader.ranges)[0] > 0 and _clipped(node.operands[0], reader):
            return _watched("logarithm", node.operands[0], {}, reader)
    if node.name in ("abs", "square") or is_square(node):
        pair = difference_in(node.operands[0])
        if pair is not None and place_of(pair[1]) is not None and _layers_before(pair[0], reader):
            around_it = (
                *visit.factors,
                *visit.divisors,
                *factors_before(node.operands[0]),
                pair[1],
            )
            signed = any(_is_signed(factor, reader) for factor in visit.factors)
            noisy = signed or any(value.parametric for value in around_it)
            return _watched("distance", pair[0], {"targets": pair[1]}, reader, noisy=noisy)
    return None


def _is_signed(factor: Value, reader: _Reader) -> bool:
    """Whether a factor differs between examples and may be negative, as an advantage is: then
    outputs are not drawn to what they are compared with."""
    if factor.parametric or factor.aval.size <= 1:
        return False
    if factor.constant is not None:
        return bool(np.min(factor.constant) < 0)
    return range_of(factor, reader.ranges)[0] < 0


def _clipped(value: Value, reader: _Reader) -> bool:
    """Whether a value is clipped that might be negative without it."""
    node = before_clips(value)
    maker = through_layout(value).node
    clip = maker is not None and maker.name in ("max", "min", "clamp")
    return clip and (node is None or range_of(node.results[0], reader.ranges)[0] < 0)


def _watched(
    kind: Kind,
    output: Value,
    others: dict[str, Value],
    reader: _Reader,
    classes: int = 0,
    guess: bool = False,
    noisy: bool = False,
) -> Term | None:
    """A term, and the watch of its outputs and of others; None for one that is known."""
    found = {name: place_of(value) for name, value in {"outputs": output, **others}.items()}
    places = {name: place for name, place in found.items() if place is not None}
    if (kind, output) in reader.outputs or "outputs" not in places:
        return None
    if not floating(output.aval.dtype) or not all(v.aval.size for v in (output, *others.values())):
        return None
    reader.outputs.add((kind, output))
    limits = range_of(output, reader.ranges)
    name = f"outputs {len(reader.watches)}"
    reader.watches[name] = Watch(places, of_outputs, limits, first_rows(output.shape))
    return Term(
        kind=kind,
        layers=frozenset(_layers_before(output, reader)),
        range=limits,
        bound=_bound(output, reader) if limits != ANY else "",
        classes=classes,
        guess=guess,
        given="targets" in others and _given(others["targets"]),
        noisy=noisy,
        watch=name,
    )


def _given(target: Value) -> bool:
    """Whether a target comes from the batch or from random numbers, without any product."""
    if target.parametric:
        return False
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
    both = all(math.isfinite(end) for end in range_of(value, reader.ranges))
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
            if operand.parametric and range_of(operand, reader.ranges) != ANY
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
    if math.isnan(visit.scale):
        return True
    return abs(abs(visit.scale) * instances - 1) < 0.01


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


# Exponentials


def _exponentials(node: Node, reader: _Reader) -> Iterator[Exponential]:
    """The exponential of what a layer gives, such as the logarithm of a standard deviation.

    Those that are a part of a softmax, a sigmoid or an activation are none.
    """
    if node.name != "exp" or range_of(node.operands[0], reader.ranges)[1] < math.inf:
        return
    exponent = node.operands[0]
    value, place = exponent, place_of(exponent)
    while value.node is not None and value.node.path not in reader.sites:
        data = [operand for operand in value.node.operands if operand.data]
        layout = primitive_of(value.node.eqn).kind == "layout"
        if len(data) != 1 or not (layout or value.node.name in _AFFINE):
            return
        (value,) = data
    if value.node is None or place is None or normalizes(node.results[0]):
        return
    name = f"exponent {len(reader.watches)}"
    limits, rows = range_of(exponent, reader.ranges), first_rows(exponent.shape)
    reader.watches[name] = Watch({"outputs": place}, of_outputs, limits, rows)
    yield Exponential(frozenset([value.node.path]), name)


_AFFINE = frozenset("add sub mul div neg convert_element_type".split())


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
    if place is None or not floating(operand.aval.dtype) or not operand.aval.size:
        return
    name = f"risk {len(reader.watches)}"
    reader.watches[name] = Watch(
        {"operand": place}, invalid, sample=functools.partial(invalid_parts, node.name)
    )
    yield Risk(
        node.name,
        node.name == "log" and high <= 0,
        frozenset(_layers_before(operand, reader)),
        name,
    )


_LEAST = {"log": 0.0, "log1p": -1.0, "sqrt": 0.0, "rsqrt": 0.0}
