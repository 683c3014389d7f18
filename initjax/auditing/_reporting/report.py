"""What an audit returns: data, which can be printed, plotted, saved and asserted."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from initjax._extras import require_matplotlib
from initjax._flattening import described
from initjax._values import checked_integer
from initjax._wrapping import wrapped
from initjax.auditing._judging.attention import Attention
from initjax.auditing._judging.causes import CAUSES
from initjax.auditing._judging.findings import Finding, Verdict
from initjax.auditing._judging.layers import Layer
from initjax.auditing._judging.names import label
from initjax.auditing._judging.network import Network
from initjax.auditing._reporting import text
from initjax.auditing._reporting.attention import attention_table
from initjax.auditing._reporting.glossary import REASONS, explained
from initjax.auditing._reporting.page import picture, report_page
from initjax.auditing._reporting.schema import VERSION, plain, plain_layer
from initjax.auditing._reporting.table import Table, layers_table, table_lines

if TYPE_CHECKING:
    from initjax._figure import Figure


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of `initjax.audit`.

    `print(report)` shows it in 80 columns, and `print(report.to_text(120))` on a wider terminal.
    """

    layers: tuple[Layer, ...]
    """In the order of execution."""
    network: Network
    findings: tuple[Finding, ...]
    """What is wrong; failures first."""
    unread: tuple[str, ...]
    """Parts of the computation that could not be read, with the parameters that enter there."""
    attention: tuple[Attention, ...] = ()
    """The softmax attentions, in the order of execution."""

    @property
    def verdict(self) -> Verdict:
        """The worst level of the findings; 'ok' if there are none."""
        return self.findings[0].level if self.findings else "ok"

    def level(self, layer: Layer) -> Verdict:
        """The worst level of the findings about a layer; 'ok' if there are none."""
        for finding in self.findings:
            if layer.name in finding.layers:
                return finding.level
        return "ok"

    def assert_healthy(self, ignore: Sequence[str] = ()) -> None:
        """Raises an AssertionError if anything is wrong. Use it in the tests of your model.

        Args:
          ignore: causes to accept, such as 'output_scale': the words that the printed report
            shows after 'failure' and 'warning'.

        Raises:
          AssertionError: there is a finding with another cause; the message lists them.
          ValueError: ignore contains an unknown cause.
        """
        unknown = [cause for cause in ignore if cause not in CAUSES]
        if unknown or isinstance(ignore, str):
            raise ValueError(
                f"assert_healthy: ignore={ignore!r} must be a sequence of causes; valid causes:"
                f" {', '.join(CAUSES)}"
            )
        counted = [finding for finding in self.findings if finding.cause not in ignore]
        if counted:
            causes = list(dict.fromkeys([*ignore, *(finding.cause for finding in counted)]))
            lines = [
                f"initjax audit: {text.summary(self.network, counted, len(self.layers))}",
                *text.finding_lines(counted),
                f"print(report) shows the layers; ignore={causes} accepts them",
            ]
            raise AssertionError("\n".join(lines))

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain data for JSON, for programs that read audits.

        Numbers that were not measured, or that are infinite or NaN, are None.

        Returns:
          A dictionary. 'version' is 1; it counts up if a key goes or changes its meaning. 'verdict'
          and 'summary' are strings, 'network' is a dictionary, 'findings', 'layers' and 'attention'
          are lists of dictionaries, and 'unread' is a list of strings. The README of the audit
          documents every key.
        """
        return {
            "version": VERSION,
            "verdict": self.verdict,
            "summary": self._verdict(),
            "network": plain(self.network),
            "findings": [plain(finding) for finding in self.findings],
            "layers": [plain_layer(layer) for layer in self.layers],
            "unread": list(self.unread),
            "attention": [plain(attention) for attention in self.attention],
        }

    def plot(self, path: str | os.PathLike[str] | None = None, *, title: str = "") -> Figure:
        """Plots measurements and predictions layer by layer, and histograms of each layer.

        Needs Matplotlib: `pip install 'initjax[plot]'`.

        Args:
          path: where to save the figure; the suffix sets the format. With None, nothing is saved.
          title: what was audited, as a headline.

        Returns:
          A Matplotlib figure, which a notebook shows. It belongs to no window of `pyplot`.

        Raises:
          ValueError: there are no layers.
          ImportError: Matplotlib is not installed.
        """
        require_matplotlib("report.plot()")
        from initjax.auditing._reporting.drawing import Series
        from initjax.auditing._reporting.figure import captions, draw

        headlines = [title, self._title()] if title else [self._title()]
        series = Series(self.layers, self._levels(), self.attention)
        figure = draw(headlines, captions(self.findings), [series])
        if path is not None:
            figure.savefig(path)
        return figure

    def to_text(self, width: int = text.WIDTH) -> str:
        """Returns what `print(report)` shows, for a terminal of another width.

        Args:
          width: the number of columns; fewer than 40 are taken as 40. The table has as many
            of its columns as fit; sentences have lines of at most 80.

        Raises:
          TypeError, ValueError: width isn't a whole number.
        """
        width = max(checked_integer("report.to_text", "width", width, 0), text.LEAST_WIDTH)
        narrow = min(width, text.WIDTH)
        to_do, others = self.findings[: text.MOST_TO_DO], self.findings[text.MOST_TO_DO :]
        remarks = text.remarks(self.network, self.layers, self.unread)
        blocks = [
            [*wrapped(self._verdict(), narrow, rest=""), *wrapped(self._title(), narrow)],
            text.finding_lines(to_do, narrow, 1),
            *(table_lines(table, width) for table in self._tables()),
            [line for remark in remarks for line in wrapped(remark, narrow, rest="")],
            text.finding_lines(others, narrow, 1 + len(to_do)),
        ]
        return "\n\n".join("\n".join(lines) for lines in blocks if lines)

    def explain(self, word: str) -> str:
        """Says what a word of the report means.

        Args:
          word: a column, such as 'chi_1'; a cause, such as 'vanishing'; another word that is
            printed, such as 'guessing'; or where predictions restart, or what could not be read.

        Returns:
          What it means, what numbers are good, and where to read more: a few sentences.

        Raises:
          TypeError: word isn't a string.
          ValueError: there is no such word; the message lists all.
        """
        if not isinstance(word, str):
            raise TypeError(f"report.explain: word must be a string, got {described(word)}")
        unread = [text.split(maxsplit=1)[0].rstrip(",") for text in self.unread]
        restarts = [layer.unpredicted for layer in self.layers if layer.unpredicted]
        return explained(word, [*unread, *(name for name in restarts if name not in REASONS)])

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        about = text.summary(self.network, self.findings, len(self.layers))
        return f"<Report: {about}; print(report) shows all>"

    def _repr_html_(self) -> str:
        """What a notebook shows, with the picture if Matplotlib is installed."""
        return self._page(picture(self.plot) if self.layers else "")

    def _page(self, picture: str = "") -> str:
        """HTML of the report; `picture` is HTML that comes last."""
        return report_page(
            self._verdict(),
            self._title(),
            self.findings,
            self._tables(),
            text.remarks(self.network, self.layers, self.unread),
            picture,
        )

    def _tables(self) -> list[Table]:
        return [
            layers_table(self.layers, self._levels()),
            attention_table(self.attention, self._marked()),
        ]

    def _marked(self) -> list[Verdict]:
        """The level of each attention: that of the findings about attention at its layers."""
        levels: list[Verdict] = []
        for attention in self.attention:
            mine = {attention.name, *map(label, ((each,) for each in attention.parameters))}
            found: list[Verdict] = [
                finding.level
                for finding in self.findings
                if finding.cause.startswith("attention") and mine & set(finding.layers)
            ]
            levels.append(found[0] if found else "ok")
        return levels

    def _levels(self) -> list[Verdict]:
        return [self.level(layer) for layer in self.layers]

    def _verdict(self) -> str:
        return text.verdict(self.findings, self.layers)

    def _title(self) -> str:
        return text.title(self.network, self.findings, len(self.layers))
