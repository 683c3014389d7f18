"""Initializers that draw independent numbers from one distribution, whatever the shape means.

With the same key, all of them transform the same uniform numbers monotonically. So two
initializers with one seed give correlated weights, and a paired comparison needs fewer seeds.

The numbers are drawn in float32 (or wider, if requested) and rounded once, at the end: a bfloat16
draw is a rounded float32 draw with the same distribution, where `jax.random` has only 128 values to
choose from. Rounding may cross a bound by one float; the initializers that JAX doesn't have stay
within their bounds in every dtype (if it has a number there).

Drawing raises an error if the dtype can't hold the distribution's numbers, and warns if almost all
of them round to a few values; see `initjax._fitting`. With one key, every backend draws the same
words of randomness, but rounds differently; see the README.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax._drawing import check_key, checked_draw, draw, draw_by_law, draw_dtypes
from initjax._fitting import check_drawn
from initjax._laws import Law, normal_center, normal_law, truncated_normal_law, uniform_law
from initjax._values import checked_dtype, checked_number, initializer, settle, shown

if TYPE_CHECKING:
    import jax


@initializer
class uniform:
    r"""Draws from :math:`U[0, scale)`: not around zero, but with mean scale/2.

    Weights need a mean of zero: for that use `random_uniform(-scale, scale)`. The standard
    deviation is scale/√12.

    Args:
      scale: the bound of the interval.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Raises:
      TypeError, ValueError: the scale is not a finite real number.

    Example:
      >>> import jax
      >>> bool((uniform(10.0)(jax.random.key(0), (2, 3)) >= 0).all())
      True

    Reference:
      `jax.nn.initializers.uniform`, bit for bit in float32 and float64. (PyTorch's `uniform_` and
      Keras's `RandomUniform` take two bounds, as `random_uniform` does.)
    """

    scale: float = 1e-2
    dtype: Any = None

    def __post_init__(self) -> None:
        _check(self, {"scale": {}})

    __call__ = draw_by_law

    def _law(self, shape: tuple[int, ...], dtype: np.dtype) -> Law:
        return uniform_law(0.0, 1.0, dtype, self.scale)


@initializer
class random_uniform:
    r"""Draws from :math:`U[minval, maxval)`; standard deviation (maxval - minval)/√12.

    Args:
      minval: the lower bound.
      maxval: the upper bound.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Raises:
      TypeError, ValueError: a bound is not a finite real number, or minval exceeds maxval.

    Example:
      >>> import jax
      >>> float(abs(random_uniform()(jax.random.key(0), (2, 3))).max()) <= 0.05
      True

    Reference:
      `keras.initializers.RandomUniform`: the same distribution and defaults.
    """

    minval: float = -0.05
    maxval: float = 0.05
    dtype: Any = None

    def __post_init__(self) -> None:
        _check(self, {"minval": {}, "maxval": {}})
        if self.minval > self.maxval:
            raise ValueError(
                f"random_uniform: minval must not exceed maxval, got {self.minval} > {self.maxval}"
            )

    __call__ = draw_by_law

    def _law(self, shape: tuple[int, ...], dtype: np.dtype) -> Law:
        bounds = self.minval, self.maxval
        return uniform_law(*bounds, dtype, bounds=bounds)


@initializer
class normal:
    r"""Draws from :math:`N(0, stddev^2)`.

    Args:
      stddev: the standard deviation.
      dtype: the dtype if a call doesn't give one; None means JAX's default float. May be
        complex: then the mean squared modulus is stddev².

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

    def __post_init__(self) -> None:
        _check(self, {"stddev": {"minimum": 0}})

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        import jax

        dtype, wide = checked_draw(self, key, dtype)
        if wide.kind == "c":
            each = self.stddev / 2**0.5  # of the real and of the imaginary part
            check_drawn(self, dtype, wide, 8.3 * each, normal_center(each))
            kernel = jax.random.normal(key, shape, wide, out_sharding=out_sharding)
            return kernel * wide.type(self.stddev)
        return draw(self, key, shape, dtype, wide, out_sharding)

    def _law(self, shape: tuple[int, ...], dtype: np.dtype) -> Law:
        return normal_law(self.stddev, dtype)


@initializer
class random_normal:
    r"""Draws from :math:`N(mean, stddev^2)`.

    Args:
      mean: the mean.
      stddev: the standard deviation.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Raises:
      TypeError, ValueError: an argument is not a finite real number, or stddev is negative.

    Example:
      >>> import jax
      >>> round(float(random_normal()(jax.random.key(0), (1000, 1000)).std()), 3)
      0.05

    Reference:
      `keras.initializers.RandomNormal`: the same distribution and defaults.
    """

    mean: float = 0.0
    stddev: float = 0.05
    dtype: Any = None

    def __post_init__(self) -> None:
        _check(self, {"mean": {}, "stddev": {"minimum": 0}})

    __call__ = draw_by_law

    def _law(self, shape: tuple[int, ...], dtype: np.dtype) -> Law:
        return normal_law(self.stddev, dtype, self.mean)


@initializer
class truncated_normal:
    r"""Draws from a normal distribution truncated at `lower` and `upper` standard deviations.

    The draw's standard deviation is *less* than `stddev`, since the tails are missing:
    0.8796 stddev with the default bounds. The named methods (`he_normal`, ...) correct for that.

    Args:
      stddev: the standard deviation before truncation.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.
      lower: the lower bound in units of stddev; may be -inf.
      upper: the upper bound in units of stddev; may be inf.

    Raises:
      TypeError, ValueError: stddev is not a finite number >= 0, a bound is not a number, or lower
        is not below upper.

    Example:
      >>> import jax
      >>> draw = truncated_normal(5.0)(jax.random.key(0), (1000, 1000))
      >>> round(float(draw.std()), 1), bool((abs(draw) <= 10).all())
      (4.4, True)

    Reference:
      `jax.nn.initializers.truncated_normal`, bit for bit in float32 and float64, except for two
      bounds on one side of zero, both beyond 2: there JAX's draws are coarse beyond four sigma and
      all equal beyond six. Also, if a bound is beyond five sigma, JAX draws the bound itself (3e38,
      if it is infinite) about once in a million numbers; here no draw is beyond 5.5 sigma.
      (PyTorch's bounds are absolute: see `bounded_normal`.)
    """

    stddev: float = 1e-2
    dtype: Any = None
    lower: float = -2.0
    upper: float = 2.0

    def __post_init__(self) -> None:
        infinite = {"infinite": True}
        _check(self, {"stddev": {"minimum": 0}, "lower": infinite, "upper": infinite})
        if self.lower >= self.upper:
            raise ValueError(
                f"truncated_normal: lower must be below upper, got {self.lower} >= {self.upper}"
            )

    __call__ = draw_by_law

    def _law(self, shape: tuple[int, ...], dtype: np.dtype) -> Law:
        return truncated_normal_law(self.stddev, self.lower, self.upper, dtype)


@initializer
class random_truncated_normal:
    r"""Draws from :math:`N(mean, stddev^2)` truncated at `lower` and `upper` standard deviations.

    As with `truncated_normal`, the draw's standard deviation is less than `stddev`: 0.8796 stddev
    with the default bounds.

    Args:
      mean: the mean before truncation.
      stddev: the standard deviation before truncation.
      lower: the lower bound in standard deviations from the mean; may be -inf.
      upper: the upper bound in standard deviations from the mean; may be inf.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Raises:
      TypeError, ValueError: mean is not a finite number, stddev is not a finite number >= 0, a
        bound is not a number, or lower is not below upper.

    Example:
      >>> import jax
      >>> draw = random_truncated_normal(1.0, 0.2)(jax.random.key(0), (1000, 1000))
      >>> bool((draw >= 0.6).all() and (draw <= 1.4).all())
      True

    Reference:
      `keras.initializers.TruncatedNormal` and its defaults; Haiku's, and timm's `trunc_normal_tf_`,
      mean the same.
    """

    mean: float = 0.0
    stddev: float = 0.05
    lower: float = -2.0
    upper: float = 2.0
    dtype: Any = None

    def __post_init__(self) -> None:
        infinite = {"infinite": True}
        _check(self, {"mean": {}, "stddev": {"minimum": 0}, "lower": infinite, "upper": infinite})
        if self.lower >= self.upper:
            raise ValueError(
                "random_truncated_normal: lower must be below upper, got"
                f" {self.lower} >= {self.upper}"
            )

    __call__ = draw_by_law

    def _law(self, shape: tuple[int, ...], dtype: np.dtype) -> Law:
        cut = self.lower, self.upper
        bounds = [self.mean + bound * self.stddev for bound in cut] if self.stddev else None
        return truncated_normal_law(self.stddev, *cut, dtype, self.mean, bounds)


@initializer
class bounded_normal:
    r"""Draws from :math:`N(mean, stddev^2)` truncated at the *values* `minval` and `maxval`.

    The bounds are absolute, whatever stddev is: with the defaults and a stddev of 0.02, nothing is
    truncated.

    Args:
      mean: the mean before truncation.
      stddev: the standard deviation before truncation, above 0.
      minval: the least value; may be -inf.
      maxval: the greatest value; may be inf.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Raises:
      TypeError, ValueError: mean is not a finite number, stddev is not a finite number above 0, a
        bound is not a number, or minval is not below maxval.

    Example:
      >>> import jax
      >>> draw = bounded_normal(0.0, 1.0, 0.0, 3.0)(jax.random.key(0), (1000, 1000))
      >>> bool((draw >= 0).all() and (draw <= 3).all())
      True

    Reference:
      `torch.nn.init.trunc_normal_` and its defaults; timm's `trunc_normal_` means the same.
    """

    mean: float = 0.0
    stddev: float = 1.0
    minval: float = -2.0
    maxval: float = 2.0
    dtype: Any = None

    def __post_init__(self) -> None:
        infinite = {"infinite": True}
        _check(self, {"mean": {}, "stddev": {"minimum": 0}, "minval": infinite, "maxval": infinite})
        if self.stddev == 0:
            raise ValueError("bounded_normal: stddev must be above 0, got 0.0")
        if self.minval >= self.maxval:
            raise ValueError(
                f"bounded_normal: minval must be below maxval, got {self.minval} >= {self.maxval}"
            )

    __call__ = draw_by_law

    def _law(self, shape: tuple[int, ...], dtype: np.dtype) -> Law:
        bounds = self.minval, self.maxval
        lower, upper = ((bound - self.mean) / self.stddev for bound in bounds)
        if max(-lower, upper) < _FLAT:
            return uniform_law(*bounds, dtype, bounds=bounds)
        return truncated_normal_law(self.stddev, lower, upper, dtype, self.mean, bounds)


# Up to this many standard deviations from the mean, a normal density is constant to 18 digits.
_FLAT = 1e-9


def _check(initializer: Any, numbers: dict[str, dict[str, Any]]) -> None:
    """Checks and normalizes a new initializer's arguments."""
    owner = type(initializer).__name__
    checked = {
        name: checked_number(owner, name, getattr(initializer, name), **limits)
        for name, limits in numbers.items()
    }
    settle(initializer, dtype=checked_dtype(owner, initializer.dtype, inexact=True), **checked)


@initializer
class in_blocks:
    """Draws the same numbers as an initializer, but in blocks, to save memory inside `jit`.

    Inside `jax.jit` on a CPU, a draw needs sixteen extra bytes per number. In blocks it needs only
    the array, or twice the array if its dtype has eight bits, or is bfloat16 with JAX older than
    0.12. (Outside `jit` on a CPU, all initializers of independent numbers draw in blocks anyway.)
    Don't use it for arrays that are sharded over devices: each device would draw the whole array.
    Inside `jit` the numbers equal those of the initializer inside `jit`. The exception is `normal`
    with JAX before 0.12, where `jit` changes the last bit: there they equal those outside `jit`.

    Only keys of threefry, with `jax_threefry_partitionable` (both are JAX's default), can be drawn
    in blocks. With any other key, and under `jax_disable_jit`, the array is drawn at once.

    Args:
      initializer: one that draws independent numbers: any from `initjax.sampling` and
        `initjax.scaling`, or `siren`, `random_walk`, `mup_output` and `torch_bias`.

    Raises:
      TypeError: the initializer isn't one of those; when called, the dtype is complex.

    Example:
      >>> import jax
      >>> draw = jax.jit(lambda key: in_blocks(normal(1.0))(key, (2000, 1000)))
      >>> bool((draw(jax.random.key(0)) == normal(1.0)(jax.random.key(0), (2000, 1000))).all())
      True
    """

    initializer: Any

    def __post_init__(self) -> None:
        if not hasattr(self.initializer, "_law") or isinstance(self.initializer, type):
            raise TypeError(
                "in_blocks: initializer must draw independent numbers, such as he_normal() with its"
                f" parentheses; got {self.initializer!r}"
            )

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        check_key(self, key)
        dtype, wide = draw_dtypes(dtype, self.initializer.dtype, shown(self))
        for wrong, met in (
            ("of dtype " + dtype.name, wide.kind == "c"),
            (f"with out_sharding={out_sharding}", out_sharding is not None),
        ):
            if met:
                raise TypeError(
                    f"in_blocks: draws real numbers on one device; it can't draw {wrong}"
                )
        return draw(self.initializer, key, shape, dtype, wide, blocks=True)
