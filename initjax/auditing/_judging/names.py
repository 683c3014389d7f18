"""What a finding is about: parameters, their slices and uses, and the text that names them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter, or one slice of it, or one of its uses."""

    index: int
    """Its place in `jax.tree.leaves(params)`."""
    path: str
    """Its path in the tree, such as 'hidden/0/kernel'."""
    slice: tuple[int, ...] = ()
    """Which slice along the leading axes, if loops or `vmap` stack layers there."""
    use: int = 1
    """Which of the layers that use it, in the order of execution."""


def label(parameters: Sequence[Parameter]) -> str:
    """The name of a layer or parameter in texts, such as 'kernel[3]' or 'embedding (use 2)'.

    Args:
      parameters: what a weight is made of: all with the same slice and use.
    """
    return " and ".join(dict.fromkeys(each.path for each in parameters)) + suffix(parameters)


def suffix(parameters: Sequence[Parameter]) -> str:
    """The part of a name behind the path."""
    first = parameters[0]
    slices = "".join(f"[{number}]" for number in first.slice)
    return slices + (f" (use {first.use})" if first.use > 1 else "")


def some(names: Sequence[str], most: int = 3) -> str:
    """Names for a sentence: the first ones, and how many more there are."""
    names = list(dict.fromkeys(names))
    more = len(names) - most
    *first, last = names if more <= 0 else [*names[:most], f"{more} more"]
    return f"{', '.join(first)} and {last}" if first else last
