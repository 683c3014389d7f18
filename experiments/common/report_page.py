"""The page of a report: one HTML file that works offline, and the same text as Markdown."""

import base64
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2

from experiments.common import chart_style, tables

_FOLDER = pathlib.Path(__file__).parent


class Figure(NamedTuple):
    """A chart of a report."""

    name: str
    """Unique in the report, and valid in file names."""
    spec: dict[str, Any]
    """The Vega-Lite specification."""
    svg: str
    """The same as it is in the file."""


class Table(NamedTuple):
    """A table of a report."""

    name: str
    """Unique in the report, and valid in file names."""
    title: str
    rows: tables.Table
    """As text."""
    numbers: tables.Table
    """The rows of its CSV file."""

    def files(self) -> list[tuple[str, str, str]]:
        """What is offered of it: format, file name, and an address that needs no other file."""
        rows = tables.to_markdown(self.rows), tables.to_latex(self.rows)
        markdown, latex = ("\n".join([*lines, ""]).encode() for lines in rows)
        return [
            ("CSV", f"{self.name}.csv", _address(tables.to_csv(self.numbers), "text/csv")),
            ("Markdown", f"{self.name}.md", _address(markdown, "text/markdown")),
            ("LaTeX", f"{self.name}.tex", _address(latex, "application/x-tex")),
        ]


@dataclasses.dataclass(frozen=True)
class Section:
    """What a report shows of one setting, or of networks of several depths."""

    heading: str
    description: str
    """All that its runs have in common."""
    headline: str
    """The main result."""
    sentences: Sequence[str]
    """All results."""
    symbols: Mapping[str, str]
    """For each initializer its line and point in the charts, as SVG."""
    figures: Sequence[Figure]
    tables: Sequence[Table]


@dataclasses.dataclass(frozen=True)
class Report:
    """All that a report shows."""

    title: str
    summaries: Sequence[Sequence[str]]
    """What was compared, what won, and what follows: a sentence each, for each kind of result."""
    overview: Table | None
    """A row for each section, or None if there is only one."""
    methods: Sequence[str]
    """What is explained of the statistics: "depth", "settings"."""
    sections: Mapping[int, Section]
    """Those that are shown, by their numbers."""
    about: Table
    """What was run."""
    commands: Sequence[str]
    """Which train the runs again, and then make the report."""
    versions: str
    """Of the packages that made it."""


def html(report: Report) -> str:
    """The page."""
    import vl_convert

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = [figure for section in report.sections.values() for figure in section.figures]
    data = {
        "ink": chart_style.INK,
        "paper": chart_style.PAPER,
        "config": chart_style.CONFIG,
        "widths": {figure.name: chart_style.file_width(figure.spec) for figure in figures},
        "hover": chart_style.HOVER,
        "specs": {figure.name: figure.spec for figure in figures},
    }
    return environment.get_template("report.html").render(
        report=report,
        font=chart_style.FONT,
        data=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("</", "<\\/"),
        library=vl_convert.javascript_bundle(),  # pyright: ignore[reportCallIssue]
    )


def markdown(report: Report) -> str:
    """The same as Markdown, with the figures as PNG files beside it."""
    lines = [f"# {report.title}", "", *(" ".join(summary) + "\n" for summary in report.summaries)]
    if report.overview:
        lines += [f"## {report.overview.title}", ""]
        lines += [*tables.to_markdown(report.overview.rows), ""]
    for section in report.sections.values():
        lines += [f"## {section.heading}", ""] if section.heading else []
        lines += [section.description, "", section.headline, ""]
        lines += [*(f"- {sentence}" for sentence in section.sentences), ""]
        lines += [f"![{figure.name}]({figure.name}.png)" for figure in section.figures]
        for table in section.tables:
            lines += ["", f"### {table.title}", "", *tables.to_markdown(table.rows), ""]
    lines += ["## What was run", "", *tables.to_markdown(report.about.rows), ""]
    lines += ["```bash", *report.commands, "```", "", f"Made with {report.versions}.", ""]
    return "\n".join(lines)


def _address(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
