"""Checks of how signals and gradients go through the layers.

Thresholds follow from theory where it applies: a part of dead units is a fault if it is more than a
rectifier has on a batch of this correlation and size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from initjax.auditing._activations import recommended
from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding, finding, names_of
from initjax.auditing._judging.graph import Chain
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._judging.names import some

_RATIO, _BAD_RATIO = 1e3, 1e6  # of squared norms of gradients between the ends of a chain
_GROWTH, _BAD_GROWTH = 30.0, 1e3  # of the mean square along a residual stream
_LARGE_SIGNAL = 1e3  # root mean square
_LOGITS, _BAD_LOGITS = 3.0, 10.0  # root mean square
_DEAD, _BAD_DEAD = 0.1, 0.5  # above what is expected
_SATURATED, _BAD_SATURATED = 0.25, 0.5  # above that of unit normal inputs
_ALIKE = 0.999  # correlation of two examples
_STEP = 0.5  # of the weights' standard deviation
_SHALLOW = 8  # layers: depth is no problem in fewer
_REACH = 6  # correlation depths through which a chain can be trained


def branch_scale(evidence: Evidence) -> list[Finding]:
    """Residual streams that grow because each branch adds at full scale."""
    ends = [layer for layer in evidence.layers if layer.role == "branch end"]
    readers = [layer for layer in evidence.layers if layer.unpredicted == "sum"]
    if len(ends) < 3 or len(readers) < 2:
        return []
    squares = [layer.input_square for layer in readers]
    growth = squares[-1] / squares[0] if squares[0] > 0 else math.nan
    if not growth > _GROWTH:
        return []
    message = (
        f"{len(ends)} residual branches make the signal's mean square {growth:.3g} times as large,"
        f" because {some(names_of(ends), 2)} add to it at full scale"
    )
    remedy = (
        "Divide the last kernel of every branch by the square root of the number of branches"
        " (residual_scaling), start it at zero (fixup), or add normalization"
    )
    level = "failure" if growth > _BAD_GROWTH else "warning"
    return finding(level, "branch_scale", ends, message, remedy)


def saturated(evidence: Evidence) -> list[Finding]:
    """Pre-activations where the activation is flat on both sides."""
    found = [
        layer
        for layer in evidence.layers
        if layer.saturating and layer.saturated - layer.predicted_saturated > _SATURATED
    ]
    if not found:
        return []
    worst = max(found, key=lambda layer: layer.saturated)
    bad = worst.saturated - worst.predicted_saturated > _BAD_SATURATED
    message = (
        f"In {some(names_of(found))}, {worst.saturated:.0%} of the pre-activations lie where"
        f" {worst.activation} is flat (at unit scale: {worst.predicted_saturated:.0%}); their root"
        f" mean square is {worst.rms:.3g}"
    )
    remedy = f"Draw the kernels with {recommended(worst.activation)}"
    return finding("failure" if bad else "warning", "saturated", found, message, remedy)


def vanishing(evidence: Evidence) -> list[Finding]:
    """Gradients that shrink along a chain, or that nothing lets through."""
    return [*_gradients(evidence, "vanishing"), *_blocked(evidence, "vanishing")]


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


def _blocked(evidence: Evidence, cause: Literal["vanishing", "dead"]) -> list[Finding]:
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


def dead(evidence: Evidence) -> list[Finding]:
    """Units that are flat on the whole batch, beyond what chance explains."""
    found = [layer for layer in evidence.layers if _excess(layer) > _DEAD]
    if not found:
        return _blocked(evidence, "dead")
    worst = max(found, key=_excess)
    expected = 0.0 if math.isnan(worst.predicted_dead) else worst.predicted_dead
    message = (
        f"In {some(names_of(found))}, {worst.dead:.0%} of the units are flat on all {worst.samples}"
        f" samples; with biases of zero, {expected:.0%} are expected"
    )
    if worst.bias_variance > worst.rms**2 / 2:
        message += "; the bias outweighs the input"
        remedy = "Start the biases at zero"
    else:
        remedy = f"Draw the kernels with {recommended(worst.activation)} and start the biases at"
        remedy += " zero"
    level = "failure" if _excess(worst) > _BAD_DEAD else "warning"
    return [*finding(level, "dead", found, message, remedy), *_blocked(evidence, "dead")]


def _excess(layer: JudgedLayer) -> float:
    """By how much the part of dead units exceeds what chance explains in a layer this narrow."""
    expected = 0.0 if math.isnan(layer.predicted_dead) else layer.predicted_dead
    chance = math.sqrt(max(expected, 0.05) * (1 - expected) / max(1, layer.units))
    return 0.0 if math.isnan(layer.dead) else layer.dead - expected - 3 * chance


def collapse(evidence: Evidence) -> list[Finding]:
    """Layers to which all examples look alike."""
    found = [
        layer
        for layer in evidence.layers
        if layer.correlation > _ALIKE and layer.activation and layer.source is not None
    ]
    if not found:
        return []
    message = (
        f"In {some(names_of(found))}, the pre-activations of two examples have a correlation of"
        f" {found[-1].correlation:.5f}; the network can hardly tell its inputs apart"
    )
    remedy = f"Use fewer layers, or draw the kernels with {recommended(found[0].activation)}"
    return finding("warning", "collapse", found, message, remedy)


def depth(evidence: Evidence) -> list[Finding]:
    """Chains that are too long for their signal, by theory."""
    layers, reach = evidence.network.depth, _REACH * evidence.network.correlation_depth
    if layers < _SHALLOW or not layers > reach:
        return []
    chain = evidence.chains[0]
    message = (
        f"{layers} layers are more than {_REACH} times the correlation depth of"
        f" {evidence.network.correlation_depth:.3g}: about {reach:.3g} can be trained"
    )
    drawn = recommended(chain[len(chain) // 2].activation, len(chain))
    remedy = f"Use fewer layers, or draw the kernels with {drawn}"
    return finding("warning", "depth", chain, message, remedy)


def output_scale(evidence: Evidence) -> list[Finding]:
    """Logits that are sure of wrong answers."""
    found = [layer for layer in evidence.layers if layer.logits and layer.rms > _LOGITS]
    if not found:
        return []
    layer = found[-1]
    message = (
        f"The logits of {layer.name} have root mean square {layer.rms:.3g}; the loss is"
        f" {evidence.network.loss:.4g}, and guessing would give"
        f" {evidence.network.expected_loss:.4g}"
    )
    remedy = f"Divide the last kernel by {max(2.0, layer.rms):.2g}, or start it at zero"
    level = "failure" if layer.rms > _BAD_LOGITS else "warning"
    return finding(level, "output_scale", found, message, remedy)


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
