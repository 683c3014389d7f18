"""Takes the leaves of a tree as NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from initjax._flattening import flatten, no_parameters
from initjax._values import is_traced

PART = 2**18  # numbers that are looked at together, in a processor's cache
_HUGE, _DECADES = 1e20, 20  # of random bits read as numbers


def leaves_of(owner: str, tree: Any) -> dict[str, Any]:
    """The arrays of a tree by path; paths that occur twice are numbered.

    Raises:
      TypeError, ValueError: there are none, or JAX traces them; the error names the owner.
    """
    leaves, structure = flatten(tree)
    if not leaves:
        raise no_parameters(owner, tree)
    if any(map(is_traced, leaves)):
        raise TypeError(f"{owner}: parameters are traced by JAX; call it outside of jax.jit")
    found: dict[str, Any] = {}
    for name, leaf in zip(structure.names, leaves, strict=True):
        unique, number = name, 2
        while unique in found:
            unique, number = f"{name} ({number})", number + 1
        found[unique] = leaf
    return found


def as_array(leaf: Any) -> tuple[np.ndarray | None, str]:
    """A leaf as an array, or None and the reason why it can't be looked at."""
    import jax

    if isinstance(leaf, jax.ShapeDtypeStruct):
        return None, "only a shape"
    dtype = getattr(leaf, "dtype", None)
    if dtype is not None and jax.numpy.issubdtype(dtype, jax.dtypes.extended):
        return None, "a PRNG key"
    try:
        return np.asarray(leaf), ""
    except Exception as error:  # deleted, or on devices of other processes
        return None, f"can't be read ({str(error).splitlines()[0][:60]})"


def constant(array: np.ndarray) -> bool:
    """Whether all numbers are equal."""
    first = array.reshape(-1)[0]
    return all(bool((part == first).all()) for part in parts(array))


def broken(array: np.ndarray) -> int:
    """How many numbers are infinite or NaN."""
    return sum(int((~np.isfinite(part)).sum()) for part in parts(array))


def parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """The numbers, some at a time."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, PART):
        yield flat[start : start + PART]


def unwritten(array: np.ndarray) -> bool:
    """Whether finite numbers look like memory that nothing was written to."""
    flat = array.reshape(-1)
    some = np.abs(flat[:: -(-flat.size // PART)].astype(np.float64))
    some = some[some > 0]
    return bool(some.size and some.max() > _HUGE and some.max() / some.min() > 10.0**_DECADES)
