"""What the stages of a repair pass on to each other."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from initjax.auditing._repairing.reasons import Reason
from initjax.auditing._repairing.repair import Change
from initjax.trees import placed_like


@dataclasses.dataclass(frozen=True)
class Draft:
    """Parameters in the middle of a repair."""

    leaves: tuple[Any, ...]
    """The parameters, in the order of their tree."""
    changes: tuple[Change, ...] = ()
    """What was changed so far."""
    left: tuple[tuple[str, Reason], ...] = ()
    """The names of the parameters that are left unchanged, and why."""

    @property
    def changed(self) -> frozenset[str]:
        """The names of the parameters that were changed."""
        return frozenset(change.name for change in self.changes)

    def with_change(self, index: int, leaf: Any, change: Change) -> Draft:
        """The draft with another value for one parameter."""
        leaves = (*self.leaves[:index], leaf, *self.leaves[index + 1 :])
        changes = {each.name: each for each in self.changes}
        earlier = changes.get(change.name)
        changes[change.name] = change if earlier is None else earlier.then(change)
        return dataclasses.replace(self, leaves=leaves, changes=tuple(changes.values()))

    def without_change(self, name: str, reason: Reason) -> Draft:
        """The draft with the reason why a parameter is left unchanged."""
        left = dict.fromkeys((*self.left, (name, reason)))  # each once
        return dataclasses.replace(self, left=tuple(left))


def scaled(leaf: Any, factor: np.ndarray) -> Any:
    """A parameter times numbers, rounded once."""
    wide = np.result_type(leaf.dtype, np.float32)
    return like(leaf, leaf.astype(wide) * factor.astype(wide))


def like(leaf: Any, array: Any) -> Any:
    """An array with a parameter's dtype and sharding. NumPy's arrays stay NumPy's, so that float64
    survives without x64."""
    import jax.numpy as jnp

    if isinstance(leaf, np.ndarray):
        return np.asarray(array).astype(leaf.dtype)
    return placed_like(leaf, jnp.asarray(array).astype(leaf.dtype))
