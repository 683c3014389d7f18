"""Writes what the runs of `width_evidence.sh` show, from the results of `experiments.transfer`.

    python scripts/width_table.py runs/width-mlp runs/width-depth ...

Writes the tables and conclusions of all directories to scripts/results/width.md, and copies their
pictures to scripts/results.
"""

import json
import pathlib
import shutil
from typing import Any

from benchmarks import _results


def rates(family: dict[str, Any]) -> str:
    """Best rates and losses by parametrization and size, as a table."""
    axis = family["axis"]
    head = ["scheme", axis, "best rate", "training loss there", "test loss there"]
    head += ["training loss at the base's rate", "test loss at the base's rate"]
    rows = [
        [
            row["scheme"],
            f"{row[axis]:,}",
            _rate(row),
            _loss(row["loss"], row["loss_stddev"]),
            f"{row['test_loss']:.3f}",
            f"{row['transferred_loss']:.3f}",
            f"{row['transferred_test_loss']:.3f}",
        ]
        for row in family["table"]
    ]
    return _results.table(head, rows)


def _rate(row: dict[str, Any]) -> str:
    if row["at_edge"]:
        return "at the edge of those tried"
    best, low, high = (row[name] for name in ("best_rate", "best_rate_low", "best_rate_high"))
    return f"{best:.2g}" + ("" if low is None else f" ({low:.2g} to {high:.2g})")


def _loss(loss: float, stddev: float | None) -> str:
    return f"{loss:.3f}" if stddev is None else f"{loss:.3f} ± {stddev:.3f}"


def section(directory: pathlib.Path, results: pathlib.Path) -> list[str]:
    """The parts of the text about one directory; its picture is copied."""
    name = f"{directory.name}.png"
    shutil.copyfile(directory / "transfer.png", results / name)
    family = json.loads((directory / "transfer.json").read_text())
    tried = sorted({rate for one in family["schemes"] for rate in one["learning_rates"]})
    return [
        f"## {family['title']}",
        f"![Training loss by learning rate and {family['axis']}]({name})",
        f"{len(tried)} learning rates from {tried[0]:g} to {tried[-1]:g}.",
        rates(family),
        "\n".join(f"- {sentence}" for sentence in family["conclusions"]),
    ]


def main() -> None:
    runs, results = _results.runs_options(
        __doc__, "transfer.json", "python -m experiments.transfer"
    )
    body = (
        "Learning rates are those of the base network, the smallest of each family; a scheme"
        " scales them to the others. A loss is the mean training loss of the last 100 steps, at"
        " most that of guessing. The *best rate* is the minimum of a parabola through log loss by"
        " log rate, fitted for each seed to the rates within a factor of 4 of the lowest loss; its"
        " drift is the slope of log best rate over log size. Intervals are 95%, Student's t over"
        " seeds; ± is the standard deviation over seeds. Losses at the best rate are those at the"
        " best of the rates tried. In the sentences about the largest size, each seed's rates are"
        " chosen by the other seeds."
    )
    parts = [part for directory in runs for part in section(directory, results)]
    packages = ("initjax", "jax", "flax", "optax")
    title = "Whether the best learning rate holds at larger widths and depths"
    _results.write("width", title, "\n\n".join([body, *parts]), packages, results)


if __name__ == "__main__":
    main()
