"""The charts of a sweep: one definition serves the interactive page and the PNG files."""

from collections.abc import Callable, Mapping
from typing import Any

import altair as alt
import numpy as np

from experiments.common import comparison, formatting, statistics

# Okabe and Ito's colors, which color-blind readers can tell apart; dashes and shapes for black and
# white. Their numbers have no common divisor, so 280 initializers look different.
_COLORS = "#0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9 #000000 #999999".split()
_DASHES = [[1, 0], [7, 2], [2, 2], [8, 2, 2, 2], [12, 3], [1, 3], [6, 2, 1, 2, 1, 2]]
_SHAPES = [  # as paths, which the page also draws beside its checkboxes
    "M-1,0A1,1,0,1,0,1,0A1,1,0,1,0,-1,0Z",  # a disk
    "M-.9,-.9H.9V.9H-.9Z",  # a square
    "M0,-1.1L1.1,.9H-1.1Z",  # a triangle
    "M0,-1.3L1.1,0L0,1.3L-1.1,0Z",  # a diamond
    "M-1.1,-.4H-.4V-1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1Z",  # a cross
]
_POINTS = 100  # of a curve

_TOOLTIP_BAND = [
    alt.Tooltip("init:N", title="initializer"),
    alt.Tooltip("mean:Q", format=".4f"),
    alt.Tooltip("low:Q", title="95% from", format=".4f"),
    alt.Tooltip("high:Q", title="to", format=".4f"),
    alt.Tooltip("seeds:Q"),
]


def of_setting(
    setting: comparison.Setting, weights: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, dict[str, Any]]:
    """All charts of a setting, as Vega-Lite specifications, by names that are valid in file names.

    Args:
      setting: from `comparison.settings`.
      weights: for each kernel to show, a mapping from initializers to its values.
    """
    charts = {name: figure(setting) for name, figure in FIGURES.items()}
    for name, kernels in weights.items():
        charts[f"weights_{name.replace('/', '_')}"] = weight_histogram(setting, name, kernels)
    shown = [{"name": "shown", "value": setting.inits}]  # the checkboxes of the page change it
    return {name: {**chart.to_dict(), "params": shown} for name, chart in charts.items()}


def png(spec: dict[str, Any]) -> bytes:
    """A chart as a PNG."""
    import vl_convert

    return vl_convert.vegalite_to_png({**spec, "width": 640, "background": "white"}, scale=2)


def symbol(setting: comparison.Setting, init: str) -> str:
    """The line and the point style of an initializer in all charts of a setting, as SVG."""
    place = setting.inits.index(init)
    color, dash, shape = (values[place % len(values)] for values in (_COLORS, _DASHES, _SHAPES))
    return (
        '<svg width="36" height="12" viewBox="-18 -6 36 12" aria-hidden="true">'
        f'<path d="M-18,0H18" stroke="{color}" stroke-width="2"'
        f' stroke-dasharray="{",".join(map(str, dash))}"/>'
        f'<path d="{shape}" fill="{color}" transform="scale(4)"/></svg>'
    )


def training_loss(setting: comparison.Setting) -> alt.Chart:
    """The loss of the training batches: mean over the seeds, with its interval."""
    losses = comparison.column(setting.runs, "step_loss").astype(np.float64)
    edges = np.unique(np.linspace(0, losses.shape[1], _POINTS + 1).astype(int))
    means = np.add.reduceat(losses, edges[:-1], axis=1) / np.diff(edges)
    at = (edges[:-1] + edges[1:]) / 2 / losses.shape[1] * setting.fields["epochs"]
    return _curves(setting, at, means, "training loss", "Training loss, log scale", False)


def test_error(setting: comparison.Setting) -> alt.Chart:
    """One minus the accuracy on the test set after every epoch: mean over the seeds."""
    errors = 1 - comparison.column(setting.runs, "val_acc")
    epochs = np.arange(errors.shape[1])
    title = "Test error (1 - accuracy), log scale"
    return _curves(setting, epochs, errors, "test error", title, True)


def _curves(
    setting: comparison.Setting,
    at: np.ndarray,
    values: np.ndarray,
    quantity: str,
    title: str,
    points: bool,
) -> alt.Chart:
    """The means of values (runs, points), with their intervals, at these epochs."""
    inits = np.array(setting.runs["init"].to_pylist())
    rows = [
        {"init": init, "epoch": float(x), **_interval(values[inits == init, i])}
        for init in setting.inits
        for i, x in enumerate(at)
    ]
    rows = [row for row in rows if row["mean"] > 0]
    # The means set the axis, since the interval of two seeds can be very wide.
    means = [row["mean"] for row in rows] or [1.0]
    domain = [0.7 * min(means), 1.4 * max(means)]
    scale = alt.Scale(type="log", nice=False, domain=domain)
    legend = _legend(stroke=0)  # only the points, without the dashes of the lines
    color = _color(setting, legend)
    smallest = min((row["low"] for row in rows if row["low"] > 0), default=1)
    for row in rows:  # a log scale can't show an interval that reaches below zero
        row["low"] = max(row["low"], smallest / 2)
    base = _base(rows)
    epochs = setting.fields["epochs"]
    ticks = alt.Axis(values=list(range(epochs + 1)), format="d") if epochs <= 20 else alt.Axis()
    x = alt.X("epoch:Q", scale=alt.Scale(domain=[0, epochs]), axis=ticks, title="epoch")
    band = base.mark_area(opacity=0.18, clip=True).encode(
        x,
        alt.Y("low:Q", title=quantity, scale=scale),
        alt.Y2("high:Q"),
        color,
    )
    mean = alt.Y("mean:Q", scale=scale, axis=alt.Axis(format=".3~g"), title=quantity)
    line = base.mark_line(strokeWidth=1.8).encode(x, mean, color, _dash(setting, legend))
    # Transparent points between the epochs, to hover over.
    dots = base.mark_point(filled=True, size=45 if points else 60, opacity=1 if points else 0)
    tooltip = [alt.Tooltip("epoch:Q", format=".2~f"), *_TOOLTIP_BAND]
    dots = dots.encode(x, mean, color, _shape(setting, legend), tooltip=tooltip)
    return _finish(band + line + dots, title, height=300)


def final_accuracy(setting: comparison.Setting) -> alt.Chart:
    """Every seed's final test accuracy as a point, and their means with intervals.

    Runs that learned nothing would compress the others, so they are left out and counted in a note.
    """
    values = setting.values["final_acc"]
    inside = values[(setting.trained == 1) & np.isfinite(values)]
    if not inside.size:
        inside = values[np.isfinite(values)]
    low, high = (inside.min(), inside.max()) if inside.size else (0.0, 1.0)
    margin = max(0.1 * (high - low), 1e-4)
    domain = [float(low - margin), float(min(1, high + margin))]
    jitter = np.random.default_rng(0).uniform(-1, 1, values.shape)  # only for the picture
    points, bars, notes = [], [], []
    for row, init in enumerate(setting.inits):
        finite = np.flatnonzero(np.isfinite(values[row]))
        shown = [i for i in finite if values[row, i] >= domain[0]]
        points += [
            {
                "init": init,
                "accuracy": float(values[row, i]),
                "seed": setting.seeds[i],
                "offset": float(jitter[row, i]),
            }
            for i in shown
        ]
        if len(shown) == len(finite) and shown:
            bars.append({"init": init, **_interval(values[row, finite])})
        elif len(finite):
            hidden = len(finite) - len(shown)
            mean = np.mean([values[row, i] for i in finite if i not in shown])
            notes.append({"init": init, "note": f"← {hidden} of {len(finite)} runs at {mean:.4f}"})
    axis: dict[str, Any] = {
        "title": "final test accuracy",
        "scale": alt.Scale(domain=domain, nice=False, zero=False),
        "axis": alt.Axis(tickCount=6, labelOverlap=True, format=".4~f"),
    }
    y = alt.Y("init:N", sort=setting.inits, title=None, axis=_names())
    strip = _base(points).mark_point(filled=True, size=35, opacity=0.55)
    strip = strip.encode(
        alt.X("accuracy:Q", **axis),
        y,
        alt.YOffset("offset:Q", scale=alt.Scale(domain=[-1.6, 1.6])),
        _color(setting, None),
        _shape(setting, None),
        tooltip=[
            alt.Tooltip("init:N", title="initializer"),
            alt.Tooltip("seed:Q"),
            alt.Tooltip("accuracy:Q", format=".4f"),
        ],
    )
    bars_base = _base(bars)
    rule = bars_base.mark_rule(strokeWidth=1.5, color="black", clip=True).encode(
        alt.X("low:Q", **axis), alt.X2("high:Q"), y
    )
    tick = bars_base.mark_tick(thickness=3, size=20, color="black").encode(
        alt.X("mean:Q", **axis), y, tooltip=_TOOLTIP_BAND
    )
    text = _base(notes).mark_text(align="left", x=4, fontSize=12).encode(y, alt.Text("note:N"))
    title = "Final test accuracy: every seed, mean, interval"
    return _finish(rule + strip + tick + text, title, height=44 * len(setting.inits))


def differences(setting: comparison.Setting) -> alt.Chart:
    """The mean difference in final test accuracy of every two initializers, in points."""
    rows = []
    for pair in comparison.pairs(setting, "final_acc"):
        found = pair.comparison
        for sign, first, second in ((1, pair.first, pair.second), (-1, pair.second, pair.first)):
            value, *bounds = (100 * sign * number for number in found.difference)
            mark = "*" * (pair.p <= 0.05) + "≈" * (pair.p_equivalence <= 0.05)
            rows.append(
                {
                    "first": first,
                    "second": second,
                    "points": value,
                    "text": f"{round(value, 2) + 0.0:+.2f}{mark}",
                    "interval": f"{min(bounds):+.3f} to {max(bounds):+.3f}",
                    "p": formatting.p_equals(pair.p),
                    "sign flips": formatting.p_equals(found.p_sign_flip),
                    "equivalence": formatting.p_equals(pair.p_equivalence),
                    "seeds": found.n,
                }
            )
    base = alt.Chart(alt.Data(values=rows)).encode(
        alt.X("second:N", sort=setting.inits, title="minus", axis=_names(labelAngle=-35)),
        alt.Y("first:N", sort=setting.inits, title=None, axis=_names()),
        tooltip=[
            "first:N", "second:N", alt.Tooltip("points:Q", format="+.3f"), "interval:N",
            alt.Tooltip("p:N", title="p (t test, Holm)"),
            alt.Tooltip("sign flips:N", title="p (sign flips)"),
            alt.Tooltip("equivalence:N", title="p (equivalence, Holm)"),
            "seeds:Q",
        ],
    )  # fmt: skip
    largest = 0.5  # points: larger differences have the same color
    scale = alt.Scale(scheme="blueorange", domain=[-largest, 0, largest], clamp=True, reverse=True)
    cells = base.mark_rect(stroke="white").encode(alt.Color("points:Q", scale=scale, legend=None))
    strong = f"abs(datum.points) > {0.7 * largest}"
    text = base.mark_text(fontSize=11).encode(
        alt.Text("text:N"), color=alt.condition(strong, alt.value("white"), alt.value("black"))
    )
    return _finish(
        cells + text,
        "Differences in final accuracy, points",
        "row minus column; * differ, ≈ equivalent",
        height=36 * len(setting.inits),
    )


def weight_histogram(
    setting: comparison.Setting, name: str, kernels: Mapping[str, np.ndarray]
) -> alt.Chart:
    """The distribution of a kernel's values at initialization, for each initializer."""
    drawn = {init: kernel[np.isfinite(kernel)].astype(float) for init, kernel in kernels.items()}
    drawn = {init: kernel for init, kernel in drawn.items() if kernel.size and np.ptp(kernel) > 0}
    # One very wide distribution would hide the others, so the range is limited.
    reach = [float(np.abs(kernel).max()) for kernel in drawn.values()] or [1.0]
    largest = min(max(reach), 4 * float(np.median(reach)))
    edges = np.linspace(-largest, largest, 82)
    width = edges[1] - edges[0]
    rows = [
        {"init": init, "weight": float(at), "density": float(count / kernel.size / width)}
        for init, kernel in drawn.items()
        for at, count in zip(
            (edges[:-1] + edges[1:]) / 2, np.histogram(kernel, edges)[0], strict=True
        )
    ]
    base = _base(rows)
    line = base.mark_line(strokeWidth=1.8, interpolate="step").encode(
        alt.X("weight:Q", title=f"{name} at initialization"),
        alt.Y("density:Q", axis=alt.Axis(format=".3~g")),
        _color(setting),
        _dash(setting),
        tooltip=[
            alt.Tooltip("init:N", title="initializer"),
            alt.Tooltip("weight:Q", format=".4f"),
            alt.Tooltip("density:Q", format=".3f"),
        ],
    )
    return _finish(alt.layer(line), f"Weights at initialization: {name}", height=260)


def _interval(values: np.ndarray) -> dict[str, Any]:
    """Mean and interval, as fields of a row of data."""
    mean, low, high = statistics.mean_interval(values)
    bounds = {"low": low, "high": high} if len(values) > 1 else {"low": mean, "high": mean}
    return {"mean": mean, **bounds, "seeds": len(values)}


def _base(rows: list[dict[str, Any]]) -> alt.Chart:
    """A chart of the initializers whose checkbox is checked."""
    return alt.Chart(alt.Data(values=rows)).transform_filter("indexof(shown, datum.init) >= 0")


def _finish(chart: Any, title: str, subtitle: str = "", *, height: int) -> alt.Chart:
    options: dict[str, Any] = {"subtitle": subtitle} if subtitle else {}
    return chart.properties(height=height, title=alt.Title(title, anchor="start", **options))


def _names(**options: Any) -> alt.Axis:
    """An axis of initializers; a name with arguments takes two lines."""
    return alt.Axis(
        labelExpr="split(replace(datum.label, '(', '\\n('), '\\n')", labelLimit=0, **options
    )


def _legend(stroke: float = 2) -> alt.Legend:
    return alt.Legend(
        orient="bottom",
        title=None,
        columns=4,
        labelLimit=300,
        symbolStrokeWidth=stroke,
        symbolOpacity=1,
    )


def _color(setting: comparison.Setting, legend: Any = ...) -> alt.Color:
    legend = _legend() if legend is ... else legend
    return alt.Color("init:N", scale=_scale(setting, _COLORS), legend=legend)


def _dash(setting: comparison.Setting, legend: Any = ...) -> alt.StrokeDash:
    legend = _legend() if legend is ... else legend
    return alt.StrokeDash("init:N", scale=_scale(setting, _DASHES), legend=legend)


def _shape(setting: comparison.Setting, legend: Any = ...) -> alt.Shape:
    legend = _legend() if legend is ... else legend
    return alt.Shape("init:N", scale=_scale(setting, _SHAPES), legend=legend)


def _scale(setting: comparison.Setting, values: list[Any]) -> alt.Scale:
    domain = setting.inits
    return alt.Scale(domain=domain, range=[values[i % len(values)] for i in range(len(domain))])


FIGURES: dict[str, Callable[[comparison.Setting], alt.Chart]] = {
    "training_loss": training_loss,
    "test_error": test_error,
    "final_accuracy": final_accuracy,
    "differences": differences,
}
"""What is drawn of every setting, by the names of the files."""
