"""Audits during training: their file, and the figure of the layers' signals drawn from it."""

import io
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

# Not pyplot, which looks for a screen and takes longer to import.
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.common import files, run_directory

if TYPE_CHECKING:
    import initjax

_FILE = run_directory.AUDITS
_PANELS = (
    ("rms", "Pre-activations, root mean square", True),
    ("gradient", "Gradients, root mean square", True),
    ("correlation", "Correlation of two examples", False),
    ("flat", "Dead units, or flat pre-activations", False),
)
_DECADES = 1e3  # a ratio below which numbers between the powers of ten are labeled
_MOST_NAMED = 8  # layers that a legend has room for


def inspector(
    file: BinaryIO, auditor: "Callable[[Any], initjax.Report]"
) -> Callable[[int, Any], None]:
    """Makes a function of a step and its parameters that audits them and appends to a file.

    Args:
      file: audits.jsonl of the run, open.
      auditor: maps parameters to a report.
    """

    def inspect(step: int, params: Any) -> None:
        record = auditor(params).to_dict()
        for layer in record["layers"]:  # most of the bytes, and nothing here reads them
            del layer["histogram"], layer["gradient_histogram"]
        files.append_lines(file, [{"step": step, **record}])

    return inspect


def has_audits(run: pathlib.Path) -> bool:
    """Whether a run has finished its first audit."""
    return (run / _FILE).exists() and (run / _FILE).stat().st_size > 0


def summary(run: pathlib.Path) -> str:
    """Says how many audits there were, and the first and the last verdict."""
    audits = files.read_lines(run / _FILE)
    first, last = (_verdict(audits[number]) for number in (0, -1))
    count = f"{len(audits)} audit{'' if len(audits) == 1 else 's'}"
    return f"{count}; {first}" + (f"; {last}" if len(audits) > 1 else "")


def _verdict(audit: dict[str, Any]) -> str:
    causes = dict.fromkeys(finding["cause"] for finding in audit["findings"])
    return f"step {audit['step']}: {audit['verdict']}" + (
        f" ({', '.join(causes)})" if causes else ""
    )


def draw(run: pathlib.Path, title: str, subtitle: str) -> None:
    """Draws `audits.png` of a run: signals and gradients of every layer over the training steps.

    Args:
      run: the directory of the run, with `audits.jsonl`.
      title: what was trained.
      subtitle: how.
    """
    audits = files.read_lines(run / _FILE)
    steps = [audit["step"] for audit in audits]
    names = [layer["name"].removesuffix("/kernel") for layer in audits[0]["layers"]]
    figure = Figure(figsize=(10, 7.2), dpi=150)
    figure.subplots_adjust(
        left=0.065, right=0.985, bottom=0.11, top=0.875, hspace=0.28, wspace=0.16
    )
    # A name with two dollar signs is no formula.
    bold = {"fontsize": 13, "fontweight": "bold", "parse_math": False}
    figure.suptitle(title, x=0.012, y=0.98, ha="left", **bold)
    figure.supxlabel(subtitle, x=0.012, y=0.015, ha="left", fontsize=8.5, color="0.35")
    colors = colormaps["viridis"](np.linspace(0, 0.92, len(names)))
    for axes, (field, text, logarithmic) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        values = np.array([_column(audit, field) for audit in audits])
        _panel(axes, steps, values, names, colors, text, logarithmic)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if len(names) > _MOST_NAMED:  # the ends tell which color is early
        handles, labels = [handles[0], handles[-1]], [f"first: {names[0]}", f"last: {names[-1]}"]
    figure.legend(handles, labels, loc="upper right", ncols=4, frameon=False, fontsize=8.5)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    files.write(run / run_directory.AUDITS_PICTURE, buffer.getvalue())


def _column(audit: dict[str, Any], field: str) -> list[float]:
    """One number for each layer; NaN where it was not measured."""
    fields = [
        field if field != "flat" else "dead" if layer["dead"] is not None else "saturated"
        for layer in audit["layers"]
    ]
    found = [layer[name] for layer, name in zip(audit["layers"], fields, strict=True)]
    return [np.nan if number is None else number for number in found]


def _panel(
    axes: Axes,
    steps: list[int],
    values: np.ndarray,
    names: list[str],
    colors: np.ndarray,
    text: str,
    logarithmic: bool,
) -> None:
    logarithmic = logarithmic and bool((values > 0).any())
    marker = "o" if len(steps) < 60 else ""
    for name, color, column in zip(names, colors, values.T, strict=True):
        axes.plot(steps, column, color=color, lw=1.4, marker=marker, ms=3, label=name)
    axes.set_title(text + (", log scale" if logarithmic else ""), loc="left", fontsize=10)
    axes.set_xlabel("training step", fontsize=8.5)
    axes.set_xlim(-0.01 * steps[-1], max(1, steps[-1]) * 1.01)
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
        shown = values[np.isfinite(values) & (values > 0)]
        if shown.max() < _DECADES * shown.min():
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
    else:
        highest = np.max(values, initial=0.1, where=np.isfinite(values))
        lowest = np.min(values, initial=0.0, where=np.isfinite(values))
        axes.set_ylim(1.05 * lowest - 0.02 * highest, 1.08 * highest)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.92", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
