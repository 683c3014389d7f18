"""Watches: values that a pass returns, besides those of layers."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

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
    """Values to return."""

    places: dict[str, Place]
    """The values by their names."""
    kind: str
    """What is computed of them: the name of a row of `KINDS` in `_measuring/watched.py`."""
    static: Hashable = None
    """What that depends on besides the arrays."""
