"""The numbers of a whole network."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from initjax.auditing._judging.graph import Chain
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._measuring.passes import Measurements
from initjax.auditing._reading.expressions import Expression
from initjax.auditing._reading.terms import Losses


@dataclasses.dataclass(frozen=True)
class Network:
    """What was measured of the whole network. NaN means not measured."""

    loss: float
    """The loss on this batch."""
    expected_loss: float
    """The loss of guessing: ln K, if the last layer gives the K logits of a softmax."""
    jacobian: float
    """The mean square of the singular values of the last layer's output by the first's."""
    jacobian_condition: float
    """The ratio of the largest to the smallest singular value within four random directions."""
    depth: int
    """How many layers, each before an activation, the longest chain has that theory predicts."""
    correlation_depth: float
    """xi_c: the number of layers in which the difference of two inputs shrinks by a factor e. A
    chain can be trained up to about six times that depth."""
    gradient_growth: float
    """The squared norm of the gradient at the first layer, divided by that at the last."""


def network_of(
    losses: Losses, measured: Measurements, layers: Sequence[JudgedLayer], chains: Sequence[Chain]
) -> Network:
    """The numbers of the whole network."""
    depth, correlation_depth = 0, math.nan
    if chains:
        inner = [layer for layer in chains[0] if layer.expression is not None]
        depth = len(inner)
        activation = inner[len(inner) // 2].expression if inner else None
        if activation is not None:
            gains = [layer.weight_variance for layer in inner[1:] or inner]
            biases = [layer.bias_variance for layer in inner[1:] or inner]
            medians = float(np.median(gains)), float(np.median(biases))
            correlation_depth = _correlation_depth(activation, *medians)
    ends = [layer for layer in layers if math.isfinite(layer.log_gradient)]
    growth = ends[0].log_gradient - ends[-1].log_gradient if len(ends) > 1 else math.nan
    jacobian = measured.jacobian or (math.nan, math.nan)
    return Network(
        loss=measured.loss,
        expected_loss=_expected_loss(losses, layers),
        jacobian=jacobian[0],
        jacobian_condition=jacobian[1],
        depth=depth,
        correlation_depth=correlation_depth,
        gradient_growth=math.exp(max(-700.0, min(700.0, growth))) if ends else math.nan,
    )


def _expected_loss(losses: Losses, layers: Sequence[JudgedLayer]) -> float:
    """The loss of guessing; NaN if the loss is no mean of a cross entropy, as with a policy's."""
    terms = [term for term in losses.terms if term.kind == "cross entropy"]
    classes = [term.classes for term in terms if term.guess]
    if not terms and not losses.whole:
        classes = [layer.site.classes for layer in layers if layer.logits][-1:]
    return math.log(classes[0]) if classes else math.nan


@functools.lru_cache(maxsize=256)
def _correlation_depth(activation: Expression, gain: float, bias: float) -> float:
    from initjax.theory.meanfield import depth_scales

    try:
        return float(depth_scales(activation, gain, bias).correlation_depth)
    except (TypeError, ValueError):  # no fixed point, or no moments: theory has no answer
        return math.nan
