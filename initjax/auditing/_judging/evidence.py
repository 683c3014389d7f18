"""Everything that the checks judge by."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from initjax.auditing._judging.assemble import layers
from initjax.auditing._judging.attention import JudgedAttention, attentions_of
from initjax.auditing._judging.blocks import through_blocks
from initjax.auditing._judging.graph import Chain, chains_of, readouts_of
from initjax.auditing._judging.layers import JudgedLayer, that_ran
from initjax.auditing._judging.names import Parameter
from initjax.auditing._judging.network import Network, network_of
from initjax.auditing._measuring.passes import Measurements
from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.trace import Traced


@dataclasses.dataclass(frozen=True)
class Evidence:
    """All that judging needs. A check is a function of it that returns findings."""

    traced: Traced
    measured: Measurements
    all_layers: tuple[JudgedLayer, ...]
    """In the order of execution."""
    layers: tuple[JudgedLayer, ...]
    """Those that ran; their sources are numbered among them."""
    network: Network
    chains: tuple[Chain, ...]
    """Chains of layers of which each is the only input of the next, longest first."""
    readouts: tuple[JudgedLayer, ...]
    """The layers whose output enters no other layer."""
    attention: tuple[JudgedAttention, ...]
    """In the order of execution."""
    nan: tuple[str, ...]
    """The parts of the batch that hold NaN."""
    infinite: tuple[str, ...]
    """The parts of the batch that hold infinite numbers."""
    trainable: tuple[bool, ...]
    """Which parameters are to be trained."""

    def parameter(self, index: int, slice: tuple[int, ...] = ()) -> Parameter:
        """A parameter, or one slice of it."""
        return Parameter(index, self.traced.names[index], slice)

    def layers_at(self, paths: Collection[Path]) -> list[JudgedLayer]:
        """The layers at these places of the program."""
        return [layer for layer in self.layers if layer.path in paths]


def gather(
    traced: Traced,
    measured: Measurements,
    nan: Sequence[str],
    infinite: Sequence[str],
    trainable: Sequence[bool],
) -> Evidence:
    """Collects the evidence of one pass.

    Args:
      traced: the program.
      measured: what the pass found.
      nan: the parts of the batch that hold NaN.
      infinite: the parts of the batch that hold infinite numbers.
      trainable: which parameters are to be trained.
    """
    found = layers(traced, measured)
    ran = that_ran(found)
    chains = chains_of(ran)
    return Evidence(
        traced=traced,
        measured=measured,
        all_layers=tuple(found),
        layers=ran,
        network=network_of(traced.anatomy.losses, measured, ran, chains),
        chains=chains,
        readouts=readouts_of(ran),
        attention=through_blocks(traced.anatomy.blocks, attentions_of(traced, measured, ran), ran),
        nan=tuple(nan),
        infinite=tuple(infinite),
        trainable=tuple(trainable),
    )
