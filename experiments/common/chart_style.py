"""How the charts of a sweep look, and how they become files: one definition serves both."""

import functools
import re
import textwrap
from collections.abc import Sequence
from typing import Any, Protocol

import altair as alt
import numpy as np

from experiments.common import statistics

FONT = 16  # pixels: the size of all text, which is also that of the page
INK = "#1a1a1a"  # what is drawn on the background: a page in dark mode replaces it, and
PAPER = "#ffffff"  # what is drawn between marks in the color of the background
WIDTH = 800  # pixels of a file, about as wide as a README is shown
HOVER = "hover"  # the description of layers that are only there to hover over

# Okabe and Ito's colors, which color-blind readers can tell apart; dashes and shapes for black and
# white. Their numbers have no common divisor, so 280 initializers look different.
_COLORS = f"#0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9 {INK} #999999".split()
_DASHES = [[1, 0], [7, 2], [2, 2], [8, 2, 2, 2], [12, 3], [1, 3], [6, 2, 1, 2, 1, 2]]
_SHAPES = [  # as paths, which the page also draws beside its checkboxes
    "M-1,0A1,1,0,1,0,1,0A1,1,0,1,0,-1,0Z",  # a disk
    "M-.9,-.9H.9V.9H-.9Z",  # a square
    "M0,-1.1L1.1,.9H-1.1Z",  # a triangle
    "M0,-1.3L1.1,0L0,1.3L-1.1,0Z",  # a diamond
    "M-1.1,-.4H-.4V-1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1Z",  # a cross
]
_NAME = 200  # pixels: longer lines of a name on an axis are cut


class Compared(Protocol):
    """Initializers whose looks are the same in several charts, such as a setting."""

    @property
    def inits(self) -> list[str]: ...


CONFIG: dict[str, Any] = {
    # Fonts of the same widths, since an SVG file leaves the room for its text, and some more.
    "padding": {"left": 24, "right": 12, "top": 8, "bottom": 8},
    "font": "Arial, Helvetica, Liberation Sans, Arimo, sans-serif",
    "axis": {
        "labelFontSize": FONT,
        "titleFontSize": FONT,
        "titleFontWeight": "normal",
        "labelColor": INK,
        "titleColor": INK,
        "gridColor": "#dddddd",
        "titlePadding": 8,
    },
    # A label at the end of the axis that would be cut off is left out.
    "axisXQuantitative": {"labelBound": 6},
    "legend": {"labelFontSize": FONT, "labelColor": INK, "symbolSize": 120},
    "text": {"fontSize": FONT, "color": INK},
    "title": {"fontSize": FONT + 2, "subtitleFontSize": FONT, "color": INK, "subtitleColor": INK},
    "view": {"stroke": "#bbbbbb"},
}
"""Vega-Lite's configuration of all charts, in files and on the page."""


def svg(spec: dict[str, Any]) -> str:
    """A chart as an SVG file on white."""
    import vl_convert

    config = {**CONFIG, "aria": False}  # descriptions of every mark are most of a file
    page = {"width": file_width(spec), "background": PAPER, "config": config}
    layers = [layer for layer in spec["layer"] if layer.get("description") != HOVER]
    image = vl_convert.vegalite_to_svg(
        {**spec, **page, "layer": layers, "autosize": {"type": "fit-x", "contains": "padding"}}
    )
    # Of a coordinate, hundredths of a pixel are enough.
    shorter = functools.partial(re.sub, r"(\.\d\d)\d+", r"\1")
    return re.sub(r'(?<= d=")[^"]*', lambda path: shorter(path[0]), image)


def png(image: str) -> bytes:
    """An SVG file as a PNG, with two pixels for each of its own."""
    import vl_convert

    return vl_convert.svg_to_png(image, scale=2)


def file_width(spec: dict[str, Any]) -> int:
    """The width of a chart in a file, in pixels."""
    return max(WIDTH, spec.get("usermeta", {}).get("least_width", 0))


def symbol(setting: Compared, init: str) -> str:
    """The line and the point style of an initializer in all charts of a setting, as SVG."""
    place = setting.inits.index(init)
    color, shape = (values[place % len(values)] for values in (_COLORS, _SHAPES))
    dash = _DASHES[place % len(_DASHES)]
    color = color.replace(INK, "currentColor")
    return (
        '<svg width="36" height="12" viewBox="-18 -6 36 12" aria-hidden="true">'
        f'<path d="M-18,0H18" stroke="{color}" stroke-width="2"'
        f' stroke-dasharray="{",".join(map(str, dash))}"/>'
        f'<path d="{shape}" fill="{color}" transform="scale(4)"/></svg>'
    )


def base(rows: list[dict[str, Any]]) -> alt.Chart:
    """A chart of the initializers whose checkbox is checked."""
    return alt.Chart(alt.Data(values=rows)).transform_filter("indexof(shown, datum.init) >= 0")


def finish(
    chart: Any, title: str, notes: Sequence[str] = (), *, height: int, least_width: int = 0
) -> dict[str, Any]:
    """A chart as a Vega-Lite specification.

    Args:
      chart: a layered chart.
      title: its title.
      notes: sentences below it.
      height: in pixels.
      least_width: in pixels, below which the page scrolls it.
    """
    options: dict[str, Any] = {}
    if notes:  # the longest lines that fit a file
        options["subtitle"] = textwrap.wrap(". ".join(notes), 100)
    text = title if len(title) <= 80 else textwrap.wrap(title, 80)
    spec = chart.properties(
        height=height, title=alt.Title(text, anchor="start", offset=12, **options)
    ).to_dict(validate=False)
    return {**spec, "usermeta": {"least_width": least_width}} if least_width else spec


def names(setting: Compared, **options: Any) -> alt.Axis:
    """An axis of initializers; a name with arguments takes a line for each of them."""
    lines = r"split(replace(datum.label, regexp('(\\(|, )', 'g'), '$1\n'), '\n')"
    return alt.Axis(labelExpr=lines, labelLimit=_NAME, **options)


def names_width(setting: Compared) -> int:
    """About the width of such an axis, in pixels."""
    longest = max(len(line) for init in setting.inits for line in re.split(r"\(|, ", init))
    return min(_NAME, 9 * longest) + 30


def row_height(setting: Compared, least: int) -> int:
    """The height of a row of such an axis, in pixels."""
    most = max(1 + init.count("(") + init.count(", ") for init in setting.inits)
    return max(least, 20 * most + 6)


def focused(normal: float = 1.0, focus: float = 1.0, others: float = 0.1) -> dict[str, Any]:
    """The opacity of an initializer's marks, in general and while the page focuses one of them.

    For the channels of fill and stroke: that of both together makes writing a PNG slow.
    """
    conditions = [
        {"test": "focus == ''", "value": normal},
        {"test": "focus == datum.init", "value": focus},
    ]
    return {"value": others, "condition": conditions}


def color(setting: Compared, legend: alt.Legend | None = None) -> alt.Color:
    return alt.Color("init:N", scale=_scale(setting, _COLORS), legend=legend)


def dash(setting: Compared, legend: alt.Legend | None = None) -> alt.StrokeDash:
    return alt.StrokeDash("init:N", scale=_scale(setting, _DASHES), legend=legend)


def shape(setting: Compared, legend: alt.Legend | None = None) -> alt.Shape:
    return alt.Shape("init:N", scale=_scale(setting, _SHAPES), legend=legend)


def legend(setting: Compared, stroke: float = 2) -> alt.Legend:
    """The legend of a file; on the page, the checkboxes are the legend."""
    longest = min(300, 9 * max(map(len, setting.inits)))
    return alt.Legend(
        orient="bottom",
        title=None,
        columns=max(1, WIDTH // (longest + 50)),
        labelLimit=300,
        symbolStrokeWidth=stroke,
        symbolType="stroke" if stroke else alt.Undefined,
        symbolOpacity=1,
    )


def _scale(setting: Compared, values: list[Any]) -> alt.Scale:
    domain = setting.inits
    return alt.Scale(domain=domain, range=[values[i % len(values)] for i in range(len(domain))])


def arrows(rows: list[dict[str, Any]], horizontal: bool, **encoding: Any) -> list[alt.Chart]:
    """Triangles at the edges of the axis, where something leaves it.

    Args:
      rows: each with an `init`, and `beyond`: -1 below the axis, 1 above it.
      horizontal: whether the axis is the horizontal one.
      **encoding: channels that say where they are.
    """
    return [
        base([row for row in rows if row["beyond"] == side])
        .mark_point(filled=True, size=120, opacity=1, shape=f"triangle-{words[horizontal]}")
        .encode(**encoding)
        for side, words in ((-1, ("down", "left")), (1, ("up", "right")))
    ]


def reach(values: Sequence[float], ratio: float) -> float:
    """How far an axis should reach: from the middle value up to where there is a large gap.

    Args:
      values: above zero.
      ratio: a value that is larger than the one before by more than this is left out.

    Example:
      >>> reach([2.0, 1.0, 3.0, 1e30], 5)
      3.0
    """
    ordered = sorted(values)
    middle = (len(ordered) - 1) // 2
    limit = ordered[middle]
    for value in ordered[middle:]:
        if value > ratio * limit:
            break
        limit = value
    return limit


def interval(values: np.ndarray) -> dict[str, Any]:
    """Mean and interval, as fields of a row of data."""
    return intervals(values[:, None])[0]


def intervals(values: np.ndarray) -> list[dict[str, Any]]:
    """The same for every column of values (seeds, ...)."""
    n = len(values)
    found = statistics.mean_intervals(values) if n > 1 else np.repeat(values, 3, axis=0)
    # Nine digits, since the page holds thousands of these.
    rows = [[float(f"{number:.9g}") for number in column] for column in found.T]
    return [{"mean": mean, "low": low, "high": high, "seeds": n} for mean, low, high in rows]
