"""Where gradients are cut: parameters that the loss depends on only through flat functions."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence

import numpy as np

from initjax.auditing._reading.expressions import floating
from initjax.auditing._reading.inlined import Graph, Node, Value
from initjax.auditing._reading.primitives import primitive_of

_FLAT = frozenset("stop_gradient round floor ceil sign".split())


def cuts_of(graph: Graph, num_parameters: int) -> dict[int, tuple[str, ...]]:
    """The parameters that get no gradient, with the primitives that cut it.

    What is cut on purpose isn't among them: parameters that stop_gradient takes as they are, copies
    of others as target networks are, and a network whose outputs are data for another that gets
    data of its own, too.

    Args:
      graph: the program.
      num_parameters: how many of its first arguments are parameters.
    """
    learning = _upstream(graph.results)
    parameters = [value for value in graph.arguments[:num_parameters] if value.parametric]
    trained = collections.Counter(value.shape for value in parameters if value in learning)
    found: dict[int, tuple[str, ...]] = {}
    for index, value in enumerate(graph.arguments[:num_parameters]):
        if not value.parametric or value in learning or not floating(value.aval.dtype):
            continue
        cuts = _first_cuts(value)
        if cuts and not any(node.name == "stop_gradient" and _bare(node) for node in cuts):
            found[index] = tuple(sorted({node.name for node in cuts}))
    stopped = [index for index, names in found.items() if "stop_gradient" in names]
    copies = collections.Counter(graph.arguments[index].shape for index in stopped)
    if not trained or copies <= trained or _data_of_its_own(graph, learning):
        found = {index: names for index, names in found.items() if index not in stopped}
    return found if trained else {}


def _cuts(node: Node) -> bool:
    """Whether no gradient passes from the results of a node to its operands."""
    return node.name in _FLAT or not any(floating(value.aval.dtype) for value in node.results)


def _upstream(results: Sequence[Value]) -> set[Value]:
    """The values to which a gradient flows."""
    seen, waiting = set(results), list(results)
    while waiting:
        node = waiting.pop().node
        if node is None or _cuts(node):
            continue
        fresh = {value for value in node.operands if floating(value.aval.dtype)} - seen
        seen |= fresh
        waiting += fresh
    return seen


def _first_cuts(value: Value) -> set[Node]:
    """The nodes that cut what becomes of a value."""
    return {node for node in _users([value]) if _cuts(node)}


def _users(values: Iterable[Value]) -> set[Node]:
    """All nodes that values enter, up to those that cut."""
    seen: set[Node] = set()
    waiting = list(values)
    while waiting:
        for node, _ in waiting.pop().users:
            if node not in seen:
                seen.add(node)
                waiting += [] if _cuts(node) else node.results
    return seen


def _bare(node: Node) -> bool:
    """Whether a node takes parameters as they are, and no data."""
    return not node.operands[0].data


def _data_of_its_own(graph: Graph, learning: set[Value]) -> bool:
    """Whether a layer that learns gets data that no cut has been applied to."""
    data = [value for value in graph.arguments if value.data and np.prod(value.shape) > 1]
    return any(
        primitive_of(node.eqn).kind == "product"
        and node.results[0] in learning
        and node.results[0].parametric
        for node in _users(data)
    )
