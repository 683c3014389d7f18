"""Predictions and targets that broadcast to all pairs of examples, by mistake."""

from __future__ import annotations

from typing import Literal, NamedTuple

from initjax.auditing._reading.example_axes import Examples
from initjax.auditing._reading.inlined import Graph, Node, Value
from initjax.auditing._reading.primitives import primitive_of

Shape = tuple[int, ...]


class Met(NamedTuple):
    """Predictions that meet the targets of other examples."""

    kind: Literal["broadcast", "picked"]
    """Whether two shapes broadcast, or labels pick predictions."""
    pairs: Value
    prediction: Shape
    target: Shape


def compared_by_mistake(graph: Graph, found: Examples) -> Met | None:
    """Finds predictions of (N, 1) that meet targets of (N,), or the other way round, both perhaps
    with more axes after these, or predictions for classes of which each example's label picks one
    in all rows.

    Pairs are meant where both are of one kind (distances, ranks), where they are made by products,
    or where kernels or extremes of them are taken.

    Args:
      graph: the program.
      found: the examples of the batch.

    Returns:
      The first ones; None if there are none.
    """
    made = [node for node in graph.nodes if _makes_pairs(node, found)]
    if not made or any(_bends(node.results[0]) for node in made):
        return None
    met = [_picked(node, found) or _compared(node, found) for node in made]
    for each in met if all(met) else []:
        if each is not None and goes_elementwise_to(each.pairs, graph.results[0]):
            return each
    return None  # they are in what gets no gradient, as advantages are


def _makes_pairs(node: Node, found: Examples) -> bool:
    """Whether the elements of a result number pairs of examples, and those of no operand do."""
    if not node.results:
        return False
    axes = found.axes.get(node.results[0])
    pairs = axes == {0, 1} and node.results[0].shape[:2] == (found.examples,) * 2
    return pairs and not any(len(found.axes.get(o) or ()) == 2 for o in node.operands)


def _compared(node: Node, found: Examples) -> Met | None:
    """A prediction and a target that a node makes pairs of, with one axis more in one of them."""
    roots = [_before_broadcast(side) for side in node.operands if found.axes.get(side)]
    predictions = {root.shape for root in roots if root.parametric}
    targets = {root.shape for root in roots if not root.parametric and root.data}
    if len(predictions) != 1 or len(targets) != 1:
        return None
    met = Met("broadcast", node.results[0], predictions.pop(), targets.pop())
    short, long = sorted((met.prediction, met.target), key=len)
    if short[:1] != (found.examples,) or long[:2] != (found.examples, 1):
        return None
    return None if len(short) + 1 != len(long) or any(map(_axis_was_added, roots)) else met


def _picked(node: Node, found: Examples) -> Met | None:
    """Predictions that are picked by the labels in all rows, or by pairs of rows and labels."""
    gathers, indices = [node], node.operands[-1:]
    if node.name == "concatenate":
        gathers, indices = [user for user, _ in node.results[0].users], node.operands
        gathers = [user for user in gathers if user.name == "gather"]
    labels = [root for side in indices if (root := _before_broadcast(side)).data]
    if len(gathers) != 1 or gathers[0].name != "gather" or len(labels) != 1:
        return None
    table, label = gathers[0].operands[0], labels[0]
    while label.node is not None and _passes(label.node):
        label = next(operand for operand in label.node.operands if operand.data)
    wanted = (found.examples,) if node in gathers else (found.examples, 1)
    if label.shape != wanted or not table.parametric or found.axes.get(table) != {0}:
        return None
    return Met("picked", gathers[0].results[0], table.shape, label.shape)


def _before_broadcast(value: Value) -> Value:
    while value.node is not None and value.node.name == "broadcast_in_dim":
        value = value.node.operands[0]
    return value


def _passes(node: Node) -> bool:
    return primitive_of(node.eqn).kind in ("elementwise", "layout")


def _axis_was_added(value: Value) -> bool:
    """Whether the second axis of an (N, 1) was added to an (N,), as `[:, None]` does."""
    while value.shape[1:2] == (1,):
        node = value.node
        data = [operand for operand in node.operands if operand.data] if node else []
        if node is None or not data or not _passes(node):
            return False
        before, value = value, data[0]
        if value.shape[1:2] != (1,):
            return len(value.shape) < len(before.shape)
    return False


def _bends(value: Value) -> bool:
    """Whether an exponential of pairs is taken, as in a kernel, and not for log(1 + exp(x))."""
    seen, waiting = {value}, [value]
    while waiting:
        for node, _ in waiting.pop().users:
            if node.name in ("exp", "exp2") and node.results[0].shape == value.shape:
                if {user.name for user, _ in node.results[0].users} != {"log1p"}:
                    return True
            fresh = [result for result in node.results if result not in seen]
            seen.update(fresh)
            waiting += fresh
    return False


def goes_elementwise_to(value: Value, loss: Value) -> bool:
    """Whether all that becomes of a value are elementwise steps, picks and sums, up to the loss."""
    reached, seen, waiting = False, {value}, [value]
    while waiting:
        value = waiting.pop()
        reached |= value is loss
        for node, _ in value.users:
            passes = _passes(node) or node.name in ("reduce_sum", "gather")
            inside = sum(operand in seen for operand in node.operands)
            if not passes or node.name == "stop_gradient" or (node.name == "div" and inside > 1):
                return False
            fresh = [result for result in node.results if result not in seen]
            seen.update(fresh)
            waiting += fresh
    return reached
