"""The initializer of Kolmogorov-Arnold networks."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax._drawing import draw_dtypes
from initjax._fitting import check_drawn
from initjax._values import (
    called_as,
    checked_dtype,
    checked_integer,
    checked_number,
    initializer,
    resharded,
    settle,
)
from initjax.sampling import random_uniform

if TYPE_CHECKING:
    import jax


@initializer
class kan_spline:
    r"""Draws the B-spline coefficients of a Kolmogorov-Arnold network, along the last axis.

    Each spline passes through independent numbers from :math:`U[-s/(2G), s/(2G))`, with `s` the
    `noise_scale`, at the G + 1 points of its uniform grid. Of all coefficients that do so, these
    have the least norm. The splines have a standard deviation of :math:`s/(G \sqrt{12})` at the
    grid points; inner coefficients of order 3 have 1.8 times as much, the outermost half as much.

    pykan's other parameters are the factors of the base function, `lecun_uniform(gain=3**-0.5)`,
    and those of the splines, `constant(fan_in**-0.5)`.

    Args:
      noise_scale: `s`; 0.3 in pykan's networks.
      order: the order of the splines, at least 1; 3 is cubic.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Raises:
      TypeError, ValueError: noise_scale is not a finite number >= 0, or order not an integer above
        0; when called, the last axis isn't G + order with a G above 0.

    Example:
      >>> import jax
      >>> coefficients = kan_spline()(jax.random.key(0), (200, 300, 5 + 3))  # G = 5
      >>> [round(float(s), 3) for s in coefficients.std((0, 1))[:4]]
      [0.009, 0.027, 0.031, 0.032]

    Reference:
      Liu et al. 2024, "KAN: Kolmogorov-Arnold Networks", https://arxiv.org/abs/2404.19756, as in
      the authors' pykan 0.2.8, whose single layers have a noise scale of 0.5.
    """

    noise_scale: float = 0.3
    order: int = 3
    dtype: Any = None

    def __post_init__(self) -> None:
        settle(
            self,
            noise_scale=checked_number("kan_spline", "noise_scale", self.noise_scale, 0),
            order=checked_integer("kan_spline", "order", self.order, 1),
            dtype=checked_dtype("kan_spline", self.dtype, inexact=True),
        )

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        import jax
        import jax.numpy as jnp

        dtype, wide = draw_dtypes(dtype, self.dtype, repr(self))
        shape = tuple(shape)
        intervals = shape[-1] - self.order if shape else 0
        if intervals < 1:
            raise ValueError(
                f"{self!r} needs a shape whose last axis is above {self.order}, the number of grid"
                f" intervals plus the order, got {shape}"
            )
        bound = self.noise_scale / (2 * intervals)
        solve = _least_norm(intervals, self.order)
        reach = bound * float(np.abs(solve).sum(axis=0).max())
        check_drawn(self, dtype, wide, reach, (-bound, bound))
        draw = called_as(repr(self), random_uniform(-bound, bound))
        noise = draw(key, (*shape[:-1], intervals + 1), wide)
        solve = jnp.asarray(solve, wide)
        coefficients = jnp.matmul(noise, solve, precision=jax.lax.Precision.HIGHEST)
        return resharded(coefficients.astype(dtype), out_sharding)


@functools.lru_cache
def _least_norm(intervals: int, order: int) -> np.ndarray:
    """From values at the grid points to coefficients: a pseudo-inverse, transposed."""
    import scipy.interpolate

    knots = np.arange(-order, intervals + order + 1.0)
    points = np.arange(intervals + 1.0)
    basis = scipy.interpolate.BSpline.design_matrix(points, knots, order).toarray()
    return np.linalg.pinv(basis).T
