"""Which parameters of a tree are to be trained."""

from __future__ import annotations

from typing import Any


def trainable_leaves(params: Any) -> list[bool]:
    """Which leaves of a tree are to be trained, as far as Flax tells: not statistics or counts."""
    import sys

    import jax

    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]
    ]
    nnx = sys.modules.get("flax.nnx")
    if nnx is None:
        return [not name.startswith("batch_stats/") for name in names]
    kept: list[bool] = []
    boxes = jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, nnx.Variable))
    for box in boxes:
        boxed = isinstance(box, nnx.Variable)
        trained = not boxed or isinstance(box, nnx.Param)
        kept += [trained] * (len(jax.tree.leaves(box)) if boxed else 1)
    return [
        keep and not name.startswith("batch_stats/") for keep, name in zip(kept, names, strict=True)
    ]
