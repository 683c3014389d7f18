"""Checks of the signal: where it is flat, lost or too large.

Thresholds follow from theory where it applies: a part of dead units is a fault if it is more than a
rectifier has on a batch of this correlation and size.
"""

from __future__ import annotations

import math

from initjax.auditing._activations import recommended
from initjax.auditing._judging.blocked import blocked
from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding, finding, names_of
from initjax.auditing._judging.graph import layers_after
from initjax.auditing._judging.inputs import outweighed
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._judging.names import some
from initjax.auditing._judging.numbers import plain

_GROWTH, _BAD_GROWTH = 30.0, 1e3  # of the mean square along a residual stream
# Above what is expected. Dead units make a layer narrower; a quarter fewer units cost little.
_DEAD, _BAD_DEAD = 0.25, 0.5
_MOST_DEAD = 0.75
_SATURATED, _BAD_SATURATED = 0.25, 0.5  # above that of unit normal inputs
_ALIKE = 0.999  # correlation of two examples
_DEEP = 3  # layers: behind fewer, sigmoids have a common mean, which biases soon take out
_SHALLOW = 8  # layers: depth is no problem in fewer
_REACH = 6  # correlation depths through which a chain can be trained


def branch_scale(evidence: Evidence) -> list[Finding]:
    """Residual streams that grow because each branch adds at full scale."""
    ends = [layer for layer in evidence.layers if layer.role == "branch end" or layer.site.scaled]
    readers = [layer for layer in evidence.layers if layer.unpredicted == "sum"]
    if len(ends) < 3 or len(readers) < 2:
        return []
    squares = [layer.input_square for layer in readers]
    growth = squares[-1] / squares[0] if squares[0] > 0 else math.nan
    if not growth > _GROWTH:
        return []
    message = (
        f"{len(ends)} residual branches make the signal's mean square {plain(growth)} times as"
        f" large, because {some(names_of(ends), 2)} add to it at full scale"
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
        f"In {some(names_of(found))}, {worst.saturated:.0%} of the outputs lie where"
        f" {worst.activation} is flat (at unit scale: {worst.predicted_saturated:.0%}); their root"
        f" mean square is {plain(worst.rms)}"
    )
    remedy = f"Draw the kernels with {recommended(worst.activation)}"
    return finding("failure" if bad else "warning", "saturated", found, message, remedy)


def dead(evidence: Evidence) -> list[Finding]:
    """Units that are flat on the whole batch, beyond what chance explains."""
    layers = evidence.layers
    behind_zeros = {  # which get the same input from all examples
        other.row
        for layer in layers
        if layer.weight_least == 0
        for other in (layer, *layers_after(layer, layers))
    }
    found = [
        layer
        for layer in layers
        if _excess(layer) > _DEAD
        and layer.row not in behind_zeros
        # Biases of either sign leave half of the units on, and small embeddings grow.
        and not (layer.dead < _MOST_DEAD and outweighed(layer, evidence))
    ]
    if not found:
        return blocked(evidence, "dead")
    worst = max(found, key=_excess)
    expected = 0.0 if math.isnan(worst.predicted_dead) else worst.predicted_dead
    activation = worst.activation or "the activation"
    message = (
        f"In {some(names_of(found))}, {worst.dead:.0%} of the units lie where {activation} is flat"
        f" on all {worst.samples} samples; with biases of zero, {expected:.0%} are expected"
    )
    if worst.bias_variance > worst.rms**2 / 2:
        message += "; the bias outweighs the input"
        remedy = "Start the biases at zero"
    else:
        remedy = f"Draw the kernels with {recommended(worst.activation)} and start the biases at"
        remedy += " zero"
    level = "failure" if _excess(worst) > _BAD_DEAD else "warning"
    return [*finding(level, "dead", found, message, remedy), *blocked(evidence, "dead")]


def _excess(layer: JudgedLayer) -> float:
    """By how much the part of dead units exceeds what chance explains in a layer this narrow."""
    expected = 0.0 if math.isnan(layer.predicted_dead) else layer.predicted_dead
    chance = math.sqrt(max(expected, 0.05) * (1 - expected) / max(1, layer.units))
    return 0.0 if math.isnan(layer.dead) else layer.dead - expected - 3 * chance


def collapse(evidence: Evidence) -> list[Finding]:
    """Layers to which all examples look alike, though the first of their chain tells them apart.

    Inputs on one half-line, such as positive numbers, are collinear in every layer without biases.
    """
    apart: list[bool] = []  # by layer: whether the first of its chain tells examples apart
    for layer in evidence.layers:
        own = not layer.correlation > _ALIKE
        apart.append(own if layer.source is None else apart[layer.source])
    found = [
        layer
        for layer, before in zip(evidence.layers, apart, strict=True)
        if layer.correlation > _ALIKE and before and layer.activation and layer.depth >= _DEEP
    ]
    if not found:
        return []
    message = (
        f"In {some(names_of(found))}, the outputs for two examples have a correlation of"
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
        f"In theory, a difference between two inputs gets through about {plain(reach)} layers"
        f" ({_REACH} correlation depths of {plain(evidence.network.correlation_depth)}), and these"
        f" are {layers}"
    )
    drawn = recommended(chain[len(chain) // 2].activation, len(chain))
    remedy = f"Use fewer layers, or draw the kernels with {drawn}"
    return finding("warning", "depth", chain, message, remedy)
