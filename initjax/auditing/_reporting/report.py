"""What an audit returns: data, which can be printed, plotted, saved and asserted."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from initjax._extras import require_matplotlib
from initjax.auditing._judging.causes import CAUSES
from initjax.auditing._judging.findings import Finding, Verdict
from initjax.auditing._judging.layers import Layer
from initjax.auditing._judging.network import Network
from initjax.auditing._reporting import text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# For code that works with the parameters; not part of the data that is saved.
_NOT_SAVED = ("parameters", "source", "logits", "saturating")


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of `initjax.audit`. `print(report)` shows it."""

    layers: tuple[Layer, ...]
    """In the order of execution."""
    network: Network
    findings: tuple[Finding, ...]
    """What is wrong; failures first."""
    unread: tuple[str, ...]
    """Parts of the computation that could not be read, with the parameters that enter there."""

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
            raise AssertionError("\n".join(text.finding_lines(counted)))

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain data for JSON. What was not measured is None.

        Returns:
          A dictionary with these keys:

          - 'verdict': 'ok', 'warning' or 'failure'.
          - 'network': a dictionary with the fields of `Network`.
          - 'findings': a list of dictionaries with 'level', 'cause', 'layers', 'message' and
            'remedy', as in `Finding`.
          - 'layers': a list of dictionaries with the fields of `Layer` except 'parameters',
            'source', 'logits' and 'saturating'. 'unpredicted' is a readable string.
          - 'unread': a list of strings.
        """
        reasons = [text.reason(layer.unpredicted) for layer in self.layers]
        return {
            "verdict": self.verdict,
            "network": _plain_fields(self.network),
            "findings": [_plain_fields(finding) for finding in self.findings],
            "layers": [
                {**_plain_fields(layer), "unpredicted": reason}
                for layer, reason in zip(self.layers, reasons, strict=True)
            ],
            "unread": list(self.unread),
        }

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Plots measurements and predictions layer by layer, and histograms of each layer.

        Needs Matplotlib: `pip install 'initjax[plot]'`.

        Args:
          path: where to save the figure; the suffix sets the format. With None, nothing is saved.

        Returns:
          A Matplotlib figure.

        Raises:
          ValueError: there are no layers.
          ImportError: Matplotlib is not installed.
        """
        require_matplotlib("report.plot()")
        from initjax.auditing._reporting.figure import draw

        levels = [self.level(layer) for layer in self.layers]
        figure = draw(self._title(), self.layers, levels, text.caption(self.findings))
        if path is not None:
            figure.savefig(path)
        return figure

    def __str__(self) -> str:
        levels = [self.level(layer) for layer in self.layers]
        lines = [
            self._title(),
            "",
            *text.table(self.layers, levels),
            *text.remarks(self.network, self.layers, self.unread),
            "",
            *text.finding_lines(self.findings),
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return text.page(
            self._title(),
            self.verdict,
            self.findings,
            self.layers,
            text.remarks(self.network, self.layers, self.unread),
        )

    def _title(self) -> str:
        return text.title(self.network, self.findings, len(self.layers))


def _plain_fields(value: Any) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(value)]
    return {name: _plain(getattr(value, name)) for name in names if name not in _NOT_SAVED}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return list(map(_plain, value)) if isinstance(value, tuple) else value
