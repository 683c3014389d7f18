"""Where nothing lets a gradient through."""

from __future__ import annotations

import math
from typing import Literal

from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding, finding, names_of
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._judging.names import Parameter, label, some


def blocked(evidence: Evidence, cause: Literal["vanishing", "dead"]) -> list[Finding]:
    """A gradient of exactly zero without a kernel of zeros: dead, if units are.

    Where only a branch or one of several inputs is shut, by a factor that starts at zero, others
    learn.
    """
    layers = evidence.layers
    silent = [layer for layer in layers if _silent(layer)]
    if not _reaches_no_input(evidence) or _has_zeros(evidence) or _zero_factors(evidence):
        return []
    dead = [layer for layer in layers if layer.dead == 1]
    if cause != ("dead" if dead else "vanishing"):
        return []
    message = f"The gradient at {some(names_of(silent))} is exactly zero"
    remedy = "Look for a flat function between the layers, such as clipping or a step"
    if dead:
        message += f", because all units of {dead[0].name} are flat"
        remedy = "Redraw its kernel and biases"
    return finding("failure", cause, silent, message, remedy)


def zero_factors(evidence: Evidence) -> list[Finding]:
    """Scales of zeros, as of norms, that close the way and get no gradient that opens it.

    One that gets a gradient opens in the first step, as a gate at the end of a branch does.
    """
    if _has_zeros(evidence) or all(map(_silent, evidence.layers)):
        return []  # for another reason
    parameters = evidence.measured.parameters
    found = [zeros for zeros in _zero_factors(evidence) if not parameters[zeros.index]["learning"]]
    if not found:
        return []
    names = some([label([parameter]) for parameter in found])
    message = f"All numbers in {names} are zero and get no gradient, so what comes before stays"
    message += " multiplied by zero"
    bad = _reaches_no_input(evidence)
    if bad:
        silent = [layer for layer in evidence.layers if _silent(layer)]
        message += f", and no gradient reaches {some(names_of(silent))}"
    level = "failure" if bad else "warning"
    return finding(level, "zero", found, message, f"Start {names} at one")


def _zero_factors(evidence: Evidence) -> list[Parameter]:
    """Parameters of zeros that multiply what layers give."""
    return [
        evidence.parameter(leaf)
        for leaf in sorted(evidence.traced.anatomy.factors)
        if evidence.trainable[leaf] and evidence.measured.parameters[leaf].get("zero")
    ]


def _has_zeros(evidence: Evidence) -> bool:
    """Whether a kernel is zero, which stops gradients as well, perhaps on purpose."""
    return any(layer.weight_least == 0 for layer in evidence.layers)


def _reaches_no_input(evidence: Evidence) -> bool:
    """Whether some layers get a gradient, and none of those that the batch enters."""
    measured = [layer for layer in evidence.layers if not math.isnan(layer.log_gradient)]
    entering = [
        layer for layer in measured if layer.kind == "embedding" or layer.unpredicted == "batch"
    ]
    return bool(entering) and all(map(_silent, entering)) and not all(map(_silent, measured))


def _silent(layer: JudgedLayer) -> bool:
    """Whether its gradient is zero; in a loop, turns past a sequence's end may have none."""
    return layer.log_gradient == -math.inf and layer.uses == 1
