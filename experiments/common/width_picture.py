"""The picture of coordinate checks: a row for each parametrization, with one scale for all."""

import io
import math
import pathlib
from collections.abc import Mapping

import matplotlib
import numpy as np

# Not pyplot, which looks for a screen and takes longer to import.
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import initjax
from experiments.common import files

_MOST_STEPS = 4
_LEGEND = 3  # columns
_MOST_NAMES = 24  # of deep networks, every n-th layer has its name
_INCHES = 9.5


def draw(path: pathlib.Path, checks: Mapping[str, initjax.CoordinateCheck], subtitle: str) -> None:
    """Draws the sizes of all layers at the start, and their changes, against width.

    Args:
      path: of the PNG file.
      checks: of the same networks, by parametrization.
      subtitle: what was checked.
    """
    first = next(iter(checks.values()))
    names = [one.name for one in first.coordinates if one.kind != "parameter"]
    steps = np.linspace(1, first.steps, min(first.steps, _MOST_STEPS)).round().astype(int)
    panels = [0, *steps.tolist()]
    every = math.ceil(len(names) / _MOST_NAMES)
    below = 0.6 + 0.2 * math.ceil(len(names) / every / _LEGEND)
    height = 1.15 + 2.1 * len(checks) + below
    figure = Figure(figsize=(_INCHES, height), dpi=150)
    figure.subplots_adjust(
        left=0.09, right=0.98, bottom=below / height, top=1 - 1.15 / height, wspace=0.1, hspace=0.3
    )
    title = "Does every layer train alike at every width?"
    at = {"x": 0.02, "ha": "left", "va": "top"}
    figure.suptitle(title, y=1 - 0.12 / height, fontsize=13, fontweight="bold", **at)
    text = (
        f"{subtitle}. Root mean squares of pre-activations over {first.seeds} draws, all on one"
        " scale.\nThick: layers at fault."
    )
    figure.text(y=1 - 0.42 / height, s=text, fontsize=9, color="0.3", **at)
    rows = figure.subplots(len(checks), len(panels), sharex=True, sharey=True, squeeze=False)
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(names)))
    for row, (scheme, check) in zip(rows, checks.items(), strict=True):
        layers = {one.name: one for one in check.coordinates}
        for axes, step in zip(row, panels, strict=True):
            for name, color in zip(names, colors, strict=True):
                layer = layers[name]
                sizes = (layer.change if step else layer.size)[:, :, step]
                with np.errstate(divide="ignore", invalid="ignore"):
                    means = np.exp(np.log(sizes).mean(axis=1))
                fault = {"lw": 2.4, "marker": "X", "ms": 6} if layer.faults else {"marker": "o"}
                style = {"lw": 1.2, "ms": 3.5, **fault}
                axes.plot(check.widths, means, color=tuple(color), label=name, **style)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log", base=2)
            axes.set_xticks(check.widths, [str(width) for width in check.widths])
            axes.minorticks_off()
            axes.tick_params(labelsize=8)
            axes.grid(color="0.92", lw=0.8)
            axes.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel(f"{scheme}\n{'stable' if check.stable else 'not stable'}", fontsize=10)
    for axes, step in zip(rows[0], panels, strict=True):
        axes.set_title(f"change, step {step}" if step else "size, start", loc="left", fontsize=9)
    for axes in rows[-1]:
        axes.set_xlabel("width", fontsize=8)
    handles, labels = rows[0][0].get_legend_handles_labels()
    lines = [Line2D([], [], color=each.get_color(), lw=1.5) for each in handles[::every]]
    figure.legend(
        lines, labels[::every], loc="lower left", frameon=False, fontsize=8, ncols=_LEGEND
    )
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    files.write(path, buffer.getvalue())
