"""Choices of a formula by the label of an example, as in where(y == 1, -log(p), -log(1 - p))."""

from __future__ import annotations

from collections.abc import Iterator

from initjax.auditing._reading.inlined import Node, place_of
from initjax.auditing._reading.terms import Choice
from initjax.auditing._reading.values import through_layout
from initjax.auditing._reading.visits import Reader, layers_before
from initjax.auditing._reading.watches import Watch

_COMPARISONS = frozenset("eq ne gt ge lt le".split())


def choices_at(node: Node, reader: Reader) -> Iterator[Choice]:
    """The choice that a node is, if both of its cases depend on parameters, and which one is taken
    on how one number of the batch compares with a fixed one."""
    if node.name != "select_n" or not all(case.parametric for case in node.operands[1:]):
        return
    comparison = through_layout(node.operands[0]).node
    if comparison is None or comparison.name not in _COMPARISONS:
        return
    labels = [operand for operand in comparison.operands if operand.number is None]
    if len(labels) != 1 or labels[0].parametric or not labels[0].data:
        return
    places = {"labels": place_of(labels[0]), "chosen": place_of(comparison.results[0])}
    found = {name: place for name, place in places.items() if place is not None}
    if len(found) < len(places) or not labels[0].aval.size:
        return
    name = f"choice {len(reader.watches)}"
    reader.watches[name] = Watch(found, "choice")
    layers = [layers_before(case, reader) for case in node.operands[1:]]
    yield Choice(frozenset().union(*layers), name)
