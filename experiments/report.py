"""Makes a report of sweeps: one page that answers, its figures as PNG, its tables as CSV and text.

Question: what did the runs in a directory show?
Command:  python -m experiments.report runs/sweep
Time:     about 10 s
"""

import csv
import html
import io
import json
import pathlib
import string
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from absl import flags

from experiments.common import console, published, runs, store

COMMAND = "python -m experiments.report"

_TEMPLATE = pathlib.Path(__file__).with_name("common") / "report.html"
_SHOWN_KERNELS = 3  # of a network, for the histograms: its first ones

Table = list[dict[str, Any]]


def report(directory: str) -> list[pathlib.Path]:
    """Writes `report.html` into a directory of results, and figures and tables into `report/`.

    Args:
      directory: as `experiments.sweep` leaves it.

    Returns:
      The paths of what was written, the page first.

    Raises:
      ValueError: the directory holds no runs, or cannot be written to.
    """
    import vl_convert

    from experiments.common import charts, comparison, results

    root = pathlib.Path(directory)
    table = results.read(root)
    found = comparison.settings(table)
    written: dict[pathlib.Path, bytes] = {}
    sections, specs = [], {}
    markdown = [f"# {_title(found)}", ""]
    tables: dict[str, Table] = {"endpoints": [], "pairs": [], "published": []}
    for number, setting in enumerate(found, start=1):
        suffix = "" if len(found) == 1 else f"_{number}"
        name = comparison.describe(setting.fields)
        sentences = comparison.summary(setting)
        endpoints, pairs = _endpoint_table(setting), _pair_table(setting)
        compared = published.compare(setting)
        figures = {}
        for chart, spec in charts.of_setting(setting, _kernels(setting)).items():
            figures[f"{chart}{suffix}"] = spec
            written[root / "report" / f"{chart}{suffix}.png"] = charts.png(spec)
        specs |= figures
        sections.append(
            _section(name, sentences, setting.inits, figures, endpoints, pairs, compared)
        )
        markdown += [f"## {name}", "", *(f"- {sentence}" for sentence in sentences), ""]
        for title, rows in (
            ("Endpoints: mean and 95 % interval", endpoints),
            ("Pairs", pairs),
            ("The published table beside ours", compared),
        ):
            if rows:
                markdown += [f"### {title}", "", *_markdown(rows), ""]
        for key, rows in (("endpoints", endpoints), ("pairs", pairs), ("published", compared)):
            tables[key] += [{"setting": name, **row} for row in rows]
    about = _about(table)
    markdown += ["## What was run", "", *_markdown(about), ""]
    template = string.Template(_TEMPLATE.read_text())
    page = template.substitute(
        title=html.escape(_title(found)),
        sections="\n".join(sections),
        about=_html_table(about),
        specs=json.dumps(specs, allow_nan=False).replace("</", "<\\/"),
        library=vl_convert.javascript_bundle(),  # pyright: ignore[reportCallIssue]
    )
    written[root / "report" / "report.md"] = "\n".join(markdown).encode()
    for key, rows in tables.items():
        if rows:
            written[root / "report" / f"{key}.csv"] = _csv(rows)
    (root / "report").mkdir(exist_ok=True)
    store.write(root / "report.html", page.encode())
    for path, content in written.items():
        store.write(path, content)
    return [root / "report.html", *written]


def _title(found: list[Any]) -> str:
    inits = list(dict.fromkeys(init for setting in found for init in setting.inits))
    seeds = len({seed for setting in found for seed in setting.seeds})
    return f"{len(inits)} initializers, {seeds} seeds"


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


def _endpoint_table(setting: Any) -> Table:
    from experiments.common import comparison

    rows = []
    for line in comparison.table(setting):
        row: dict[str, Any] = {
            "initializer": line["init"],
            "runs": line["runs"],
            "learned": line["learned"],
        }
        if setting.fields["learning_rate"] is None:
            of_init = np.array(setting.runs["init"].to_pylist()) == line["init"]
            rates = np.array(setting.runs["learning_rate"].to_pylist())[of_init]
            row["learning rate"] = f"{rates[0]:g}"
        for name, endpoint in comparison.ENDPOINTS.items():
            interval = line[name]
            row[endpoint.title] = "-" if interval is None else _interval_text(interval)
        rows.append(row)
    return rows


def _interval_text(interval: Any, sign: str = "") -> str:
    value, low, high = interval
    digits = 1 if abs(value) >= 10 else 4
    if not np.isfinite(low):
        return f"{value:{sign}.{digits}f}"
    return f"{value:{sign}.{digits}f} ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"


def _pair_table(setting: Any) -> Table:
    from experiments.common import comparison

    rows = []
    for name, endpoint in comparison.ENDPOINTS.items():
        for pair in comparison.pairs(setting, name):
            found = pair.comparison
            equivalence = found.p_equivalence
            rows.append(
                {
                    "endpoint": endpoint.title,
                    "first": pair.first,
                    "second": pair.second,
                    "seeds": found.n,
                    "difference": _interval_text(found.difference, "+"),
                    "p": _p(found.p),
                    "p, Holm": _p(pair.p),
                    "p, sign flips": _p(found.p_sign_flip),
                    "p, equivalence": "-" if np.isnan(equivalence) else _p(equivalence),
                    "first is better": _better(found.improvement, endpoint.sign),
                    "correlation": "-"
                    if np.isnan(found.correlation)
                    else f"{found.correlation:.2f}",
                    "detectable": f"{found.detectable:.4f}",
                    "verdict": comparison.verdict(pair, name, setting.fields["epochs"]),
                }
            )
    return rows


def _better(share: Any, sign: int) -> str:
    value, low, high = share if sign > 0 else (1 - share[0], 1 - share[2], 1 - share[1])
    return f"{value:.0%} ({low:.0%} to {high:.0%})"


def _p(p: float) -> str:
    return "<1e-9" if p < 1e-9 else f"{p:.2g}"


def _about(table: Any) -> Table:
    """What was run: where, with what, and how long it took."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in table.select(
        ["host", "device", "versions", "seconds", "finished", "status"]
    ).to_pylist():
        place = row["host"], row["device"], row["versions"]
        line = rows.setdefault(
            place,
            {
                "host": row["host"],
                "device": row["device"],
                "runs": 0,
                "diverged": 0,
                "seconds": 0.0,
                "from": row["finished"],
                "to": row["finished"],
                "versions": row["versions"],
            },
        )
        line["runs"] += 1
        line["diverged"] += row["status"] == "diverged"
        line["seconds"] += row["seconds"]
        line["from"], line["to"] = (
            min(line["from"], row["finished"]),
            max(line["to"], row["finished"]),
        )
    for line in rows.values():
        line["seconds"] = f"{line['seconds']:.1f}"
        line["from"], line["to"] = (f"{line[end]:%Y-%m-%d %H:%M} UTC" for end in ("from", "to"))
    return list(rows.values())


def _section(
    name: str,
    sentences: Iterable[str],
    inits: list[str],
    figures: Mapping[str, Any],
    endpoints: Table,
    pairs: Table,
    compared: Table,
) -> str:
    """A setting's part of the page."""
    boxes = "".join(
        f'<label><input type="checkbox" checked value="{html.escape(init, quote=True)}">'
        f" {html.escape(init)}</label>"
        for init in inits
    )
    parts = [
        f"<section><h2>{html.escape(name)}</h2>",
        "<ul>" + "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences) + "</ul>",
        f'<fieldset class="shown"><legend>Shown</legend>{boxes}</fieldset>',
        '<div class="figures">'
        + "".join(f'<figure><div class="chart" id="{figure}"></div></figure>' for figure in figures)
        + "</div>",
        "<h3>Endpoints: mean and 95 % interval of Student's t</h3>" + _html_table(endpoints),
    ]
    if compared:
        parts.append("<h3>The published table beside ours</h3>" + _html_table(compared))
    parts.append(
        f"<details><summary>All {len(pairs)} comparisons of pairs</summary>"
        + _html_table(pairs)
        + "</details></section>"
    )
    return "\n".join(parts)


def _html_table(rows: Table) -> str:
    if not rows:
        return ""
    cell = lambda value: html.escape(str(value))  # noqa: E731
    head = "".join(f"<th>{cell(name)}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{cell(value)}</td>" for value in row.values()) + "</tr>"
        for row in rows
    )
    head = f"<thead><tr>{head}</tr></thead>"
    return f'<div class="table"><table>{head}<tbody>{body}</tbody></table></div>'


def _markdown(rows: Table) -> list[str]:
    lines = [
        list(map(str, rows[0])),
        ["---"] * len(rows[0]),
        *([*map(str, row.values())] for row in rows),
    ]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _csv(rows: Table) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


_FLAGS = flags.FlagValues()


def main(directory: str = "runs/sweep") -> None:
    page, *others = report(directory)
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
        {"Flags": ("help",)},
        main,
        arguments=1,
    )
