r"""Gaussian expectations of an activation: of one input, and of two that are correlated.

One-dimensional ones are sums over the nodes of its pieces. For two inputs of variance `q` and
correlation `c`, half their sum and half their difference are independent, with variances
:math:`q(1 \pm c)/2`. The integral over the wider one is done first, from kink to kink: kinks of
:math:`\phi(m + d)` and :math:`\phi(m - d)` lie at :math:`k \mp d`. What remains is smooth in the
other one, but where two kinks meet, at half the difference of their places.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.polynomial import legendre

from initjax.theory._activation import differentiation
from initjax.theory._pieces import Pieces, pieces

SMALLEST = 1e-60  # a variance that stands for the limit at zero
REACH = 12.0  # standard deviations; beyond it a normal law has less than 1e-32
_BOUND = 12.5  # within which an activation has to be finite
_NODES, _WEIGHTS = legendre.leggauss(12)  # of the wider of two variables, in a panel
_DIFFERENTIATION = differentiation(_NODES)
_OUTER, _OUTER_WEIGHTS = legendre.leggauss(16)  # of the narrower
_LAST = (legendre.legvander(_OUTER, 15) * _OUTER_WEIGHTS[:, None])[:, -2:] * (14.5, 15.5)
_WIDE = np.array([-10, -5, -2.5, 0, 2.5, 5, 10])  # panels
_NARROW = np.array([0, 1.4, 3, 5.2, 8.5])
_CLOSE = 1e-9  # what the last coefficients of a panel may be, relative to the integral
_AT_ONCE = 512  # nodes of the narrower variable
_HALVINGS = 8
_MOST_MEETINGS = 200  # of kinks: where more meet, no single one matters


class Single(NamedTuple):
    """Expectations over :math:`z \\sim N(0, q)`; arrays if `q` is one."""

    mean: np.ndarray
    second: np.ndarray
    fourth: np.ndarray
    sixth: np.ndarray
    derivative_second: np.ndarray
    derivative_fourth: np.ndarray
    slope: np.ndarray
    """dE[phi²]/dq"""
    curvature: np.ndarray
    """d²E[phi²]/dq²"""


class Pair(NamedTuple):
    """Expectations over two inputs of equal variance."""

    gap: float
    """E[(phi(u) - phi(v))²]/2"""
    derivative_product: float
    """E[phi'(u) phi'(v)]"""


def single(activation: Callable, variance: np.ndarray | float) -> Single:
    r"""Expectations at one variance or at many.

    With the normal density's heat equation,
    :math:`\partial_q E[g] = E[g (z^2 - 1)]/(2q)` and
    :math:`\partial_q^2 E[g] = E[g (z^4 - 6z^2 + 3)]/(4q^2)` for unit normal `z`: no derivative of
    the activation is needed, which may have kinks.
    """
    q = np.maximum(np.asarray(variance, np.float64), SMALLEST)
    return expectations(activation, q, _pieces_for(activation, float(q.min()), float(q.max())))


def expectations(activation: Callable, q: np.ndarray, found: Pieces) -> Single:
    """What `single` returns, by pieces that serve these variances."""
    scaled = found.nodes**2 / q[..., None]
    density = np.where(scaled < _BOUND**2, np.exp(-scaled / 2), 0)
    density *= found.weights / np.sqrt(2 * math.pi * q[..., None])
    sums = density @ found.integrands
    square = found.integrands[:, 1]
    tail = np.where(scaled > (REACH - 0.5) ** 2, density, 0) @ square
    if (tail > 1e-14 * sums[..., 1]).any():
        # What is nothing within seven, as a ramp that starts beyond, just has tiny moments.
        central = np.where(scaled < 49, square, 0).max(axis=-1) > 1e-200 * square.max()
        if (central & (tail > 1e-14 * sums[..., 1])).any():
            raise ValueError(
                f"activation {activation!r} grows so fast that inputs beyond {REACH:g} standard"
                " deviations dominate its moments"
            )
    for place, diverges in found.poles:
        sums[..., :6][(place**2 < REACH**2 * q)[..., None] & diverges] = math.inf
    mean, second, fourth, sixth, slope2, slope4, zeroth, by_square, by_fourth = np.moveaxis(
        sums, -1, 0
    )
    slope = (by_square / q - zeroth) / (2 * q)
    curvature = (by_fourth / q**2 - 6 * by_square / q + 3 * zeroth) / (4 * q**2)
    return Single(mean, second, fourth, sixth, slope2, slope4, slope, curvature)


def pair(activation: Callable, variance: float, correlation: float) -> Pair:
    """Expectations over two inputs of one variance and a correlation in [-1, 1]."""
    q, c = max(variance, SMALLEST), correlation
    found = _pieces_for(activation, q, q)
    sign = 1.0 if c >= 0 else -1.0
    wide, narrow = math.sqrt(q * (1 + abs(c)) / 2), math.sqrt(q * (1 - abs(c)) / 2)
    reach = _WIDE[-1] * wide + _NARROW[-1] * narrow
    edges = found.edges[np.abs(found.edges) < reach]
    breaks = found.breaks[np.abs(found.breaks) < reach]
    base = _NARROW if c >= 0 else np.union1d(-_NARROW, _NARROW)
    panels = base
    if narrow > 0:
        meetings = (breaks[:, None] - sign * breaks[None, :]).ravel() / (2 * narrow)
        inside = np.unique(np.round(meetings[(meetings > base[0]) & (meetings < base[-1])], 14))
        if len(inside) <= _MOST_MEETINGS:
            panels = np.union1d(base, inside)
    left, right = panels[:-1], panels[1:]
    total, scale = np.zeros(2), np.full(2, 1e-300)
    close = max(_CLOSE, found.tolerance / 10)
    for halving in range(_HALVINGS + 1):
        half = (right - left)[:, None] / 2
        x = left[:, None] + half * (_OUTER + 1)
        inner = _inner(found, x.ravel() * narrow, wide, sign, edges).reshape(2, *x.shape)
        inner *= np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) * half
        sums = inner @ _OUTER_WEIGHTS
        if halving == 0:
            scale = np.maximum(scale, np.abs(sums).sum(axis=1))
        rough = np.abs(inner @ _LAST).max(axis=2) > close * scale[:, None]
        halve = rough.any(axis=0) & (halving < _HALVINGS)
        total += sums[:, ~halve].sum(axis=1)
        if not halve.any():
            break
        left, right = left[halve], right[halve]
        middle = (left + right) / 2
        left, right = np.concatenate([left, middle]), np.concatenate([middle, right])
    if c >= 0:
        total *= 2  # the other half is alike
    return Pair(float(total[0]), float(total[1]))


def hermite_coefficients(activation: Callable, variance: float, number: int) -> np.ndarray:
    """The first coefficients in normalised Hermite polynomials of unit normal numbers."""
    found = _pieces_for(activation, variance, variance)
    z = found.nodes / math.sqrt(variance)
    weighted = np.exp(-(z**2) / 2) * found.weights * found.value / math.sqrt(2 * math.pi * variance)
    before, polynomial, coefficients = np.zeros_like(z), np.ones_like(z), []
    for k in range(number):
        coefficients.append(float(weighted @ polynomial))
        after = (z * polynomial - math.sqrt(k) * before) / math.sqrt(k + 1)
        before, polynomial = polynomial, after
    return np.array(coefficients)


def _inner(
    found: Pieces, narrow: np.ndarray, stddev: float, sign: float, edges: np.ndarray
) -> np.ndarray:
    """The integrals over the wider variable, for every value of the narrower one: (2, values)."""
    results = []
    for start in range(0, len(narrow), _AT_ONCE):
        outer = narrow[start : start + _AT_ONCE, None]
        ends = np.concatenate([edges - outer, sign * edges + outer], axis=1) / stddev
        ends = np.concatenate([ends, np.broadcast_to(_WIDE, (len(outer), len(_WIDE)))], axis=1)
        ends = np.sort(np.clip(ends, _WIDE[0], _WIDE[-1]), axis=1)
        row, column = np.nonzero(np.diff(ends) > 0)
        left, right = ends[row, column], ends[row, column + 1]
        half = (right - left)[:, None] / 2
        z = left[:, None] + half * (_NODES + 1)
        u = z * stddev
        values, derivatives = found.evaluate(np.stack([u + outer[row], sign * (u - outer[row])]))
        if derivatives is None:
            derivatives = values @ _DIFFERENTIATION.T / (half * stddev)
            derivatives[1] *= sign
        if found.singular:  # and hit in a panel of no width to speak of
            values, derivatives = (
                np.where(np.isfinite(array), array, 0) for array in (values, derivatives)
            )
        density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * half * _WEIGHTS
        gap = ((values[0] - values[1]) ** 2 / 2 * density).sum(axis=1)
        product = (derivatives[0] * derivatives[1] * density).sum(axis=1)
        results.append([np.bincount(row, sums, len(outer)) for sums in (gap, product)])
    return np.concatenate(results, axis=1)


def _pieces_for(activation: Callable, smallest: float, largest: float) -> Pieces:
    """The pieces for all variances between two: one of few sets, if that can be."""
    number = math.floor((math.log2(smallest) + 4) / 8)
    if largest < 2.0 ** (8 * number + 4):
        try:
            return pieces(activation, 4 * number - 5, 4 * number + 6)
        except ValueError:
            pass  # it isn't finite as far out, such as exp: no farther than these variances need
    low = 2 * math.floor(math.log2(smallest) / 4) - 3
    return pieces(activation, low, math.ceil(math.log2(_BOUND * math.sqrt(largest))))
