"""Finds softmax attention: values averaged with weights that a softmax over positions gives.

It is recognized by what is computed, from value to value: a sum of exponentials over an axis; the
weights that go on from there to a product that sums over the same axis; and the scores below the
exponentials, where masks and position biases are told apart from what depends on the tokens. A
softmax over the units of a layer, as in a router, is no attention, nor is one that averages no
values, as in a loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.inlined import Graph, Node, Value, body
from initjax.auditing._reading.layout import Axes, axes_before, product_axes_before
from initjax.auditing._reading.primitives import inner_programs, primitive_of
from initjax.auditing._reading.scores import (
    Tokens,
    content_of,
    head_size,
    is_by_units,
    sides_of,
    sites_above,
)
from initjax.auditing._reading.sites import AttentionSite, Loops, Site
from initjax.auditing._reading.softmaxes import EXPONENTIALS, exponential_in, unshifted
from initjax.auditing._reading.values import all_axes, even, other_operand


class Found(NamedTuple):
    """An attention, with the values of the program that matter."""

    site: AttentionSite
    keys: Axes
    """The axes of the scores that number what is attended to."""
    scores: Value
    """What enters the softmax, masks and biases included."""
    content: Value
    """The scores without masks and biases, before they are multiplied by `factor`."""
    factor: float
    mixed: bool
    """Whether the content holds a mask or a bias after all."""
    summed: Value | None
    """The exponentials as the softmax sums them, if they are masked only then."""
    tokens: Tokens | None
    """What the layer of the keys reads; the keys themselves if there is no such layer."""
    values: Value
    result: Tokens
    """The averaged values."""


def attentions(graph: Graph, sites: Mapping[Path, Site]) -> list[Found]:
    """Finds all attentions of a program.

    Args:
      graph: the program.
      sites: its layers.

    Returns:
      The attentions in the order of execution.
    """
    return list(_within(graph, sites, ()))


def _within(graph: Graph, sites: Mapping[Path, Site], loops: Loops) -> Iterator[Found]:
    seen: set[Value] = set()
    for node in graph.nodes:
        if node.name == "reduce_sum":
            found = _attention(node, sites, loops)
            if found is not None and found.scores not in seen:
                seen.add(found.scores)
                yield found
        kind, length = primitive_of(node.eqn).kind, node.eqn.params.get("length")
        if kind in ("scan", "while", "cond") and length != 0:
            around = loops if kind == "cond" else (*loops, (node.path, length))
            for which, _ in enumerate(inner_programs(node.eqn)):
                yield from _within(body(node, which), sites, around)


def _attention(total: Node, sites: Mapping[Path, Site], loops: Loops) -> Found | None:
    """The attention whose exponentials an equation sums; None if there is none."""
    summed = total.operands[0]
    keys = tuple(int(axis) for axis in total.eqn.params["axes"] if summed.shape[axis] > 1)
    exponential = exponential_in(summed)
    if exponential is None or exponential.results[0].shape != summed.shape or not keys:
        return None
    scores = _unshifted(exponential.operands[0], keys)
    use = _use([summed, *_powers_of(scores, keys)], keys)
    if use is None:
        return None
    if summed.node is exponential:
        scores, keys = _before_layouts(scores, keys)
    content = content_of(scores, keys, {})
    if content is None or is_by_units(content, sites):
        return None
    values, result = use
    (query, key), tokens = sides_of(content, sites)
    where = AttentionSite(
        path=exponential.path,
        loops=loops,
        query_sites=sites_above(query, sites),
        key_sites=sites_above(key, sites),
        value_sites=sites_above([values], sites),
        head_size=head_size(content) if query else 0,
    )
    return Found(
        site=where,
        keys=keys,
        scores=scores,
        content=content.value,
        factor=content.factor,
        mixed=content.mixed,
        summed=None if summed.node is exponential else summed,
        tokens=tokens,
        values=values,
        result=result,
    )


# From the sum of exponentials down to the scores


def _unshifted(value: Value, keys: Axes) -> Value:
    """The scores without what is subtracted from a whole row, as its largest score."""
    while value.node is not None:
        converted = value.node.name == "convert_element_type"
        before = value.node.operands[0] if converted else unshifted(value, keys)
        if before is value:
            break
        value = before
    return value


def _before_layouts(scores: Value, keys: Axes) -> tuple[Value, Axes]:
    """The scores where the last mask or bias is added, before axes other than keys are moved."""
    node = scores.node
    while node is not None and primitive_of(node.eqn).kind == "layout":
        before = axes_before(node.eqn, keys)
        operand, size = node.operands[0], node.results[0].aval.size
        if before is None or len(before) != len(keys) or operand.aval.size != size:
            break
        scores, keys, node = operand, before, operand.node
    return scores, keys


def _powers_of(scores: Value, keys: Axes) -> Iterator[Value]:
    """The exponentials of scores, shifted by any number for each row."""
    found = [scores]
    while found:
        for node, operand in found.pop().users:
            if node.name in EXPONENTIALS:
                yield node.results[0]
            elif node.name in ("sub", "add") and not operand and even(node.operands[1], keys):
                found.append(node.results[0])
            elif node.name == "convert_element_type":
                found.append(node.results[0])


# From the exponentials on to the averaged values


def _use(weights: Iterable[Value], keys: Axes) -> tuple[Value, Tokens] | None:
    """The values that weights average, and the average; None if they average nothing."""
    found = [(value, keys) for value in weights]
    seen = {value for value, _ in found}
    while found:
        value, axes = found.pop()
        for node, operand in value.users:
            row = primitive_of(node.eqn)
            moved: Axes | None = None
            if node.name == "dot_general":
                used = _product(node, operand, axes)
                if used is not None:
                    return used
                moved = tuple(  # heads are mixed
                    axis
                    for axis in all_axes(node.results[0])
                    if set(product_axes_before(node.eqn, (axis,), operand)) & set(axes)
                )
            elif node.name == "mul":
                other = node.operands[1 - operand]
                used = _pooled(node, other, axes) if other not in seen else None
                if used is not None:
                    return used
                moved = axes if node.results[0].shape == value.shape else None
            elif row.linear or node.name == "select_n" or (node.name == "div" and not operand):
                moved = axes
            elif row.kind == "layout" and not operand:
                moved = row.move_axes(node.eqn, axes)
            if moved and node.results[0] not in seen:
                seen.add(node.results[0])
                found.append((node.results[0], moved))
    return None


def _product(node: Node, weights: int, keys: Axes) -> tuple[Value, Tokens] | None:
    contracting, _ = node.eqn.params["dimension_numbers"]
    values = node.operands[1 - weights]
    if not set(keys) <= set(contracting[weights]) or not values.data:
        return None
    result = node.results[0]
    axes = all_axes(result)
    queries = [axis for axis in axes if product_axes_before(node.eqn, (axis,), weights)]
    features = [axis for axis in axes if product_axes_before(node.eqn, (axis,), 1 - weights)]
    shared = set(queries) & set(features)
    own = [axis for axis in queries if axis not in shared]
    longest = max(own, key=lambda axis: result.shape[axis], default=None)
    positions = () if longest is None else (longest,)
    return values, Tokens(result, positions, tuple(axis for axis in features if axis not in shared))


def _pooled(node: Node, values: Value, keys: Axes) -> tuple[Value, Tokens] | None:
    """The same for a product that is summed later, as in pooling by attention."""
    weighted = node.results[0]
    if not values.data or len(weighted.shape) != len(values.shape):
        return None
    weights = other_operand(node, values)
    features = [
        axis
        for axis in all_axes(weighted)
        if axis not in keys and weighted.shape[axis] > 1 and even(weights, (axis,))
    ]
    for user, _ in weighted.users:
        if features and user.name == "reduce_sum" and set(keys) <= set(user.eqn.params["axes"]):
            return values, Tokens(user.results[0], (), ())
    return None
