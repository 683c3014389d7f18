"""Softmaxes over the units of a layer that stand between layers, as an activation would.

K units that sum to one are about 1/K each, so what the next layer gets is K times smaller than what
it was drawn for. Weights of a mean, gates and codes are no such activation: what a softmax makes
there is multiplied by other data, is drawn at random, or stands beside a stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.inlined import Graph, Value
from initjax.auditing._reading.primitives import primitive_of
from initjax.auditing._reading.sites import Site
from initjax.auditing._reading.softmaxes import exponential_in, is_softmax, summed
from initjax.auditing._reading.values import made_by


class Squeeze(NamedTuple):
    """A softmax between layers."""

    units: int
    layer: Path
    """The layer whose units it is over."""
    readers: frozenset[Path]
    """The layers that get nothing else."""


def squeezes_of(graph: Graph, sites: Mapping[Path, Site]) -> tuple[Squeeze, ...]:
    """Finds the softmaxes between layers.

    Args:
      graph: the program.
      sites: its layers.
    """
    found = []
    for node in graph.nodes:
        if not is_softmax(node):
            continue
        total = made_by(node.operands[1], "reduce_sum")
        power = total and exponential_in(total.operands[0])
        before = power and _layer_before(power.operands[0], sites)
        if not total or not before or summed(total) != _units(before, sites):
            continue
        readers = _readers(node.results[0], graph, sites)
        if readers:
            layer = before.node.path if before.node is not None else ()
            found.append(Squeeze(summed(total), layer, readers))
    return tuple(found)


def _layer_before(value: Value, sites: Mapping[Path, Site]) -> Value | None:
    """The output of a layer, if a value is a function of it and of parameters or numbers alone."""
    while (node := value.node) is not None and node.path not in sites:
        kind = primitive_of(node.eqn).kind
        data = [operand for operand in node.operands if operand.data and not _largest(operand)]
        if kind not in ("elementwise", "layout") or len(data) != 1:
            return None
        (value,) = data
    return value if value.node is not None else None


def _largest(value: Value) -> bool:
    return made_by(value, "reduce_max") is not None or (
        (node := made_by(value, "max")) is not None
        and any(made_by(operand, "reduce_max") is not None for operand in node.operands)
    )


def _units(output: Value, sites: Mapping[Path, Site]) -> int:
    """Over how many units a layer's output is, if it has no members; 0 otherwise."""
    site = sites[output.node.path] if output.node is not None else None
    if site is None or site.members or len(site.unit_axes) != 1:
        return 0
    return output.shape[site.unit_axes[0]]


def _readers(value: Value, graph: Graph, sites: Mapping[Path, Site]) -> frozenset[Path]:
    """The layers that a value enters, if it enters nothing else on any way; none otherwise."""
    found, seen, waiting = set(), {value}, [value]
    while waiting:
        value = waiting.pop()
        users = [node for node, _ in value.users if node.results]
        if value in graph.results or not users:
            return frozenset()
        for node in users:
            if node.path in sites:
                found.add(node.path)
                continue
            alone = sum(operand.data for operand in node.operands if operand.parametric) == 1
            kind = primitive_of(node.eqn).kind
            if not alone or not (kind in ("elementwise", "layout") or "window" in node.name):
                return frozenset()
            fresh = [result for result in node.results if result not in seen]
            seen.update(fresh)
            waiting += fresh
    return frozenset(found)
