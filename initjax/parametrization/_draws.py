"""Draws of a base model's initializers, scaled for a model of another width."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax._values import Initializer, initializer, is_traced, resolved_dtype, shown
from initjax.orthogonal import orthogonal
from initjax.parametrization._leaves import PlannedLeaf

if TYPE_CHECKING:
    import jax

_NUMBERS = 2**20  # from which the size of an unknown initializer's draws is measured
_ERROR = 5e-3  # of a ratio of two such sizes, five times its standard error


@initializer
class Scaled:
    """What another initializer draws, times a number."""

    initializer: Initializer
    factor: float

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        import jax
        import jax.numpy as jnp

        dtype = resolved_dtype(dtype, None, repr(self))
        # Narrow floats are rounded once.
        wide = dtype if dtype.itemsize > 2 else jnp.dtype(jnp.float32)
        options = {} if out_sharding is None else {"out_sharding": out_sharding}
        drawn = self.initializer(key, shape, wide, **options)
        if is_traced(drawn):  # XLA would merge the factor with one of the draw, and round otherwise
            drawn = jax.lax.optimization_barrier(drawn)
        return (drawn * jnp.asarray(self.factor, wide)).astype(dtype)

    def __repr__(self) -> str:
        return f"{self.factor:.4g} * {shown(self.initializer)}"


def scaling(base: Initializer, leaf: PlannedLeaf, factor: float) -> float:
    """What to multiply a draw of the base model's initializer by.

    Args:
      base: the base model's initializer.
      leaf: the parameter.
      factor: of the standard deviations of the two models.
    """
    if factor == 1 and leaf.shape == leaf.base_shape:
        return 1.0
    now = size_in(base, leaf.shape)
    if not now:
        return 1.0
    number = factor * snapped(size_in(base, leaf.base_shape) / now, leaf.usual.values())
    return 1.0 if math.isclose(number, 1.0, rel_tol=1e-6) else number


def snapped(ratio: float, usual: Iterable[float]) -> float:
    """The ratio of two measured sizes, or the usual ratio that it is equal to, up to its error."""
    nearest = min(usual, key=lambda each: abs(math.log(ratio / each)))
    return nearest if abs(math.log(ratio / nearest)) < _ERROR else ratio


@functools.lru_cache(maxsize=256)
def size_in(drawing: Initializer, shape: tuple[int, ...]) -> float:
    """How large the numbers are that an initializer draws, in a unit of its own law.

    That of initjax's own laws is exact, and that of others measured.
    """
    if hasattr(drawing, "_law"):
        low, high = drawing._law(shape, np.dtype(np.float64)).central  # pyright: ignore
        if low < 0 < high:
            return high - low
    if isinstance(drawing, orthogonal):  # takes long to measure
        columns = shape[drawing.column_axis]
        return abs(drawing.scale) / max(columns, math.prod(shape) // columns) ** 0.5
    import jax
    import jax.numpy as jnp

    draws = min(256, -(-_NUMBERS // max(1, math.prod(shape))))
    with jax.ensure_compile_time_eval():
        keys = jax.random.split(jax.random.key(0), draws)
        drawn = jax.lax.map(lambda key: drawing(key, shape, jnp.float32), keys)
        return float(jnp.sqrt(jnp.square(drawn).mean()))
