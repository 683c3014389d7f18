"""Which parameters of a tree are to be trained, as far as Flax tells."""

from __future__ import annotations

import sys
from typing import Any


def trainable_leaves(params: Any) -> list[bool]:
    """Which leaves of a tree are to be trained: not statistics, counts or other state."""
    nnx = sys.modules.get("flax.nnx")
    statistics = statistic_leaves(params)
    if nnx is None:
        return [not statistic for statistic in statistics]
    boxed = _boxed(params, nnx.Variable)
    return [
        not statistic and (box is None or isinstance(box, nnx.Param))
        for statistic, box in zip(statistics, boxed, strict=True)
    ]


def statistic_leaves(params: Any) -> list[bool]:
    """Which leaves are running statistics, or state of random numbers."""
    import jax

    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    named = [
        jax.tree_util.keystr(path, simple=True, separator="/").startswith("batch_stats/")
        for path in paths
    ]
    nnx = sys.modules.get("flax.nnx")
    if nnx is None:
        return named
    boxed = _boxed(params, nnx.Variable)
    return [
        name or isinstance(box, nnx.BatchStat | nnx.RngState)
        for name, box in zip(named, boxed, strict=True)
    ]


def _boxed(params: Any, kind: type) -> list[Any]:
    """For every leaf the variable of NNX that holds it, or None."""
    import jax

    boxes: list[Any] = []
    for box in jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, kind)):
        inside = isinstance(box, kind)
        boxes += [box] * len(jax.tree.leaves(box)) if inside else [None]
    return boxes
