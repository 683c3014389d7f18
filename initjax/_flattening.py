"""Takes a tree of parameters apart into its arrays, and puts it together again.

A tree may hold more than arrays: functions, strings and dtypes in a module of Equinox. A module of
Flax NNX is a graph: several of its paths may lead to one parameter.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Structure:
    """All of a tree but its arrays."""

    arrays: Any
    """The structure of a plain tree of the arrays alone, of class `jax.tree_util.PyTreeDef`."""
    names: tuple[str, ...]
    """The paths of the arrays, such as "params/Dense_0/kernel"."""
    places: tuple[str, ...]
    """The same in Python, such as "['params']['Dense_0']['kernel']"."""
    others: tuple[tuple[str, Any], ...]
    """The places and values of the leaves that aren't arrays."""
    _is_array: tuple[bool, ...]
    """Whether each leaf is an array."""
    _inner: Any
    """The structure of the tree without graphs."""
    _outer: Any
    """The structure of the tree, with NNX's objects as leaves."""
    _graph: Any
    """The numbers of these objects, and what `nnx.split` says of them; None if there are none."""

    def unflatten(self, arrays: Sequence[Any]) -> Any:
        """The tree with these arrays."""
        given, others = iter(arrays), (leaf for _, leaf in self.others)
        leaves = [next(given if is_array else others) for is_array in self._is_array]
        tree = self._inner.unflatten(leaves)
        if self._graph is None:
            return tree
        nnx = sys.modules["flax.nnx"]
        nodes = self._outer.flatten_up_to(tree)
        numbers, graph = self._graph
        state = {
            place: nodes[number]
            for place, number in enumerate(numbers)
            if nodes[number] is not None  # an object that another path leads to
        }
        for number, node in zip(numbers, nnx.merge(graph, nnx.State(state)), strict=True):
            nodes[number] = node
        return self._outer.unflatten(nodes)


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """The arrays of a tree, and all else.

    Arrays are JAX's and NumPy's, shapes with a dtype, and Python's numbers. Flags, True and False,
    are none: programs branch on them. In a module of Equinox, Python's numbers are no arrays
    either, as for `equinox.is_array`. A parameter of an NNX module that
    several paths lead to is there once, by its first path.

    Args:
      tree: any pytree, or a module of Flax NNX.
    """
    import jax

    # Objects of NNX, to which several paths may lead.
    kinds = classes(("flax.nnx", "Module"), ("flax.nnx", "Variable"))
    nodes, outer = jax.tree.flatten(tree, is_leaf=lambda node: isinstance(node, kinds))
    numbers = tuple(number for number, node in enumerate(nodes) if isinstance(node, kinds))
    graph = None
    if numbers:
        graphdef, state = sys.modules["flax.nnx"].split([nodes[number] for number in numbers])
        for place, number in enumerate(numbers):
            nodes[number] = state[place] if place in state else None
        graph = numbers, graphdef
        tree = outer.unflatten(nodes)
    found, inner = jax.tree_util.tree_flatten_with_path(tree)
    modules = inside(tree, classes(("equinox", "Module")))
    chosen = tuple(
        is_array(leaf) or (_is_number(leaf) and module is None)
        for (_, leaf), module in zip(found, modules, strict=True)
    )
    places = [jax.tree_util.keystr(path) for path, _ in found]
    arrays = inner
    if not all(chosen):
        alone = [leaf if it else None for (_, leaf), it in zip(found, chosen, strict=True)]
        arrays = jax.tree.structure(inner.unflatten(alone))
    structure = Structure(
        arrays=arrays,
        names=tuple(itertools.compress(paths(tree), chosen)),
        places=tuple(itertools.compress(places, chosen)),
        others=tuple(
            (place, leaf)
            for place, (_, leaf), it in zip(places, found, chosen, strict=True)
            if not it
        ),
        _is_array=chosen,
        _inner=inner,
        _outer=outer,
        _graph=graph,
    )
    return [leaf for (_, leaf), it in zip(found, chosen, strict=True) if it], structure


def paths(tree: Any) -> list[str]:
    """The paths of a tree's leaves, without Flax's boxes, in the tree's order."""
    import jax

    kinds = classes(("flax.nnx", "Variable"), ("flax.core.meta", "AxisMetadata"))
    nodes, _ = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda node: isinstance(node, kinds)
    )
    boxes = {path for path, node in nodes if isinstance(node, kinds)}
    return [
        jax.tree_util.keystr(path[:-1] if path[:-1] in boxes else path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array that JAX can take, or stands for one by its shape and dtype."""
    import jax

    if isinstance(leaf, type) or not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        return False  # classes such as jnp.float32 have a dtype, too
    try:
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.extended):  # keys
            return True
        dtype = np.dtype(leaf.dtype)
    except TypeError:  # another library's
        return False
    return dtype.kind in "biufcV" and dtype.type is not np.void


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, int | float | complex) and not isinstance(leaf, bool)


def is_parameter(leaf: Any) -> bool:
    """Whether a leaf is an array that can have a gradient."""
    import jax.numpy as jnp

    return is_array(leaf) and bool(jnp.issubdtype(leaf.dtype, jnp.inexact))


def inside(tree: Any, kinds: tuple[type, ...]) -> list[Any]:
    """For each leaf of a tree the outermost object of these kinds that holds it, or None."""
    import jax

    holders: list[Any] = []
    for node in jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kinds)):
        held = isinstance(node, kinds)
        holders += [node] * len(jax.tree.leaves(node)) if held else [None]
    return holders


def no_parameters(owner: str, tree: Any) -> Exception:
    """The error of a public function for a tree without floating or complex arrays."""
    import jax

    if callable(tree) and jax.tree_util.all_leaves([tree]):
        return TypeError(
            f"{owner}: params must be a tree of arrays, got {described(tree)}; pass its parameters,"
            " such as model.init(key, x) in Flax Linen"
        )
    return ValueError(f"{owner}: params holds no floating array, got {described(tree)}")


def described(value: Any) -> str:
    """What an error calls a value that may be too large to print."""
    text, kind = repr(value), type(value).__name__
    if len(text) <= 60 and "\n" not in text:
        return text
    return f"an {kind}" if kind[0] in "AEIOU" else f"a {kind}"


def classes(*names: tuple[str, str]) -> tuple[type, ...]:
    """Classes of other libraries, by module and name, as far as they have been imported."""
    found = (getattr(sys.modules.get(module), name, None) for module, name in names)
    return tuple(kind for kind in found if kind is not None)
