"""The audit of a model's initialization, and its repair.

`audit` says what is wrong, `fix` repairs it; what they give is a `Report` of `Layer`, `Network` and
`Finding`, and a `Repair` of `Change`. All else is in private packages, in the order of the work:
`_reading` (the program), `_measuring`, `_judging`, `_reporting` and `_repairing`.
"""

from initjax.auditing._audit import audit, auditor
from initjax.auditing._fix import fix
from initjax.auditing._judging.findings import Finding
from initjax.auditing._judging.layers import Layer
from initjax.auditing._judging.network import Network
from initjax.auditing._repairing.repair import Change, Repair
from initjax.auditing._reporting.report import Report

__all__ = ["Change", "Finding", "Layer", "Network", "Repair", "Report", "audit", "auditor", "fix"]
