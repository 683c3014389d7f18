"""Initializes or rescales a whole tree of parameters by rules that match their paths.

A draw depends only on the key and on the parameter's own path, shape and initializer. So layers can
be added, renamed or reordered without changing the draws of the others.
"""

from __future__ import annotations

import fnmatch
import glob
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from initjax._drawing import draw_in_shards
from initjax._flattening import Structure, described, flatten, is_parameter, no_parameters
from initjax._keys import checked_key, named_keys
from initjax._stacks import stack_warning
from initjax._statistics import statistic_leaves
from initjax._values import Initializer, checked_number, is_key, is_traced
from initjax.specs import get

if TYPE_CHECKING:
    import jax

Params = TypeVar("Params")
"""A tree of parameters, of any type: what takes one and returns one keeps its type."""


def initialize(
    params: Any, key: jax.Array, rules: Mapping[str, Initializer | str | Mapping[str, Any]]
) -> Any:
    """Draws new parameters for a tree. Each uses the first rule whose pattern matches its path.

    Works with Linen variables, NNX states and modules, Equinox modules and plain trees. A path
    joins the keys, indices and attributes that lead to a leaf with "/", as in
    `"params/Dense_0/kernel"`. Parameters that no rule matches keep their values. So do leaves that
    aren't floating-point or complex arrays, and the running statistics of BatchNorm (`batch_stats`
    of Linen, `BatchStat` of NNX), unless a pattern has "batch_stats" in it, or ends with the
    statistic's own name, as in "*mean": a rule for "*" draws no variances. A parameter of an NNX
    module that several paths lead to is drawn once, by its first path, and stays tied.

    A sharded parameter is drawn in shards, each on its own device. A parameter on one device stays
    there. Under `jit`, pass `out_shardings` to `jit`. The numbers are bit-for-bit the same for
    every sharding. (With JAX 0.12, the last bit may differ in shards with fewer than seven numbers
    along the last axis.) Inside and outside of `jit`, the last bit may differ, as in JAX. JAX's own
    initializers work here too; for a sharded parameter, they are compiled whole.

    Args:
      params: a tree whose leaves have a `shape` and a `dtype`: arrays, or the result of
        `jax.eval_shape` or `nnx.eval_shape`.
      key: a PRNG key; each parameter's own key is `named_key(key, path)`.
      rules: a dictionary from patterns to initializers or their specifications, such as
        "he_normal" (all that `get` takes). In a pattern, `*` matches any text, including "/"; `?`
        matches one character, `[ab]` one of several, and `[[]` a bracket. A path matches itself.

    Returns:
      A tree with the same structure, shapes and dtypes.

    Warns:
      UserWarning: a kernel looks like a stack of kernels, as `nn.scan` makes them, and its
        initializer counts the leading axis as inputs; pass `batch_axis=0`.

    Raises:
      TypeError: key isn't a PRNG key, rules isn't a mapping from strings to initializers, or params
        is a model and not its parameters.
      ValueError: params has no floating or complex array, key is an array of keys, a specification
        isn't valid, a pattern matches no parameter, a parameter given as a shape has no rule, two
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
    call = "call initialize(params, key, rules)"
    if is_key(rules) or (is_key(params) and not is_key(key)):
        raise TypeError(f"initialize: params, key and rules come in this order; {call}")
    checked_key("initialize", key, call)
    if not _has_patterns(rules):
        raise TypeError(f"initialize: {_RULES}, got {described(rules)}; {call}")
    rules = {pattern: _initializer(pattern, rule) for pattern, rule in rules.items()}
    leaves, structure, matches = match("initialize", params, rules, keep_statistics=True)
    shapes = {
        name: tuple(leaf.shape)
        for name, leaf in zip(structure.names, leaves, strict=True)
        if is_parameter(leaf)
    }
    warning = stack_warning(shapes, [(name, rule) for name, _, rule in matches])
    if warning:
        warnings.warn(warning, stacklevel=2)
    keys = named_keys(key, [name for name, _, _ in matches])
    for leaf_key, (name, index, initializer) in zip(keys, matches, strict=True):
        try:
            drawn = _draw_like(leaves[index], leaf_key, initializer)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from error
        shape = tuple(leaves[index].shape)
        if getattr(drawn, "shape", None) != shape:
            given = described(drawn) if callable(drawn) else f"shape {np.shape(drawn)}"
            raise ValueError(
                f"{name}: its initializer must return an array of shape {shape}, got {given};"
                " for a factory, such as jax.nn.initializers.he_normal, write the parentheses"
            )
        leaves[index] = drawn
    return structure.unflatten(leaves)


_RULES = "rules must map patterns to initializers, as in {'*bias': zeros, '*': he_normal()}"


def _initializer(pattern: str, rule: Any) -> Initializer:
    """The initializer of a rule, which may be a specification."""
    if isinstance(rule, str | Mapping) or hasattr(rule, "get_config"):
        try:
            return get(rule)
        except (TypeError, ValueError) as error:
            raise type(error)(f"initialize: the rule of {pattern!r}: {error}") from None
    if not callable(rule):
        raise TypeError(f"initialize: {_RULES}, got {described(rule)} for {pattern!r}")
    return cast(Initializer, rule)


def rescale(params: Params, factors: Mapping[str, float]) -> Params:
    """Multiplies each parameter of a tree by the first factor whose pattern matches its path.

    Only the scale changes: the distribution's shape and the pairing by seed stay. A factor of 0
    turns a branch off. Paths and patterns are those of `initialize`; parameters that no pattern
    matches stay as they are. Products of narrow floats are rounded once.

    Args:
      params: a tree of arrays.
      factors: finite numbers by pattern.

    Returns:
      A tree of the same structure, shapes, dtypes and shardings. NumPy arrays stay NumPy arrays.

    Raises:
      TypeError: factors isn't a mapping from strings to numbers.
      ValueError: params has no floating or complex array, a factor is not finite, or not in the
        dtype of the product, a pattern matches no parameter, a matching parameter is only a shape,
        or two have the same path.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"block": {"out": jnp.ones(2)}, "head": jnp.ones(2)}
      >>> rescale(params, {"block/*": 0.5})["block"]["out"].tolist()
      [0.5, 0.5]
    """
    return rescaled("rescale", params, factors)


def rescaled(owner: str, params: Params, factors: Mapping[str, float]) -> Params:
    """`rescale`, for a function that errors name."""
    import jax

    if not _has_patterns(factors):
        raise TypeError(f"{owner}: factors must map patterns to numbers, got {factors!r}")
    for pattern, factor in factors.items():
        if is_traced(factor) or is_key(factor):
            raise TypeError(
                f"{owner}: the factor of {pattern!r} must be a number that is known outside of"
                f" jax.jit, got {described(factor)}"
            )
    numbers = {
        pattern: checked_number(owner, f"the factor of {pattern!r}", factor)
        for pattern, factor in factors.items()
    }
    leaves, structure, matches = match(owner, params, numbers)
    for name, index, factor in matches:
        if isinstance(leaves[index], jax.ShapeDtypeStruct):
            raise ValueError(f"{owner}: {name!r} has no value to multiply")
        try:
            leaves[index] = _scaled(leaves[index], factor)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{owner}: {name!r}: {error}") from None
    return structure.unflatten(leaves)


def _scaled(leaf: Any, factor: float) -> Any:
    """A leaf times a number, rounded once. NumPy's stay NumPy's, so that float64 survives without
    x64."""
    import jax.numpy as jnp

    if isinstance(leaf, np.ndarray | np.generic):
        wide = np.result_type(leaf.dtype, np.float32)
        number = _in_dtype(wide, factor)
        with np.errstate(over="ignore"):  # as in JAX
            product = np.asarray(leaf.astype(wide) * number).astype(leaf.dtype)
        return product if isinstance(leaf, np.ndarray) else product[()]
    leaf = jnp.asarray(leaf)
    wide = leaf.dtype if leaf.dtype.itemsize > 2 else np.dtype(np.float32)
    return (leaf.astype(wide) * _in_dtype(wide, factor)).astype(leaf.dtype)


def _in_dtype(dtype: np.dtype, factor: float) -> Any:
    with np.errstate(all="ignore"):
        number = dtype.type(factor)
    if not np.isfinite(number) or bool(number) != bool(factor):
        raise ValueError(f"{dtype.name} can't hold the factor {factor!r}")
    return number


def match(
    owner: str, params: Any, rules: Mapping[str, Any], *, keep_statistics: bool = False
) -> tuple[list[Any], Structure, list[tuple[str, int, Any]]]:
    """The arrays of a tree, its structure, and the arrays that a rule matches.

    Args:
      owner: the name of the function, for errors.
      params: a tree.
      rules: anything by pattern.
      keep_statistics: whether a rule matches running statistics only if its pattern names them.

    Returns:
      The arrays, the structure, and a path, an index into the arrays and the first rule that
      matches for every floating or complex array that has one, in the tree's order.

    Raises:
      TypeError, ValueError: the tree has no floating or complex array, a pattern matches no
        parameter, a parameter given as a shape has no rule, or two parameters have the same path.
    """
    import jax

    arrays, structure = flatten(params)
    unused, names, matches = set(rules), [], {}
    statistics = statistic_leaves(structure.arrays.unflatten(arrays)) if keep_statistics else []
    for index, (name, array) in enumerate(zip(structure.names, arrays, strict=True)):
        if not is_parameter(array):
            continue
        names.append(name)
        matching = [pattern for pattern in rules if fits(name, pattern)]
        unused -= set(matching)
        if keep_statistics and statistics[index]:
            matching = [pattern for pattern in matching if _names_statistic(pattern, name)]
        if not matching:
            if isinstance(array, jax.ShapeDtypeStruct):
                raise ValueError(
                    f"{owner}: no rule matches {name!r}, and it has no value to keep; a pattern"
                    f" must match the whole path, as {literal('*', name)!r} does"
                )
            continue
        if name in matches:
            raise ValueError(f"{owner}: two parameters have the path {name!r}")
        matches[name] = name, index, rules[matching[0]]
    if not names:
        raise no_parameters(owner, params)
    if unused:
        pattern = sorted(unused)[0]
        raise ValueError(
            f"{owner}: no parameter matches {pattern!r}; {_advice(pattern, names)}the paths are"
            f" {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
        )
    return arrays, structure, list(matches.values())


def _names_statistic(pattern: str, path: str) -> bool:
    """Whether a pattern is meant for running statistics, too, and not just for any parameter."""
    return "batch_stats" in pattern or pattern.endswith(path.rpartition("/")[2])


def _advice(pattern: str, names: list[str]) -> str:
    """What to write instead of a pattern that matches nothing, if a small change matches."""
    bracket = pattern.replace("[", "[[]")
    others = ["*" + pattern, bracket, "*" + bracket, pattern.replace("*/", "*")]
    others += [pattern.replace(".*", "*"), pattern.replace(".", "/"), pattern.lstrip("/")]
    for other in others:
        if any(fits(name, other) for name in names):
            return f"write {other!r}; "
    return ""


def fits(path: str, pattern: str) -> bool:
    """Whether a pattern matches a path. The path itself does, whatever characters it has."""
    return path == pattern or fnmatch.fnmatchcase(path, pattern)


def literal(prefix: str, path: str) -> str:
    """A pattern of all paths that end as this one does: what comes after the last slash."""
    return prefix + glob.escape(path.rpartition("/")[2])


def _has_patterns(rules: Any) -> bool:
    """Whether it is a mapping whose keys are strings."""
    return isinstance(rules, Mapping) and all(isinstance(pattern, str) for pattern in rules)


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
    """The sharding of a leaf; None where JAX decides.

    A shape that was made under `jax.set_mesh` names an abstract mesh: it is on that one's devices.
    """
    import jax
    from jax.core import Tracer
    from jax.sharding import AbstractMesh, NamedSharding

    sharding = None if isinstance(leaf, Tracer) else getattr(leaf, "sharding", None)
    if not isinstance(sharding, jax.sharding.Sharding) or not getattr(leaf, "committed", True):
        return None
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, AbstractMesh):
        mesh = jax.sharding.get_mesh()
        known = mesh.abstract_mesh == sharding.mesh
        return NamedSharding(mesh, sharding.spec) if known else None
    return sharding
