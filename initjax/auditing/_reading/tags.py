"""What is known about a value while a program is read: its tag, and how tags combine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from initjax.auditing._reading.expressions import Expression, Path


class Source(NamedTuple):
    """How a weight is made from a parameter."""

    leaf: int
    """The index of the parameter."""
    how: str = "whole"
    """'whole': the parameter itself, possibly reshaped, transposed or multiplied by a number;
    'part': some of its elements; 'nonlinear': a function that is not proportional to it."""
    stacked: tuple[Path, ...] = ()
    """The loops that take one slice along its first axis per turn, outermost first."""
    laid_out: bool = False
    """Whether it was reshaped or transposed, apart from those slices."""


class Signal(NamedTuple):
    """A value that is an elementwise function of one site's output, or a constant number."""

    site: Path | None
    """The site; None for a number."""
    expression: Expression | np.generic
    """The function; the number itself for a number."""
    layout: tuple[Path, ...] = ()
    """The equations that reshaped or transposed it. Only equal layouts can be combined."""
    axes: tuple[int, ...] | None = None
    """The current axes of the site's units; None where they are no longer known."""
    through_bias: bool = False
    """Whether the site's bias has been added."""
    earlier: bool = False
    """Whether it comes from the previous turn of a loop."""


class Softmax(NamedTuple):
    """A value that is a step of a softmax over the units of sites."""

    sites: frozenset[Path]
    """The sites that give the logits."""
    axes: tuple[int, ...]
    """The current axes of the units; none once they are summed."""
    stage: str
    """'units', 'exponentials' or 'sum': a sum of exponentials, or a value divided by it."""
    classes: int = 0
    """How many exponentials were summed."""


class Tag(NamedTuple):
    """What is known about one value."""

    leaves: frozenset[int] = frozenset()
    """The parameters that it depends on."""
    data: bool = False
    """Whether it depends on the batch."""
    batch: frozenset[int] = frozenset()
    """The inputs of the batch that it depends on."""
    sources: frozenset[Source] = frozenset()
    """How it is made from parameters, if it can serve as a weight: it depends on parameters alone,
    or has the size of a parameter and combines that one with noise, a mask or statistics."""
    signal: Signal | None = None
    lost: str = ""
    """Why it has no signal."""
    sites: frozenset[Path] = frozenset()
    """All sites upstream, within one turn of a loop."""
    near: frozenset[Path | None] = frozenset()
    """The sites directly upstream, with no other site between; None is the batch."""
    linear: bool = True
    """Whether it is proportional to the values of `near`."""
    affine: bool = True
    """Whether it is a linear function, perhaps with an offset, of the sites of `near` together."""
    statistic: bool = False
    """Whether it is a statistic of `near`, such as a mean."""
    pooled: bool = False
    """Whether examples enter it through statistics over all of them alone, as of batch
    normalization."""
    root: bool = False
    """Whether it is the square root of a statistic, or the reciprocal of one."""
    masked: Signal | None = None
    """The signal that it would be without a mask (such as dropout's) and constant factors."""
    waves: bool = False
    """Whether sines or cosines of `near` are in it."""
    softmax: Softmax | None = None
    """Which step of a softmax it is, where it has no signal."""
    once: bool = True
    """Whether it is used only once."""

    @property
    def pure(self) -> bool:
        """Whether it depends on parameters and not on data."""
        return bool(self.leaves) and not self.data

    @property
    def number(self) -> bool:
        """Whether it is a constant number."""
        return self.signal is not None and self.signal.site is None

    @property
    def behind_sites(self) -> bool:
        """Whether any site is upstream."""
        return len(self.near) > (None in self.near)


def join(tags: Sequence[Tag]) -> Tag:
    """The tag of a value that is made from several, or is any one of them."""
    first = tags[0]
    if all([other == first for other in tags[1:]]):
        return first
    return Tag(
        leaves=union([tag.leaves for tag in tags]),
        data=any([tag.data for tag in tags]),
        batch=union([tag.batch for tag in tags]),
        sources=union([tag.sources for tag in tags]),
        lost=reason(tags),
        sites=union([tag.sites for tag in tags]),
        near=union([tag.near for tag in tags]),
        linear=all([tag.linear for tag in tags]),
        affine=all([tag.affine for tag in tags]),
        statistic=any([tag.statistic for tag in tags]),
        root=any([tag.root for tag in tags]),
        waves=any([tag.waves for tag in tags]),
    )


_T = TypeVar("_T")


def union(sets: Iterable[frozenset[_T]]) -> frozenset[_T]:
    """The union of sets, without a copy where one of them holds all the others.

    In a deep network most unions are of this kind, and every copy would take time in proportion to
    depth.
    """
    largest: frozenset[_T] = frozenset()
    others = []
    for each in sets:
        if each is largest or not each:
            continue
        if len(each) > len(largest):
            largest, each = each, largest
        others.append(each)
    others = [each for each in others if not each <= largest]
    return largest.union(*others) if others else largest


def reason(tags: Sequence[Tag]) -> str:
    """Why a value made from others has no signal: the first reason that one of them has."""
    reasons = [tag.lost for tag in tags if tag.lost]
    others = [text for text in reasons if text not in ("batch", "data")]
    if len(others) < len(reasons) and any([tag.behind_sites for tag in tags]):
        return others[0] if others else "data"  # it is no longer the batch itself
    return reasons[0] if reasons else ""
