"""What the weights of a layer look drawn from, for messages."""

from __future__ import annotations

from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.layers import JudgedLayer
from initjax.leaves._families import Fit, fits, numbers_of


def laws_of(evidence: Evidence, layer: JudgedLayer) -> list[Fit]:
    """The laws that fit a layer's weights, by their first few thousand numbers, simplest first."""
    prints = evidence.measured.prints[layer.leaves[0]]
    if not layer.whole or not prints.size:
        return []
    return fits(numbers_of(prints[0]))
