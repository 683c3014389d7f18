"""The texts of an audit: title, findings, table and remarks."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Sequence

from initjax.auditing._judging.causes import CAUSES
from initjax.auditing._judging.findings import Finding
from initjax.auditing._judging.layers import Layer
from initjax.auditing._judging.names import some, suffix
from initjax.auditing._judging.network import Network
from initjax.auditing._reading.reasons import Reason
from initjax.auditing._reporting.wrapping import aligned, columns, printable, shortened, wrapped

WIDTH, LEAST_WIDTH = 80, 40  # columns of a terminal
MARKS = {"ok": " ", "warning": "!", "failure": "x"}
_MOST_ROWS = 40
_LONGEST_NAME, _LONGEST_THEN = 18, 12  # for longer ones, no column is left out
# The columns of a table that are left out first where it is too wide.
_LEAST_NEEDED = (
    "spread", "z", "grad", "step", "theory", "chi_1", "then", "corr", "dead", "flat",
)  # fmt: skip
HEALTHY = "ok: nothing is wrong"
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


def title(network: Network, findings: Sequence[Finding], layers: int) -> str:
    """The first line of a report."""
    loss = f"loss {network.loss:.4g}"
    if not math.isnan(network.expected_loss):
        loss += f" (guessing: {network.expected_loss:.4g})"
    verdict = _counts(findings, "{count}")
    return f"initjax audit: {verdict}. {counted(layers, 'layer')}, {loss}"


def summary(network: Network, findings: Sequence[Finding], layers: int) -> str:
    """A report in a line."""
    verdict = _counts(findings, "{count} ({causes})")
    return f"{verdict}; {counted(layers, 'layer')}, loss {network.loss:.4g}"


def _counts(findings: Sequence[Finding], form: str) -> str:
    """How many failures and warnings there are; 'ok' if there are none."""
    levels: dict[str, list[str]] = {}
    for finding in findings:
        levels.setdefault(finding.level, []).append(finding.cause)
    parts = [
        form.format(count=counted(len(causes), level), causes=", ".join(dict.fromkeys(causes)))
        for level, causes in levels.items()
    ]
    return ", ".join(parts) or "ok"


def counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def finding_lines(findings: Iterable[Finding], width: int = WIDTH) -> list[str]:
    """Findings for a terminal."""
    lines: list[str] = []
    for finding in findings:
        lines += wrapped(f"{finding.level}, {finding.cause}: {finding.message}", width)
        lines += wrapped(finding.remedy, width, first="    ")
    return lines or [HEALTHY]


# The table of layers


def cells(layers: Sequence[Layer]) -> tuple[list[str], list[list[str]]]:
    """The header and, for every layer, a row of texts."""
    steps = any(not math.isnan(layer.update_ratio) for layer in layers)
    flat = any(layer.saturating for layer in layers)
    header = ["layer", "then", "gain", "rms", "theory", "z", "spread", "corr"]
    header += ["flat" if flat else "dead", "step" if steps else "grad", "ratio", "chi_1"]
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


def table(layers: Sequence[Layer], levels: Sequence[str], width: int) -> list[str]:
    """The lines of the table, with marks at layers at fault; the middle of a long one left out."""
    if not layers:
        return []
    header, rows = cells(layers)
    shown = _shown(levels)
    needed = {
        name: max(columns(row[place]) for row in (header, *(rows[number] for number in shown)))
        for place, name in enumerate(header)
    }
    least = {"layer": _LONGEST_NAME, "then": _LONGEST_THEN}
    widths = {name: min(size, least.get(name, size)) for name, size in needed.items()}
    all_columns = _total(widths)
    blank = [name for name, *column in zip(header, *rows, strict=True) if not any(column)]
    for name in (*blank, *_LEAST_NEEDED):
        if _total(widths) > width:
            widths.pop(name, None)
    room = max(0, width - _total(widths))
    widths["layer"] = min(needed["layer"], widths["layer"] + room)

    def line(mark: str, row: Sequence[str]) -> str:
        texts = [
            aligned(shortened(cell, widths[name]), widths[name], name not in ("layer", "then"))
            for name, cell in zip(header, row, strict=True)
            if name in widths
        ]
        return f"{mark} {' '.join(texts)}".rstrip()

    lines, before = [line(" ", header)], -1
    for number in shown:
        if number > before + 1:
            lines.append(f"  ... {number - before - 1} more layers ...")
        lines.append(line(MARKS[levels[number]], rows[number]))
        before = number
    hidden = ", ".join(name for name in header if name not in {*widths, *blank})
    if hidden:
        remark = f"not shown: {hidden}; a width of {all_columns} shows all columns"
        lines += wrapped(remark, width, "  ")
    return lines


def _total(widths: dict[str, int]) -> int:
    return 1 + sum(1 + width for width in widths.values())


def _shown(levels: Sequence[str]) -> list[int]:
    """The layers that a table shows: the first, the last, and the first failures."""
    count = len(levels)
    if count <= _MOST_ROWS:
        return list(range(count))
    third = _MOST_ROWS // 3
    failures = [number for number, level in enumerate(levels) if level == "failure"][:third]
    return sorted({*range(third), *failures, *range(count - third, count)})


def remarks(network: Network, layers: Sequence[Layer], unread: Sequence[str]) -> list[str]:
    """What is said below the table."""
    found, parts = [], []
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
    if parts:
        found.append("; ".join(parts))
    reasons = collections.Counter(
        layer.unpredicted for layer in layers if layer.unpredicted not in ("", "batch")
    )
    if reasons:
        counts = ", ".join(f"{reason(code)} ({count})" for code, count in reasons.items())
        found.append(f"predictions restart from the measured input after: {counts}")
    if unread:
        found.append(f"not read: {'; '.join(unread)}")
    return found


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
    names = [printable(layer.name) for layer in layers]
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


def causes_table() -> str:
    """The table of causes in Markdown, as the README has it."""
    lines = ["| cause | meaning | explained in |", "|---|---|---|"]
    lines += [f"| `{row.name}` | {row.meaning} | {row.explained} |" for row in CAUSES.values()]
    return "\n".join(lines)
