"""The panels of an audit's figure: what was measured at every layer, and what theory predicts.

Each function draws one panel, of one or two audits of the same layers: the hollow marks of an audit
before a repair, and the filled ones of the audit that theory's predictions belong to. It returns
the panel's title and the notes below it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from initjax.auditing._judging.layers import Layer
from initjax.auditing._measuring.statistics import BINS
from initjax.auditing._reporting.drawing import (
    MARKS,
    PATH,
    THEORY,
    Edges,
    Series,
    draw_measured,
    draw_theory,
    say_why,
    value_axis,
    why_nothing,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHADES = ("#FFFFFF", "#C6DFF0", "#6AAED6", "#0072B2", "#00304D")
_DARKEST = 0.14  # of the numbers in one bin; it is 0.08 for a normal distribution


class Titled(NamedTuple):
    """The texts above a panel."""

    title: str
    notes: list[str]


def draw_rms(axes: Axes, audits: Sequence[Series]) -> Titled:
    """The root mean squares of pre-activations."""
    layers = audits[-1].layers
    theory = audits[-1].array("predicted_rms")
    edges = [(layer.source, row) for row, layer in enumerate(layers) if layer.source is not None]
    band = tuple(audits[-1].array("predicted_range").T)
    measured = [audit.array("rms") for audit in audits]
    notes = value_axis(axes, measured, edges, theory, *band)
    draw_theory(axes, theory, edges, band)
    lost = [(audit.array("samples") > 0) & ~np.isfinite(audit.array("rms")) for audit in audits]
    notes += draw_measured(axes, audits, measured, lost)
    if len(layers) > 1 and not edges and np.isfinite(measured[-1]).any():
        notes.append("no theory: predictions restart at every layer")
    return Titled("Pre-activations: root mean square", notes)


def draw_gradients(axes: Axes, audits: Sequence[Series]) -> Titled:
    """The root mean squares of the loss's gradients with respect to pre-activations."""
    measured = [audit.array("gradient") for audit in audits]
    theory, edges = _predicted_gradients(audits[-1].layers, measured[-1])
    notes = value_axis(axes, measured, edges, theory)
    draw_theory(axes, theory, edges)
    # What has no histogram was not measured.
    lost = [
        np.array([len(layer.gradient_histogram) > 0 for layer in audit.layers])
        & ~np.isfinite(audit.array("gradient"))
        for audit in audits
    ]
    notes += draw_measured(axes, audits, measured, lost)
    return Titled("Gradients: root mean square", notes)


def draw_correlations(axes: Axes, audits: Sequence[Series]) -> Titled:
    """The correlations of two examples' pre-activations."""
    layers = audits[-1].layers
    measured = [audit.array("correlation") for audit in audits]
    theory = audits[-1].array("predicted_correlation")
    edges = []
    for row, layer in enumerate(layers):
        if layer.source is not None and math.isfinite(theory[row]):
            edges.append((layer.source, row))
            if layers[layer.source].source is None:  # the first of a chain is measured
                theory[layer.source] = measured[-1][layer.source]
    numbers = np.concatenate([*measured, theory])
    lowest = np.min(numbers, initial=0, where=np.isfinite(numbers))
    axes.set_ylim(lowest - 0.05 if lowest < 0 else -0.02, 1.05)
    axes.axhline(0, color="0.8", lw=0.8, zorder=0)
    draw_theory(axes, theory, edges)
    why = "a batch of one example has none" if max(layer.samples for layer in layers) == 1 else ""
    notes = draw_measured(axes, audits, measured, why=why)
    return Titled("Correlation of two examples", notes)


def draw_tokens(axes: Axes, audits: Sequence[Series]) -> Titled:
    """The cosines of two tokens of a sequence, as each attention reads them."""
    measured = [audit.of_attention("token_correlation") for audit in audits]
    theory = audits[-1].of_attention("predicted_token_correlation")
    rows = np.flatnonzero(np.isfinite(measured[-1])).tolist()
    edges = [edge for edge in itertools.pairwise(rows) if math.isfinite(theory[edge[1]])]
    for before, _ in edges:
        if not math.isfinite(theory[before]):  # theory begins with what was measured
            theory[before] = measured[-1][before]
    lowest = np.min(
        np.concatenate(measured), initial=0, where=np.isfinite(np.concatenate(measured))
    )
    axes.set_ylim(lowest - 0.05 if lowest < 0 else -0.02, 1.05)
    draw_theory(axes, theory, edges)
    notes = draw_measured(axes, audits, measured)
    return Titled(
        "Cosine of two tokens, before attention", ["1: blocks can't tell them apart", *notes]
    )


def draw_keys(axes: Axes, audits: Sequence[Series]) -> Titled:
    """The numbers of keys that a query of each attention reads."""
    measured = [audit.of_attention("effective_keys") for audit in audits]
    open_keys = audits[-1].of_attention("keys")
    theory = audits[-1].of_attention("predicted_effective_keys")
    counts = np.concatenate([open_keys, *measured])
    axes.set_ylim(0, 1.12 * np.max(counts, initial=1, where=np.isfinite(counts)))
    axes.plot(open_keys, ls="", marker="_", ms=7, mew=1.3, color=PATH, zorder=1)
    axes.plot(theory, ls="", marker="_", ms=7, mew=1.3, color=THEORY, zorder=2)
    draw_measured(axes, audits, measured)
    note = "bars: predicted from the scores; gray: all that are open to it"
    return Titled("Keys that a query reads", [note])


def draw_flat(axes: Axes, audits: Sequence[Series]) -> Titled:
    """The parts of units, or of pre-activations, for which the activation is flat."""
    from matplotlib.ticker import PercentFormatter

    saturating = audits[-1].array("saturating")
    measured = [
        np.where(saturating, audit.array("saturated"), audit.array("dead")) for audit in audits
    ]
    expected = audits[-1].array("predicted_saturated"), audits[-1].array("predicted_dead")
    theory = np.where(saturating, *expected)
    seen = np.isfinite(measured[-1])
    titles = {
        (True, True): "Dead units, or flat pre-activations",
        (True, False): "Flat pre-activations",
        (False, True): "Dead units: flat on the whole batch",
        (False, False): "Dead units",
    }
    kinds = bool((seen & saturating).any()), bool((seen & ~saturating).any())
    numbers = np.concatenate([*measured, theory])
    highest = np.max(numbers, initial=0.1, where=np.isfinite(numbers))
    axes.set_ylim(-0.02 * highest, 1.12 * highest)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0 if highest > 0.2 else None))
    axes.plot(theory, ls="", marker="_", ms=7, mew=1.3, color=THEORY, zorder=2)
    notes = {
        (True, True): ["bars: by chance, or with pre-activations of unit scale"],
        (True, False): ["where activations saturate; bars: at unit scale"],
        (False, True): ["bars: as many as chance explains"],
        (False, False): [],
    }[kinds]
    draw_measured(axes, audits, measured, why="no layer has an activation that can be flat")
    return Titled(titles[kinds], notes)


def draw_histograms(axes: Axes, audit: Series, field: str, title: str, zeros: str) -> Titled:
    """The histograms of all layers: one column each.

    Args:
      axes: where to draw.
      audit: its layers.
      field: which histogram of a layer.
      title: of the panel.
      zeros: what a dark bin at zero means.
    """
    from matplotlib.colors import LinearSegmentedColormap

    blank = [math.nan] * (len(BINS) - 1)
    table = np.array([list(getattr(layer, field)) or blank for layer in audit.layers]).T
    style: dict[str, Any] = {
        "origin": "lower", "aspect": "auto", "interpolation": "nearest",
        "cmap": LinearSegmentedColormap.from_list("shades", _SHADES),
        "vmin": 0, "vmax": _DARKEST,
    }  # fmt: skip
    axes.imshow(table, extent=(-0.5, table.shape[1] - 0.5, BINS[0], BINS[-1]), **style)
    axes.set_yticks([-4, -2, 0, 2, 4])
    for row, level in enumerate(audit.levels):
        if level != "ok" and "ok" in audit.levels:  # if no layer is ok, marks show nothing
            shape, color = MARKS[level]
            axes.plot(
                row, 1, marker=shape, color=color, ms=4, mec="w", mew=0.3, clip_on=False,
                transform=axes.get_xaxis_transform(), zorder=4,
            )  # fmt: skip
    beside = axes.inset_axes((1.012, 0, 0.022, 1))
    below = np.array([math.erf(edge / math.sqrt(2)) / 2 for edge in BINS])
    below[[0, -1]] = -0.5, 0.5
    beside.imshow(np.diff(below)[:, None], extent=(0, 1, BINS[0], BINS[-1]), **style)
    beside.set(xticks=[], yticks=[])
    notes = ["in root mean squares of the layer", "strip on the right: a normal distribution"]
    below_zero, zero, above_zero = table[len(BINS) // 2 - 2 :][:3]
    if (zero > np.maximum(_DARKEST, 2 * np.maximum(below_zero, above_zero))).any():
        notes.append(f"dark line at 0: {zeros}")
    elif (below_zero + zero + above_zero > 3 * _DARKEST).any():
        notes.append("dark around 0: most are far below the root mean square")
    if not np.nansum(table):
        say_why(axes, why_nothing(audit.layers, "no gradient reaches a layer"))
    return Titled(f"{title}: histogram", notes)


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
