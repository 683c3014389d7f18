"""Distributions of independent numbers, as monotone functions of uniform numbers.

All initializers of a kind share one function of this module and differ only in its parameters. So
XLA compiles one program per kind and shape, and thirty standard deviations cost no more than one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import jax

# How many standard deviations from its mean a normal draw can lie: 1 - |u| is at least 2**-24
# (2**-53 in float64).
_REACH = {"float32": 5.5, "float64": 8.3}
_TAIL = 2.0  # beyond this a one-sided interval counts as a tail
_MARGIN = 0.01  # of the numbers are below the central 98%, and as many above
_TERMS = 24  # of the continued fraction of Mills' ratio: 1e-12 at 2, less beyond


class UnfitError(ValueError):
    """The dtype can't hold a parameter of a law."""


class Law(NamedTuple):
    """The distribution of `transform(uniform, *numbers)`; `uniform(minval, maxval)` draws.

    Args:
      transform: a module-level function, shared by all initializers of a kind.
      numbers: its parameters, in the dtype of the draw.
      reach: the largest magnitude that can be drawn.
      central: the interval that holds the central 98% of the numbers.
      bounds: the interval that no number may leave, even after rounding; None where bounds aren't
        an argument of the initializer.
    """

    transform: Callable[..., jax.Array]
    numbers: tuple[Any, ...]
    reach: float
    central: tuple[float, float]
    bounds: Sequence[float] | None = None


def uniform_law(
    minval: float,
    maxval: float,
    dtype: np.dtype,
    scale: Any = 1.0,
    bounds: Sequence[float] | None = None,
) -> Law:
    """The distribution U[minval, maxval) · scale."""
    numbers = dtype.type(minval), dtype.type(maxval), dtype.type(scale)
    if not np.isfinite(numbers[1] - numbers[0]):
        raise UnfitError(f"the interval [{minval}, {maxval}) is too wide for {dtype.name}")
    reach = max(abs(minval), abs(maxval)) * abs(float(scale))
    margin = _MARGIN * (maxval - minval)
    ends = sorted(float(scale) * end for end in (minval + margin, maxval - margin))
    return Law(_uniform, numbers, reach, (ends[0], ends[1]), bounds)


def _uniform(uniform: Callable, minval: Any, maxval: Any, scale: Any) -> jax.Array:
    return uniform(minval, maxval) * scale


def normal_law(stddev: Any, dtype: np.dtype, mean: float = 0.0) -> Law:
    """The distribution N(mean, stddev²)."""
    # The root is a parameter, since XLA would merge a constant with the standard deviation.
    numbers = dtype.type(2**0.5), dtype.type(stddev), *_shift(mean, dtype)
    reach = abs(mean) + _REACH[dtype.name] * float(stddev)
    return Law(_normal, numbers, reach, normal_center(float(stddev), mean))


def normal_center(stddev: float, mean: float = 0.0) -> tuple[float, float]:
    """The interval that holds the central 98% of normal numbers."""
    low, high = mean - 2.326 * stddev, mean + 2.326 * stddev
    return low, float(np.nextafter(high, np.inf)) if stddev and low == high else high


def log_uniform_center(low: float, high: float) -> tuple[float, float]:
    """The interval that holds the central 98% of numbers whose logarithm is uniform."""
    margin = _MARGIN * (high - low)
    return math.exp(low + margin), math.exp(high - margin)


def _normal(uniform: Callable, root: Any, stddev: Any, mean: Any = None) -> jax.Array:
    import jax

    one = root.dtype.type(1)
    # Separate, as in JAX since 0.12: XLA may round differently what it compiles together.
    unit = jax.lax.erf_inv(uniform(np.nextafter(-one, one), one, apart=True))
    if mean is not None:
        return root * stddev * unit + mean
    if jax.__version_info__ >= (0, 12):  # in the installed JAX's order of multiplication
        return root * stddev * unit
    return root * unit * stddev


def truncated_normal_law(
    stddev: Any,
    lower: float,
    upper: float,
    dtype: np.dtype,
    mean: float = 0.0,
    bounds: Sequence[float] | None = None,
) -> Law:
    """N(mean, stddev²), truncated at `lower` and `upper` standard deviations from the mean."""
    near, far = max(lower, -upper, 0.0), max(-lower, upper)
    reach = abs(mean) + min(far, near + _REACH[dtype.name]) * float(stddev)
    if not np.isfinite(dtype.type(stddev)) and reach <= np.finfo(dtype).max:
        raise UnfitError(f"a standard deviation of {float(stddev):g} is beyond {dtype.name}")
    if near < _TAIL:
        unit = NormalDist()
        low, high = map(unit.cdf, (lower, upper))
        ends = [
            mean + float(stddev) * unit.inv_cdf(low + part * (high - low))
            for part in (_MARGIN, 1 - _MARGIN)
        ]
        numbers = dtype.type(lower), dtype.type(upper), dtype.type(stddev), *_shift(mean, dtype)
        return Law(_truncated, numbers, reach, (ends[0], ends[1]), bounds)
    sign = 1.0 if lower > 0 else -1.0
    numbers = _tail_numbers(near, far, dtype)
    edge = bounds[sign < 0] if bounds else mean + sign * near * float(stddev)
    ends = sorted(
        edge + sign * _distance(near, -math.log1p(-part * float(numbers[2]))) * float(stddev)
        for part in (_MARGIN, 1 - _MARGIN)
    )
    # From the nearer bound on, since a mean far from it would cancel the digits.
    numbers = dtype.type(sign), *numbers, dtype.type(stddev), *([dtype.type(edge)] if mean else [])
    return Law(_tail, numbers, reach, (ends[0], ends[1]), bounds)


def _distance(near: float, target: float) -> float:
    """About how far beyond `near` the upper tail falls by the factor exp(-target)."""
    return 2 * target / (math.sqrt(near * near + 2 * target) + near)


def _truncated(
    uniform: Callable, lower: Any, upper: Any, stddev: Any, mean: Any = None
) -> jax.Array:
    import jax
    import jax.numpy as jnp

    number = stddev.dtype.type
    root, infinity = number(2**0.5), number(np.inf)
    unit = root * jax.lax.erf_inv(uniform(jax.lax.erf(lower / root), jax.lax.erf(upper / root)))
    # In float32 erf is one beyond five sigma, and its inverse is infinite there.
    reach = number(_REACH[stddev.dtype.name])
    lowest = jnp.maximum(jnp.nextafter(lower, infinity), -reach)
    highest = jnp.minimum(jnp.nextafter(upper, -infinity), reach)
    kernel = jnp.clip(unit, lowest, highest) * stddev
    return kernel if mean is None else kernel + mean


def _tail_numbers(near: float, far: float, dtype: np.dtype) -> tuple[Any, ...]:
    """The bounds, the mass between them relative to the nearer tail, and Mills' ratio."""
    import scipy.special

    if not np.isfinite(dtype.type(near)):
        raise UnfitError(f"a bound at {near:g} standard deviations is beyond {dtype.name}")
    mass = -np.expm1(scipy.special.log_ndtr(-far) - scipy.special.log_ndtr(-near))
    mills = scipy.special.erfcx(near / 2**0.5) * (np.pi / 2) ** 0.5
    return tuple(dtype.type(number) for number in (near, far, mass, mills))


def _tail(
    uniform: Callable,
    sign: Any,
    near: Any,
    far: Any,
    mass: Any,
    mills: Any,
    stddev: Any,
    edge: Any = None,
) -> jax.Array:
    r"""A normal distribution between two bounds on one side of zero, where erf saturates.

    It works with the tail probability: with :math:`Q` the upper tail
    probability, :math:`M(x) = Q(x)/\varphi(x)` Mills' ratio, and `d` the distance from the nearer
    bound `a`, :math:`-\log(Q(a + d)/Q(a)) = ad + d^2/2 + \log(M(a)/M(a + d))` has no cancellation,
    whatever `a` is. Newton's method inverts it.
    """
    import jax.numpy as jnp

    number = stddev.dtype.type
    u = uniform(number(0), number(1))
    left = jnp.where(sign > 0, u, 1 - u)  # so that the draw rises with u
    target = -jnp.log1p(-jnp.minimum(left, np.nextafter(number(1), number(0))) * mass)
    # Not squared, since `near` may be beyond the root of the largest number.
    distance = 2 * target / (jnp.hypot(near, jnp.sqrt(2 * target)) + near)
    for _ in range(3):
        x = near + distance
        inverse_mills = x
        for term in range(_TERMS, 0, -1):  # a continued fraction
            inverse_mills = x + term / inverse_mills
        value = near * distance + distance * distance / 2 + jnp.log(mills * inverse_mills)
        distance = jnp.maximum(distance - (value - target) / inverse_mills, 0)
    if edge is None:
        return sign * jnp.clip(near + distance, near, far) * stddev
    return edge + sign * jnp.clip(distance, 0, far - near) * stddev


def _shift(mean: float, dtype: np.dtype) -> tuple[Any, ...]:
    """The mean as a parameter, unless it is zero."""
    return (dtype.type(mean),) if mean else ()
