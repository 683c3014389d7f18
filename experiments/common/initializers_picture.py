"""The picture of initializers at several depths: training accuracy by step, one panel a depth."""

import io
import pathlib

import numpy as np

# Not pyplot, which looks for a screen and takes longer to import.
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.common import comparison, description, files
from experiments.common.trainability import TRAINED, Grid, describe

# Okabe and Ito's colors, which color-blind readers can tell apart.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_SMOOTH = 25  # steps over which accuracies are averaged
_MOST_PANELS = 6


def draw(path: pathlib.Path, grid: Grid) -> None:
    """Draws the initializers of a grid that are in no diagram into a PNG file.

    Args:
      path: of the file.
      grid: with some such cells; of many depths, the shallowest are left out.
    """
    cells, fields = grid.others, grid.fields
    depths = sorted({cell.depth for cell in cells})[-_MOST_PANELS:]
    names = sorted({(cell.init, cell.bias_init) for cell in cells})
    figure = Figure(figsize=(max(7.5, 3.4 * len(depths) + 1), 4.6), dpi=150)
    inches = figure.get_size_inches()[0]
    figure.subplots_adjust(
        left=0.75 / inches, right=1 - 0.2 / inches, bottom=0.27, top=0.76, wspace=0.08
    )
    layers = f"{depths[0]} hidden layers" if len(depths) == 1 else "several depths"
    title = f"Which initializers train {fields['activation']} networks of {layers}?"
    figure.suptitle(title, x=0.12 / inches, y=0.97, ha="left", fontsize=13, fontweight="bold")
    seeds = description.count(len(cells[0].accuracy), "seed")
    text = (
        f"Thin: each of {seeds}; thick: their mean. Each initializer has its own best learning"
        f" rate.\n{describe(fields)}. Above the dashed line, a network counts as trained."
    )
    figure.text(0.12 / inches, 0.89, text, ha="left", va="top", fontsize=9, color="0.3")
    rows = figure.subplots(1, len(depths), sharey=True, squeeze=False)[0]
    for axes, depth in zip(rows, depths, strict=True):
        for cell in (cell for cell in cells if cell.depth == depth):
            place = names.index((cell.init, cell.bias_init))
            color = _COLORS[place % len(_COLORS)]
            style = "-" if place < len(_COLORS) else "--"
            curves = comparison.column(cell.complete(), "step_acc")
            window = min(_SMOOTH, curves.shape[1])
            smooth = np.lib.stride_tricks.sliding_window_view(curves, window, axis=1).mean(axis=2)
            at = np.arange(window, curves.shape[1] + 1)
            axes.plot(at, smooth.T, color=color, lw=0.5, alpha=0.35)
            label = cell.init if cell.bias_init == "zeros" else f"{cell.init}, {cell.bias_init}"
            axes.plot(at, smooth.mean(axis=0), style, color=color, lw=2, label=label)
        axes.axhline(TRAINED, color="0.45", lw=0.9, ls=(0, (4, 3)), zorder=1)
        axes.set(xlabel="training step", ylim=(0, 1.01))
        axes.set_title(f"{depth} hidden layers", loc="left", fontsize=10)
        axes.grid(color="0.92", lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    rows[0].set_ylabel(f"training accuracy, mean of {_SMOOTH} steps")
    found = [axes.get_legend_handles_labels() for axes in rows]
    handles = {
        name: line
        for lines, all_names in found
        for line, name in zip(lines, all_names, strict=True)
    }
    columns = max(1, min(len(handles), int(inches / 2)))
    legend = {"loc": "lower center", "frameon": False, "fontsize": 9, "ncols": columns}
    figure.legend(handles.values(), handles.keys(), **legend)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    files.write(path, buffer.getvalue())
