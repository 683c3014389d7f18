"""The texts of an audit: verdict, findings and remarks."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterable, Sequence

from initjax._wrapping import code_lines, wrapped
from initjax.auditing._judging.causes import CAUSES
from initjax.auditing._judging.findings import Finding
from initjax.auditing._judging.layers import Layer
from initjax.auditing._judging.names import some
from initjax.auditing._judging.network import Network
from initjax.auditing._reporting.glossary import REASONS
from initjax.auditing._reporting.naming import short_names
from initjax.auditing._reporting.table import compact

WIDTH, LEAST_WIDTH = 80, 40  # columns of a terminal
_MOST_NAMED = 3  # layers in the first line
MOST_TO_DO = 3  # findings that stand above the table
HEALTHY = "ok: nothing is wrong"
_NOTHING_LEARNED = frozenset(["not_finite", "zero", "symmetry", "constant_output"])
_ABOUT_THE_AUDIT = frozenset(["no_layers", "batch"])
# What one name stands for in the meaning of a cause.
_SUBJECT = re.compile(r"\ba (layer|kernel or a scale|kernel|parameter)\b")


# Findings


def verdict(findings: Sequence[Finding], layers: Sequence[Layer]) -> str:
    """The first line of a report: whether the network will train, and what is worst."""
    if not findings:
        return f"Nothing is wrong: no fault was found in {counted(len(layers), 'layer')}."
    worst = findings[0]
    if worst.cause in _ABOUT_THE_AUDIT:
        start = "This audit can't say much"
    elif worst.level == "warning":
        start = "This network may train badly"
    else:
        start = f"This network won't train{' well' * (worst.cause not in _NOTHING_LEARNED)}"
    shorter = dict(zip((layer.name for layer in layers), short_names(layers), strict=True))
    things = "layers" if shorter.keys() >= set(worst.layers) else "places"
    names = [shorter.get(name, name) for name in worst.layers]
    if not all(any(map(str.isalpha, name)) for name in names):
        names = list(worst.layers)
    return f"{start}: {_what(worst.cause, names, things)}."


def _what(cause: str, names: Sequence[str], things: str) -> str:
    """What is wrong, and where, without numbers; `things` is what names are many of."""
    meaning = CAUSES[cause].meaning
    if len(names) == 1 and _SUBJECT.search(meaning):
        return _SUBJECT.sub(lambda _: f"`{names[0]}`", meaning, count=1)
    if not names:
        return meaning
    where = some(names) if len(names) <= _MOST_NAMED else f"{len(names)} {things}"
    return f"{meaning} ({where})"


def title(network: Network, findings: Sequence[Finding], layers: int) -> str:
    """How many findings and layers there are, and the loss."""
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


def finding_lines(findings: Iterable[Finding], width: int = WIDTH, first: int = 0) -> list[str]:
    """Findings for a terminal: what was measured, what to do, and a line of code for it.

    Args:
      findings: what is wrong.
      width: columns of the terminal.
      first: the number of the first finding; with 0 they have none.
    """
    lines: list[str] = []
    for place, finding in enumerate(findings, first):
        number = f"{place}. " * bool(first)
        indent = " " * (len(number) or 4)
        start = f"{number}{finding.level}, {finding.cause}: "
        lines += wrapped(f"{start}{finding.message}", width, rest=indent)
        lines += wrapped(finding.remedy, width, indent, indent)
        lines += code_lines(finding.code, width, indent + "  ")
    return lines


def remarks(network: Network, layers: Sequence[Layer], unread: Sequence[str]) -> list[str]:
    """What is said below the table."""
    found, parts = [], []
    if network.depth > 1 and not math.isnan(network.correlation_depth):
        reach = 6 * network.correlation_depth
        limit = "any number" if math.isinf(reach) or reach > 1e5 else f"{reach:.3g}"
        parts.append(f"longest chain: {network.depth} layers (trainable in theory: {limit})")
    if network.jacobian > 0:
        parts.append(
            f"Jacobian: mean squared singular value {compact(network.jacobian)}, condition number"
            f" {compact(network.jacobian_condition)}"
        )
    if parts:
        found.append("; ".join(parts))
    reasons = collections.Counter(
        layer.unpredicted for layer in layers if layer.unpredicted not in ("", "batch")
    )
    if reasons:
        counts = ", ".join(
            f"{REASONS.get(code, code)} ({count})" for code, count in reasons.items()
        )
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


def causes_table() -> str:
    """The table of causes in Markdown, as the README has it."""
    lines = ["| cause | meaning | explained in |", "|---|---|---|"]
    lines += [f"| `{row.name}` | {row.meaning} | {row.explained} |" for row in CAUSES.values()]
    return "\n".join(lines)
