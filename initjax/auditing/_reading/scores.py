"""Attention scores: the products of queries and keys that they are made of.

Masks and position biases are told apart from what depends on the tokens.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.inlined import Node, Value
from initjax.auditing._reading.layout import Axes, axes_before, product_axes_before
from initjax.auditing._reading.primitives import primitive_of
from initjax.auditing._reading.sites import Site
from initjax.auditing._reading.values import DEEPEST, all_axes, even, factor_of


class Tokens(NamedTuple):
    """An array of tokens. Axes that are neither number sequences, heads or groups."""

    value: Value
    positions: Axes
    """The axes that number the tokens of a sequence."""
    features: Axes
    """The axes of the numbers of one token."""


class Content(NamedTuple):
    """The part of scores that depends on the tokens."""

    value: Value
    factor: float
    """What multiplies it in the scores."""
    products: tuple[tuple[Node, Axes | None], ...]
    """The products that it is made of, and the axes of their results that number the keys."""
    mixed: bool = False
    """Whether a mask or a bias is part of it, since something was done to both together."""


def content_of(
    value: Value, keys: Axes | None, known: dict[Value, Content | None], depth: int = 0
) -> Content | None:
    """The part of scores that depends on the tokens; None for masks, biases and constants.

    Args:
      value: the scores, or what they are made of.
      keys: the axes that number the keys; None if that is not known.
      known: what has been found already.
      depth: how many equations later the caller is.
    """
    if value not in known:
        known[value] = None  # while it is looked for
        known[value] = _made_of(value, keys, known, depth)
    return known[value]


def _made_of(
    value: Value, keys: Axes | None, known: dict[Value, Content | None], depth: int
) -> Content | None:
    node = value.node
    if node is None or not value.data or depth > DEEPEST:
        return None
    row = primitive_of(node.eqn)
    if row.kind == "product" or (node.name == "reduce_sum" and _multiplied(node) is not None):
        return Content(value, 1.0, ((node, keys),))
    if row.kind not in ("elementwise", "layout") and node.name not in ("concatenate", "pad"):
        return None
    operands = node.operands[:1] if row.kind == "layout" else node.operands
    if node.name == "select_n":
        operands = node.operands[1:]
    parts = []
    for operand in operands:
        before = None if keys is None else axes_before(node.eqn, keys, node.operands.index(operand))
        part = content_of(operand, before, known, depth + 1)
        if part is not None:
            parts.append((operand, part))
    if not parts:
        return None
    operand, part = parts[0]
    if len(parts) == 1 and (row.arithmetic in ("sum", "difference", "choice")):
        if value.shape == part.value.shape:
            return part
    if len(parts) == 1 and part.value is not operand:  # a bias was added already
        scaled = factor_of(node, operand)
        if scaled is not None:
            return part._replace(factor=part.factor * scaled)
    # Each once: values that enter twice at every step would double them.
    products = tuple(dict.fromkeys(product for _, each in parts for product in each.products))
    mixed = any(each.mixed or each.value is not operand for operand, each in parts)
    return Content(value, 1.0, products, mixed)


def _multiplied(total: Node) -> Node | None:
    """The product that is summed, if two arrays that vary are multiplied."""
    node = total.operands[0].node
    if node is None or node.name != "mul":
        return None
    one, other = node.operands
    axes = tuple(total.eqn.params["axes"])
    return None if one is other or even(one, axes) or even(other, axes) else node


def head_size(content: Content) -> int:
    """How many products one score sums."""
    node, _ = content.products[0]
    if node.name == "dot_general":
        axes = node.eqn.params["dimension_numbers"][0][0]
    else:
        axes = node.eqn.params.get("axes", ())
    return math.prod(node.operands[0].shape[axis] for axis in axes)


def is_by_units(content: Content, sites: Mapping[Path, Site]) -> bool:
    """Whether the softmax is over units of a layer, as in a router."""

    def by_units(node: Node, keys: Axes | None) -> bool:
        site = sites.get(node.path)
        return site is not None and (keys is None or bool(set(keys) & set(site.unit_axes)))

    return all(by_units(node, keys) for node, keys in content.products)


# Queries and keys


def sides_of(
    content: Content, sites: Mapping[Path, Site]
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
    kept = [axis for axis in all_axes(total.operands[0]) if axis not in summed]
    return tuple(kept[axis] for axis in axes)


def sites_above(values: Iterable[Value], sites: Mapping[Path, Site]) -> frozenset[Path]:
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
