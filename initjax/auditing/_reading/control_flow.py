"""What is known of values that go into loops and branches, and come out of them."""

from __future__ import annotations

import dataclasses

from initjax.auditing._reading.expressions import Path, Signal
from initjax.auditing._reading.tags import Softmax, Tag, join


def either(outs: list[Tag], choice: Tag) -> Tag:
    """What is known of what one of several branches gives."""
    tag = join(outs)
    differ = len({(out.signal, out.lost) for out in outs}) > 1
    lost = "branch" if differ else tag.lost
    return dataclasses.replace(
        tag, data=tag.data or choice.data, batch=tag.batch | choice.batch, lost=lost
    )


def after_a_turn(before: Tag, after: Tag) -> Tag:
    """What is known of what a loop carries: whatever any turn depends on."""
    data = before.data or after.data
    changed = before.number and (data or after.signal != before.signal)
    return dataclasses.replace(
        before,
        leaves=before.leaves | after.leaves,
        data=data,
        batch=before.batch | after.batch,
        sources=before.sources if after.sources == before.sources else frozenset(),
        signal=None if changed else before.signal,
        lost="loop" if changed else before.lost,
    )


def of_the_turn_before(signal: Signal | None, loop: Path) -> Signal | None:
    """What a turn of a loop knows of the signal that the one before has given."""
    if signal is None or signal.site is None:
        return signal
    if signal.site[: len(loop)] != loop:  # another function of it in every turn
        return None
    return dataclasses.replace(signal, earlier=True)


def sliced(tag: Tag, path: Path) -> Tag:
    """What is known of a slice along the first axis, one for every turn of a loop."""
    sources = frozenset(source._replace(stacked=(*source.stacked, path)) for source in tag.sources)
    return dataclasses.replace(
        tag,
        sources=sources,
        signal=_shifted(tag.signal, path, -1),
        softmax=_moved(tag.softmax, -1),
    )


def stacked_up(tag: Tag, path: Path) -> Tag:
    """What is known of what all turns of a loop have given, one upon another."""
    return dataclasses.replace(
        tag,
        sources=frozenset(),
        signal=_shifted(tag.signal, path, 1),
        softmax=_moved(tag.softmax, 1),
        once=True,
    )


def one_of_several(tag: Tag, path: Path) -> Tag:
    """What is known of one of several results: it is laid out otherwise than the others."""
    if tag.signal is None or tag.signal.site is None:
        return tag
    signal = dataclasses.replace(tag.signal, layout=(*tag.signal.layout, path))
    return dataclasses.replace(tag, signal=signal)


def _moved(softmax: Softmax | None, step: int) -> Softmax | None:
    if softmax is None or (step < 0 and 0 in softmax.axes):
        return None
    return softmax._replace(axes=tuple(axis + step for axis in softmax.axes))


def _shifted(signal: Signal | None, path: Path, step: int) -> Signal | None:
    if signal is None or signal.site is None:
        return signal
    axes = signal.axes
    if axes is not None:
        axes = None if step < 0 and 0 in axes else tuple(axis + step for axis in axes)
    return dataclasses.replace(signal, axes=axes, layout=(*signal.layout, path))
