r"""Trainable depths for a whole grid of weight and bias variances.

The expectations of the activation are tabulated over the variance `q`; correlations follow the
power series :math:`E[\phi(u) \phi(v)] = \sum_k a_k^2 c^k` of Hermite coefficients, truncated
after a hundred terms. That is precise enough for a color; `depth_scales` is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from initjax.theory._fixed_points import HIGHEST, LOWEST, strides
from initjax.theory._integrals import hermite_coefficients, single

_TERMS = 100


class Cells(NamedTuple):
    """The result of `depth_scales` for pairs of variances: arrays (biases, weights)."""

    variance: np.ndarray
    chi: np.ndarray
    depth: np.ndarray
    """6 xi_c, positive in every phase; 6 xi_grad where the variance is unbounded."""


def phase_cells(function: Callable, weights: np.ndarray, biases: np.ndarray) -> Cells:
    """The result of `depth_scales` for all pairs at once, with fewer digits."""
    from scipy.interpolate import CubicSpline

    table = list(strides(function, LOWEST, HIGHEST))
    q = np.concatenate([variances for variances, _ in table])
    second = np.concatenate([found.second for _, found in table])
    slopes = np.concatenate([found.derivative_second for _, found in table])
    seconds = CubicSpline(np.log(q), second / q)
    sigma_w, sigma_b = (grid.ravel() for grid in np.meshgrid(weights, biases))

    # Find the first sign change from the start, upwards or downwards; then bisect.
    start = int(np.argmin(np.abs(q - 1)))
    growth = sigma_w[:, None] * (second / q) + sigma_b[:, None] / q - 1
    rising = growth[:, start] > 0
    up = np.where(np.arange(len(q)) > start, growth, np.inf) < -1e-13
    down = np.where(np.arange(len(q)) < start, growth, -np.inf) > 1e-13
    above, below = up.argmax(axis=1), len(q) - 1 - down[:, ::-1].argmax(axis=1)
    low = np.log(q[np.where(rising, np.maximum(above - 1, 0), below)])
    high = np.log(q[np.where(rising, above, np.minimum(below + 1, len(q) - 1))])
    for _ in range(45):
        middle = (low + high) / 2
        grows = sigma_w * seconds(middle) + sigma_b * np.exp(-middle) > 1
        low, high = np.where(grows, middle, low), np.where(grows, high, middle)
    variance = np.exp((low + high) / 2)
    variance = np.where(rising & ~up.any(axis=1), np.inf, variance)
    variance = np.where(~rising & ~down.any(axis=1), 0, variance)

    inside = np.clip(variance, q[0], q[-1])
    chi = sigma_w * CubicSpline(np.log(q), slopes)(np.log(inside))
    slope = chi.copy()
    chaotic = (chi > 1) & np.isfinite(variance) & (variance > 0)
    if chaotic.any():
        slope[chaotic] = _chaotic_slopes(
            function, sigma_w[chaotic], sigma_b[chaotic], variance[chaotic]
        )
    with np.errstate(divide="ignore"):
        depth = 6 / np.abs(np.log(np.abs(slope)))
    depth = np.maximum(depth, 1e-9)
    shape = len(biases), len(weights)
    return Cells(variance.reshape(shape), chi.reshape(shape), depth.reshape(shape))


def _chaotic_slopes(
    function: Callable, weights: np.ndarray, biases: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    """The correlation maps' slopes at their fixed points below 1."""
    from scipy.interpolate import CubicSpline

    low, high = math.log(variance.min()) - 1e-3, math.log(variance.max()) + 1e-3
    places = np.linspace(low, high, max(5, math.ceil((high - low) / 0.1)))
    squares = [hermite_coefficients(function, math.exp(place), _TERMS) ** 2 for place in places]
    rest = single(function, np.exp(places)).second - np.sum(squares, axis=1)
    squares = np.concatenate([squares, rest[:, None]], axis=1) / np.exp(places)[:, None]
    series = CubicSpline(places, squares)(np.log(variance)).T * weights
    series[0] += biases / variance
    slopes = series[1:] * np.arange(1, _TERMS + 1)[:, None]
    low, high = np.zeros(len(variance)), np.ones(len(variance))
    for _ in range(40):
        # Below the fixed point the map increases c; above it, it decreases c.
        middle = (low + high) / 2
        up = np.polynomial.polynomial.polyval(middle, series, tensor=False) > middle
        low, high = np.where(up, middle, low), np.where(up, high, middle)
    return np.polynomial.polynomial.polyval((low + high) / 2, slopes, tensor=False)
