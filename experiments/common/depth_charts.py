"""The charts of depth: which networks train, beside the theory, and how deep each initializer goes.

Like all charts, one definition serves the page, the SVG and the PNG files.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import altair as alt
import numpy as np
from altair.utils import schemapi

from experiments.common import chart_style, description, trainability
from experiments.common.boundary import Boundary
from initjax import theory

PUBLISHED = 6.0
"""Times xi_c: the boundary that is drawn in the paper."""

_POINTS = 120  # of a curve
_MOST_CELLS = 1500  # of a picture; of larger diagrams, every n-th row and column is drawn
_MOST_TICKS = 12  # of depths; more are replaced by round numbers
_TICKS = [1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000]
_ROOM = 1.25  # factor: at the ends of axes
_PHASES = {"vanishing": "#0072B2", "exploding": "#CC79A7"}
_LEVEL = f"{trainability.TRAINED:.0%}"
_NAMED = 3  # initializers in a sentence; more are counted

Spec = dict[str, Any]


class Panel(NamedTuple):
    """The initializers and depths of one activation, as one picture of several."""

    inits: list[str]
    """Those of all pictures, in one order, so that each looks the same in all."""
    activation: str
    cells: list[trainability.Cell]


def name(cell: trainability.Cell) -> str:
    """The initializer of a cell, with that of the biases if it is unusual."""
    return cell.init if cell.bias_init == "zeros" else f"{cell.init}, bias {cell.bias_init}"


def deepest(cells: Sequence[trainability.Cell]) -> dict[str, int]:
    """For each initializer the largest depth at which half of its networks train, or 0."""
    found: dict[str, int] = {}
    for cell in cells:
        depth = cell.depth if cell.trained.value >= 0.5 else 0
        found[name(cell)] = max(found.get(name(cell), 0), depth)
    return found


def deepest_sentence(grids: Sequence[trainability.Grid]) -> str:
    """The largest depth to which half of the networks train, for each activation."""
    parts = []
    ordered = sorted(grids, key=lambda grid: (grid.fields["activation"], grid.fields["width"]))
    for grid in ordered:
        label = str(grid.fields["activation"])
        if len({grid.fields["width"] for grid in grids}) > 1:
            label += f", width {grid.fields['width']},"
        reach = deepest(grid.cells)
        most, tried = max(reach.values()), max(cell.depth for cell in grid.cells)
        best = [init for init, depth in reach.items() if depth == most]
        if not most:
            parts.append(f"{label} at no depth")
            continue
        names = " and ".join(best) if len(best) <= _NAMED else f"{len(best)} of {len(reach)}"
        more = ", the deepest tried" if most == tried else ""
        parts.append(f"{label} up to {most} layers ({names}{more})")
    return f"From the best initializer, half of the networks train with {'; '.join(parts)}."


def heat_map(diagram: trainability.Diagram, title: str = "Which depths train") -> Spec:
    """Training accuracy by depth and weight variance, with the theory's scales over it."""
    all_cells = diagram.accuracy.shape[0] * diagram.accuracy.shape[1]
    every = math.ceil((all_cells / _MOST_CELLS) ** 0.5)
    weights, depths = diagram.weight_variances[::every], diagram.depths[::every]
    columns, rows = _edges(weights), np.exp(_edges(np.log(depths)))
    cells = [
        {
            "left": float(columns[column]), "right": float(columns[column + 1]),
            "bottom": float(f"{rows[row]:.5g}"), "top": float(f"{rows[row + 1]:.5g}"),
            "depth": int(depths[row]), "weights": float(weights[column]),
            "accuracy": float(f"{np.nanmean(runs):.4g}"),
            "trained": _count_of(runs),
            "scale": _layers(float(diagram.xi_c[column * every])),
            "rate": f"{diagram.learning_rates[row * every, column * every]:g}",
        }
        for (row, column) in np.ndindex(len(depths), len(weights))
        if np.isfinite(runs := diagram.accuracy[row * every, column * every]).any()
    ]  # fmt: skip
    x = alt.X(
        "left:Q",
        title="weight variance times fan-in",
        scale=alt.Scale(domain=[float(columns[0]), float(columns[-1])], nice=False, zero=False),
        axis=alt.Axis(tickCount=6, labelOverlap=True, grid=False),
    )
    y = alt.Y(
        "bottom:Q",
        title="depth, hidden layers",
        scale=alt.Scale(type="log", domain=[float(rows[0]), float(rows[-1])], nice=False),
        axis=_depth_axis(depths, grid=False),
    )
    seen = alt.Chart(alt.Data(values=cells)).mark_rect(stroke=None)
    seen = seen.encode(
        x, alt.X2("right:Q"), y, alt.Y2("top:Q"),
        alt.Fill(
            "accuracy:Q",
            scale=alt.Scale(scheme="blues", domain=[0, 1]),
            legend=alt.Legend(
                title="training accuracy", orient="top", direction="horizontal", format=".0%",
                gradientLength=180, titleFontSize=chart_style.FONT, titleColor=chart_style.INK,
                titleFontWeight="normal", titleLimit=300, tickCount=3,
            ),
        ),
        tooltip=[
            alt.Tooltip("depth:Q"), alt.Tooltip("weights:Q", title="weight variance"),
            alt.Tooltip("accuracy:Q", format=".1%"), alt.Tooltip("trained:N"),
            alt.Tooltip("scale:N", title="ξc"), alt.Tooltip("rate:N", title="learning rate"),
        ],
    )  # fmt: skip
    at = np.linspace(columns[0], columns[-1], _POINTS)
    scales = np.array([_scale(diagram.activation, float(w), diagram.bias_variance) for w in at])
    curves = [(_RULE, PUBLISHED * scales)]
    for fitted, within in _sides(diagram, at):
        bounds = [(_FIT, 0), (_INTERVAL, 1), (_INTERVAL, 2)]
        for name, end in bounds:
            law = np.full(len(at), np.nan)
            law[within] = np.minimum(fitted.k[end] * scales[within], fitted.limit[end])
            curves.append((name, law))
    lines = []
    for number, (name, law) in enumerate(curves):
        inside = (law >= rows[0]) & (law <= rows[-1])
        pieces = np.cumsum(np.diff(inside, prepend=False))
        lines += [
            {"line": name, "piece": f"{number}-{piece}", "left": float(f"{weight:.5g}"),
             "bottom": float(f"{depth:.5g}")}
            for weight, depth, shown, piece in zip(at, law, inside, pieces, strict=True)
            if shown
        ]  # fmt: skip
    marks = [{"left": diagram.critical, "line": _CRITICAL}]
    marks = marks if columns[0] <= diagram.critical <= columns[-1] else []
    drawn = alt.Chart(alt.Data(values=lines)).mark_line().encode(x, y, alt.Detail("piece:N"))
    halo = drawn.mark_line(stroke=chart_style.PAPER, strokeWidth=5, opacity=0.7)
    rule = alt.Chart(alt.Data(values=marks)).mark_rule().encode(x)
    looks = _looks([*lines, *marks])
    seeds = diagram.accuracy.shape[2]
    notes = [
        "Each cell is a network with so many layers and weights of that variance",
        "Color: accuracy on the last training batches, mean of"
        f" {description.count(seeds, 'seed')}; dark cells have learned",
        "Theory gives each variance a depth scale ξc: over so many layers, inputs become alike"
        " (left of the critical variance, where gradients vanish) or unrelated (right of it, where"
        " they explode)",
        "Above some multiple of ξc, the lines, networks should not train",
    ]
    title = f"{title}: {diagram.activation}, width {diagram.width}"
    layers = alt.layer(seen, halo, drawn.encode(*looks), rule.encode(*looks))
    return _finish(layers, title, notes, height=360)


def boundary(diagram: trainability.Diagram) -> Spec | None:
    """The depth up to which half of the networks train, by the theory's scale; None without."""
    if diagram.boundary is None or np.isinf(diagram.xi_c).all():
        return None
    shallow, deep = float(diagram.depths[0]), float(diagram.depths[-1])
    bottom, top = shallow / _ROOM, deep * _ROOM
    left = float(diagram.xi_c.min()) / _ROOM
    right = max(2 * deep, 4 * left)
    rows = []
    for column, (weights, scale, depth) in enumerate(
        zip(diagram.weight_variances, diagram.xi_c, diagram.boundary.depths, strict=True)
    ):
        # The depth is not inside of the diagram, or the scale not inside of the axis.
        side = "triangle-up" if depth >= deep else "triangle-down" if depth <= shallow else ""
        side = side or ("triangle-right" if scale > right else "circle")
        rows.append(
            {
                "scale": float(f"{min(scale, right):.5g}"), "depth": float(f"{depth:.4g}"),
                "weights": float(weights), "exact": _layers(scale), "side": side,
                "phase": _phase_of(diagram, column),
            }
        )  # fmt: skip
    x = _log_x("scale:Q", "predicted: ξc, layers", [left, right])
    y = alt.Y(
        "depth:Q",
        title="measured: depth that half train to",
        scale=alt.Scale(type="log", domain=[bottom, top], nice=False),
        axis=_depth_axis(diagram.depths),
    )
    at = np.geomspace(left, right, _POINTS)
    lines = [("rule", _RULE, PUBLISHED * at)]
    bands, words = [], []
    for fitted, within in _sides(diagram, diagram.weight_variances):
        phase = _phase_of(diagram, int(np.flatnonzero(within)[0]))
        one = "all" if fitted is diagram.boundary else phase
        lines.append((phase, _FIT, np.minimum(fitted.k.value * at, fitted.limit.value)))
        low, high = (np.minimum(fitted.k[end] * at, fitted.limit[end]) for end in (1, 2))
        bands += [
            {"scale": float(f"{a:.5g}"), "depth": float(b), "high": float(c), "phase": phase}
            for a, b, c in zip(at, low.clip(bottom, top), high.clip(bottom, top), strict=True)
        ]
        words.append(
            f"{one}: {_number(fitted.k.value)} ξc"
            f" (95% interval {_number(fitted.k.low)} to {_number(fitted.k.high)})"
        )
    rows_of_lines = [
        {"piece": piece, "line": name, "scale": float(f"{a:.5g}"), "depth": float(b)}
        for piece, name, curve in lines
        for a, b in zip(at, curve, strict=True)
        if bottom <= b <= top
    ]
    band = alt.Chart(alt.Data(values=bands)).mark_area(opacity=1, fillOpacity=0.15)
    band = band.encode(x, y, alt.Y2("high:Q"), _phase())
    drawn = alt.Chart(alt.Data(values=rows_of_lines)).mark_line()
    drawn = drawn.encode(x, y, alt.Detail("piece:N"), *_looks(rows_of_lines))
    layers: list[Any] = [band, drawn]
    for side in dict.fromkeys(row["side"] for row in rows):
        marks = alt.Chart(alt.Data(values=[row for row in rows if row["side"] == side]))
        marks = marks.mark_point(size=130, opacity=1, shape=side, strokeWidth=0)
        layers.append(
            marks.encode(
                x, y, _phase(),
                tooltip=[
                    alt.Tooltip("weights:Q", title="weight variance"),
                    alt.Tooltip("exact:N", title="ξc"), alt.Tooltip("depth:Q"),
                    alt.Tooltip("phase:N", title="gradients"),
                ],
            )
        )  # fmt: skip
    notes = [
        "Each point is a weight variance",
        "If theory is right, they lie on a line, a multiple of ξc, up to a depth that something"
        f" else limits. Fits, with shaded intervals: {'; '.join(words)}",
    ]
    if any(row["side"] != "circle" for row in rows):
        notes.append("Triangles: beyond the depths that were tried, or beyond the axis")
    title = "How deep they train, against theory"
    return _finish(alt.layer(*layers), title, notes, height=360)


def collapse(diagram: trainability.Diagram) -> Spec | None:
    """The accuracy of all networks by their depth in units of the theory's scale; None if all of
    these are infinite."""
    rows = [
        {
            "ratio": float(f"{depth / scale:.4g}"),
            "accuracy": float(f"{np.nanmean(runs):.4g}"),
            "phase": _phase_of(diagram, column),
            "depth": int(depth),
            "weights": float(weights),
        }
        for row, depth in enumerate(diagram.depths)
        for column, (weights, scale) in enumerate(
            zip(diagram.weight_variances, diagram.xi_c, strict=True)
        )
        if np.isfinite(runs := diagram.accuracy[row, column]).any() and depth / scale > 0.05
    ]
    if not rows:
        return None
    low, high = (end(row["ratio"] for row in rows) for end in (min, max))
    x = _log_x("ratio:Q", "depth / ξc", [0.8 * low, 1.25 * high])
    y = alt.Y(
        "accuracy:Q",
        title="training accuracy",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format=".0%", tickCount=5),
    )
    dots = alt.Chart(alt.Data(values=rows)).mark_point(size=70, strokeWidth=0, fillOpacity=0.8)
    dots = dots.encode(
        x, y, _phase(),
        tooltip=[
            alt.Tooltip("depth:Q"), alt.Tooltip("weights:Q", title="weight variance"),
            alt.Tooltip("accuracy:Q", format=".1%"), alt.Tooltip("ratio:Q", title="depth / ξc"),
        ],
    )  # fmt: skip
    marks = [{"ratio": PUBLISHED, "line": _RULE}]
    rules = alt.Chart(alt.Data(values=marks)).mark_rule().encode(x, *_looks(marks))
    notes = [
        "Every cell of the diagram again, by how many ξc it is deep",
        "If theory is right, all fall from trained to untrained at one place, whatever their weight"
        " variance; points that fall before it are limited by something else",
    ]
    return _finish(alt.layer(rules, dots), "All networks on one scale", notes, height=360)


def by_depth(panel: Panel) -> Spec:
    """The accuracy of each initializer by depth: mean over the seeds, with its interval."""
    with schemapi.debug_mode(False):
        rows = [
            {
                "init": name(cell),
                "depth": cell.depth,
                **_bounded(chart_style.interval(cell.accuracy)),
                "trained": _count_of(cell.accuracy),
                "rate": f"{cell.learning_rate:g}",
            }
            for cell in panel.cells
        ]
        depths = sorted({row["depth"] for row in rows})
        x = alt.X(
            "depth:Q",
            title="depth, hidden layers",
            scale=alt.Scale(type="log", domain=[depths[0] / 1.1, depths[-1] * 1.1], nice=False),
            axis=_depth_axis(np.array(depths)),
        )
        axis = alt.Axis(format=".0%", tickCount=5)
        title, scale = "training accuracy", alt.Scale(domain=[0, 1])
        y = alt.Y("mean:Q", title=title, scale=scale, axis=axis)
        legend = chart_style.legend(panel, stroke=0)
        color = chart_style.color(panel, legend)
        base = chart_style.base(rows)
        light = min(0.2, 0.5 / len(panel.inits))
        band = base.mark_area(opacity=1).encode(
            x,
            alt.Y("low:Q", title=title, scale=scale, axis=axis),
            alt.Y2("high:Q"),
            color,
            fillOpacity=chart_style.focused(light, 0.3, 0.0),
        )
        line = base.mark_line(strokeWidth=2, opacity=1).encode(
            x, y, color, chart_style.dash(panel), strokeOpacity=chart_style.focused()
        )
        dots = base.mark_point(filled=True, size=70, opacity=1).encode(
            x, y, color, chart_style.shape(panel, legend),
            fillOpacity=chart_style.focused(),
            tooltip=[
                alt.Tooltip("init:N", title="initializer"), alt.Tooltip("depth:Q"),
                alt.Tooltip("mean:Q", format=".1%"),
                alt.Tooltip("low:Q", title="95% from", format=".1%"),
                alt.Tooltip("high:Q", title="to", format=".1%"), alt.Tooltip("trained:N"),
                alt.Tooltip("rate:N", title="learning rate"), alt.Tooltip("seeds:Q"),
            ],
        )  # fmt: skip
        level = alt.Chart(alt.Data(values=[{"mean": trainability.TRAINED}]))
        level = level.mark_rule(color=chart_style.INK, strokeDash=[5, 3]).encode(y)
        title_ = f"{panel.activation}: accuracy by depth"
        notes = [
            f"Mean over the seeds with 95% interval, each cell at its best learning rate; above"
            f" {_LEVEL} (dashed) a network counts as trained"
        ]
        return _finish(
            alt.layer(level, band, line, dots), title_, notes, height=300, inits=panel.inits
        )


def reach(panels: Sequence[Panel]) -> Spec:
    """The largest depth to which each initializer trains, for each activation."""
    rows = []
    for panel in panels:
        tried = sorted({cell.depth for cell in panel.cells})
        for init, depth in deepest(panel.cells).items():
            text = f"< {tried[0]}" if not depth else str(depth) + "+" * (depth == tried[-1])
            rows.append(
                {"init": init, "activation": panel.activation, "depth": depth or 0.5 * tried[0]}
                | {"text": text}
            )
    largest, smallest = (end(row["depth"] for row in rows) for end in (max, min))
    inits = panels[0].inits
    base = chart_style.base(rows).encode(
        alt.X("activation:N", title=None, axis=alt.Axis(labelAngle=0, orient="top")),
        alt.Y("init:N", sort=inits, title=None, axis=chart_style.names(panels[0])),
    )
    scale = alt.Scale(type="log", scheme="blues", domain=[smallest, 1.01 * largest])
    cells = base.mark_rect(stroke=chart_style.PAPER).encode(
        alt.Fill("depth:Q", scale=scale, legend=None),
        tooltip=[
            alt.Tooltip("init:N", title="initializer"), "activation:N",
            alt.Tooltip("text:N", title="trains to depth"),
        ],
    )  # fmt: skip
    strong = f"datum.depth > {(largest * smallest) ** 0.5}"
    text = base.mark_text().encode(
        alt.Text("text:N"), color=alt.condition(strong, alt.value("white"), alt.value("black"))
    )
    notes = [
        f"The largest number of hidden layers with which at least half of the seeds reach {_LEVEL}"
        " training accuracy; +: the deepest that was tried",
    ]
    width = chart_style.names_width(panels[0]) + 80 * len(panels)
    return _finish(
        alt.layer(cells, text),
        "How deep each initializer trains",
        notes,
        height=chart_style.row_height(panels[0], 36) * len(inits),
        inits=inits,
        least_width=width if width > 340 else 0,
    )


def _bounded(row: dict[str, Any]) -> dict[str, Any]:
    return row | {end: min(max(row[end], 0.0), 1.0) for end in ("low", "high")}


_RULE = f"{PUBLISHED:g} ξc, the published rule"
_FIT = "fit: half of them train"
_INTERVAL = "95% interval of the fit"
_CRITICAL = "critical variance"
_LOOKS = {  # color, dash and width of the lines over a diagram
    _RULE: ("#D55E00", [1, 0], 3),
    _FIT: (chart_style.INK, [8, 3], 3),
    _INTERVAL: (chart_style.INK, [2, 2], 1.5),
    _CRITICAL: ("#777777", [1, 0], 2),
}


def _looks(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The channels of lines, for rows with the name of their `line`."""
    domain = [name for name in _LOOKS if any(row["line"] == name for row in rows)]
    ranges = zip(*(_LOOKS[name] for name in domain), strict=True)
    channels = (alt.Stroke, alt.StrokeDash, alt.StrokeWidth)
    return [
        channel("line:N", scale=alt.Scale(domain=domain, range=list(values)), legend=_legend())
        for channel, values in zip(channels, ranges, strict=True)
    ]


def _sides(diagram: trainability.Diagram, weights: np.ndarray) -> list[tuple[Boundary, np.ndarray]]:
    """The fits of a diagram: on each side of criticality its own, or else that of all.

    Args:
      diagram: the diagram.
      weights: (n,) weight variances.

    Returns:
      Each fit, and for which of these weight variances it is, as booleans.
    """
    left = weights < diagram.critical
    sides = [
        (diagram.ordered or diagram.boundary, left),
        (diagram.chaotic or diagram.boundary, ~left),
    ]
    if sides[0][0] is sides[1][0]:
        sides = [(diagram.boundary, np.ones(len(weights), bool))]
    return [(fitted, within) for fitted, within in sides if fitted and within.any()]


def _phase_of(diagram: trainability.Diagram, column: int) -> str:
    return "vanishing" if diagram.scales[column].chi < 1 else "exploding"


def _layers(number: float) -> str:
    return "infinite" if math.isinf(number) else f"{number:.3g} layers"


def _number(value: float) -> str:
    return f"{value:.2g}"


def _log_x(field: str, title: str, domain: list[float]) -> alt.X:
    return alt.X(
        field,
        title=title,
        scale=alt.Scale(type="log", domain=domain, nice=False),
        axis=alt.Axis(format="~g", tickCount=5, labelOverlap="greedy"),
    )


def _depth_axis(depths: np.ndarray, **options: Any) -> alt.Axis:
    ticks = depths.tolist()
    if len(ticks) > _MOST_TICKS:
        ticks = [tick for tick in _TICKS if ticks[0] <= tick <= ticks[-1]]
    return alt.Axis(values=ticks, format="d", labelOverlap="greedy", **options)


def _phase() -> alt.Fill:
    scale = alt.Scale(domain=list(_PHASES), range=list(_PHASES.values()))
    return alt.Fill("phase:N", scale=scale, legend=_legend("gradients", "top", 130))


def _legend(
    title: str | None = None, orient: Literal["top", "bottom"] = "bottom", size: int = 400
) -> alt.Legend:
    # On different sides, or else two legends would be side by side, which a phone has no room for.
    return alt.Legend(
        orient=orient, direction="horizontal" if title else "vertical", title=title,
        labelLimit=320, symbolSize=size, symbolStrokeWidth=0 if title else alt.Undefined,
        titleFontSize=chart_style.FONT, titleColor=chart_style.INK, titleFontWeight="normal",
    )  # fmt: skip


def _edges(middles: np.ndarray) -> np.ndarray:
    """The edges of cells around these middles: halfway to their neighbors."""
    between = (middles[1:] + middles[:-1]) / 2
    if not len(between):
        return np.array([middles[0] - 0.5, middles[0] + 0.5])
    return np.concatenate([[2 * middles[0] - between[0]], between, [2 * middles[-1] - between[-1]]])


@functools.lru_cache(maxsize=4096)  # diagrams of several widths need the same
def _scale(activation: str, weights: float, biases: float) -> float:
    return theory.depth_scales(activation, weights, biases).correlation_depth


def _finish(
    chart: Any,
    title: str,
    notes: Sequence[str],
    *,
    height: int,
    inits: Sequence[str] = (),
    least_width: int = 0,
) -> Spec:
    spec = chart_style.finish(chart, title, notes, height=height, least_width=least_width)
    params = [{"name": "shown", "value": list(inits)}, {"name": "focus", "value": ""}]
    return {**spec, "params": params}


def _count_of(accuracies: np.ndarray) -> str:
    """How many runs trained, of how many."""
    return f"{np.sum(accuracies > trainability.TRAINED)} of {np.isfinite(accuracies).sum()}"
