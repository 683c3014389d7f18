r"""Chains that are too long for unit variance: there the aim is :math:`\chi_1 = 1`."""

from __future__ import annotations

import functools
import math

import numpy as np

from initjax.auditing._reading.expressions import IDENTITY, Expression, Path
from initjax.auditing._reading.sites import Site
from initjax.theory._integrals import single

_GROWTH = 10.0  # of a gradient's squared norm over a chain, up to which unit variance is the aim
_VARIANCES = np.exp(np.linspace(math.log(1e-8), math.log(1e3), 400))


def unit_variance_explodes(sites: dict[Path, Site]) -> bool:
    """Whether gradients would grow tenfold in the longest chain if all variances were one.

    The chain is read from the program: what was measured may be as broken as the network.
    """
    growth: dict[Path, float] = {}
    for path, site in sites.items():
        signal = site.inputs[-1].signal
        if signal is None or signal.site is None or not isinstance(signal.expression, Expression):
            growth[path] = 0.0
            continue
        turns = math.prod(length or 1 for loop, length in site.loops if loop in site.stacked)
        here = _log_chi(signal.expression) * turns
        growth[path] = here + growth.get(signal.site, 0.0)
    return max(growth.values(), default=0.0) > math.log(_GROWTH)


@functools.lru_cache(maxsize=256)
def _log_chi(expression: Expression) -> float:
    """log chi_1 at unit variance; zero where no smaller variance has chi_1 = 1."""
    if expression == IDENTITY:
        return 0.0
    try:
        one = single(expression, 1.0)
        return max(0.0, math.log(float(one.derivative_second) / float(one.second)))
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0


Curve = tuple[np.ndarray, np.ndarray]
"""Logarithms of a layer's mean squared input, and of the variances at which chi_1 = 1."""


def critical_variance(site: Site) -> Curve | None:
    """The variance to aim at in a layer after an activation; None for any other layer."""
    signal = site.inputs[-1].signal
    if signal is None or signal.site is None or not isinstance(signal.expression, Expression):
        return None
    return None if signal.expression == IDENTITY else _curve(signal.expression)


@functools.lru_cache(maxsize=64)
def _curve(expression: Expression) -> Curve | None:
    try:
        found = single(expression, _VARIANCES)
    except (TypeError, ValueError):
        return None
    second, slope = np.asarray(found.second), np.asarray(found.derivative_second)
    known = (second > 0) & (slope > 0) & np.isfinite(second) & np.isfinite(slope)
    second, slope = second[known], slope[known]
    if second.size < 2 or (np.diff(second) <= 0).any():
        return None  # several variances have the same mean square
    aims = np.minimum(second / slope, 1.0)
    return np.log(second).astype(np.float32), np.log(aims).astype(np.float32)
