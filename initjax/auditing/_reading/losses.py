"""What a loss is made of, read from its end: cross entropies, distances to targets, and dead ends.

On the way back from the loss, a logarithm of a softmax is a cross entropy, and the square or the
size of a difference from something without parameters is a distance. What the model gives there,
its outputs, and the targets are watched.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from initjax.auditing._reading.bounds import bound_of, is_clipped
from initjax.auditing._reading.choices import choices_at
from initjax.auditing._reading.exponents import exponentials_at
from initjax.auditing._reading.expressions import Path, floating
from initjax.auditing._reading.formulas import (
    difference_in,
    factors_before,
    is_square,
    logistic_in,
)
from initjax.auditing._reading.inlined import Graph, Node, Value, place_of
from initjax.auditing._reading.labels import chances_in, class_numbers, factors_of
from initjax.auditing._reading.primitives import primitive_of
from initjax.auditing._reading.ranges import ANY, range_of
from initjax.auditing._reading.softmaxes import softmax_in
from initjax.auditing._reading.terms import (
    Choice,
    Exponential,
    Kind,
    Losses,
    OutputShape,
    Risk,
    Term,
)
from initjax.auditing._reading.values import through_layout
from initjax.auditing._reading.visits import Reader, Visit, cut_at, layers_before, visits_of
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
    reader = Reader(set(sites), inside, {}, {}, set())
    terms: list[Term] = []
    cuts: list[str] = []
    risks: list[tuple[Path, Risk]] = []
    exponentials: list[Exponential] = []
    choices: list[Choice] = []
    visits = list(visits_of(graph.results[0], reader))
    around = _Around(
        divisors=[through_layout(value) for visit in visits for value in visit.divisors],
        factors=[value for visit in visits for value in visit.factors],
        weighted=[pair for visit in visits if visit.linear for pair in factors_of(visit.node)],
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
        cut = cut_at(node)
        if cut and cut not in cuts:
            cuts.append(cut)
        term = _term(visit, reader, around) if len(terms) < _MOST else None
        terms += [term] if term is not None else []
        if len(exponentials) < _MOST:
            exponentials += exponentials_at(node, reader)
        if len(choices) < _MOST:
            choices += choices_at(node, reader)
        if len(risks) < _MOST:
            risks += [(node.path, risk) for risk in _risks(node, reader)]
    ordered = tuple(risk for _, risk in sorted(risks, key=lambda pair: pair[0]))
    whole = not any(
        visit.linear and primitive_of(visit.node.eqn).kind in ("while", "cond", "unknown")
        for visit in visits
    )
    losses = Losses(tuple(terms), tuple(cuts), ordered, tuple(exponentials), tuple(choices), whole)
    return losses, reader.watches


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


def _term(visit: Visit, reader: Reader, around: _Around) -> Term | None:
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
            chances = chances_in(logit, visit.factors, around.factors, around.weighted)
            more = {"chances": chances} if chances is not None else {}
            return _watched("binary cross entropy", logit, more, reader)
        if range_of(node.operands[0], reader.ranges)[0] > 0 and is_clipped(
            node.operands[0], reader.ranges
        ):
            return _watched("logarithm", node.operands[0], {}, reader)
    if node.name in ("abs", "square") or is_square(node):
        pair = difference_in(node.operands[0])
        if pair is not None and place_of(pair[1]) is not None and layers_before(pair[0], reader):
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


def _is_signed(factor: Value, reader: Reader) -> bool:
    """Whether a factor differs between examples and may be negative, as an advantage is: then
    outputs are not drawn to what they are compared with."""
    if factor.parametric or factor.aval.size <= 1:
        return False
    if factor.constant is not None:
        return bool(np.min(factor.constant) < 0)
    return range_of(factor, reader.ranges)[0] < 0


def _watched(
    kind: Kind,
    output: Value,
    others: dict[str, Value],
    reader: Reader,
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
    reader.watches[name] = Watch(places, "outputs", OutputShape(limits, output.shape))
    return Term(
        kind=kind,
        layers=frozenset(layers_before(output, reader)),
        range=limits,
        bound=bound_of(output, reader.ranges) if limits != ANY else "",
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


def _mean(visit: Visit, instances: int, denominators: list[Value]) -> bool:
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


# What may not be defined


def _risks(node: Node, reader: Reader) -> Iterator[Risk]:
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
    reader.watches[name] = Watch({"operand": place}, "operand", node.name)
    yield Risk(
        node.name,
        node.name == "log" and high <= 0,
        frozenset(layers_before(operand, reader)),
        name,
    )


_LEAST = {"log": 0.0, "log1p": -1.0, "sqrt": 0.0, "rsqrt": 0.0}
