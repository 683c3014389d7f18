"""The numbers of a whole network, and the chains that its layers form."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from initjax.auditing._judging.layers import Layer
from initjax.auditing._measuring.passes import Measurements


@dataclasses.dataclass(frozen=True)
class Network:
    """What was measured of the whole network. NaN stands for not measured."""

    loss: float
    expected_loss: float
    """ln K, where the last layer gives the K logits of a softmax."""
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


def network_of(measured: Measurements, layers: Sequence[Layer]) -> Network:
    """The numbers of the whole network."""
    from initjax.theory.meanfield import depth_scales

    logits = [layer for layer in layers if layer.logits]
    chains = chains_of(list(layers))
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
        expected_loss=math.log(logits[-1].classes) if logits else math.nan,
        jacobian=jacobian[0],
        jacobian_condition=jacobian[1],
        depth=depth,
        correlation_depth=correlation_depth,
        gradient_growth=math.exp(max(-700.0, min(700.0, growth))) if ends else math.nan,
    )


def chains_of(layers: list[Layer]) -> list[list[Layer]]:
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
