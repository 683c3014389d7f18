"""The audit of a model's initialization, and its repair.

`audit` finds problems, and `auditor` finds them again and again during training; both return a
`Report`, with a `Layer` for every layer, a `Network` and a `Finding` for every problem. `fix`
repairs a model, and returns a `Repair` with a `Change` for every parameter that was changed.

The work is done in private packages, in this order: `_reading` (the program), `_measuring`,
`_judging`, `_reporting`, `_repairing`.
"""

from initjax.auditing._audit import audit, auditor
from initjax.auditing._fix import fix
from initjax.auditing._judging.attention import Attention
from initjax.auditing._judging.findings import Finding
from initjax.auditing._judging.layers import Layer
from initjax.auditing._judging.names import Parameter
from initjax.auditing._judging.network import Network
from initjax.auditing._repairing.repair import Change, Repair
from initjax.auditing._reporting.report import Report

__all__ = [
    "Attention",
    "Change",
    "Finding",
    "Layer",
    "Network",
    "Parameter",
    "Repair",
    "Report",
    "audit",
    "auditor",
    "fix",
]
