"""What is known of a value while a computation is read: a tag, and how tags combine."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from initjax.auditing._reading.expressions import (
    LONGEST,
    Expression,
    Path,
    Signal,
    floating,
    number,
    text_of,
)


class Source(NamedTuple):
    """How a weight comes from a parameter."""

    leaf: int
    """The index of the parameter."""
    how: str = "whole"
    """'whole': the parameter itself, laid out anew or times a number; 'part': some of it;
    'nonlinear': a function of it that is not proportional to it."""
    stacked: tuple[Path, ...] = ()
    """The loops that take a slice along its first axis in every turn, outermost first."""
    laid_out: bool = False
    """Whether its axes are other ones than the parameter's, but for those slices."""


class Softmax(NamedTuple):
    """How far a value is on the way to a softmax over units."""

    sites: frozenset[Path]
    """The sites whose units they are."""
    axes: tuple[int, ...]
    """The axes along which they are, as laid out now; none once they are summed up."""
    stage: str
    """'units', 'exponentials' or 'sum': the sum of exponentials, or what is divided by it."""
    classes: int = 0
    """How many exponentials were summed."""


@dataclasses.dataclass(frozen=True)
class Tag:
    """What is known of one value."""

    leaves: frozenset[int] = frozenset()
    """The parameters that it depends on."""
    data: bool = False
    """Whether it depends on the batch."""
    batch: frozenset[int] = frozenset()
    """The inputs of the batch that it depends on."""
    sources: frozenset[Source] = frozenset()
    """How it comes from parameters: for a value of them alone, or of a parameter's size with noise,
    a mask or statistics in it that no other parameter enters."""
    signal: Signal | None = None
    lost: str = ""
    """Why there is no signal."""
    sites: frozenset[Path] = frozenset()
    """All sites upstream, within one turn of a loop."""
    near: frozenset[Path | None] = frozenset()
    """The sites upstream with no other site between; None stands for the batch itself."""
    linear: bool = True
    """Whether it is proportional to the values of the sites near."""
    statistic: bool = False
    """Whether it is a statistic, such as a mean, of the sites near."""
    root: bool = False
    """Whether it is a square root of a statistic, or one over it."""
    masked: Signal | None = None
    """The signal that it is but for a mask, as dropout's, and numbers that it is multiplied by."""
    softmax: Softmax | None = None
    """Where it is a step of a softmax and no signal."""
    once: bool = True
    """Whether it is used once."""

    @property
    def pure(self) -> bool:
        """Whether it is made of parameters alone."""
        return bool(self.leaves) and not self.data

    @property
    def number(self) -> bool:
        """Whether it is one number everywhere."""
        return self.signal is not None and self.signal.site is None


def join(tags: list[Tag]) -> Tag:
    """What is known of a value that may be any of several, or is made of all of them."""
    first, *others = tags
    if all(other == first for other in others):
        return first
    return Tag(
        leaves=frozenset().union(*(tag.leaves for tag in tags)),
        data=any(tag.data for tag in tags),
        batch=frozenset().union(*(tag.batch for tag in tags)),
        sources=frozenset().union(*(tag.sources for tag in tags)),
        lost=reason(tags),
        sites=frozenset().union(*(tag.sites for tag in tags)),
        near=frozenset().union(*(tag.near for tag in tags)),
        linear=all(tag.linear for tag in tags),
        statistic=any(tag.statistic for tag in tags),
        root=any(tag.root for tag in tags),
    )


def reason(tags: list[Tag]) -> str:
    """Why a value made of others has no signal, as far as that is why one of them has none."""
    reasons = [tag.lost for tag in tags if tag.lost]
    if any(tag.near - {None} for tag in tags):  # it is not the batch itself
        reasons = [text if text != "batch" else "data" for text in reasons]
        reasons.sort(key=lambda text: text == "data")
    return reasons[0] if reasons else ""


def applied(eqn: Any, tags: list[Tag]) -> Signal | str:
    """The signal that an elementwise equation makes of its operands', or why it makes none."""
    signals = [tag.signal for tag in tags]
    if any(signal is None for signal in signals):
        if any(tag.pure for tag in tags):
            return "parametric"
        return reason(tags) or "array"
    known: list[Signal] = [signal for signal in signals if signal is not None]
    sites = [signal for signal in known if signal.site is not None]
    if len({(s.site, s.earlier) for s in sites}) > 1:
        return "layers"
    if len({s.layout for s in sites}) > 1:
        return "units"
    inputs = tuple(signal.expression for signal in known)
    name = eqn.primitive.name
    if not sites:
        import jax

        with jax.ensure_compile_time_eval():
            operands = [
                np.asarray(value, var.aval.dtype)
                for value, var in zip(inputs, eqn.invars, strict=True)
            ]
            result = number(eqn.primitive.bind(*operands, **eqn.params))
        return "array" if result is None else Signal(None, result)
    if name == "convert_element_type":
        to, source = np.dtype(eqn.params["new_dtype"]), eqn.invars[0].aval.dtype
        if floating(to) and floating(source):
            return sites[0]
    expression = Expression(text_of(name, eqn.params, inputs), eqn.primitive, eqn.params, inputs)
    if len(expression.text) > LONGEST:
        return "long"
    return dataclasses.replace(sites[0], expression=expression)
