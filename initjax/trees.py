"""Initialize a whole tree of parameters, each from a key of its own that its path determines.

A parameter's draw depends on the key and on its own path, shape and initializer, and on nothing
else in the tree: layers can be added, renamed or reordered, and all others keep their draws.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
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


def initialize(key: jax.Array, shapes: Any, initializer: Callable[[str], Initializer]) -> Any:
    """Draws all parameters of a tree.

    Args:
      key: a PRNG key; each parameter's own is `named_key(key, path)`.
      shapes: a tree whose leaves have a `shape` and a `dtype`: arrays, or what `jax.eval_shape`
        gives. (Of Flax NNX take `nnx.to_pure_dict(state)`: a state's own paths end in "value".)
      initializer: names the initializer of a path. A path joins the keys, indices and attributes
        on the way to a leaf with "/", as in `"params/Dense_0/kernel"`.

    Returns:
      A tree of the same structure with arrays of these shapes and dtypes.

    Raises:
      ValueError: an initializer cannot draw a shape; the message names the path.

    Example:
      >>> import jax
      >>> from initjax import he_normal, zeros
      >>> shapes = {"bias": jax.ShapeDtypeStruct((64,), "float32"),
      ...           "kernel": jax.ShapeDtypeStruct((128, 64), "float32")}
      >>> choose = lambda path: zeros if path.endswith("bias") else he_normal()
      >>> jax.tree.map(lambda leaf: leaf.shape, initialize(jax.random.key(0), shapes, choose))
      {'bias': (64,), 'kernel': (128, 64)}
    """
    import jax

    paths_and_leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths_and_leaves]
    # All keys at once: XLA compiles two foldings, not two for every parameter.
    words = np.array([_words(name) for name in names], np.uint32).reshape(-1, 2)
    keys = jax.vmap(_fold_in, (None, 0))(key, words)
    params = []
    for name, leaf_key, (_, leaf) in zip(names, keys, paths_and_leaves, strict=True):
        try:
            params.append(initializer(name)(leaf_key, leaf.shape, leaf.dtype))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from error
    return jax.tree_util.tree_unflatten(structure, params)


def _words(name: str) -> tuple[int, ...]:
    return struct.unpack(">2I", hashlib.sha256(name.encode()).digest()[:8])


def _fold_in(key: jax.Array, words: Any) -> jax.Array:
    import jax

    for word in (words[0], words[1]):
        key = jax.random.fold_in(key, word)
    return key
