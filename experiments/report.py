"""Makes a report of a sweep: a page with the answers, figures as PNG, tables as CSV and Markdown.

Question: what did the runs in a directory show?
Command:  python -m experiments.report runs/sweep
Time:     about 10 s
"""

import pathlib
import re
import sys
from typing import TYPE_CHECKING

import numpy as np

from experiments.common import command_line, console, description, files, flags
from experiments.common.config import Config, UsageError

# JAX, and what imports it, is imported in the functions, so that wrong flags are reported first.
if TYPE_CHECKING:
    from experiments.common.comparison import Setting

COMMAND = "python -m experiments.report"

_SHOWN_KERNELS = 3  # of a network, as histograms: the first ones
_TABLES = r"(endpoints|pairs|published)\.csv"


def report(directory: str, margin: float, target: float) -> list[pathlib.Path]:
    """Writes `report.html` into a directory of results, and figures and tables into `report/`.

    Args:
      directory: as `experiments.sweep` leaves it.
      margin: initializers whose mean accuracies differ by less are equivalent.
      target: the accuracy to which steps are counted.

    Returns:
      The paths of the files, the page first.

    Raises:
      UsageError: the directory holds no runs, or is not writable.
    """
    from experiments.common import (
        charts,
        comparison,
        published,
        report_page,
        sweep_directory,
        tables,
        verdicts,
    )

    root = pathlib.Path(directory)
    runs = sweep_directory.read(root)
    folder = root / "report"
    files.prepare(folder, "copy the runs to a writable directory")
    found = comparison.settings(runs, margin, target)
    sections: list[report_page.Section] = []
    rows: dict[str, tables.Table] = {"endpoints": [], "pairs": [], "published": []}
    for number, setting in enumerate(found, start=1):
        several = len(found) > 1
        name = verdicts.describe(setting.fields)
        pairs, compared = tables.pairs(setting), published.compare(setting)
        shown = {
            "Endpoints: mean and 95% confidence interval (Student's t)": tables.shown_endpoints(
                setting
            ),
            "The published table beside ours": compared,
            f"All {len(pairs)} comparisons of pairs": tables.shown_pairs(setting),
        }
        drawn = charts.of_setting(setting, _kernels(setting))
        sections.append(
            report_page.Section(
                heading=f"{number}. {name}" if several else name,
                sentences=verdicts.summary(setting),
                symbols={init: charts.symbol(setting, init) for init in setting.inits},
                charts={f"{key}_{number}" if several else key: drawn[key] for key in drawn},
                tables={title: table for title, table in shown.items() if table},
            )
        )
        for file, new in (
            ("endpoints", tables.endpoints(setting)),
            ("pairs", pairs),
            ("published", compared),
        ):
            rows[file] += [{"number": number, "setting": name, **row} for row in new]
    page = _title(found), sections, tables.about(runs)
    written = {
        folder / f"{name}.png": charts.png(spec)
        for section in sections
        for name, spec in section.charts.items()
    }
    written[folder / "report.md"] = report_page.markdown(*page).encode()
    written |= {
        folder / f"{file}.csv": tables.to_csv(table) for file, table in rows.items() if table
    }
    files.write(root / "report.html", report_page.html(*page).encode())
    for path, content in written.items():
        files.write(path, content)
    # Figures and tables of an earlier report on other settings would look like part of this one.
    figures = rf"({'|'.join(charts.FIGURES)}|weights_\w+?)(_\d+)?\.png"
    for path in folder.iterdir():
        if path not in written and re.fullmatch(f"{figures}|{_TABLES}", path.name):
            path.unlink()
    return [root / "report.html", *written]


def _title(found: "list[Setting]") -> str:
    inits = {init for setting in found for init in setting.inits}
    seeds = {seed for setting in found for seed in setting.seeds}
    return (
        f"{description.count(len(inits), 'initializer')}, {description.count(len(seeds), 'seed')}"
    )


def _kernels(setting: "Setting") -> dict[str, dict[str, np.ndarray]]:
    """The kernels that the first seed starts from, by name and initializer, drawn again."""
    from experiments.common import models, starting

    fields = setting.fields
    row = setting.runs.slice(0, 1).to_pylist()[0]
    features = (row["features"], *fields["hidden"], row["classes"])
    kernels: dict[str, dict[str, np.ndarray]] = {}
    for init in setting.inits:
        names = ("output_init", "bias_init", "hidden", "activation", "dtype")
        config = Config(
            init=init, seed=min(setting.seeds), **{name: fields[name] for name in names}
        )
        with starting.precision(config):
            model = models.mlp(features, config.activation, config.dtype)
            params = starting.draw_params(config, starting.root_key(config.seed), model)
        for index in range(min(_SHOWN_KERNELS, len(config.hidden))):
            name = f"hidden/{index}/kernel"
            kernels.setdefault(name, {})[init] = np.asarray(params["hidden"][index]["kernel"])
    return kernels


_GROUPS = {"Statistics": ("margin", "target"), "Flags": ("help",)}
_FLAGS = flags.define(
    _GROUPS,
    margin=flags.number(
        0.1,
        "Two initializers are called equivalent if a test shows that their mean test accuracies"
        " differ by less than this, in percentage points.",
    ),
    target=flags.number(
        0.95,
        "Training accuracy, as a mean over 100 batches, up to which training steps are counted.",
    ),
)


def main(directory: str = "runs/sweep") -> None:
    if not 0 < _FLAGS.margin < 100:
        raise UsageError(f"--margin={_FLAGS.margin:g}: must be above 0 and below 100 points")
    if not 0 < _FLAGS.target <= 1:
        raise UsageError(f"--target={_FLAGS.target:g}: must be above 0 and at most 1")
    page, *others = report(flags.expanded(directory), _FLAGS.margin / 100, _FLAGS.target)
    console.say(
        sys.stdout,
        f"report  {page}",
        f"        {len(others)} figures and tables in {page.parent / 'report'}",
    )


_PROGRAM = command_line.Program(
    f"{COMMAND} [RUNS]",
    "Makes a report of the runs in a directory (default: runs/sweep): the page report.html,"
    " which works offline, and its figures and tables in report/.",
    _FLAGS,
    _GROUPS,
    examples=(
        "",
        "runs/rates --margin=0.05",
    ),
    arguments=1,
)


if __name__ == "__main__":
    console.run_program(_PROGRAM, main)
