"""What is wrong with how parameters were drawn, and with what they meet first."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence

from initjax.auditing._judging.copies import copies
from initjax.auditing._judging.findings import Finding, finding, recommended, some
from initjax.auditing._judging.graph import layers_after, layers_before
from initjax.auditing._judging.layers import Layer
from initjax.auditing._judging.network import Network
from initjax.auditing._measuring.passes import Measurements
from initjax.auditing._reading.trace import Traced
from initjax.fans import compute_fans

_LARGE_INPUT, _VERY_LARGE_INPUT, _SMALL_INPUT = 25.0, 1000.0, 1e-3  # mean squares
_FANS = 1.9  # a fan-in off by less than that is no fault
_STRUCTURED = 0.4  # part of zeros of a kernel that was not simply drawn
_CHANCE = 5.0  # standard deviations of a mean of centred weights
# fan_in mean^2 / E[w^2] from which on the mean alone has a larger singular value than all random
# weights together have in a square kernel; it then doubles the mean square behind a rectifier.
_COMMON, _MOSTLY_COMMON = 4.0, 25.0


def not_finite(
    traced: Traced,
    measured: Measurements,
    layers: Sequence[Layer],
    nan: Sequence[str],
    infinite: Sequence[str],
) -> list[Finding]:
    names = [
        name or "params"
        for name, found in zip(traced.names, measured.parameters, strict=True)
        if found and found["broken"]
    ]
    if names:
        message = f"{some(names)}: infinite or NaN"
        return finding("failure", "not_finite", names, message, "draw these parameters again")
    first = [layer for layer in layers if not math.isfinite(layer.rms)]
    # A mask of infinite numbers is meant, as long as nothing comes of it.
    data = [*nan, *(infinite if first or not math.isfinite(measured.loss) else [])]
    if data:
        message = f"the batch holds numbers that are infinite or NaN ({some(data)})"
        return finding("failure", "not_finite", data, message, "clean the data")
    if first:
        message = f"from {first[0].name} on, pre-activations are infinite or NaN"
        remedy = f"draw the kernels before it with {recommended(first[0])}"
        return finding("failure", "not_finite", first, message, remedy)
    if not math.isfinite(measured.loss):
        message = f"the loss is {measured.loss}, though all pre-activations are finite"
        remedy = "look for a logarithm of zero, a division by zero or an overflow in the loss"
        return finding("failure", "not_finite", [], message, remedy)
    lost = [layer for layer in layers if layer.log_gradient == math.inf]
    if lost:
        message = f"{some([layer.name for layer in lost])}: the gradient is infinite or NaN, though"
        message += " the loss is finite"
        remedy = "look for the derivative of a root, a norm or a quotient at zero"
        return finding("failure", "not_finite", lost, message, remedy)
    return []


def unused(traced: Traced, trainable: Sequence[bool]) -> list[Finding]:
    names = [
        traced.names[index] or "params"
        for index in traced.inexact
        if index not in traced.anatomy.leaves and trainable[index]
    ]
    if not names:
        return []
    verb, object_ = ("enters", "it") if len(names) == 1 else ("enter", "them")
    message = f"{some(names)}: never {verb} the loss, and will not be trained"
    remedy = f"use {object_}, or leave {object_} out of params"
    return finding("warning", "unused", names, message, remedy)


def without_layers(traced: Traced) -> list[Finding]:
    message = "no matrix product, convolution or embedding of params with the batch was found"
    remedy = (
        "give the data as *batch, so that it can be told from the parameters"
        if not traced.has_batch
        else "see whether loss_fn uses the params that it is given"
    )
    return finding("warning", "no_layers", [], message, remedy)


def batch(layers: list[Layer], network: Network) -> list[Finding]:
    if any(layer.samples > 1 for layer in layers):
        return []
    message = (
        "a batch of one: spread over examples, dead units, correlation and rank cannot be measured"
    )
    return finding("warning", "batch", [], message, "give a batch of 64 examples or more")


def zero(layers: list[Layer], readouts: list[Layer], traced: Traced) -> list[Finding]:
    """Kernels of zeros: on purpose at the ends of the network and of branches, and as gates."""
    sites = traced.anatomy.sites
    meant = {layer.name for layer in readouts}
    stuck, waiting, cut = [], [], []
    for layer in layers:
        if layer.weight_least != 0 or layer.role in ("branch end", "sum", "last"):
            continue
        if layer.name in meant:
            continue
        after = [o for o in layers_after(layer, layers, sites) if o.weight_square > 0]
        passing = any(other.unit_stddev > 0 for other in after)
        silent = [o for o in layers_before(layer, layers, sites) if o.log_gradient == -math.inf]
        # The gradient of one number has rank one whatever the weights.
        alike = layer.gradient_rank < 1.01 and all(other.units > 1 for other in after)
        if layer.log_gradient == -math.inf or alike or (silent and not passing):
            stuck.append(layer)
            cut += [] if passing else [other.name for other in silent]
        elif not passing:
            waiting.append(layer)
    if not stuck and not waiting:
        return []
    named = stuck or waiting
    remedy = f"draw the kernel at random: {recommended(named[0])}"
    message = f"{_some_of(named)}: the kernel is zero, so that all units"
    message += " compute the same"
    if not stuck:
        message += ", and the layers after it learn nothing from the first step"
        return finding("warning", "zero", waiting, message, remedy)
    below = [name for name in cut if name not in {layer.name for layer in stuck}]
    if below:
        message += f" and no gradient passes to {some(below)}"
    elif any(layer.log_gradient == -math.inf for layer in stuck):
        message += " and get no gradient"
    else:
        message += " and get the same gradient"
    learning = [layer for layer in layers if layer.log_gradient != -math.inf]
    if len(learning) <= 1 < len(layers):
        message += "; nothing but the last bias can learn"
    return finding("failure", "zero", stuck, message, remedy)


def _some_of(layers: list[Layer]) -> str:
    names = some([layer.name for layer in layers])
    return f"{names}, in one member or more" if layers[0].members > 1 else names


def symmetry(layers: list[Layer], network: Network) -> list[Finding]:
    alike = [
        layer
        for layer in layers
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
        f"{_some_of(named)}: all units compute the same function"
        f" ({'kernel is constant' if constant else 'kernel has rank one'})"
    )
    message += (
        "; they also get the same gradient, and will stay alike"
        if stuck
        else "; only the layers above can tell them apart"
    )
    remedy = f"draw the kernel at random: {recommended(named[0])}"
    return finding("failure" if stuck else "warning", "symmetry", alike, message, remedy)


def duplicates(traced: Traced, measured: Measurements, layers: list[Layer]) -> list[Finding]:
    """Kernels drawn with one key; what is not trained may be a copy, as a target network is."""
    learning = {leaf for leaf, found in enumerate(measured.parameters) if found.get("learning")}
    waiting = {  # for a kernel of zeros above to learn first
        leaf
        for zeros in layers
        if zeros.weight_square == 0 and learning.issuperset(zeros.parameters)
        for layer in layers_before(zeros, layers, traced.anatomy.sites)
        for leaf in layer.parameters
    }
    weights = {leaf for layer in layers for leaf in layer.parameters}
    names, prints = [], []
    for leaf in sorted(weights & (learning | waiting)):
        slices = measured.prints[leaf]
        name = traced.names[leaf] or "params"
        names += (
            [f"{name}[{number}]" for number in range(len(slices))]
            if len(slices) > 1
            else [name] * len(slices)
        )
        prints += list(slices)
    groups = [[names[row] for row in group] for group in copies(prints)]
    if not groups:
        return []
    involved = [name for group in groups for name in group]
    message = "; ".join(some(group) for group in groups[:3])
    if len(groups) > 3:
        message += f" and {len(groups) - 3} more group{'' if len(groups) == 4 else 's'}"
    message += ": drawn from the same random numbers"
    remedy = "split the key, or fold the layer's name into it; initialize() does that for a tree"
    return finding("warning", "duplicate", involved, message, remedy)


def input_scale(layers: list[Layer], network: Network) -> list[Finding]:
    entering = [
        layer for layer in layers if layer.unpredicted == "the batch" and layer.kind != "embedding"
    ]
    large = [layer for layer in entering if layer.input_square > _LARGE_INPUT]
    if large:
        rms = math.sqrt(max(layer.input_square for layer in large))
        level = "failure" if rms**2 > _VERY_LARGE_INPUT else "warning"
        message = f"the input of {some([layer.name for layer in large])} has root mean square"
        message += f" {rms:.3g}; initializers expect about 1"
        return finding(level, "input_scale", large, message, f"divide the input by {rms:.2g}")
    small = [
        layer
        for layer in entering
        if 0 < layer.input_square < _SMALL_INPUT and layer.input_largest < 0.5
    ]
    if small:
        rms = math.sqrt(min(layer.input_square for layer in small))
        message = f"the input of {some([layer.name for layer in small])} has root mean square"
        message += f" {rms:.2g}; initializers expect about 1"
        return finding("warning", "input_scale", small, message, f"divide the input by {rms:.2g}")
    return []


def not_centred(layers: list[Layer], network: Network) -> list[Finding]:
    def common(layer: Layer) -> float:
        return layer.fan_in * layer.weight_mean**2 / layer.weight_square

    def drawn_about_a_mean(layer: Layer) -> bool:
        if not layer.whole:  # a function of parameters may be positive on purpose
            return False
        variance = layer.weight_square - layer.weight_mean**2
        by_chance = _CHANCE**2 * variance / (layer.fan_in * layer.units)
        return (
            variance > 1e-6 * layer.weight_square  # no constant one
            and layer.weight_rank >= 1.0001
            and layer.weight_zeros < _STRUCTURED
            and layer.weight_mean**2 > by_chance
            and common(layer) > _COMMON
        )

    found = [layer for layer in layers if layer.kind != "embedding" and drawn_about_a_mean(layer)]
    if not found:
        return []
    worst = max(found, key=common)
    spread = math.sqrt(worst.weight_square - worst.weight_mean**2)
    message = (
        f"{some([layer.name for layer in found])}: the weights have mean {worst.weight_mean:.2g}"
        f" beside a standard deviation of {spread:.2g}; that adds up over {worst.fan_in:.4g} inputs"
        " to a signal that all units share"
    )
    remedy = f"draw the kernel with mean zero, as {recommended(worst)} does"
    level = "failure" if common(worst) > _MOSTLY_COMMON else "warning"
    return finding(level, "not_centred", found, message, remedy)


def wrong_fan(layers: list[Layer], network: Network) -> list[Finding]:
    found, told = [], []
    used = {(layer.path, leaf) for layer in layers for leaf in layer.parameters}
    uses = collections.Counter(leaf for _, leaf in used)
    for layer in layers:
        if layer.kind == "embedding" or not layer.whole or len(layer.shape) < 2:
            continue
        if layer.role == "branch end":  # scaled by the depth as well
            continue
        # An embedding that is the readout too was drawn for its rows, and zeros are no draw.
        if uses[layer.parameters[0]] > 1 or layer.weight_zeros > _STRUCTURED:
            continue
        gain = layer.weight_variance
        if 1 / _FANS < gain < 2 * _FANS or _near(gain, 1 / 3) or layer.weight_square == 0:
            continue
        square = gain / layer.fan_in
        counted = compute_fans(layer.shape)
        averages = [(fans[0] + fans[1]) / 2 for fans in (counted, (layer.fan_in, layer.fan_out))]
        options = [
            ("fan_in", counted[0], layer.fan_in),
            ("fan_out", counted[1], layer.fan_out),
            ("fan_avg", *averages),
        ]
        # What a draw of so many normal numbers may be off by; other scales hit by coincidence.
        chance = min(0.15, 0.02 + 5 * math.sqrt(2 / math.prod(layer.shape)))
        for mode, theirs, mine in options:
            off = not 1 / _FANS < theirs / mine < _FANS
            meant = any(abs(theirs * square / scale - 1) < chance for scale in (1, 2))
            if off and meant and not any(_near(mine * square, scale) for scale in (1, 2)):
                found.append(layer)
                told.append(f"{mode} {theirs:g} where {mine:.4g} is right")
                break
    if not found:
        return []
    message = f"{some([layer.name for layer in found])}: drawn as if {told[0]}; its gain is"
    message += f" {found[0].weight_variance:.2g}"
    remedy = (
        "tell the initializer with conv_fans, conv_transpose_fans, einsum_fans, stacked_fans or"
        " packed_fans, or in_axis, out_axis and batch_axis"
    )
    return finding("warning", "wrong_fan", found, message, remedy)


def _near(value: float, target: float) -> bool:
    return abs(value / target - 1) < 0.15
