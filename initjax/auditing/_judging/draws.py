"""What the weights of a layer look drawn from, for messages and remedies."""

from __future__ import annotations

import math

from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.layers import JudgedLayer
from initjax.leaves._families import Fit, fits, numbers_of, rounding_of
from initjax.leaves._rules import Named, named


def law_of(evidence: Evidence, layer: JudgedLayer) -> Fit | None:
    """The law of a layer's weights, if it is sure: from their first numbers, some thousand.

    Its standard deviation is that of all of them.
    """
    leaf = layer.leaves[0]
    prints = evidence.measured.prints[leaf]
    if not layer.whole or not prints.size or layer.weight_square <= 0:
        return None
    found = fits(numbers_of(prints[0][None]))
    if len(found) != 1:
        return None
    stddev = math.sqrt(max(0.0, layer.weight_square - found[0].mean ** 2))
    return found[0]._replace(stddev=stddev)


def rules_of(evidence: Evidence, layer: JudgedLayer) -> Named | None:
    """The initializers that a layer's weights look drawn from; None if their law isn't sure.

    Each rule says how it counts fans. `coincidence` is how likely a scale fits one by chance.
    """
    fit = law_of(evidence, layer)
    if fit is None:
        return None
    leaf = layer.leaves[0]
    rounding = rounding_of(evidence.traced.shapes[leaf].dtype)
    bounded = math.isfinite(fit.high) and fit.law.startswith("uniform")
    size = evidence.measured.prints[leaf][0].size if bounded else math.prod(layer.shape)
    return named(fit, size, rounding, layer.shape)
