"""Where the axes of an array go, and how many taps of a kernel fall on an image."""

from __future__ import annotations

from typing import Any

import numpy as np


def moved_axes(eqn: Any, axes: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Where axes are after an equation that lays an array out anew; None if they are cut up."""
    name, params = eqn.primitive.name, eqn.params
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    if axes is None or name in ("rev", "slice", "dynamic_slice", "split"):
        return axes
    if name == "transpose":
        return tuple(params["permutation"].index(axis) for axis in axes)
    if name == "broadcast_in_dim":
        return tuple(int(params["broadcast_dimensions"][axis]) for axis in axes)
    if name in ("reshape", "squeeze", "expand_dims"):
        return _reshaped(before, after, axes)
    return None


def _reshaped(
    before: tuple[int, ...], after: tuple[int, ...], axes: tuple[int, ...]
) -> tuple[int, ...] | None:
    """The axes that hold the same numbers after a reshape as `axes` do before; None if none do."""
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
    wanted = {axis for axis in axes if before[axis] != 1}
    found: list[int] = []
    for olds, news in groups:
        mine = {axis for axis in olds if before[axis] != 1}
        if mine & wanted:
            if not mine <= wanted:
                return None
            found += [axis for axis in news if after[axis] != 1]
    return tuple(found)


def mean_taps(
    image: int, kernel: int, stride: int, padding: tuple[int, int], spread: int, dilation: int
) -> float:
    """The taps of a kernel that fall on an input and not on padding, a mean over the outputs."""
    length = (image - 1) * spread + 1
    outputs = (sum(padding) + length - (kernel - 1) * dilation - 1) // stride + 1
    positions = (
        np.arange(max(outputs, 1))[:, None] * stride
        - padding[0]
        + np.arange(kernel)[None, :] * dilation
    )
    hits = (positions >= 0) & (positions < length) & (positions % spread == 0)
    return float(hits.sum(axis=1).mean())
