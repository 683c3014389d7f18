"""Which layers change with width, and which of them are at fault.

Theory gives exact powers for an infinite width (Yang and Hu 2021, "Feature Learning in
Infinite-Width Neural Networks", https://arxiv.org/abs/2011.14522): with a right parametrization no
size depends on width, but for logits that may start small. A single factor that is wrong shows as a
power of at least 1/2. So what lies within 1/4 of zero counts as stable.

At finite widths the examples of a batch disturb each other's updates. The product of a changed
weight and its input, of `fan_in` terms, is partly a random sum: it grows by up to the root of width
less than an aligned one (Everett et al. 2024, https://arxiv.org/abs/2407.05872), and a layer that
is right may seem to shrink. The sizes of weights and updates alone say what a random and an aligned
sum would be, with hardly any noise. A layer is at fault if what was measured and one of these
agree.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from initjax.coordinates._matching import Place
from initjax.coordinates._slopes import Slope, slope_of

Arrays = Mapping[str, np.ndarray]
"""By name, root mean squares: (widths, seeds, steps)."""

_LIMIT = 0.25
_LEAST = 0.125  # of a growth that the disturbance makes seem smaller
_DISTURBED = 0.375  # by how much it may do so
_ROUNDING = 1e-6  # relative to the largest gradient; that of a bias before a norm is rounding only


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is wrong with one layer."""

    cause: str
    """'stddev', 'learning_rate', 'multiplier' or 'scores'."""
    step: int
    """After which step it shows; 0 is the start."""
    slope: Slope
    """What was measured."""
    exponent: float
    """The power of width that the standard deviation, the learning rate, the output or the scores
    have to be multiplied by: a multiple of 1/2."""


class Judged(NamedTuple):
    """What is known about one layer, attention or parameter."""

    step: int | None
    """The first step that changed it; None if none did."""
    faults: tuple[Fault, ...]
    moves: Slope | None
    """The power by which it grows or shrinks at the last step; None if it is stable."""


def judge(
    widths: Sequence[int], places: Sequence[Place], measured: Sequence[Arrays], linear: bool
) -> list[Judged]:
    """Judges all layers.

    Args:
      widths: increasing.
      places: the layers.
      measured: of each layer.
      linear: whether updates are proportional to gradients, as those of SGD are.
    """
    steps = [_first_step(arrays) for arrays in measured]
    starts = [_stddev(widths, *each) for each in zip(places, measured, steps, strict=True)]
    rates: list[Fault | None] = [None] * len(places)
    # With SGD, a weight that is too large makes the gradients of all layers before it too large.
    first = [fault for fault in starts if fault is not None and not fault.step]
    if not (linear and first):
        excess = max((-fault.exponent for fault in starts if fault and linear), default=0.0)
        for number, (place, arrays, step) in enumerate(zip(places, measured, steps, strict=True)):
            before = place.role not in ("output", "scalar")  # a scalar is often an output's bias
            inherited = excess if before else 0.0
            if step is not None:
                rates[number] = _learning_rate(widths, arrays, step, inherited)
    moves = [_moves(widths, *each) for each in zip(places, measured, strict=True)]
    # A number that multiplies queries or keys, and falls with width, may be meant for their scores.
    behind = {name for place in places for name in place.before}
    for number, place in enumerate(places):
        if place.name in behind:
            both = starts[number], rates[number]
            starts[number], rates[number] = (
                None if fault is not None and fault.exponent > 0 else fault for fault in both
            )
            power = moves[number]
            moves[number] = None if power and power.mean < 0 else power
    for number, (place, arrays) in enumerate(zip(places, measured, strict=True)):
        fault = _multiplier(widths, place, arrays, starts[number], rates[number])
        if fault is not None and (place.tied or not linear):
            starts[number], rates[number] = fault, None
    grown = {
        place.name for place, power in zip(places, moves, strict=True) if power and power.mean > 0
    }
    found = []
    for number, (place, arrays) in enumerate(zip(places, measured, strict=True)):
        scores = None if place.before & grown else _scores(widths, place, arrays)
        faults = tuple(fault for fault in (starts[number], rates[number], scores) if fault)
        found.append(Judged(steps[number], faults, moves[number]))
    return found


def _slope(widths: Sequence[int], arrays: Arrays, name: str, step: int) -> Slope | None:
    return slope_of(widths, arrays[name][:, :, step]) if name in arrays else None


def _power(
    widths: Sequence[int], arrays: Arrays, name: str, step: int, relative_to: str = ""
) -> float:
    """The mean slope of one size, or of its ratio to another; NaN if there is none."""
    if name not in arrays:
        return math.nan
    sizes = arrays[name][:, :, step]
    if relative_to:
        with np.errstate(divide="ignore", invalid="ignore"):
            sizes = sizes / arrays[relative_to][:, :, step]
    slope = slope_of(widths, sizes)
    return math.nan if slope is None else slope.mean


def _first_step(arrays: Arrays) -> int | None:
    """The first step after which something has changed in every run."""
    changes = arrays["own"] if "own" in arrays else arrays["change"]
    moved = (changes > 0) | ~np.isfinite(changes)
    return next((step for step in range(1, changes.shape[2]) if moved[:, :, step].all()), None)


def _stddev(widths: Sequence[int], place: Place, arrays: Arrays, step: int | None) -> Fault | None:
    """The fault of the first weights: what they make of their input, or of its change."""
    size = _slope(widths, arrays, "product", 0)  # a bias, such as positions, must not hide it
    if size is None:
        return None
    growth = _growth(widths, place)
    weight = _power(widths, arrays, "weight", 0)
    gain = _power(widths, arrays, "product", 0, "input")
    random = weight + growth / 2
    if _all_above(_LIMIT, size.mean, gain, random):
        return Fault("stddev", 0, size, _remedy(random))
    if _all_above(_LIMIT, -size.mean, -gain, -random) and place.role != "output":
        return Fault("stddev", 0, size, _remedy(random))
    if place.role != "output" or step is None:
        return None
    # The change of its input is aligned with its weights: gradients came through them.
    after = _first_step({"change": arrays.get("passed", arrays["change"])}) or step
    passed = _slope(widths, arrays, "passed", after)
    gain = _power(widths, arrays, "passed", after, "input_change")
    aligned = weight + growth
    absolute = aligned + _power(widths, arrays, "input_change", after)
    if passed is not None and gain > _LEAST and _all_above(_LIMIT, aligned, absolute):
        return Fault("stddev", after, passed, _remedy(aligned))
    return None


def _learning_rate(
    widths: Sequence[int], arrays: Arrays, step: int, inherited: float
) -> Fault | None:
    """The fault of a layer's first update; `inherited` is the power of its gradient that is the
    fault of a layer behind it."""
    own = _slope(widths, arrays, "own", step)
    if own is None or (
        "gradient" in arrays and arrays["gradient"][:, :, step - 1].min() < _ROUNDING
    ):
        return None
    gain = _power(widths, arrays, "own", step, "input") - inherited
    aligned = _power(widths, arrays, "aligned", step, "input") - inherited
    absolute = _power(widths, arrays, "aligned", step) - inherited
    exponent = aligned if aligned - gain < _DISTURBED else gain
    measured = _all_above(_LEAST, own.mean - inherited, gain)
    if measured and _all_above(_LIMIT, exponent, absolute):
        return Fault("learning_rate", step, own, _remedy(exponent))
    # A gradient through a product of two layers that are random to each other, as of a router or of
    # scores, starts small, and grows once training aligns them.
    last = arrays["own"].shape[2] - 1
    later = _power(widths, arrays, "own", last, "input") - inherited
    if _all_above(_LIMIT, -aligned, -absolute) and not later > -_LIMIT:
        return Fault("learning_rate", step, own, _remedy(aligned))
    return None


def _multiplier(
    widths: Sequence[int],
    place: Place,
    arrays: Arrays,
    start: Fault | None,
    rate: Fault | None,
) -> Fault | None:
    """The fault of what multiplies an output: its first weights and its updates are off by one
    power of width, or another layer has the same weights. With SGD, gradients are multiplied, too,
    so only the latter can be told."""
    fault = rate or start
    if fault is None or place.role != "output":
        return None
    power = _power(widths, arrays, "weight", 0) + _growth(widths, place)
    if abs(power) > _LIMIT and (place.tied or (rate and _remedy(power) == rate.exponent)):
        return dataclasses.replace(fault, cause="multiplier", exponent=_remedy(power))
    return None


def _scores(widths: Sequence[int], place: Place, arrays: Arrays) -> Fault | None:
    """The fault of an attention whose scores grow although queries and keys don't."""
    if place.role != "scores" or place.fan_in[-1] <= place.fan_in[0]:
        return None
    # Queries and keys are random to each other at the start; training aligns them.
    random = _power(widths, arrays, "size", 0)
    aligned = random + _growth(widths, place) / 2
    for step in range(arrays["size"].shape[2]):
        slope = _slope(widths, arrays, "change" if step else "size", step)
        if slope is None:
            continue
        if slope.mean > _LIMIT or (step and slope.mean > _LEAST and aligned > _LIMIT):
            return Fault("scores", step, slope, _remedy(slope.mean))
    return None


def _growth(widths: Sequence[int], place: Place) -> float:
    """The power of width by which fan_in grows; NaN for a parameter, which has none."""
    fan_in = np.asarray(place.fan_in).reshape(-1, 1, 1)
    return _power(widths, {"fan_in": fan_in}, "fan_in", 0)


def _moves(widths: Sequence[int], place: Place, arrays: Arrays) -> Slope | None:
    """The power by which sizes or changes grow at the last step, or sizes shrink. Logits may start
    small, and changes seem to shrink where examples disturb each other."""
    last = arrays["change"].shape[2] - 1
    for name in ("change", "size"):
        slope = _slope(widths, arrays, name, last)
        if slope is not None and slope.mean > _LIMIT:
            return slope
    size = _slope(widths, arrays, "size", last)
    if size is not None and size.mean < -_LIMIT and place.role not in ("output", "scores"):
        return size
    return None


def _all_above(limit: float, *powers: float) -> bool:
    """Whether all are known, which NaN isn't, and above a limit."""
    return all(power > limit for power in powers)


def _remedy(power: float) -> float:
    """The power of width that undoes another: theory has multiples of 1/2."""
    return -math.copysign(max(1, round(2 * abs(power))) / 2, power)
