"""Trees of arrays as what a file can hold: named arrays, without the keys of `jax.random`."""

from typing import Any

import jax


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def words(tree: Any) -> Any:
    """A tree with the words of keys in place of keys, which NumPy doesn't have."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)


def keys(words: Any, like: Any) -> Any:
    """Undoes `words`: a tree with keys where another one has them, and of the same kind."""
    return jax.tree.map(
        lambda x, one: (
            jax.random.wrap_key_data(x, impl=jax.random.key_impl(one)) if is_key(one) else x
        ),
        words,
        like,
    )


def is_key(leaf: Any) -> bool:
    """Whether an array, or its description, is of keys."""
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
