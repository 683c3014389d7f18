"""Which axes of each value number the examples of the batch.

The batch has N examples if that is the size of the first axis of most arrays in it that have more
than one axis. From there the axes are followed through the program.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

from initjax.auditing._reading.inlined import Graph, Node, Value, body
from initjax.auditing._reading.layout import regrouped
from initjax.auditing._reading.primitives import primitive_of, scan_counts

Axes = frozenset[int]
_NONE: Axes = frozenset()
_FEW = 8  # examples, which another axis may number by chance
_SORTS = frozenset("sort top_k approx_top_k".split())


class Examples(NamedTuple):
    """What is known about the examples of a batch."""

    examples: int
    """How many there are."""
    axes: dict[Value, Axes | None]
    """The axes of a value that number them; None if that is not known."""


def examples_of(graph: Graph, num_parameters: int) -> Examples | None:
    """Finds the examples of the batch; None if there are none, or too few to tell.

    Args:
      graph: the program.
      num_parameters: how many of its first arguments are parameters.
    """
    arrays = [value for value in graph.arguments[num_parameters:] if value.shape]
    wide = [value for value in arrays if len(value.shape) > 1] or arrays
    sizes = collections.Counter(value.shape[0] for value in wide if value.shape[0] > 1)
    if not sizes:
        return None
    ((count, _),) = sizes.most_common(1)  # others are keys and statistics
    if count < _FEW:
        return None
    axes: dict[Value, Axes | None] = {
        value: frozenset([0]) for value in arrays if value.shape[0] == count
    }
    _follow(graph, axes, count)
    return Examples(count, axes)


def is_pair(value: Value, axes: Collection[int], found: Examples) -> bool:
    """Whether the elements of a value number pairs of examples."""
    return math.prod(value.shape[axis] for axis in axes) > found.examples


def _follow(
    graph: Graph, axes: dict[Value, Axes | None], count: int, in_parts: bool = False
) -> None:
    """Adds the axes of a program's values; with in_parts, also of what is cut out of examples."""
    for node in graph.nodes:
        given = [axes.get(operand, _NONE) for operand in node.operands]
        cut = in_parts and node.name == "dynamic_slice"
        after = given[:1] if cut else _after(node, given, count)
        for value, found in zip(node.results, after, strict=True):
            if found is None or found:
                axes[value] = found


def _after(node: Node, given: Sequence[Axes | None], count: int) -> list[Axes | None]:
    """The axes of examples of a node's results."""
    number = len(node.results)
    if node.name == "iota":
        axis = node.eqn.params["dimension"]
        rows = node.results[0].shape[axis] == count
        return [frozenset([axis]) if rows else _NONE]
    if node.name == "scan" and any(axes is None or axes for axes in given):
        return _after_scan(node, given, count)
    if not any(axes is None or axes for axes in given):
        return [_NONE] * number
    if any(axes is None for axes in given):
        return [None] * number
    known = [axes for axes in given if axes is not None]
    kind = primitive_of(node.eqn).kind
    if kind == "elementwise" or node.name in _SORTS or node.name in ("pad", "concatenate"):
        return [_aligned(node, known)] * number
    if kind == "reduction":
        return [_reduced(node, known[0])] * number
    if node.name in ("dot_general", "conv_general_dilated", "gather"):
        rule = {"dot_general": _product, "gather": _gathered}.get(node.name, _convolved)
        return [rule(node, known)]
    if kind == "layout":
        return [_moved(node, known, count)] * number
    if node.name.startswith("reduce_window"):
        return [_aligned(node, known)] * number
    return [None] * number


def _aligned(node: Node, known: Sequence[Axes]) -> Axes | None:
    """Of a result whose axes are those of its operands, as long as they keep their sizes."""
    shape, found = node.results[0].shape, _NONE
    for operand, axes in zip(node.operands, known, strict=True):
        if any(axis >= len(shape) or operand.shape[axis] != shape[axis] for axis in axes):
            return None
        found |= axes
    return found


def _reduced(node: Node, axes: Axes) -> Axes:
    gone = (
        node.eqn.params.get("axes", ())
        if len(node.results[0].shape) < len(node.operands[0].shape)
        else ()
    )
    return frozenset(axis - sum(other < axis for other in gone) for axis in axes - set(gone))


def _product(node: Node, known: Sequence[Axes]) -> Axes:
    contracting, batch = node.eqn.params["dimension_numbers"]
    found, start = set(), len(batch[0])
    for side, axes in enumerate(known):
        taken = (*contracting[side], *batch[side])
        free = [axis for axis in range(len(node.operands[side].shape)) if axis not in taken]
        found |= {start + place for place, axis in enumerate(free) if axis in axes}
        found |= {place for place, axis in enumerate(batch[side]) if axis in axes}
        start += len(free)
    return frozenset(found)


def _convolved(node: Node, known: Sequence[Axes]) -> Axes | None:
    numbers, (image, kernel) = node.eqn.params["dimension_numbers"], known
    if kernel or image != {numbers.lhs_spec[0]}:
        return None
    return frozenset([numbers.out_spec[0]])


def _gathered(node: Node, known: Sequence[Axes]) -> Axes | None:
    numbers, (table, indices) = node.eqn.params["dimension_numbers"], known
    shape, rows = node.operands[0].shape, len(node.operands[1].shape) - 1
    if rows in indices:
        return None
    taken = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = [axis for axis in range(len(shape)) if axis not in taken]
    rest = [axis for axis in range(len(node.results[0].shape)) if axis not in numbers.offset_dims]
    found = {rest[axis] for axis in indices}
    for axis in table:
        if axis in kept and node.eqn.params["slice_sizes"][axis] == shape[axis]:
            found.add(numbers.offset_dims[kept.index(axis)])
        elif axis in kept or not indices:
            return None
    return frozenset(found)


def _moved(node: Node, known: Sequence[Axes], count: int) -> Axes | None:
    axes, others = known[0], known[1:]
    before, after = node.operands[0].shape, node.results[0].shape
    if any(others):
        return None
    if node.name in ("reshape", "squeeze", "expand_dims"):
        return _reshaped(before, after, axes, count)
    moved = primitive_of(node.eqn).move_axes(node.eqn, tuple(axes))
    if moved is None or sorted(after[axis] for axis in moved) != sorted(
        before[axis] for axis in axes
    ):
        return None
    return frozenset(moved)


def _reshaped(
    before: tuple[int, ...], after: tuple[int, ...], axes: Axes, count: int
) -> Axes | None:
    """Examples stay together if their axis comes first in what it is merged with."""
    found: set[int] = set()
    for olds, news in regrouped(before, after) or [([*range(len(before))], [])]:
        olds, news = ([o for o in olds if before[o] != 1], [n for n in news if after[n] != 1])
        mine = [axis for axis in olds if axis in axes]
        if not mine:
            continue
        parts = len(mine) > 1 and mine == olds and [after[axis] for axis in news] == [count]
        if not news or not (parts or mine == olds[:1]):
            return None
        whole = [axis for axis in news[:1] if after[axis] == count]
        found |= set(whole or news[: 1 if len(olds) > 1 else len(news)])
    return frozenset(found)


def _after_scan(node: Node, given: Sequence[Axes | None], count: int) -> list[Axes | None]:
    """Of a loop that hands the examples on from turn to turn, or is a map over them."""
    constants, carried = scan_counts(node.eqn.params)
    unknown: list[Axes | None] = [None] * len(node.results)
    taken = given[constants + carried :]
    mapped = any(axes is not None and 0 in axes for axes in taken)
    if None in taken or (mapped and carried):
        return unknown
    start = _in_turn(given, constants + carried)
    inner = body(node)
    for _ in range(2):
        axes = dict(zip(inner.arguments, start, strict=True))
        _follow(inner, axes, count)
        after = [axes.get(value, _NONE) for value in inner.results]
        before = start[constants : constants + carried]
        if after[:carried] == before:
            break
        start[constants : constants + carried] = after[:carried]
    else:
        return unknown
    stacked = [
        None if axes is None else frozenset([*(axis + 1 for axis in axes), *[0] * mapped])
        for axes in after[carried:]
    ]
    return [*after[:carried], *stacked]


def _in_turn(given: Sequence[Axes | None], first: int) -> list[Axes | None]:
    """The axes of what a turn of a loop gets; operands from `first` on lose their first axis."""
    sliced = [
        None if axes is None else frozenset(axis - 1 for axis in axes if axis) for axes in given
    ]
    return [*given[:first], *sliced[first:]]


class Turn(NamedTuple):
    """What is known in the body of a loop."""

    found: Examples
    of_examples: bool
    """Whether the turns take one part of the examples after the other."""


def after_turn(node: Node, found: Examples) -> Turn:
    """Follows the examples into a loop, which may cut micro-batches out of a batch itself.

    Args:
      node: a scan.
      found: what is known outside of it.
    """
    given = [found.axes.get(operand, _NONE) for operand in node.operands]
    first = sum(scan_counts(node.eqn.params))
    inner = body(node)
    axes = dict(zip(inner.arguments, _in_turn(given, first), strict=True))
    _follow(inner, axes, found.examples, in_parts=True)
    taken = any(operand and 0 in operand for operand in given[first:])
    cut = any(each.name == "dynamic_slice" and axes.get(each.operands[0]) for each in inner.nodes)
    return Turn(Examples(found.examples, axes), taken or cut)
