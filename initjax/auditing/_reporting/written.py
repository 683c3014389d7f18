"""How the user's model is written: with Linen, NNX, Equinox, or as a plain tree."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

Style = Literal["linen", "nnx", "equinox", "plain"]

_NAMED_BY_LINEN = re.compile(r"\['[A-Z]\w*_\d+'\]")  # such as Dense_0
_ITEMS = re.compile(r"(\['[^']*'\]|\[\d+\])*")


class Written(NamedTuple):
    """How the user's model is written."""

    style: Style
    name: str
    """What the tree is called in code."""
    places: tuple[str, ...]
    """The paths of its arrays in Python, such as "['dense']['kernel']"."""
    assignable: bool
    """Whether it is made of dictionaries and lists, whose items can be replaced."""


def written(params: Any, places: Sequence[str]) -> Written:
    """Says how a model is written, from the types in its tree.

    Args:
      params: the tree as the user gave it.
      places: the paths of its arrays in Python.
    """
    nodes = [*_nodes(params)]
    modules = {base.__module__ for kind in set(map(type, nodes)) for base in kind.__mro__}
    if any(module.startswith("flax.nnx") for module in modules):
        whole = any(base.__name__ == "Module" for base in type(params).__mro__)
        return Written("nnx", "model" if whole else "params", tuple(places), False)
    if any(module.startswith("equinox") for module in modules):
        return Written("equinox", "model", tuple(places), False)
    linen = any(module.startswith("flax.core") for module in modules)
    linen = linen or (isinstance(params, Mapping) and isinstance(params.get("params"), Mapping))
    linen = linen or any(_NAMED_BY_LINEN.search(place) for place in places)
    fixed = any(
        isinstance(node, tuple) or (isinstance(node, Mapping) and not isinstance(node, dict))
        for node in nodes
    )
    assignable = not fixed and all(map(_ITEMS.fullmatch, places))
    return Written("linen" if linen else "plain", "params", tuple(places), assignable)


def _nodes(tree: Any) -> Iterator[Any]:
    """The tree itself, and what its dictionaries, lists and tuples hold."""
    yield tree
    children = tree.values() if isinstance(tree, Mapping) else tree
    if isinstance(children, Iterable) and isinstance(tree, Mapping | list | tuple):
        for child in children:
            yield from _nodes(child)
