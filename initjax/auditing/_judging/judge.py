"""From evidence to findings: what is wrong, why, and what helps."""

from __future__ import annotations

from initjax.auditing._judging.causes import CAUSES
from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding


def judge(evidence: Evidence) -> list[Finding]:
    """Judges an initialization.

    Each cause is looked for once, in the order of `CAUSES`. If one cause explains another, only the
    first is reported; but a warning doesn't hide a failure.

    Args:
      evidence: what was measured and predicted.

    Returns:
      The findings, failures first, each kind in the order of `CAUSES`.
    """
    reported: list[Finding] = []
    for cause in CAUSES.values():
        hidden_by = {f.level for f in reported if CAUSES[f.cause].explains(cause.name)}
        if "failure" in hidden_by:
            continue
        found = sorted(cause.check(evidence), key=_failures_first)
        if found and not (hidden_by and found[0].level == "warning"):
            reported.append(found[0])
    return sorted(reported, key=_failures_first)


def _failures_first(finding: Finding) -> bool:
    return finding.level != "failure"
