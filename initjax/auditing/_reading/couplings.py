"""Examples that enter each other's loss, matched against patterns of faults.

Each pattern asks for more than would come about by chance or on purpose.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from initjax.auditing._reading.example_axes import Examples
from initjax.auditing._reading.inlined import Graph, Node, Value, reaching
from initjax.auditing._reading.layout import regrouped
from initjax.auditing._reading.pairs import compared_by_mistake, goes_elementwise_to
from initjax.auditing._reading.primitives import primitive_of
from initjax.auditing._reading.sequences import along_examples, weighs_within_examples
from initjax.auditing._reading.softmaxes import exponential_in, normalized_by


class Coupling(NamedTuple):
    """Examples that enter each other's loss."""

    kind: Literal[
        "softmax", "broadcast", "picked", "weights", "scan", "attention", "reshape", "cumulative"
    ]
    """'softmax' over the examples, 'broadcast' of predictions against all targets, predictions
    'picked' by the labels of all examples, 'weights' that a softmax over the examples makes, a
    'scan' or 'attention' along the examples, a 'reshape' that makes rows of parts of several
    examples, or a 'cumulative' sum over them."""
    examples: int
    prediction: tuple[int, ...]
    """The shape of the prediction, of the softmax, of the sequences, or before the reshape."""
    target: tuple[int, ...]
    """The shape of the target, or after the reshape; empty for others."""


def coupling_of(graph: Graph, found: Examples, num_parameters: int) -> Coupling | None:
    """Finds the first pattern that a program has.

    Args:
      graph: the program.
      found: the examples of the batch.
      num_parameters: how many of its first arguments are parameters.
    """
    return (
        _softmax_over_examples(graph, found)
        or _broadcast(graph, found)
        or _sequence_over_examples(graph, found, num_parameters)
        or _reshaped_across_examples(graph, found)
        or _accumulated_over_examples(graph, found)
    )


def _softmax_over_examples(graph: Graph, found: Examples) -> Coupling | None:
    """The outputs of a layer, normalized over the examples for each class, as the loss reads them.

    Other softmaxes over examples are meant: of a product of embeddings (contrastive losses), of one
    score for each example (ranking, weighting, pooling), or what is averaged by it afterwards.
    """
    for node in graph.nodes:
        if node.name != "reduce_sum":
            continue
        value = node.operands[0]
        axes = found.axes.get(value)
        if axes is None or len(axes) != 1:
            continue
        (axis,), reduced = axes, set(node.eqn.params["axes"])
        classes = math.prod(value.shape) // value.shape[axis]
        if axis not in reduced or value.shape[axis] != found.examples or classes < 2:
            continue
        if any(value.shape[other] > 1 for other in reduced - {axis}) or not value.parametric:
            continue
        power = exponential_in(value)
        if power is None or not _of_a_layer(power.operands[0], found):
            continue
        normalized = normalized_by(node, power.operands[0])
        if normalized is None:
            continue
        if goes_elementwise_to(normalized, graph.results[0]):
            return Coupling("softmax", found.examples, value.shape, ())
        if weighs_within_examples(normalized, axis):
            return Coupling("weights", found.examples, value.shape, ())
    return None


def _broadcast(graph: Graph, found: Examples) -> Coupling | None:
    met = compared_by_mistake(graph, found)
    return met and Coupling(met.kind, found.examples, met.prediction, met.target)


def _sequence_over_examples(graph: Graph, found: Examples, num_parameters: int) -> Coupling | None:
    batch = graph.arguments[num_parameters:]
    along = along_examples(graph, batch, found.axes, found.examples)
    return None if along is None else Coupling(along[0], found.examples, along[1], ())


def _reshaped_across_examples(graph: Graph, found: Examples) -> Coupling | None:
    """A reshape of what has the examples along a later axis, to as many rows as there are examples:
    where a transposition was meant."""
    used = reaching(graph)
    for node in graph.nodes:
        if node.name != "reshape" or node.results[0] not in used:
            continue
        axes, before, after = found.axes.get(node.operands[0]), *_shapes(node)
        if axes is None or len(axes) != 1 or not node.operands[0].data:
            continue
        for olds, news in regrouped(before, after) or [([*range(len(before))], [])]:
            olds, news = ([o for o in olds if before[o] != 1], [n for n in news if after[n] != 1])
            mine = [axis for axis in olds if axis in axes]
            rows = bool(news) and news[0] == 0 and after[0] == found.examples
            if mine and mine != olds[:1] and rows and before[olds[0]] != found.examples:
                return Coupling("reshape", found.examples, before, after)
    return None


def _shapes(node: Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return node.operands[0].shape, node.results[0].shape


def _accumulated_over_examples(graph: Graph, found: Examples) -> Coupling | None:
    """Outputs for several classes that are summed up from example to example.

    A sum of one number for each example may be meant, as in the likelihood of a survival time.
    """
    for node in graph.nodes:
        if node.name not in ("cumsum", "cumlogsumexp", "cumprod", "cummax"):
            continue
        value = node.operands[0]
        along = {node.eqn.params["axis"]} == found.axes.get(value)
        several = value.aval.size > 2 * found.examples and len(value.shape) == 2
        if not (along and several and value.parametric and _of_a_layer(value, found)):
            continue
        if _goes_to_a_cross_entropy(node.results[0], graph.results[0]):
            return Coupling("cumulative", found.examples, value.shape, ())
    return None


def _goes_to_a_cross_entropy(value: Value, loss: Value) -> bool:
    """Whether a value enters the loss without another layer, and a softmax over its columns."""
    reached, seen, waiting, softmax = False, {value}, [value], False
    while waiting:
        value = waiting.pop()
        reached |= value is loss
        for node, _ in value.users:
            softmax |= node.name == "exp" and len(node.results[0].shape) == 2
            if primitive_of(node.eqn).kind not in ("elementwise", "layout", "reduction", "other"):
                return False
            fresh = [result for result in node.results if result not in seen]
            seen.update(fresh)
            waiting += fresh
    return reached and softmax


def _of_a_layer(value: Value, found: Examples) -> bool:
    """Whether a value is an elementwise function of a product of parameters with data."""
    while value.node is not None:
        node = value.node
        if primitive_of(node.eqn).kind == "product":
            return sum(operand.data for operand in node.operands) == 1
        if primitive_of(node.eqn).kind not in ("elementwise", "layout"):
            return False
        inner = [o for o in node.operands if found.axes.get(o) and o.parametric]
        if len(inner) != 1:
            return False
        value = inner[0]
    return False
