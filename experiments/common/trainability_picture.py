"""The picture of a trainability diagram: accuracies by depth and variance, with the theory."""

import io
import pathlib
from typing import Any

import numpy as np

# Not pyplot, which looks for a screen and takes longer to import.
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullFormatter, NullLocator

from experiments.common import files
from experiments.common.trainability import WINDOW, Diagram, describe

_PAPER, _FIT = "#D55E00", "#FFFFFF"
_OUTLINE = [withStroke(linewidth=3.5, foreground="0.2")]
_FINE = 300  # points of a curve
_TICKS = (2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000)


def draw(path: pathlib.Path, diagram: Diagram, other: Diagram | None = None) -> None:
    """Draws a diagram into a PNG file.

    Args:
      path: of the file.
      diagram: ours.
      other: a published diagram to draw beside it.
    """
    shown = [diagram] if other is None else [diagram, other]
    figure = Figure(figsize=(1.6 + 5.9 * len(shown), 6), dpi=150)
    inches = figure.get_size_inches()[0]
    figure.subplots_adjust(
        left=0.75 / inches, right=1 - 1.1 / inches, bottom=0.19, top=0.79, wspace=0.13
    )
    title = f"Which depths train? {diagram.activation} networks of many initializations"
    figure.suptitle(title, x=0.15 / inches, y=0.97, ha="left", fontsize=14, fontweight="bold")
    text = (
        "Bright: the network learned. Dark: it guesses. Theory's depth scale $\\xi_c$ is the number"
        " of layers over which inputs become alike.\nIt predicts that the bright region ends at a"
        " multiple of $\\xi_c$."
    )
    if other is None:
        text = text.replace(" is the number", " is\nthe number").replace("alike.\n", "alike. ")
    figure.text(0.15 / inches, 0.925, text, ha="left", va="top", fontsize=9.5, color="0.3")
    mesh = None
    for axes, one in zip(np.ravel(figure.subplots(1, len(shown))), shown, strict=True):
        mesh = _panel(axes, one)
        axes.set_title(_title(one, other is not None and one is other), loc="left", fontsize=9.5)
    assert mesh is not None
    scale = figure.add_axes((1 - 0.95 / inches, 0.19, 0.16 / inches, 0.6))
    figure.colorbar(mesh, cax=scale, format="{x:.0%}").set_label(
        f"training accuracy over the last {WINDOW} steps", fontsize=9.5
    )
    lines = figure.axes[0].get_legend_handles_labels()
    legend = figure.legend(
        *lines, loc="lower left", ncols=3, fontsize=9, bbox_to_anchor=(0.4 / inches, 0.005)
    )
    legend.get_frame().set(facecolor="0.55", edgecolor="none", alpha=1)
    for label in legend.get_texts():
        label.set_color("white")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    files.write(path, buffer.getvalue())


def _title(diagram: Diagram, published: bool) -> str:
    seeds = diagram.accuracy.shape[2]
    whose = "Published, 1 seed" if published else f"Ours, mean of {seeds} seed{'s' * (seeds > 1)}"
    fields = describe(diagram.fields)
    return f"{whose}: {fields}\nbias variance {diagram.bias_variance:g}; {_fits(diagram)}"


def _fits(diagram: Diagram) -> str:
    parts = [
        f"{found.k.value:.1f} ({found.k.low:.1f} to {found.k.high:.1f}) $\\xi_c$ if {side}"
        for side, found in (("ordered", diagram.ordered), ("chaotic", diagram.chaotic))
        if found
    ]
    if not parts and diagram.boundary:
        k = diagram.boundary.k
        parts = [f"{k.value:.1f} ({k.low:.1f} to {k.high:.1f}) $\\xi_c$"]
    return f"fit: {', '.join(parts)}" if parts else "no fit"


def _panel(axes: Axes, diagram: Diagram) -> Any:
    weights, depths = diagram.weight_variances, diagram.depths
    mesh = axes.pcolormesh(
        _edges(weights),
        np.exp(_edges(np.log(depths))),
        diagram.mean,
        vmin=0,
        vmax=1,
        cmap="viridis",
    )
    axes.set_yscale("log")
    axes.autoscale(False)
    low, high = axes.get_ylim()
    fine = np.linspace(*axes.get_xlim(), _FINE)
    xi_c = np.array([diagram.theory_at(float(x)).correlation_depth for x in fine])
    if (curve := diagram.curve(fine)) is not None:
        axes.fill_between(fine, curve[1], curve[2], color=_FIT, alpha=0.45, lw=0)
        label = "fit with 95% interval: half of the networks train"
        axes.plot(fine, curve[0], color=_FIT, lw=2, label=label, path_effects=_OUTLINE)
    dashed = {"lw": 2, "ls": (0, (4, 2)), "label": "6 $\\xi_c$, the paper's line"}
    axes.plot(fine, 6 * xi_c, color=_PAPER, **dashed)
    if fine[0] < diagram.critical < fine[-1]:
        axes.axvline(diagram.critical, color=_FIT, lw=1.2, ls=":", label="criticality")
        for words, side in (
            ("ordered: \ngradients \nvanish ", "right"),
            (" chaotic:\n gradients\n explode", "left"),
        ):
            axes.annotate(
                words, (diagram.critical, low), (0, 5), textcoords="offset points",
                ha=side, va="bottom", color="0.1", fontsize=8.5,  # on networks that trained
            )  # fmt: skip
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("weight variance times fan_in")
    axes.set_ylabel("hidden layers, log scale")
    return mesh


def _edges(centers: np.ndarray) -> np.ndarray:
    """The edges of cells, halfway between their centers."""
    middle = (centers[1:] + centers[:-1]) / 2
    if len(middle) == 0:
        return np.array([centers[0] - 0.5, centers[0] + 0.5])
    return np.concatenate([[2 * centers[0] - middle[0]], middle, [2 * centers[-1] - middle[-1]]])
