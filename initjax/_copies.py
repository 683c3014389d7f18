"""Kernels that were drawn from the same random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_FEWEST, _COMPARED, _BLOCK = 32, 512, 1024  # numbers, numbers, rows
_SAME = 0.95  # correlation
_STRUCTURED = 0.5  # part of zeros of what was not simply drawn


def copies(prints: Sequence[np.ndarray]) -> list[list[int]]:
    """Groups rows that are equal except for a factor and an offset.

    Args:
      prints: the first numbers of each.

    Returns:
      The rows that are alike, for every group of two or more. Rows of different sizes are compared
      by the numbers that both have. Rows of less than 32 numbers, and patterns of zeros, are not
      compared.
    """
    drawn = [
        row
        for row, numbers in enumerate(prints)
        if numbers.size >= _FEWEST and (numbers == 0).mean() <= _STRUCTURED
    ]
    sizes = {row: min(prints[row].size, _COMPARED) for row in drawn}
    pairs: list[tuple[int, int]] = []
    for size in sorted(set(sizes.values())):
        long = [row for row in drawn if sizes[row] >= size]
        short = [place for place, row in enumerate(long) if sizes[row] == size]
        vectors = _normalized([prints[row][:size] for row in long])
        for start in range(0, len(short), _BLOCK):
            block = short[start : start + _BLOCK]
            cosines = vectors[block] @ vectors.T
            for one, other in np.argwhere(np.abs(cosines) > _SAME):
                if block[one] != other:
                    pairs.append((long[block[one]], long[other]))
    return _groups(pairs, len(prints)) if pairs else []


def _groups(pairs: list[tuple[int, int]], count: int) -> list[list[int]]:
    """The rows that pairs connect, in order."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs)), np.transpose(pairs)), (count, count))
    _, labels = connected_components(graph, directed=False)
    groups: dict[int, list[int]] = {}
    for row in sorted({row for pair in pairs for row in pair}):
        groups.setdefault(int(labels[row]), []).append(row)
    return list(groups.values())


def _normalized(rows: list[np.ndarray]) -> np.ndarray:
    """Rows of mean zero and norm one; zeros for constant rows."""
    matrix = np.stack(rows).astype(np.float32)
    largest = np.abs(matrix).max(axis=1, keepdims=True)
    matrix /= np.where(largest > 0, largest, 1)
    matrix -= matrix.mean(axis=1, keepdims=True)
    norms = np.sqrt(np.square(matrix).sum(axis=1, keepdims=True))
    return np.where(norms > 1e-3, matrix / np.where(norms > 0, norms, 1), 0)
