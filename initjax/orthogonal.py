"""Initializers that draw orthogonal matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from initjax._drawing import checked_draw
from initjax._fitting import check_drawn
from initjax._laws import normal_center
from initjax._values import (
    called_as,
    checked_axes,
    checked_dtype,
    checked_number,
    initializer,
    resharded,
    settle,
    shown,
)

if TYPE_CHECKING:
    import jax


@initializer
class orthogonal:
    r"""Draws a matrix with orthonormal rows or columns, whichever are fewer, times `scale`.

    The kernel is treated as a matrix with `column_axis` as its columns and all other axes as its
    rows, drawn uniformly from the (semi-)orthogonal matrices. For a square kernel
    :math:`W^T W = scale^2 I`: the norm of every signal is multiplied by `scale`. The entries have
    standard deviation scale/√max(rows, columns).

    Args:
      scale: the length of each row or column.
      column_axis: the axis of the output features.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Raises:
      TypeError, ValueError: scale is not a finite real number, column_axis is not an int; when
        called, the shape has fewer than two axes or lacks column_axis.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> kernel = orthogonal()(jax.random.key(0), (4, 4))
      >>> bool(jnp.allclose(kernel.T @ kernel, jnp.eye(4), atol=1e-6))
      True

    Reference:
      Saxe, McClelland and Ganguli 2014, "Exact solutions to the nonlinear dynamics of learning in
      deep linear neural networks", https://arxiv.org/abs/1312.6120;
      `jax.nn.initializers.orthogonal`, bit for bit in float32 and float64.
    """

    scale: float = 1.0
    column_axis: int = -1
    dtype: Any = None

    def __post_init__(self) -> None:
        settle(self, **_checked("orthogonal", self.scale, self.dtype, self.column_axis))

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        import jax
        import jax.numpy as jnp

        dtype, wide = checked_draw(self, key, dtype)
        shape = tuple(shape)
        begin = ""
        if len(shape) < 2:  # JAX's sentence first, since code may look for it
            begin = "orthogonal initializer requires at least a 2D shape; "
        if begin or not -len(shape) <= self.column_axis < len(shape):
            raise ValueError(
                f"{begin}{shown(self)} needs a shape of at least two axes, column_axis among them,"
                f" got {shape}"
            )
        if 0 in shape:
            return jnp.zeros(shape, dtype, out_sharding=out_sharding)
        columns = shape[self.column_axis]
        rows = math.prod(shape) // columns
        axis = self.column_axis % len(shape)
        # An entry is almost normal, and no row is longer than the scale.
        longest, spread = abs(self.scale), abs(self.scale) / max(rows, columns) ** 0.5
        check_drawn(self, dtype, wide, min(longest, 8.3 * spread), normal_center(spread))
        matrix = jax.random.orthogonal(key, rows, (), wide, columns)
        kernel = jnp.moveaxis(matrix.reshape(*shape[:axis], *shape[axis + 1 :], columns), -1, axis)
        kernel = (wide.type(self.scale) * kernel).astype(dtype)
        return resharded(kernel, out_sharding)


@initializer
class delta_orthogonal:
    r"""Puts an orthogonal matrix at the center tap of a convolution kernel, with zeros elsewhere.

    With at least as many outputs as inputs, the convolution multiplies the norm of its input by
    `scale`, whatever the number of taps (with circular padding, or far from the border).

    Args:
      scale: the length of each row of the matrix.
      column_axis: which of the last two axes holds the columns, as for `orthogonal`.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Raises:
      TypeError, ValueError: scale is not a finite real number, column_axis isn't one of the last
        two axes; when called, the shape does not have 3 to 5 axes, or has fewer outputs than
        inputs.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> kernel = delta_orthogonal()(jax.random.key(0), (3, 4, 4))
      >>> bool(jnp.allclose(kernel[1].T @ kernel[1], jnp.eye(4), atol=1e-6))
      True

    Reference:
      Xiao et al. 2018, "Dynamical Isometry and a Mean Field Theory of CNNs", section 3.2,
      https://arxiv.org/abs/1806.05393; `jax.nn.initializers.delta_orthogonal`, bit for bit.
    """

    scale: float = 1.0
    column_axis: int = -1
    dtype: Any = None

    def __post_init__(self) -> None:
        settle(self, **_checked("delta_orthogonal", self.scale, self.dtype, self.column_axis))

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        shape = tuple(shape)
        axis = self.column_axis - len(shape) if self.column_axis >= 0 else self.column_axis
        # JAX's sentences first, since code may look for them.
        begin = ""
        if len(shape) not in (3, 4, 5):
            begin = "Delta orthogonal initializer requires a 3D, 4D or 5D shape. "
        elif shape[-1] < shape[-2]:
            begin = "`fan_in` must be less or equal than `fan_out`. "
        if begin or axis not in (-1, -2):
            raise ValueError(
                f"{begin}{self!r} needs a shape (*spatial, in, out) of 3 to 5 axes, with at least"
                f" as many outputs as inputs, and column_axis among the last two, got {shape}"
            )
        matrix = called_as(repr(self), orthogonal(self.scale, axis, self.dtype))
        matrix = matrix(key, shape[-2:], dtype)
        return _at_center(matrix, shape, out_sharding)


@initializer
class scaled_orthogonal:
    r"""Draws an orthogonal matrix times :math:`scale \max(\sqrt{out/in}, 1)`, to keep mean squares.

    `orthogonal` preserves the *norm*; with more outputs than inputs, the mean square then falls by
    in/out. This initializer compensates for that. In a kernel with more than two axes, the matrix
    is at the center tap, as in `delta_orthogonal`.

    Args:
      scale: a factor of the whole kernel.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Raises:
      TypeError, ValueError: scale is not a finite real number; when called, the shape has fewer
        than two axes, or an even number of taps along an axis, which has no center.

    Example:
      >>> import jax
      >>> kernel = scaled_orthogonal()(jax.random.key(0), (4, 9))
      >>> [round(float(s), 3) for s in jax.numpy.linalg.svd(kernel)[1]]
      [1.5, 1.5, 1.5, 1.5]

    Reference:
      Martens et al. 2021, "Rapid training of deep neural networks without skip connections or
      normalization layers using Deep Kernel Shaping", https://arxiv.org/abs/2110.01765, as in
      `dks.jax.parameter_sampling_functions.scaled_uniform_orthogonal`.
    """

    scale: float = 1.0
    dtype: Any = None

    def __post_init__(self) -> None:
        checked = _checked("scaled_orthogonal", self.scale, self.dtype)
        settle(self, scale=checked["scale"], dtype=checked["dtype"])

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        shape = tuple(shape)
        if len(shape) < 2 or any(size % 2 == 0 for size in shape[:-2] if size):
            raise ValueError(
                f"{self!r} needs a shape (*spatial, in, out) with odd spatial axes, got {shape}"
            )
        inputs, outputs = shape[-2:]
        scale = self.scale * max((outputs / inputs) ** 0.5 if inputs else 1.0, 1.0)
        matrix = called_as(repr(self), orthogonal(scale, -1, self.dtype))
        matrix = matrix(key, (inputs, outputs), dtype)
        return _at_center(matrix, shape, out_sharding)


def _checked(owner: str, scale: Any, dtype: Any, column_axis: Any = -1) -> dict[str, Any]:
    axis = checked_axes(owner, "column_axis", column_axis)
    if not isinstance(axis, int):
        raise TypeError(f"{owner}: column_axis must be one axis (int), got {axis!r}")
    return {
        "scale": checked_number(owner, "scale", scale),
        "column_axis": axis,
        "dtype": checked_dtype(owner, dtype, inexact=True),
    }


def _at_center(matrix: jax.Array, shape: tuple[int, ...], out_sharding: Any) -> jax.Array:
    """A kernel of zeros with a matrix at its center tap."""
    import jax.numpy as jnp

    kernel = jnp.zeros(shape, matrix.dtype)
    if 0 not in shape:
        kernel = kernel.at[tuple((size - 1) // 2 for size in shape[:-2])].set(matrix)
    return resharded(kernel, out_sharding)
