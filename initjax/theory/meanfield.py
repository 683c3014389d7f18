r"""Mean field theory: what wide random layers do to variance, correlation and gradients.

A layer maps pre-activations `z` to :math:`W \phi(z) + b` with independent weights and biases,
:math:`Var(W) = \sigma_w^2 / fan_{in}` and :math:`Var(b) = \sigma_b^2`. In the limit of wide layers
the pre-activations of an input are normal with a variance `q`, and those of two inputs are
correlated by a number `c`; both are carried from layer to layer by the maps below. `He` is
:math:`\sigma_w^2 = 2`, `LeCun` is 1; Glorot's with equal fans is 1 too.

Every activation here is a function that acts on each number by itself, with kinks and jumps or
without, or the name of one in `jax.nn`. What was found out about it is kept, so that another call
for the same function (the same object) takes about a tenth of a millisecond for a variance and two
for a correlation, where the first takes a tenth of a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from initjax._values import checked_number, checked_positive
from initjax.theory._activation import Activation, named
from initjax.theory._fixed_points import depth, fixed_correlation, fixed_variance
from initjax.theory._integrals import SMALLEST, pair, single
from initjax.theory._pieces import at_point, evaluate


class DepthScales(NamedTuple):
    """Where a deep network's signal goes, and in how many layers. All are floats."""

    variance: float
    """q*, the variance that is reached."""
    chi: float
    """By what the mean square of a gradient is multiplied in a layer there, sigma_w² E[phi'²]."""
    chi_parallel: float
    """By what a deviation from q* is multiplied in a layer, dq'/dq."""
    correlation: float
    """c*, the correlation that two inputs reach."""
    variance_depth: float
    """xi_q: layers in which a deviation from q* falls by e."""
    correlation_depth: float
    """xi_c: layers in which a deviation from c* falls by e."""
    gradient_depth: float
    """xi_grad: layers in which a gradient's mean square falls by e; negative if it grows by e."""


def variance_map(
    activation: Activation, variance: float, weight_variance: float, bias_variance: float = 0.0
) -> float:
    r"""The variance of the next layer's pre-activations.

    .. math:: q' = \sigma_w^2 \, E[\phi(\sqrt{q} z)^2] + \sigma_b^2, \quad z \sim N(0, 1)

    Args:
      activation: phi, a function or a name in `jax.nn`.
      variance: q, the variance of this layer's pre-activations.
      weight_variance: sigma_w², the variance of a weight times fan_in.
      bias_variance: sigma_b², the variance of a bias.

    Returns:
      q', a float.

    Raises:
      TypeError, ValueError: activation is no such function or name, is not finite, or grows too
        fast; a variance is not a finite number >= 0.

    Example:
      >>> round(variance_map("relu", 3.0, weight_variance=2.0), 12)
      3.0
      >>> round(variance_map("tanh", 1.0, 1.3, 0.05), 6)
      0.562583

    Reference:
      Poole et al. 2016, "Exponential expressivity in deep neural networks through transient
      chaos", equation 3, https://arxiv.org/abs/1606.05340
    """
    function, q, weights, biases = _checked(
        "variance_map", activation, variance, weight_variance, bias_variance
    )
    if q == 0:
        return weights * at_point(function, 0.0) ** 2 + biases
    return weights * float(single(function, q).second) + biases


def correlation_map(
    activation: Activation,
    correlation: float,
    variance: float,
    weight_variance: float,
    bias_variance: float = 0.0,
) -> float:
    r"""The correlation of two inputs in the next layer.

    .. math:: c' = (\sigma_w^2 \, E[\phi(u) \phi(v)] + \sigma_b^2) / q'

    for normal `u` and `v` of variance `q` and correlation `c`, and `q'` of `variance_map`. So it
    holds away from fixed points too.

    Args:
      activation: phi, a function or a name in `jax.nn`.
      correlation: c, from -1 to 1, of the pre-activations that two inputs give.
      variance: q, the variance of either; 0 stands for the limit.
      weight_variance: sigma_w², the variance of a weight times fan_in.
      bias_variance: sigma_b², the variance of a bias.

    Returns:
      c', a float from -1 to 1.

    Raises:
      TypeError, ValueError: as `variance_map`; correlation is not in [-1, 1], or the next layer's
        variance is 0.

    Example:
      >>> round(correlation_map("relu", 0.0, 1.0, weight_variance=2.0) * math.pi, 9)
      1.0

    Reference:
      Poole et al. 2016, "Exponential expressivity in deep neural networks through transient
      chaos", equation 5, https://arxiv.org/abs/1606.05340
    """
    function, q, weights, biases = _checked(
        "correlation_map", activation, variance, weight_variance, bias_variance
    )
    c = checked_number("correlation_map", "correlation", correlation, minimum=-1)
    if c > 1:
        raise ValueError(f"correlation_map: correlation must be at most 1, got {correlation!r}")
    after = weights * float(single(function, q).second) + biases
    if after <= 0:
        raise ValueError("correlation_map: the next layer's variance is 0")
    return min(1.0, max(-1.0, 1 - weights * pair(function, q, c).gap / after))


def relu_correlation_map(correlation: Any) -> Any:
    r"""The correlation map of ReLU without biases, in closed form, at any variance.

    .. math:: f(c) = (\sqrt{1 - c^2} + c (\pi - \arccos c)) / \pi

    Repeated from any start it leads to 1, as :math:`1 - c_l \approx 9 \pi^2 / (2 l^2)`.

    Args:
      correlation: c, from -1 to 1, a number or an array.

    Returns:
      The correlation after the layer, a float or an array of them.

    Raises:
      ValueError: a correlation is not in [-1, 1].

    Example:
      >>> relu_correlation_map([-1, 0.5, 1]).round(6).tolist()
      [0.0, 0.608998, 1.0]

    Reference:
      Cho and Saul 2009, "Kernel Methods for Deep Learning", equation 6,
      https://papers.nips.cc/paper/3628-kernel-methods-for-deep-learning
    """
    c = np.asarray(correlation, np.float64)
    if not (np.abs(c) <= 1).all():
        raise ValueError(f"relu_correlation_map: correlation must be in [-1, 1], got {correlation}")
    after = (np.sqrt((1 - c) * (1 + c)) + c * (math.pi - np.arccos(c))) / math.pi
    return after if after.ndim else float(after)


def chi(activation: Activation, variance: float, weight_variance: float) -> float:
    r"""By what a layer multiplies the mean square of a gradient, and small angles between inputs.

    .. math:: \chi_\perp = \sigma_w^2 \, E[\phi'(\sqrt{q} z)^2]

    Also the slope of the correlation map at 1, at a fixed point of the variance. Above 1 gradients
    explode and like inputs part (chaos); below 1 gradients vanish and all inputs get alike (order).

    Args:
      activation: phi, a function or a name in `jax.nn`.
      variance: q, the variance of the pre-activations; 0 stands for the limit.
      weight_variance: sigma_w², the variance of a weight times fan_in.

    Returns:
      chi, a float; infinite where the mean of phi'² is.

    Raises:
      TypeError, ValueError: as `variance_map`.

    Example:
      >>> round(chi("relu", 1.0, weight_variance=2.0), 12)
      1.0

    Reference:
      Schoenholz, Gilmer, Ganguli and Sohl-Dickstein 2017, "Deep Information Propagation",
      https://arxiv.org/abs/1611.01232
    """
    function, q, weights, _ = _checked("chi", activation, variance, weight_variance)
    return weights * float(single(function, q).derivative_second)


def chi_parallel(activation: Activation, variance: float, weight_variance: float) -> float:
    r"""By what a layer multiplies a small deviation of the variance: the variance map's slope.

    .. math:: \chi_\parallel = dq'/dq = \sigma_w^2 \, E[\phi(\sqrt{q} z)^2 (z^2 - 1)] / (2q)

    which needs no derivative of phi. A fixed point is stable where it is between -1 and 1.

    Args:
      activation: phi, a function or a name in `jax.nn`.
      variance: q, the variance of the pre-activations; 0 stands for the limit.
      weight_variance: sigma_w², the variance of a weight times fan_in.

    Returns:
      chi_parallel, a float.

    Raises:
      TypeError, ValueError: as `variance_map`.

    Example:
      >>> round(chi_parallel("relu", 1.0, weight_variance=2.0), 9)
      1.0

    Reference:
      Roberts, Yaida and Hanin 2022, "The Principles of Deep Learning Theory", chapter 5,
      https://arxiv.org/abs/2106.10165
    """
    function, q, weights, _ = _checked("chi_parallel", activation, variance, weight_variance)
    if q < 1e-6 and abs(at_point(function, SMALLEST)) > 1e-50:
        q = 1e-6  # below, the constant's rounding would swamp the slope, which is settled here
    return weights * float(single(function, q).slope)


def depth_scales(
    activation: Activation,
    weight_variance: float,
    bias_variance: float = 0.0,
    variance: float = 1.0,
) -> DepthScales:
    r"""Where a deep network's variance and correlation go, and how many layers that takes.

    Deviations are multiplied by a factor f in each layer and fall by e in
    :math:`\xi = -1 / \ln |f|` layers: infinite at criticality, negative where they grow. Networks
    train up to about :math:`6 \xi_c` layers.

    - q* = 0, as of ReLU below :math:`\sigma_w^2 = 2` and of tanh up to 1, both without biases: the
      signal dies as :math:`\chi^l`. The other numbers are limits, and :math:`\xi_c` is that of
      the covariance, as for the smallest bias variance.
    - q* infinite, as of ReLU above 2: the signal explodes as :math:`\chi_\parallel^l`. Relative to
      it the correlation goes to 1, and slowlier than any exponential: :math:`\xi_c` is infinite.
    - Where every q is a fixed point, as of ReLU at 2, q* is where the variance starts.
    - A fixed point that is not stable is returned only to those who start there, or if the
      variance oscillates about it: :math:`|\chi_\parallel| > 1`.

    Args:
      activation: phi, a function or a name in `jax.nn`.
      weight_variance: sigma_w², the variance of a weight times fan_in.
      bias_variance: sigma_b², the variance of a bias.
      variance: that of the first layer's pre-activations. q* is the first fixed point on the
        way from there; where there is only one, it makes no difference.

    Returns:
      `DepthScales`.

    Raises:
      TypeError, ValueError: as `variance_map`; variance is not above 0.

    Example:
      >>> scales = depth_scales("tanh", weight_variance=1.5, bias_variance=0.05)
      >>> round(scales.variance, 6), round(scales.chi, 6), round(scales.correlation_depth, 2)
      (0.418037, 0.938636, 15.79)
      >>> depth_scales("relu", 2.0).gradient_depth
      inf

    Reference:
      Schoenholz, Gilmer, Ganguli and Sohl-Dickstein 2017, "Deep Information Propagation",
      equations 7 and 9, https://arxiv.org/abs/1611.01232
    """
    start = checked_positive("depth_scales", "variance", variance)
    function, _, weights, biases = _checked(
        "depth_scales", activation, start, weight_variance, bias_variance
    )
    q = fixed_variance(function, weights, biases, start)
    if math.isinf(q):
        limit = weights * _steepness(function)
        return DepthScales(q, limit, limit, 1.0, depth(limit), math.inf, depth(limit))
    found = single(function, q)
    perpendicular = weights * float(found.derivative_second)
    parallel = weights * float(found.slope)
    c, slope = 1.0, perpendicular
    if q > 0:
        c, slope = fixed_correlation(function, weights, q, perpendicular)
    return DepthScales(
        q, perpendicular, parallel, c, depth(parallel), depth(slope), depth(perpendicular)
    )


def _checked(
    owner: str,
    activation: Activation,
    variance: float,
    weight_variance: float,
    bias_variance: float = 0.0,
) -> tuple[Callable, float, float, float]:
    return (
        named(owner, activation),
        checked_number(owner, "variance", variance, minimum=0),
        checked_number(owner, "weight_variance", weight_variance, minimum=0),
        checked_number(owner, "bias_variance", bias_variance, minimum=0),
    )


def _steepness(function: Callable) -> float:
    """The mean of phi'² for variances beyond all bounds."""
    far = np.array([-1e12, 1e12, -1e10, 1e10])
    try:
        value, derivative = evaluate(function)(far)
    except ValueError:
        return math.inf
    slopes = (value / far if derivative is None else derivative) ** 2
    return math.inf if slopes[:2].sum() > 2 * slopes[2:].sum() else float(slopes[:2].mean())
