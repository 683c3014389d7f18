"""What is wrong with how signals and gradients go through the layers.

Thresholds follow from theory where it reaches: a part of dead units is wrong if it is more than a
rectifier of this correlation has on a batch of this size.
"""

from __future__ import annotations

import math

import numpy as np

from initjax.auditing._judging.findings import Finding, finding, recommended, some
from initjax.auditing._judging.layers import Layer
from initjax.auditing._judging.network import Network, chains_of

_RATIO, _BAD_RATIO = 1e3, 1e6  # of squared norms of gradients between the ends of a chain
_GROWTH, _BAD_GROWTH = 30.0, 1e3  # of the mean square along a residual stream
_LOGITS, _BAD_LOGITS = 3.0, 10.0  # root mean square
_DEAD, _BAD_DEAD = 0.1, 0.5  # above what is expected
_SATURATED, _BAD_SATURATED = 0.25, 0.5  # above that of unit normal inputs
_ALIKE = 0.999  # correlation of two examples
_STEP = 0.5  # of the weights' standard deviation


def branch_scale(layers: list[Layer], network: Network) -> list[Finding]:
    ends = [layer for layer in layers if layer.role == "branch end"]
    readers = [layer for layer in layers if layer.unpredicted == "a sum of layers"]
    if len(ends) < 3 or len(readers) < 2:
        return []
    squares = [layer.input_square for layer in readers]
    growth = squares[-1] / squares[0] if squares[0] > 0 else math.nan
    if not growth > _GROWTH:
        return []
    message = (
        f"{len(ends)} residual branches make the signal's mean square grow {growth:.3g} times, as"
        f" {some([layer.name for layer in ends], 2)} add to it at full scale"
    )
    remedy = (
        "divide the last kernel of every branch by the square root of their number"
        " (residual_scaling), draw it as zeros (fixup), or normalise"
    )
    return finding(
        "failure" if growth > _BAD_GROWTH else "warning", "branch_scale", ends, message, remedy
    )


def gradients(layers: list[Layer], network: Network) -> list[Finding]:
    """Vanishing and exploding, by the gradient between the ends of chains."""
    worst: tuple[float, list[Layer]] = (0.0, [])
    for chain in chains_of(layers):
        chain = _without_small_end(chain)
        growth = chain[0].log_gradient - chain[-1].log_gradient
        if not math.isfinite(growth):  # behind a kernel of zeros there is nothing to measure
            ratios = [layer.predicted_gradient_ratio for layer in chain[:-1]]
            growth = sum(math.log(ratio) if ratio > 0 else math.nan for ratio in ratios)
        if len(chain) > 1 and abs(growth) > abs(worst[0]):
            worst = growth, chain
    growth, chain = worst
    limit = math.log(_RATIO)
    if not chain:
        spine = [layer for layer in layers if math.isfinite(layer.log_gradient)]
        if len(spine) < 3:
            return []
        growth = spine[0].log_gradient - spine[-1].log_gradient
        chain, limit = spine, math.log(_BAD_RATIO)
    if abs(growth) < limit:
        return []
    level = "failure" if abs(growth) > math.log(_BAD_RATIO) else "warning"
    steps = len(chain) - 1
    each = math.exp(max(-700.0, growth / steps))
    size = _power(growth)
    hidden = [layer for layer in chain if layer.activation] or chain
    gains = float(np.median([layer.weight_variance for layer in hidden]))
    middle = hidden[len(hidden) // 2]
    predicted = middle.predicted_gradient_ratio
    expected = f" (theory: {predicted:.3g})" if math.isfinite(predicted) else ""
    message = (
        f"from {chain[-1].name} down to {chain[0].name} the gradient's squared norm"
        f" {'shrinks' if growth < 0 else 'grows'} {size} times in {steps} layers, by {each:.3g} a"
        f" layer{expected}; median gain {gains:.3g}"
    )
    if middle.activation:
        message += f" before {middle.activation}"
    remedy = f"draw the kernels with {recommended(middle, len(chain))}"
    if len(chain) > 30:
        remedy += ", or add normalisation or residual connections"
    cause = "vanishing" if growth < 0 else "exploding"
    return finding(level, cause, chain, message, remedy)


def _without_small_end(chain: list[Layer]) -> list[Layer]:
    """A chain without its last layer, if that is small on purpose, as a readout of zeros is."""
    *hidden, last = chain
    if last.role != "last" or len(hidden) < 2:
        return chain
    return hidden if _small(last, hidden) else chain


def _small(end: Layer, others: list[Layer]) -> bool:
    typical = float(np.median([layer.weight_variance for layer in others]))
    return end.weight_variance < 0.05 * typical


def blocked(layers: list[Layer], network: Network) -> list[Finding]:
    """Vanishing to nothing, though no kernel of zeros is on the way; dead, if units are.

    Where a branch or an input of several is shut, by a factor that starts at zero, others learn.
    """
    measured = [layer for layer in layers if not math.isnan(layer.log_gradient)]
    silent = [layer for layer in measured if _silent(layer)]
    if not silent or len(silent) == len(measured):
        return []
    entering = [layer for layer in measured if _enters(layer)]
    if not entering or not all(map(_silent, entering)):
        return []
    if any(layer.weight_square == 0 for layer in layers):
        return []
    message = f"{some([layer.name for layer in silent])}: the gradient is exactly zero"
    dead = [layer for layer in layers if layer.dead == 1]
    if dead:
        message += f", as all units of {dead[0].name} are flat"
        return finding("failure", "dead", silent, message, "draw its kernel and biases again")
    remedy = "look for a function between the layers that is flat, as a clip or a step is"
    return finding("failure", "vanishing", silent, message, remedy)


def _silent(layer: Layer) -> bool:
    """Whether its gradient is zero; in a loop, turns past a sequence's end may have none."""
    return layer.log_gradient == -math.inf and layer.uses == 1


def _enters(layer: Layer) -> bool:
    return layer.kind == "embedding" or layer.unpredicted == "the batch"


def forward(layers: list[Layer], network: Network) -> list[Finding]:
    """Exploding, by signals that are too large already."""
    large = [layer for layer in layers if layer.rms > 1e3 and layer.role != "last"]
    if not large:
        return []
    message = f"{some([layer.name for layer in large])}: pre-activations of {large[-1].rms:.3g}"
    remedy = f"draw the kernels with {recommended(large[0])}"
    return finding("failure", "exploding", large, message, remedy)


def _power(log: float) -> str:
    """A factor, given by its logarithm, which may be beyond a float."""
    size = abs(log)
    return f"{math.exp(size):.3g}" if size < 600 else f"10^{size / math.log(10):.0f}"


def saturated(layers: list[Layer], network: Network) -> list[Finding]:
    found = [
        layer
        for layer in layers
        if layer.saturating and layer.saturated - layer.predicted_saturated > _SATURATED
    ]
    if not found:
        return []
    worst = max(found, key=lambda layer: layer.saturated)
    bad = worst.saturated - worst.predicted_saturated > _BAD_SATURATED
    message = (
        f"{some([layer.name for layer in found])}: {worst.saturated:.0%} of the pre-activations lie"
        f" where {worst.activation} is flat ({worst.predicted_saturated:.0%} at unit scale); their"
        f" root mean square is {worst.rms:.3g}"
    )
    remedy = f"draw the kernels with {recommended(worst)}"
    return finding("failure" if bad else "warning", "saturated", found, message, remedy)


def dead(layers: list[Layer], network: Network) -> list[Finding]:
    found = [layer for layer in layers if _excess(layer) > _DEAD]
    if not found:
        return []
    worst = max(found, key=_excess)
    expected = 0.0 if math.isnan(worst.predicted_dead) else worst.predicted_dead
    message = (
        f"{some([layer.name for layer in found])}: {worst.dead:.0%} of the units are flat on all"
        f" {worst.samples} samples; with biases of zero {expected:.0%} are expected"
    )
    if worst.bias_variance > worst.rms**2 / 2:
        message += "; the bias outweighs the input"
        remedy = "start the biases at zero"
    else:
        remedy = f"draw the kernels with {recommended(worst)} and start the biases at zero"
    level = "failure" if _excess(worst) > _BAD_DEAD else "warning"
    return finding(level, "dead", found, message, remedy)


def _excess(layer: Layer) -> float:
    """By how much the part of dead units is beyond what chance explains in a layer this narrow."""
    expected = 0.0 if math.isnan(layer.predicted_dead) else layer.predicted_dead
    chance = math.sqrt(max(expected, 0.05) * (1 - expected) / max(1, layer.units))
    return 0.0 if math.isnan(layer.dead) else layer.dead - expected - 3 * chance


def collapse(layers: list[Layer], network: Network) -> list[Finding]:
    found = [
        layer
        for layer in layers
        if layer.correlation > _ALIKE and layer.activation and layer.source is not None
    ]
    if not found:
        return []
    message = (
        f"{some([layer.name for layer in found])}: two examples' pre-activations have a correlation"
        f" of {found[-1].correlation:.5f}; the network hardly tells its inputs apart"
    )
    remedy = f"use fewer layers, or draw the kernels with {recommended(found[0])}"
    return finding("warning", "collapse", found, message, remedy)


def depth(layers: list[Layer], network: Network) -> list[Finding]:
    if network.depth < 8 or not network.depth > 6 * network.correlation_depth:
        return []
    (chain, *_) = chains_of(layers)
    message = (
        f"{network.depth} layers are deeper than six times the correlation depth of"
        f" {network.correlation_depth:.3g}: {6 * network.correlation_depth:.3g} can be trained"
    )
    drawn = recommended(chain[len(chain) // 2], len(chain))
    remedy = f"use fewer layers, or draw the kernels with {drawn}"
    return finding("warning", "depth", chain, message, remedy)


def output_scale(layers: list[Layer], network: Network) -> list[Finding]:
    found = [layer for layer in layers if layer.logits and layer.rms > _LOGITS]
    if not found:
        return []
    layer = found[-1]
    message = (
        f"{layer.name}: logits have root mean square {layer.rms:.3g}; the loss is"
        f" {network.loss:.4g} where guessing has {network.expected_loss:.4g}"
    )
    remedy = f"divide the last kernel by {max(2.0, layer.rms):.2g}, or start it at zero"
    level = "failure" if layer.rms > _BAD_LOGITS else "warning"
    return finding(level, "output_scale", found, message, remedy)


def update(layers: list[Layer], readouts: list[Layer]) -> list[Finding]:
    """A first step as large as the weights, which readouts that are small on purpose want."""
    ends = {layer.name for layer in readouts}
    hidden = [layer for layer in layers if layer.name not in ends]
    found = [
        layer
        for layer in layers
        if layer.update_ratio > _STEP
        and not (layer.name in ends and hidden and _small(layer, hidden))
    ]
    if not found:
        return []
    worst = max(found, key=lambda layer: layer.update_ratio)
    message = (
        f"{some([layer.name for layer in found])}: the optimizer's first step is"
        f" {worst.update_ratio:.2g} times the weights' standard deviation"
    )
    remedy = "lower the learning rate, or draw the weights at a larger scale"
    return finding("warning", "update", found, message, remedy)
