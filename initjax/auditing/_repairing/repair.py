"""The result of a repair, and how it is shown."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from initjax._extras import require_matplotlib
from initjax._values import checked_integer
from initjax._wrapping import aligned, columns, printable, shortened, wrapped
from initjax.auditing._judging.names import some
from initjax.auditing._reporting import page, text
from initjax.auditing._reporting.report import Report

if TYPE_CHECKING:
    from initjax._figure import Figure

_MOST_CHANGES = 16  # that are printed
_LONGEST_NAME = 44
_MOST_FACTORS = 3


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

    def then(self, later: Change) -> Change:
        """Both changes of the same parameter, as one."""
        return Change(self.name, f"{self}; then {later}", ())

    def __str__(self) -> str:
        factors = [f"{factor:.4g}" for factor in self.factors[:_MOST_FACTORS]]
        factors += ["..."] * (len(self.factors) > _MOST_FACTORS)
        return f"times {', '.join(factors)}: {self.what}" if factors else self.what

    def __repr__(self) -> str:
        return f"<Change {self.name}: {self}>"


@dataclasses.dataclass(frozen=True)
class Repair:
    """What `initjax.fix` did, with an audit before and after. `print(repair)` shows it."""

    before: Report
    """The audit of the parameters as they came."""
    after: Report
    """The audit of the repaired parameters."""
    changes: tuple[Change, ...]
    """What was changed, in the order of the work; each parameter appears once."""
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

    def to_text(self, width: int = text.WIDTH) -> str:
        """Returns what `print(repair)` shows, for a terminal of another width.

        Args:
          width: the number of columns; fewer than 40 are taken as 40.

        Raises:
          TypeError, ValueError: width isn't a whole number.
        """
        width = max(checked_integer("repair.to_text", "width", width, 0), text.LEAST_WIDTH)
        narrow = min(width, text.WIDTH)
        lines = [
            *wrapped(self._outcome(), narrow, rest=""),
            *wrapped(f"initjax fix: {self._summary()}", narrow),
            *wrapped(f"target: {self.target}", narrow),
            *_change_lines(self.changes, narrow),
            *(line for remark in self._remarks() for line in wrapped(remark, narrow)),
        ]
        return "\n".join([*lines, "", "after:", self.after.to_text(width)])

    def plot(self, path: str | os.PathLike[str] | None = None, *, title: str = "") -> Figure:
        """Plots the layers before and after the repair, in one figure; see `Report.plot`.

        Args:
          path: where to save the figure; the suffix sets the format. With None, nothing is saved.
          title: what was repaired, as a headline.

        Returns:
          A Matplotlib figure, which a notebook shows. It belongs to no window of `pyplot`.

        Raises:
          ValueError: there are no layers.
          ImportError: Matplotlib is not installed.
        """
        require_matplotlib("repair.plot()")
        from initjax.auditing._reporting.drawing import Series
        from initjax.auditing._reporting.figure import captions, draw

        summary = f"initjax fix: {self._summary()}"
        lines = [
            *captions(self.before.findings, "before: ", most=2),
            *captions(self.after.findings, "after: ", most=2),
        ]
        audits = [
            Series(
                report.layers,
                [report.level(layer) for layer in report.layers],
                report.attention,
                hollow,
            )
            for report, hollow in ((self.before, True), (self.after, False))
        ]
        figure = draw([title, summary] if title else [summary], lines, audits)
        if path is not None:
            figure.savefig(path)
        return figure

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return f"<Repair: {self._summary()}; print(repair) shows all>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = [[change.name, str(change)] for change in self.changes]
        parts = [
            page.headline(self.verdict, self._outcome()),
            page.paragraph(f"initjax fix: {self._summary()}"),
            page.paragraph(f"target: {self.target}"),
            page.table(["parameter", "change"], rows, 2) if rows else "",
            *map(page.paragraph, self._remarks()),
            page.folded("after", self.after._page(), True),
            page.folded("before", self.before._page(), False),
            page.picture(self.plot) if self.after.layers else "",
        ]
        return "".join(parts)

    def _outcome(self) -> str:
        """The first line: what the repair came to, in plain words."""
        if self.changes:
            start = "Repaired" if self.verdict == "ok" else "Repaired in part"
        else:
            start = "Nothing to repair" if self.verdict == "ok" else "Nothing could be repaired"
        said = text.verdict(self.after.findings, self.after.layers)
        return f"{start}. {said}"

    def _summary(self) -> str:
        if not self.changes:
            return f"nothing was changed; {self.verdict} before and after"
        count = text.counted(len({change.name for change in self.changes}), "parameter")
        return f"{count} changed; {self.before.verdict} before, {self.verdict} after"

    def _remarks(self) -> list[str]:
        """What was left unchanged, and what to watch out for."""
        names: dict[str, list[str]] = {}
        for name, reason in self.left:
            names.setdefault(reason, []).append(name)
        remarks = [f"left unchanged: {some(alike)}: {why}" for why, alike in names.items()]
        return [*remarks, f"warning: {self.warning}"] if self.warning else remarks


def _change_lines(changes: Sequence[Change], width: int) -> list[str]:
    """The changes, with the middle of many left out."""
    longest = max((columns(printable(change.name)) for change in changes), default=0)
    longest = min(longest, _LONGEST_NAME, width // 2)
    half = _MOST_CHANGES // 2
    few = len(changes) <= _MOST_CHANGES
    lines: list[str] = []
    for number, change in enumerate(changes):
        if few or not half <= number < len(changes) - half:
            name = aligned(shortened(printable(change.name), longest), longest)
            lines += wrapped(str(change), width, f"  {name}  ", " " * (longest + 4))
        elif number == half:
            lines.append(f"  ... {len(changes) - 2 * half} more ...")
    return lines
