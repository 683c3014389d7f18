"""What the panels of an audit's figure have in common: marks, lines, bands and axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from initjax.auditing._judging.attention import Attention
from initjax.auditing._judging.layers import Layer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colors, which are distinct for color-blind readers; so are the shapes.
MARKS = {"ok": ("o", "#0072B2"), "warning": ("^", "#E69F00"), "failure": ("X", "#D55E00")}
THEORY, BAND, PATH, GRAY = "0.2", "0.88", "0.75", "0.35"
_MANY = 40  # layers: from here on dots touch
_DECADE = 10.0  # a larger range gets a logarithmic axis
_BEYOND = 1e3  # how far beyond the measurements theory is drawn, as a factor

Edges = list[tuple[int, int]]  # between layers that theory connects


class Series(NamedTuple):
    """One audit: its layers, of each the level, 'ok', 'warning' or 'failure', and attentions."""

    layers: Sequence[Layer]
    levels: Sequence[str]
    attentions: Sequence[Attention]
    hollow: bool = False

    def array(self, field: str) -> np.ndarray:
        """A number of each layer."""
        return np.array([getattr(layer, field) for layer in self.layers])

    def of_attention(self, field: str) -> np.ndarray:
        """A number of each attention, at the last layer of its queries and keys; NaN elsewhere."""
        rows = {each: row for row, layer in enumerate(self.layers) for each in layer.parameters}
        values = np.full(len(self.layers), math.nan)
        for attention in self.attentions:
            if found := [rows[each] for each in attention.parameters if each in rows]:
                values[max(found)] = getattr(attention, field)
        return values


def draw_theory(
    axes: Axes, theory: np.ndarray, edges: Edges, band: Sequence[np.ndarray] | None = None
) -> None:
    """Draws lines between layers that theory connects, and the band from `band[0]` to `band[1]`."""
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
                facecolors=BAND,
                edgecolors=BAND,
                lw=0.3,
                zorder=1,
            ),
            autolim=False,
        )
    axes.add_collection(
        LineCollection(
            [[(a, theory[a]), (b, theory[b])] for a, b in drawable(theory)],
            colors=THEORY,
            lw=1.3,
            capstyle="round",
            zorder=4 if len(theory) > _MANY else 2,  # many dots would hide it
        ),
        autolim=False,
    )


def draw_measured(
    axes: Axes,
    audits: Sequence[Series],
    values: Sequence[np.ndarray],
    lost: Sequence[np.ndarray] | None = None,
    why: str = "",
) -> list[str]:
    """Draws dots; zeros on a logarithmic axis at the bottom, non-finite numbers at the top.

    Args:
      axes: where to draw.
      audits: whose numbers these are.
      values: a number for each layer.
      lost: which numbers are infinite or NaN, rather than not measured.
      why: what to write if nothing was measured.

    Returns:
      Notes about dots at the edges.
    """
    none = np.zeros(len(values[0]), bool)
    lost = [none] * len(values) if lost is None else lost
    log = axes.get_yscale() == "log"
    zero = [(numbers == 0) & log for numbers in values]
    for audit, numbers, *at_edges in zip(audits, values, zero, lost, strict=True):
        _draw_dots(axes, audit, numbers, *at_edges)
    notes = [(zero, "at the lower edge: zero"), (lost, "at the upper edge: infinite or NaN")]
    if not any(
        (np.isfinite(numbers) | gone).any() for numbers, gone in zip(values, lost, strict=True)
    ):
        say_why(axes, why_nothing(audits[-1].layers, why))
    return [note for which, note in notes if np.any(which)]


def _draw_dots(
    axes: Axes, audit: Series, values: np.ndarray, zero: np.ndarray, lost: np.ndarray
) -> None:
    at = np.arange(len(values))
    many = len(values) > _MANY
    drawn = np.isfinite(values) & ~zero
    if audit.hollow:
        axes.plot(at, np.where(drawn, values, math.nan), color=PATH, lw=0.8, zorder=1.5)
    edge: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False}
    for level, (shape, color) in MARKS.items():
        mine = np.array([one == level for one in audit.levels])
        style: dict[str, Any] = {
            "ls": "", "marker": shape, "color": color, "ms": 4 if many else 5.5,
            "mec": "w", "mew": 0 if many else 0.4,
        }  # fmt: skip
        if audit.hollow:
            style |= {"mfc": "w", "mec": color, "mew": 0.8}
        axes.plot(at[mine & drawn], values[mine & drawn], zorder=3, **style)
        for which, y in ((zero, 0.0), (lost, 1.0)):
            marked = at[mine & which]
            axes.plot(marked, np.full(len(marked), y), zorder=4, **style, **edge)


def why_nothing(layers: Sequence[Layer], otherwise: str) -> str:
    """Why a panel is empty."""
    if not any(layer.samples for layer in layers):
        return "no layer ran on this batch"
    if not any(math.isfinite(layer.rms) for layer in layers):
        return "all pre-activations are infinite or NaN"
    return otherwise or "not measured"


def say_why(axes: Axes, text: str) -> None:
    axes.text(
        0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=10, color=GRAY
    )


def value_axis(
    axes: Axes, measured: Sequence[np.ndarray], edges: Edges, *theory: np.ndarray
) -> list[str]:
    """Sets the limits and the scale of a size; returns a note if it is logarithmic."""
    from matplotlib.ticker import LogLocator, NullFormatter

    sizes = np.concatenate(measured)
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    drawn = np.array(theory)[:, sorted({row for edge in edges for row in edge})].ravel()
    drawn = drawn[np.isfinite(drawn) & (drawn > 0)]
    if len(sizes):
        near = (drawn < sizes.max() * _BEYOND) & (drawn > sizes.min() / _BEYOND)
        drawn = drawn[near]
    sizes = np.append(sizes, drawn)
    if not len(sizes):
        axes.set_ylim(-0.02, 1)
        return []
    low, high = sizes.min(), sizes.max()
    if high / low <= _DECADE:
        axes.set_ylim(-0.02 * high, 1.25 * high)
        return []
    room = (high / low) ** 0.06
    axes.set_yscale("log")
    axes.set_ylim(low / room / 1.1, high * room * 1.1)
    if high / low < 1e3:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    return ["log scale"]
