"""Finds softmax attention: values averaged with weights that a softmax over positions gives.

It is recognized by what is computed, from value to value: a sum of exponentials over an axis; the
weights that go on from there to a product that sums over the same axis; and the scores below the
exponentials, where masks and position biases are told apart from what depends on the tokens. A
softmax over the units of a layer, as in a router, is no attention, nor is one that averages no
values, as in a loss.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.inlined import Graph, Node, Value, body
from initjax.auditing._reading.layout import Axes, axes_before, product_axes_before
from initjax.auditing._reading.primitives import inner_programs, primitive_of
from initjax.auditing._reading.sites import AttentionSite, Loops, Site

_EXPONENTIALS = ("exp", "exp2")


class Tokens(NamedTuple):
    """An array of tokens. Axes that are neither number sequences, heads or groups."""

    value: Value
    positions: Axes
    """The axes that number the tokens of a sequence."""
    features: Axes
    """The axes of the numbers of one token."""


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
    summed: Value | None
    """The exponentials as the softmax sums them, if they are masked only then."""
    tokens: Tokens | None
    """What the layer of the keys reads; the keys themselves if there is no such layer."""
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
        kind = primitive_of(node.eqn).kind
        if kind in ("scan", "while", "cond"):
            around = loops if kind == "cond" else (*loops, (node.path, node.eqn.params.get("length")))
            for which, _ in enumerate(inner_programs(node.eqn)):
                yield from _within(body(node, which), sites, around)


def _attention(total: Node, sites: Mapping[Path, Site], loops: Loops) -> Found | None:
    """The attention whose exponentials an equation sums; None if there is none."""
    summed = total.operands[0]
    keys = tuple(int(axis) for axis in total.eqn.params["axes"] if summed.shape[axis] > 1)
    exponential = _exponential_below(summed)
    if exponential is None or not keys:
        return None
    scores = _unshifted(exponential.operands[0], keys)
    use = _use([summed, *_powers_of(scores, keys)], keys)
    content = _content(scores, keys, {})
    if use is None or content is None or _by_units(content, sites):
        return None
    values, result = use
    (query, key), tokens = _sides(content, sites)
    where = AttentionSite(
        path=exponential.path,
        loops=loops,
        query_sites=_sites_above(query, sites),
        key_sites=_sites_above(key, sites),
        value_sites=_sites_above([values], sites),
    )
    return Found(
        site=where,
        keys=keys,
        scores=scores,
        content=content.value,
        factor=content.factor,
        summed=None if summed.node is exponential else summed,
        tokens=tokens,
        result=result,
    )


# From the sum of exponentials down to the scores


def _exponential_below(value: Value) -> Node | None:
    """The exponential that a value is, except for a mask and its precision."""
    for _ in range(4):
        node = value.node
        if node is None or node.name in _EXPONENTIALS:
            return node
        if node.name in ("select_n", "mul"):
            cases = node.operands[1:] if node.name == "select_n" else node.operands
            varying = [case for case in cases if not _even(case, _all_axes(case))]
            made = [case for case in varying if _exponential_below(case)]
            if len(made) != 1:
                return None
            value = made[0]
        elif primitive_of(node.eqn).linear:
            value = node.operands[0]
        else:
            return None
    return None


def _unshifted(value: Value, keys: Axes) -> Value:
    """The scores without what is subtracted from a whole row, as its largest score."""
    while value.node is not None:
        node = value.node
        if node.name in ("sub", "add") and _even(node.operands[1], keys):
            value = node.operands[0]
        elif node.name == "convert_element_type":
            value = node.operands[0]
        else:
            break
    return value


def _powers_of(scores: Value, keys: Axes) -> Iterator[Value]:
    """The exponentials of scores, shifted by any number for each row."""
    found = [scores]
    while found:
        for node, operand in found.pop().users:
            if node.name in _EXPONENTIALS:
                yield node.results[0]
            elif node.name in ("sub", "add") and not operand and _even(node.operands[1], keys):
                found.append(node.results[0])
            elif node.name == "convert_element_type":
                found.append(node.results[0])


def _even(value: Value, axes: Axes | None, depth: int = 8) -> bool:
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
        _even(operand, axes_before(node.eqn, axes, number), depth - 1)
        for number, operand in enumerate(operands)
    )


def _all_axes(value: Value) -> Axes:
    return tuple(range(len(value.shape)))


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
    axes = _all_axes(result)
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
    features = [
        axis
        for axis in _all_axes(weighted)
        if axis not in keys and weighted.shape[axis] > 1 and _even(_other(node, values), (axis,))
    ]
    for user, _ in weighted.users:
        if features and user.name == "reduce_sum" and set(keys) <= set(user.eqn.params["axes"]):
            return values, Tokens(user.results[0], (), ())
    return None


def _other(node: Node, value: Value) -> Value:
    return node.operands[1] if node.operands[0] is value else node.operands[0]


# From the scores down to the products of queries and keys


class _Content(NamedTuple):
    """The part of scores that depends on the tokens."""

    value: Value
    factor: float
    """What multiplies it in the scores."""
    products: tuple[tuple[Node, Axes | None], ...]
    """The products that it is made of, and the axes of their results that number the keys."""


def _content(
    value: Value, keys: Axes | None, known: dict[Value, _Content | None]
) -> _Content | None:
    """The part of scores that depends on the tokens; None for masks, biases and constants."""
    if value not in known:
        known[value] = None  # while it is looked for
        known[value] = _content_of(value, keys, known)
    return known[value]


def _content_of(
    value: Value, keys: Axes | None, known: dict[Value, _Content | None]
) -> _Content | None:
    node = value.node
    if node is None or not value.data:
        return None
    row = primitive_of(node.eqn)
    if row.kind == "product" or (node.name == "reduce_sum" and _multiplied(node) is not None):
        return _Content(value, 1.0, ((node, keys),))
    if row.kind not in ("elementwise", "layout") and node.name not in ("concatenate", "pad"):
        return None
    operands = node.operands[:1] if row.kind == "layout" else node.operands
    if node.name == "select_n":
        operands = node.operands[1:]
    parts = []
    for operand in operands:
        before = None if keys is None else axes_before(node.eqn, keys, node.operands.index(operand))
        part = _content(operand, before, known)
        if part is not None:
            parts.append((operand, part))
    if not parts:
        return None
    operand, part = parts[0]
    if len(parts) == 1 and (row.arithmetic in ("sum", "difference", "choice")):
        if value.shape == part.value.shape:
            return part
    if len(parts) == 1 and part.value is not operand:  # a bias was added already
        scaled = _scaled(node, operand)
        if scaled is not None:
            return part._replace(factor=part.factor * scaled)
    products = tuple(product for _, each in parts for product in each.products)
    return _Content(value, 1.0, products)


def _scaled(node: Node, operand: Value) -> float | None:
    """The number by which an equation multiplies an operand; None if that is not all it does."""
    if node.name == "convert_element_type":
        return 1.0
    number = _other(node, operand).number if len(node.operands) == 2 else None
    if number is None or node.name not in ("mul", "div"):
        return None
    if node.name == "div":
        return 1 / float(number) if node.operands[0] is operand and number else None
    return float(number)


def _multiplied(total: Node) -> Node | None:
    """The product that is summed, if two arrays that vary are multiplied."""
    node = total.operands[0].node
    if node is None or node.name != "mul":
        return None
    one, other = node.operands
    axes = tuple(total.eqn.params["axes"])
    return None if one is other or _even(one, axes) or _even(other, axes) else node


def _by_units(content: _Content, sites: Mapping[Path, Site]) -> bool:
    """Whether the softmax is over units of a layer, as in a router."""

    def by_units(node: Node, keys: Axes | None) -> bool:
        site = sites.get(node.path)
        return site is not None and (keys is None or bool(set(keys) & set(site.unit_axes)))

    return all(by_units(node, keys) for node, keys in content.products)


# Queries and keys


def _sides(
    content: _Content, sites: Mapping[Path, Site]
) -> tuple[tuple[list[Value], list[Value]], Tokens | None]:
    """The operands that give queries and keys, and the tokens that keys come from."""
    queries, keys = [], []
    tokens: Tokens | None = None
    for node, axes in content.products:
        multiplied = node if node.name == "dot_general" else _multiplied(node)
        if axes is None or multiplied is None:
            continue
        for number, operand in enumerate(multiplied.operands):
            if node.name == "dot_general":
                where = product_axes_before(node.eqn, axes, number)
                features = tuple(node.eqn.params["dimension_numbers"][0][number])
            else:
                inner = _axes_before_sum(node, axes)
                where = axes_before(multiplied.eqn, inner, number) or ()
                features = tuple(node.eqn.params["axes"])
            (keys if where else queries).append(operand)
            if where and tokens is None and multiplied is node:
                tokens = _read_by_layer(operand, where, sites) or Tokens(operand, where, features)
    return (queries, keys), tokens


def _axes_before_sum(total: Node, axes: Axes) -> Axes:
    summed = set(total.eqn.params["axes"])
    kept = [axis for axis in _all_axes(total.operands[0]) if axis not in summed]
    return tuple(kept[axis] for axis in axes)


def _sites_above(values: Iterable[Value], sites: Mapping[Path, Site]) -> frozenset[Path]:
    """The layers directly upstream."""
    return frozenset(node.path for node, _ in _above([(v, ()) for v in values], sites))


def _read_by_layer(value: Value, positions: Axes, sites: Mapping[Path, Site]) -> Tokens | None:
    """What the layer upstream reads, with the axes of its input that some axes come from."""
    for node, axes in _above([(value, positions)], sites):
        site = sites[node.path]
        if site.kind == "dense" and axes:
            data = 1 - site.weight
            before = product_axes_before(node.eqn, axes, data)
            if len(before) == len(positions):
                features = tuple(node.eqn.params["dimension_numbers"][0][data])
                return Tokens(node.operands[data], before, features)
    return None


def _above(
    start: list[tuple[Value, Axes | None]], sites: Mapping[Path, Site]
) -> Iterator[tuple[Node, Axes | None]]:
    """The equations of the layers directly upstream, and axes of their results."""
    found, seen = collections.deque(start), set[Value]()
    while found:  # nearest first: a norm is a detour
        value, axes = found.popleft()
        node = value.node
        if node is None or value in seen:
            continue
        seen.add(value)
        if node.path in sites:
            yield node, axes
            continue
        for number, operand in enumerate(node.operands):
            if operand.parametric or operand.data:
                found.append((operand, _before(node, axes, number)))


def _before(node: Node, axes: Axes | None, operand: int) -> Axes | None:
    row: Any = primitive_of(node.eqn)
    if axes is None:
        return None
    if node.name == "dot_general":
        return product_axes_before(node.eqn, axes, operand)
    if row.kind in ("elementwise", "layout") or node.name in ("concatenate", "pad"):
        return axes_before(node.eqn, axes, operand)
    return None
