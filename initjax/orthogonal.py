"""Initializers that draw orthogonal matrices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from initjax._drawing import draw_dtypes
from initjax._values import checked_axes, checked_dtype, checked_number, spec_repr

if TYPE_CHECKING:
    import jax


@dataclasses.dataclass(frozen=True, repr=False)
class orthogonal:
    r"""Draws a matrix with orthonormal rows or columns, whichever are fewer, times `scale`.

    The kernel is seen as a matrix of `column_axis` against all other axes; it is uniform among the
    (semi-)orthogonal ones. With a square kernel :math:`W^T W = scale^2 I`: every signal keeps its
    norm, times `scale`. The numbers have standard deviation scale/√max(rows, columns).

    Args:
      scale: the length of each row or column.
      column_axis: the axis of the output features.
      dtype: the dtype when the call names none; None stands for JAX's default float.

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

    def __post_init__(self):
        object.__setattr__(self, "scale", checked_number("orthogonal", "scale", self.scale))
        axis = checked_axes("orthogonal", "column_axis", self.column_axis)
        if not isinstance(axis, int):
            raise TypeError(f"orthogonal: column_axis must be one axis (int), got {axis!r}")
        object.__setattr__(self, "column_axis", axis)
        object.__setattr__(self, "dtype", checked_dtype("orthogonal", self.dtype))

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        import jax
        import jax.numpy as jnp

        dtype, wide = draw_dtypes(dtype, self.dtype)
        shape = tuple(shape)
        if len(shape) < 2 or not -len(shape) <= self.column_axis < len(shape):
            raise ValueError(
                f"{self!r} needs a shape of at least two axes, column_axis among them, got {shape}"
            )
        if 0 in shape:
            return jnp.zeros(shape, dtype, out_sharding=out_sharding)
        columns = shape[self.column_axis]
        rows = math.prod(shape) // columns
        axis = self.column_axis % len(shape)
        matrix = jax.random.orthogonal(key, rows, (), wide, columns)
        kernel = jnp.moveaxis(matrix.reshape(*shape[:axis], *shape[axis + 1 :], columns), -1, axis)
        kernel = (wide.type(self.scale) * kernel).astype(dtype)
        return kernel if out_sharding is None else jax.sharding.reshard(kernel, out_sharding)

    __repr__ = spec_repr
