"""Parameters that nothing uses since the last of several blocks gives more than is needed.

The blocks of a WaveNet give an output for the next block, and one that is added up over all blocks.
Nothing reads the former of the last block. That is by design, and a layer that was forgotten looks
otherwise: it is not one of several that read the same value in other blocks, too.
"""

from __future__ import annotations

import collections
from collections.abc import Collection

from initjax.auditing._reading.inlined import Graph, Node, Value, reaching
from initjax.auditing._reading.primitives import primitive_of
from initjax.auditing._reading.values import through_layout


def spare_leaves(graph: Graph, unused: Collection[int]) -> frozenset[int]:
    """Finds those of the unused parameters that other blocks use.

    Args:
      graph: the program, with what its result doesn't depend on.
      unused: the parameters that its result doesn't depend on.
    """
    if not unused:
        return frozenset()
    numbers = {value: number for number, value in enumerate(graph.arguments)}
    readers: dict[Value, list[tuple[Node, int]]] = collections.defaultdict(list)
    for node in graph.nodes:
        sides = [through_layout(operand) for operand in node.operands[:2]]
        if primitive_of(node.eqn).kind == "product" and len(sides) == 2:
            for value, kernel in (sides, sides[::-1]):
                if kernel.parametric and value.data and kernel in numbers:
                    readers[value].append((node, numbers[kernel]))
    used = reaching(graph)
    complete: set[tuple[tuple[int, ...], ...]] = set()
    spare: list[tuple[Node, int]] = []
    for group in readers.values():  # in the order of execution
        shapes = tuple(sorted(graph.arguments[number].shape for _, number in group))
        if any(number in unused for _, number in group):
            spare += group if shapes in complete else []
        elif len(group) > 1 and all(node.results[0] in used for node, _ in group):
            complete.add(shapes)
    found = {number for _, number in spare if number in unused}
    waiting = [node.results[0] for node, number in spare if number in unused]
    while waiting:  # their biases
        for node, _ in waiting.pop().users:
            if primitive_of(node.eqn).kind in ("elementwise", "layout"):
                entering = [numbers.get(through_layout(operand)) for operand in node.operands]
                found |= {number for number in entering if number in unused and number is not None}
                waiting += node.results
    return frozenset(found)
