"""Which leaves of a tree are trainable, by the conventions of Flax."""

from __future__ import annotations

import sys
from typing import Any

from initjax._flattening import inside


def trainable_leaves(params: Any) -> list[bool]:
    """Whether each leaf is trainable: not a statistic, a count or other state."""
    nnx = sys.modules.get("flax.nnx")
    statistics = statistic_leaves(params)
    if nnx is None:
        return [not statistic for statistic in statistics]
    boxed = inside(params, (nnx.Variable,))
    return [
        not statistic and (box is None or isinstance(box, nnx.Param))
        for statistic, box in zip(statistics, boxed, strict=True)
    ]


def statistic_leaves(params: Any) -> list[bool]:
    """Whether each leaf is a running statistic or the state of a random number generator."""
    import jax

    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    named = [
        jax.tree_util.keystr(path, simple=True, separator="/").startswith("batch_stats/")
        for path in paths
    ]
    nnx = sys.modules.get("flax.nnx")
    if nnx is None:
        return named
    boxed = inside(params, (nnx.Variable,))
    return [
        name or isinstance(box, nnx.BatchStat | nnx.RngState)
        for name, box in zip(named, boxed, strict=True)
    ]
