"""PRNG keys: which are valid, and keys that are derived from names."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax._flattening import described

if TYPE_CHECKING:
    import jax


def named_key(key: jax.Array, name: str) -> jax.Array:
    """Derives a key from a name, such as a parameter's path or a stream of random numbers.

    It folds in 64 bits of the name's SHA-256. Two names in a tree practically never share a key,
    and a name gives the same key on every machine and in every version.

    Args:
      key: a PRNG key.
      name: any text, such as `"hidden/0/kernel"` or `"batch order"`.

    Returns:
      A PRNG key of the same kind.

    Raises:
      TypeError, ValueError: key isn't a single PRNG key, or name isn't a string.

    Example:
      >>> import jax
      >>> key = jax.random.key(0)
      >>> bool(named_key(key, "weights") == named_key(key, "batch order"))
      False
    """
    call = "call named_key(key, name)"
    if not isinstance(name, str):
        raise TypeError(f"named_key: name must be a string, got {described(name)}; {call}")
    return _fold_in(checked_key("named_key", key, call), _words(name))


def named_keys(key: jax.Array, names: list[str]) -> Iterable[jax.Array]:
    """The keys of all names, as by `named_key`, folded at once: XLA compiles only two programs."""
    import jax

    if "rbg" in str(jax.random.key_impl(key)):  # rbg keys fold differently under vmap
        return [named_key(key, name) for name in names]
    words = np.array([_words(name) for name in names], np.uint32).reshape(-1, 2)
    return jax.vmap(_fold_in, (None, 0))(key, words)


def checked_key(owner: str, key: Any, advice: str) -> Any:
    """The key, if it is a single PRNG key: typed, or raw and of JAX's default kind."""
    import jax

    try:
        jax.random.key_impl(key)
    except (TypeError, ValueError, AttributeError):
        raw = getattr(key, "dtype", None) == np.uint32
        if raw:
            kind = jax.config.jax_default_prng_impl  # pyright: ignore
            advice = (
                f"JAX takes a raw key for one of {kind}; for another kind write"
                ' jax.random.wrap_key_data(key, impl="rbg")'
            )
        given = f"a uint32 array of shape {np.shape(key)}" if raw else described(key)
        raise TypeError(
            f"{owner}: key must be a PRNG key, such as jax.random.key(0), got {given}; {advice}"
        ) from None
    axes = np.shape(key)
    axes = axes if jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key) else axes[:-1]
    if axes:
        raise ValueError(
            f"{owner}: key must be a single PRNG key, got an array of keys of shape {axes}; map"
            f" {owner} over them with jax.vmap"
        )
    return key


def _words(name: str) -> tuple[int, ...]:
    return struct.unpack(">2I", hashlib.sha256(name.encode()).digest()[:8])


def _fold_in(key: jax.Array, words: Any) -> jax.Array:
    import jax

    for word in (words[0], words[1]):
        key = jax.random.fold_in(key, word)
    return key
