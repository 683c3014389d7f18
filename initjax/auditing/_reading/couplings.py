"""Examples that enter each other's loss, matched against patterns of faults.

Each pattern asks for more than would come about by chance or on purpose.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from initjax.auditing._reading.example_axes import Examples
from initjax.auditing._reading.inlined import Graph, Node, Value
from initjax.auditing._reading.layout import regrouped
from initjax.auditing._reading.primitives import primitive_of
from initjax.auditing._reading.sequences import along_examples, weighs_within_examples
from initjax.auditing._reading.softmaxes import exponential_in, normalized_by


class Coupling(NamedTuple):
    """Examples that enter each other's loss."""

    kind: Literal["softmax", "broadcast", "weights", "scan", "attention", "reshape", "cumulative"]
    """'softmax' over the examples, 'broadcast' of predictions against all targets, 'weights' that a
    softmax over the examples makes, a 'scan' or 'attention' along the examples, a 'reshape' that
    makes rows of parts of several examples, or a 'cumulative' sum over them."""
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
        or _broadcast_in_the_loss(graph, found)
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
        if _goes_elementwise_to(normalized, graph.results[0]):
            return Coupling("softmax", found.examples, value.shape, ())
        if weighs_within_examples(normalized, axis):
            return Coupling("weights", found.examples, value.shape, ())
    return None


def _sequence_over_examples(graph: Graph, found: Examples, num_parameters: int) -> Coupling | None:
    batch = graph.arguments[num_parameters:]
    along = along_examples(graph, batch, found.axes, found.examples)
    return None if along is None else Coupling(along[0], found.examples, along[1], ())


def _reshaped_across_examples(graph: Graph, found: Examples) -> Coupling | None:
    """A reshape of what has the examples along a later axis, to as many rows as there are examples:
    where a transposition was meant."""
    reaching = _reaching(graph)
    for node in graph.nodes:
        if node.name != "reshape" or node.results[0] not in reaching:
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


def _reaching(graph: Graph) -> set[Value]:
    """The values that the result depends on."""
    seen, waiting = set(graph.results), list(graph.results)
    while waiting:
        node = waiting.pop().node
        fresh = [operand for operand in node.operands if operand not in seen] if node else []
        seen.update(fresh)
        waiting += fresh
    return seen


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


def _goes_elementwise_to(value: Value, loss: Value) -> bool:
    """Whether all that becomes of a value are elementwise steps, picks and sums, up to the loss."""
    reached, seen, waiting = False, {value}, [value]
    while waiting:
        value = waiting.pop()
        reached |= value is loss
        for node, _ in value.users:
            kind = primitive_of(node.eqn).kind
            passes = kind in ("elementwise", "layout") or node.name in ("reduce_sum", "gather")
            inside = sum(operand in seen for operand in node.operands)
            if not passes or node.name == "stop_gradient" or (node.name == "div" and inside > 1):
                return False
            fresh = [result for result in node.results if result not in seen]
            seen.update(fresh)
            waiting += fresh
    return reached


def _broadcast_in_the_loss(graph: Graph, found: Examples) -> Coupling | None:
    """Predictions of shape (N, 1) that meet targets of shape (N,), or the other way round.

    Pairs are meant where both are of one kind (distances, ranks), where they are made by products,
    or where kernels or extremes of them are taken.
    """
    made = [node for node in graph.nodes if _makes_pairs(node, found)]
    if not made:
        return None
    for node in made:
        sides = [operand for operand in node.operands if found.axes.get(operand)]
        roots = [_before_broadcast(side) for side in sides]
        if len(roots) != 2:
            return None
        predictions = [root for root in roots if root.parametric]
        targets = [root for root in roots if not root.parametric and root.data]
        if len(predictions) != 1 or len(targets) != 1:
            return None
        shapes = sorted((root.shape for root in roots), key=len)
        if shapes != [(found.examples,), (found.examples, 1)]:
            return None
        if any(_axis_was_added(root) for root in roots):
            return None
    reaching = [
        node for node in made if _goes_elementwise_to(node.results[0], graph.results[0])
    ]  # others are in what gets no gradient, as advantages are
    if not reaching or any(_bends(node.results[0]) for node in made):
        return None
    roots = [_before_broadcast(side) for side in reaching[0].operands]
    prediction, target = sorted(
        (root for root in roots if root.data), key=lambda root: not root.parametric
    )
    return Coupling("broadcast", found.examples, prediction.shape, target.shape)


def _makes_pairs(node: Node, found: Examples) -> bool:
    """Whether the elements of a result number pairs of examples, and those of no operand do."""
    if not node.results or len(node.results[0].shape) != 2:
        return False
    axes = found.axes.get(node.results[0])
    pairs = axes is not None and len(axes) == 2 and node.results[0].shape == (found.examples,) * 2
    return pairs and not any(len(found.axes.get(o) or ()) == 2 for o in node.operands)


def _before_broadcast(value: Value) -> Value:
    while value.node is not None and value.node.name == "broadcast_in_dim":
        value = value.node.operands[0]
    return value


def _axis_was_added(value: Value) -> bool:
    """Whether an (N, 1) was made from an (N,), as `[:, None]` does."""
    while value.node is not None and len(value.shape) == 2:
        node = value.node
        if primitive_of(node.eqn).kind not in ("elementwise", "layout"):
            return False
        data = [operand for operand in node.operands if operand.data]
        if not data:
            return False
        if len(data[0].shape) == 1:
            return True
        value = data[0]
    return False


def _bends(value: Value) -> bool:
    """Whether an exponential of pairs is taken, as in a kernel."""
    seen, waiting = {value}, [value]
    while waiting:
        for node, _ in waiting.pop().users:
            if node.name in ("exp", "exp2") and node.results[0].shape == value.shape:
                return True
            fresh = [result for result in node.results if result not in seen]
            seen.update(fresh)
            waiting += fresh
    return False
