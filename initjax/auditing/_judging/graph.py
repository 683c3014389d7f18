"""Which layers a layer's output enters, and the chains that layers form."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Sequence

from initjax.auditing._judging.layers import JudgedLayer

Chain = tuple[JudgedLayer, ...]


def layers_after(layer: JudgedLayer, layers: Sequence[JudgedLayer]) -> Chain:
    """The layers downstream of one, in the order of execution."""
    return tuple(other for other in layers if other.row > layer.row and _enters(layer, other))


def layers_before(layer: JudgedLayer, layers: Sequence[JudgedLayer]) -> Chain:
    """The layers upstream of one, in the order of execution."""
    return tuple(other for other in layers if other.row < layer.row and _enters(other, layer))


def readouts_of(layers: Sequence[JudgedLayer]) -> Chain:
    """The layers whose output enters no other layer, of which there may be several."""
    entered = {path for layer in layers for tag in layer.site.inputs for path in tag.sites}
    return tuple(
        layer for layer in layers if layer.path not in entered and not layers_after(layer, layers)
    )


def chains_of(layers: Sequence[JudgedLayer]) -> tuple[Chain, ...]:
    """The chains of layers of which each is the only input of the next, longest first."""
    followed = {layer.source for layer in layers}
    chains = []
    for number, layer in enumerate(layers):
        if number in followed or layer.source is None:
            continue
        chain, at = [layer], layer.source
        while at is not None:
            chain.append(layers[at])
            at = layers[at].source
        chains.append(tuple(chain[::-1]))
    return tuple(sorted(chains, key=len, reverse=True))


def lone_parts(chain: Chain, layers: Sequence[JudgedLayer]) -> list[Chain]:
    """The parts of a chain in which each layer is read by nothing but the next.

    What is also added to a residual stream, masked or read by another layer gets gradients from
    there, too: those of the next layer alone say nothing about it.
    """
    known = {
        (layer.path, layers[layer.source].path) for layer in layers if layer.source is not None
    }
    uses = collections.Counter(layer.source for layer in layers)
    numbers = {layer.row: number for number, layer in enumerate(layers)}

    def alone(layer: JudgedLayer) -> bool:
        site = layer.site
        readers = all((reader, site.path) in known for reader in site.readers)
        return readers and uses[numbers[layer.row]] == 1 and not site.mixed and not site.added

    parts = [[chain[0]]]
    for layer, following in itertools.pairwise(chain):
        if alone(layer):
            parts[-1].append(following)
        else:
            parts.append([following])
    return [tuple(part) for part in parts if len(part) > 1]


def _enters(one: JudgedLayer, other: JudgedLayer) -> bool:
    """Whether one layer's output enters another, or may do so through a loop around both."""
    if any(one.path in tag.sites for tag in other.site.inputs):
        return True
    return bool(set(one.site.loops) & set(other.site.loops))
