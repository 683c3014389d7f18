"""Losses that are sums over the examples of a batch, where a mean is usual.

From the loss back, through sums, numbers that multiply it and loops over micro-batches, to the
terms of single examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from initjax.auditing._reading.example_axes import Examples, after_turn, is_pair
from initjax.auditing._reading.expressions import floating
from initjax.auditing._reading.inlined import Graph, Node, Value, body
from initjax.auditing._reading.primitives import primitive_of, scan_counts
from initjax.auditing._reading.values import factor_of, through_layout

_MANY = 1000  # terms of a loss; more come from sums of sums, which double at every step
_MOVES = frozenset("reshape squeeze broadcast_in_dim".split())


class _Term(NamedTuple):
    """A part of the loss."""

    value: Value
    found: Examples
    """What is known in the program that the value belongs to."""
    factor: float = 1.0
    """That multiplies it."""
    examples: int = 1
    """Over how many it has been summed."""
    one: bool = False
    """Whether it is in a loop that takes one example a turn."""
    handed: frozenset[Value] = frozenset()
    """What depends on what the turns of a loop hand on."""


def summed_over_examples(graph: Graph, found: Examples) -> int:
    """How many times the mean over the examples a loss is, or else 0.

    It is 0 if the loss is averaged, or that isn't known. A term of parameters alone, as a prior
    has, says that the sum is meant; so do terms of different sizes, such as reconstruction and
    divergence of a bound.

    Args:
      graph: the program.
      found: the examples of the batch.
    """
    if any(is_pair(value, axes or (), found) for value, axes in found.axes.items()):
        return 0
    terms, leaves = [_Term(graph.results[0], found)], []
    while terms:
        term = terms.pop()
        if len(leaves) > _MANY:
            return 0
        if not term.value.data and term.value.parametric:
            return 0
        if not term.value.data:
            continue
        inner = _inside(term)
        if inner is None:
            term = _bare(term)
            if term.examples == 1 or term.value in term.handed:
                return 0
            leaves.append(term)
        else:
            terms += inner
    return _times_the_mean([term for term in leaves if term.value.parametric], leaves)


def _times_the_mean(of_layers: Sequence[_Term], leaves: Sequence[_Term]) -> int:
    counts = [abs(term.factor) * term.examples for term in leaves]
    if not of_layers or min(counts) < 2 or len({term.value.aval.size for term in of_layers}) > 1:
        return 0
    if not all(_of_single_examples(term) for term in of_layers):
        return 0
    # A half before the sum is part of the term, and not of a mean.
    return min(
        term.examples if 4 * count >= term.examples else round(count)
        for term, count in zip(leaves, counts, strict=True)
    )


def _inside(term: _Term) -> list[_Term] | None:
    """What a term is a sum of; None if it is a term of single examples."""
    node, complete = term.value.node, term.examples >= term.found.examples
    if node is None:
        return None
    if node.name == "scan":
        return _of_turns(node, term)
    if node.name == "reduce_sum":
        inner = node.operands[0]
        axes, over = term.found.axes.get(inner, frozenset()), set(node.eqn.params["axes"])
        if axes is None:
            return None
        count = math.prod(inner.shape[axis] for axis in axes & over)
        if count > 1 or not complete:
            size = math.prod(inner.shape[axis] for axis in over - axes)
            return [_sum(term, inner, size)._replace(examples=term.examples * count)]
        return None
    if complete:
        return None
    if node.name in ("add", "add_any", "sub"):
        return [term._replace(value=operand) for operand in node.operands]
    if (scaled := _scaled(node, term)) is not None:
        return [term._replace(value=scaled[0], factor=term.factor * scaled[1])]
    return None


def _sum(term: _Term, inner: Value, size: int) -> _Term:
    """What a term sums up over so many numbers. A mean over other axes changes nothing."""
    mean = size > 1 and abs(abs(term.factor) * size - 1) < 1e-4
    return term._replace(value=inner, factor=1.0 if mean else term.factor)


def _bare(term: _Term) -> _Term:
    """A term without numbers that multiply it, and without sums over other axes."""
    inside = term._replace(factor=1.0)
    while (node := inside.value.node) is not None:
        if node.name == "reduce_sum":
            size = math.prod(node.operands[0].shape[axis] for axis in node.eqn.params["axes"])
            inside = _sum(inside, node.operands[0], size)
        elif (scaled := _scaled(node, inside)) is not None:
            inside = inside._replace(value=scaled[0], factor=inside.factor * scaled[1])
        else:
            break
    return inside._replace(factor=inside.factor * term.factor)


def _scaled(node: Node, term: _Term) -> tuple[Value, float] | None:
    """What a node multiplies by a number, and the number."""
    if node.name in _MOVES:
        return node.operands[0], 1.0
    if node.name == "slice" and not term.found.axes.get(node.operands[0]):
        return node.operands[0], 1.0  # of the copies that devices have
    for operand in node.operands:
        if factor := factor_of(node, operand):
            return operand, factor
    return None


def _of_turns(node: Node, term: _Term) -> list[_Term] | None:
    """What the turns of a loop sum up, or what each of them gives."""
    constants, carried = scan_counts(node.eqn.params)
    inner, place = body(node), term.value.position
    turn = after_turn(node, term.found)
    states = inner.arguments[constants : constants + carried]
    handed = {value for value in states if floating(value.aval.dtype)}
    for each in inner.nodes:
        if any(operand in handed for operand in each.operands):
            handed.update(each.results)
    last = inner.results[place]
    one = turn.of_examples and not any(turn.found.axes.values())
    inside = term._replace(
        value=last, found=turn.found, one=term.one or one, handed=frozenset(handed)
    )
    if place >= carried:
        return [inside]
    made, state = last.node, states[place]
    if made is None or made.name not in ("add", "add_any"):
        return None
    new = [operand for operand in made.operands if through_layout(operand) is not state]
    if len(new) != 1 or node.operands[constants + place].data:
        return None
    turns = node.eqn.params["length"] if turn.of_examples else 1
    return [inside._replace(value=new[0], examples=term.examples * turns)]


def _of_single_examples(term: _Term) -> bool:
    """Whether no statistic of the batch enters a term behind its last products."""
    if term.one:
        return True
    seen, waiting = {term.value}, [term.value]
    while waiting:
        value = waiting.pop()
        if value.data and not term.found.axes.get(value):
            return False
        node = value.node
        if node is None or primitive_of(node.eqn).kind in ("product", "scan"):
            continue
        operands = node.operands[:1] if node.name == "dynamic_slice" else node.operands
        fresh = [operand for operand in operands if operand not in seen]
        seen.update(fresh)
        waiting += fresh
    return True
