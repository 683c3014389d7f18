r"""Moments of an activation with normal inputs, and the resulting gain.

With :math:`z \sim N(0, q)` the integrals are sums in float64 over pieces on which the activation is
smooth; kinks and jumps, wherever they are, become edges of pieces. (Gauss-Hermite nodes would miss
the kink of SELU by 8e-3, and `jax.grad(relu)(0) = 0` falls on the middle one.)
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from initjax._values import checked_choice, checked_number
from initjax.theory._activation import Activation, named
from initjax.theory._integrals import REACH, SMALLEST, expectations
from initjax.theory._pieces import cached, pieces_for_one

KINDS = ("forward", "centered", "backward")


class Moments(NamedTuple):
    """Expectations over :math:`z \\sim N(0, q)`."""

    mean: float
    """E[phi(z)]"""
    second: float
    """E[phi(z)²]"""
    derivative_second: float
    """E[phi'(z)²]"""


def moments(activation: Activation, variance: float = 1.0) -> Moments:
    """Computes the moments of an activation whose inputs are normal.

    Args:
      activation: an elementwise function of JAX or NumPy, with or without kinks and jumps; or a
        name in `jax.nn`. The derivative is JAX's, or a numerical one if JAX can't trace the
        function.
      variance: the variance of the inputs; 0 means the limit.

    Returns:
      `Moments`, as floats, accurate to 1e-10 for functions that compute in the precision of their
      input and have no spikes narrower than 2e-4 standard deviations; infinite if a singularity
      makes them so, like the derivative of a square root.

    Raises:
      TypeError, ValueError: activation isn't such a function or name, is not finite, or grows so
        fast that inputs beyond 12 standard deviations count; variance is not a finite number >= 0.

    Example:
      >>> import jax
      >>> mean, second, derivative_second = moments(jax.nn.relu)
      >>> round(mean * (2 * math.pi) ** 0.5, 9), round(second, 9), round(derivative_second, 9)
      (1.0, 0.5, 0.5)

    Reference:
      Poole et al. 2016, "Exponential expressivity in deep neural networks through transient
      chaos", equations 3 and 5, https://arxiv.org/abs/1606.05340
    """
    function = named("moments", activation)
    q = max(checked_number("moments", "variance", variance, minimum=0), SMALLEST)
    found = expectations(function, np.array(q), pieces_for_one(function, q**0.5, REACH))
    return Moments(float(found.mean), float(found.second), float(found.derivative_second))


def gain(activation: Activation, kind: str = "forward") -> float:
    r"""Computes the gain of an activation: the factor of the weights that compensates for it.

    With unit normal inputs `z` and :math:`Var(W) = gain^2 / fan_{in}`, a layer after the activation
    has pre-activations of mean square one again. By kind:

    - 'forward': :math:`1/\sqrt{E[\phi^2]}` preserves the mean square of the signal; He's √2 for
      ReLU.
    - 'centered': :math:`1/\sqrt{Var[\phi]}` preserves its variance, if every layer removes the
      mean. Otherwise the signal grows.
    - 'backward': :math:`1/\sqrt{E[\phi'^2]}` preserves the mean square of the gradient.

    Forward and backward gains agree only for ReLU, leaky ReLU and the identity; centered and
    backward gains only for affine functions. `torch_gain` is PyTorch's table.

    Args:
      activation: a function that acts on each number by itself, or a name in `jax.nn`; see
        `initjax.theory.moments.moments`.
      kind: 'forward', 'centered' or 'backward'.

    Returns:
      The gain, a float above 0.

    Raises:
      TypeError, ValueError: activation isn't such a function or name, the moment for that
        kind is zero or not finite, or kind isn't one of the above.

    Example:
      >>> import jax
      >>> round(gain(jax.nn.relu), 6), round(gain("tanh"), 6)
      (1.414214, 1.592537)
      >>> round(gain(lambda z: jax.numpy.where(z > 0.5, z, 0)), 6)
      1.436553

    Reference:
      He, Zhang, Ren and Sun 2015, "Delving Deep into Rectifiers", section 2.2,
      https://arxiv.org/abs/1502.01852, for any activation instead of ReLU's.
    """
    kind = checked_choice("gain", "kind", kind, KINDS)
    mean, second, derivative_second = cached(_unit_moments, named("gain", activation))
    moment = {
        "forward": second,
        "centered": second - mean**2,
        "backward": derivative_second,
    }[kind]
    if not 1e-30 * max(second, 1e-300) < moment < math.inf:
        raise ValueError(f"gain: {activation!r} has no {kind} gain, since that moment is {moment}")
    return moment**-0.5


_unit_moments = functools.lru_cache(maxsize=256)(moments)

# torch.nn.init.calculate_gain; the gain of "leaky_relu" depends on its slope.
_TORCH_GAINS = {
    "linear": 1.0,
    **{f"conv{transpose}{n}d": 1.0 for transpose in ("", "_transpose") for n in (1, 2, 3)},
    "sigmoid": 1.0,
    "tanh": 5 / 3,
    "relu": 2**0.5,
    "leaky_relu": None,
    "selu": 3 / 4,
}


def torch_gain(nonlinearity: str, param: float | None = None) -> float:
    """Looks up PyTorch's gain for an activation, which isn't always its real gain.

    ReLU's and leaky ReLU's are `gain`'s. 1 for sigmoid is a placeholder (the forward gain is
    1.846), 5/3 for tanh is traditional (1.593), and 3/4 for SELU is empirical (1.0).

    Args:
      nonlinearity: 'linear', 'conv1d' to 'conv3d', 'conv_transpose1d' to 'conv_transpose3d',
        'sigmoid', 'tanh', 'relu', 'leaky_relu' or 'selu'.
      param: the slope of 'leaky_relu'; None means 0.01. The others ignore it, as in PyTorch.

    Returns:
      The gain.

    Raises:
      TypeError, ValueError: nonlinearity isn't one of the above, param is not a finite number.

    Example:
      >>> torch_gain("tanh")
      1.6666666666666667

    Reference:
      `torch.nn.init.calculate_gain`.
    """
    name = checked_choice("torch_gain", "nonlinearity", nonlinearity, _TORCH_GAINS)
    if name != "leaky_relu":
        return _TORCH_GAINS[name]
    slope = 0.01 if param is None else checked_number("torch_gain", "param", param)
    return (2 / (1 + slope**2)) ** 0.5
