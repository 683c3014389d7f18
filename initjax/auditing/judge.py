"""From measurements and predictions to findings: what is wrong, why, and what helps.

Thresholds follow from theory where it reaches: a part of dead units is wrong if it is more than a
rectifier of this correlation has on a batch of this size. Where one cause has several
consequences, the cause is told and the consequences are not.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from initjax.auditing.layers import Layer
from initjax.auditing.measure import Measurements
from initjax.auditing.trace import Traced
from initjax.fans import compute_fans

CAUSES = {
    "not_finite": "a number is infinite or NaN",
    "no_layers": "no layer was found",
    "unused": "a parameter never enters the loss",
    "batch": "the batch is too small to measure with",
    "zero": "a kernel is zero and lets no gradient through",
    "symmetry": "all units of a layer compute the same function",
    "duplicate": "two layers have the same weights",
    "input_scale": "the input is far from unit scale",
    "wrong_fan": "the initializer has counted another fan-in or fan-out than the layer has",
    "branch_scale": "residual branches add up",
    "saturated": "pre-activations lie where the activation is flat",
    "vanishing": "gradients shrink from layer to layer",
    "exploding": "gradients or signals grow from layer to layer",
    "dead": "units are flat on the whole batch",
    "collapse": "all inputs look alike to a layer",
    "depth": "the network is deeper than its signal reaches",
    "output_scale": "the logits are too large",
    "update": "the optimizer's first step is as large as the weights",
}
"""What each cause of a finding means."""

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
    "wrong_fan": {"vanishing", "exploding", "depth", "saturated", "output_scale"},
    "branch_scale": {"exploding", "vanishing", "output_scale", "saturated"},
    "exploding": {"depth", "output_scale", "saturated", "update"},
    "vanishing": {"depth", "collapse", "update"},
    "saturated": {"vanishing", "depth", "exploding"},
    "dead": {"vanishing", "depth", "collapse"},
    "collapse": {"depth"},
}
_LARGE_INPUT, _VERY_LARGE_INPUT, _SMALL_INPUT = 25.0, 1000.0, 1e-3  # mean squares
_RATIO, _BAD_RATIO = 1e3, 1e6  # of squared norms of gradients between the ends of a chain
_FANS = 1.9  # a fan-in off by less than that is no fault
_GROWTH, _BAD_GROWTH = 30.0, 1e3  # of the mean square along a residual stream
_LOGITS, _BAD_LOGITS = 3.0, 10.0  # root mean square
_DEAD, _BAD_DEAD = 0.1, 0.5  # above what is expected
_SATURATED, _BAD_SATURATED = 0.25, 0.5  # above that of unit normal inputs
_ALIKE = 0.999  # correlation of two examples
_STEP = 0.5  # of the weights' standard deviation
_DEEP = 20  # layers from which on normal kernels spread singular values too far


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    level: str
    """'warning' or 'failure'."""
    cause: str
    """A key of `CAUSES`."""
    layers: tuple[str, ...]
    """The layers or parameters that it concerns."""
    message: str
    remedy: str


@dataclasses.dataclass(frozen=True)
class Network:
    """What was measured of the whole network. NaN stands for not measured."""

    loss: float
    expected_loss: float
    """ln K, where the last layer gives K logits."""
    jacobian: float
    """Mean square of the singular values of the last layer's output by the first's."""
    jacobian_condition: float
    """Ratio of its largest to its smallest singular value within four random directions."""
    depth: int
    """Layers in the longest chain that theory follows."""
    correlation_depth: float
    """xi_c: the layers over which two inputs' difference fades by a factor e; a chain trains up to
    about six of them."""
    gradient_growth: float
    """Squared norm of the gradient at the first layer as a part of the last one's."""


def judge(
    traced: Traced,
    measured: Measurements,
    layers: Sequence[Layer],
    network: Network,
    not_finite: Sequence[str],
    trainable: Sequence[bool],
) -> list[Finding]:
    """Judges an initialization.

    Args:
      traced: the program.
      measured: what was measured.
      layers: its layers.
      network: the whole network.
      not_finite: what of the batch is not finite.
      trainable: which parameters are to be trained.

    Returns:
      The findings, failures first, each kind in the order of `CAUSES`.
    """
    broken = _not_finite(traced, measured, layers, not_finite)
    if broken:
        return broken
    findings = [
        *_unused(traced, trainable),
        *(_without_layers(traced) if not layers else []),
    ]
    if layers:
        for check in _CHECKS:
            findings += check(list(layers), network)
        findings += _duplicates(traced, measured)
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


def some(names: Sequence[str], most: int = 3) -> str:
    """Names for a sentence: the first ones, and how many more there are."""
    names = list(dict.fromkeys(names))
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def _find(
    level: str, cause: str, layers: Sequence[Layer] | Sequence[str], message: str, remedy: str
) -> list[Finding]:
    names = tuple(layer if isinstance(layer, str) else layer.name for layer in layers)
    return [Finding(level, cause, tuple(dict.fromkeys(names)), message, remedy)]


def _not_finite(
    traced: Traced, measured: Measurements, layers: Sequence[Layer], batch: Sequence[str]
) -> list[Finding]:
    names = [
        name or "params"
        for name, found in zip(traced.names, measured.parameters, strict=True)
        if found and not found["finite"]
    ]
    if names:
        message = f"{some(names)}: infinite or NaN"
        return _find("failure", "not_finite", names, message, "draw these parameters again")
    if batch:
        message = f"the batch holds numbers that are infinite or NaN ({some(batch)})"
        return _find("failure", "not_finite", batch, message, "clean the data")
    first = [layer for layer in layers if not math.isfinite(layer.rms)]
    if first:
        message = f"from {first[0].name} on, pre-activations are infinite or NaN"
        remedy = f"draw the kernels before it with {_recommended(first[0])}"
        return _find("failure", "not_finite", first, message, remedy)
    if not math.isfinite(measured.loss):
        message = f"the loss is {measured.loss}, though all pre-activations are finite"
        remedy = "look for a logarithm of zero, a division by zero or an overflow in the loss"
        return _find("failure", "not_finite", [], message, remedy)
    return []


def _unused(traced: Traced, trainable: Sequence[bool]) -> list[Finding]:
    names = [
        traced.names[index] or "params"
        for index in traced.inexact
        if index not in traced.anatomy.leaves and trainable[index]
    ]
    if not names:
        return []
    verb = "enters" if len(names) == 1 else "enter"
    message = f"{some(names)}: never {verb} the loss, and will not be trained"
    remedy = "use them, or leave them out of params"
    return _find("warning", "unused", names, message, remedy)


def _without_layers(traced: Traced) -> list[Finding]:
    message = "no matrix product, convolution or embedding of params with the batch was found"
    remedy = (
        "give the data as *batch, so that it can be told from the parameters"
        if not traced.has_batch
        else "see whether loss_fn uses the params that it is given"
    )
    return _find("warning", "no_layers", [], message, remedy)


def _batch(layers: list[Layer], network: Network) -> list[Finding]:
    if any(layer.samples > 1 for layer in layers):
        return []
    message = (
        "a batch of one: spread over examples, dead units, correlation and rank cannot be measured"
    )
    return _find("warning", "batch", [], message, "give a batch of 64 examples or more")


def _zero(layers: list[Layer], network: Network) -> list[Finding]:
    blocking = [
        layer
        for layer in layers
        if layer.weight_square == 0 and layer.role not in ("branch end", "sum", "last")
    ]
    if not blocking:
        return []
    silent = [layer for layer in layers if layer.log_gradient == -math.inf]
    message = (
        f"{some([layer.name for layer in blocking])}: the kernel is zero, so that all units compute"
        " the same and no gradient passes"
    )
    if len(silent) >= len(layers) - 1 and len(layers) > 1:
        message += "; nothing but the last bias can learn"
    remedy = f"draw the kernel at random: {_recommended(blocking[0])}"
    return _find("failure", "zero", blocking, message, remedy)


def _symmetry(layers: list[Layer], network: Network) -> list[Finding]:
    alike = [
        layer
        for layer in layers
        if layer.weight_square > 0
        and layer.weight_rank < 1.0001
        and layer.units > 1
        and layer.fan_in > 1
        and layer.kind != "embedding"
    ]
    if not alike:
        return []
    stuck = [layer for layer in alike if layer.gradient_rank < 1.01]
    named = stuck or alike
    constant = all(layer.weight_zeros == 0 for layer in named)
    message = (
        f"{some([layer.name for layer in named])}: all units compute the same function"
        f" ({'kernel is constant' if constant else 'kernel has rank one'})"
    )
    message += (
        "; they also get the same gradient, and will stay alike"
        if stuck
        else "; only the layers above can tell them apart"
    )
    remedy = f"draw the kernel at random: {_recommended(named[0])}"
    return _find("failure" if stuck else "warning", "symmetry", alike, message, remedy)


def _duplicates(traced: Traced, measured: Measurements) -> list[Finding]:
    names, prints = [], []
    for name, slices in zip(traced.names, measured.prints, strict=True):
        for number, row in enumerate(slices[:64]):
            if row.size < 32 or not row.std() > 0 or (row == 0).mean() > 0.5:
                continue
            names.append(f"{name or 'params'}[{number}]" if len(slices) > 1 else name or "params")
            prints.append(row.astype(np.float64))
    pairs = []
    for (i, one), (j, other) in itertools.combinations(enumerate(prints[:512]), 2):
        size = min(one.size, other.size)
        a, b = one[:size] - one[:size].mean(), other[:size] - other[:size].mean()
        if abs(a @ b) > 0.95 * math.sqrt((a @ a) * (b @ b)) > 0:
            pairs.append((names[i], names[j]))
    if not pairs:
        return []
    involved = list(dict.fromkeys(name for names in pairs for name in names))
    message = f"{some(involved)}: drawn from the same random numbers"
    remedy = "split the key, or fold the layer's name into it; initialize() does that for a tree"
    return _find("warning", "duplicate", involved, message, remedy)


def _input_scale(layers: list[Layer], network: Network) -> list[Finding]:
    entering = [
        layer for layer in layers if layer.unpredicted == "the batch" and layer.kind != "embedding"
    ]
    large = [layer for layer in entering if layer.input_square > _LARGE_INPUT]
    if large:
        rms = math.sqrt(max(layer.input_square for layer in large))
        level = "failure" if rms**2 > _VERY_LARGE_INPUT else "warning"
        message = f"the input of {some([layer.name for layer in large])} has root mean square"
        message += f" {rms:.3g}; initializers expect about 1"
        return _find(level, "input_scale", large, message, f"divide the input by {rms:.2g}")
    small = [
        layer
        for layer in entering
        if 0 < layer.input_square < _SMALL_INPUT and layer.input_largest < 0.5
    ]
    if small:
        rms = math.sqrt(min(layer.input_square for layer in small))
        message = f"the input of {some([layer.name for layer in small])} has root mean square"
        message += f" {rms:.2g}; initializers expect about 1"
        return _find("warning", "input_scale", small, message, f"divide the input by {rms:.2g}")
    return []


def _wrong_fan(layers: list[Layer], network: Network) -> list[Finding]:
    found, told = [], []
    for layer in layers:
        if layer.kind == "embedding" or not layer.whole or len(layer.shape) < 2:
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
        for mode, theirs, mine in options:
            off = not 1 / _FANS < theirs / mine < _FANS
            meant = _near(theirs * square, 1) or _near(theirs * square, 2)
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
    return _find("warning", "wrong_fan", found, message, remedy)


def _near(value: float, target: float) -> bool:
    return abs(value / target - 1) < 0.15


def _branch_scale(layers: list[Layer], network: Network) -> list[Finding]:
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
    return _find(
        "failure" if growth > _BAD_GROWTH else "warning", "branch_scale", ends, message, remedy
    )


def _gradients(layers: list[Layer], network: Network) -> list[Finding]:
    """Vanishing and exploding, by the gradient between the ends of chains."""
    worst: tuple[float, list[Layer]] = (0.0, [])
    for chain in _chains(layers):
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
    remedy = f"draw the kernels with {_recommended(middle, len(chain))}"
    if len(chain) > 30:
        remedy += ", or add normalisation or residual connections"
    cause = "vanishing" if growth < 0 else "exploding"
    return _find(level, cause, chain, message, remedy)


def _without_small_end(chain: list[Layer]) -> list[Layer]:
    """A chain without its last layer, if that is small on purpose, as a readout of zeros is."""
    *hidden, last = chain
    if last.role != "last" or len(hidden) < 2:
        return chain
    typical = float(np.median([layer.weight_variance for layer in hidden]))
    return hidden if last.weight_variance < 0.05 * typical else chain


def _forward(layers: list[Layer], network: Network) -> list[Finding]:
    """Exploding, by signals that are too large already."""
    large = [layer for layer in layers if layer.rms > 1e3 and layer.role != "last"]
    if not large:
        return []
    message = f"{some([layer.name for layer in large])}: pre-activations of {large[-1].rms:.3g}"
    remedy = f"draw the kernels with {_recommended(large[0])}"
    return _find("failure", "exploding", large, message, remedy)


def _power(log: float) -> str:
    """A factor, given by its logarithm, which may be beyond a float."""
    size = abs(log)
    return f"{math.exp(size):.3g}" if size < 600 else f"10^{size / math.log(10):.0f}"


def _chains(layers: list[Layer]) -> list[list[Layer]]:
    """The chains of layers of which each is the only input of the next, longest first."""
    followed = {layer.source for layer in layers if layer.source is not None}
    chains = []
    for row, layer in enumerate(layers):
        if row in followed or layer.source is None:
            continue
        chain, at = [layer], layer.source
        while at is not None:
            chain.append(layers[at])
            at = layers[at].source
        chains.append(chain[::-1])
    return sorted(chains, key=len, reverse=True)


def _saturated(layers: list[Layer], network: Network) -> list[Finding]:
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
    remedy = f"draw the kernels with {_recommended(worst)}"
    return _find("failure" if bad else "warning", "saturated", found, message, remedy)


def _dead(layers: list[Layer], network: Network) -> list[Finding]:
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
        remedy = f"draw the kernels with {_recommended(worst)} and start the biases at zero"
    level = "failure" if _excess(worst) > _BAD_DEAD else "warning"
    return _find(level, "dead", found, message, remedy)


def _excess(layer: Layer) -> float:
    """By how much the part of dead units is beyond what chance explains in a layer this narrow."""
    expected = 0.0 if math.isnan(layer.predicted_dead) else layer.predicted_dead
    chance = math.sqrt(max(expected, 0.05) * (1 - expected) / max(1, layer.units))
    return 0.0 if math.isnan(layer.dead) else layer.dead - expected - 3 * chance


def _collapse(layers: list[Layer], network: Network) -> list[Finding]:
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
    remedy = f"use fewer layers, or draw the kernels with {_recommended(found[0])}"
    return _find("warning", "collapse", found, message, remedy)


def _depth(layers: list[Layer], network: Network) -> list[Finding]:
    if network.depth < 8 or not network.depth > 6 * network.correlation_depth:
        return []
    (chain, *_) = _chains(layers)
    message = (
        f"{network.depth} layers are deeper than six times the correlation depth of"
        f" {network.correlation_depth:.3g}: {6 * network.correlation_depth:.3g} can be trained"
    )
    drawn = _recommended(chain[len(chain) // 2], len(chain))
    remedy = f"use fewer layers, or draw the kernels with {drawn}"
    return _find("warning", "depth", chain, message, remedy)


def _output_scale(layers: list[Layer], network: Network) -> list[Finding]:
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
    return _find(level, "output_scale", found, message, remedy)


def _update(layers: list[Layer], network: Network) -> list[Finding]:
    found = [layer for layer in layers if layer.update_ratio > _STEP]
    if not found:
        return []
    worst = max(found, key=lambda layer: layer.update_ratio)
    message = (
        f"{some([layer.name for layer in found])}: the optimizer's first step is"
        f" {worst.update_ratio:.2g} times the weights' standard deviation"
    )
    remedy = "lower the learning rate, or draw the weights at a larger scale"
    return _find("warning", "update", found, message, remedy)


_CHECKS: tuple[Callable[[list[Layer], Network], list[Finding]], ...] = (
    _batch,
    _zero,
    _symmetry,
    _input_scale,
    _wrong_fan,
    _branch_scale,
    _gradients,
    _forward,
    _saturated,
    _dead,
    _collapse,
    _depth,
    _output_scale,
    _update,
)


def network_of(measured: Measurements, layers: Sequence[Layer]) -> Network:
    """The numbers of the whole network."""
    from initjax.theory.meanfield import depth_scales

    logits = [layer for layer in layers if layer.logits]
    chains = _chains(list(layers))
    depth, correlation_depth = 0, math.nan
    if chains:
        inner = [layer for layer in chains[0] if layer.expression is not None]
        depth = len(inner)
        activation = inner[len(inner) // 2].expression if inner else None
        if activation is not None:
            gains = [layer.weight_variance for layer in inner[1:] or inner]
            biases = [layer.bias_variance for layer in inner[1:] or inner]
            try:
                scales = depth_scales(activation, float(np.median(gains)), float(np.median(biases)))
                correlation_depth = float(scales.correlation_depth)
            except (TypeError, ValueError):  # no fixed point, or no moments: theory has no answer
                pass
    ends = [layer for layer in layers if math.isfinite(layer.log_gradient)]
    growth = ends[0].log_gradient - ends[-1].log_gradient if len(ends) > 1 else math.nan
    jacobian = measured.jacobian or (math.nan, math.nan)
    return Network(
        loss=measured.loss,
        expected_loss=math.log(logits[-1].units) if logits else math.nan,
        jacobian=jacobian[0],
        jacobian_condition=jacobian[1],
        depth=depth,
        correlation_depth=correlation_depth,
        gradient_growth=math.exp(max(-700.0, min(700.0, growth))) if ends else math.nan,
    )


def _recommended(layer: Layer, depth: int = 0) -> str:
    """The initializer that keeps a signal's scale through this layer's activation."""
    name = layer.activation
    if name in ("relu", "leaky_relu", "relu6"):
        return "he_normal()"
    if name in ("tanh", "identity", "erf", "soft_sign", "hard_tanh"):
        return "orthogonal()" if depth > _DEEP else "lecun_normal()"
    if name in ("gelu", "silu", "elu", "mish", "celu"):
        return f"lecun_normal(gain={name!r})"
    if name in ("sigmoid", "softplus", "hard_sigmoid", "squareplus"):
        return f"lecun_normal(), and use tanh or relu: no scale keeps {name}'s gradient"
    return "siren()" if name.startswith("sin(") else "lecun_normal()"


def tells(params: Any) -> list[bool]:
    """Which leaves of a tree are to be trained, as far as Flax tells: not statistics or counts."""
    import sys

    import jax

    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]
    ]
    nnx = sys.modules.get("flax.nnx")
    if nnx is None:
        return [not name.startswith("batch_stats/") for name in names]
    kept: list[bool] = []
    boxes = jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, nnx.Variable))
    for box in boxes:
        boxed = isinstance(box, nnx.Variable)
        trained = not boxed or isinstance(box, nnx.Param)
        kept += [trained] * (len(jax.tree.leaves(box)) if boxed else 1)
    return [
        keep and not name.startswith("batch_stats/") for keep, name in zip(kept, names, strict=True)
    ]
