"""Initialize a whole tree of parameters, each from a key of its own that its path determines.

A parameter's draw depends on the key and on its own path, shape and initializer, and on nothing
else in the tree: layers can be added, renamed or reordered, and all others keep their draws.
"""

from __future__ import annotations

import fnmatch
import hashlib
import struct
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax._values import Initializer

if TYPE_CHECKING:
    import jax


def named_key(key: jax.Array, name: str) -> jax.Array:
    """Derives the key of what a name stands for: a parameter's path, a stream of randomness.

    64 bits of the name's SHA-256 are folded in, so that two names of a tree practically never share
    a key, and a name gives the same key on every machine and in every version.

    Args:
      key: a PRNG key.
      name: any text, such as `"hidden/0/kernel"` or `"batch order"`.

    Returns:
      A PRNG key of the same kind.

    Example:
      >>> import jax
      >>> key = jax.random.key(0)
      >>> bool(named_key(key, "weights") == named_key(key, "batch order"))
      False
    """
    return _fold_in(key, _words(name))


def initialize(params: Any, key: jax.Array, rules: Mapping[str, Initializer]) -> Any:
    """Draws the parameters of a tree anew, each by the first rule whose pattern its path matches.

    Linen's variables, NNX's states and modules, Equinox's modules and plain trees serve alike. A
    path joins the keys, indices and attributes on the way to a leaf with "/", as in
    `"params/Dense_0/kernel"`; the box that Flax puts around a parameter does not count. Numbers
    without a rule stay as they are, and so does all that is no floating or complex array.

    A parameter that is sharded over devices is drawn in shards, each on its device. Under `jit`
    give `out_shardings` to `jit`. The numbers are the same on any mesh.

    Args:
      params: a tree whose leaves have a `shape` and a `dtype`: arrays, or what `jax.eval_shape` or
        `nnx.eval_shape` gives.
      key: a PRNG key; each parameter's own is `named_key(key, path)`.
      rules: initializers by pattern. In a pattern `*` stands for any text, "/" included, `?` for
        one character, `[ab]` for one of several.

    Returns:
      A tree of the same structure with arrays of these shapes and dtypes.

    Raises:
      TypeError: rules is no mapping of texts to initializers.
      ValueError: a pattern matches no parameter, a parameter that is but a shape has no rule, two
        have one path, or an initializer cannot draw a shape; the message names pattern or path.

    Example:
      >>> import jax
      >>> from initjax import he_normal, zeros
      >>> shapes = {"bias": jax.ShapeDtypeStruct((64,), "float32"),
      ...           "kernel": jax.ShapeDtypeStruct((128, 64), "float32")}
      >>> params = initialize(shapes, jax.random.key(0), {"*bias": zeros, "*": he_normal()})
      >>> jax.tree.map(lambda leaf: leaf.shape, params)
      {'bias': (64,), 'kernel': (128, 64)}
    """
    import jax
    import jax.numpy as jnp

    if not isinstance(rules, Mapping) or not all(map(callable, rules.values())):
        raise TypeError(
            "initialize: rules must map patterns to initializers, as in"
            f" {{'*bias': zeros, '*': he_normal()}}, got {rules!r}"
        )
    paths_and_leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    leaves: list[Any] = [leaf for _, leaf in paths_and_leaves]
    drawn: dict[str, tuple[int, Initializer]] = {}
    unused, names = set(rules), []
    for index, (path, leaf) in enumerate(paths_and_leaves):
        if not jnp.issubdtype(getattr(leaf, "dtype", None) or np.bool_, jnp.inexact):
            continue
        name = _name(path)
        names.append(name)
        matching = [pattern for pattern in rules if fnmatch.fnmatchcase(name, pattern)]
        unused -= set(matching)
        if not matching:
            if isinstance(leaf, jax.ShapeDtypeStruct):
                raise ValueError(
                    f"initialize: no rule matches {name!r}, and it has no value to keep"
                )
            continue
        if name in drawn:
            raise ValueError(f"initialize: two parameters have the path {name!r}")
        drawn[name] = index, rules[matching[0]]
    if unused and names:
        raise ValueError(
            f"initialize: no parameter matches {sorted(unused)[0]!r}; the paths are"
            f" {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
        )
    keys = _keys(key, list(drawn))
    for leaf_key, (name, (index, initializer)) in zip(keys, drawn.items(), strict=True):
        try:
            leaves[index] = _draw_like(leaves[index], leaf_key, initializer)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from error
    return jax.tree_util.tree_unflatten(structure, leaves)


def _name(path: tuple[Any, ...]) -> str:
    """The text of a path, without the box of a Flax parameter at its end."""
    import jax

    if len(path) > 1 and getattr(path[-1], "name", None) == "value":
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _keys(key: jax.Array, names: list[str]) -> Iterable[jax.Array]:
    """The keys that the names give: all at once, so that XLA compiles two foldings and no more."""
    import jax

    if "rbg" in str(jax.random.key_impl(key)):  # which folds otherwise when it is mapped
        return [named_key(key, name) for name in names]
    words = np.array([_words(name) for name in names], np.uint32).reshape(-1, 2)
    return jax.vmap(_fold_in, (None, 0))(key, words)


def _draw_like(leaf: Any, key: jax.Array, initializer: Initializer) -> jax.Array:
    import jax
    from jax.core import Tracer

    sharding = getattr(leaf, "sharding", None)
    traced = isinstance(leaf, Tracer) or isinstance(key, Tracer)
    if traced or not isinstance(sharding, jax.sharding.Sharding) or sharding.num_devices == 1:
        return initializer(key, leaf.shape, leaf.dtype)
    drawing = jax.jit(lambda key: initializer(key, leaf.shape, leaf.dtype), out_shardings=sharding)
    return drawing(key)


def _words(name: str) -> tuple[int, ...]:
    return struct.unpack(">2I", hashlib.sha256(name.encode()).digest()[:8])


def _fold_in(key: jax.Array, words: Any) -> jax.Array:
    import jax

    for word in (words[0], words[1]):
        key = jax.random.fold_in(key, word)
    return key
