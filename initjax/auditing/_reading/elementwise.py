"""What becomes of a site's output: a bias or a factor, a sum with other data, a norm of its own."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from initjax.auditing._reading.expressions import IDENTITY, Expression, Path, Signal, bare
from initjax.auditing._reading.sites import Site
from initjax.auditing._reading.tags import Tag


def pre_activation(
    sites: dict[Path, Site], scopes: tuple[Path, ...], eqn: Any, tags: list[Tag], path: Path
) -> Signal | None:
    """The signal, if this equation adds a bias to a product or multiplies it by a number.

    The result is then what counts as the site's output.
    """
    name = eqn.primitive.name
    if name not in ("add", "add_any", "mul", "div", "sub") or len(tags) != 2:
        return None
    for position, (tag, other) in enumerate(zip(tags, reversed(tags), strict=True)):
        signal = tag.signal
        if signal is None or signal.site is None or not tag.once:
            continue
        site = sites[signal.site]
        shape, mine = eqn.outvars[0].aval.shape, eqn.invars[position].aval.shape
        if (
            signal.expression != IDENTITY
            or signal.through_bias
            or signal.earlier
            or signal.axes is None
            or site.scopes != scopes
            or shape != mine
            or math.prod(shape) != site.size  # a part of it
        ):
            continue
        if other.pure and (name in ("add", "add_any") or (name == "sub" and position == 0)):
            site.bias, site.bias_sources = 1 - position, other.sources
            site.output, site.output_axes = path, signal.axes
            return dataclasses.replace(signal, through_bias=True)
        if other.number and (name == "mul" or (name == "div" and position == 0)):
            number = other.signal and other.signal.expression
            if not isinstance(number, np.generic) or not float(number):
                continue
            if site.output != path:
                site.scale *= float(number) if name == "mul" else 1 / float(number)
            site.output, site.output_axes = path, signal.axes
            return signal
    return None


def masked(name: str, tags: list[Tag]) -> Signal | None:
    """The signal that an elementwise equation multiplies by what comes from no layer.

    As dropout does: a choice between it and zero, or a product.
    """
    if name == "select_n":
        which, *cases = tags
        made = [case for case in cases if not case.number]
        zeros = [case.signal and case.signal.expression for case in cases if case.number]
        if len(made) != 1 or any(zeros):
            return None
    elif name in ("mul", "div"):
        made = [tag for tag in tags if tag.signal or tag.masked]
        made = [tag for tag in made if not tag.number]
        if len(made) != 1 or (name == "div" and made[0] is tags[1]):
            return None
        (which,) = (tag for tag in tags if tag is not made[0])
    else:
        return None
    signal = made[0].signal or made[0].masked
    if signal is None or which.leaves or which.near - {None}:
        return None
    if isinstance(signal.expression, Expression):  # dropout divides by the part that it keeps
        return dataclasses.replace(signal, expression=bare(signal.expression))
    return signal


def meet(sites: dict[Path, Site], name: str, data: list[Tag]) -> None:
    """Notes where the output of a site meets other data: a sum, or a norm of its own."""
    for tag, other in ((data[0], data[1]), (data[1], data[0])):
        signal = tag.signal or tag.masked
        if name in ("add", "add_any", "sub") and signal is not None and signal.site is not None:
            site = sites[signal.site]
            entered = site.inputs[-1]
            # What comes from the batch past all layers, as running statistics do, is no stream.
            stream = bool(other.batch & entered.batch) or bool(other.near - {None})
            mixed = other.near - {signal.site}
            if signal.expression == IDENTITY and mixed and stream and not other.statistic:
                site.added = True
                bare = other.signal is not None and other.signal.expression == IDENTITY
                own = other.signal.site if bare and other.signal else None
                upstream = entered.sites
                streams = bool(other.near & upstream)
                # Noise of the batch that another site scales, as a sampled latent has, is none.
                skips = None in other.near and (other.linear or other.near == {None})
                enters = streams or skips
                if signal.site not in other.sites and enters and (own in (None, *upstream)):
                    site.residual, site.streams = True, streams
        if name in ("mul", "div") and other.root and tag.linear and tag.near == other.near:
            if len(tag.near) == 1 and None not in tag.near:
                (near,) = tag.near
                if near is not None:
                    sites[near].normalised = True
