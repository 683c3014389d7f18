"""Sequences read along the axis of the batch, as if it were time.

A recurrent network or attention that takes (time, batch, features) mixes up the examples of arrays
of (batch, time, features). The program runs and trains either way, and what becomes of its outputs
tells which one is meant: if one time is picked, or times are averaged, so that one output for each
example meets one target for each example, the first axis numbers examples.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from initjax.auditing._reading.inlined import Graph, Node, Value, body
from initjax.auditing._reading.primitives import primitive_of, scan_counts
from initjax.auditing._reading.softmaxes import exponential_in

_PICKS = frozenset("slice dynamic_slice gather".split())
_MOVES = frozenset("broadcast_in_dim reshape squeeze expand_dims convert_element_type".split())


def along_examples(
    graph: Graph,
    batch: Sequence[Value],
    axes: Mapping[Value, Collection[int] | None],
    count: int,
) -> tuple[Literal["scan", "attention"], tuple[int, ...]] | None:
    """Finds a loop or attention over the examples of a batch of sequences.

    Args:
      graph: the program.
      batch: its arguments that are data.
      axes: the axes of each value that number the examples; None if that is not known.
      count: how many examples there are.

    Returns:
      "scan" or "attention", and the shape of the sequences; None if there is neither.
    """
    sequences = [value.shape for value in batch if value.shape[:1] == (count,) and _times(value)]
    labels = [value for value in batch if value.shape in ((count,), (count, 1))]
    if len(set(shape[:2] for shape in sequences)) != 1 or not labels:
        return None
    times = sequences[0][1]
    if times == count or not any(_ends_time(node, count, times) for node in graph.nodes):
        return None
    for node in graph.nodes:
        if node.name == "scan" and _hands_on(node, axes):
            return "scan", sequences[0]
        if _is_attention(node, axes, count, times):
            return "attention", sequences[0]
    return None


def _times(value: Value) -> int:
    """How many steps a sequence of vectors has; 0 if it is none."""
    return value.shape[1] if len(value.shape) == 3 and value.shape[1] > 1 else 0


def _hands_on(node: Node, axes: Mapping[Value, Collection[int] | None]) -> bool:
    """Whether a loop takes one example a turn, each with its times, and its outputs depend on the
    examples before."""
    constants, carried = scan_counts(node.eqn.params)
    taken = [o for o in node.operands[constants + carried :] if 0 in (axes.get(o) or ())]
    if not any(len(operand.shape) >= 3 and operand.data for operand in taken):
        return False
    inner = body(node)
    reached = set(inner.arguments[constants : constants + carried])
    for each in inner.nodes:
        if any(operand in reached for operand in each.operands):
            reached.update(each.results)
    outputs = zip(inner.results[carried:], node.results[carried:], strict=True)
    return any(
        result in reached and stacked.parametric and stacked.users and len(stacked.shape) >= 3
        for result, stacked in outputs
    )


def _is_attention(
    node: Node, axes: Mapping[Value, Collection[int] | None], count: int, times: int
) -> bool:
    """Whether a node sums the exponentials of scores of all pairs of examples at each time."""
    if node.name != "reduce_sum":
        return False
    value = node.operands[0]
    both = axes.get(value) or ()
    pairs = len(both) == 2 and all(value.shape[axis] == count for axis in both)
    over = set(node.eqn.params["axes"])
    if not pairs or len(over) != 1 or not over < set(both) or times not in value.shape:
        return False
    return value.parametric and exponential_in(value) is not None


def _ends_time(node: Node, count: int, times: int) -> bool:
    """Whether a node picks one time of each example, or takes the mean over times."""
    if not node.operands or not (node.operands[0].parametric and node.operands[0].data):
        return False
    before, after = node.operands[0].shape, node.results[0].shape if node.results else ()
    if before[:2] != (count, times):
        return False
    if node.name in _PICKS:
        return after in ((count, 1, *before[2:]), (count, *before[2:]))
    if node.name != "reduce_sum" or tuple(node.eqn.params["axes"]) != (1,):
        return False
    return any(_divides(user, times) for user, _ in node.results[0].users)


def _divides(node: Node, times: int) -> bool:
    numbers = [float(operand.number) for operand in node.operands if operand.number is not None]
    if node.name == "div":
        return times in numbers
    return node.name == "mul" and any(abs(number * times - 1) < 1e-5 for number in numbers)


def weighs_within_examples(weights: Value, axis: int) -> bool:
    """Whether weights multiply something that is then summed within each example only."""
    users = [user for user, _ in weights.users if user.results]
    if not users or len(weights.shape) < 3:
        return False
    return all(_sums_within(user, weights, axis) for user in users)


def _sums_within(node: Node, value: Value, axis: int) -> bool:
    if node.name == "dot_general":
        contracting, batch = node.eqn.params["dimension_numbers"]
        side = 0 if node.operands[0] is value else 1
        return axis in batch[side] and bool(contracting[side])
    if node.name == "reduce_sum":
        return axis not in node.eqn.params["axes"]
    same = len(node.results[0].shape) == len(value.shape)
    if not same or not (primitive_of(node.eqn).kind == "elementwise" or node.name in _MOVES):
        return False
    if node.results[0].shape[axis] != value.shape[axis]:
        return False
    users = [user for user, _ in node.results[0].users if user.results]
    return bool(users) and all(_sums_within(user, node.results[0], axis) for user in users)
