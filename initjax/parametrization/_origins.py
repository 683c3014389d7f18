"""Where the axes of parameters are in the values that a program makes from them.

They are followed through whatever the program does before a parameter meets data: casts,
transposes, reshapes, slices, scans, masks, norms, products of kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.inlined import Graph, Node, Value, body
from initjax.auditing._reading.layout import regrouped
from initjax.auditing._reading.primitives import inner_programs, primitive_of, scan_counts

Axes = frozenset[int]
_NONE: Axes = frozenset()


class Origin(NamedTuple):
    """Where the axes of a parameter are in a value that is made from it."""

    axes: tuple[Axes, ...]
    """For each axis of the value, the axes of the parameter that run along it."""
    summed: Axes = _NONE
    """The axes of the parameter that a product with other parameters has summed over."""


Origins = Mapping[int, Origin]
"""By parameter."""


def entered(graph: Graph, sites: Collection[Path], known: dict[Value, Origins]) -> Iterator[Node]:
    """The products of a program that kernels enter, while `known` is completed up to there.

    Args:
      graph: the program.
      sites: the products, convolutions and lookups that the audit has found. Products that are
        written as a multiplication and a sum are found here.
      known: the origins of values.
    """
    for node in graph.nodes:
        mine = [known.get(operand, {}) for operand in node.operands]
        kind = primitive_of(node.eqn).kind
        if node.path in sites or any(
            summed_axes(node, number, mine) for number in range(len(mine))
        ):
            yield node
        elif kind in ("scan", "while", "cond"):
            yield from _nested(node, kind, mine, sites, known)
        elif any(mine):
            known.update(dict.fromkeys(node.results, _after(node, mine)))


def summed_axes(node: Node, operand: int, known: Sequence[Origins]) -> set[int]:
    """The axes of a kernel that is multiplied with data, over which the result is summed at once.

    Args:
      node: an equation.
      operand: which operand may be the kernel.
      known: the origins of the operands.
    """
    if node.name != "mul" or node.operands[operand].data or not node.operands[1 - operand].data:
        return set()
    users = [user for user, _ in node.results[0].users]
    if not users or any(user.name != "reduce_sum" for user in users):
        return set()
    axes = set(users[0].eqn.params["axes"])
    return {a for a in axes if any(origin.axes[a] for origin in known[operand].values())}


def _nested(
    node: Node, kind: str, mine: list[Origins], sites: Collection[Path], known: dict[Value, Origins]
) -> Iterator[Node]:
    """The same in a loop or a branch."""
    first, carried = 0, len(mine)
    if kind == "scan":
        constants, carried = scan_counts(node.eqn.params)
        first = constants + carried
        mine = mine[:first] + [_each(origins, lambda axes: axes[1:]) for origins in mine[first:]]
    outer = mine
    for which in range(len(inner_programs(node.eqn))):
        inner = body(node, which)
        if kind == "cond":
            outer = mine[1:]
        elif kind == "while":
            tests = node.eqn.params["cond_nconsts"]
            after = tests + node.eqn.params["body_nconsts"]
            outer = mine[tests:] if which else [*mine[:tests], *mine[after:]]
        known.update(zip(inner.arguments, outer, strict=True))
        yield from entered(inner, sites, known)
        if kind == "while" and not which:
            continue  # the test
        for number, (value, result) in enumerate(zip(inner.results, node.results, strict=False)):
            made = known.get(value, {})
            if kind == "scan" and number >= carried:
                made = _each(made, lambda axes: (_NONE, *axes))
            known[result] = _union([known.get(result, {}), made])


def _each(origins: Origins, move: Callable[[tuple[Axes, ...]], tuple[Axes, ...]]) -> Origins:
    return {leaf: origin._replace(axes=move(origin.axes)) for leaf, origin in origins.items()}


def _union(found: Sequence[Origins]) -> Origins:
    """The origins of a value that is made from several of one shape."""
    together: dict[int, Origin] = {}
    for origins in found:
        for leaf, origin in origins.items():
            other = together.get(leaf)
            if other is not None:
                pairs = zip(origin.axes, other.axes, strict=True)
                origin = Origin(tuple(a | b for a, b in pairs), origin.summed | other.summed)
            together[leaf] = origin
    return together


def _after(node: Node, mine: Sequence[Origins]) -> Origins:
    """The origins of an equation's results; none where they aren't followed."""
    result, found = node.results[0], []
    for number, (operand, origins) in enumerate(zip(node.operands, mine, strict=True)):
        moved = _moved(node, number) if origins else None
        if moved is None:
            continue
        gone = {*range(len(operand.shape))}.difference(*moved) if node.name == "dot_general" else ()

        def after(origin: Origin, moved: Any = moved, gone: Any = gone) -> Origin:
            axes = tuple(_NONE.union(*(origin.axes[axis] for axis in each)) for each in moved)
            return Origin(axes, origin.summed.union(*(origin.axes[axis] for axis in gone)))

        # What is made from data, and is larger than the parameter, is no kernel.
        found.append(
            {
                leaf: after(origin)
                for leaf, origin in origins.items()
                if not result.data or result.aval.size <= _size(origin, operand)
            }
        )
    return _union(found)


def _size(origin: Origin, operand: Value) -> int:
    return math.prod(size for size, axes in zip(operand.shape, origin.axes, strict=True) if axes)


def _moved(node: Node, operand: int) -> list[tuple[int, ...]] | None:
    """For each axis of an equation's result, the axes of an operand that run along it.

    None if that is not known, or if the result is no longer like the operand.
    """
    params, result = node.eqn.params, node.results[0]
    before, after = node.operands[operand].shape, result.shape
    name = node.name
    if name == "transpose":
        return [(axis,) for axis in params["permutation"]]
    if name == "broadcast_in_dim":
        moved: list[tuple[int, ...]] = [() for _ in after]
        for axis, target in enumerate(params["broadcast_dimensions"]):
            moved[target] = (axis,) if before[axis] == after[target] else ()
        return moved
    if name in ("reshape", "squeeze", "expand_dims"):
        moved = [() for _ in after]
        for olds, news in regrouped(before, after) or ():
            for axis in news:
                moved[axis] = tuple(old for old in olds if before[old] > 1 and after[axis] > 1)
        return moved
    if name.startswith(("reduce_", "arg")) and "axes" in params:
        return [(axis,) for axis in range(len(before)) if axis not in params["axes"]]
    if primitive_of(node.eqn).kind == "product" and (result.data or name != "dot_general"):
        return None
    if name == "dot_general":
        contracting, batch = params["dimension_numbers"]
        free = [
            [axis for axis in range(len(value.shape)) if axis not in (*summed, *shared)]
            for value, summed, shared in zip(node.operands, contracting, batch, strict=True)
        ]
        own = [(axis,) for axis in free[operand]]
        other = [()] * len(free[1 - operand])
        shared = [(axis,) for axis in batch[operand]]
        return [*shared, *(other + own if operand else own + other)]
    if name == "gather" and operand == 0:
        numbers = params["dimension_numbers"]
        gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
        kept = iter(axis for axis in range(len(before)) if axis not in gone)
        return [
            (next(kept),) if axis in numbers.offset_dims else tuple(gone)
            for axis in range(len(after))
        ]
    if name == "stack":
        moved = [(axis,) for axis in range(len(before))]
        return [*moved[: params["axis"]], (), *moved[params["axis"] :]]
    if name == "unstack":
        return [(axis,) for axis in range(len(before)) if axis != params["axis"]]
    if len(before) != len(after) or (operand and name == "gather"):
        return None
    # Elementwise, slices, joins; an axis of size one may be repeated.
    pairs = enumerate(zip(before, after, strict=True))
    return [() if size == 1 < other else (axis,) for axis, (size, other) in pairs]
