r"""Chains that are too long for unit variance: there the aim is :math:`\chi_1 = 1`."""

from __future__ import annotations

import math

import numpy as np

from initjax.auditing._activations import critical_growth, critical_table
from initjax.auditing._reading.expressions import IDENTITY, Expression, Path
from initjax.auditing._reading.sites import Site

_GROWTH = 10.0  # of a gradient's squared norm over a chain, up to which unit variance is the aim


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
        here = critical_growth(signal.expression) * turns
        growth[path] = here + growth.get(signal.site, 0.0)
    return max(growth.values(), default=0.0) > math.log(_GROWTH)


Curve = tuple[np.ndarray, np.ndarray]
"""Logarithms of a layer's mean squared input, and of the variances at which chi_1 = 1."""


def critical_variance(site: Site) -> Curve | None:
    """The variance to aim at in a layer after an activation; None for any other layer."""
    signal = site.inputs[-1].signal
    if signal is None or signal.site is None or not isinstance(signal.expression, Expression):
        return None
    return None if signal.expression == IDENTITY else critical_table(signal.expression)
