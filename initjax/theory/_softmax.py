r"""Expectations of the weights of a softmax over normal scores, at a finite number of keys.

For scores :math:`x_1, \dots, x_T \sim N(0, s^2)` and :math:`Z = \sum e^{x_i}` the identity
:math:`Z^{-2} = \int_0^\infty u e^{-uZ} du` with :math:`u = e^{-t}` turns expectations of ratios
into integrals over `t` of powers of :math:`L(t) = E[\exp(-e^{x - t})]`:

.. math:: E[\sum p_i^2] = T \int E[w^2 e^{-w}] L(t)^{T-1} dt, \quad w = e^{x - t}

and :math:`E[\ln Z] = \int (\exp(-e^{-t}) - L(t)^T) dt`. All integrands are analytic, so sums over
equal steps converge faster than any power.
"""

from __future__ import annotations

import functools
import math

import numpy as np

_STEP = 0.4  # of t: within 1e-10 for functions that are analytic up to i pi/2
_REACH = 8.5  # standard deviations
_MOST = 32.0  # the largest stddev to integrate; beyond, 1 - sum of squares falls as 1/stddev
_MOST_OF_TWO = 16.0  # the same for two rows, whose product of weights hardly changes beyond
_LEAST = 1e-9  # a smaller stddev is 0
_ROWS = 64  # of a causal mask, that are summed one by one; the others are integrated


@functools.lru_cache(maxsize=1024)
def expected_weights(stddev: float, num_keys: int, causal: bool) -> tuple[float, float]:
    """Computes the means of the sum of squared weights and of the entropy, over rows."""
    s = min(stddev, _MOST) if stddev > _LEAST else 0.0
    t = _grid(s, num_keys)
    none, _, two = _transforms(t, s)
    rows, shares = _rows(num_keys) if causal else (np.array([float(num_keys)]), np.ones(1))
    logs = np.log(np.maximum(none, 1e-300))
    powers = np.exp((rows[:, None] - 1) * logs)
    squares = np.minimum(rows * (powers @ two) * _STEP, 1.0)
    log_sum = (np.exp(-np.exp(-np.maximum(t, -6))) - powers * none).sum(axis=1) * _STEP
    entropy = np.clip(log_sum - s**2 * (1 - squares), 0.0, np.log(rows))
    far = min(1.0, _MOST / stddev) if stddev > 0 else 1.0
    return float(shares @ (1 - far * (1 - squares))), far * float(shares @ entropy)


@functools.lru_cache(maxsize=1024)
def expected_product(stddev: float, num_keys: int, correlation: float, causal: bool) -> float:
    """Computes the mean product of two rows' weights whose scores have a correlation in [0, 1].

    With a causal mask the shorter row has `i` keys and the longer one `j`. The longer one has a
    share i/j of its weight on the `i` common keys, on average.
    """
    s = min(stddev, _MOST_OF_TWO)
    if not causal:
        return float(_products(s, correlation, np.array([float(num_keys)]))[0])
    if num_keys == 1:
        return 1.0
    some = np.unique(np.geomspace(1, num_keys - 1, min(num_keys - 1, 10)).round())
    shorter = np.arange(1.0, num_keys)
    logs = np.log(_products(s, correlation, some))
    products = np.exp(np.interp(np.log(shorter), np.log(some), logs))
    later = np.cumsum(1 / np.arange(num_keys, 1, -1.0))[::-1]  # the sum of 1/j over j > i
    return float(2 / (num_keys * (num_keys - 1)) * (shorter * products * later).sum())


def _products(s: float, correlation: float, keys: np.ndarray) -> np.ndarray:
    """The mean product of two rows' weights, without a mask, for each number of keys."""
    own, common = s * math.sqrt(1 - correlation), s * math.sqrt(correlation)
    if common < _LEAST:
        return 1 / keys
    t = _grid(s, int(keys.max()))
    none, one, _ = _transforms(t, s)
    found = np.zeros(len(keys))
    # Both transforms given the common part are smooth on the scale of 1 or of the own part.
    step = min(max(_STEP, own / 4), common / 4)
    y = _symmetric(_REACH * common, step)
    density = np.exp(-((y / common) ** 2) / 2) * step / (common * math.sqrt(2 * math.pi))
    low, high = t[0] - y[-1], t[-1] + y[-1]
    table = np.linspace(low, high, math.ceil((high - low) / (0.02 * max(1, own))) + 1)
    tables = _transforms(table, own)[:2]
    for index, number in enumerate(keys.tolist()):
        log_power = (number - 1) * np.log(np.maximum(none, 1e-300))
        size = np.exp(log_power) * one
        at = t[size > 1e-8 * size.max()]
        shifted = at[:, None] - y
        without, with_one = (np.interp(shifted, table, values) for values in tables)
        both = (without * density) @ without.T
        product = (with_one * density) @ with_one.T
        power = np.exp((number - 1) * np.log(np.maximum(both, 1e-300)))
        found[index] = number * (product * power).sum() * _STEP**2
    return np.clip(found, 1 / keys, 1.0)


def _grid(s: float, num_keys: int) -> np.ndarray:
    """The values of t that count."""
    low = -_REACH * s - 5
    return np.arange(low, _REACH * s + 40 + math.log(num_keys), _STEP)


def _transforms(t: np.ndarray, s: float) -> np.ndarray:
    """The means of exp(-w), w exp(-w) and w² exp(-w) for w = exp(x - t) and x of N(0, s²).

    The values of t have equal steps, so for a wide distribution this is a convolution.
    """
    step = t[1] - t[0]
    wide = step <= s / 4
    x = _symmetric(_REACH * s, step if wide else s / 4) if s > 0 else np.zeros(1)
    density = np.exp(-((x / s) ** 2) / 2) if s > 0 else np.ones(1)
    density /= density.sum()
    u = t[0] + x[0] + step * np.arange(len(t) + len(x) - 1) if wide else t[:, None] - x
    w = np.exp(-np.maximum(u, -6.0))
    kernels = [w**order * np.exp(-w) for order in range(3)]
    if wide:
        return np.array([np.convolve(kernel, density, "valid") for kernel in kernels])
    return np.array([kernel @ density for kernel in kernels])


def _symmetric(reach: float, step: float) -> np.ndarray:
    number = math.ceil(reach / step)
    return np.arange(-number, number + 1) * step


def _rows(num_keys: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a causal mask by their number of keys, and their share in a mean over rows."""
    one_by_one = np.arange(1.0, min(num_keys, _ROWS) + 1)
    rows, shares = [one_by_one], [np.ones_like(one_by_one)]
    nodes, weights = np.polynomial.legendre.leggauss(6)
    low = _ROWS + 0.5  # a sum of integers is close to the integral between halves
    while low < num_keys:
        high = min(2 * low, num_keys + 0.5)
        rows.append(low + (high - low) / 2 * (nodes + 1))
        shares.append((high - low) / 2 * weights)
        low = high
    return np.concatenate(rows), np.concatenate(shares) / num_keys
