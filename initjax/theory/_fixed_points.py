"""Where variance and correlation go as a network gets deeper: the fixed points of their maps."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np

from initjax.theory._integrals import SMALLEST, Single, pair, single
from initjax.theory._pieces import at_point, cached

LOWEST, HIGHEST = -10, 10  # strides: variances from 1e-12 to 2e13
_POINTS = 32  # in a stride, which is a factor of 16
_CLOSEST = 1e-14  # of the logarithms of two numbers, where the search for a root ends
_ROUNDING = 1e-13  # of the map, relative to the variance


def depth(factor: float) -> float:
    """Layers in which what each multiplies by a factor falls by e; negative where it grows."""
    factor = abs(factor)
    if factor == 0 or math.isinf(factor):
        return 0.0
    logarithm = math.log(factor)
    return math.inf if abs(logarithm) < 1e-12 else -1 / logarithm


def strides(activation: Callable, start: int, stop: int) -> Iterator[tuple[np.ndarray, Single]]:
    """Variances on a logarithmic grid, a factor of 16 at a time, and the expectations there."""
    for index in range(start, stop, 1 if stop > start else -1):
        found = cached(_stride, activation, index)
        yield found
        if len(found[0]) < _POINTS and stop > start:
            return


@functools.lru_cache(maxsize=2048)
def _stride(activation: Callable, index: int) -> tuple[np.ndarray, Single]:
    variances = 16.0**index * 16.0 ** (np.arange(_POINTS) / _POINTS)
    while True:
        try:
            return variances, single(activation, variances)
        except ValueError:  # as of exp, which grows so fast that it has none for larger ones
            if len(variances) == 1:
                raise
            variances = variances[: len(variances) // 2]


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """The positive number between two at which a function changes sign.

    By Chandrupatla's method, on the logarithm: inverse quadratic interpolation where that is safe,
    and else bisection. (To import SciPy's takes longer than all of this module's work.)
    """
    a, b = math.log(low), math.log(high)
    at_a, at_b = function(low), function(high)
    if at_a * at_b > 0:  # the sign is rounding's
        return low if abs(at_a) < abs(at_b) else high
    part = 0.5
    while True:
        x = a + part * (b - a)
        at_x = function(math.exp(x))
        if at_x * at_a > 0:
            c, at_c = a, at_a
        else:
            c, at_c, b, at_b = b, at_b, a, at_a
        a, at_a = x, at_x  # the root is between a and b; c is the place before
        best, at_best = (a, at_a) if abs(at_a) < abs(at_b) else (b, at_b)
        closest = _CLOSEST / max(abs(b - a), _CLOSEST)
        if closest > 0.5 or at_best == 0:
            return math.exp(best)
        place, height = (a - b) / (c - b), (at_a - at_b) / (at_c - at_b)
        part = 0.5
        if height**2 < place and (1 - height) ** 2 < 1 - place:
            part = at_a / (at_b - at_a) * at_c / (at_b - at_c)
            part += (c - a) / (b - a) * at_a / (at_c - at_a) * at_b / (at_c - at_b)
        part = min(1 - closest, max(closest, part))


def fixed_variance(
    activation: Callable, weight_variance: float, bias_variance: float, start: float
) -> float:
    """Where the variance goes from a start: 0 or infinity, or the first fixed point on the way."""

    def growth(variance):
        second = single(activation, variance).second
        return (weight_variance * second + bias_variance) / variance - 1

    here = float(growth(start))
    if abs(here) <= _ROUNDING:
        return start
    direction = 1 if here > 0 else -1
    previous, slope = start, float(single(activation, start).slope)
    first = math.floor(math.log2(start) / 4)
    for q, found in strides(activation, first, HIGHEST if direction > 0 else LOWEST - 1):
        growths = (weight_variance * found.second + bias_variance) / q - 1
        slope = float(found.slope[0])
        ahead = np.flatnonzero((q - start) * direction > 0)[::direction]
        q, growths = q[ahead], growths[ahead]
        crossed = np.flatnonzero(growths * direction < -_ROUNDING)
        if len(crossed):
            before = q[crossed[0] - 1] if crossed[0] else previous
            return root(growth, *sorted((float(before), float(q[crossed[0]]))))
        previous = q[-1] if len(q) else previous
    if direction > 0:
        return math.inf
    # Below these variances the map is a straight line.
    at_zero = at_point(activation, SMALLEST)
    constant = weight_variance * at_zero**2 + bias_variance
    return 0.0 if constant < SMALLEST else constant / (1 - weight_variance * slope)


def fixed_correlation(
    activation: Callable, weight_variance: float, variance: float, chi: float
) -> tuple[float, float]:
    """The correlation that is reached from below, and the covariance map's slope there.

    The map from c to c is a power series with no negative coefficient and leads from 1 to 1, so
    there is one other fixed point at most in [0, 1), and only if its slope at 1, chi, is above 1.
    """

    def surplus(distance: float) -> float:
        """Of the map over the correlation 1 - distance, relative to the distance."""
        gap = pair(activation, variance, 1 - distance).gap
        return 1 - weight_variance * gap / variance / distance

    if chi <= 1 + 1e-12:
        return 1.0, chi
    near = min(0.5, chi - 1)
    while surplus(near) > 0:
        near /= 16
        if near < 1e-13:
            return 1.0, chi
    distance = 1.0 if surplus(1.0) < 1e-12 else root(surplus, near, 1.0)
    correlation = 1 - distance
    slope = weight_variance * pair(activation, variance, correlation).derivative_product
    return correlation, slope
