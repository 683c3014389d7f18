"""Checks of how parameters were drawn, and of what they meet first."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from initjax._copies import copies
from initjax.auditing._activations import recommended
from initjax.auditing._judging.blocked import zero_factors
from initjax.auditing._judging.draws import origin_of
from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding, finding, names_of
from initjax.auditing._judging.graph import layers_after, layers_before
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._judging.names import Parameter, label, some
from initjax.auditing._judging.undefined import undefined_gradient, undefined_loss

_STRUCTURED = 0.4  # part of zeros in a kernel that was not simply drawn
_CHANCE = 5.0  # standard deviations of the mean of centered weights
# fan_in mean^2 / E[W^2] from which on the mean alone has a larger singular value than all random
# weights together have in a square kernel; it then doubles the mean square behind a rectifier.
_COMMON, _MOSTLY_COMMON = 4.0, 25.0
_SHOWN_GROUPS = 3


def not_finite(evidence: Evidence) -> list[Finding]:
    """Parameters, data, pre-activations, the loss or gradients that are infinite or NaN."""
    loss, layers = evidence.measured.loss, evidence.layers
    broken = [
        evidence.parameter(index)
        for index, found in enumerate(evidence.measured.parameters)
        if found and found["broken"]
    ]
    if broken:
        names = some([label([parameter]) for parameter in broken])
        message = f"Some numbers in {names} are infinite or NaN"
        return finding("failure", "not_finite", broken, message, "Redraw these parameters")
    first = [layer for layer in layers if not math.isfinite(layer.rms)]
    # Infinite numbers in a mask are intended, unless they reach a layer or the loss.
    infinite = evidence.infinite if first or not math.isfinite(loss) else ()
    data = [*evidence.nan, *infinite]
    if data:
        message = f"Some numbers in {some(data)} are infinite or NaN"
        return finding("failure", "not_finite", data, message, "Clean the data")
    if first:
        message = f"From {first[0].name} on, pre-activations are infinite or NaN"
        remedy = f"Draw the kernels before it with {recommended(first[0].activation)}"
        return finding("failure", "not_finite", first, message, remedy)
    if not math.isfinite(loss):
        return undefined_loss(evidence)
    lost = [layer for layer in layers if layer.log_gradient == math.inf]
    if lost:
        return undefined_gradient(evidence, lost)
    return []


def no_layers(evidence: Evidence) -> list[Finding]:
    """Programs in which no parameter meets data."""
    if evidence.layers:
        return []
    message = "No matrix product, convolution or embedding of params with the batch was found"
    unread = evidence.traced.anatomy.unread
    if any(unread.values()):
        message += f": they are in what an audit can't read, {some(sorted(unread))}"
        remedy = "To audit these layers, call the same functions without it, in plain JAX"
    elif evidence.traced.has_batch:
        remedy = "Check whether loss_fn uses the params that it is given"
    else:
        remedy = "Pass the data as *batch, so that data and parameters can be told apart"
    return finding("warning", "no_layers", [], message, remedy)


def unused(evidence: Evidence) -> list[Finding]:
    """Parameters that the loss does not depend on, but not the spare ones of a last block."""
    traced = evidence.traced
    used = traced.anatomy.leaves | traced.spare
    found = [
        evidence.parameter(index)
        for index in traced.inexact
        if index not in used and evidence.trainable[index]
    ]
    if not found:
        return []
    subject, object_ = ("it", "it") if len(found) == 1 else ("they", "them")
    names = some([label([parameter]) for parameter in found])
    message = f"The loss doesn't depend on {names}, so {subject} won't be trained"
    remedy = f"Use {object_}, or leave {object_} out of params"
    return finding("warning", "unused", found, message, remedy)


def no_gradient(evidence: Evidence) -> list[Finding]:
    """Parameters that the loss depends on, but only through functions that pass no gradient."""
    cuts, measured = evidence.traced.cuts, evidence.measured.parameters
    found = [
        index
        for index in cuts
        if evidence.trainable[index] and measured[index] and not measured[index]["learning"]
    ]
    if not found:
        return []
    parameters = [evidence.parameter(index) for index in found]
    primitives = sorted({name for index in found for name in cuts[index]})
    subject = "it gets" if len(found) == 1 else "they get"
    names = some([label([parameter]) for parameter in parameters])
    message = (
        f"The loss depends on {names} only through {' and '.join(primitives)}, so {subject} no"
        " gradient and won't be trained"
    )
    if "stop_gradient" in primitives:
        remedy = "Remove stop_gradient between them and the loss"
    else:
        remedy = "Multiply what is chosen by the softmax of the scores, or use a straight-through"
        remedy += " gradient"
    return finding("warning", "no_gradient", parameters, message, remedy)


def zero(evidence: Evidence) -> list[Finding]:
    """Kernels and scales of zeros; at ends of the network and of branches they are on purpose."""
    layers, meant = evidence.layers, set(names_of(evidence.readouts))
    # Other gates wait for one that is closed, as the scales of adaptive normalization do.
    gates = [layer for layer in layers if layer.weight_least == 0 and layer.site.gates]
    if any(math.isfinite(layer.log_gradient) for layer in gates):
        meant |= set(names_of(gates))
    stuck, waiting, cut = [], [], []
    for layer in layers:
        if layer.weight_least != 0 or layer.role in ("branch end", "sum", "last"):
            continue
        if layer.name in meant:
            continue
        after = [other for other in layers_after(layer, layers) if other.weight_square > 0]
        passing = any(other.unit_stddev > 0 for other in after)
        silent = [o for o in layers_before(layer, layers) if o.log_gradient == -math.inf]
        # The gradient of one number has rank one whatever the weights.
        alike = layer.gradient_rank < 1.01 and all(other.units > 1 for other in after)
        if layer.log_gradient == -math.inf or alike or (silent and not passing):
            stuck.append(layer)
            cut += [] if passing else names_of(silent)
        elif not passing:
            waiting.append(layer)
    if not stuck and not waiting:
        return zero_factors(evidence)
    named = stuck or waiting
    remedy = f"Draw the kernel at random: {recommended(named[0].activation)}"
    message = f"{_members(named, 'All weights')} of {some(names_of(named))} are zero, so all units"
    message += " compute the same function"
    if not stuck:
        message += ", and the layers after it learn nothing in the first step"
        return finding("warning", "zero", waiting, message, remedy)
    below = [name for name in cut if name not in names_of(stuck)]
    if below:
        message += f", and no gradient reaches {some(below)}"
    elif any(layer.log_gradient == -math.inf for layer in stuck):
        message += " and get no gradient"
    else:
        message += " and get the same gradient"
    learning = [layer for layer in layers if layer.log_gradient != -math.inf]
    if len(learning) <= 1 < len(layers):
        message += "; only the last bias can learn"
    return finding("failure", "zero", stuck, message, remedy)


def _members(layers: Sequence[JudgedLayer], start: str) -> str:
    """The start of a sentence, with what it holds for if layers run side by side."""
    if layers[0].members == 1:
        return start
    return f"In one member or more, {start[0].lower()}{start[1:]}"


def symmetry(evidence: Evidence) -> list[Finding]:
    """Kernels of rank one, such as constant ones."""
    alike = [
        layer
        for layer in evidence.layers
        if layer.weight_least > 0
        and layer.weight_rank < 1.0001
        and layer.units > layer.members
        and layer.fan_in > 1
        and layer.kind != "embedding"
    ]
    if not alike:
        return []
    stuck = [layer for layer in alike if layer.gradient_rank < 1.01]
    named = stuck or alike
    constant = all(layer.weight_zeros == 0 for layer in named)
    message = (
        f"{_members(named, 'All units')} of {some(names_of(named))} compute the same function"
        f" ({'the kernel is constant' if constant else 'the kernel has rank one'})"
    )
    message += (
        "; they also get the same gradient and will stay alike"
        if stuck
        else "; only the layers after it can tell them apart"
    )
    remedy = f"Draw the kernel at random: {recommended(named[0].activation)}"
    return finding("failure" if stuck else "warning", "symmetry", alike, message, remedy)


def duplicate(evidence: Evidence) -> list[Finding]:
    """Kernels drawn with one key. What is not trained may be a copy, as a target network is."""
    layers, measured = evidence.layers, evidence.measured
    learning = {leaf for leaf, found in enumerate(measured.parameters) if found.get("learning")}
    waiting = {  # for a kernel of zeros above to learn first
        leaf
        for zeros in layers
        if zeros.weight_square == 0 and learning.issuperset(zeros.leaves)
        for layer in layers_before(zeros, layers)
        for leaf in layer.leaves
    }
    weights = {leaf for layer in layers for leaf in layer.leaves}
    drawn: list[Parameter] = []
    prints: list[np.ndarray] = []
    for leaf in sorted(weights & (learning | waiting)):
        stack = _stack(evidence.traced.shapes[leaf].shape, len(measured.prints[leaf]))
        for number, numbers in enumerate(measured.prints[leaf]):
            place = tuple(int(axis) for axis in np.unravel_index(number, stack)) if stack else ()
            drawn.append(evidence.parameter(leaf, place))
            prints.append(numbers)
    groups = [[drawn[row] for row in group] for group in copies(prints)]
    if not groups:
        return []
    names = [[label([parameter]) for parameter in group] for group in groups]
    message = f"The same random numbers were used for {'; '.join(map(some, names[:_SHOWN_GROUPS]))}"
    more = len(groups) - _SHOWN_GROUPS
    if more > 0:
        message += f" and {more} more group{'' if more == 1 else 's'}"
    remedy = (
        "Split the key, or fold the layer's name into it; initialize() does that for a whole tree"
    )
    copied = [parameter for group in groups for parameter in group]
    return finding("warning", "duplicate", copied, message, remedy)


def _stack(shape: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The leading axes that number so many slices."""
    axes = 0
    while math.prod(shape[:axes]) < count:
        axes += 1
    return shape[:axes]


def not_centered(evidence: Evidence) -> list[Finding]:
    """Weights with a mean that chance doesn't explain."""

    def common(layer: JudgedLayer) -> float:
        return layer.fan_in * layer.weight_mean**2 / layer.weight_square

    def drawn_about_a_mean(layer: JudgedLayer) -> bool:
        if not layer.whole:  # a function of parameters may be positive on purpose
            return False
        variance = layer.weight_square - layer.weight_mean**2
        by_chance = _CHANCE**2 * variance / (layer.fan_in * layer.units)
        return (
            variance > 1e-6 * layer.weight_square  # else it is constant
            and layer.weight_rank >= 1.0001
            and layer.weight_zeros < _STRUCTURED
            and layer.weight_mean**2 > by_chance
            and common(layer) > _COMMON
        )

    found = [
        layer
        for layer in evidence.layers
        # A softmax takes out what all classes have in common.
        if layer.kind != "embedding" and not layer.logits and drawn_about_a_mean(layer)
    ]
    if not found:
        return []
    worst = max(found, key=common)
    stddev = math.sqrt(worst.weight_square - worst.weight_mean**2)
    message = (
        f"The weights of {some(names_of(found))} have mean {worst.weight_mean:.2g} and standard"
        f" deviation {stddev:.2g}; over {worst.fan_in:.4g} inputs, the mean adds up to a signal"
        " that all units share"
    )
    remedy = f"Draw the kernel with mean zero, such as with {recommended(worst.activation)}"
    drawn = origin_of(evidence, worst.parameters[0])
    if from_zero := re.fullmatch(r"uniform\(([-\d.e]+)\)", drawn):
        scale = f"{float(from_zero[1]):.2g}"
        message += f"; they look drawn by uniform({scale}), which is U[0, {scale}) in JAX and not"
        message += f" U[-{scale}, {scale})"
    elif drawn:
        message += f"; they look drawn from {drawn}"
    level = "failure" if common(worst) > _MOSTLY_COMMON else "warning"
    return finding(level, "not_centered", found, message, remedy)
