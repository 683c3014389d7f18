"""Draws of a base model's initializers, scaled for a model of another width."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from initjax._values import Initializer, initializer, resolved_dtype, shown
from initjax.leaves import identify
from initjax.specs import parse

if TYPE_CHECKING:
    import jax

_NUMBERS = 2**20  # from which the size of an unknown initializer's draws is known to 0.1%


@initializer
class Scaled:
    """What another initializer draws, times a number."""

    initializer: Initializer
    factor: float

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        import jax.numpy as jnp

        dtype = resolved_dtype(dtype, None, repr(self))
        wide = jnp.promote_types(dtype, jnp.float32)  # narrow floats are rounded once
        options = {} if out_sharding is None else {"out_sharding": out_sharding}
        drawn = self.initializer(key, shape, wide, **options)
        return (drawn * jnp.asarray(self.factor, wide)).astype(dtype)

    def __repr__(self) -> str:
        return f"{self.factor:.4g} * {shown(self.initializer)}"


def scaled(
    base: Initializer, shape: tuple[int, ...], base_shape: tuple[int, ...], factor: float
) -> Initializer:
    """An initializer whose draws are larger by a factor than the base model's.

    Args:
      base: the base model's initializer.
      shape: of what is drawn.
      base_shape: of the base model's parameter.
      factor: of the standard deviations.
    """
    number = scaling(base, shape, base_shape, factor)
    return base if number == 1 else Scaled(base, number)


def scaling(
    base: Initializer, shape: tuple[int, ...], base_shape: tuple[int, ...], factor: float
) -> float:
    """What to multiply a draw of the base model's initializer by; arguments as for `scaled`."""
    if factor == 1 and shape == base_shape:
        return 1.0
    now = _size(base, shape)
    number = factor * _size(base, base_shape) / now if now else 1.0
    return 1.0 if math.isclose(number, 1.0, rel_tol=1e-6) else number


@functools.lru_cache(maxsize=256)
def _size(drawing: Initializer, shape: tuple[int, ...]) -> float:
    """How large the numbers are that an initializer draws, in a unit of its own law.

    That of initjax's own laws is exact. Others are measured: of orthogonal and constant kernels
    this is exact, too.
    """
    if hasattr(drawing, "_law"):
        low, high = drawing._law(shape, np.dtype(np.float64)).central  # pyright: ignore
        if low < 0 < high:
            return high - low
    import jax
    import jax.numpy as jnp

    draws = min(256, -(-_NUMBERS // max(1, math.prod(shape))))
    with jax.ensure_compile_time_eval():
        keys = jax.random.split(jax.random.key(0), draws)
        drawn = jax.lax.map(lambda key: drawing(key, shape, jnp.float32), keys)
        return float(jnp.sqrt(jnp.square(drawn).mean()))


class Drawn(NamedTuple):
    """How a parameter looks drawn."""

    initializer: Initializer | None
    """None if it is a constant, or no law fits."""
    constant: bool
    text: str


def drawn(leaf: Any, base_shape: tuple[int, ...]) -> Drawn:
    """Which initializer a parameter looks drawn from.

    If several fit, they are told apart only if they scale otherwise with the shape.

    Args:
      leaf: an array.
      base_shape: of the base model's parameter.
    """
    (found,) = identify({"parameter": leaf}).leaves
    if found.law == "constant":
        return Drawn(None, True, found.text)
    fitting = [parse(rule) for rule in found.rules]
    ratios = [_size(each, base_shape) / _size(each, tuple(leaf.shape)) for each in fitting]
    alike = bool(ratios) and max(ratios) < 1.001 * min(ratios)
    return Drawn(fitting[0] if alike else None, False, found.text)
