"""Initializers that draw nothing: the same value everywhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax._values import checked_dtype, resolved_dtype, spec_repr

if TYPE_CHECKING:
    import jax


@dataclasses.dataclass(frozen=True, repr=False)
class constant:
    """Fills the array with a value.

    Args:
      value: a number, or numbers that broadcast to the shape: a sequence, nested or not, or an
        array. Kept as a number or nested tuples.
      dtype: the dtype when the call names none; None stands for JAX's default float.

    Raises:
      TypeError: the value is not numeric.

    Example:
      >>> import jax
      >>> constant(-7.0)(jax.random.key(0), (2, 3)).tolist()
      [[-7.0, -7.0, -7.0], [-7.0, -7.0, -7.0]]

    Reference:
      `jax.nn.initializers.constant`, bit for bit.
    """

    value: Any
    dtype: Any = None

    def __post_init__(self):
        value = np.asarray(self.value)
        if value.dtype == object or value.dtype.kind in "OSUMm":
            raise TypeError(f"constant: value must be a number or numbers, got {self.value!r}")
        if value.dtype.kind in "biu":  # so that constant(0) is the same value as constant(0.0)
            value = value.astype(float)
        object.__setattr__(self, "value", _tuples(value.tolist()))
        object.__setattr__(self, "dtype", checked_dtype("constant", self.dtype))

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        import jax.numpy as jnp

        dtype = resolved_dtype(dtype, self.dtype)
        value = np.asarray(self.value) if isinstance(self.value, tuple) else self.value
        return jnp.full(shape, value, dtype, out_sharding=out_sharding)

    def __repr__(self) -> str:
        named = {"0.0": "zeros", "1.0": "ones"}.get(repr(self.value))
        return named if named and self.dtype is None else spec_repr(self)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


# As in JAX these two are initializers themselves, not makers of one: kernel_init=zeros.
zeros = constant(0.0)
ones = constant(1.0)
