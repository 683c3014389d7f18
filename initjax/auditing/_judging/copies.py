"""Kernels that were drawn from the same random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_FEWEST, _COMPARED, _BLOCK = 32, 512, 1024  # numbers, numbers, rows
_SAME = 0.95  # correlation
_STRUCTURED = 0.5  # part of zeros of what was not simply drawn


def copies(prints: Sequence[np.ndarray]) -> list[list[int]]:
    """Groups what is the same but for a factor and an offset.

    Args:
      prints: the first numbers of each.

    Returns:
      The rows of those that are alike, for every group of two or more. Of two sizes, the numbers
      that both have count. Less than 32 numbers, and patterns of zeros, are like nothing.
    """
    drawn = [
        row
        for row, numbers in enumerate(prints)
        if numbers.size >= _FEWEST and (numbers == 0).mean() <= _STRUCTURED
    ]
    sizes = {row: min(prints[row].size, _COMPARED) for row in drawn}
    first = {row: row for row in drawn}
    for size in sorted(set(sizes.values())):
        long = [row for row in drawn if sizes[row] >= size]
        short = [row for row in long if sizes[row] == size]
        others = _normalised([prints[row][:size] for row in long])
        for start in range(0, len(short), _BLOCK):
            block = short[start : start + _BLOCK]
            cosines = _normalised([prints[row][:size] for row in block]) @ others.T
            for one, other in np.argwhere(np.abs(cosines) > _SAME):
                _join(first, block[one], long[other])
    groups: dict[int, list[int]] = {}
    for row in drawn:
        groups.setdefault(first[row], []).append(row)
    return [group for group in groups.values() if len(group) > 1]


def _normalised(rows: list[np.ndarray]) -> np.ndarray:
    """Rows of mean zero and norm one; zeros for what is constant."""
    matrix = np.stack(rows).astype(np.float32)
    largest = np.abs(matrix).max(axis=1, keepdims=True)
    matrix /= np.where(largest > 0, largest, 1)
    matrix -= matrix.mean(axis=1, keepdims=True)
    norms = np.sqrt(np.square(matrix).sum(axis=1, keepdims=True))
    return np.where(norms > 1e-3, matrix / np.where(norms > 0, norms, 1), 0)


def _join(first: dict[int, int], one: int, other: int) -> None:
    """Makes two groups one, whose name is its first row."""
    a, b = first[one], first[other]
    if a != b:
        for row, group in first.items():
            if group == max(a, b):
                first[row] = min(a, b)
