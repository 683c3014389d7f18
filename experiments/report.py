"""Makes a report of a sweep: a page with the answers, and its figures and tables as files.

Question: what did the runs in a directory show?
Command:  python -m experiments.report runs/sweep
Time:     about 10 s
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

import numpy as np

from experiments.common import command_line, console, description, files, flags
from experiments.common.config import Config, UsageError

# JAX, and what imports it, is imported in the functions, so that wrong flags are reported first.
if TYPE_CHECKING:
    from experiments.common import charts, report_page
    from experiments.common.comparison import Setting

COMMAND = "python -m experiments.report"

_ALL_IN_FULL = 24  # settings: of more than these,
_IN_FULL = 6  # have a section with figures, and
_LISTED = 200  # are in the table of verdicts
_SHOWN_KERNELS = 3  # of a network, as histograms: the first ones
_TABLES = ("rules", "endpoints", "published", "pairs", "fits", "depths", "cells")


def report(
    directory: str, margin: float, target: float, stream: TextIO | None = None
) -> list[pathlib.Path]:
    """Writes `report.html` into a directory of results, and figures and tables into `report/`.

    Args:
      directory: as `experiments.sweep` leaves it.
      margin: initializers whose mean accuracies differ by less are equivalent.
      target: the accuracy to which steps are counted.
      stream: where to show progress; None shows nothing.

    Returns:
      The paths of the files, the page first.

    Raises:
      UsageError: the directory holds no runs, or is not writable.
    """
    with console.uninterrupted():  # which would abort while C++ is loaded
        from experiments.common import (
            chart_style,
            charts,
            commands,
            comparison,
            depth_sections,
            depth_summaries,
            progress,
            report_page,
            summaries,
            sweep_directory,
            tables,
            titles,
        )

    root = pathlib.Path(directory)
    runs, complete = sweep_directory.scan(root)
    folder = root / "report"
    files.prepare(folder, "copy the runs to a writable directory")
    depths, others = depth_sections.divided(runs, complete)
    found = comparison.settings(others, margin, target, complete) if len(others) else []
    labels = titles.differences(found)
    plans = depth_sections.planned(depths)
    in_full = _in_full(found)
    for setting, label in zip(found, labels, strict=True):
        heading = ", ".join(label.values()) or "Initializers seed by seed"
        section = _section(setting, heading, setting in in_full)
        kernels = _kernels(setting) if len(in_full) == len(found) else {}  # they take long to draw
        drawn = charts.of_setting(setting, kernels) if setting in in_full else {}
        plans.append(depth_sections.Planned(section, drawn))
    sections: list[report_page.Section] = []
    written: dict[pathlib.Path, bytes] = {}
    done = 0
    with progress.counted_progress(
        0, sum(len(plan.charts) for plan in plans), stream, "figures"
    ) as show:
        for number, plan in enumerate(plans, start=1):
            figures = []
            suffix = f"_{number}" if len(plans) > 1 else ""
            for name, draw in plan.charts.items():
                if spec := draw():
                    svg = chart_style.svg(spec)
                    figures.append(report_page.Figure(name + suffix, spec, svg))
                    written[folder / f"{name}{suffix}.png"] = chart_style.png(svg)
                    written[folder / f"{name}{suffix}.svg"] = svg.encode()
                done += 1
                show(done)
            section = plan.section
            sections.append(
                dataclasses.replace(
                    section,
                    heading=f"{number}. {section.heading}" if suffix else "",
                    figures=figures,
                    tables=[table._replace(name=table.name + suffix) for table in section.tables],
                )
            )
    about = tables.about(runs)
    page = report_page.Report(
        title=titles.title(found, depths),
        summaries=list(
            filter(None, [depth_summaries.of_depths(depths), summaries.of_settings(found)])
        ),
        overview=_overview(sections, labels, len(in_full)),
        methods=[*["depth"] * bool(depths.runs), *["settings"] * bool(found)],
        sections={
            number: section
            for number, (section, plan) in enumerate(zip(sections, plans, strict=True), start=1)
            if plan.charts
        },
        about=report_page.Table("runs", "What was run", about, about),
        commands=[*commands.of_runs(runs, directory), _command(directory, margin, target)],
        versions=_versions(),
    )
    if page.overview and len(page.overview.rows) < len(page.overview.numbers):
        written[folder / "verdicts.csv"] = tables.to_csv(page.overview.numbers)
    written[folder / "report.md"] = report_page.markdown(page).encode()
    for name in _TABLES:
        all_rows, latex = [], []
        for number, section in enumerate(sections, start=1):
            for table in section.tables:
                if table.name.startswith(name):
                    setting = {"number": number, "setting": section.description}
                    all_rows += [{**setting, **row} for row in table.numbers]
                    if table.rows:
                        latex.append(f"% {number}. {section.description}")
                        latex += tables.to_latex(table.rows)
        if all_rows:
            written[folder / f"{name}.csv"] = tables.to_csv(all_rows)
            written[folder / f"{name}.tex"] = "\n".join([*latex, ""]).encode()
    for path, content in written.items():
        files.write(path, content)
    files.write(root / "report.html", report_page.html(page).encode())
    # Figures and tables of an earlier report on other settings would look like part of this one.
    stems = rf"({'|'.join([*charts.FIGURES, *depth_sections.FIGURES])})(_\d+)?\.(png|svg)"
    for path in folder.iterdir():
        if path not in written and re.fullmatch(
            rf"{stems}|({'|'.join([*_TABLES, 'verdicts'])})\.(csv|tex)", path.name
        ):
            path.unlink()
    return [root / "report.html", *written]


def _in_full(found: "list[Setting]") -> "list[Setting]":
    """The settings that are shown in full: those at the best learning rates, and the best ones."""
    if len(found) <= _ALL_IN_FULL:
        return found

    def order(setting: "Setting") -> tuple[bool, bool, float]:
        point = setting.endpoints[setting.main]
        best = float(np.nanmax(point.sign * np.nanmean(setting.values[setting.main], axis=1)))
        return setting.fields["learning_rate"] is not None, point.sign < 0, -best

    return sorted(found, key=order)[:_IN_FULL]


def _overview(
    sections: "list[report_page.Section]", labels: list[dict[str, str]], in_full: int
) -> "report_page.Table | None":
    """A row for each of several sections."""
    from experiments.common import report_page

    if len(sections) == 1:
        return None
    settings = len(sections) == len(labels)  # and nothing about depth
    rows = [
        {"setting": number, **labels[number - 1], "verdict": section.headline}
        if settings
        else {
            "section": number,
            "about": section.heading.partition(". ")[2],
            "verdict": section.headline,
        }
        for number, section in enumerate(sections, start=1)
    ]
    title = "Verdicts"
    if in_full < len(labels):
        title = (
            f"Verdicts; {in_full} of {len(labels):,} settings are shown below, those with the best"
        )
        title += " results"
    if len(rows) > _LISTED:
        title += f"; the first {_LISTED} verdicts, of which all are in report/verdicts.csv"
    return report_page.Table("verdicts", title, rows[:_LISTED], rows)


def _section(setting: "Setting", heading: str, full: bool) -> "report_page.Section":
    """A section without its figures, and without what only readers need if it isn't in full."""
    from experiments.common import chart_style, published, report_page, tables, verdicts

    pairs, compared = tables.pairs(setting), published.compare(setting)
    rules = tables.rules(setting)
    shown = [
        ("rules", "What the names of the initializers stand for", rules, rules),
        (
            "endpoints",
            "Endpoints: mean and 95% confidence interval (Student's t)",
            tables.shown_endpoints(setting) if full else [],
            tables.endpoints(setting),
        ),
        ("published", "The published table beside ours", compared, compared),
        (
            "pairs",
            f"All {len(pairs)} comparisons of pairs",
            tables.shown_pairs(setting, pairs) if full else [],
            pairs,
        ),
    ]
    return report_page.Section(
        heading=heading,
        description=verdicts.describe(setting.fields),
        headline=verdicts.headline(setting),
        sentences=verdicts.summary(setting) if full else [],
        symbols={init: chart_style.symbol(setting, init) for init in setting.inits},
        figures=(),
        tables=[
            report_page.Table(name, title, rows, numbers)
            for name, title, rows, numbers in shown
            if numbers
        ],
    )


def _command(directory: str, margin: float, target: float) -> str:
    """The command that makes a report again."""
    given = {"margin": 100 * margin, "target": target}
    other = [
        f"--{name}={value:g}" for name, value in given.items() if value != _FLAGS[name].default
    ]
    return description.quoted([*COMMAND.split(), directory, *other])


def _versions() -> str:
    """The versions of what makes a report, and the commit if this is a clone of the repository."""
    found = [f"{name} {version}" for name, version in description.versions().items()]
    found += [f"altair {importlib.metadata.version('altair')}"]
    root = pathlib.Path(__file__).parents[1]
    if not (root / ".git").exists():  # installed, perhaps inside another repository
        return ", ".join(found)
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
        commit = subprocess.run(git, capture_output=True, text=True, check=True, timeout=5).stdout
        found += [f"commit {commit.strip()}"]
    return ", ".join(found)


def _kernels(setting: "Setting") -> "dict[str, Callable[[], charts.Kernels]]":
    """Functions that draw the kernels that the first seed starts from again, by their names."""
    if setting.own or ":" in setting.fields["model"]:  # whose code may not be at hand
        return {}
    row = setting.runs.slice(0, 1).to_pylist()[0]
    names = "output_init bias_init model hidden residual normalization scheme base dtype".split()
    fields = {name: setting.fields[name] for name in names}

    def kernels(path: str) -> "charts.Kernels":
        seed = min(setting.seeds)
        return {
            init: _drawn(row["features"], row["classes"], Config(init=init, seed=seed, **fields))[
                path
            ]
            for init in setting.inits
        }

    layer = {"resnet": "first/", "transformer": "query/"}.get(setting.fields["model"], "")
    paths = [f"hidden/{number}/{layer}kernel" for number in range(len(setting.fields["hidden"]))]
    return {path: functools.partial(kernels, path) for path in paths[:_SHOWN_KERNELS]}


@functools.lru_cache(maxsize=256)  # settings that differ in their training start alike
def _drawn(inputs: int, classes: int, config: Config) -> dict[str, np.ndarray]:
    from experiments.common import run_directory, starting

    with starting.precision(config):
        model = starting.network(config, (inputs, *config.hidden, classes))
        params = model.unpack(starting.draw_params(config, model))
    return {name: np.asarray(array) for name, array in run_directory.flatten(params)}


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
    console.use_all_cores()  # as the sweep did, so that its compiled programs are found again
    page, *others = report(
        flags.expanded(directory), _FLAGS.margin / 100, _FLAGS.target, sys.stdout
    )
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
