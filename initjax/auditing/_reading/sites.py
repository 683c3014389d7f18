"""Sites: the places in a program where parameters enter.

A site is a matrix product, convolution or embedding with one operand made from parameters and the
other from data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Literal, NamedTuple

from initjax.auditing._reading.expressions import Expression, Path
from initjax.auditing._reading.tags import Source, Tag
from initjax.auditing._reading.terms import Losses
from initjax.auditing._reading.watches import Watch

Loops = tuple[tuple[Path, int | None], ...]


@dataclasses.dataclass
class Site:
    """One place where parameters enter."""

    path: Path
    kind: str
    """'dense', 'convolution' or 'embedding'."""
    weight: int
    """Which operand is the weight."""
    sources: frozenset[Source]
    unit_axes: tuple[int, ...]
    """The axes of the output that number the units."""
    weight_units: tuple[int, ...]
    """The axes of the weight that number the units, in the same order."""
    members: int
    """How many of these axes, counted from the first, number parallel layers, as under vmap."""
    fan_in: float
    """How many products a unit sums, averaged over positions; padding does not count."""
    fan_out: float
    """How many products an input enters, on average."""
    loops: Loops
    """The loops around it, outermost first, with their lengths; None for a while loop."""
    backward: frozenset[Path]
    """The loops among them that start with the last slice."""
    scopes: tuple[Path, ...]
    """The loops, branches and recomputed parts around it, outermost first."""
    inputs: list[Tag]
    """What is known about its data: in the first turn of a loop, and in later turns."""
    size: int
    """How many elements its output has."""
    output: Path
    """The equation whose result is the pre-activation: the last that adds a bias or multiplies
    by a number."""
    features: tuple[int, ...] = ()
    """The axes of its input that it sums over, without those of a window."""
    output_axes: tuple[int, ...] = ()
    """The axes of the pre-activation that number the units."""
    ruled: bool = False
    """Whether its output is inside a function with its own differentiation rule."""
    scale: float = 1.0
    """The number that multiplies the product."""
    bias: int | None = None
    """Which operand of the equation `output` is the bias, if it adds one."""
    bias_sources: frozenset[Source] = frozenset()
    added: bool = False
    """Whether its output is added to other data, as at the end of a residual branch."""
    residual: bool = False
    """Whether those data are upstream of its own input."""
    scaled: bool = False
    """Whether its output is added to such data after a learned scale, as with LayerScale."""
    streams: bool = False
    """Whether those data come from sites and not only from the batch, which may hold a target."""
    normalized: bool = False
    """Whether its output is normalized, so that its scale does not matter."""
    classes: int = 0
    """How many of its units are the logits of one softmax that a logarithm follows."""
    activation: Expression | None = None
    """What is applied to the pre-activation where another site reads it. If no site reads it
    directly, what is applied where it stops being a function of this site alone."""
    gate: Expression | None = None
    """What is applied to it where another layer multiplies it."""
    readers: set[Path] = dataclasses.field(default_factory=set)
    """The sites that read it through an activation."""
    mixed: set[Expression | None] = dataclasses.field(default_factory=set)
    """What is applied to it where it meets other values: in a pool, a sum, a mask or a norm. None
    for a part of the units, and where another layer multiplies it."""
    reduced: set[Expression | None] = dataclasses.field(default_factory=set)
    """The same where it is only reduced, possibly to a statistic for a norm."""

    def copy(self) -> Site:
        return dataclasses.replace(
            self,
            inputs=list(self.inputs),
            readers=set(self.readers),
            mixed=set(self.mixed),
            reduced=set(self.reduced),
        )

    @property
    def reads_batch(self) -> bool:
        """Whether its input is made from the batch alone."""
        return all(tag.near == {None} for tag in self.inputs)

    @property
    def softmax(self) -> bool:
        """Whether its units are logits: a softmax and a logarithm follow."""
        return self.classes > 0

    @property
    def gates(self) -> bool:
        """Whether its output, or a part of it, is multiplied by another layer's."""
        return None in self.mixed

    @property
    def stacked(self) -> frozenset[Path]:
        """The loops that give it a different weight in every turn."""
        return frozenset(loop for source in self.sources for loop in source.stacked)

    def slices(self, source: Source) -> int:
        """How many leading axes of a parameter number separate weights: of turns and of members.

        Members count if their axes come first in the parameter, as in the weight.
        """
        lead = self.weight_units[: self.members] == tuple(range(self.members))
        side = self.members if lead and source.how == "whole" and not source.laid_out else 0
        return len(source.stacked) + side

    @property
    def differentiable(self) -> bool:
        """Whether JAX's gradient of the loss includes the gradient of its output."""
        return not self.ruled and all(length is not None for _, length in self.loops)


@dataclasses.dataclass(frozen=True)
class AttentionSite:
    """Where an attention is in a program."""

    path: Path
    """The equation of its exponentials."""
    loops: Loops
    """The loops around it, outermost first, with their lengths; None for a while loop."""
    query_sites: frozenset[Path]
    """The layers behind the queries; none for queries that are parameters, and where one layer
    gives the scores, as in additive attention."""
    key_sites: frozenset[Path]
    value_sites: frozenset[Path]
    head_size: int
    """How many products a score sums; 0 if it is not a product of queries and keys."""


class Step(NamedTuple):
    """How tokens are made from others."""

    kind: Literal["unknown", "sum", "scale", "norm", "layer", "activated", "product", "attention"]
    inputs: tuple[int, ...] = ()
    """The numbers of earlier steps; of the values, for an attention."""
    path: Path = ()
    """Of a layer, or of an attention."""
    activation: Expression | None = None
    number: float = 1.0
    """What a scale multiplies by."""


class Blocks(NamedTuple):
    """The blocks between attentions of a program, or of the body of a loop."""

    steps: tuple[Step, ...]
    tokens: tuple[tuple[Path, int], ...]
    """Attentions, and the steps that give their tokens."""
    carried: tuple[tuple[int, int], ...]
    """In a loop: the steps of what it carries, before and after a turn."""


@dataclasses.dataclass
class Anatomy:
    """What reading a program has found."""

    sites: dict[Path, Site]
    """In the order of execution."""
    unread: dict[str, frozenset[int]]
    """Descriptions of what could not be read, and the parameters that enter there."""
    leaves: frozenset[int]
    """The parameters that the results depend on."""
    factors: frozenset[int] = frozenset()
    """The parameters that multiply what sites give, as the scale of a norm does."""
    losses: Losses = dataclasses.field(default_factory=Losses)
    """What the loss is made of."""
    watches: dict[Hashable, Watch] = dataclasses.field(default_factory=dict)
    """Values to be measured besides those of sites."""
    attentions: tuple[AttentionSite, ...] = ()
    """In the order of execution. Those that can be measured have a watch under their path."""
    blocks: tuple[Blocks, ...] = ()
    """How the tokens of these attentions are made."""
