"""Which layers a layer's output enters."""

from __future__ import annotations

from collections.abc import Sequence

from initjax.auditing._judging.layers import Layer
from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.sites import Site


def layers_after(layer: Layer, layers: Sequence[Layer], sites: dict[Path, Site]) -> list[Layer]:
    """The layers downstream of one, in the order of execution."""
    later = layers[_row(layer, layers) + 1 :]
    return [other for other in later if _enters(layer, other, sites)]


def layers_before(layer: Layer, layers: Sequence[Layer], sites: dict[Path, Site]) -> list[Layer]:
    """The layers upstream of one, in the order of execution."""
    earlier = layers[: _row(layer, layers)]
    return [other for other in earlier if _enters(other, layer, sites)]


def ends(layers: Sequence[Layer], sites: dict[Path, Site]) -> list[Layer]:
    """The layers whose output enters no other layer: readouts, of which there may be several."""
    entered = {path for site in sites.values() for tag in site.inputs for path in tag.sites}
    return [
        layer
        for layer in layers
        if layer.path not in entered and not layers_after(layer, layers, sites)
    ]


def _row(layer: Layer, layers: Sequence[Layer]) -> int:
    return next(row for row, other in enumerate(layers) if other is layer)


def _enters(one: Layer, other: Layer, sites: dict[Path, Site]) -> bool:
    """Whether one layer's output enters another, or may do so by a loop that both are in."""
    if any(one.path in tag.sites for tag in sites[other.path].inputs):
        return True
    return bool(set(sites[one.path].loops) & set(sites[other.path].loops))
