"""Initialize or rescale a whole tree of parameters, each by a rule that its path selects.

A draw depends on the key and on the parameter's own path, shape and initializer, and on nothing
else in the tree: layers can be added, renamed or reordered, and all others keep their draws.
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
from initjax._values import Initializer, checked_number

if TYPE_CHECKING:
    import jax

Params = TypeVar("Params")
"""A tree of parameters, of any type: what takes one and returns one keeps its type."""


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

    A parameter that is sharded over devices is drawn in shards, each on its device; one that has
    been put on a device stays there. Under `jit` give `out_shardings` to `jit`. The numbers are the
    same to the bit however a parameter is sharded, outside of `jit` and inside of it. (JAX 0.12
    compiles otherwise what has fewer than seven numbers along its last axis; the last bit may
    differ in shards as narrow as that.) Between inside and outside the last bit may differ, as it
    does for JAX's own initializers; these may also be given here, but are then compiled whole for
    a sharded parameter, as inside of `jit`.

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

    if not _has_patterns(rules) or not all(map(callable, rules.values())):
        raise TypeError(
            "initialize: rules must map patterns to initializers, as in"
            f" {{'*bias': zeros, '*': he_normal()}}, got {rules!r}"
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
    """Multiplies the parameters of a tree, each by the first factor whose pattern its path matches.

    What the model has drawn keeps its law and its pairing by seed, whatever its layout; only its
    scale changes. A factor of 0 silences a branch. Paths and patterns are those of `initialize`;
    what no pattern matches stays as it is. Products of narrow floats are rounded once.

    Args:
      params: a tree of arrays.
      factors: finite numbers by pattern.

    Returns:
      A tree of the same structure, shapes, dtypes and shardings.

    Raises:
      TypeError: factors is no mapping of texts to numbers.
      ValueError: a factor is not finite, a pattern matches no parameter, a matching parameter is
        but a shape, or two have one path.

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
    """The leaves of a tree, its structure, and which of the leaves a rule serves.

    Args:
      owner: the function that an error names.
      params: a tree.
      rules: anything by pattern.

    Returns:
      The leaves, the structure, and a path, an index into the leaves and the first rule that
      matches for every floating or complex leaf that has one, in the tree's order.

    Raises:
      ValueError: a pattern matches no parameter, a parameter that is but a shape has no rule, or
        two have one path.
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
                    f" matches whole paths, as '*{name.rpartition('/')[2]}' does this one"
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
    """Whether it is a mapping whose keys are texts."""
    return isinstance(rules, Mapping) and all(isinstance(pattern, str) for pattern in rules)


def _is_box(node: Any) -> bool:
    """Whether a node of a tree is what Flax puts around a parameter; there is none without Flax."""
    kinds = (("flax.nnx", "Variable"), ("flax.core.meta", "AxisMetadata"))
    return any(
        isinstance(node, getattr(sys.modules[module], kind))
        for module, kind in kinds
        if module in sys.modules
    )


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

    sharding = None if isinstance(key, Tracer) else _sharding(leaf)
    if sharding is None:
        return initializer(key, leaf.shape, leaf.dtype)
    if sharding.num_devices > 1:
        return draw_in_shards(initializer, key, leaf.shape, leaf.dtype, sharding)
    (device,) = sharding.device_set
    drawn = initializer(jax.device_put(key, device), leaf.shape, leaf.dtype)
    return jax.device_put(drawn, sharding)


def placed_like(leaf: Any, array: jax.Array) -> jax.Array:
    """The array where the leaf is."""
    import jax
    from jax.core import Tracer

    sharding = None if isinstance(array, Tracer) else _sharding(leaf)
    return array if sharding is None else jax.device_put(array, sharding)


def _sharding(leaf: Any) -> jax.sharding.Sharding | None:
    """Where a leaf is, or is to be; None where that is left to JAX."""
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
