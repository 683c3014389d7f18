"""The tables of a report: numbers for the CSV files, and text for readers."""

import csv
import io
import json
import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from experiments.common import comparison, formatting, grouping, statistics, verdicts

Table = list[dict[str, Any]]


def endpoints(setting: comparison.Setting) -> Table:
    """A row for each initializer and endpoint: its mean with a 95% confidence interval."""
    return [
        {
            "initializer": line["init"],
            "learning_rate": line["learning_rate"],
            "runs": line["runs"],
            "learned": line["learned"],
            "endpoint": name,
            **_columns("mean", "", line[name]),
            **({"reached": line["reached"]} if name == "steps" else {}),
        }
        for line in comparison.table(setting)
        for name in setting.endpoints
    ]


def shown_endpoints(setting: comparison.Setting) -> Table:
    """The same as text: a row for each initializer."""
    rows = []
    for line in comparison.table(setting):
        row = {
            "initializer": line["init"],
            "runs": line["runs"],
            "learned": formatting.share(statistics.share_interval(line["learned"], line["runs"])),
        }
        if setting.fields["learning_rate"] is None:
            row["learning rate"] = f"{line['learning_rate']:g}"
        for name, endpoint in setting.endpoints.items():
            text = formatting.interval(line[name])
            if name == "steps" and line["reached"] < line["runs"]:
                text = text if line["reached"] else f"more than {setting.steps}"
                text += f", {line['reached']} of {line['runs']} reach it"
            row[endpoint.title] = text
        rows.append(row)
    return rows


def pairs(setting: comparison.Setting) -> Table:
    """A row for each endpoint and every two initializers; see `statistics.Comparison`."""
    rows = []
    for name, endpoint in setting.endpoints.items():
        for pair in comparison.pairs(setting, name):
            found = pair.comparison
            improvement = found.improvement
            if endpoint.sign < 0:
                improvement = statistics.Interval(
                    1 - improvement.value, 1 - improvement.high, 1 - improvement.low
                )
            rows.append(
                {
                    "endpoint": name,
                    "first": pair.first,
                    "second": pair.second,
                    "seeds": found.n,
                    **_columns("difference", "", found.difference),
                    **_columns(None, "bootstrap_", found.bootstrap),
                    "stddev": found.stddev,
                    "correlation": found.correlation,
                    "p": found.p,
                    "p_holm": pair.p,
                    "p_sign_flip": found.p_sign_flip,
                    "p_equivalence_holm": pair.p_equivalence,
                    **_columns("first_is_better", "first_is_better_", improvement),
                    "detectable": found.detectable,
                    "seeds_to_settle": None
                    if verdicts.finding(pair, endpoint)[0] in ("ahead", "equivalent")
                    else found.seeds_to_settle,
                    "verdict": verdicts.verdict(pair, endpoint, setting.length),
                }
            )
    return rows


def shown_pairs(setting: comparison.Setting, rows: Table) -> Table:
    """The same as text, given the rows of `pairs`."""

    def interval(row: dict[str, Any], value: str, prefix: str) -> statistics.Interval:
        return statistics.Interval(row[value], row[f"{prefix}low"], row[f"{prefix}high"])

    return [
        {
            "endpoint": setting.endpoints[row["endpoint"]].title,
            "first": row["first"],
            "second": row["second"],
            "seeds": row["seeds"],
            "difference": formatting.interval(interval(row, "difference", ""), "+"),
            "bootstrap": "-"
            if row["bootstrap_low"] is None
            else formatting.bounds(interval(row, "difference", "bootstrap_"), "+"),
            "p": formatting.p(row["p"]),
            "p, Holm": formatting.p(row["p_holm"]),
            "p, sign flips": formatting.p(row["p_sign_flip"]),
            "p, equivalence, Holm": formatting.p(row["p_equivalence_holm"]),
            "first is better": formatting.share(
                interval(row, "first_is_better", "first_is_better_")
            ),
            "correlation": formatting.number(row["correlation"], digits=2),
            "detectable": formatting.number(row["detectable"], row["difference"]),
            "seeds to settle": "-"
            if row["seeds_to_settle"] is None
            else formatting.seeds(row["seeds_to_settle"]),
            "verdict": row["verdict"],
        }
        for row in rows
    ]


def rules(setting: comparison.Setting) -> Table:
    """What the names of initializers stand for, where the names alone don't say it."""
    named = setting.runs.select(["init", "rules"]).group_by(["init", "rules"]).aggregate([])
    rows = named.to_pylist()
    texts = {row["init"]: json.loads(row["rules"]) for row in rows if row["rules"] is not None}
    return [
        {
            "initializer": init,
            "parameters": pattern,
            "drawn from": re.sub("@([0-9a-f]{8})[0-9a-f]*$", r" (\1)", rule),
        }
        for init in setting.inits
        if init in texts
        for pattern, rule in texts[init].items()
    ]


def about(runs: pa.Table) -> Table:
    """Where the runs were trained, with which versions, and how long it took."""
    diverged = runs["status"].to_numpy() == "diverged"
    rows = []
    for places in grouping.places(grouping.groups(runs, ["host", "device", "versions"])):
        mine = runs.select(["host", "device", "versions", "seconds", "finished"]).take(places)
        first = mine.slice(0, 1).to_pylist()[0]
        times = pc.call_function("min_max", [mine["finished"]]).as_py()
        rows.append(
            {
                "host": first["host"],
                "device": first["device"],
                "runs": len(mine),
                "diverged": int(diverged[places].sum()),
                "seconds": f"{sum(mine['seconds'].to_pylist()):.1f}",
                "from": f"{times['min']:%Y-%m-%d %H:%M} UTC",
                "to": f"{times['max']:%Y-%m-%d %H:%M} UTC",
                "versions": first["versions"],
            }
        )
    return rows


def _columns(name: str | None, prefix: str, interval: statistics.Interval | None) -> dict[str, Any]:
    value, low, high = interval or (None, None, None)
    return ({name: value} if name else {}) | {f"{prefix}low": low, f"{prefix}high": high}


def to_markdown(rows: Table) -> list[str]:
    """A table with at least one row, as lines of Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    escaped = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return [f"| {' | '.join(line)} |" for line in escaped]


_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        "±": r"$\pm$",
    }
)


def to_latex(rows: Table) -> list[str]:
    """A table with at least one row, as lines of LaTeX; it needs the package booktabs."""
    head, *body = [
        " & ".join(str(cell).translate(_LATEX) for cell in line) + r" \\"
        for line in [list(rows[0]), *(list(row.values()) for row in rows)]
    ]
    start = [rf"\begin{{tabular}}{{{'l' * len(rows[0])}}}", r"\toprule", head, r"\midrule"]
    return [*start, *body, r"\bottomrule", r"\end{tabular}"]


def to_csv(rows: Table) -> bytes:
    """A table as CSV, with all columns of all rows."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()
