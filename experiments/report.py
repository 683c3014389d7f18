"""Makes a report of sweeps: one page that answers, its figures as PNG, its tables as CSV and text.

Question: what did the runs in a directory show?
Command:  python -m experiments.report runs/sweep
Time:     about 10 s
"""

import html
import json
import os
import pathlib
import re
import string
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags

from experiments.common import console, published, runs, store

COMMAND = "python -m experiments.report"

_TEMPLATE = pathlib.Path(__file__).with_name("common") / "report.html"
_SHOWN_KERNELS = 3  # of a network, for the histograms: its first ones
_FIGURES = r"(training_loss|test_error|final_accuracy|differences|weights_\w+?)(_\d+)?\.png"
_TABLES = r"(endpoints|pairs|published)\.csv"


def report(directory: str, margin: float, target: float) -> list[pathlib.Path]:
    """Writes `report.html` into a directory of results, and figures and tables into `report/`.

    Args:
      directory: as `experiments.sweep` leaves it.
      margin: initializers whose mean accuracies differ by less are equivalent.
      target: the accuracy to which steps are counted.

    Returns:
      The paths of what was written, the page first.

    Raises:
      ValueError: the directory holds no runs, or cannot be written to.
    """
    from experiments.common import charts, comparison, results, tables, verdicts

    root = pathlib.Path(directory)
    table = results.read(root)
    if not os.access(root, os.W_OK):
        raise ValueError(f"cannot write to {directory}: copy it to where a report can be made")
    found = comparison.settings(table, margin, target)
    written: dict[pathlib.Path, bytes] = {}
    sections, specs = [], {}
    markdown = [f"# {_title(found)}", ""]
    files: dict[str, tables.Table] = {"endpoints": [], "pairs": [], "published": []}
    for number, setting in enumerate(found, start=1):
        suffix = "" if len(found) == 1 else f"_{number}"
        name = verdicts.describe(setting.fields)
        heading = name if len(found) == 1 else f"{number}. {name}"
        sentences = verdicts.summary(setting)
        pairs, compared = tables.pairs(setting), published.compare(setting)
        shown = {
            "Endpoints: mean and 95 % interval of Student's t": tables.shown_endpoints(setting),
            "The published table beside ours": compared,
            f"All {len(pairs)} comparisons of pairs": tables.shown_pairs(setting),
        }
        figures = {
            f"{chart}{suffix}": spec
            for chart, spec in charts.of_setting(setting, _kernels(setting)).items()
        }
        specs |= figures
        for figure, spec in figures.items():
            written[root / "report" / f"{figure}.png"] = charts.png(spec)
        symbols = {init: charts.symbol(setting, init) for init in setting.inits}
        shown_html = {title: tables.to_html(rows) for title, rows in shown.items() if rows}
        sections.append(_section(heading, sentences, symbols, figures, shown_html))
        markdown += [f"## {heading}", "", *(f"- {sentence}" for sentence in sentences), ""]
        markdown += [f"![{figure}]({figure}.png)" for figure in figures]
        for title, rows in shown.items():
            if rows:
                markdown += ["", f"### {title}", "", *tables.to_markdown(rows), ""]
        rows_by_file = {
            "endpoints": tables.endpoints(setting),
            "pairs": pairs,
            "published": compared,
        }
        for file, rows in rows_by_file.items():
            files[file] += [{"number": number, "setting": name, **row} for row in rows]
    about = tables.about(table)
    markdown += ["## What was run", "", *tables.to_markdown(about), ""]
    written[root / "report" / "report.md"] = "\n".join(markdown).encode()
    for file, rows in files.items():
        if rows:
            written[root / "report" / f"{file}.csv"] = tables.to_csv(rows)
    page = _page(_title(found), sections, tables.to_html(about), specs)
    (root / "report").mkdir(exist_ok=True)
    store.write(root / "report.html", page.encode())
    for path, content in written.items():
        store.write(path, content)
    # What an earlier report of other settings has left would be taken for a part of this one.
    for path in (root / "report").iterdir():
        if path not in written and re.fullmatch(f"{_FIGURES}|{_TABLES}", path.name):
            path.unlink()
    return [root / "report.html", *written]


def _title(found: list[Any]) -> str:
    inits = list(dict.fromkeys(init for setting in found for init in setting.inits))
    seeds = len({seed for setting in found for seed in setting.seeds})
    return f"{_count(len(inits), 'initializer')}, {_count(seeds, 'seed')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _kernels(setting: Any) -> dict[str, dict[str, np.ndarray]]:
    """The kernels that the first seed starts from, by name and initializer: drawn once more."""
    import jax

    from experiments.common import models

    fields = setting.fields
    row = setting.runs.slice(0, 1).to_pylist()[0]
    features = (row["features"], *fields["hidden"], row["classes"])
    kernels: dict[str, dict[str, np.ndarray]] = {}
    with jax.enable_x64(fields["dtype"] == "float64"):
        model = models.mlp(features, fields["activation"], fields["dtype"])
        for init in setting.inits:
            seed = min(setting.seeds)
            config = runs.Config(
                init=init,
                output_init=fields["output_init"],
                bias_init=fields["bias_init"],
                seed=seed,
                hidden=fields["hidden"],
            )
            params = runs.draw_params(config, runs.root_key(seed), model)
            for index in range(min(_SHOWN_KERNELS, len(fields["hidden"]))):
                name = f"hidden/{index}/kernel"
                kernels.setdefault(name, {})[init] = np.asarray(params["hidden"][index]["kernel"])
    return kernels


def _section(
    heading: str,
    sentences: list[str],
    symbols: Mapping[str, str],
    figures: Mapping[str, Any],
    shown: Mapping[str, str],
) -> str:
    """A setting's part of the page; its boxes are the legend of all of its figures."""
    boxes = "".join(
        f'<label><input type="checkbox" checked value="{html.escape(init, quote=True)}">'
        f" {symbol} {html.escape(init)}</label>"
        for init, symbol in symbols.items()
    )
    parts = [
        f"<section><h2>{html.escape(heading)}</h2>",
        "<ul>" + "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences) + "</ul>",
        f"<fieldset><legend>Shown</legend>{boxes}</fieldset>",
        '<div class="figures">'
        + "".join(_figure(name, len(symbols)) for name in figures)
        + "</div>",
        *(
            f"<details open><summary>{title}</summary>{table}</details>"
            for title, table in shown.items()
        ),
        "</section>",
    ]
    return "\n".join(parts)


def _figure(name: str, inits: int) -> str:
    # A cell of the matrix has to hold its number: on a narrow screen the matrix scrolls.
    width = f' style="min-width:{56 * inits + 140}px"' if name.startswith("differences") else ""
    return f'<figure><div class="chart" id="{name}"{width}></div></figure>'


def _page(title: str, sections: list[str], about: str, specs: Mapping[str, Any]) -> str:
    import vl_convert

    template = string.Template(_TEMPLATE.read_text())
    return template.substitute(
        title=html.escape(title),
        sections="\n".join(sections),
        about=about,
        specs=json.dumps(_without_legends(specs), allow_nan=False).replace("</", "<\\/"),
        library=vl_convert.javascript_bundle(),  # pyright: ignore[reportCallIssue]
    )


def _without_legends(spec: Any) -> Any:
    """A chart for the page, whose boxes are the legend."""
    if isinstance(spec, Mapping):
        return {
            name: None if name == "legend" else _without_legends(part)
            for name, part in spec.items()
        }
    return [_without_legends(part) for part in spec] if isinstance(spec, list) else spec


_FLAGS = flags.FlagValues()  # the program's own, so that programs can be imported side by side
flags.DEFINE_float(
    "margin",
    0.1,
    "Initializers whose mean test accuracies differ by less than so many points are called"
    " equivalent, where that is proven.",
    flag_values=_FLAGS,
)
flags.DEFINE_float(
    "target",
    0.95,
    "The accuracy to which training steps are counted: that of the training batches, in the mean of"
    " a hundred.",
    flag_values=_FLAGS,
)


def main(directory: str = "runs/sweep") -> None:
    if not 0 < _FLAGS.margin < 100:
        raise ValueError(f"--margin={_FLAGS.margin:g}: must be above 0 and below 100, in points")
    if not 0 < _FLAGS.target <= 1:
        raise ValueError(f"--target={_FLAGS.target:g}: must be an accuracy above 0, at most 1")
    page, *others = report(directory, _FLAGS.margin / 100, _FLAGS.target)
    console.say(
        sys.stdout,
        f"report  {page}",
        f"        {len(others)} figures and tables in {page.parent / 'report'}",
    )


if __name__ == "__main__":
    console.run_program(
        f"{COMMAND} [RUNS]",
        "Makes a report of the sweeps in a directory (default: runs/sweep): report.html there, a"
        " page that needs no network, and its figures and tables in report/.",
        _FLAGS,
        {"Statistics": ("margin", "target"), "Flags": ("help",)},
        main,
        arguments=1,
    )
