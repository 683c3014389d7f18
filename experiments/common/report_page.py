"""The page of a report: one HTML file that works offline, and the same text as Markdown."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from experiments.common import tables

_FOLDER = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Section:
    """What a report shows of one setting."""

    heading: str
    sentences: Sequence[str]
    symbols: Mapping[str, str]
    """For each initializer its line and point in the charts, as SVG."""
    charts: Mapping[str, dict[str, Any]]
    """Vega-Lite specifications, by names that are unique in the report."""
    tables: Mapping[str, tables.Table]
    """The tables by their titles."""


def html(title: str, sections: Sequence[Section], about: tables.Table) -> str:
    """The page.

    Args:
      title: of the page.
      sections: one for each setting.
      about: the table of what was run.
    """
    import vl_convert

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    specs = {name: spec for section in sections for name, spec in section.charts.items()}
    return environment.get_template("report.html").render(
        title=title,
        sections=sections,
        about=about,
        specs=json.dumps(_without_legends(specs), allow_nan=False).replace("</", "<\\/"),
        library=vl_convert.javascript_bundle(),  # pyright: ignore[reportCallIssue]
    )


def markdown(title: str, sections: Sequence[Section], about: tables.Table) -> str:
    """The same as Markdown, with the figures as PNG files beside it; takes the same arguments."""
    lines = [f"# {title}", ""]
    for section in sections:
        lines += [f"## {section.heading}", ""]
        lines += [*(f"- {sentence}" for sentence in section.sentences), ""]
        lines += [f"![{name}]({name}.png)" for name in section.charts]
        for table_title, rows in section.tables.items():
            lines += ["", f"### {table_title}", "", *tables.to_markdown(rows), ""]
    return "\n".join([*lines, "## What was run", "", *tables.to_markdown(about), ""])


def _without_legends(spec: Any) -> Any:
    """A chart for the page, where the checkboxes are the legend."""
    if isinstance(spec, Mapping):
        return {
            name: None if name == "legend" else _without_legends(part)
            for name, part in spec.items()
        }
    return [_without_legends(part) for part in spec] if isinstance(spec, list) else spec
