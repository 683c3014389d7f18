"""The charts of a sweep: one definition serves the interactive page, the SVG and the PNG files."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import altair as alt
import numpy as np
from altair.utils import schemapi

from experiments.common import chart_style, comparison, comparison_charts

_POINTS = 100  # of a curve
_SEEDS = 200  # of an initializer that are drawn as points
_GAP = 5.0  # factor: initializers that are worse by more than this don't stretch an axis
_START = 0.1  # of training: the steep start doesn't stretch an axis either

_TOOLTIP_BAND = [
    alt.Tooltip("init:N", title="initializer"),
    alt.Tooltip("mean:Q", format=".4~g"),
    alt.Tooltip("low:Q", title="95% from", format=".4~g"),
    alt.Tooltip("high:Q", title="to", format=".4~g"),
    alt.Tooltip("seeds:Q"),
]

Spec = dict[str, Any]
"""A Vega-Lite specification."""


Kernels = Mapping[str, np.ndarray]
"""The values of a kernel for each initializer."""


def of_setting(
    setting: comparison.Setting, weights: Mapping[str, Callable[[], Kernels]]
) -> dict[str, Callable[[], Spec | None]]:
    """Functions that draw all charts of a setting, by names that are valid in file names.

    Args:
      setting: from `comparison.settings`.
      weights: for the name of each kernel to show, a function that returns its values.
    """
    charts = {name: functools.partial(figure, setting) for name, figure in FIGURES.items()}
    for name, kernels in weights.items():
        charts[f"weights_{name.replace('/', '_')}"] = functools.partial(
            _drawn_weights, setting, name, kernels
        )
    return {name: functools.partial(_complete, setting, draw) for name, draw in charts.items()}


def _drawn_weights(
    setting: comparison.Setting, name: str, kernels: Callable[[], Kernels]
) -> Spec | None:
    return weight_histogram(setting, name, kernels())


def _complete(setting: comparison.Setting, draw: Callable[[], Spec | None]) -> Spec | None:
    # What the page changes: the checkboxes, and the initializer under the pointer.
    params = [{"name": "shown", "value": setting.inits}, {"name": "focus", "value": ""}]
    with schemapi.debug_mode(False):  # half of the time; the tests validate the charts
        spec = draw()
    return spec and {**spec, "params": params}


def training_loss(setting: comparison.Setting) -> Spec:
    """The loss of the training batches: mean over the seeds, with its interval."""
    losses = comparison.column(setting.complete(), "step_loss").astype(np.float64)
    edges = np.unique(np.linspace(0, losses.shape[1], _POINTS + 1).astype(int))
    means = np.add.reduceat(losses, edges[:-1], axis=1) / np.diff(edges)
    at = (edges[:-1] + edges[1:]) / 2 / losses.shape[1] * _length(setting)
    return _curves(setting, at, means, "Training loss", False)


def test_error(setting: comparison.Setting) -> Spec | None:
    """One minus the accuracy on the test set after every epoch: mean over the seeds.

    There is none without accuracies, or if they were measured only once or twice.
    """
    if "final_acc" not in setting.endpoints or setting.fields["steps"] is not None:
        return None
    errors = 1 - comparison.column(setting.runs, "val_acc")
    return _curves(setting, np.arange(errors.shape[1]), errors, "Test error", True)


def _curves(
    setting: comparison.Setting, at: np.ndarray, values: np.ndarray, title: str, points: bool
) -> Spec:
    """The means of values (runs, points), with their intervals, at these epochs."""
    inits, epochs = np.array(setting.runs["init"].to_pylist()), _length(setting)
    curves = {
        init: [
            {"init": init, "epoch": float(f"{x:.7g}"), **row}
            for x, row in zip(at, chart_style.intervals(values[inits == init]), strict=True)
            if row["mean"] > 0
        ]
        for init in setting.inits
    }
    # The means set the axis, since the interval of two seeds can be very wide.
    later = {
        init: [row["mean"] for row in rows if row["epoch"] >= _START * epochs] or [1.0]
        for init, rows in curves.items()
    }
    limit = chart_style.reach(list(map(max, later.values())), _GAP)
    inside = [mean for means in later.values() for mean in means if mean <= limit] or [1.0]
    domain = [0.8 * min(inside), 1.25 * limit]
    above = [init for init, means in later.items() if min(means) > domain[1]]
    beyond = [{"init": init, "epoch": 0.5 * epochs, "beyond": 1} for init in above]
    rows = [row for init in setting.inits for row in curves[init]]
    for side, end, edge in ((-1, "low", domain[0]), (1, "high", domain[1])):
        for init, curve in curves.items():
            leaving = [
                row
                for row in curve
                if row["epoch"] >= _START * epochs and side * (row[end] - edge) > 0
            ]
            if leaving and init not in above:  # an arrow where its interval first does
                beyond.append({**leaving[0], "beyond": side})
    for place, row in enumerate(beyond):
        row["at"] = domain[max(row["beyond"], 0)]
        row["epoch"] += 0.03 * epochs * (place - (len(beyond) - 1) / 2) * (row["init"] in above)
    scale = alt.Scale(type="log", nice=False, domain=domain)
    ticks = alt.Axis(values=list(range(epochs + 1)), format="d") if epochs <= 20 else alt.Axis()
    unit = "epoch" if setting.fields["steps"] is None else "step"
    x = alt.X("epoch:Q", scale=alt.Scale(domain=[0, epochs]), axis=ticks, title=unit)
    y: dict[str, Any] = {
        "title": f"{title.lower()}, log scale",
        "scale": scale,
        "axis": alt.Axis(format=".3~g", tickCount=6),
    }
    # Cut here and not by Vega, whose clip paths take a second for each PNG.
    shown = [row for row in rows if domain[0] <= row["mean"] <= domain[1]]
    bands = [
        {name: row[name] for name in ("init", "epoch")}
        | {end: float(np.clip(row[end], *domain)) for end in ("low", "high")}
        for row in shown
    ]
    legend = chart_style.legend(setting, stroke=0 if points else 2)
    color = chart_style.color(setting, legend)
    # The more bands there are, the lighter they have to be; the page shows the focused one alone.
    light = min(0.2, 0.5 / len(setting.inits))
    band = (
        chart_style.base(bands)
        .mark_area(opacity=1)
        .encode(
            x,
            alt.Y("low:Q", **y),
            alt.Y2("high:Q"),
            color,
            fillOpacity=chart_style.focused(light, 0.3, 0.0),
        )
    )
    mean = alt.Y("mean:Q", **y)
    cut = [row for init in setting.inits for row in _below(curves[init], domain[1])]
    line = (
        chart_style.base(cut)
        .mark_line(strokeWidth=2, opacity=1)
        .encode(
            x,
            mean,
            color,
            chart_style.dash(setting, None if points else legend),
            strokeOpacity=chart_style.focused(),
        )
    )
    dots = chart_style.base(shown)
    tooltip = [alt.Tooltip("epoch:Q", title=unit, format=".2~f"), *_TOOLTIP_BAND]
    dots = dots.mark_point(filled=True, size=60, opacity=1).encode(x, mean, tooltip=tooltip)
    if points:
        shape = chart_style.shape(setting, legend)
        dots = dots.encode(color, shape, fillOpacity=chart_style.focused())
    else:  # transparent, to hover over
        dots = dots.encode(color, fillOpacity=alt.value(0)).properties(
            description=chart_style.HOVER
        )
    marks = chart_style.arrows(beyond, False, x=x, y=alt.Y("at:Q", **y), color=color)
    notes = ["Mean over the seeds with 95% interval"]
    if above:
        notes.append(f"Above the axis: {', '.join(above)}")
    if len(beyond) > len(above):
        notes.append("Arrows: intervals that leave the axis")
    chart = alt.layer(band, line, dots, *marks)
    return chart_style.finish(chart, title, notes, height=320)


def _length(setting: comparison.Setting) -> int:
    """The end of the axis of training: a number of epochs, or of steps."""
    return setting.fields["steps"] or setting.fields["epochs"]


def _below(rows: list[dict[str, Any]], top: float) -> list[dict[str, Any]]:
    """A curve up to the top of its log axis, with a point where it crosses it."""
    found = []
    for before, row in zip([None, *rows], rows, strict=False):
        if before and (before["mean"] > top) != (row["mean"] > top):
            start, end, edge = np.log([before["mean"], row["mean"], top])
            share = (edge - start) / (end - start)
            epoch = before["epoch"] + share * (row["epoch"] - before["epoch"])
            found.append({"init": row["init"], "epoch": float(epoch), "mean": top})
        mean = row["mean"] if row["mean"] <= top else None
        found.append({"init": row["init"], "epoch": row["epoch"], "mean": mean})
    return found


def final_accuracy(setting: comparison.Setting) -> Spec | None:
    """Every seed's final test accuracy as a point, and their means with intervals.

    Runs that learned nothing would compress the others, so they are left out and counted in a note.
    There is none without accuracies.
    """
    if "final_acc" not in setting.endpoints:
        return None
    values = setting.values["final_acc"]
    finite = values[np.isfinite(values)]
    learned = values[(setting.trained == 1) & np.isfinite(values)]
    inside = learned if learned.size else finite
    # Of the runs that learned, a few much worse ones don't stretch the axis either.
    limit = chart_style.reach([max(1 - value, 1e-6) for value in inside], 3)
    inside = inside[1 - inside <= limit]
    low, high = float(inside.min()), float(inside.max())
    room = max(high - low, 1e-3)
    bars = {
        init: chart_style.interval(row[np.isfinite(row)])
        for init, row in zip(setting.inits, values, strict=True)
        if np.nanmin(row) >= low
    }
    low = min([low, *(max(bar["low"], low - room / 2) for bar in bars.values())])
    high = max([high, *(min(bar["high"], high + room / 2) for bar in bars.values())])
    margin = max(0.06 * (high - low), 1e-4)
    domain = [low - margin, min(1.0, high + margin)]
    jitter = np.random.default_rng(0).uniform(-1, 1, values.shape)  # only for the picture
    points, notes, beyond = [], [], []
    for row, init in enumerate(setting.inits):
        there = np.flatnonzero(np.isfinite(values[row]))
        shown = [i for i in there if values[row, i] >= domain[0]]
        points += [
            {
                "init": init,
                "accuracy": float(values[row, i]),
                "seed": setting.seeds[i],
                "offset": float(f"{jitter[row, i]:.3g}"),
            }
            for i in shown[:_SEEDS]
        ]
        if len(shown) < len(there):
            hidden = len(there) - len(shown)
            mean = np.mean([values[row, i] for i in there if i not in shown])
            notes.append({"init": init, "note": f"← {hidden} of {len(there)} runs at {mean:.4f}"})
            bars.pop(init, None)
        elif init in bars:
            bar = {"init": init, **bars[init]}
            beyond += [{**bar, "at": domain[0], "beyond": -1}] * (bar["low"] < domain[0])
            beyond += [{**bar, "at": domain[1], "beyond": 1}] * (bar["high"] > domain[1])
    axis: dict[str, Any] = {
        "title": "final test accuracy",
        "scale": alt.Scale(domain=domain, nice=False, zero=False),
        "axis": alt.Axis(tickCount=6, labelOverlap=True, format=".4~f"),
    }
    y = alt.Y("init:N", sort=setting.inits, title=None, axis=chart_style.names(setting))
    strip = chart_style.base(points).mark_point(filled=True, size=40, opacity=1)
    strip = strip.encode(
        alt.X("accuracy:Q", **axis),
        y,
        alt.YOffset("offset:Q", scale=alt.Scale(domain=[-1.6, 1.6])),
        chart_style.color(setting),
        chart_style.shape(setting),
        fillOpacity=chart_style.focused(0.55),
        tooltip=[
            alt.Tooltip("init:N", title="initializer"),
            alt.Tooltip("seed:Q"),
            alt.Tooltip("accuracy:Q", format=".4f"),
        ],
    )
    bars_base = chart_style.base([{"init": init, **bar} for init, bar in bars.items()])
    ink = chart_style.INK
    rule = bars_base.mark_rule(strokeWidth=2, color=ink, clip=True).encode(
        alt.X("low:Q", **axis), alt.X2("high:Q"), y
    )
    tick = bars_base.mark_tick(thickness=3, size=20, color=ink).encode(
        alt.X("mean:Q", **axis), y, tooltip=_TOOLTIP_BAND
    )
    marks = chart_style.arrows(
        beyond, True, x=alt.X("at:Q", **axis), y=y, color=alt.value(ink), tooltip=_TOOLTIP_BAND
    )
    text = chart_style.base(notes).mark_text(align="left", x=4).encode(y, alt.Text("note:N"))
    seeds = "Every seed" if len(setting.seeds) <= _SEEDS else f"{_SEEDS} seeds"
    below = [f"{seeds}, and the mean with 95% interval"]
    below += ["Arrows: intervals that leave the axis"] * bool(beyond)
    chart = alt.layer(rule, strip, tick, *marks, text)
    height = chart_style.row_height(setting, 44) * len(setting.inits)
    return chart_style.finish(chart, "Final test accuracy", below, height=height)


def weight_histogram(
    setting: comparison.Setting, name: str, kernels: Mapping[str, np.ndarray]
) -> Spec:
    """The distribution of a kernel's values at initialization, for each initializer."""
    finite = {init: kernel[np.isfinite(kernel)].astype(float) for init, kernel in kernels.items()}
    drawn = {init: kernel for init, kernel in finite.items() if kernel.size and np.ptp(kernel) > 0}
    # One very wide distribution would hide the others, so the range is limited.
    reach = {init: float(np.abs(kernel).max()) for init, kernel in drawn.items()}
    largest = chart_style.reach(list(reach.values()) or [1.0], 4)
    edges = np.linspace(-largest, largest, 82)
    width = edges[1] - edges[0]
    rows = [
        {"init": init, "weight": float(f"{at:.7g}"), "density": count / kernel.size / width}
        for init, kernel in drawn.items()
        for at, count in zip(
            (edges[:-1] + edges[1:]) / 2, np.histogram(kernel, edges)[0].tolist(), strict=True
        )
    ]
    legend = chart_style.legend(setting)
    line = (
        chart_style.base(rows)
        .mark_line(strokeWidth=2, interpolate="step", opacity=1)
        .encode(
            alt.X("weight:Q", title="weight", axis=alt.Axis(tickCount=6, labelOverlap=True)),
            alt.Y("density:Q", axis=alt.Axis(format=".3~g", tickCount=6)),
            chart_style.color(setting, legend),
            chart_style.dash(setting, legend),
            strokeOpacity=chart_style.focused(),
            tooltip=[
                alt.Tooltip("init:N", title="initializer"),
                alt.Tooltip("weight:Q", format=".4~g"),
                alt.Tooltip("density:Q", format=".4~g"),
            ],
        )
    )
    notes = []
    if wide := [init for init in drawn if reach[init] > largest]:
        notes.append(f"Wider than the axis: {', '.join(wide)}")
    if same := [init for init in kernels if finite[init].size and init not in drawn]:
        notes.append(f"Not drawn, since all weights are equal: {', '.join(same)}")
    if lost := [init for init in kernels if not finite[init].size]:
        notes.append(f"Not drawn, since no weight is finite: {', '.join(lost)}")
    return chart_style.finish(
        alt.layer(line), f"Weights at initialization: {name}", notes, height=280
    )


FIGURES: dict[str, Callable[[comparison.Setting], Spec | None]] = {
    "forest": lambda setting: comparison_charts.forest(setting, setting.main),
    "forest_first_loss": lambda setting: comparison_charts.forest(setting, "first_loss"),
    "forest_steps_loss": lambda setting: (
        None if "first_loss" in setting.endpoints else comparison_charts.forest(setting, "area")
    ),
    "final_accuracy": final_accuracy,
    "differences": comparison_charts.matrix,
    "test_error": test_error,
    "training_loss": training_loss,
}
"""What is drawn of every setting, by the names of the files; None is left out."""
