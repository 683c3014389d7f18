"""The texts of an audit: title, findings, table and remarks, for a console and for a notebook."""

from __future__ import annotations

import collections
import html
import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from initjax.auditing._judging.causes import CAUSES
from initjax.auditing._judging.findings import Finding
from initjax.auditing._judging.layers import Layer
from initjax.auditing._judging.names import some, suffix
from initjax.auditing._judging.network import Network
from initjax.auditing._reading.reasons import Reason

WIDTH = 100  # of the table
_TEXT_WIDTH = 80
_MOST_ROWS = 40
_MARKS = {"ok": " ", "warning": "!", "failure": "x"}
_COLORS = {"ok": "#00724f", "warning": "#8a5a00", "failure": "#b3261e"}
_CAPTION_WIDTH, _MOST_IN_CAPTION = 165, 4
_HEALTHY = "ok: nothing is wrong"
_REASONS: dict[Reason | str, str] = {
    "batch": "the batch",
    "embedding": "an embedding",
    "loop": "a loop",
    "shared loop": "a loop that shares its weights",
    "all turns": "all turns of a loop",
    "sum": "a sum of layers",
    "product": "a product of layers",
    "attention": "attention or another product of activations",
    "normalization": "normalization",
    "centering": "centering",
    "mask": "dropout or a mask",
    "pooling": "pooling",
    "reduction": "a sum or mean",
    "join": "layers joined or padded",
    "branch": "a choice of branches",
    "choice": "a choice by data",
    "array": "an array",
    "data": "data",
    "parameter": "a parameter",
    "parametric": "an activation with parameters",
    "layers": "several layers",
    "units": "several units of a layer",
    "long": "a long expression",
}


def reason(unpredicted: Reason | str) -> str:
    """Why predictions restart at a layer, as a text."""
    return _REASONS.get(unpredicted, unpredicted)


# Findings


class _Sentences(NamedTuple):
    """A finding in three parts."""

    what: str
    message: str
    remedy: str


def _sentences(finding: Finding) -> _Sentences:
    return _Sentences(f"{finding.level}, {finding.cause}", finding.message, finding.remedy)


def title(network: Network, findings: Sequence[Finding], layers: int) -> str:
    """The first line of a report."""
    loss = f"loss {network.loss:.4g}"
    if not math.isnan(network.expected_loss):
        loss += f" (guessing: {network.expected_loss:.4g})"
    levels = collections.Counter(finding.level for finding in findings)
    counts = [_counted(levels[level], level) for level in ("failure", "warning") if levels[level]]
    return f"initjax audit: {', '.join(counts) or 'ok'}. {_counted(layers, 'layer')}, {loss}"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    """Findings for a console."""
    lines = [] if findings else [_HEALTHY]
    for finding in findings:
        what, message, remedy = _sentences(finding)
        lines += _wrapped(f"{what}: {message}", "") + _wrapped(remedy, "    ")
    return lines


def caption(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """Findings for a figure: lines, each with its level."""
    if not findings:
        return [("ok", _HEALTHY)]
    lines: list[tuple[str, str]] = []
    for finding in findings[:_MOST_IN_CAPTION]:
        what, message, remedy = _sentences(finding)
        paragraph = textwrap.wrap(
            f"{what}: {message} {remedy}",
            _CAPTION_WIDTH,
            subsequent_indent="    ",
            break_on_hyphens=False,
        )
        lines += [(finding.level, line) for line in paragraph]
    more = len(findings) - _MOST_IN_CAPTION
    if more > 0:
        lines.append(("ok", f"and {more} more, which print(report) shows"))
    return lines


def _wrapped(text: str, indent: str) -> list[str]:
    """Lines that fit, with the middle left out of paths that do not."""
    words = [shortened(word, _TEXT_WIDTH - 4) for word in text.split()]
    return textwrap.wrap(
        " ".join(words),
        _TEXT_WIDTH,
        initial_indent=indent,
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


# The table of layers


def cells(layers: Sequence[Layer]) -> tuple[list[str], list[list[str]]]:
    """The header and, for every layer, a row of texts."""
    steps = any(not math.isnan(layer.update_ratio) for layer in layers)
    flat = any(layer.saturating for layer in layers)
    header = ["layer", "then", "gain", "rms", "theory", "z", "spread", "corr"]
    header += ["flat" if flat else "dead", "step" if steps else "gradient", "ratio", "chi_1"]
    rows = [
        [
            name + (f" x{layer.uses}" if layer.uses > 1 else ""),
            _then(layer),
            _number(layer.weight_variance),
            _number(layer.rms),
            "" if layer.unpredicted else _number(layer.predicted_rms),
            "" if layer.unpredicted else _fixed(layer.rms_z, 1),
            _number(layer.unit_stddev),
            _fixed(layer.correlation, 2),
            _percent(layer.saturated if layer.saturating else layer.dead),
            _number(layer.update_ratio if steps else layer.gradient),
            _number(layer.gradient_ratio),
            _number(layer.predicted_gradient_ratio),
        ]
        for layer, name in zip(layers, short_names(layers), strict=True)
    ]
    return header, rows


def _then(layer: Layer) -> str:
    if not layer.samples:
        return "not run"
    if layer.role == "last":
        return layer.activation or ("logits" if layer.logits else "")
    return layer.activation or layer.role


def table(layers: Sequence[Layer], levels: Sequence[str]) -> list[str]:
    """The lines of the table, with marks at layers at fault; the middle of a long one left out."""
    if not layers:
        return []
    header, rows = cells(layers)
    shown = _shown(levels)
    widths = [
        max(len(header[column]), *(len(rows[number][column]) for number in shown))
        for column in range(len(header))
    ]
    free = WIDTH - 2 - sum(widths[2:]) - (len(widths) - 1)
    widths[1] = min(widths[1], max(len("then"), min(12, free - 12)))
    widths[0] = min(widths[0], free - widths[1])

    def line(mark: str, row: Sequence[str]) -> str:
        texts = [
            shortened(cell, width).ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"{mark} {' '.join(texts)}".rstrip()

    lines, before = [line(" ", header)], -1
    for number in shown:
        if number > before + 1:
            lines.append(f"  ... {number - before - 1} more layers ...")
        lines.append(line(_MARKS[levels[number]], rows[number]))
        before = number
    return lines


def _shown(levels: Sequence[str]) -> list[int]:
    """The layers that a table shows: the first, the last, and the first failures."""
    count = len(levels)
    if count <= _MOST_ROWS:
        return list(range(count))
    third = _MOST_ROWS // 3
    failures = [number for number, level in enumerate(levels) if level == "failure"][:third]
    return sorted({*range(third), *failures, *range(count - third, count)})


def remarks(network: Network, layers: Sequence[Layer], unread: Sequence[str]) -> list[str]:
    """What is below the table, after an empty line."""
    lines, parts = [], []
    if network.jacobian > 0:
        parts.append(
            f"Jacobian from first to last layer: mean squared singular value"
            f" {_number(network.jacobian)}, condition number in four random directions"
            f" {_number(network.jacobian_condition)}"
        )
    if network.depth > 1 and not math.isnan(network.correlation_depth):
        reach = 6 * network.correlation_depth
        limit = "any number" if math.isinf(reach) or reach > 1e5 else f"{reach:.3g}"
        parts.append(f"longest chain: {network.depth} layers; trainable in theory: {limit}")
    lines += textwrap.wrap("; ".join(parts), _TEXT_WIDTH)
    reasons = collections.Counter(
        layer.unpredicted for layer in layers if layer.unpredicted not in ("", "batch")
    )
    if reasons:
        counts = ", ".join(f"{reason(code)} ({count})" for code, count in reasons.items())
        restarts = f"predictions restart from the measured input after: {counts}"
        lines += textwrap.wrap(restarts, _TEXT_WIDTH)
    if unread:
        lines += textwrap.wrap(f"not read: {'; '.join(unread)}", _TEXT_WIDTH)
    return ["", *lines] if lines else []


def unread_lines(names: Sequence[str], unread: dict[str, frozenset[int]]) -> tuple[str, ...]:
    """What could not be read, with the names of the parameters that enter there."""
    return tuple(
        f"{text}, which takes {some([names[leaf] for leaf in sorted(leaves)])}" if leaves else text
        for text, leaves in unread.items()
    )


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


# Names


def short_names(layers: Sequence[Layer]) -> list[str]:
    """The layers' names without the folders that all share, and without the usual ending."""
    names = [layer.name for layer in layers]
    if len(names) < 2:
        return names
    ends = [suffix(layer.parameters) for layer in layers]
    paths = [name.removesuffix(end) for name, end in zip(names, ends, strict=True)]
    parts = [path.split("/") for path in paths]
    shared = 0
    while all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    last = collections.Counter(part[-1] for part in parts if len(part) > shared + 1)
    usual = {end for end, count in last.items() if 2 * count > len(names)}

    def short(dropped: set[str]) -> list[str]:
        kept = [
            part[shared:-1] if len(part) > shared + 1 and part[-1] in dropped else part[shared:]
            for part in parts
        ]
        return ["/".join(part) + end for part, end in zip(kept, ends, strict=True)]

    shortest = short(usual)
    return shortest if len(set(shortest)) == len(set(names)) else short(set())


def shortened(text: str, width: int) -> str:
    """The text, with its middle left out if it is too long."""
    if len(text) <= width:
        return text
    front = max(1, (width - 1) // 3)
    return f"{text[:front]}~{text[len(text) - (width - front - 1) :]}"


# Other formats


def page(
    title: str,
    verdict: str,
    findings: Sequence[Finding],
    layers: Sequence[Layer],
    remarks: Sequence[str],
) -> str:
    """A report for a notebook, in HTML."""
    parts = [f'<p style="color:{_COLORS[verdict]}"><b>{html.escape(title)}</b></p>']
    if findings:
        items = [map(html.escape, _sentences(finding)) for finding in findings]
        listed = (
            f"<li><b>{what}</b>: {message} <i>{remedy}</i></li>" for what, message, remedy in items
        )
        parts.append(f"<ul>{''.join(listed)}</ul>")
    if layers:
        header, rows = cells(layers)
        body = "".join(f"<tr>{_html_cells('td', row)}</tr>" for row in rows)
        head = f"<thead><tr>{_html_cells('th', header)}</tr></thead>"
        parts.append(f"<table>{head}<tbody>{body}</tbody></table>")
    parts += [f"<p>{html.escape(line)}</p>" for line in remarks if line]
    return "".join(parts)


def _html_cells(tag: str, row: Sequence[str]) -> str:
    return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)


def causes_table() -> str:
    """The table of causes in Markdown, as the README has it."""
    lines = ["| cause | meaning | explained in |", "|---|---|---|"]
    lines += [f"| `{row.name}` | {row.meaning} | {row.explained} |" for row in CAUSES.values()]
    return "\n".join(lines)
