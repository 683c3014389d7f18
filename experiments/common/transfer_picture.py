"""The picture of a family of networks: loss by learning rate, a line a size, a panel a scheme."""

import io
import pathlib

import numpy as np

# Not pyplot, which looks for a screen and takes longer to import.
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, NullFormatter

from experiments.common import files, statistics, transfer_verdicts
from experiments.common.best_rates import Curves, Family

_HIGHEST = 6.0  # times the lowest loss, up to which losses are drawn


def draw(path: pathlib.Path, family: Family) -> None:
    """Draws a family into a PNG file."""
    count = len(family.curves)
    figure = Figure(figsize=(max(7.5, 0.9 + 3.6 * count), 4.9), dpi=130)
    inches = figure.get_size_inches()[0]
    figure.subplots_adjust(
        left=0.8 / inches, right=1 - 0.15 / inches, bottom=0.225, top=0.735, wspace=0.07
    )
    large = "wide" if family.axis == "width" else "deep"
    title = f"Is the best learning rate of a small network also that of a {large} one?"
    figure.suptitle(title, x=0.12 / inches, y=0.975, ha="left", fontsize=13, fontweight="bold")
    text = (
        f"{transfer_verdicts.title(family)}. Lines: means; shaded: all seeds.\n"
        f"Dots: the best rate of each {family.axis}, with its 95% interval. Dashed: that of the"
        " smallest."
    )
    figure.text(0.12 / inches, 0.905, text, ha="left", va="top", fontsize=9, color="0.3")
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for axes, curves in zip(panels, family.curves, strict=True):
        _panel(axes, family, curves)
    lowest = min(curves.means.min() for curves in family.curves)
    most = min(_HIGHEST * lowest, family.guessing)
    panels[0].set_ylim(0.9 * lowest, most)
    panels[0].set_yscale("log")
    ticks = [
        tick
        for tick in (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1, 1.25, 1.5, 2)
        if lowest < tick <= most
    ]
    panels[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panels[0].yaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel(family.loss)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower center", frameon=False, fontsize=9.5, ncols=len(labels)
    )
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    files.write(path, buffer.getvalue())


def _panel(axes: Axes, family: Family, curves: Curves) -> None:
    shades = colormaps["viridis_r"](np.linspace(0.1, 0.95, len(curves.sizes)))
    axes.axvline(curves.best[0].value, color="0.45", lw=1.1, ls=(0, (4, 3)), zorder=1)
    for place, (size, color) in enumerate(zip(curves.sizes, shades, strict=True)):
        mean = curves.means[place]
        label = f"{family.axis} {size:,}"
        axes.plot(curves.rates, mean, "-", color=color, lw=1.8, label=label)
        low, high = curves.losses[place].min(axis=1), curves.losses[place].max(axis=1)
        axes.fill_between(curves.rates, low, high, color=color, alpha=0.12, lw=0)
        best = curves.best[place]
        at = np.interp(np.log(best.value), np.log(curves.rates), np.log(mean))
        axes.plot(best.value, np.exp(at), "o", color=color, mec="white", ms=9, zorder=5)
        if np.isfinite(best.low):
            axes.plot([best.low, best.high], [np.exp(at)] * 2, color=color, lw=4, alpha=0.6)
    axes.set_xscale("log", base=2)
    axes.set_xlim(curves.rates[0], curves.rates[-1])
    axes.xaxis.set_major_formatter(LogFormatterSciNotation(base=2))
    axes.set_xlabel("learning rate of the base network")
    axes.set_title(f"{curves.scheme}: {_law(family, curves)}", loc="left", fontsize=10)
    axes.grid(color="0.92", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _law(family: Family, curves: Curves) -> str:
    if curves.at_edge.any():
        return "best rate beyond those tried"
    slope = statistics.mean_interval(curves.slopes)
    within = f" ({slope.low:.2f} to {slope.high:.2f})" if np.isfinite(slope.low) else ""
    return f"best rate ~ {family.axis}$^{{{slope.value:.2f}}}${within}"
