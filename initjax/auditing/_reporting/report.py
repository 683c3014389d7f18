"""What an audit gives: a value that prints as a table, and as a picture."""

from __future__ import annotations

import collections
import dataclasses
import html
import math
import os
import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from initjax._extras import require_matplotlib
from initjax.auditing._judging.findings import CAUSES, Finding, some
from initjax.auditing._judging.layers import Layer
from initjax.auditing._judging.network import Network

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 100
_MOST_ROWS = 40
_MARKS = {"ok": " ", "warning": "!", "failure": "x"}


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
    def verdict(self) -> Literal["ok", "warning", "failure"]:
        """The worst of the findings."""
        return self.findings[0].level if self.findings else "ok"

    def assert_healthy(self, ignore: Sequence[str] = ()) -> None:
        """Fails if anything is wrong: for a test of your model.

        Args:
          ignore: causes that are none of your concern: the words that the printed report has after
            'failure' and 'warning', as 'output_scale'.

        Raises:
          AssertionError: there is a finding of another cause; the message has them all.
          ValueError: ignore has an unknown cause.
        """
        unknown = [cause for cause in ignore if cause not in CAUSES]
        if unknown or isinstance(ignore, str):
            raise ValueError(
                f"assert_healthy: ignore={ignore!r} must be a sequence of causes; there are"
                f" {', '.join(CAUSES)}"
            )
        counted = [finding for finding in self.findings if finding.cause not in ignore]
        if counted:
            raise AssertionError("\n".join(_finding_lines(counted)))

    def to_dict(self) -> dict[str, Any]:
        """All numbers and texts as what JSON holds; what was not measured is None."""
        names = [field.name for field in dataclasses.fields(Layer) if field.repr]
        return {
            "verdict": self.verdict,
            "network": {
                name: _plain(value) for name, value in dataclasses.asdict(self.network).items()
            },
            "findings": [
                {**dataclasses.asdict(finding), "layers": list(finding.layers)}
                for finding in self.findings
            ],
            "layers": [
                {name: _plain(getattr(layer, name)) for name in names} for layer in self.layers
            ],
            "unread": list(self.unread),
        }

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draws measurements and predictions over depth, and the layers' histograms.

        Args:
          path: where to write the picture; the ending says in which format. None writes none.

        Returns:
          A Matplotlib figure.

        Raises:
          ValueError: there are no layers.
          ImportError: Matplotlib is not installed.
        """
        require_matplotlib("report.plot()")
        from initjax.auditing._reporting.figure import draw

        figure = draw(self)
        if path is not None:
            figure.savefig(path)
        return figure

    def __str__(self) -> str:
        return "\n".join([self._title(), "", *self._table(), *self._remarks(), "", *self._ending()])

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        colour = {"ok": "#00724f", "warning": "#8a5a00", "failure": "#b3261e"}[self.verdict]
        lines = [f'<p style="color:{colour}"><b>{html.escape(self._title())}</b></p>']
        if self.findings:
            items = "".join(
                f"<li><b>{finding.level}, {finding.cause}</b>: {html.escape(finding.message)}."
                f" <i>{html.escape(finding.remedy)}.</i></li>"
                for finding in self.findings
            )
            lines.append(f"<ul>{items}</ul>")
        header, rows = self._cells()
        if rows:
            head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
            body = "".join(
                "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
                for _, row in rows
            )
            lines.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
        lines += [f"<p>{html.escape(line)}</p>" for line in self._remarks() if line]
        return "".join(lines)

    def _title(self) -> str:
        loss = f"loss {self.network.loss:.4g}"
        if not math.isnan(self.network.expected_loss):
            loss += f" (guessing: {self.network.expected_loss:.4g})"
        count = len(self.layers)
        layers = "1 layer" if count == 1 else f"{count} layers"
        warnings = sum(finding.level == "warning" for finding in self.findings)
        failures = len(self.findings) - warnings
        counts = [
            f"{number} {word if number == 1 else word + 's'}"
            for number, word in ((failures, "failure"), (warnings, "warning"))
            if number
        ]
        return f"initjax audit: {', '.join(counts) or 'ok'}. {layers}, {loss}"

    def level(self, layer: Layer) -> Literal["ok", "warning", "failure"]:
        """The worst level of a finding that names a layer."""
        named = [finding for finding in self.findings if layer.name in finding.layers]
        return named[0].level if named else "ok"

    def _cells(self) -> tuple[list[str], list[tuple[str, list[str]]]]:
        """The header, and for every layer its level and its cells."""
        steps = any(not math.isnan(layer.update_ratio) for layer in self.layers)
        flat = any(layer.saturating for layer in self.layers)
        header = ["layer", "then", "gain", "rms", "theory", "z", "spread", "corr"]
        header += ["flat" if flat else "dead", "step" if steps else "gradient", "ratio", "chi_1"]
        rows = []
        for layer, name in zip(self.layers, short_names(self.layers), strict=True):
            then = layer.activation or {"last": "logits" if layer.logits else ""}.get(
                layer.role, layer.role
            )
            if not layer.samples:
                then = "not run"
            cells = [
                name + (f" x{layer.uses}" if layer.uses > 1 else ""),
                then,
                _number(layer.weight_variance),
                _number(layer.rms),
                _number(layer.predicted_rms) if not layer.unpredicted else "",
                _fixed(layer.rms_z, 1) if not layer.unpredicted else "",
                _number(layer.unit_stddev),
                _fixed(layer.correlation, 2),
                _percent(layer.saturated if layer.saturating else layer.dead),
                _number(layer.update_ratio) if steps else _number(layer.gradient),
                _number(layer.gradient_ratio),
                _number(layer.predicted_gradient_ratio),
            ]
            rows.append((self.level(layer), cells))
        return header, rows

    def _table(self) -> list[str]:
        header, rows = self._cells()
        if not rows:
            return []
        shown = list(range(len(rows)))
        if len(rows) > _MOST_ROWS:
            third = _MOST_ROWS // 3
            marked = [n for n, (level, _) in enumerate(rows) if level == "failure"][:third]
            shown = sorted({*range(third), *marked, *range(len(rows) - third, len(rows))})
        widths = [
            max(len(header[column]), *(len(rows[n][1][column]) for n in shown))
            for column in range(len(header))
        ]
        free = _WIDTH - 2 - sum(widths[2:]) - (len(widths) - 1)
        widths[1] = min(widths[1], max(len("then"), min(12, free - 12)))
        widths[0] = min(widths[0], free - widths[1])

        def line(mark: str, cells: list[str]) -> str:
            texts = [
                shortened(cell, width).ljust(width) if column < 2 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ]
            return f"{mark} {' '.join(texts)}".rstrip()

        lines, before = [line(" ", header)], -1
        for number in shown:
            if number > before + 1:
                lines.append(f"  ... {number - before - 1} layers more ...")
            level, cells = rows[number]
            lines.append(line(_MARKS[level], cells))
            before = number
        return lines

    def _remarks(self) -> list[str]:
        lines = []
        network = self.network
        parts = []
        if network.jacobian > 0:
            parts.append(
                f"Jacobian from first to last layer: mean squared singular value"
                f" {_number(network.jacobian)}, condition number in four random directions"
                f" {_number(network.jacobian_condition)}"
            )
        if network.depth > 1 and not math.isnan(network.correlation_depth):
            reach = 6 * network.correlation_depth
            limit = "no limit" if math.isinf(reach) or reach > 1e5 else f"{reach:.3g}"
            parts.append(f"longest chain {network.depth} layers, trainable by theory: {limit}")
        lines += textwrap.wrap("; ".join(parts), _WIDTH)
        reasons = collections.Counter(
            layer.unpredicted for layer in self.layers if layer.unpredicted
        )
        reasons.pop("the batch", None)
        if reasons:
            text = ", ".join(f"{reason} ({count})" for reason, count in reasons.items())
            lines += textwrap.wrap(
                f"theory starts anew, from the measured input, after: {text}", _WIDTH
            )
        if self.unread:
            lines += textwrap.wrap(f"not read: {'; '.join(self.unread)}", _WIDTH)
        return ["", *lines] if lines else []

    def _ending(self) -> list[str]:
        if not self.findings:
            return ["ok: nothing is wrong"]
        return _finding_lines(self.findings)


def _finding_lines(findings: Sequence[Finding]) -> list[str]:
    lines = []
    for finding in findings:
        remedy = f"{finding.remedy[0].upper()}{finding.remedy[1:]}."
        lines += _wrapped(f"{finding.level}, {finding.cause}: {finding.message}.", "")
        lines += _wrapped(remedy, "    ")
    return lines


def _wrapped(text: str, indent: str) -> list[str]:
    """Lines that fit, with the middle left out of paths that do not."""
    words = [shortened(word, _WIDTH - 4) for word in text.split()]
    return textwrap.wrap(
        " ".join(words),
        _WIDTH,
        initial_indent=indent,
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def unread_lines(names: Sequence[str], unread: dict[str, frozenset[int]]) -> tuple[str, ...]:
    """What could not be read, for people."""
    return tuple(
        f"{text}, which takes {some([names[leaf] or 'params' for leaf in sorted(leaves)])}"
        if leaves
        else text
        for text, leaves in unread.items()
    )


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return list(map(_plain, value)) if isinstance(value, tuple) else value


def _number(value: float) -> str:
    if math.isnan(value):
        return ""
    if value == 0 or 1e-3 <= abs(value) < 9999.5:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")


def _fixed(value: float, digits: int) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:.0e}".replace("e+0", "e")


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.0%}"


def short_names(layers: Sequence[Layer]) -> list[str]:
    """The layers' names without the directories that all share, nor what most of them end with."""
    names = [layer.name for layer in layers]
    if len(names) < 2:
        return names
    parts = [re.split(r"(?=\[| \(use)", name, maxsplit=1)[0].split("/") for name in names]
    shared = 0
    while all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    ends = collections.Counter(part[-1] for part in parts if len(part) > shared + 1)
    usual = {end for end, count in ends.items() if 2 * count > len(names)}

    def short(drop: set[str]) -> list[str]:
        kept = [
            part[shared:-1] if len(part) > shared + 1 and part[-1] in drop else part[shared:]
            for part in parts
        ]
        return [
            "/".join(some) + name[len("/".join(part)) :]
            for name, part, some in zip(names, parts, kept, strict=True)
        ]

    shortest = short(usual)
    return shortest if len(set(shortest)) == len(set(names)) else short(set())


def shortened(text: str, width: int) -> str:
    """The text, with its middle left out if it is too long."""
    if len(text) <= width:
        return text
    front = max(1, (width - 1) // 3)
    return f"{text[:front]}~{text[len(text) - (width - front - 1) :]}"
