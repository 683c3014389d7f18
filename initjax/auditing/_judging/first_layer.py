"""First layers of sines: whether the input turns them far enough to have frequencies at all."""

from __future__ import annotations

import math

from initjax.auditing._activations import frequency
from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding, finding
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._reading.expressions import Expression

# Radians, as standard deviation over the batch. Fourier features of an image, sine and cosine, with
# 0.12 end at 2000 times the loss of those with 2.4. Behind a sine as activation, later layers bend
# the signal, too, and usual kernels turn it by 0.08 and more.
_LINEAR_FEATURES, _LINEAR = 0.2, 0.05
_FAST = 10.0  # radians for a unit: who multiplies by so much wants high frequencies
_SLOWER = 3.0  # times less than SIREN's law gives
_HIDDEN = 4.0  # gain in radians; in a hidden layer of SIREN it is 2


def first_layer(evidence: Evidence) -> list[Finding]:
    """Sines and cosines of the input that hardly turn, so that they are linear or slow.

    Sines that turn too far can't be told from those of an input with fine details.
    """
    for layer in evidence.layers:
        waves = _frequencies(layer)
        if not (layer.feature_means.size and waves and layer.samples > 1):
            continue
        radians = max(waves)
        turned = radians * layer.unit_stddev
        if turned < (_LINEAR_FEATURES if len(waves) > 1 else _LINEAR):
            message = (
                f"Over the batch, the sines of {layer.name} turn by only {turned:.2g} radians"
                " (standard deviation), so they are nearly linear functions of the input"
            )
            remedy = f"Draw the kernel {1 / max(turned, 1e-6):.2g} times as large"
            return finding("warning", "first_layer", [layer], message, remedy)
        omega = radians * abs(layer.site.scale)
        meant = omega * math.sqrt(float(layer.feature_variances.sum()) / 3) / layer.fan_in
        hidden = radians**2 * layer.weight_variance < _HIDDEN
        if omega >= _FAST and hidden and turned * _SLOWER < meant:
            message = (
                f"The first layer, {layer.name}, is drawn like a hidden layer of SIREN: over the"
                f" batch, its sines turn by {turned:.2g} radians (standard deviation) instead of"
                f" {meant:.2g}, so the network starts without high frequencies"
            )
            given = "" if abs(omega - 30) < 0.01 else f"omega={omega:.4g}, "
            remedy = f"Draw the kernel with siren({given}first=True)"
            return finding("warning", "first_layer", [layer], message, remedy)
    return []


def _frequencies(layer: JudgedLayer) -> list[float]:
    """The radians by which each sine or cosine of a layer's output turns for a unit of it."""
    ends = {layer.expression, *layer.site.mixed, *layer.site.reduced}
    found = [frequency(end) for end in ends if isinstance(end, Expression)]
    return [radians for radians in found if radians > 0]
