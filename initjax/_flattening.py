"""Takes a tree of parameters apart into its arrays, and puts it together again.

A tree may hold more than arrays: functions, strings and dtypes in a module of Equinox. A module of
Flax NNX is a graph: several of its paths may lead to one parameter.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterable, Sequence
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
    _leaves: tuple[Any, ...]
    """The leaves of the tree without graphs; None in place of arrays."""
    _is_array: tuple[bool, ...]
    _inner: Any
    """The structure of the tree without graphs."""
    _outer: Any
    """The structure of the tree, with NNX's objects as leaves."""
    _graph: Any
    """What `nnx.split` says of these objects; None if there are none."""

    def unflatten(self, arrays: Sequence[Any]) -> Any:
        """The tree with these arrays."""
        given = iter(arrays)
        leaves = [
            next(given) if is_array else leaf
            for leaf, is_array in zip(self._leaves, self._is_array, strict=True)
        ]
        tree = self._inner.unflatten(leaves)
        if self._graph is None:
            return tree
        nnx = sys.modules["flax.nnx"]
        nodes = self._outer.flatten_up_to(tree)
        places, graph = self._graph
        state = {
            number: nodes[place]
            for number, place in enumerate(places)
            if nodes[place] is not None  # an object that another path leads to
        }
        for place, node in zip(places, nnx.merge(graph, nnx.State(state)), strict=True):
            nodes[place] = node
        return self._outer.unflatten(nodes)

    def others(self) -> list[tuple[str, Any]]:
        """The leaves that aren't arrays, with their places."""
        import jax

        found = jax.tree_util.tree_flatten_with_path(self._inner.unflatten(self._leaves))[0]
        return [(jax.tree_util.keystr(path), leaf) for path, leaf in found]


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """The arrays of a tree, and all else.

    Arrays are JAX's and NumPy's, shapes with a dtype, and Python's numbers. In a module of Equinox,
    Python's numbers are no arrays, as for `equinox.is_array`. A parameter of an NNX module that
    several paths lead to is there once, by its first path.

    Args:
      tree: any pytree, or a module of Flax NNX.
    """
    import jax

    nodes, outer = jax.tree.flatten(tree, is_leaf=_is_graph)
    places = tuple(place for place, node in enumerate(nodes) if _is_graph(node))
    graph = None
    if places:
        graphdef, state = sys.modules["flax.nnx"].split([nodes[place] for place in places])
        for number, place in enumerate(places):
            nodes[place] = state[number] if number in state else None
        graph = places, graphdef
        tree = outer.unflatten(nodes)
    found, inner = jax.tree_util.tree_flatten_with_path(tree)
    leaves = [leaf for _, leaf in found]
    is_chosen = tuple(
        is_array(leaf) or (_is_number(leaf) and module is None)
        for leaf, module in zip(leaves, inside(tree, _kinds(("equinox", "Module"))), strict=True)
    )

    def chosen(values: Iterable[Any]) -> list[Any]:
        return list(itertools.compress(values, is_chosen))

    def alone(wanted: bool) -> list[Any]:
        """The leaves that are arrays, or those that aren't; None in place of the others."""
        return [leaf if it is wanted else None for leaf, it in zip(leaves, is_chosen, strict=True)]

    structure = Structure(
        arrays=jax.tree.structure(inner.unflatten(alone(True))),
        names=tuple(chosen(paths(tree))),
        places=tuple(chosen(jax.tree_util.keystr(path) for path, _ in found)),
        _leaves=tuple(alone(False)),
        _is_array=is_chosen,
        _inner=inner,
        _outer=outer,
        _graph=graph,
    )
    return chosen(leaves), structure


def paths(tree: Any) -> list[str]:
    """The paths of a tree's leaves, without Flax's boxes, in the tree's order."""
    import jax

    nodes, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_box)
    boxes = {path for path, node in nodes if _is_box(node)}
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
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"a {type(value).__name__}"


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, bool | int | float | complex)


def _is_graph(node: Any) -> bool:
    """Whether a node of a tree is an object of NNX, to which several paths may lead."""
    return isinstance(node, _kinds(("flax.nnx", "Module"), ("flax.nnx", "Variable")))


def _is_box(node: Any) -> bool:
    """Whether a node of a tree is Flax's box around a parameter."""
    return isinstance(node, _kinds(("flax.nnx", "Variable"), ("flax.core.meta", "AxisMetadata")))


def _kinds(*names: tuple[str, str]) -> tuple[type, ...]:
    """Classes of other libraries, by module and name, as far as they have been imported."""
    found = (getattr(sys.modules.get(module), name, None) for module, name in names)
    return tuple(kind for kind in found if kind is not None)
