r"""Criticality: the variances of weights and biases at which gradients neither explode nor vanish.

They are parameterized by the fixed point `q` of the variance, so that one root is enough:
:math:`\sigma_w^2 = 1 / E[\phi'(\sqrt{q} z)^2]` makes :math:`\chi_\perp = 1` there, and
:math:`\sigma_b^2 = q - \sigma_w^2 E[\phi(\sqrt{q} z)^2]` makes `q` a fixed point.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from initjax._values import checked_number
from initjax.theory._activation import Activation, named
from initjax.theory._fixed_points import HIGHEST, LOWEST, root, strides
from initjax.theory._integrals import SMALLEST, Single, single
from initjax.theory._pieces import at_point

_HOMOGENEOUS = 1e-11  # the largest bias variance of a homogeneous activation, relative to q


class CriticalPoint(NamedTuple):
    """Variances of weights and biases at which chi is 1. All are floats."""

    variance: float
    """q*, the fixed point; nan if every variance is a fixed point, as for ReLU."""
    weight_variance: float
    """sigma_w², the variance of a weight times fan_in."""
    bias_variance: float
    """sigma_b²"""
    chi_parallel: float
    """The variance map's slope at q*. Above 1 it is unstable: the variance moves away."""


def critical_line(activation: Activation, bias_variance: float = 0.0) -> CriticalPoint:
    r"""Finds the weight variance that is critical for a bias variance: the edge of chaos.

    If there are several, it is the one with the smallest q*. Check `chi_parallel`: GELU's and
    SiLU's critical fixed points are unstable up to the one that `critical_points` returns.

    Args:
      activation: phi, a function that acts on each number by itself, or a name in `jax.nn`.
      bias_variance: sigma_b², the variance of a bias.

    Returns:
      A `CriticalPoint`.

    Raises:
      TypeError, ValueError: activation isn't such a function or name; bias_variance is not a finite
        number >= 0; there is no critical point, as for softplus (it would need a negative bias
        variance) and for ReLU with any bias.

    Example:
      >>> point = critical_line("tanh", bias_variance=0.05)
      >>> round(point.variance, 6), round(point.weight_variance, 6)
      (0.570048, 1.760955)
      >>> round(critical_line("relu").weight_variance, 9)
      2.0

    Reference:
      Schoenholz, Gilmer, Ganguli and Sohl-Dickstein 2017, "Deep Information Propagation",
      https://arxiv.org/abs/1611.01232, and Hayou, Doucet and Rousseau 2019, "On the Impact of the
      Activation Function on Deep Neural Networks Training", https://arxiv.org/abs/1902.06853
    """
    function = named("critical_line", activation)
    biases = checked_number("critical_line", "bias_variance", bias_variance, minimum=0)
    everywhere = _homogeneous(function)
    if everywhere is not None:
        if biases > 0:
            raise ValueError(
                f"critical_line: {activation!r} is critical only at bias_variance 0, with"
                f" weight_variance {everywhere.weight_variance:.6g}; got {bias_variance!r}"
            )
        return everywhere
    if biases == 0 and _is_linear_at_zero(function):
        return _point(0.0, single(function, SMALLEST))

    def excess(variance):
        return float(_bias_variance(variance, single(function, variance))) - biases

    previous, below, seen = None, -math.inf, []
    for q, found in strides(function, LOWEST, HIGHEST):
        needed = _bias_variance(q, found)
        seen.extend(needed[np.isfinite(needed)].tolist())
        for variance, here in zip(q.tolist(), (needed - biases).tolist(), strict=True):
            if previous is not None and below < 0 <= here:
                variance = root(excess, previous, variance)
                return _point(variance, single(function, variance))._replace(bias_variance=biases)
            previous, below = variance, here
    if not seen:
        raise ValueError(f"critical_line: {activation!r} lets no gradient through at any variance")
    raise ValueError(
        f"critical_line: {activation!r} has no critical point with bias_variance {biases:g};"
        f" it needs a bias_variance from {min(seen):.3g} to {max(seen):.3g}"
    )


def critical_points(activation: Activation) -> list[CriticalPoint]:
    r"""Finds the points at which deviations of the variance and gradients both keep their size.

    There :math:`\chi_\parallel = \chi_\perp = 1`: isolated points of the critical line, at which
    the variance converges to q* from at least one side, more slowly than any exponential. They
    suit deep networks best.

    Args:
      activation: phi, a function that acts on each number by itself, or a name in `jax.nn`.

    Returns:
      A list of `CriticalPoint`, smallest q* first, empty if there is none. q* is 0 for tanh, and
        nan
      if every q is critical, as for ReLU.

    Raises:
      TypeError, ValueError: activation isn't such a function or name.

    Example:
      >>> import jax
      >>> [point] = critical_points(lambda z: jax.nn.gelu(z, approximate=False))
      >>> round(point.variance, 9) == round((3 + math.sqrt(17)) / 2, 9)
      True
      >>> critical_points("softplus")
      []

    Reference:
      Roberts, Yaida and Hanin 2022, "The Principles of Deep Learning Theory", sections 5.3 and
      5.4, https://arxiv.org/abs/2106.10165
    """
    function = named("critical_points", activation)
    everywhere = _homogeneous(function)
    if everywhere is not None:
        return [everywhere]

    def slope(variance):
        found = single(function, variance)
        return float(found.slope / found.derivative_second) - 1

    points, previous, before = [], 0.0, 0.0
    for q, found in strides(function, LOWEST, HIGHEST // 2):
        needed = _bias_variance(q, found)
        with np.errstate(divide="ignore", invalid="ignore"):
            slopes = found.slope / found.derivative_second - 1
        for variance, here, biases in zip(
            q.tolist(), slopes.tolist(), needed.tolist(), strict=True
        ):
            if not 1e-9 < abs(here) < math.inf:
                continue
            if before == 0 and here < 0 and _is_linear_at_zero(function):
                points.append(_point(0.0, single(function, SMALLEST)))
            elif before * here < 0 and biases > 0:
                middle = root(slope, previous, variance)
                points.append(_point(middle, single(function, middle)))
            previous, before = variance, here
    return points


def _bias_variance(variance, found: Single):
    with np.errstate(divide="ignore", invalid="ignore"):
        return variance - found.second / found.derivative_second


def _point(variance: float, found: Single) -> CriticalPoint:
    weights = 1 / float(found.derivative_second)
    biases = float(_bias_variance(variance, found)) if variance > 0 else 0.0
    return CriticalPoint(variance, weights, biases, weights * float(found.slope))


def _homogeneous(function: Callable) -> CriticalPoint | None:
    """The critical point of an activation that is homogeneous, such as ReLU."""
    for q, found in strides(function, -2, 2):
        if not (np.abs(_bias_variance(q, found)) < _HOMOGENEOUS * q).all():
            return None
    weights = 1 / float(single(function, 1.0).derivative_second)
    return CriticalPoint(math.nan, weights, 0.0, weights * float(single(function, 1.0).slope))


def _is_linear_at_zero(function: Callable) -> bool:
    """Whether the activation is linear near zero, up to a different slope on each side."""
    values = [at_point(function, point) for point in (-SMALLEST, SMALLEST)]
    return 1e-50 < float(single(function, SMALLEST).derivative_second) < math.inf and (
        max(map(abs, values)) < 1e-50
    )
