"""What a pass returns of an attention, and where the axes of these arrays are."""

from __future__ import annotations

from typing import NamedTuple

from initjax.auditing._reading.attention import Found
from initjax.auditing._reading.inlined import Value, place_of
from initjax.auditing._reading.layout import Axes
from initjax.auditing._reading.scores import Tokens
from initjax.auditing._reading.watches import Watch


class AttentionAxes(NamedTuple):
    """What the statistics depend on besides the arrays."""

    turns: int
    """How many leading axes number turns of loops."""
    keys: Axes
    factor: float
    mixed: bool
    axes: tuple[tuple[str, Axes, Axes], ...]
    """By name of an array of tokens: the axes of positions and of features."""
    shapes: tuple[tuple[str, tuple[int, ...], Axes], ...]
    """By name of an array: its shape, and the axes of which all numbers are needed."""


def watch_of(found: Found, stream: Value | None = None) -> Watch | None:
    """What a pass returns of an attention; None if it can't, or if there is nothing in it.

    Args:
      found: the attention.
      stream: what its tokens are the normalized values of, if that matters.
    """
    tokens = {"tokens": found.tokens, "result": found.result}
    values = {"scores": found.scores, "summed": found.summed}
    if found.content is not found.scores:
        values["content"] = found.content
    values |= {name: each and each.value for name, each in tokens.items()}
    if stream is not None and place_of(stream) is not None:
        values["stream"] = stream
    places = {name: place_of(value) for name, value in values.items() if value is not None}
    known = {name: place for name, place in places.items() if place is not None}
    if len(known) < len(places) or not all(value.aval.size for value in values.values() if value):
        return None
    shapes = [
        (name, value.shape, _kept(name, tokens, found.keys))
        for name, value in values.items()
        if value is not None
    ]
    turns = sum(length is not None for _, length in found.site.loops)
    axes = [(name, each.positions, each.features) for name, each in tokens.items() if each]
    static = AttentionAxes(turns, found.keys, found.factor, found.mixed, tuple(axes), tuple(shapes))
    return Watch(known, "attention", static)


def _kept(name: str, tokens: dict[str, Tokens | None], keys: Axes) -> Axes:
    if name == "stream":
        return ()
    array = tokens.get(name)
    return keys if array is None else array.features
