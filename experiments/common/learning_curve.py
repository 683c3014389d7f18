"""The learning curve of a run, drawn from the files in its directory."""

import io
import pathlib
from typing import Any

import numpy as np

# Not pyplot, which looks for a screen and takes longer to import.
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.common import files, run_directory
from experiments.common.progress import number

# Okabe and Ito's colors, which color-blind readers can tell apart.
_TRAINING, _TEST = "#0072B2", "#D55E00"
_DECADES = 1e4  # a ratio below which losses between the powers of ten are labeled


def draw(run: pathlib.Path, title: str, subtitle: str, chance_loss: float) -> None:
    """Draws `learning_curve.png` of a run: loss and accuracy, in training and on the test set.

    Args:
      run: the directory of the run, with `metrics.jsonl` and `steps.jsonl`.
      title: what was trained.
      subtitle: how.
      chance_loss: the loss of guessing all classes equally, drawn for comparison.
    """
    epochs = files.read_lines(run / "metrics.jsonl")
    steps = files.read_lines(run / "steps.jsonl")
    numbers = [epoch["epoch"] for epoch in epochs]
    per_epoch = len(steps) // max(numbers)
    figure = Figure(figsize=(10, 4.4), dpi=150)
    figure.subplots_adjust(left=0.05, right=0.985, bottom=0.165, top=0.84, wspace=0.13)
    # A name with two dollar signs is no formula.
    bold = {"fontsize": 13, "fontweight": "bold", "parse_math": False}
    figure.suptitle(title, x=0.012, y=0.97, ha="left", **bold)
    figure.supxlabel(subtitle, x=0.012, y=0.02, ha="left", fontsize=8.5, color="0.35")

    window = max(1, per_epoch // 20)
    for axes, metric in zip(figure.subplots(1, 2), ("loss", "acc"), strict=True):
        batches, tests = _column(steps, metric), _column(epochs, f"val_{metric}")
        at = np.arange(1, len(batches) + 1) / per_epoch
        means = np.convolve(batches, np.full(window, 1 / window), mode="valid")
        axes.plot(at, batches, color=_TRAINING, lw=0.4, alpha=0.25, label="each training batch")
        axes.plot(
            at[window - 1 :], means, color=_TRAINING, lw=1.4, label=f"mean of {window} batches"
        )
        axes.plot(numbers, tests, color=_TEST, lw=1.4, marker="o", ms=5, mec="w", label="test set")
        axes.set(xlabel="epoch", xlim=(0, max(numbers) * 1.02))
        axes.grid(color="0.92", lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if metric == "loss":
            _loss_axis(axes, np.concatenate([batches, tests]), chance_loss)
            above = tests[-1] < chance_loss / 2  # or it would cover the line of guessing
        else:
            axes.set_title("Accuracy", loc="left", fontsize=11)
            # Three times the range of the trained network; the start of the curve is cut off.
            lowest = np.min(tests[1:], initial=1.0, where=np.isfinite(tests[1:]))
            axes.set_ylim(max(0.0, 1 - 3 * (1 - lowest)), 1.005)
            above = False
        if not np.isfinite(tests[-1]):
            continue
        axes.annotate(
            number(tests[-1]),
            (numbers[-1], tests[-1]),
            xytext=(-2, 9 if above else -16),
            textcoords="offset points",
            ha="right",
            fontsize=9,
            color=_TEST,
            fontweight="bold",
        )
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="upper right", ncols=3, frameon=False, fontsize=9)

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    files.write(run / run_directory.PICTURE, buffer.getvalue())


def _loss_axis(axes: Axes, losses: np.ndarray, chance_loss: float) -> None:
    axes.set_title("Loss, log scale", loc="left", fontsize=11)
    # A few lucky batches must not stretch the axis.
    losses = losses[np.isfinite(losses) & (losses > 0)]
    lowest = np.quantile(losses, 0.01) if len(losses) else 1.0
    lowest, highest = min(1.0, 0.9 * lowest), 1.3 * (np.max(losses, initial=chance_loss) or 1.0)
    axes.set_ylim(lowest, highest)
    axes.set_yscale("log")
    if highest < _DECADES * lowest:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    if chance_loss == 0:  # a single class
        return
    axes.axhline(chance_loss, color="0.45", lw=0.9, ls=(0, (4, 3)), zorder=1)
    axes.annotate(
        f"guessing: {chance_loss:.3f}",
        (1, chance_loss),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 3),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color="0.35",
    )


def _column(records: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([np.nan if record[name] is None else record[name] for record in records])
