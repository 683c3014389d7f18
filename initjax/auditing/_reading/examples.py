"""What a loss does with the examples of the batch: couples them, or sums over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from initjax.auditing._reading.couplings import Coupling, coupling_of
from initjax.auditing._reading.example_axes import Examples, examples_of
from initjax.auditing._reading.inlined import Graph, Node, Value
from initjax.auditing._reading.primitives import primitive_of
from initjax.auditing._reading.values import factor_of

_MANY = 1000  # terms of a loss; more come from sums of sums, which double at every step


class Ends(NamedTuple):
    """What the end of a program does with the examples."""

    coupling: Coupling | None
    summed: int
    """Over how many examples the loss is a sum that nothing divides; 0 if it is none."""


_NOTHING = Ends(None, 0)


def ends_of(graph: Graph, num_parameters: int) -> Ends:
    """Reads what a loss does with the examples of the batch.

    Args:
      graph: the program.
      num_parameters: how many of its first arguments are parameters.
    """
    found = examples_of(graph, num_parameters)
    if found is None:
        return _NOTHING
    coupling = coupling_of(graph, found, num_parameters)
    return Ends(coupling, _summed_over_examples(graph, found))


def _summed_over_examples(graph: Graph, found: Examples) -> int:
    """Over how many examples the loss is a plain sum; 0 if it is averaged, or that isn't known.

    A term of parameters alone, as a prior has, says that the sum is meant; so do terms of different
    sizes, such as reconstruction and divergence of a bound.
    """
    if any(len(axes or ()) > 1 for axes in found.axes.values()):
        return 0  # examples meet each other
    terms, summed = [(graph.results[0], 1.0)], []
    while terms:
        if len(summed) > _MANY:
            return 0
        value, factor = terms.pop()
        if not value.data:
            if value.parametric:
                return 0
            continue
        if value.node is None:
            return 0
        node = value.node
        scaled = _scaled(node)
        if scaled is not None:
            terms.append((scaled[0], factor * scaled[1]))
        elif node.name in ("add", "add_any", "sub"):
            terms += [(operand, factor) for operand in node.operands]
        elif node.name == "reduce_sum":
            inner = node.operands[0]
            axes = found.axes.get(inner)
            if axes is None:
                return 0
            if axes & set(node.eqn.params["axes"]):
                factor, inner = _factor_inside(inner, factor)
                summed.append((factor, inner))
            else:
                terms.append((inner, factor))
        else:
            return 0
    if not summed or any(_averaged(factor, found.examples) for factor, _ in summed):
        return 0
    terms_of_layers = [value for _, value in summed if value.parametric]
    if len({value.aval.size for value in terms_of_layers}) > 1:
        return 0
    plain = _of_single_examples(terms_of_layers, found)
    return found.examples if terms_of_layers and plain else 0


def _of_single_examples(values: Sequence[Value], found: Examples) -> bool:
    """Whether no statistic of the batch enters values behind their last products."""
    seen, waiting = set(values), list(values)
    while waiting:
        value = waiting.pop()
        if value.data and not found.axes.get(value):
            return False
        node = value.node
        if node is None or primitive_of(node.eqn).kind in ("product", "scan"):
            continue
        fresh = [operand for operand in node.operands if operand not in seen]
        seen.update(fresh)
        waiting += fresh
    return True


def _scaled(node: Node) -> tuple[Value, float] | None:
    """What a node multiplies by a number, and the number."""
    if node.name in ("reshape", "squeeze", "broadcast_in_dim"):
        return node.operands[0], 1.0
    for operand in node.operands:
        if factor := factor_of(node, operand):
            return operand, factor
    return None


def _factor_inside(value: Value, factor: float) -> tuple[float, Value]:
    """The factor of a sum, with numbers that multiply every term before it."""
    while value.node is not None and (scaled := _scaled(value.node)) is not None:
        value, factor = scaled[0], factor * scaled[1]
        if value.node is not None and value.node.name == "reduce_sum":
            value = value.node.operands[0]
    return factor, value


def _averaged(factor: float, count: int) -> bool:
    """Whether a sum is divided by the number of examples or more."""
    factor = abs(factor)
    if factor == 0 or factor * count < 2:
        return True
    multiple = 1 / (factor * count)
    return abs(multiple - round(multiple)) < 1e-4 and round(multiple) > 0
