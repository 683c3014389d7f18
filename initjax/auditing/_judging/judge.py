"""From measurements and predictions to findings: what is wrong, why, and what helps.

Where one cause has several consequences, the cause is told and the consequences are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from initjax.auditing._judging import propagation, weights
from initjax.auditing._judging.findings import CAUSES, Finding
from initjax.auditing._judging.graph import ends
from initjax.auditing._judging.layers import Layer
from initjax.auditing._judging.network import Network
from initjax.auditing._measuring.passes import Measurements
from initjax.auditing._reading.trace import Traced

# A cause hides what follows from it.
_HIDES = {
    "zero": {"symmetry", "vanishing", "dead", "depth", "collapse", "update"},
    "symmetry": {"vanishing", "exploding", "dead", "depth", "collapse", "duplicate", "saturated"},
    "input_scale": {
        "saturated",
        "vanishing",
        "exploding",
        "output_scale",
        "dead",
        "collapse",
        "branch_scale",
    },
    "not_centred": {
        "wrong_fan",
        "branch_scale",
        "saturated",
        "vanishing",
        "exploding",
        "dead",
        "collapse",
        "depth",
        "output_scale",
        "update",
    },
    "wrong_fan": {"vanishing", "exploding", "depth", "saturated", "output_scale"},
    "branch_scale": {"exploding", "vanishing", "output_scale", "saturated"},
    "exploding": {"depth", "output_scale", "saturated", "update"},
    "vanishing": {"depth", "collapse", "update"},
    "saturated": {"vanishing", "depth", "exploding"},
    "dead": {"vanishing", "depth", "collapse"},
    "collapse": {"depth"},
}
_CHECKS: tuple[Callable[[list[Layer], Network], list[Finding]], ...] = (
    weights.batch,
    weights.symmetry,
    weights.input_scale,
    weights.not_centred,
    weights.wrong_fan,
    propagation.branch_scale,
    propagation.gradients,
    propagation.forward,
    propagation.saturated,
    propagation.dead,
    propagation.blocked,
    propagation.collapse,
    propagation.depth,
    propagation.output_scale,
)


def judge(
    traced: Traced,
    measured: Measurements,
    layers: Sequence[Layer],
    network: Network,
    nan: Sequence[str],
    infinite: Sequence[str],
    trainable: Sequence[bool],
) -> list[Finding]:
    """Judges an initialization.

    Args:
      traced: the program.
      measured: what was measured.
      layers: its layers.
      network: the whole network.
      nan: the parts of the batch with numbers that are NaN.
      infinite: those with infinite numbers.
      trainable: which parameters are to be trained.

    Returns:
      The findings, failures first, each kind in the order of `CAUSES`.
    """
    broken = weights.not_finite(traced, measured, layers, nan, infinite)
    if broken:
        return broken
    findings = [
        *weights.unused(traced, trainable),
        *(weights.without_layers(traced) if not layers else []),
    ]
    if layers:
        for check in _CHECKS:
            findings += check(list(layers), network)
        readouts = ends(layers, traced.anatomy.sites)
        findings += weights.zero(list(layers), readouts, traced)
        findings += propagation.update(list(layers), readouts)
        findings += weights.duplicates(traced, measured, list(layers))
    order = {cause: number for number, cause in enumerate(CAUSES)}
    told: dict[str, Finding] = {}  # what gradients and signals both show is told once
    # Causes come before their consequences, and only what is told hides another.
    for finding in sorted(findings, key=lambda finding: order[finding.cause]):
        hidden = any(
            finding.cause in _HIDES.get(other.cause, ())
            # A warning is no excuse for a failure.
            and (other.level == "failure" or finding.level == "warning")
            for other in told.values()
        )
        known = told.get(finding.cause)
        if not hidden and (known is None or known.level == "warning"):
            told[finding.cause] = finding
    return sorted(told.values(), key=lambda finding: finding.level != "failure")
