"""Sites: the places in a computation where parameters enter.

A site is a matrix product, convolution or embedding of which one operand is made of parameters and
the other of data.
"""

from __future__ import annotations

import dataclasses

from initjax.auditing._reading.expressions import Expression, Path
from initjax.auditing._reading.tags import Source, Tag


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
    """The axes of the output along which the units are."""
    weight_units: tuple[int, ...]
    """The axes of the weight along which the units are, in the same order."""
    members: int
    """How many of these axes, the first, are those of layers side by side, as under vmap."""
    fan_in: float
    """How many products a unit sums, on average over positions: padding does not count."""
    fan_out: float
    """How many products an input enters, on average."""
    loops: tuple[tuple[Path, int | None], ...]
    """The loops around it, outermost first, with their lengths; None for a while loop."""
    backward: frozenset[Path]
    """Those of them that take the last slice first."""
    scopes: tuple[Path, ...]
    """The loops, branches and recomputed parts around it, outermost first."""
    inputs: list[Tag]
    """What is known of the data it takes: in the first turn of a loop, and in later ones."""
    size: int
    """How many numbers its output has."""
    output: Path
    """The equation whose result is the pre-activation: the last that adds a bias or multiplies
    by a number."""
    output_axes: tuple[int, ...] = ()
    ruled: bool = False
    """Whether its output is inside of a function with a rule of differentiation of its own."""
    scale: float = 1.0
    """The number by which the product is multiplied."""
    bias: int | None = None
    """Which operand of that equation is the bias, if it adds one."""
    bias_sources: frozenset[Source] = frozenset()
    added: bool = False
    """Whether its output is added to other data, as at the end of a residual branch."""
    residual: bool = False
    """Whether what it is added to is upstream of its own input."""
    streams: bool = False
    """Whether sites give that, and not the batch alone, which may be a target."""
    normalised: bool = False
    """Whether its output is normalised, so that its scale does not count."""
    classes: int = 0
    """How many of its units are the logits of one softmax, as the logarithm that follows shows."""
    activation: Expression | None = None
    """What is applied to the pre-activation where another site reads it, or else where it ceases to
    be a function of this site alone on the way to one."""
    readers: set[Path] = dataclasses.field(default_factory=set)
    """The sites that read it through an activation."""
    mixed: set[Expression | None] = dataclasses.field(default_factory=set)
    """What is applied to it where it meets other numbers: in a pool, a sum, a mask or a norm. None
    for a part of the units, and for what another layer multiplies."""
    reduced: set[Expression | None] = dataclasses.field(default_factory=set)
    """The same where it is only summed up: this may be a statistic for a norm."""

    def copy(self) -> Site:
        return dataclasses.replace(
            self,
            inputs=list(self.inputs),
            readers=set(self.readers),
            mixed=set(self.mixed),
            reduced=set(self.reduced),
        )

    @property
    def softmax(self) -> bool:
        """Whether its output enters a softmax and a logarithm: it gives logits."""
        return self.classes > 0

    @property
    def stacked(self) -> frozenset[Path]:
        """The loops that give it a weight of its own in every turn."""
        return frozenset(loop for source in self.sources for loop in source.stacked)

    def slices(self, source: Source) -> int:
        """How many leading axes of a parameter number weights of their own: of turns, of members.

        Members count where their axes lead in the parameter as they do in the weight.
        """
        lead = self.weight_units[: self.members] == tuple(range(self.members))
        side = self.members if lead and source.how == "whole" and not source.laid_out else 0
        return len(source.stacked) + side

    @property
    def differentiable(self) -> bool:
        """Whether the gradient with respect to its output is one of the loss's own."""
        return not self.ruled and all(length is not None for _, length in self.loops)


@dataclasses.dataclass
class Anatomy:
    """What reading a computation found."""

    sites: dict[Path, Site]
    """In the order of execution."""
    unread: dict[str, frozenset[int]]
    """What could not be read, as a text, and the parameters that enter there."""
    leaves: frozenset[int]
    """The parameters that the results depend on."""
