"""Checks of how gradients go through the layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from initjax.auditing._activations import recommended
from initjax.auditing._judging.blocked import blocked
from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding, finding, names_of
from initjax.auditing._judging.graph import Chain, lone_parts
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._judging.names import some
from initjax.auditing._judging.numbers import plain, plain_power
from initjax.auditing._reading.expressions import IDENTITY, bare

_RATIO, _BAD_RATIO = 1e3, 1e6  # of squared norms of gradients between the ends of a chain
# In a shallow network whose kernels are all too small, SGD at the best rate stands still for about
# r^((L - 2) / (2 (L - 1))) / (L - 2) steps, if r is that ratio and L the number of layers: the law
# of Saxe et al. 2014, within 40% in trainings of 3 to 5 layers, where Adam loses nothing. It loses
# a factor of 2 at 10^6 with 7 layers, and at 10^3 with 10 layers.
_PLATEAU = 300.0  # steps
_SHALLOW, _DEEP = 5, 10  # layers
_UNEVEN = 100.0  # squared: ten times the gradient for some weights, from which on Adam is needed
_LARGE_SIGNAL = 1e3  # root mean square
_LARGE_GAIN = 10.0  # five times that of he_normal
# Mean square of what a softmax between layers gives, where initializers expect about 1. What its
# layer learns in a step shrinks by this factor on the way to the output, and by as much again with
# the gradient: together by 1e-3, from where on inputs are too small as well.
_SQUEEZED = 0.03


def vanishing(evidence: Evidence) -> list[Finding]:
    """Gradients that shrink along a chain, or that nothing lets through."""
    return [
        *_gradients(evidence, "vanishing"),
        *blocked(evidence, "vanishing"),
        *_squeezed(evidence),
    ]


def exploding(evidence: Evidence) -> list[Finding]:
    """Gradients that grow along a chain, or signals that are too large already."""
    return [*_gradients(evidence, "exploding"), *_large_signals(evidence)]


def _gradients(evidence: Evidence, cause: Literal["vanishing", "exploding"]) -> list[Finding]:
    """The change of the gradient between the ends of the chain where it is largest."""
    growth, limit = 0.0, 1.0
    chain: Sequence[JudgedLayer] = ()
    for whole in evidence.chains:
        for part in lone_parts(whole, evidence.layers):
            growth_of_part = _growth(part)
            limit_of_part = _limit(growth_of_part, part)
            if abs(growth_of_part) / limit_of_part > abs(growth) / limit:
                growth, limit, chain = growth_of_part, limit_of_part, part
    bad = limit + math.log(_BAD_RATIO / _RATIO)
    if not chain:
        chain = _ends(evidence)
        if len(chain) < 3:
            return []
        growth = _typical(chain[0], chain[-1])
        limit = bad = _limit(growth, chain) + math.log(_BAD_RATIO / _RATIO)
    if abs(growth) < limit or cause != ("vanishing" if growth < 0 else "exploding"):
        return []
    if growth > 0 and growth - _by_logits(chain) < limit:
        return []
    level = "failure" if abs(growth) > bad else "warning"
    hidden = [layer for layer in chain if layer.activation] or chain
    middle = hidden[len(hidden) // 2]
    remedy = f"Draw the kernels with {recommended(middle.activation, len(chain))}"
    if len(chain) > 30:
        remedy += ", or add normalization or residual connections"
    if 0 < growth < limit + _by_the_end(chain, evidence):
        remedy = smaller_end(math.exp(_by_the_end(chain, evidence) / 2))
    return finding(level, cause, chain, _slower(chain, hidden, middle), remedy)


def smaller_end(factor: float) -> str:
    """The remedy for a last kernel that is too large by a factor."""
    return f"Divide the last kernel by {max(2.0, float(f'{factor:.2g}')):g}, or start it at zero"


def _squeezed(evidence: Evidence) -> list[Finding]:
    """A softmax as the activation of a hidden layer.

    A layer behind it that has no biases and no activation may hold vectors to average, such as
    topics, codes or memories.
    """
    for squeeze in evidence.traced.squeezes:
        layers = evidence.layers_at({squeeze.layer})
        readers = evidence.layers_at(squeeze.readers)
        usual = [
            reader.input_square < _SQUEEZED
            and reader.role in ("", "last")
            and (reader.site.bias is not None or _bends(reader))
            for reader in readers
        ]
        if not layers or not readers or not all(usual):
            continue
        size = math.sqrt(readers[0].input_square)
        message = (
            f"A softmax over its {squeeze.units} units follows {some(names_of(layers))}, so"
            f" {some(names_of(readers))} gets inputs of root mean square {plain(size)}, and the"
            " gradient shrinks as much on its way back; initializers expect inputs of about 1"
        )
        remedy = "Between layers, apply an elementwise activation such as relu instead of softmax"
        return finding("warning", "vanishing", [*layers, *readers], message, remedy)
    return []


def _bends(layer: JudgedLayer) -> bool:
    return layer.expression is not None and bare(layer.expression) != IDENTITY


def _by_logits(chain: Chain) -> float:
    """The part of a growth that a large kernel of logits causes alone: `output_scale` reports it,
    and no other kernels would remove it."""
    return _log_gain(chain[-1]) if chain[-1].site.softmax else 0.0


def _by_the_end(chain: Chain, evidence: Evidence) -> float:
    """The part of a growth that the kernel of an output causes alone."""
    return _log_gain(chain[-1]) if chain[-1].name in names_of(evidence.readouts) else 0.0


def _log_gain(layer: JudgedLayer) -> float:
    """By how much a layer makes gradients grow, as a logarithm; 0 if it doesn't."""
    return math.log(max(1.0, layer.weight_variance))


def _limit(growth: float, chain: Chain) -> float:
    """The logarithm of the ratio by which gradients may grow or shrink along a chain."""
    deep, layers = math.log(_RATIO), len(chain)
    if growth > 0 or layers >= _DEEP:
        return deep
    few = max(3, min(layers, _SHALLOW))
    # Of the activation, squared: by as much less do weights move the output.
    slopes = [layer.predicted_gradient_ratio / (layer.weight_variance or 1) for layer in chain[:-1]]
    slope = float(np.median([min(1.0, slope) for slope in slopes if slope > 0] or [1.0]))
    plateau = math.log(max(1.0, _PLATEAU * slope * (few - 2))) * 2 * (few - 1) / (few - 2)
    plateau = max(deep, plateau)
    return plateau + (deep - plateau) * max(0, layers - _SHALLOW) / (_DEEP - _SHALLOW)


def _slower(chain: Chain, hidden: Sequence[JudgedLayer], middle: JudgedLayer) -> str:
    """How much the gradient changes on its way back through a chain, and what that does."""
    first, last, steps = chain[0], chain[-1], len(chain) - 1
    growth = first.log_gradient - last.log_gradient
    if not math.isfinite(growth):
        growth = _predicted(chain)
    message = (
        f"From {last.name} back to {first.name}, the gradient"
        f" {'shrinks' if growth < 0 else 'grows'} {plain_power(abs(growth) / 2)} times"
    )
    if steps > 1:
        each = math.exp(max(-700.0, growth / steps))
        predicted = middle.predicted_gradient_ratio
        expected = f"; theory: {plain(predicted)}" if math.isfinite(predicted) else ""
        message += f" (each layer multiplies its square by {plain(each)}{expected})"
    message += f", so {_consequence(growth, first, last)}"
    gain = float(np.median([layer.weight_variance for layer in hidden]))
    message += f"; the median gain is {plain(gain)}"
    return message + (f" before {middle.activation}" if middle.activation else "")


def _consequence(growth: float, first: JudgedLayer, last: JudgedLayer) -> str:
    """What a gradient that shrinks or grows does to the weights, by the size of their gradients:
    the product of that of a layer's output and of its input."""
    inputs = first.input_square / last.input_square if last.input_square > 0 else math.nan
    weights = growth + math.log(inputs) if inputs > 0 else growth
    if growth < 0:
        if weights < -math.log(_UNEVEN):
            return f"{first.name} learns much more slowly than {last.name}"
        return "all layers learn slowly: their inputs shrink as much on the way forward"
    if weights > math.log(_UNEVEN):
        return f"no learning rate suits both {first.name} and {last.name}"
    return "small steps change the output far too much"


def _growth(chain: Chain) -> float:
    """The logarithm of the gradient's squared norm at a chain's first layer by that at its last.

    One kernel that is much smaller than the others does no harm: the gradient of its own weights is
    as large as ever, so it is learned first, as a readout of zeros is. So the step of the gradient
    that shrinks it most counts as one of the others do.
    """
    steps = [_typical(one, other) for one, other in itertools.pairwise(chain)]
    growth = sum(steps)
    if not math.isfinite(growth):  # behind a kernel of zeros there is nothing to measure
        return _predicted(chain)
    smallest = min(steps)
    if growth >= 0 or smallest >= 0:
        return growth
    steps.remove(smallest)
    return growth - smallest + (min(0.0, float(np.median(steps))) if steps else 0.0)


def _typical(one: JudgedLayer, other: JudgedLayer) -> float:
    """The logarithm of the ratio of two gradients' squared norms.

    Judged by the median example, where that says less: a row of zeros that a normalization
    amplifies, or one hard example, may outweigh a whole batch.
    """
    mean = one.log_gradient - other.log_gradient
    median = one.log_typical - other.log_typical
    if not math.isfinite(median):
        return mean
    if mean * median < 0:
        return 0.0
    return min(mean, median, key=abs)


def _predicted(chain: Chain) -> float:
    ratios = [layer.predicted_gradient_ratio for layer in chain[:-1]]
    return sum(math.log(ratio) if ratio > 0 else math.nan for ratio in ratios)


def _ends(evidence: Evidence) -> Chain:
    """The layers that get a gradient, for networks without a chain.

    Not those of side branches, such as adapters, which pass by what enters them, not queries and
    keys, whose gradient is small wherever scores are, and not a readout at the end that is small on
    purpose.
    """
    aside = {
        layer.path
        for chain in evidence.chains
        for part in lone_parts(chain, evidence.layers)
        if part[-1].role in ("branch end", "sum")
        for layer in part
    }
    scoring = {layer.path for each in evidence.attention for layer in each.queries}
    scoring -= {path for each in evidence.attention for path in each.site.value_sites}
    layers = [
        layer
        for layer in evidence.layers
        if math.isfinite(layer.log_gradient) and layer.path not in aside | scoring
    ]
    ends = set(names_of(evidence.readouts))
    while len(layers) > 2 and layers[-1].name in ends and _small(layers[-1], layers[:-1]):
        layers.pop()
    return tuple(layers)


def _small(end: JudgedLayer, others: Sequence[JudgedLayer]) -> bool:
    typical = float(np.median([layer.weight_variance for layer in others]))
    return end.weight_variance < 0.05 * typical


def _large_signals(evidence: Evidence) -> list[Finding]:
    outputs = set(names_of(evidence.readouts))  # may be as large as their targets
    large = [
        layer
        for layer in evidence.layers
        if layer.rms > _LARGE_SIGNAL
        and layer.role not in ("last", "normalized")
        and layer.name not in outputs
    ]
    if not large:
        return []
    message = f"The outputs of {some(names_of(large))} have root mean square"
    message += f" {plain(large[-1].rms)}"
    before = itertools.takewhile(lambda layer: layer is not large[-1], evidence.layers)
    growing = [layer for layer in (*before, large[-1]) if _grows(layer)] or large
    if growing is not large:
        gain = float(np.median([layer.weight_variance for layer in growing]))
        message += f"; the kernels of {some(names_of(growing))} make signals grow, with a median"
        message += f" gain of {plain(gain)}"
    remedy = f"Draw the kernels with {recommended(growing[0].activation)}"
    return finding("failure", "exploding", growing, message, remedy)


def _grows(layer: JudgedLayer) -> bool:
    """Whether a layer makes a signal much larger, by its kernel, and nothing undoes that."""
    size = math.sqrt(layer.input_square)
    return layer.weight_variance > _LARGE_GAIN and layer.rms > 3 * size and not layer.role
