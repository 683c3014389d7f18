"""Compares the published results with ours, from the report of the sweep of `main_figure.sh`.

    python scripts/published_table.py runs/main

Writes the table, what the report concludes, and its main figure to scripts/results. Nothing is
written if the sweep trained something else than what was published.
"""

import collections
import csv
import pathlib
import shutil

from benchmarks import _results

_METRICS = [(epoch, name) for epoch in (1, 5) for name in ("loss", "acc", "val_loss", "val_acc")]


def rows(report: pathlib.Path) -> list[list[str]]:
    """Three rows for each initializer: published, independent, ours."""
    found: dict[str, dict[tuple[int, str], dict[str, str]]] = collections.defaultdict(dict)
    with (report / "published.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            found[line["initializer"]][int(line["epoch"]), line["metric"]] = line
    result = []
    for init, lines in found.items():
        for source in ("published", "independent"):
            result.append([init, source, *(lines[metric][source] for metric in _METRICS)])
        ours = [
            f"{lines[metric]['ours']} ± {lines[metric]['stddev over seeds']}" for metric in _METRICS
        ]
        result.append([init, "ours", *ours])
    return result


def conclusions(report: pathlib.Path) -> list[str]:
    """The sentences of the report, which follow from its tests."""
    lines = (report / "report.md").read_text().splitlines()
    return [line for line in lines if line.startswith("- ")]


def main() -> None:
    parser = _results.parser(__doc__)
    parser.add_argument("runs", type=pathlib.Path, help="directory of the sweep, with its report")
    options = parser.parse_args()
    report = options.runs / "report"
    if not report.is_dir():
        parser.error(f"no report in {options.runs}: python -m experiments.report {options.runs}")
    if not (report / "published.csv").exists():
        print("the sweep trained something else than what was published: nothing written")
        return
    head = ["initializer", "", *(f"epoch {epoch} {metric}" for epoch, metric in _METRICS)]
    body = (
        '*Published* is one run each of "Weight Initialization in Deep Learning", a tutorial with'
        " Keras; *independent* is a reimplementation elsewhere, the mean of 12 seeds; *ours* is the"
        " mean and the standard deviation over the seeds of the sweep.\n\n"
        f"{_results.table(head, rows(report))}\n\n## Conclusions\n\n"
        + "\n".join(conclusions(report))
        + "\n\n![Final test accuracy: every seed, mean, interval](published.png)"
    )
    packages = ("initjax", "jax", "flax", "optax")
    _results.write(
        "published", "The published comparison, repeated", body, packages, options.results
    )
    shutil.copyfile(report / "final_accuracy.png", options.results / "published.png")


if __name__ == "__main__":
    main()
