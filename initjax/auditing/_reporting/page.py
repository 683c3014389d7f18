"""What a notebook shows, in HTML. Its colors are readable in light and in dark themes."""

from __future__ import annotations

import base64
import importlib.util
import io
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from initjax.auditing._judging.findings import Finding
from initjax.auditing._reporting.table import Table, legend

if TYPE_CHECKING:
    from initjax._figure import Figure

_DOTS = 110  # an inch of a picture
_GROUNDS = {"ok": "#00724f", "warning": "#8a5a00", "failure": "#b3261e"}  # of white text
_BADGE = "color:#fff;padding:0.1em 0.4em;border-radius:0.3em;font-weight:bold"
_TABLE = "white-space:nowrap;text-align:right;font-variant-numeric:tabular-nums"
_SCROLLED = "max-height:36em;overflow:auto"
_CODE = "margin:0.3em 0;white-space:pre-wrap"
_FITTED = "max-width:100%"
_PICTURE = "Signals and gradients layer by layer, measured and predicted"
_LEFT, _RIGHT = "text-align:left", "text-align:right"


def report_page(
    verdict: str,
    title: str,
    findings: Sequence[Finding],
    tables: Iterable[Table],
    remarks: Sequence[str],
    picture: str = "",
) -> str:
    """A report: its verdict, what to do, its tables and a picture.

    Args:
      verdict: the headline.
      title: what stands below it.
      findings: failures first.
      tables: of layers and of attentions.
      remarks: what is said below the tables.
      picture: HTML, which comes last.
    """
    parts = [headline(findings[0].level if findings else "ok", verdict), paragraph(title)]
    if findings:
        parts.append(f"<ol>{''.join(map(_item, findings))}</ol>")
    for shown in tables:
        if shown.rows:
            marks = [
                "" if row.level == "ok" else _badge(row.level, mark)
                for row, mark in zip(shown.rows, shown.marks, strict=True)
            ]
            names = sum(name in ("then", shown.header[0]) for name in shown.header)
            rows = [row.texts for row in shown.rows]
            parts += [table(shown.header, rows, names, marks), paragraph(legend(shown))]
    parts += map(paragraph, remarks)
    return "".join([*parts, picture])


def picture(plot: Callable[[], Figure]) -> str:
    """A figure as HTML, drawn where Matplotlib is installed; else empty."""
    if importlib.util.find_spec("matplotlib") is None:
        return ""
    file = io.BytesIO()
    plot().savefig(file, format="png", dpi=_DOTS)
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return f'<p><img alt="{_PICTURE}" style="{_FITTED}" src="{source}"/></p>'


def _item(finding: Finding) -> str:
    """One thing to do: what was measured, the remedy, and its code."""
    text = f"{_badge(finding.level, finding.cause)} {escape(finding.message)}"
    code = f'<pre style="{_CODE}">{escape(finding.code)}</pre>' if finding.code else ""
    return f"<li>{text} <b>{escape(finding.remedy)}</b>{code}</li>"


def headline(verdict: str, title: str) -> str:
    """The first line, with the verdict in its color."""
    return f"<p>{_badge(verdict, verdict)} <b>{escape(title)}</b></p>"


def paragraph(text: str) -> str:
    """A text that isn't HTML."""
    return f"<p>{escape(text)}</p>"


def folded(title: str, content: str, is_open: bool) -> str:
    """HTML that a click on its title shows or hides."""
    opened = " open" if is_open else ""
    return f"<details{opened}><summary><b>{escape(title)}</b></summary>{content}</details>"


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], names: int, marks: Sequence[str] = ()
) -> str:
    """A table, which scrolls if it is long.

    Args:
      header: a text for each column.
      rows: texts of the same number.
      names: how many columns are texts, before those of numbers.
      marks: HTML of a column before all others, one for each row.
    """
    sides = [_LEFT] * names + [_RIGHT] * (len(header) - names)
    head = _row("th", map(escape, header), sides, [""] if marks else [])
    body = "".join(
        _row("td", map(escape, row), sides, marks[number : number + 1])
        for number, row in enumerate(rows)
    )
    return (
        f'<div style="{_SCROLLED}"><table style="{_TABLE}"><thead>{head}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(tag: str, cells: Iterable[str], sides: Sequence[str], mark: Sequence[str]) -> str:
    texts = [
        f'<{tag} style="{side}">{cell}</{tag}>' for cell, side in zip(cells, sides, strict=True)
    ]
    return f"<tr>{''.join([*(f'<{tag}>{one}</{tag}>' for one in mark), *texts])}</tr>"


def _badge(level: str, text: str) -> str:
    """A word in white on the color of a level."""
    return f'<span style="background:{_GROUNDS[level]};{_BADGE}">{escape(text)}</span>'
