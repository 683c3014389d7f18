r"""What finite networks do beyond mean field theory: how far they scatter about it.

Mean field theory tells what infinitely wide layers do. A layer of `n` units draws its variance from
`n` numbers, so that a single network leaves the prediction by a relative :math:`O(1/\sqrt{n})` in
each layer, and by :math:`\sqrt{depth / n}` in all: what is measured is to be judged by that.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.polynomial import legendre

from initjax._values import checked_choice, checked_integer, checked_number, checked_positive
from initjax.theory._activation import Activation, named
from initjax.theory._integrals import Single, single

WEIGHTS = ("orthogonal", "normal")


class LogNorm(NamedTuple):
    """The law of the log of a variance, relative to mean field theory's prediction. Floats."""

    mean: float
    variance: float


class JacobianSpectrum(NamedTuple):
    """The law of the squared singular values of a network's Jacobian. Floats."""

    mean: float
    variance: float
    moment_ratio: float
    """E[phi'⁴] / E[phi'²]²: 1 is what isometry takes."""


class LogStep(NamedTuple):
    r"""What a layer does to :math:`\log q`, where its variance map leads from q to q'. Floats."""

    variance: float
    """q'"""
    share: float
    """What weights contribute to q'; the rest is the biases', which doesn't fluctuate."""
    slope: float
    """d log q' / d log q"""
    bend: float
    """d² log q' / (d log q)²"""

    def carried(self, deviation: LogNorm, spread: float) -> LogNorm:
        r"""The law of a deviation after the layer, given the law before it, to first order.

        Args:
          deviation: the law of the log of q, relative to mean field theory's prediction.
          spread: the variance of the mean of :math:`\phi^2 / E[\phi^2]` over the layer's units.
        """
        own = self.share**2 * spread
        mean = self.slope * deviation.mean + self.bend / 2 * deviation.variance - own / 2
        return LogNorm(mean, self.slope**2 * deviation.variance + own)


def log_step(found: Single, variance: float, weights: float, biases: float) -> LogStep:
    """Makes the step of one layer from the expectations of its activation.

    Args:
      found: the expectations at that variance.
      variance: q of the layer's pre-activations.
      weights: sigma_w², the variance of a weight times fan_in, of the layer that follows.
      biases: sigma_b², the variance of its biases.
    """
    carried = weights * float(found.second)
    after = carried + biases
    if not 0 < after < math.inf:
        return LogStep(after, 0.0, 0.0, 0.0)
    slope = variance * weights * float(found.slope) / after
    bend = slope - slope**2 + variance**2 * weights * float(found.curvature) / after
    return LogStep(after, carried / after, slope, bend)


def log_norm_moments(
    widths: Sequence[int],
    activation: Activation = "relu",
    weight_variance: float | None = None,
    bias_variance: float = 0.0,
    variance: float = 1.0,
) -> LogNorm:
    r"""How far the log of the signal's variance scatters over networks, for one input.

    With :math:`\kappa = E[\phi^4] / E[\phi^2]^2` a layer of `n` units adds :math:`(\kappa - 1)/n`
    to the variance of :math:`\log q` and takes half of that off its mean, to first order: 5/n
    and 5/(2n) for ReLU, 2/n and 1/n without an activation. That the variance map drives
    deviations back, or on, is accounted for: where it is not linear they are multiplied by
    :math:`d \log q' / d \log q` in every layer, and its curvature shifts their mean. Orders beyond
    the first are in it for one layer alone; so it is correct to :math:`O(1/n^2)` for ReLU, leaky
    ReLU and the identity without biases, and to :math:`O(1/n)` else.

    Args:
      widths: the numbers of units of the layers, from the first to the last, of about 10 or more.
      activation: phi, a function that acts on each number by itself, or a name in `jax.nn`.
      weight_variance: sigma_w², the variance of a weight times fan_in, of the layers that follow
        each of these; None stands for what keeps the variance of the first layer.
      bias_variance: sigma_b², the variance of their biases.
      variance: q of the pre-activations of the first layer.

    Returns:
      `LogNorm`: mean and variance of :math:`\log(q / \bar q)` behind the last layer, where `q` is
      the variance of its outputs' pre-activations in one network with normal weights, and
      :math:`\bar q` is what `variance_map`, repeated, predicts. Without biases this is the squared
      norm of the last layer's activations over its prediction.

    Raises:
      TypeError, ValueError: activation is no such function or name, or gives zeros only; a width
        is no integer >= 1; a number is not finite or below 0.

    Example:
      >>> mean, spread = log_norm_moments([1000] * 20)
      >>> round(mean, 3), round(spread, 3)
      (-0.05, 0.1)

    Reference:
      Hanin and Nica 2020, "Products of Many Large Random Matrices and Gradients in Deep Neural
      Networks", https://arxiv.org/abs/1812.05994, for ReLU.
    """
    owner = "log_norm_moments"
    function = named(owner, activation)
    units = [checked_integer(owner, "widths", width, minimum=1) for width in widths]
    q = checked_positive(owner, "variance", variance)
    biases = checked_number(owner, "bias_variance", bias_variance, minimum=0)
    if weight_variance is None:
        weights = q / max(float(single(function, q).second), 1e-300)
    else:
        weights = checked_number(owner, "weight_variance", weight_variance, minimum=0)
    deviation = LogNorm(0.0, 0.0)
    for n in units:
        found = single(function, q)
        step = log_step(found, q, weights, biases)
        if not 0 < step.variance < math.inf:
            raise ValueError(f"{owner}: {activation!r} leads to a variance of {step.variance:g}")
        second = float(found.second)
        fourth, sixth = float(found.fourth) / second**2, float(found.sixth) / second**3
        deviation = step.carried(deviation, (fourth - 1) / n)
        # The second order of the layer's own: of the log of 1 + its mean of phi² / E[phi²] - 1.
        v = step.share**2 * (fourth - 1) / n
        third = step.share**3 * (sixth - 3 * fourth + 2) / n**2
        deviation = LogNorm(
            deviation.mean + third / 3 - 3 / 4 * v**2,
            deviation.variance - third + 5 / 2 * v**2,
        )
        q = step.variance
    return deviation


def dead_fraction(correlation: float, batch_size: int) -> float:
    r"""The share of units that are below zero for a whole batch, as are ReLU's that look dead.

    .. math:: E_t[\Phi(-t \sqrt{c / (1 - c)})^B], \quad t \sim N(0, 1)

    for wide layers without biases, all of whose inputs are correlated by the same `c`. It rises
    with depth, as `c` does, without anything being wrong.

    Args:
      correlation: c, from 0 to 1, of the pre-activations of two inputs.
      batch_size: B, the number of inputs.

    Returns:
      The expected share, from 2**-B to 1/2.

    Raises:
      TypeError, ValueError: correlation is not in [0, 1], batch_size is no integer >= 1.

    Example:
      >>> round(dead_fraction(0.9, batch_size=256), 3)
      0.175
    """
    c = checked_number("dead_fraction", "correlation", correlation, minimum=0)
    size = checked_integer("dead_fraction", "batch_size", batch_size, minimum=1)
    if c > 1:
        raise ValueError(f"dead_fraction: correlation must be at most 1, got {correlation!r}")
    if c == 1:
        return 0.5
    t, density = _dense_at_zero()
    # The chance that one input is above zero, for a common part of -t; for t it is one minus that.
    # (Importing SciPy's erfc takes a hundred times as long.)
    scaled = t * math.sqrt(c / (1 - c) / 2)
    above = np.fromiter(map(math.erfc, scaled.tolist()), np.float64, len(t)) / 2
    with np.errstate(divide="ignore"):
        all_below = np.exp(size * np.log1p(-above)) + np.exp(size * np.log(above))
    return float(density @ all_below)


@functools.cache
def _dense_at_zero() -> tuple[np.ndarray, np.ndarray]:
    """Positive nodes and their weights under the normal density.

    The panels get narrower toward zero, where an integrand changes if a correlation is close to 1.
    """
    nodes, weights = legendre.leggauss(16)
    edges = np.append(0, 13 * 2 ** (-np.arange(200)[::-1] / 4))
    half = np.diff(edges)[:, None] / 2
    t = edges[:-1, None] + half * (nodes + 1)
    density = np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi) * half * weights
    return t.ravel(), density.ravel()


def jacobian_spectrum(
    activation: Activation,
    variance: float,
    depth: int,
    weights: str = "orthogonal",
    weight_variance: float | None = None,
) -> JacobianSpectrum:
    r"""Mean and variance of the squared singular values of a deep network's Jacobian.

    With :math:`\mu_k = E[\phi'(\sqrt{q} z)^{2k}]`, for wide layers of one width,

    .. math:: E[s^2] = (\sigma_w^2 \mu_1)^L, \quad
              Var(s^2) = E[s^2]^2 \, L \, (\mu_2 / \mu_1^2 - 1 - s_1)

    where :math:`s_1` is 0 for orthogonal weights and -1 for normal ones. So only orthogonal weights
    with :math:`\phi'` nearly constant over the inputs, as of tanh with a small `q`, keep
    all singular values near 1 (dynamical isometry). ReLU cannot: its ratio of moments is 2.

    Args:
      activation: phi, a function that acts on each number by itself, or a name in `jax.nn`.
      variance: q, the variance of all layers' pre-activations, a fixed point.
      depth: L, the number of layers.
      weights: 'orthogonal' or 'normal'.
      weight_variance: sigma_w², the variance of a weight times fan_in; None stands for the
        critical one, 1/mu_1, whose mean is 1.

    Returns:
      `JacobianSpectrum`.

    Raises:
      TypeError, ValueError: activation is no such function or name, or constant; a number is not
        as above; weights is neither of these.

    Example:
      >>> jacobian_spectrum("relu", 1.0, depth=3).variance.__round__(9)
      3.0

    Reference:
      Pennington, Schoenholz and Ganguli 2017, "Resurrecting the sigmoid in deep learning through
      dynamical isometry: theory and practice", equation 21, https://arxiv.org/abs/1711.04735
    """
    owner = "jacobian_spectrum"
    function = named(owner, activation)
    q = checked_number(owner, "variance", variance, minimum=0)
    layers = checked_integer(owner, "depth", depth, minimum=1)
    kind = checked_choice(owner, "weights", weights, WEIGHTS)
    found = single(function, q)
    first = float(found.derivative_second)
    if not 0 < first < math.inf:
        raise ValueError(
            f"{owner}: the mean of the squared derivative of {activation!r} is {first}"
        )
    ratio = float(found.derivative_fourth) / first**2
    sigma = 1 / first
    if weight_variance is not None:
        sigma = checked_number(owner, "weight_variance", weight_variance, minimum=0)
    mean = (sigma * first) ** layers
    added = ratio - 1 + (kind == "normal")
    return JacobianSpectrum(mean, mean**2 * layers * added, ratio)
