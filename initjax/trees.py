"""Initializes or rescales a whole tree of parameters by rules that match their paths.

A draw depends only on the key and on the parameter's own path, shape and initializer. So layers can
be added, renamed or reordered without changing the draws of the others.
"""

from __future__ import annotations

import fnmatch
import hashlib
import struct
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from initjax._drawing import draw_dtypes, draw_in_shards
from initjax._values import Initializer, checked_number, is_key

if TYPE_CHECKING:
    import jax

Params = TypeVar("Params")
"""A tree of parameters, of any type: what takes one and returns one keeps its type."""


def named_key(key: jax.Array, name: str) -> jax.Array:
    """Derives a key from a name, such as a parameter's path or a stream of random numbers.

    It folds in 64 bits of the name's SHA-256. Two names in a tree practically never share a key,
    and a name gives the same key on every machine and in every version.

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
    """Draws new parameters for a tree. Each uses the first rule whose pattern matches its path.

    Works with Linen variables, NNX states and modules, Equinox modules and plain trees. A path
    joins the keys, indices and attributes that lead to a leaf with "/", as in
    `"params/Dense_0/kernel"`. Parameters that no rule matches keep their values. So do leaves that
    aren't floating-point or complex arrays.

    A sharded parameter is drawn in shards, each on its own device. A parameter on one device stays
    there. Under `jit`, pass `out_shardings` to `jit`. The numbers are bit-for-bit the same for
    every sharding. (With JAX 0.12, the last bit may differ in shards with fewer than seven numbers
    along the last axis.) Inside and outside of `jit`, the last bit may differ, as in JAX. JAX's own
    initializers work here too; for a sharded parameter, they are compiled whole.

    Args:
      params: a tree whose leaves have a `shape` and a `dtype`: arrays, or the result of
        `jax.eval_shape` or `nnx.eval_shape`.
      key: a PRNG key; each parameter's own key is `named_key(key, path)`.
      rules: a dictionary from patterns to initializers. In a pattern, `*` matches any text,
        including "/"; `?` matches one character, and `[ab]` one of several.

    Returns:
      A tree with the same structure, shapes and dtypes.

    Raises:
      TypeError: key isn't a PRNG key, or rules isn't a mapping from strings to initializers.
      ValueError: a pattern matches no parameter, a parameter given as a shape has no rule, two
        parameters have the same path, or an initializer can't draw a shape; the message names the
        pattern or path.

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

    if not _has_patterns(rules) or not all(map(callable, rules.values())):
        raise TypeError(
            "initialize: rules must map patterns to initializers, as in"
            f" {{'*bias': zeros, '*': he_normal()}}, got {rules!r}"
        )
    if not is_key(key):
        raise TypeError(
            f"initialize: key must be a PRNG key, such as jax.random.key(0), got a"
            f" {type(key).__name__}; call initialize(params, key, rules)"
        )
    leaves, structure, matches = match("initialize", params, rules)
    keys = _keys(key, [name for name, _, _ in matches])
    for leaf_key, (name, index, initializer) in zip(keys, matches, strict=True):
        try:
            leaves[index] = _draw_like(leaves[index], leaf_key, initializer)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from error
    return jax.tree_util.tree_unflatten(structure, leaves)


def rescale(params: Params, factors: Mapping[str, float]) -> Params:
    """Multiplies each parameter of a tree by the first factor whose pattern matches its path.

    Only the scale changes: the distribution's shape and the pairing by seed stay. A factor of 0
    turns a branch off. Paths and patterns are those of `initialize`; parameters that no pattern
    matches stay as they are. Products of narrow floats are rounded once.

    Args:
      params: a tree of arrays.
      factors: finite numbers by pattern.

    Returns:
      A tree of the same structure, shapes, dtypes and shardings.

    Raises:
      TypeError: factors isn't a mapping from strings to numbers.
      ValueError: a factor is not finite, a pattern matches no parameter, a matching parameter is
        only a shape, or two have the same path.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"block": {"out": jnp.ones(2)}, "head": jnp.ones(2)}
      >>> rescale(params, {"block/*": 0.5})["block"]["out"].tolist()
      [0.5, 0.5]
    """
    import jax
    import jax.numpy as jnp

    if not _has_patterns(factors):
        raise TypeError(f"rescale: factors must map patterns to numbers, got {factors!r}")
    numbers = {
        pattern: checked_number("rescale", f"the factor of {pattern!r}", factor)
        for pattern, factor in factors.items()
    }
    leaves, structure, matches = match("rescale", params, numbers)
    for name, index, factor in matches:
        if isinstance(leaves[index], jax.ShapeDtypeStruct):
            raise ValueError(f"rescale: {name!r} has no value to multiply")
        leaf = jnp.asarray(leaves[index])
        _, wide = draw_dtypes(leaf.dtype, None)
        leaves[index] = (leaf.astype(wide) * wide.type(factor)).astype(leaf.dtype)
    return jax.tree_util.tree_unflatten(structure, leaves)


def match(
    owner: str, params: Any, rules: Mapping[str, Any]
) -> tuple[list[Any], Any, list[tuple[str, int, Any]]]:
    """The leaves of a tree, its structure, and the leaves that a rule matches.

    Args:
      owner: the name of the function, for errors.
      params: a tree.
      rules: anything by pattern.

    Returns:
      The leaves, the structure, and a path, an index into the leaves and the first rule that
      matches for every floating or complex leaf that has one, in the tree's order.

    Raises:
      ValueError: a pattern matches no parameter, a parameter given as a shape has no rule, or
        two parameters have the same path.
    """
    import jax
    import jax.numpy as jnp

    leaves, structure = jax.tree.flatten(params)
    unused, names, matches = set(rules), [], {}
    for index, (name, leaf) in enumerate(zip(paths(params), leaves, strict=True)):
        if not jnp.issubdtype(getattr(leaf, "dtype", None) or np.bool_, jnp.inexact):
            continue
        names.append(name)
        matching = [pattern for pattern in rules if fnmatch.fnmatchcase(name, pattern)]
        unused -= set(matching)
        if not matching:
            if isinstance(leaf, jax.ShapeDtypeStruct):
                raise ValueError(
                    f"{owner}: no rule matches {name!r}, and it has no value to keep; a pattern"
                    f" must match the whole path, as '*{name.rpartition('/')[2]}' does"
                )
            continue
        if name in matches:
            raise ValueError(f"{owner}: two parameters have the path {name!r}")
        matches[name] = name, index, rules[matching[0]]
    if unused and names:
        raise ValueError(
            f"{owner}: no parameter matches {sorted(unused)[0]!r}; the paths are"
            f" {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
        )
    return leaves, structure, list(matches.values())


def paths(params: Any) -> list[str]:
    """The paths of a tree's leaves, such as `"params/Dense_0/kernel"`, in the tree's order."""
    import jax

    nodes, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=_is_box)
    boxes = {path for path, node in nodes if _is_box(node)}
    return [
        jax.tree_util.keystr(path[:-1] if path[:-1] in boxes else path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]
    ]


def _has_patterns(rules: Any) -> bool:
    """Whether it is a mapping whose keys are strings."""
    return isinstance(rules, Mapping) and all(isinstance(pattern, str) for pattern in rules)


def _is_box(node: Any) -> bool:
    """Whether a node of a tree is Flax's box around a parameter."""
    kinds = (("flax.nnx", "Variable"), ("flax.core.meta", "AxisMetadata"))
    return any(
        isinstance(node, getattr(sys.modules[module], kind))
        for module, kind in kinds
        if module in sys.modules
    )


def _keys(key: jax.Array, names: list[str]) -> Iterable[jax.Array]:
    """The keys of all names, folded at once so that XLA compiles only two programs."""
    import jax

    if "rbg" in str(jax.random.key_impl(key)):  # rbg keys fold differently under vmap
        return [named_key(key, name) for name in names]
    words = np.array([_words(name) for name in names], np.uint32).reshape(-1, 2)
    return jax.vmap(_fold_in, (None, 0))(key, words)


def _draw_like(leaf: Any, key: jax.Array, initializer: Initializer) -> jax.Array:
    import jax
    from jax.core import Tracer

    sharding = None if isinstance(key, Tracer) else _sharding(leaf)
    if sharding is None:
        return initializer(key, leaf.shape, leaf.dtype)
    if sharding.num_devices > 1:
        return draw_in_shards(initializer, key, leaf.shape, leaf.dtype, sharding)
    (device,) = sharding.device_set
    drawn = initializer(jax.device_put(key, device), leaf.shape, leaf.dtype)
    return jax.device_put(drawn, sharding)


def placed_like(leaf: Any, array: jax.Array) -> jax.Array:
    """The array, placed on the leaf's devices."""
    import jax
    from jax.core import Tracer

    sharding = None if isinstance(array, Tracer) else _sharding(leaf)
    return array if sharding is None else jax.device_put(array, sharding)


def _sharding(leaf: Any) -> jax.sharding.Sharding | None:
    """The sharding of a leaf; None where JAX decides."""
    import jax
    from jax.core import Tracer

    sharding = None if isinstance(leaf, Tracer) else getattr(leaf, "sharding", None)
    if not isinstance(sharding, jax.sharding.Sharding) or not getattr(leaf, "committed", True):
        return None
    return sharding


def _words(name: str) -> tuple[int, ...]:
    return struct.unpack(">2I", hashlib.sha256(name.encode()).digest()[:8])


def _fold_in(key: jax.Array, words: Any) -> jax.Array:
    import jax

    for word in (words[0], words[1]):
        key = jax.random.fold_in(key, word)
    return key
