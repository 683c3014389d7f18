"""What a loss is made of, as far as it can be read."""

from __future__ import annotations

from typing import Literal, NamedTuple

from initjax.auditing._reading.expressions import Path

Kind = Literal["cross entropy", "binary cross entropy", "logarithm", "distance"]
"""A logarithm is that of a number which is clipped, and neither a sigmoid nor a softmax."""


class OutputShape(NamedTuple):
    """What statistics of outputs depend on besides the numbers."""

    range: tuple[float, float]
    """The range that the outputs can have; of a cross entropy, the logits."""
    shape: tuple[int, ...]


class Term(NamedTuple):
    """One term of a loss: what the model gives there, and what it is compared with."""

    kind: Kind
    layers: frozenset[Path]
    """The sites that the outputs are made of, with no other site between."""
    range: tuple[float, float]
    """The range that the outputs can have; of a cross entropy, the logits."""
    bound: str
    """What limits that range, such as 'tanh'; "" if nothing does."""
    classes: int
    """How many classes a cross entropy has."""
    guess: bool
    """Whether the loss has the mean of a cross entropy in it: then guessing gives ln(classes)."""
    given: bool
    """Whether the targets are given by the batch or drawn, and not computed by another model."""
    noisy: bool
    """Whether the targets may lie anywhere around the outputs: the distance is divided by a learned
    standard deviation, as in a likelihood, or multiplied by an advantage, which has either sign, or
    the targets are made from outputs of the model."""
    watch: str
    """The watch of the outputs, and of the targets or labels if there are any."""


class Exponential(NamedTuple):
    """An exponential of what layers give, such as of the logarithm of a standard deviation."""

    layers: frozenset[Path]
    watch: str
    """Of the exponent."""


class Choice(NamedTuple):
    """A choice of one of two formulas by a label."""

    layers: frozenset[Path]
    watch: str
    """Of the labels, and of which formula they choose."""


class Risk(NamedTuple):
    """An operation of the loss that is not defined for all numbers that may enter it."""

    name: str
    """Of its primitive."""
    twice: bool
    """Whether it is the logarithm of a number that is never positive, such as a logarithm."""
    layers: frozenset[Path]
    watch: str


class Losses(NamedTuple):
    """What a loss is made of."""

    terms: tuple[Term, ...] = ()
    cuts: tuple[str, ...] = ()
    """What no gradient passes on the way back from the loss: 'softmax over one unit', or the name
    of a primitive."""
    risks: tuple[Risk, ...] = ()
    """In the order of execution."""
    exponentials: tuple[Exponential, ...] = ()
    choices: tuple[Choice, ...] = ()
    whole: bool = True
    """Whether all of it was read, and no part is in a branch, say."""
