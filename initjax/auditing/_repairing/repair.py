"""What a repair has done, and how it is shown."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any, NamedTuple

import numpy as np

from initjax._drawing import draw_dtypes
from initjax.auditing._judging.names import some
from initjax.auditing._reporting.report import Report
from initjax.trees import placed_like

_WIDTH = 100
_MOST_CHANGES = 16  # that are printed


class Change(NamedTuple):
    """What was done to one parameter."""

    name: str
    what: str
    """What was done and why."""
    factors: tuple[float, ...]
    """By what it was multiplied: once, or for every slice of a stacked one; empty if it was drawn
    anew or set to zero, or scaled unit by unit."""


@dataclasses.dataclass(frozen=True)
class Repair:
    """The result of `initjax.fix` besides the parameters. `print(repair)` shows it."""

    before: Report
    after: Report
    changes: tuple[Change, ...]
    left: tuple[tuple[str, str], ...]
    """The layers that were left alone, and why."""
    target: str
    """What the scales aim at."""
    warning: str

    @property
    def verdict(self) -> str:
        """That of the audit afterwards."""
        return self.after.verdict

    def __str__(self) -> str:
        count = len({change.name for change in self.changes})
        title = (
            f"initjax fix: {count} parameter{'' if count == 1 else 's'} changed;"
            f" {self.before.verdict} before, {self.after.verdict} after"
        )
        lines = [title, *wrapped(f"target: {self.target}", "    ")]
        width = min(44, max((len(change.name) for change in self.changes), default=0))
        shown = self.changes
        if len(shown) > _MOST_CHANGES:
            shown = (*shown[: _MOST_CHANGES // 2], None, *shown[-_MOST_CHANGES // 2 :])
        for change in shown:
            if change is None:
                lines.append(f"  ... {len(self.changes) - _MOST_CHANGES} more ...")
                continue
            factors = ", ".join(f"{factor:.4g}" for factor in change.factors[:3])
            if len(change.factors) > 3:
                factors += ", ..."
            times = f"times {factors}: " if factors else ""
            lines += wrapped(f"  {change.name:{width}}  {times}{change.what}", " " * (width + 4))
        reasons: dict[str, list[str]] = {}
        for name, reason in self.left:
            reasons.setdefault(reason, []).append(name)
        for reason, names in reasons.items():
            lines += wrapped(f"left alone: {some(names)}: {reason}", "    ")
        if self.warning:
            lines += wrapped(f"warning: {self.warning}", "    ")
        return "\n".join([*lines, "", "after:", str(self.after)])


def wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent=indent, drop_whitespace=True,
                         break_long_words=False, break_on_hyphens=False,
                         replace_whitespace=False)  # fmt: skip


def scaled(leaf: Any, factor: np.ndarray) -> Any:
    """A leaf times numbers, rounded once."""
    import jax.numpy as jnp

    if isinstance(leaf, np.ndarray):
        wide = np.result_type(leaf.dtype, np.float32)
        return like(leaf, leaf.astype(wide) * factor.astype(wide))
    _, wide = draw_dtypes(leaf.dtype, None)
    return like(leaf, jnp.asarray(leaf).astype(wide) * factor.astype(wide))


def like(leaf: Any, array: Any) -> Any:
    """An array of the leaf's dtype and in its place; NumPy's stay NumPy's, with or without x64."""
    import jax.numpy as jnp

    if isinstance(leaf, np.ndarray):
        return np.asarray(array).astype(leaf.dtype)
    return placed_like(leaf, jnp.asarray(array).astype(leaf.dtype))
