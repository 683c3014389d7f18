"""Where the axes of an array go when it is reshaped, transposed, broadcast or sliced.

Each function maps an equation and some axes of its first operand to the axes of the result that
hold the same elements, or to None if there are none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Axes = tuple[int, ...]
MoveAxes = Callable[[Any, Axes], Axes | None]


def same_axes(eqn: Any, axes: Axes) -> Axes:
    return axes


def unknown_axes(eqn: Any, axes: Axes) -> None:
    return None


def transposed_axes(eqn: Any, axes: Axes) -> Axes:
    return tuple(eqn.params["permutation"].index(axis) for axis in axes)


def broadcast_axes(eqn: Any, axes: Axes) -> Axes:
    return tuple(int(eqn.params["broadcast_dimensions"][axis]) for axis in axes)


def reshaped_axes(eqn: Any, axes: Axes) -> Axes | None:
    return _reshaped(eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape, axes)


def axes_before(eqn: Any, axes: Axes, operand: int = 0) -> Axes | None:
    """The axes of an operand along which some axes of the result run.

    Args:
      eqn: an equation that rearranges its first operand, or is elementwise, or joins arrays.
      axes: of its result.
      operand: which operand.

    Returns:
      The axes, without those of size one; None if they are part of an axis, or not known.
    """
    name, shape = eqn.primitive.name, eqn.invars[operand].aval.shape
    if name == "transpose":
        axes = tuple(eqn.params["permutation"][axis] for axis in axes)
    elif name == "broadcast_in_dim":
        targets = list(map(int, eqn.params["broadcast_dimensions"]))
        axes = tuple(targets.index(axis) for axis in axes if axis in targets)
    elif name in ("reshape", "squeeze", "expand_dims"):
        return _reshaped(eqn.outvars[0].aval.shape, shape, axes)
    elif not shape:
        return ()
    elif len(shape) != len(eqn.outvars[0].aval.shape):
        return None
    return tuple(axis for axis in axes if shape[axis] > 1)


def product_axes_before(eqn: Any, axes: Axes, operand: int) -> Axes:
    """The axes of an operand of a matrix product along which some axes of the result run."""
    contracting, batch = eqn.params["dimension_numbers"]
    ranks = [len(var.aval.shape) for var in eqn.invars]
    free = [
        [axis for axis in range(ranks[side]) if axis not in (*contracting[side], *batch[side])]
        for side in range(2)
    ]
    own = [*batch[operand], *((None,) * len(free[0]) if operand else ()), *free[operand]]
    found = [own[axis] for axis in axes if axis < len(own)]
    return tuple(axis for axis in found if axis is not None)


def _reshaped(before: Axes, after: Axes, axes: Axes) -> Axes | None:
    groups = regrouped(before, after)
    if groups is None:
        return None
    wanted = {axis for axis in axes if before[axis] != 1}
    found: list[int] = []
    for olds, news in groups:
        mine = {axis for axis in olds if before[axis] != 1}
        if mine & wanted:
            if not mine <= wanted:
                return None
            found += [axis for axis in news if after[axis] != 1]
    return tuple(found)


def regrouped(before: Axes, after: Axes) -> list[tuple[list[int], list[int]]] | None:
    """The smallest groups of neighboring axes whose elements stay together in a reshape.

    Each group holds old axes and the new axes of the same total size.
    """
    groups, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        olds, news = [i], [j]
        left = before[i] if i < len(before) else 1
        right = after[j] if j < len(after) else 1
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                if i >= len(before):
                    return None
                left, olds, i = left * before[i], [*olds, i], i + 1
            else:
                if j >= len(after):
                    return None
                right, news, j = right * after[j], [*news, j], j + 1
        groups.append(([o for o in olds if o < len(before)], [n for n in news if n < len(after)]))
    return groups
