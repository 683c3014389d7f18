"""The rule for elementwise equations: activations, biases, masks, sums of layers and norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from initjax.auditing._reading.expressions import (
    IDENTITY,
    LONGEST,
    Expression,
    Path,
    bare,
    floating,
    number,
    text_of,
)
from initjax.auditing._reading.primitives import Primitive
from initjax.auditing._reading.state import Reading
from initjax.auditing._reading.tags import Signal, Tag, reason

_ADDITIVE = ("sum", "difference")
_MULTIPLICATIVE = ("product", "quotient")


def elementwise(
    reading: Reading, eqn: Any, row: Primitive, tags: Sequence[Tag], tag: Tag, path: Path
) -> Tag:
    """Completes the tag of an elementwise equation's result.

    Args:
      reading: the state of the reading.
      eqn: the equation.
      row: the row of its primitive.
      tags: the tags of its operands.
      tag: what is known about the result from all operands together.
      path: the position of the equation.
    """
    arithmetic = row.arithmetic
    if arithmetic == "product":
        _note_factor(reading, tags)
    if arithmetic and len(tags) == 2:
        output = _pre_activation(reading, eqn, arithmetic, tags, path)
        if output is not None:
            return tag._replace(signal=output, lost="", linear=True)
    signal = _applied(eqn, row, tags)
    mask = tags[0].masked if row.linear else _masked(arithmetic, tags)
    data = [operand for operand in tags if operand.data]
    # A statistic combined with the values that it was taken from is no longer a statistic.
    statistics = all([operand.statistic for operand in data])
    lost = ""
    if len(data) == 2:
        _note_meeting(reading, arithmetic, data)
        if not statistics and any([operand.statistic for operand in data]):
            normalized = arithmetic in _MULTIPLICATIVE or any([operand.root for operand in data])
            lost = "normalization" if normalized else "centering"
        elif isinstance(signal, str) and arithmetic in _ADDITIVE:
            lost = "sum"
        elif isinstance(signal, str) and arithmetic in _MULTIPLICATIVE and not mask:
            lost = "product"
    if isinstance(signal, str) and not lost:
        dropped = mask is not None and (arithmetic == "choice" or len(data) == 2)
        lost = "mask" if dropped else reason(data) or signal
    return tag._replace(
        signal=None if lost or isinstance(signal, str) else signal,
        lost=lost,
        linear=row.linear or _proportional(arithmetic, tags),
        masked=mask,
        statistic=bool(data) and statistics,
        root=(row.root and tag.statistic) or (tag.root and statistics),
    )


def _pre_activation(
    reading: Reading, eqn: Any, arithmetic: str, tags: Sequence[Tag], path: Path
) -> Signal | None:
    """The signal, if this equation adds a bias to a product or multiplies it by a number.

    The result then counts as the site's output.
    """
    for position, (tag, other) in enumerate(zip(tags, reversed(tags), strict=True)):
        signal = tag.signal
        if signal is None or signal.site is None or not tag.once:
            continue
        site = reading.sites[signal.site]
        shape, mine = eqn.outvars[0].aval.shape, eqn.invars[position].aval.shape
        if (
            signal.expression != IDENTITY
            or signal.through_bias
            or signal.earlier
            or signal.axes is None
            or site.scopes != tuple(reading.scopes)
            or shape != mine
            or math.prod(shape) != site.size  # a part of it
        ):
            continue
        first = position == 0
        if other.pure and (arithmetic == "sum" or (arithmetic == "difference" and first)):
            site.bias, site.bias_sources = 1 - position, other.sources
            site.output, site.output_axes = path, signal.axes
            return signal._replace(through_bias=True)
        if other.number and (arithmetic == "product" or (arithmetic == "quotient" and first)):
            factor = other.signal and other.signal.expression
            if not isinstance(factor, np.generic) or not float(factor):
                continue
            if site.output != path:  # not read before, in another turn of a loop
                site.scale *= float(factor) if arithmetic == "product" else 1 / float(factor)
            site.output, site.output_axes = path, signal.axes
            return signal
    return None


def _applied(eqn: Any, row: Primitive, tags: Sequence[Tag]) -> Signal | str:
    """The signal of an elementwise equation's result, or why it has none."""
    known = [tag.signal for tag in tags if tag.signal is not None]
    if len(known) < len(tags):
        if any([tag.pure for tag in tags]):
            return "parametric"
        return reason(tags) or "array"
    signals = [signal for signal in known if signal.site is not None]
    inputs = tuple([signal.expression for signal in known])
    if not signals:
        result = _constant(eqn, row, inputs)
        return "array" if result is None else Signal(None, result)
    first, *others = signals
    if any([(other.site, other.earlier) != (first.site, first.earlier) for other in others]):
        return "layers"
    if any([other.layout != first.layout for other in others]):
        return "units"
    name, params = eqn.primitive.name, eqn.params
    if name == "convert_element_type":
        to, source = np.dtype(params["new_dtype"]), eqn.invars[0].aval.dtype
        if floating(to) and floating(source):
            return first
    expression = Expression(text_of(name, params, inputs), eqn.primitive, params, inputs)
    if len(expression.text) > LONGEST:
        return "long"
    return first._replace(expression=expression)


def _constant(eqn: Any, row: Primitive, inputs: Sequence[Any]) -> np.generic | None:
    """The result of an equation whose operands are all constant numbers."""
    import jax

    operands = [
        np.asarray(value, var.aval.dtype) for value, var in zip(inputs, eqn.invars, strict=True)
    ]
    if row.exact is not None:
        with np.errstate(all="ignore"):
            return number(np.asarray(row.exact(*operands)).astype(eqn.outvars[0].aval.dtype))
    with jax.ensure_compile_time_eval():
        return number(eqn.primitive.bind(*operands, **eqn.params))


def _masked(arithmetic: str, tags: Sequence[Tag]) -> Signal | None:
    """The signal that an equation multiplies by something that comes from no layer.

    This is what dropout does: it selects between the signal and zero, or multiplies.
    """
    if arithmetic == "choice":
        which, *cases = tags
        made = [case for case in cases if not case.number]
        zeros = [case.signal and case.signal.expression for case in cases if case.number]
        if len(made) != 1 or any(zeros):
            return None
    elif arithmetic in _MULTIPLICATIVE:
        made = [tag for tag in tags if tag.signal or tag.masked]
        made = [tag for tag in made if not tag.number]
        if len(made) != 1 or (arithmetic == "quotient" and made[0] is tags[1]):
            return None
        (which,) = (tag for tag in tags if tag is not made[0])
    else:
        return None
    signal = made[0].signal or made[0].masked
    if signal is None or which.leaves or which.behind_sites:
        return None
    if isinstance(signal.expression, Expression):  # dropout divides by the share that it keeps
        return signal._replace(expression=bare(signal.expression))
    return signal


def _proportional(arithmetic: str, tags: Sequence[Tag]) -> bool:
    """Whether the result is proportional to the sites directly upstream."""
    if arithmetic not in _ADDITIVE and arithmetic not in _MULTIPLICATIVE:
        return False
    varying = [tag for tag in tags if not tag.number]
    if arithmetic in _MULTIPLICATIVE and sum([tag.data for tag in varying]) > 1:
        return False
    return all([tag.linear or tag.statistic for tag in varying])


def _note_factor(reading: Reading, tags: Sequence[Tag]) -> None:
    """Notes that a parameter, or a multiple of it, multiplies what comes from sites."""
    for factor, other in zip(tags, reversed(tags), strict=True):
        if other.behind_sites and factor.pure and all(s.how == "whole" for s in factor.sources):
            reading.factors.update([source.leaf for source in factor.sources])


def _note_meeting(reading: Reading, arithmetic: str, data: Sequence[Tag]) -> None:
    """Notes that a site's output is added to other data, or divided by its own norm."""
    for tag, other in ((data[0], data[1]), (data[1], data[0])):
        signal = tag.signal or tag.masked
        if arithmetic in _ADDITIVE and signal is not None and signal.site is not None:
            if signal.expression == IDENTITY:
                _note_sum(reading, signal.site, other)
        if arithmetic in _ADDITIVE and signal is None and tag.lost == "parametric" and tag.linear:
            _note_scaled(reading, tag, other)
        if arithmetic in _MULTIPLICATIVE and other.root and tag.linear and tag.near == other.near:
            if len(tag.near) == 1 and None not in tag.near:
                (near,) = tag.near
                if near is not None:
                    reading.sites[near].normalized = True


def _note_sum(reading: Reading, path: Path, other: Tag) -> None:
    """Notes that a site's output is added to other data, and whether that is a residual stream."""
    site = reading.sites[path]
    entered = site.inputs[-1]
    # Data of the batch that passes all layers by, such as running statistics, is no stream.
    stream = bool(other.batch & entered.batch) or other.behind_sites
    if not (other.near - {path}) or not stream or other.statistic:
        return
    site.added = True
    unchanged = other.signal is not None and other.signal.expression == IDENTITY
    own = other.signal.site if unchanged and other.signal else None
    streams = not other.near.isdisjoint(entered.sites)
    # Noise of the batch that another site scales, as in a sampled latent, is no stream.
    skips = None in other.near and (other.linear or other.near == {None})
    if path not in other.sites and (streams or skips) and (own is None or own in entered.sites):
        site.residual, site.streams = True, streams


def _note_scaled(reading: Reading, tag: Tag, other: Tag) -> None:
    """Notes that a site's output is added to a residual stream after a learned scale."""
    if len(tag.near) == 1 and None not in tag.near:
        (path,) = tag.near
        if path is not None and path not in other.sites:
            site = reading.sites[path]
            site.scaled |= not other.near.isdisjoint(site.inputs[-1].sites)
