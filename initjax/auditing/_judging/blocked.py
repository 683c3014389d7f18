"""Where nothing lets a gradient through."""

from __future__ import annotations

import math
from typing import Literal

from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding, finding, names_of
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._judging.names import some


def blocked(evidence: Evidence, cause: Literal["vanishing", "dead"]) -> list[Finding]:
    """A gradient of exactly zero without a kernel of zeros: dead, if units are.

    Where only a branch or one of several inputs is shut, by a factor that starts at zero, others
    learn.
    """
    layers = evidence.layers
    measured = [layer for layer in layers if not math.isnan(layer.log_gradient)]
    silent = [layer for layer in measured if _silent(layer)]
    if not silent or len(silent) == len(measured):
        return []
    entering = [
        layer for layer in measured if layer.kind == "embedding" or layer.unpredicted == "batch"
    ]
    if not entering or not all(map(_silent, entering)):
        return []
    if any(layer.weight_square == 0 for layer in layers):
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


def _silent(layer: JudgedLayer) -> bool:
    """Whether its gradient is zero; in a loop, turns past a sequence's end may have none."""
    return layer.log_gradient == -math.inf and layer.uses == 1
