"""Networks without an activation, which are one linear function whatever their layers."""

from __future__ import annotations

from collections.abc import Sequence

from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding, finding, names_of
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._judging.names import some


def no_activation(evidence: Evidence) -> list[Finding]:
    """Hidden layers with nothing nonlinear before or behind them, in the whole network.

    One activation anywhere is enough: a network of six layers with a single one learns as well as
    with five. Hidden layers that are narrower than input and output are there for their low rank,
    as in matrix factorization, adapters and linear autoencoders.
    """
    layers = [layer for layer in evidence.layers if layer.kind != "embedding"]
    ends = [layer for layer in layers if layer in evidence.readouts]
    hidden = [layer for layer in layers if layer not in ends]
    # Several outputs may be multiplied with each other, as in an attention at the end.
    if not hidden or len(ends) != 1 or evidence.traced.anatomy.unread:
        return []
    if not all(layer.whole and layer.uses == 1 for layer in layers):
        return []
    if not all(tag.affine for layer in layers for tag in layer.site.inputs):
        return []
    if min(layer.site.size for layer in hidden) < _rank(layers, ends[0]):
        return []
    message = (
        f"No activation follows {some(names_of(hidden))}, so the whole network is a linear function"
        f" of its input, which {ends[0].name} could compute alone"
    )
    remedy = f"Apply an activation, such as relu, to the output of {some(names_of(hidden))}"
    return finding("warning", "no_activation", hidden, message, remedy)


def _rank(layers: Sequence[JudgedLayer], end: JudgedLayer) -> float:
    """The largest rank that a linear function from the input to the output can have."""
    paths = {layer.path for layer in layers}
    inputs = sum(
        layer.site.size * layer.fan_in / layer.fan_out
        for layer in layers
        if all(paths.isdisjoint(tag.near) for tag in layer.site.inputs)  # the first
    )
    return min(inputs, end.site.size)
