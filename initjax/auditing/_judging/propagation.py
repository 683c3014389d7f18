"""Checks of how gradients go through the layers, and of the last and first steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from initjax.auditing._activations import recommended
from initjax.auditing._judging.blocked import blocked
from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding, finding, names_of
from initjax.auditing._judging.graph import Chain
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._judging.names import some

_RATIO, _BAD_RATIO = 1e3, 1e6  # of squared norms of gradients between the ends of a chain
_LARGE_SIGNAL = 1e3  # root mean square
_STEP = 0.5  # of the weights' standard deviation


def vanishing(evidence: Evidence) -> list[Finding]:
    """Gradients that shrink along a chain, or that nothing lets through."""
    return [*_gradients(evidence, "vanishing"), *blocked(evidence, "vanishing")]


def exploding(evidence: Evidence) -> list[Finding]:
    """Gradients that grow along a chain, or signals that are too large already."""
    return [*_gradients(evidence, "exploding"), *_large_signals(evidence)]


def _gradients(evidence: Evidence, cause: Literal["vanishing", "exploding"]) -> list[Finding]:
    """The change of the gradient between the ends of the chain where it is largest."""
    worst: tuple[float, Chain] = (0.0, ())
    outputs = names_of(evidence.readouts)
    for chain in (_without_small_end(chain, outputs) for chain in evidence.chains):
        growth = chain[0].log_gradient - chain[-1].log_gradient
        if not math.isfinite(growth):  # behind a kernel of zeros there is nothing to measure
            ratios = [layer.predicted_gradient_ratio for layer in chain[:-1]]
            growth = sum(math.log(ratio) if ratio > 0 else math.nan for ratio in ratios)
        if len(chain) > 1 and abs(growth) > abs(worst[0]):
            worst = growth, chain
    growth, chain = worst
    limit = math.log(_RATIO)
    if not chain:
        chain = tuple(layer for layer in evidence.layers if math.isfinite(layer.log_gradient))
        if len(chain) < 3:
            return []
        growth = chain[0].log_gradient - chain[-1].log_gradient
        limit = math.log(_BAD_RATIO)
    if abs(growth) < limit or cause != ("vanishing" if growth < 0 else "exploding"):
        return []
    level = "failure" if abs(growth) > math.log(_BAD_RATIO) else "warning"
    steps = len(chain) - 1
    layers = "layer" if steps == 1 else "layers"
    each = math.exp(max(-700.0, growth / steps))
    hidden = [layer for layer in chain if layer.activation] or chain
    gain = float(np.median([layer.weight_variance for layer in hidden]))
    middle = hidden[len(hidden) // 2]
    predicted = middle.predicted_gradient_ratio
    expected = f" (theory: {predicted:.3g}x)" if math.isfinite(predicted) else ""
    message = (
        f"From {chain[-1].name} back to {chain[0].name}, the gradient's squared norm"
        f" {'shrinks' if growth < 0 else 'grows'} by a factor of {_factor(growth)} in {steps}"
        f" {layers}, {each:.3g}x per layer{expected}; the median gain is {gain:.3g}"
    )
    if middle.activation:
        message += f" before {middle.activation}"
    remedy = f"Draw the kernels with {recommended(middle.activation, len(chain))}"
    if len(chain) > 30:
        remedy += ", or add normalization or residual connections"
    return finding(level, cause, chain, message, remedy)


def _without_small_end(chain: Chain, outputs: Sequence[str]) -> Chain:
    """A chain without its last layer, if that is an output or a gate that is small on purpose, as a
    readout of zeros is, or the head of a policy."""
    *hidden, last = chain
    output = last.role == "last" or last.name in outputs
    if not (last.site.gates or (output and len(hidden) > 1)):
        return chain
    return tuple(hidden) if _small(last, hidden) else chain


def _small(end: JudgedLayer, others: Sequence[JudgedLayer]) -> bool:
    typical = float(np.median([layer.weight_variance for layer in others]))
    return end.weight_variance < 0.05 * typical


def _factor(log: float) -> str:
    """A factor given by its logarithm, which may be too large for a float."""
    size = abs(log)
    return f"{math.exp(size):.3g}" if size < 600 else f"10^{size / math.log(10):.0f}"


def _large_signals(evidence: Evidence) -> list[Finding]:
    large = [
        layer for layer in evidence.layers if layer.rms > _LARGE_SIGNAL and layer.role != "last"
    ]
    if not large:
        return []
    message = f"The pre-activations of {some(names_of(large))} have root mean square"
    message += f" {large[-1].rms:.3g}"
    remedy = f"Draw the kernels with {recommended(large[0].activation)}"
    return finding("failure", "exploding", large, message, remedy)


def update(evidence: Evidence) -> list[Finding]:
    """First steps as large as the weights, which readouts that are small on purpose may take."""
    ends = set(names_of(evidence.readouts))
    hidden = [layer for layer in evidence.layers if layer.name not in ends]
    found = [
        layer
        for layer in evidence.layers
        if layer.update_ratio > _STEP
        and not (layer.name in ends and hidden and _small(layer, hidden))
    ]
    if not found:
        return []
    worst = max(found, key=lambda layer: layer.update_ratio)
    message = (
        f"The optimizer's first step at {some(names_of(found))} is {worst.update_ratio:.2g} times"
        " the weights' standard deviation"
    )
    remedy = "Lower the learning rate, or draw the weights at a larger scale"
    return finding("warning", "update", found, message, remedy)
