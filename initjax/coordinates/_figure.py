"""The figure of a coordinate check. Import this module only where Matplotlib is installed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from initjax._figure import Figure, default_style
from initjax._wrapping import shortened, wrapped
from initjax.coordinates._coordinate import Coordinate
from initjax.coordinates._text import headline

_MOST_PANELS = 5
_COLUMNS = 4  # of the legend
_MOST_NAMES = 24  # of more layers, only those at fault have a name


@default_style()
def draw(coordinates: Sequence[Coordinate], loss: np.ndarray, title: str = "") -> Figure:
    """Draws the change of every layer against width: one panel for each step, one line per layer.

    The first panel has the sizes at the start. Layers at fault are thick and have crosses. Lines
    are geometric means over seeds. All panels have as many powers of two, so that equal powers of
    width look alike.

    Args:
      coordinates: the layers.
      loss: (widths, seeds, steps).
      title: what was checked.

    Returns:
      A Matplotlib figure that belongs to no window.
    """
    lines = [one for one in coordinates if one.kind != "parameter" or one.faults]
    widths, last = coordinates[0].widths, loss.shape[2] - 1
    chosen = np.linspace(1, last, min(last, _MOST_PANELS - 1)).round().astype(int)
    panels = [0, *dict.fromkeys(chosen.tolist())]
    figure = Figure(figsize=(max(2.1 * len(panels), 6) + 0.4, 3.6), dpi=150)
    axes = figure.subplots(1, len(panels), sharex=True, squeeze=False)[0]
    colors = _colors(len(lines))
    for panel, step in zip(axes, panels, strict=True):
        for one, color in zip(lines, colors, strict=True):
            sizes = (one.change if step else one.size)[:, :, step]
            with np.errstate(divide="ignore", invalid="ignore"):
                means = np.exp(np.log(sizes).mean(axis=1))
            shown = np.where(np.isfinite(means) & (means > 0), means, np.nan)
            style = {"linewidth": 2.2} if one.faults else {"linewidth": 1.1, "alpha": 0.8}
            marker = "x" if one.faults else "o"
            panel.plot(widths, shown, color=color, marker=marker, markersize=4, **style)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log", base=2)
        panel.set_title(f"change, step {step}" if step else "size, start", fontsize=9)
        panel.set_xticks(widths, [str(width) for width in widths])
        panel.minorticks_off()
        panel.tick_params(labelsize=7)
        panel.set_xlabel("width", fontsize=8)
        panel.grid(alpha=0.25)
    axes[0].set_ylabel("root mean square", fontsize=8)
    _same_span(axes)
    named = [(one, color) for one, color in zip(lines, colors, strict=True) if one.faults]
    if len(lines) <= _MOST_NAMES or not named:
        named = list(zip(lines, colors, strict=True))
    longest = 1
    for one, color in named[:_MOST_NAMES]:
        label = shortened(one.name, 30) + (" (at fault)" if one.faults else "")
        longest = max(longest, len(label))
        marker = "x" if one.faults else "o"
        axes[0].plot([], [], color=color, marker=marker, markersize=4, label=label)
    texts = [
        line
        for text in (title, headline(coordinates, loss).replace("`", ""))
        if text
        for line in wrapped(text, 90, rest="")
    ]
    figure.suptitle("\n".join(texts), fontsize=10, x=0.02, ha="left")
    fitting = int(figure.get_figwidth() / (0.5 + 0.055 * longest))  # inches of 7.5 points
    count = min(max(fitting, 1), _COLUMNS)
    figure.legend(loc="lower left", ncols=count, fontsize=7.5, frameon=False)
    below = 0.2 * -(-min(len(named), _MOST_NAMES) // count) + 0.15
    figure.set_figheight(3.4 + below)
    figure.tight_layout(rect=(0, below / (3.4 + below), 1, 1))
    return figure


def _same_span(axes: np.ndarray) -> None:
    """Gives all panels as many powers of two, so that equal slopes look equal."""
    limits = [np.log2(panel.get_ylim()) for panel in axes]
    span = max(high - low for low, high in limits)
    for panel, (low, high) in zip(axes, limits, strict=True):
        middle = (low + high) / 2
        panel.set_ylim(2 ** (middle - span / 2), 2 ** (middle + span / 2))


def _colors(count: int) -> list[tuple[float, ...]]:
    """From the first layer to the last."""
    import matplotlib

    return [tuple(color) for color in matplotlib.colormaps["viridis"](np.linspace(0, 0.92, count))]
