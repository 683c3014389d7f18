"""The figure of an audit, or of the audits before and after a repair."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from initjax._figure import Figure, default_style
from initjax._wrapping import shortened, wrapped
from initjax.auditing._judging.findings import Finding
from initjax.auditing._reporting.drawing import BAND, GRAY, MARKS, PATH, THEORY, Series
from initjax.auditing._reporting.naming import short_names
from initjax.auditing._reporting.panels import (
    Titled,
    draw_correlations,
    draw_flat,
    draw_gradients,
    draw_histograms,
    draw_keys,
    draw_rms,
    draw_tokens,
)
from initjax.auditing._reporting.text import HEALTHY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = {"ok": "0.3", "warning": "#8A5A00", "failure": "#B3440A"}  # of text
# Letters are readable where a page shows the figure 830 pixels wide, as a README does.
_WIDTH = 8.5  # inches, as all that follows
_EDGE, _LEFT, _BETWEEN, _RIGHT = 0.12, 0.6, 0.75, 0.3
_TITLE, _NOTE, _PANEL, _BELOW = 0.26, 0.145, 1.85, 0.16
_TITLE_LINE, _LINE, _LETTER = 0.24, 0.165, 0.07
_CAPTION, _TITLE_LETTERS = 120, 72  # letters on a line
_MOST_NAMES, _LONGEST_NAME = 24, 26
_HISTOGRAMS = (
    ("Pre-activations", "histogram", "many are near zero"),
    ("Gradients", "gradient_histogram", "no gradient, as behind inactive units"),
)


class Line(NamedTuple):
    """A line above the panels, in the color of its level."""

    text: str
    level: str


@default_style()
def draw(headlines: Sequence[str], captions: Sequence[Line], audits: Sequence[Series]) -> Figure:
    """Draws measurements and predictions over depth, and the layers' histograms.

    On the left is the forward pass: root mean square and histogram of the pre-activations, and the
    correlation of two examples. On the right is the backward pass: root mean square and histogram
    of the loss's gradients; below them is the part of each layer that is flat. A model with
    attention has another row: how alike tokens are, and how many keys a query reads. Theory's band
    holds 95% of the networks of these widths. Its lines restart where a layer's input does not
    follow from one other layer.

    Args:
      headlines: what is shown, the most important first.
      captions: the findings, as `captions` writes them.
      audits: one, or those before and after a repair; theory is drawn for the last one.

    Returns:
      A Matplotlib figure that belongs to no window, and to no state of `pyplot`.

    Raises:
      ValueError: there are no layers.
    """
    if not audits[-1].layers:
        raise ValueError(
            "plot: this report has no layers to draw; print(report) says why none was found"
        )
    figure = Figure(figsize=(_WIDTH, 1), dpi=180)
    names = [shortened(name, _LONGEST_NAME) for name in short_names(audits[-1].layers)]
    rows = [_draw_row(figure, draw_panels) for draw_panels in _rows(audits)]
    for axes in figure.axes:
        axes.tick_params(labelbottom=axes in rows[-1].panels)
    for axes in rows[-1].panels:
        _name_layers(axes, names, audits[-1].levels)

    titles = [
        (line, number == 0)
        for number, text in enumerate(headlines)
        for line in wrapped(text, _TITLE_LETTERS, rest="")
    ]
    head = 0.42 + _TITLE_LINE * len(titles) + _LINE * len(captions)
    height = head + sum(row.above + _PANEL + _BELOW for row in rows)
    height += _LETTER * max(map(len, names))
    figure.set_figheight(height)
    _write(figure, titles, captions)
    _legend(figure, audits, height - head + 0.12)
    width = (_WIDTH - _LEFT - _RIGHT - _BETWEEN) / 2
    bottom = height - head
    for row in rows:
        bottom -= row.above + _PANEL
        for axes, left in zip(row.panels, (_LEFT, _LEFT + width + _BETWEEN), strict=True):
            place = left / _WIDTH, bottom / height, width / _WIDTH, _PANEL / height
            axes.set_position(place)
        bottom -= _BELOW
    return figure


class _Row(NamedTuple):
    """Two panels beside each other, and the inches that their titles and notes need."""

    panels: list[Axes]
    above: float


def _draw_row(figure: Figure, draw_panels: Sequence[Callable[[Axes], Titled]]) -> _Row:
    panels, notes = [], 0
    for draw_panel in draw_panels:
        axes = figure.add_axes((0, 0, 1, 1), sharex=figure.axes[0] if figure.axes else None)
        titled = draw_panel(axes)
        _decorate(axes, titled)
        panels.append(axes)
        notes = max(notes, len(titled.notes))
    return _Row(panels, _TITLE + _NOTE * notes)


def captions(findings: Sequence[Finding], start: str = "", most: int = 4) -> list[Line]:
    """Lines for at most so many findings; `start` is what each finding begins with."""
    if not findings:
        return [Line(f"{start}{HEALTHY}", "ok")]
    lines = [
        Line(line, finding.level)
        for finding in findings[:most]
        for line in wrapped(f"{start}{finding}", _CAPTION)
    ]
    more = len(findings) - most
    return lines + [Line(f"{start}{more} more, which print() shows", "ok")] * (more > 0)


def _rows(audits: Sequence[Series]) -> list[list[Callable[[Axes], Titled]]]:
    """What draws the panels, from the top down."""

    def with_audits(*functions: Callable[..., Titled]) -> list[Callable[[Axes], Titled]]:
        return [functools.partial(function, audits=audits) for function in functions]

    rows = [with_audits(draw_rms, draw_gradients)]
    for audit, when in zip(audits, ("before", "after") if len(audits) > 1 else ("",), strict=True):
        rows.append(
            [
                functools.partial(
                    draw_histograms,
                    audit=audit,
                    field=field,
                    title=f"{what} {when}".rstrip(),
                    zeros=zeros,
                )
                for what, field, zeros in _HISTOGRAMS
            ]
        )
    rows.append(with_audits(draw_correlations, draw_flat))
    if audits[-1].attentions:
        rows.append(with_audits(draw_tokens, draw_keys))
    return rows


def _write(figure: Figure, titles: Sequence[tuple[str, bool]], captions: Sequence[Line]) -> None:
    """Writes what stands above the panels; titles are bold or not."""
    width, height = figure.get_size_inches()
    style: dict[str, Any] = {"va": "top", "parse_math": False}
    y = height - 0.12
    for text, bold in titles:
        font = {"fontsize": 12, "fontweight": "bold"} if bold else {"fontsize": 10}
        figure.text(_EDGE / width, y / height, text, **font, **style)
        y -= _TITLE_LINE
    for line in captions:
        color = _COLORS[line.level]
        figure.text(_EDGE / width, y / height, line.text, fontsize=8.5, color=color, **style)
        y -= _LINE


def _decorate(axes: Axes, titled: Titled) -> None:
    """Writes a panel's title and notes, and draws its grid."""
    above: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    for number, note in enumerate(reversed(titled.notes)):
        at = 3 + 72 * _NOTE * number
        axes.annotate(note, (0, 1), (0, at), fontsize=8, color=GRAY, va="bottom", **above)
    axes.set_title(titled.title, loc="left", fontsize=9.5, pad=4 + 72 * _NOTE * len(titled.notes))
    axes.tick_params(labelsize=8)
    if not axes.images:
        axes.grid(color="0.92", lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)


def _name_layers(axes: Axes, names: Sequence[str], levels: Sequence[str]) -> None:
    count = len(names)
    at = range(0, count, -(-count // _MOST_NAMES))
    axes.set_xlim(-0.5, count - 0.5)
    labels = [names[row] for row in at]
    ticks = axes.set_xticks(at, labels, rotation=90, fontsize=8, parse_math=False)
    for row, label in zip(at, ticks, strict=True):
        if levels[row] != "ok":
            label.label1.set(color=_COLORS[levels[row]], fontweight="bold")


def _legend(figure: Figure, audits: Sequence[Series], y: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    def dot(label: str, marker: str, color: str, **style: Any) -> Line2D:
        shape: dict[str, Any] = {"ls": "", "ms": 6, "mec": "w", "mew": 0.4}
        return Line2D([], [], marker=marker, color=color, label=label, **(shape | style))

    levels = {level for audit in audits for level in audit.levels}
    handles: list[Any] = [dot("measured", *MARKS["ok"])] if "ok" in levels else []
    if len(audits) > 1:
        line = {"ls": "-", "lw": 0.8, "mfc": "w", "mec": GRAY, "mew": 0.8}
        handles = [dot("before", "o", PATH, **line), dot("after", "o", GRAY)]
    handles += [
        dot(f"named in a {level}", *MARKS[level])
        for level in ("warning", "failure")
        if level in levels
    ]
    if any(len(part.get_paths()) for axes in figure.axes for part in axes.collections):
        theory = "theory" if len(audits) == 1 else "theory, after"
        handles.append(Line2D([], [], color=THEORY, lw=1.3, label=theory))
        handles.append(Patch(color=BAND, label="95% of networks of these widths"))
    height = figure.get_figheight()
    figure.legend(
        handles=handles, loc="center left", bbox_to_anchor=(0.003, y / height), ncols=len(handles),
        frameon=False, fontsize=8.5, columnspacing=1.4, handletextpad=0.5, borderpad=0,
    )  # fmt: skip
