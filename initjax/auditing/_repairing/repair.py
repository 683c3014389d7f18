"""The result of a repair, and how it prints."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Literal

from initjax.auditing._judging.names import some
from initjax.auditing._reporting.report import Report

_WIDTH = 80
_MOST_CHANGES = 16  # that are printed


@dataclasses.dataclass(frozen=True)
class Change:
    """What `initjax.fix` did to one parameter."""

    name: str
    """The path of the parameter, such as `"hidden/0/kernel"`."""
    what: str
    """What was done, and why."""
    factors: tuple[float, ...]
    """The numbers it was multiplied by: one, or one per slice of a stacked parameter. Empty if it
    was redrawn, centered, set to zero or scaled unit by unit."""


@dataclasses.dataclass(frozen=True)
class Repair:
    """What `initjax.fix` did, with an audit before and after. `print(repair)` shows it."""

    before: Report
    """The audit of the parameters as they came."""
    after: Report
    """The audit of the repaired parameters."""
    changes: tuple[Change, ...]
    """What was changed, in the order of the work; a parameter may appear twice."""
    left: tuple[tuple[str, str], ...]
    """The parameters that were left unchanged, at least in part: pairs of a name and a reason."""
    target: str
    """What the scales aim at."""
    warning: str
    """What to watch out for with this method; empty if there is nothing."""

    @property
    def verdict(self) -> Literal["ok", "warning", "failure"]:
        """The verdict of the audit after the repair."""
        return self.after.verdict

    def __str__(self) -> str:
        count = len({change.name for change in self.changes})
        title = (
            f"initjax fix: {count} parameter{'' if count == 1 else 's'} changed;"
            f" {self.before.verdict} before, {self.after.verdict} after"
        )
        lines = [title, *_wrapped(f"target: {self.target}", "    "), *self._change_lines()]
        names: dict[str, list[str]] = {}
        for name, reason in self.left:
            names.setdefault(reason, []).append(name)
        for reason, alike in names.items():
            lines += _wrapped(f"left unchanged: {some(alike)}: {reason}", "    ")
        if self.warning:
            lines += _wrapped(f"warning: {self.warning}", "    ")
        return "\n".join([*lines, "", "after:", str(self.after)])

    def _change_lines(self) -> list[str]:
        width = min(44, max((len(change.name) for change in self.changes), default=0))
        shown = [_change_text(change, width) for change in self.changes]
        if len(shown) > _MOST_CHANGES:
            half = _MOST_CHANGES // 2
            shown[half:-half] = [f"  ... {len(shown) - 2 * half} more ..."]
        return shown


def _change_text(change: Change, width: int) -> str:
    factors = ", ".join(f"{factor:.4g}" for factor in change.factors[:3])
    if len(change.factors) > 3:
        factors += ", ..."
    times = f"times {factors}: " if factors else ""
    text = f"  {change.name:{width}}  {times}{change.what}"
    return "\n".join(_wrapped(text, " " * (width + 4)))


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent=indent, drop_whitespace=True,
                         break_long_words=False, break_on_hyphens=False,
                         replace_whitespace=False)  # fmt: skip
