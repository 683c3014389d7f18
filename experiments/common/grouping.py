"""Rows of a table that agree in some columns, found without a Python object for each."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def groups(table: pa.Table, names: Sequence[str]) -> np.ndarray:
    """(rows,): for each row the number of its group, counted in the order of first rows.

    Args:
      table: any number of rows.
      names: the columns that have one value in a group; numbers, texts, and lists of numbers. Nulls
        are equal, and so are NaNs.
    """
    combined = np.zeros(len(table), np.int64)
    for name in names:
        codes = _codes(table[name])
        if codes.any():  # most columns have a single value
            combined = combined * (codes.max() + 1) + codes
            combined = np.unique(combined, return_inverse=True)[1]
    _, first, inverse = np.unique(combined, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def places(numbers: np.ndarray) -> list[np.ndarray]:
    """For each group, the places of its rows, ascending."""
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else []


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """A whole number for each distinct value, from 0."""
    if pa.types.is_list(column.type):
        texts = column.cast(pa.list_(pa.string()))
        column = pc.call_function("binary_join", [texts, ","])
    array = column.combine_chunks().dictionary_encode()
    return array.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
