"""Writes what the runs of `depth_evidence.sh` show, from the results of `experiments.depth`.

    python scripts/depth_table.py runs/depth-diagram runs/depth-200 ...

Writes the tables and conclusions of all directories to scripts/results/depth.md, and copies their
pictures to scripts/results.
"""

import json
import pathlib
import shutil
from typing import Any

from benchmarks import _results


def fits(found: list[dict[str, Any]]) -> str:
    """Fitted boundaries, as a table."""
    head = ["diagram", "phase", "k", "over seeds", "limit", "rank correlation", "on its side"]
    rows = []
    for row in found:
        seeds = row["seeds low"] and f"{row['seeds low']:.1f} to {row['seeds high']:.1f}"
        rows.append(
            [
                row["diagram"],
                row["phase"],
                _interval(row, "k", "", 1),
                seeds or "-",
                _interval(row, "limit", "limit ", 0),
                _interval(row, "rank correlation", "rank correlation ", 2),
                f"{row['right']:.0%}",
            ]
        )
    return _results.table(head, rows)


def _interval(row: dict[str, Any], name: str, prefix: str, digits: int) -> str:
    value, low, high = (
        "none" if number is None else f"{number:.{digits}f}"
        for number in (row[name], row[f"{prefix}low"], row[f"{prefix}high"])
    )
    return value if low == high == "none" else f"{value} ({low} to {high})"


def variances(diagram: dict[str, Any]) -> str:
    """Theory and the measured boundary by weight variance, as a table."""
    head = ["weight variance", "xi_c", "gradient factor per layer", "half of the networks train at"]
    lowest, highest = diagram["depths"][0], diagram["depths"][-1]
    rows = []
    for weights, xi_c, chi, half in zip(
        diagram["weight_variances"],
        diagram["xi_c"],
        diagram["chi"],
        diagram["half_train_at"],
        strict=True,
    ):
        edge = f"less than {lowest}" if half <= lowest else f"more than {highest}"
        edge = f"{half:.0f}" if lowest < half < highest else edge
        rows.append(
            [f"{weights:g}", "infinite" if xi_c is None else f"{xi_c:.1f}", f"{chi:.3f}", edge]
        )
    return _results.table(head, rows)


def cells(found: list[dict[str, Any]]) -> str:
    """Initializers by depth: how many trained, and their accuracies, as a table."""
    head = ["initializer", "layers", "best learning rate", "trained", "training accuracy"]
    head += ["lowest to highest", "test accuracy"]
    rows = []
    for cell in found:
        bias = "" if cell["bias_init"] == "zeros" else f", bias {cell['bias_init']}"
        trained = round(cell["trained"] * cell["runs"])
        bounds = f"{cell['trained_low']:.0%} to {cell['trained_high']:.0%}"
        rows.append(
            [
                f"`{cell['init']}`{bias}",
                str(cell["depth"]),
                f"{cell['learning_rate']:g}",
                f"{trained} of {cell['runs']} ({bounds})",
                _interval(cell, "accuracy", "accuracy_", 3),
                f"{cell['lowest_accuracy']:.3f} to {cell['highest_accuracy']:.3f}",
                _interval(cell, "test_accuracy", "test_accuracy_", 3),
            ]
        )
    return _results.table(head, rows)


def section(directory: pathlib.Path, results: pathlib.Path) -> list[str]:
    """The parts of the text about one directory; its pictures are copied."""

    def picture(name: str, text: str) -> str:
        shutil.copyfile(directory / f"{name}.png", results / f"{directory.name}-{name}.png")
        return f"![{text}]({directory.name}-{name}.png)"

    record = json.loads((directory / "depth.json").read_text())
    parts = []
    for diagram in record["diagrams"]:
        text = "Training accuracy by depth and weight variance"
        parts += [
            f"## Diagram: {diagram['title']}",
            picture(diagram["name"], text),
            fits(diagram["fits"]),
            *(_bullets(diagram["conclusions"])),
        ]
        if diagram["fits at one rate"]:
            text = "With one learning rate for all weight variances instead of the best of each:"
            parts += [text, fits(diagram["fits at one rate"])]
        parts += [variances(diagram)] if diagram["half_train_at"] else []
    for grid in record["initializers"]:
        parts += [
            f"## Initializers: {grid['title']}",
            picture(grid["name"], "Training accuracy by step"),
            cells(grid["cells"]),
            *_bullets(grid["conclusions"]),
        ]
    return parts


def _bullets(sentences: list[str]) -> list[str]:
    return ["\n".join(f"- {sentence}" for sentence in sentences)] if sentences else []


def main() -> None:
    runs, results = _results.runs_options(__doc__, "depth.json", "python -m experiments.depth")
    body = (
        "A network *trained* if its training accuracy over the last 50 steps is above 50%. *k* is"
        " the depth at which half of the networks train, in units of xi_c: a logistic regression on"
        " log(depth) over all networks, with a 95% bootstrap interval that resamples weight"
        " variances and seeds; *over seeds* resamples only seeds. The *limit* is the depth at which"
        " half of the networks train where xi_c is too large to matter. The *rank correlation*"
        " (Spearman) is that of the depth at which half train with xi_c. *On its side* is the share"
        " of networks that the fit predicts. The published diagram is from [another"
        " implementation](../../experiments/common/published_diagram/README.md)."
    )
    parts = [part for directory in runs for part in section(directory, results)]
    packages = ("initjax", "jax", "flax", "optax")
    text = "\n\n".join([body, *parts])
    _results.write("depth", "Which depths train", text, packages, results)


if __name__ == "__main__":
    main()
