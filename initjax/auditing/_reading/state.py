"""The state of one reading of a program."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from initjax.auditing._reading.expressions import Path, floating, number
from initjax.auditing._reading.sites import Site
from initjax.auditing._reading.tags import Signal, Tag


@dataclasses.dataclass
class Reading:
    """What has been found so far, and where the reading is."""

    matrix: Tag
    """The tag of floating constants with two or more axes."""
    array: Tag
    """The tag of all other arrays that come neither from parameters nor from the batch."""
    sizes: list[int]
    """How many elements each input of the program has."""
    sites: dict[Path, Site] = dataclasses.field(default_factory=dict)
    unread: dict[str, frozenset[int]] = dataclasses.field(default_factory=dict)
    """What could not be read, and the parameters that enter there."""
    factors: set[int] = dataclasses.field(default_factory=set)
    """The parameters that multiply what sites give, as the scale of a norm does."""
    constant_products: bool = False
    """Whether parameters are multiplied by constants in products that would be sites if the
    constants were data."""
    inside: set[Path] = dataclasses.field(default_factory=set)
    """Sites that only help to make a weight, such as those that compute its spectral norm."""
    ruled: set[Path] = dataclasses.field(default_factory=set)
    """Calls of functions with their own differentiation rule."""
    loops: list[tuple[Path, int | None]] = dataclasses.field(default_factory=list)
    """The loops around the current equation, outermost first, with their lengths."""
    scopes: list[Path] = dataclasses.field(default_factory=list)
    """The loops, branches and recomputed parts around the current equation, outermost first."""
    backward: set[Path] = dataclasses.field(default_factory=set)
    """The loops that start with the last slice."""

    def constant(self, value: Any) -> Tag:
        """The tag of a constant."""
        known = number(value) if np.size(value) == 1 else None
        if known is not None:
            return Tag(signal=Signal(None, known))
        return self.matrix if np.ndim(value) > 1 and floating(value.dtype) else self.array

    @contextlib.contextmanager
    def scope(self, path: Path) -> Iterator[None]:
        """Marks everything read inside as being in a loop, branch or recomputed part."""
        self.scopes.append(path)
        yield
        self.scopes.pop()

    def note_unread(self, what: str, leaves: frozenset[int]) -> None:
        """Notes that parameters enter an equation that cannot be read."""
        self.unread[what] = self.unread.get(what, frozenset()) | leaves
