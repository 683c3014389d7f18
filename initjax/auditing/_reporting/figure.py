"""The figure of an audit: what was measured at every layer, and what theory predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax.auditing._judging.layers import Layer
from initjax.auditing._measuring.statistics import BINS
from initjax.auditing._reporting.text import short_names, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colors, which are distinct for color-blind readers; so are the shapes.
_MARKS = {"ok": ("o", "#0072B2"), "warning": ("^", "#E69F00"), "failure": ("X", "#D55E00")}
_TEXT_COLORS = {"ok": "0.3", "warning": "#8A5A00", "failure": "#B3440A"}
_THEORY, _BAND = "0.2", "0.88"
_SHADES = ("#FFFFFF", "#C6DFF0", "#6AAED6", "#0072B2", "#00304D")
_DARKEST = 0.14  # of the numbers in one bin; it is 0.08 for a normal distribution
_INCHES = 11.0  # the width; the following are inches too
_PANEL, _GAP, _LINE, _LETTER = 2.1, 0.5, 0.165, 0.058
_MOST_NAMES, _LONGEST_NAME = 26, 28
_MANY = 60  # layers: from here on dots touch
_DECADE = 10.0  # a larger range gets a logarithmic axis
_BEYOND = 1e3  # how far beyond the measurements theory is drawn, as a factor

Edges = list[tuple[int, int]]  # between layers that theory connects


def draw(
    title: str, layers: Sequence[Layer], levels: Sequence[str], lines: Sequence[tuple[str, str]]
) -> Figure:
    """Draws measurements and predictions over depth, and the layers' histograms.

    On the left is the forward pass: root mean square and histogram of the pre-activations, and the
    correlation of two examples. On the right is the backward pass: root mean square and histogram
    of the loss's gradients; below them is the part of each layer that is flat. Theory's band holds
    95% of the networks of these widths. Its lines restart where a layer's input does not follow
    from one other layer.

    Args:
      title: the headline.
      layers: what to draw.
      levels: of each layer: 'ok', 'warning' or 'failure'.
      lines: the lines above the panels, each with its level.

    Returns:
      A Matplotlib figure that belongs to no window, and to no state of `pyplot`.

    Raises:
      ValueError: there are no layers.
    """
    from matplotlib.figure import Figure

    if not layers:
        raise ValueError(
            "plot: this report has no layers to draw; print(report) says why none was found"
        )
    names = _names(layers)
    top = 0.72 + _LINE * len(lines) + 0.5
    bottom = 0.25 + _LETTER * max(map(len, names))
    height = top + 3 * _PANEL + 2 * _GAP + bottom
    figure = Figure(figsize=(_INCHES, height), dpi=150)
    figure.subplots_adjust(
        left=0.055, right=0.96, bottom=bottom / height, top=1 - top / height,
        wspace=0.19, hspace=_GAP / _PANEL,
    )  # fmt: skip
    figure.text(0.012, 1 - 0.32 / height, title, fontsize=13, fontweight="bold", va="center")
    for number, (level, line) in enumerate(lines):
        at = 1 - (0.62 + _LINE * number) / height
        figure.text(0.012, at, line, fontsize=8.5, color=_TEXT_COLORS[level], va="center")

    (rms, gradient), (forward, backward), (correlation, flat) = figure.subplots(3, 2, sharex="col")
    _draw_rms(rms, layers, levels)
    _draw_gradient(gradient, layers, levels)
    _draw_histograms(forward, [layer.histogram for layer in layers], levels, "Pre-activations")
    _draw_histograms(backward, [layer.gradient_histogram for layer in layers], levels, "Gradients")
    _draw_correlation(correlation, layers, levels)
    _draw_flat(flat, layers, levels)
    for axes in (rms, gradient, forward, backward, correlation, flat):
        axes.tick_params(axis="y", labelsize=8)
        if not axes.images:
            axes.grid(color="0.92", lw=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
    for axes in (correlation, flat):
        _name_layers(axes, names, levels)
    _legend(figure, levels, 1 - (top - 0.42) / height)
    return figure


def _names(layers: Sequence[Layer]) -> list[str]:
    return [shortened(name, _LONGEST_NAME) for name in short_names(layers)]


def _draw_rms(axes: Axes, layers: Sequence[Layer], levels: Sequence[str]) -> None:
    theory = np.array([layer.predicted_rms for layer in layers])
    edges = [(layer.source, row) for row, layer in enumerate(layers) if layer.source is not None]
    measured = np.array([layer.rms for layer in layers])
    ranges = np.array([layer.predicted_range for layer in layers])
    band = ranges[:, 0], ranges[:, 1]
    logarithmic = _value_axis(axes, measured, edges, theory, *band)
    _title(axes, "Pre-activations, root mean square", logarithmic)
    _draw_theory(axes, theory, edges, band)
    seen = np.array([layer.samples > 0 for layer in layers])
    _draw_measured(axes, measured, levels, seen & ~np.isfinite(measured))


def _draw_gradient(axes: Axes, layers: Sequence[Layer], levels: Sequence[str]) -> None:
    measured = np.array([layer.gradient for layer in layers])
    theory, edges = _predicted_gradients(layers, measured)
    logarithmic = _value_axis(axes, measured, edges, theory)
    _title(axes, "Gradients, root mean square", logarithmic)
    _draw_theory(axes, theory, edges)
    # What has no histogram was not measured.
    seen = np.array([len(layer.gradient_histogram) > 0 for layer in layers])
    _draw_measured(axes, measured, levels, seen & ~np.isfinite(measured))


def _draw_correlation(axes: Axes, layers: Sequence[Layer], levels: Sequence[str]) -> None:
    measured = np.array([layer.correlation for layer in layers])
    theory = np.array([layer.predicted_correlation for layer in layers])
    edges = []
    for row, layer in enumerate(layers):
        if layer.source is not None and math.isfinite(theory[row]):
            edges.append((layer.source, row))
            if layers[layer.source].source is None:  # the first of a chain is measured
                theory[layer.source] = measured[layer.source]
    _title(axes, "Correlation of two examples", False)
    lowest = np.min(np.append(measured, theory), initial=0, where=np.isfinite([*measured, *theory]))
    axes.set_ylim(lowest - 0.05 if lowest < 0 else -0.02, 1.05)
    axes.axhline(0, color="0.8", lw=0.8, zorder=0)
    _draw_theory(axes, theory, edges)
    _draw_measured(axes, measured, levels)


def _draw_flat(axes: Axes, layers: Sequence[Layer], levels: Sequence[str]) -> None:
    from matplotlib.ticker import PercentFormatter

    saturating = np.array([layer.saturating for layer in layers])
    measured = np.array([la.saturated if la.saturating else la.dead for la in layers])
    theory = np.array([la.predicted_saturated if la.saturating else la.predicted_dead
                       for la in layers])  # fmt: skip
    seen = np.isfinite(measured)
    titles = {
        (True, True): "Dead units, or flat pre-activations",
        (True, False): "Flat pre-activations, where activations saturate",
        (False, True): "Dead units, flat on the whole batch",
        (False, False): "Dead units: no layer has an activation that could be flat",
    }
    kinds = bool((seen & saturating).any()), bool((seen & ~saturating).any())
    _title(axes, titles[kinds], False)
    highest = np.max(
        np.append(measured, theory), initial=0.1, where=np.isfinite([*measured, *theory])
    )
    axes.set_ylim(-0.02 * highest, 1.12 * highest)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.plot(theory, ls="", marker="_", ms=7, mew=1.3, color=_THEORY, zorder=2)
    if np.isfinite(theory).any():
        text = "bars: at unit scale" if kinds == (True, False) else "bars: by chance"
        axes.set_title(text, loc="right", fontsize=8, color="0.35")
    _draw_measured(axes, measured, levels)


def _predicted_gradients(layers: Sequence[Layer], measured: np.ndarray) -> tuple[np.ndarray, Edges]:
    """Theory's gradients, from the ends of chains back, and between which layers it reaches."""
    readers: dict[int, list[int]] = {}
    for row, layer in enumerate(layers):
        if layer.source is not None:
            readers.setdefault(layer.source, []).append(row)
    theory, edges = measured.copy(), []
    for row in reversed(range(len(layers))):
        layer, ratio = layers[row], layers[row].predicted_gradient_ratio
        if len(readers.get(row, [])) != 1 or not 0 < ratio < math.inf:
            continue
        (reader,) = readers[row]
        # Of squared norms; their means are over so many numbers.
        counts = [part.units * part.samples for part in (layers[reader], layer)]
        theory[row] = theory[reader] * math.sqrt(ratio * counts[0] / max(1, counts[1]))
        if theory[row] > 0:
            edges.append((row, reader))
    return theory, edges


def _draw_theory(
    axes: Axes, theory: np.ndarray, edges: Edges, band: tuple[np.ndarray, np.ndarray] | None = None
) -> None:
    from matplotlib.collections import LineCollection, PolyCollection

    def drawable(*values: np.ndarray) -> Edges:
        return [
            edge for edge in edges if all(np.isfinite(value[list(edge)]).all() for value in values)
        ]

    if band is not None:
        low, high = band
        axes.add_collection(
            PolyCollection(
                [
                    [(a, low[a]), (b, low[b]), (b, high[b]), (a, high[a])]
                    for a, b in drawable(low, high)
                ],
                facecolors=_BAND,
                edgecolors=_BAND,
                lw=0.3,
                zorder=1,
            ),
            autolim=False,
        )
    axes.add_collection(
        LineCollection(
            [[(a, theory[a]), (b, theory[b])] for a, b in drawable(theory)],
            colors=_THEORY,
            lw=1.3,
            capstyle="round",
            zorder=4 if len(theory) > _MANY else 2,  # many dots would hide it
        ),
        autolim=False,
    )


def _draw_measured(
    axes: Axes, values: np.ndarray, levels: Sequence[str], lost: np.ndarray | None = None
) -> None:
    """Draws dots; zeros on a logarithmic axis at the bottom, non-finite numbers at the top."""
    at = np.arange(len(values))
    many = len(values) > _MANY
    zero = (values == 0) & (axes.get_yscale() == "log")
    lost = np.zeros(len(values), bool) if lost is None else lost
    edge: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False}
    for level, (shape, color) in _MARKS.items():
        mine = np.array([one == level for one in levels])
        style = {
            "ls": "",
            "color": color,
            "ms": 4 if many else 5.5,
            "mec": "w",
            "mew": 0 if many else 0.4,
        }
        drawn = mine & np.isfinite(values) & ~zero
        axes.plot(at[drawn], values[drawn], marker=shape, zorder=3, **style)
        for which, y in ((zero, 0.0), (lost, 1.0)):
            marked = at[mine & which]
            axes.plot(marked, np.full(len(marked), y), marker=shape, zorder=4, **style, **edge)
    notes = [(zero, "lower edge: zero"), (lost, "upper edge: infinite or NaN")]
    text = "; ".join(note for which, note in notes if which.any())
    if text:
        axes.set_title(text, loc="right", fontsize=8, color="0.35")


def _draw_histograms(
    axes: Axes, histograms: Sequence[Sequence[float]], levels: Sequence[str], title: str
) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    blank = [math.nan] * (len(BINS) - 1)
    table = np.array([list(histogram) or blank for histogram in histograms]).T
    style: dict[str, Any] = {
        "origin": "lower", "aspect": "auto", "interpolation": "nearest",
        "cmap": LinearSegmentedColormap.from_list("shades", _SHADES),
        "vmin": 0, "vmax": _DARKEST,
    }  # fmt: skip
    axes.imshow(table, extent=(-0.5, table.shape[1] - 0.5, BINS[0], BINS[-1]), **style)
    axes.set_yticks([-4, -2, 0, 2, 4])
    _title(axes, f"{title}, histogram in root mean squares", False)
    for row, level in enumerate(levels):
        if level != "ok" and "ok" in levels:  # if no layer is ok, marks show nothing
            shape, color = _MARKS[level]
            axes.plot(
                row, 1, marker=shape, color=color, ms=4, mec="w", mew=0.3, clip_on=False,
                transform=axes.get_xaxis_transform(), zorder=4,
            )  # fmt: skip
    beside = axes.inset_axes((1.012, 0, 0.022, 1))
    below = np.array([math.erf(edge / math.sqrt(2)) / 2 for edge in BINS])
    below[[0, -1]] = -0.5, 0.5
    beside.imshow(np.diff(below)[:, None], extent=(0, 1, BINS[0], BINS[-1]), **style)
    beside.set(xticks=[], yticks=[])
    beside.set_title("normal", fontsize=7, color="0.35", pad=3)


def _value_axis(axes: Axes, measured: np.ndarray, edges: Edges, *theory: np.ndarray) -> bool:
    """Sets the limits and the scale of a size; returns whether it is logarithmic."""
    from matplotlib.ticker import LogLocator, NullFormatter

    sizes = measured[np.isfinite(measured) & (measured > 0)]
    drawn = np.array(theory)[:, sorted({row for edge in edges for row in edge})].ravel()
    drawn = drawn[np.isfinite(drawn) & (drawn > 0)]
    if len(sizes):
        near = (drawn < sizes.max() * _BEYOND) & (drawn > sizes.min() / _BEYOND)
        drawn = drawn[near]
    sizes = np.append(sizes, drawn)
    if not len(sizes):
        axes.set_ylim(-0.02, 1)
        return False
    low, high = sizes.min(), sizes.max()
    if high / low <= _DECADE:
        axes.set_ylim(-0.02 * high, 1.25 * high)
        return False
    room = (high / low) ** 0.06
    axes.set_yscale("log")
    axes.set_ylim(low / room / 1.1, high * room * 1.1)
    if high / low < 1e3:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    return True


def _title(axes: Axes, text: str, logarithmic: bool) -> None:
    axes.set_title(text + (", log scale" if logarithmic else ""), loc="left", fontsize=10)


def _name_layers(axes: Axes, names: Sequence[str], levels: Sequence[str]) -> None:
    count = len(names)
    at = range(0, count, -(-count // _MOST_NAMES))
    axes.set_xlim(-0.5, count - 0.5)
    labels = [names[row] for row in at]
    for row, label in zip(at, axes.set_xticks(at, labels, rotation=90, fontsize=7.5), strict=True):
        if levels[row] != "ok":
            label.label1.set(color=_TEXT_COLORS[levels[row]], fontweight="bold")


def _legend(figure: Figure, levels: Sequence[str], y: float) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Line2D([], [], ls="", marker=shape, color=color, ms=6, mec="w", mew=0.4,
               label="measured" if level == "ok" else f"measured, named in a {level}")
        for level, (shape, color) in _MARKS.items()
        if level in levels
    ]  # fmt: skip
    handles.append(Line2D([], [], color=_THEORY, lw=1.3, label="theory"))
    handles.append(Patch(color=_BAND, label="95% of networks of these widths"))
    figure.legend(
        handles=handles, loc="center left", bbox_to_anchor=(0.003, y), ncols=len(handles),
        frameon=False, fontsize=8.5, columnspacing=1.4, handletextpad=0.5,
    )  # fmt: skip
