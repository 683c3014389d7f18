"""Numbers that multiply the logits after their layer, as in `0.1 * (x @ kernel + bias)`."""

from __future__ import annotations

from collections.abc import Mapping

from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.inlined import Graph, Value
from initjax.auditing._reading.sites import Site

_LAYOUT = (
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "reshape",
    "squeeze",
    "transpose",
)


def multipliers_of(graph: Graph, sites: Mapping[Path, Site]) -> dict[Path, float]:
    """The product of such numbers, by the layer of the logits; only those that aren't 1."""
    results = {node.path: node.results[0] for node in graph.nodes if node.results}
    found = {
        path: _multiplier(results[site.output])
        for path, site in sites.items()
        if site.softmax and site.output in results
    }
    return {path: number for path, number in found.items() if number != 1}


def _multiplier(value: Value) -> float:
    """What a value is multiplied by while nothing else uses it."""
    product = 1.0
    while len(value.users) == 1:
        node, operand = value.users[0]
        if node.name in ("mul", "div"):
            other = node.operands[1 - operand].number
            if other is None or not other or (node.name == "div" and operand):
                break
            product *= float(other) if node.name == "mul" else 1 / float(other)
        elif node.name not in _LAYOUT:
            break
        value = node.results[0]
    return abs(product)
