"""Arrays that are split along the axes of a mesh of devices, as arrays with more axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def value_of(literal: Any) -> Any:
    """The value of a literal, without the mesh that its type may have.

    A literal that was made while JAX traced a program for shards, of which it keeps traces, doesn't
    fit to arrays of another mesh.
    """
    mesh = getattr(getattr(literal.aval, "sharding", None), "mesh", None)
    return np.asarray(literal.val) if mesh is not None and mesh.axis_names else literal.val


def names_of(spec: Any, axes: dict[str, int]) -> dict[int, tuple[str, ...]]:
    """The mesh's axes along which each axis of an array is split."""
    found = {}
    for axis, part in enumerate(spec):
        names = part if isinstance(part, tuple) else (part,)
        if own := tuple(name for name in names if name in axes):
            found[axis] = own
    return found


def named(name: str, names: dict[int, tuple[str, ...]]) -> bool:
    return any(name in part for part in names.values())


def mapped(
    function: Callable[..., list[Any]],
    axes: dict[str, int],
    inner: Sequence[dict[int, tuple[str, ...]]],
    outer: Sequence[dict[int, tuple[str, ...]]],
) -> Callable[..., list[Any]]:
    """A function of one shard of each array as one of all shards.

    Args:
      function: from shards to a list of shards.
      axes: the sizes of the mesh's axes.
      inner: for each argument, the mesh's axes along which each of its axes is split.
      outer: the same for each result.
    """
    import jax

    for name, size in reversed(axes.items()):
        function = jax.vmap(
            function,
            in_axes=tuple(0 if named(name, names) else None for names in inner),
            out_axes=[0 if named(name, names) else None for names in outer],
            axis_name=name,
            axis_size=size,
        )
    return function


def split(x: Any, names: dict[int, tuple[str, ...]], axes: dict[str, int]) -> Any:
    """An array with one leading axis for each of the mesh's axes that split it, in their order."""
    if not names:
        return x
    shape, order, rest = [], {}, []
    for axis, size in enumerate(x.shape):
        own = names.get(axis, ())
        for name in own:
            order[name] = len(shape)
            shape.append(axes[name])
        rest.append(len(shape))
        shape.append(size // math.prod(axes[name] for name in own))
    lead = [order[name] for name in axes if name in order]
    return x.reshape(shape).transpose(*lead, *rest)


def merge(x: Any, names: dict[int, tuple[str, ...]], axes: dict[str, int]) -> Any:
    """The inverse of `split`."""
    if not names:
        return x
    lead = [name for name in axes if named(name, names)]
    order, shape = [], []
    for axis, size in enumerate(x.shape[len(lead) :]):
        own = names.get(axis, ())
        order += [*(lead.index(name) for name in own), len(lead) + axis]
        shape.append(size * math.prod(axes[name] for name in own))
    return x.transpose(order).reshape(shape)
