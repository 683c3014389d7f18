"""Rules for equations that run nested programs: calls, loops and branches.

Each rule gets `run`, which reads a nested program: `run(program, tags, path)` returns the tags of
the program's results.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.primitives import inner_programs, primitive_of, scan_counts
from initjax.auditing._reading.state import Reading
from initjax.auditing._reading.tags import Signal, Softmax, Tag, join

Run = Callable[[Any, Sequence[Tag], Path], list[Tag]]


def call(reading: Reading, eqn: Any, tags: list[Tag], path: Path, run: Run) -> list[Tag]:
    """The rule for calls, including recomputed parts and functions with their own gradient."""
    (inner,) = inner_programs(eqn)
    row = primitive_of(eqn)
    if row.ruled:
        reading.ruled.add(path)
    with reading.scope(path) if row.recomputed else contextlib.nullcontext():
        return run(inner, tags, (*path, 0))


# Branches


def cond(reading: Reading, eqn: Any, tags: list[Tag], path: Path, run: Run) -> list[Tag]:
    """The rule for branches."""
    choice, *arguments = tags
    branches = []
    for number, inner in enumerate(inner_programs(eqn)):
        with reading.scope((*path, number)):
            branches.append(run(inner, arguments, (*path, number)))
    return [_either(outs, choice) for outs in zip(*branches, strict=True)]


def _either(outs: Sequence[Tag], choice: Tag) -> Tag:
    """The tag of a value that comes from one of several branches."""
    tag = join(outs)
    differ = any([(out.signal, out.lost) != (outs[0].signal, outs[0].lost) for out in outs[1:]])
    lost = "branch" if differ else tag.lost
    return tag._replace(data=tag.data or choice.data, batch=tag.batch | choice.batch, lost=lost)


# Loops


def scan(reading: Reading, eqn: Any, tags: list[Tag], path: Path, run: Run) -> list[Tag]:
    """The rule for scans."""
    params = eqn.params
    (inner,) = inner_programs(eqn)
    num_consts, num_carry = scan_counts(params)
    constants, carry = tags[:num_consts], tags[num_consts : num_consts + num_carry]
    slices = [_slice_of(tag, path) for tag in tags[num_consts + num_carry :]]

    def turn(carry: list[Tag]) -> list[Tag]:
        return run(inner, [*constants, *carry, *slices], (*path, 0))

    forward = not params["reverse"]
    if not forward:
        reading.backward.add(path)
    outs = _turns(reading, turn, carry, path, params["length"], forward)
    stacked = [_stacked(tag, path) for tag in outs[num_carry:]]
    return [*outs[:num_carry], *stacked]


def while_loop(reading: Reading, eqn: Any, tags: list[Tag], path: Path, run: Run) -> list[Tag]:
    """The rule for loops that run until a condition fails."""
    test, body = inner_programs(eqn)
    num_test, num_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    constants, carry = tags[num_test : num_test + num_body], tags[num_test + num_body :]

    def turn(carry: list[Tag]) -> list[Tag]:
        return run(body, [*constants, *carry], (*path, 1))

    outs = _turns(reading, turn, carry, path, None, True)
    (going,) = run(test, [*tags[:num_test], *outs], (*path, 0))
    return [
        tag._replace(data=tag.data or going.data, batch=tag.batch | going.batch) for tag in outs
    ]


def _turns(
    reading: Reading,
    turn: Callable[[list[Tag]], list[Tag]],
    carry: list[Tag],
    path: Path,
    length: int | None,
    forward: bool,
) -> list[Tag]:
    """The tags after a loop: its body is read as the first turn, then as a later one."""
    reading.loops.append((path, length))
    reading.scopes.append(path)
    start, outs, before_loop = carry, [], reading.sites
    for _ in range(len(carry) + 2):  # until nothing new is carried
        reading.sites = {key: site.copy() for key, site in before_loop.items()}
        outs = turn(carry)
        joined = [_after_turn(before, after) for before, after in zip(carry, outs, strict=False)]
        if joined == carry:
            break
        carry = joined
    if length != 1:
        later = [
            _later(first, before, after, path, forward)
            for first, before, after in zip(start, carry, outs, strict=False)
        ]
        outs = turn(later)
    reading.loops.pop()
    reading.scopes.pop()
    return outs


def _after_turn(before: Tag, after: Tag) -> Tag:
    """The tag of a carried value: it depends on what any turn depends on."""
    data = before.data or after.data
    changed = before.number and (data or after.signal != before.signal)
    return before._replace(
        leaves=before.leaves | after.leaves,
        data=data,
        batch=before.batch | after.batch,
        sources=before.sources if after.sources == before.sources else frozenset(),
        affine=before.affine and after.affine,
        signal=None if changed else before.signal,
        lost="loop" if changed else before.lost,
    )


def _later(start: Tag, before: Tag, after: Tag, loop: Path, forward: bool) -> Tag:
    """The tag of a carried value in later turns: the previous turn has made it.

    Args:
      start: the value before the loop.
      before: the value at the start of any turn.
      after: the value at the end of a turn.
      loop: the loop.
      forward: whether it starts with the first slice.
    """
    if before == after or before.number:
        return before
    return after._replace(
        leaves=before.leaves,
        data=before.data,
        batch=before.batch,
        sources=before.sources,
        signal=_of_previous_turn(after.signal, loop) if forward else None,
        lost=after.lost or "loop",
        sites=start.sites,
    )


def _of_previous_turn(signal: Signal | None, loop: Path) -> Signal | None:
    """The signal of a value that the previous turn of a loop has made."""
    if signal is None or signal.site is None:
        return signal
    if signal.site[: len(loop)] != loop:  # a different function of the site in every turn
        return None
    return signal._replace(earlier=True)


def _slice_of(tag: Tag, loop: Path) -> Tag:
    """The tag of one slice along the first axis, a different one in every turn."""
    sources = frozenset(
        [source._replace(stacked=(*source.stacked, loop)) for source in tag.sources]
    )
    return tag._replace(
        sources=sources,
        signal=_shift_signal(tag.signal, loop, -1),
        softmax=_shift_softmax(tag.softmax, -1),
    )


def _stacked(tag: Tag, loop: Path) -> Tag:
    """The tag of the results of all turns, stacked along a new first axis."""
    return tag._replace(
        sources=frozenset(),
        signal=_shift_signal(tag.signal, loop, 1),
        softmax=_shift_softmax(tag.softmax, 1),
        once=True,
    )


def _shift_softmax(softmax: Softmax | None, step: int) -> Softmax | None:
    if softmax is None or (step < 0 and 0 in softmax.axes):
        return None
    return softmax._replace(axes=tuple(axis + step for axis in softmax.axes))


def _shift_signal(signal: Signal | None, loop: Path, step: int) -> Signal | None:
    if signal is None or signal.site is None:
        return signal
    axes = signal.axes
    if axes is not None:
        axes = None if step < 0 and 0 in axes else tuple(axis + step for axis in axes)
    return signal._replace(axes=axes, layout=(*signal.layout, loop))


RULES = {"call": call, "scan": scan, "while": while_loop, "cond": cond}
