"""Watches: values that a pass returns, besides those of layers, and what is computed of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from initjax.auditing._reading.expressions import Path


class Place(NamedTuple):
    """Where a pass takes a value from."""

    path: Path
    """The equation; empty for a constant or an argument of the whole program."""
    position: int
    """Which of its operands or results; which of the program's constants and arguments."""
    operand: bool = False
    """Whether it is an operand of the equation."""


class Watch(NamedTuple):
    """Values to return, and the statistics to compute of them after the pass."""

    places: dict[str, Place]
    """The values by their names."""
    statistics: Callable[[Any, dict[str, Any], Any], dict[str, Any]]
    """A function at the top of a module, of `static`, the arrays by their names, and what finds the
    flat parts of an activation. Written for NumPy and `jax.numpy` alike. Arrays have the lengths of
    the loops around them as leading axes; those of a while loop are of its last turn."""
    static: Hashable = None
    """What the statistics depend on besides the arrays."""
    sample: Callable[[str, Any], Any] | None = None
    """Maps a name and an array, in the pass, to the part of it that is returned, such as its first
    examples; the arrays themselves if None."""
