"""Initializers that draw independent numbers from one law, whatever the shape means.

Under one key all of them transform the same uniform numbers monotonically, so that two
initializers under one seed give correlated weights: a paired comparison needs fewer seeds.

The numbers are drawn in float32 (or wider, if asked for) and rounded once, last: a bfloat16 draw
is a rounded float32 draw, its law intact, where `jax.random` has but 128 values to choose from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax._values import checked_dtype, checked_number, resolved_dtype, spec_repr

if TYPE_CHECKING:
    import jax


@dataclasses.dataclass(frozen=True, repr=False)
class uniform:
    r"""Draws from :math:`U[0, scale)`, positive numbers only; standard deviation scale/√12.

    Args:
      scale: the bound of the interval.
      dtype: the dtype when the call names none; None stands for JAX's default float.

    Raises:
      TypeError, ValueError: the scale is not a finite real number.

    Example:
      >>> import jax
      >>> bool((uniform(10.0)(jax.random.key(0), (2, 3)) >= 0).all())
      True

    Reference:
      `jax.nn.initializers.uniform`, bit for bit in float32 and float64. For an interval around zero
      see `random_uniform`.
    """

    scale: float = 1e-2
    dtype: Any = None

    def __post_init__(self):
        _check(self, {"scale": {}})

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        import jax

        dtype, wide = draw_dtypes(dtype, self.dtype)
        draw = jax.random.uniform(key, shape, wide, out_sharding=out_sharding)
        return (draw * wide.type(self.scale)).astype(dtype)

    __repr__ = spec_repr


@dataclasses.dataclass(frozen=True, repr=False)
class random_uniform:
    r"""Draws from :math:`U[minval, maxval)`; standard deviation (maxval - minval)/√12.

    Args:
      minval: the lower bound.
      maxval: the upper bound.
      dtype: the dtype when the call names none; None stands for JAX's default float.

    Raises:
      TypeError, ValueError: a bound is not a finite real number, or minval exceeds maxval.

    Example:
      >>> import jax
      >>> float(abs(random_uniform()(jax.random.key(0), (2, 3))).max()) <= 0.05
      True

    Reference:
      `keras.initializers.RandomUniform`: its law and its defaults.
    """

    minval: float = -0.05
    maxval: float = 0.05
    dtype: Any = None

    def __post_init__(self):
        _check(self, {"minval": {}, "maxval": {}})
        if self.minval > self.maxval:
            raise ValueError(
                f"random_uniform: minval must not exceed maxval, got {self.minval} > {self.maxval}"
            )

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        import jax

        dtype, wide = draw_dtypes(dtype, self.dtype)
        bounds = wide.type(self.minval), wide.type(self.maxval)
        return jax.random.uniform(key, shape, wide, *bounds, out_sharding=out_sharding).astype(
            dtype
        )

    __repr__ = spec_repr


@dataclasses.dataclass(frozen=True, repr=False)
class normal:
    r"""Draws from :math:`N(0, stddev^2)`.

    Args:
      stddev: the standard deviation.
      dtype: the dtype when the call names none; None stands for JAX's default float. May be
        complex: the variance of the modulus is then stddev².

    Raises:
      TypeError, ValueError: stddev is not a finite real number >= 0.

    Example:
      >>> import jax
      >>> round(float(normal(5.0)(jax.random.key(0), (1000, 1000)).std()), 1)
      5.0

    Reference:
      `jax.nn.initializers.normal`, bit for bit in float32 and float64.
    """

    stddev: float = 1e-2
    dtype: Any = None

    def __post_init__(self):
        _check(self, {"stddev": {"minimum": 0}})

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        dtype, wide = draw_dtypes(dtype, self.dtype)
        return scaled_normal(key, shape, wide, self.stddev, out_sharding).astype(dtype)

    __repr__ = spec_repr


@dataclasses.dataclass(frozen=True, repr=False)
class random_normal:
    r"""Draws from :math:`N(mean, stddev^2)`.

    Args:
      mean: the mean.
      stddev: the standard deviation.
      dtype: the dtype when the call names none; None stands for JAX's default float.

    Raises:
      TypeError, ValueError: an argument is not a finite real number, or stddev is negative.

    Example:
      >>> import jax
      >>> round(float(random_normal()(jax.random.key(0), (1000, 1000)).std()), 3)
      0.05

    Reference:
      `keras.initializers.RandomNormal`: its law and its defaults.
    """

    mean: float = 0.0
    stddev: float = 0.05
    dtype: Any = None

    def __post_init__(self):
        _check(self, {"mean": {}, "stddev": {"minimum": 0}})

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        dtype, wide = draw_dtypes(dtype, self.dtype)
        draw = scaled_normal(key, shape, wide, self.stddev, out_sharding)
        return (draw + wide.type(self.mean)).astype(dtype)

    __repr__ = spec_repr


@dataclasses.dataclass(frozen=True, repr=False)
class truncated_normal:
    r"""Draws from a normal law cut off at `lower` and `upper` standard deviations.

    What is drawn has *less* than the standard deviation `stddev`, since the tails are missing:
    .8796 stddev with the default bounds. The named methods (`he_normal`, ...) correct for that.

    Args:
      stddev: the standard deviation before the cut.
      dtype: the dtype when the call names none; None stands for JAX's default float.
      lower: the lower bound in units of stddev.
      upper: the upper bound in units of stddev.

    Raises:
      TypeError, ValueError: an argument is not a finite real number, stddev is negative, or lower
        is not below upper.

    Example:
      >>> import jax
      >>> draw = truncated_normal(5.0)(jax.random.key(0), (1000, 1000))
      >>> round(float(draw.std()), 1), bool((abs(draw) <= 10).all())
      (4.4, True)

    Reference:
      `jax.nn.initializers.truncated_normal`, bit for bit in float32 and float64. (PyTorch's bounds
      are absolute instead.)
    """

    stddev: float = 1e-2
    dtype: Any = None
    lower: float = -2.0
    upper: float = 2.0

    def __post_init__(self):
        _check(self, {"stddev": {"minimum": 0}, "lower": {}, "upper": {}})
        if self.lower >= self.upper:
            raise ValueError(
                f"truncated_normal: lower must be below upper, got {self.lower} >= {self.upper}"
            )

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        import jax

        dtype, wide = draw_dtypes(dtype, self.dtype)
        draw = jax.random.truncated_normal(
            key, self.lower, self.upper, shape, wide, out_sharding=out_sharding
        )
        return (draw * wide.type(self.stddev)).astype(dtype)

    __repr__ = spec_repr


def draw_dtypes(asked: Any, default: Any) -> tuple[np.dtype, np.dtype]:
    """The dtype to return and the dtype to draw in, which is never narrower than float32."""
    import jax.numpy as jnp

    dtype = resolved_dtype(asked, default)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(f"a random initializer needs a floating dtype, got {dtype.name}")
    narrow = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
    return dtype, np.dtype(np.float32) if narrow else dtype


def scaled_normal(
    key: jax.Array, shape: Sequence[int], dtype: np.dtype, stddev: Any, out_sharding: Any
) -> jax.Array:
    """Draws from N(0, stddev²), multiplied in the order that the installed JAX multiplies in."""
    import jax
    import jax.numpy as jnp

    stddev = dtype.type(stddev)
    if jax.__version_info__ < (0, 12) or jnp.issubdtype(dtype, jnp.complexfloating):
        return jax.random.normal(key, shape, dtype, out_sharding=out_sharding) * stddev
    # Since 0.12 jax.nn.initializers joins the two constants first, which is one rounding apart from
    # the above; jitted and eager calls then agree to the bit.
    lowest = np.nextafter(dtype.type(-1), dtype.type(0))
    draw = jax.random.uniform(key, shape, dtype, lowest, dtype.type(1), out_sharding=out_sharding)
    return (dtype.type(np.sqrt(2)) * stddev) * jax.lax.erf_inv(draw)


def _check(initializer: Any, numbers: dict[str, dict[str, float]]) -> None:
    """Checks a new initializer's arguments and brings them to their one form."""
    owner = type(initializer).__name__
    for name, limits in numbers.items():
        value = checked_number(owner, name, getattr(initializer, name), **limits)
        object.__setattr__(initializer, name, value)
    object.__setattr__(initializer, "dtype", checked_dtype(owner, initializer.dtype))
