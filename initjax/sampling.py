"""Initializers that draw independent numbers from one law, whatever the shape means.

Under one key all of them transform the same uniform numbers monotonically, so that two
initializers under one seed give correlated weights: a paired comparison needs fewer seeds.

The numbers are drawn in float32 (or wider, if asked for) and rounded once, last: a bfloat16 draw
is a rounded float32 draw, its law intact, where `jax.random` has but 128 values to choose from.
Rounding may lead to the number next to a bound; the initializers that JAX lacks keep to numbers
within their bounds in every dtype (if it has one there).

A law whose numbers a dtype cannot hold is refused when it is drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax._drawing import draw, draw_by_law, draw_dtypes, is_counted
from initjax._laws import Law, normal_law, truncated_normal_law, uniform_law
from initjax._values import checked_dtype, checked_number, initializer, settle, spec_repr

if TYPE_CHECKING:
    import jax


@initializer
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

    def __post_init__(self) -> None:
        _check(self, {"scale": {}})

    __call__ = draw_by_law

    def _law(self, shape: tuple[int, ...], dtype: np.dtype) -> Law:
        return uniform_law(0.0, 1.0, dtype, self.scale)

    __repr__ = spec_repr


@initializer
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

    __repr__ = spec_repr


@initializer
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

    def __post_init__(self) -> None:
        _check(self, {"stddev": {"minimum": 0}})

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        import jax

        dtype, wide = draw_dtypes(dtype, self.dtype)
        if wide.kind == "c":
            kernel = jax.random.normal(key, shape, wide, out_sharding=out_sharding)
            return kernel * wide.type(self.stddev)
        return draw(self, key, shape, dtype, wide, out_sharding)

    def _law(self, shape: tuple[int, ...], dtype: np.dtype) -> Law:
        return normal_law(self.stddev, dtype)

    __repr__ = spec_repr


@initializer
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

    def __post_init__(self) -> None:
        _check(self, {"mean": {}, "stddev": {"minimum": 0}})

    __call__ = draw_by_law

    def _law(self, shape: tuple[int, ...], dtype: np.dtype) -> Law:
        return normal_law(self.stddev, dtype, self.mean)

    __repr__ = spec_repr


@initializer
class truncated_normal:
    r"""Draws from a normal law cut off at `lower` and `upper` standard deviations.

    What is drawn has *less* than the standard deviation `stddev`, since the tails are missing:
    .8796 stddev with the default bounds. The named methods (`he_normal`, ...) correct for that.

    Args:
      stddev: the standard deviation before the cut.
      dtype: the dtype when the call names none; None stands for JAX's default float.
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
      `jax.nn.initializers.truncated_normal`, bit for bit in float32 and float64, but for two
      bounds on one side of zero, both beyond 2: there JAX's draws are coarse from four sigma on,
      and all alike from six. And where a bound lies beyond five sigma JAX draws that bound itself
      (3e38, if it is infinite) once in some million numbers; here it is one at 5.5 sigma.
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

    __repr__ = spec_repr


@initializer
class random_truncated_normal:
    r"""Draws from :math:`N(mean, stddev^2)` cut off at `lower` and `upper` standard deviations.

    As with `truncated_normal` what is drawn has less than the standard deviation `stddev`: .8796
    stddev with the default bounds.

    Args:
      mean: the mean before the cut.
      stddev: the standard deviation before the cut.
      lower: the lower bound in standard deviations from the mean; may be -inf.
      upper: the upper bound in standard deviations from the mean; may be inf.
      dtype: the dtype when the call names none; None stands for JAX's default float.

    Raises:
      TypeError, ValueError: mean is not a finite number, stddev is not one >= 0, a bound is not a
        number, or lower is not below upper.

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

    __repr__ = spec_repr


@initializer
class bounded_normal:
    r"""Draws from :math:`N(mean, stddev^2)` cut off at the *values* `minval` and `maxval`.

    The bounds are absolute, whatever stddev is: with the default ones and a stddev of .02 nothing
    is cut off.

    Args:
      mean: the mean before the cut.
      stddev: the standard deviation before the cut, above 0.
      minval: the least value; may be -inf.
      maxval: the greatest value; may be inf.
      dtype: the dtype when the call names none; None stands for JAX's default float.

    Raises:
      TypeError, ValueError: mean is not a finite number, stddev is not one above 0, a bound is not
        a number, or minval is not below maxval.

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
        return truncated_normal_law(self.stddev, lower, upper, dtype, self.mean, bounds)

    __repr__ = spec_repr


def _check(initializer: Any, numbers: dict[str, dict[str, Any]]) -> None:
    """Checks a new initializer's arguments and brings them to their one form."""
    owner = type(initializer).__name__
    checked = {
        name: checked_number(owner, name, getattr(initializer, name), **limits)
        for name, limits in numbers.items()
    }
    settle(initializer, dtype=checked_dtype(owner, initializer.dtype, inexact=True), **checked)


@initializer
class in_blocks:
    """Draws what an initializer draws, to the bit, in blocks: an array and next to nothing besides.

    Inside of `jax.jit` on a CPU a draw needs sixteen bytes for every number until it is done; this
    way it needs the array alone, or the array twice if its dtype has eight bits, or is bfloat16
    and JAX older than 0.12. (Outside of `jit` on a CPU all initializers of independent numbers do
    so by themselves.) Not for arrays that are sharded over devices: each device would draw all.

    Inside of `jit` the numbers are those of the initializer inside of `jit`; but with JAX before
    0.12, where `jit` changes the last bit of `normal`, that one's are those outside of it.

    Args:
      initializer: one that draws independent numbers: all of `initjax.sampling` and
        `initjax.scaling`, and `siren`, `random_walk`, `mup_output` and `torch_bias`.

    Raises:
      TypeError: the initializer is none of those; when called, the dtype is complex, or the key is
        not a threefry key (with `jax_threefry_partitionable`, as is JAX's default).

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
                "in_blocks: takes an initializer of independent numbers, such as he_normal(),"
                f" parentheses and all; got {self.initializer!r}"
            )

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        dtype, wide = draw_dtypes(dtype, self.initializer.dtype)
        for wrong, met in (
            ("of dtype " + dtype.name, wide.kind == "c"),
            (f"with out_sharding={out_sharding}", out_sharding is not None),
            (f"from the key {key}", not is_counted(key)),
        ):
            if met:
                raise TypeError(
                    "in_blocks: draws real numbers, on one device, from a threefry key under"
                    f" jax_threefry_partitionable; it cannot draw {wrong}"
                )
        return draw(self.initializer, key, shape, dtype, wide, blocks=True)

    __repr__ = spec_repr
