"""How independent numbers are drawn: uniform ones, transformed by the law of an initializer.

A law is an interval and a monotone function: what is drawn is that function of numbers uniform on
the interval. So two laws under one key give numbers that rise and fall together.

`jax.random.uniform` keeps sixteen bytes of counters for every number until it is done. The number
at an index depends on the key and the index alone, though, so that an array can be drawn in blocks
that stay in the processor's cache: the same bits, in a quarter of the memory and half the time.
That is done for every larger draw outside of `jit` on a CPU, and anywhere else by `in_blocks`.
Elsewhere XLA decides: it fuses the steps on a GPU or TPU, and may give each device its shard.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from initjax._values import resolved_dtype

if TYPE_CHECKING:
    import jax

_BLOCK = 2**20  # numbers: 16 MB of work, and enough for several cores. A power of two.


class Law(NamedTuple):
    """The law of `transform(u) * scale` with `u` uniform on [minval, maxval)."""

    minval: Any
    maxval: Any
    transform: Callable[[jax.Array], jax.Array]
    scale: Any = None  # None stands for 1


@functools.lru_cache(maxsize=1024)
def _law(initializer: Any, shape: tuple[int, ...], dtype: np.dtype) -> Law:
    """The law of an initializer, kept: bounds and gains are not computed again in every draw."""
    return initializer._law(shape, dtype)


def draw_dtypes(asked: Any, default: Any) -> tuple[np.dtype, np.dtype]:
    """The dtype to return and the dtype to draw in, which is never narrower than float32."""
    import jax.numpy as jnp

    dtype = resolved_dtype(asked, default)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(f"a random initializer needs a floating dtype, got {dtype.name}")
    narrow = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
    return dtype, np.dtype(np.float32) if narrow else dtype


def draw(
    initializer: Any,
    key: jax.Array,
    shape: Sequence[int],
    dtype: np.dtype,
    wide: np.dtype,
    out_sharding: Any = None,
    blocks: bool = False,
) -> jax.Array:
    """Draws an array by the law of an initializer.

    Args:
      initializer: has a method `_law`.
      key: a PRNG key.
      shape: the shape of the array.
      dtype: its dtype.
      wide: the dtype to draw in.
      out_sharding: how the array is sharded.
      blocks: whether to draw in blocks inside of `jit` and off the CPU too.
    """
    import jax
    from jax.core import Tracer

    if wide.kind == "c":
        raise TypeError(f"{initializer!r} draws real numbers, got dtype {wide.name}")
    shape = tuple(map(int, shape))
    law = _law(initializer, shape, wide)
    if out_sharding is not None or (isinstance(key, Tracer) and not blocks):
        u = jax.random.uniform(key, shape, wide, law.minval, law.maxval, out_sharding=out_sharding)
        # Compiled as one, as below, since XLA joins a product and a sum into one rounding.
        kernel = jax.jit(law.transform)(u)
        return (kernel if law.scale is None else kernel * law.scale).astype(dtype)
    blocks = (blocks or jax.default_backend() == "cpu") and is_counted(key)
    blocks = blocks and _BLOCK < math.prod(shape) < 2**31  # an index is 32 bits wide
    if not blocks and law.scale is not None and jax.__version_info__ >= (0, 12):
        u = jax.random.uniform(key, shape, wide, law.minval, law.maxval)  # step by step, as JAX
        return (law.transform(u) * law.scale).astype(dtype)
    kernel = _compiled()(initializer, key, shape, dtype, wide, blocks)
    if blocks:
        return kernel
    return (kernel if law.scale is None else kernel * law.scale).astype(dtype)


def is_counted(key: jax.Array) -> bool:
    """Whether the bits of this key are a function of the index alone, which is known here."""
    import jax

    partitionable = jax.config.jax_threefry_partitionable  # pyright: ignore
    return partitionable and str(jax.random.key_impl(key)) in ("threefry2x32", "fry")


@functools.cache
def _compiled() -> Callable:
    """One compiled program for each initializer, shape and dtype."""
    import jax

    def drawn(initializer, key, shape, dtype, wide, blocks):
        law = _law(initializer, shape, wide)
        if not blocks:
            u = jax.random.uniform(key, shape, wide, law.minval, law.maxval)
            kernel = law.transform(u)
            return kernel.astype(dtype) if law.scale is None else kernel
        return _in_blocks(law, key, math.prod(shape), dtype, wide).reshape(shape)

    return jax.jit(drawn, static_argnums=(0, 2, 3, 4, 5))


def _in_blocks(law: Law, key: jax.Array, size: int, dtype: np.dtype, wide: np.dtype) -> jax.Array:
    """Draws a flat array block by block; the last block overlaps the one before it."""
    import jax
    import jax.numpy as jnp

    # Of narrow floats the bits are moved: XLA's CPU would widen the whole array in every step.
    bits = np.dtype(f"uint{8 * dtype.itemsize}") if dtype.itemsize < 4 else dtype

    def fill(index, array):
        start = jnp.minimum(index * _BLOCK, size - _BLOCK)
        block = law.transform(_uniform_from(key, start, law.minval, law.maxval, wide))
        if law.scale is not None:
            block = jax.lax.optimization_barrier(block) * law.scale
        block = block.astype(dtype)
        if bits != dtype:
            block = jax.lax.bitcast_convert_type(block, bits)
        return jax.lax.dynamic_update_slice(array, block, (start,))

    array = jax.lax.fori_loop(0, -(-size // _BLOCK), fill, jnp.zeros(size, bits))
    return array if bits == dtype else jax.lax.bitcast_convert_type(array, dtype)


def _uniform_from(key: jax.Array, start: jax.Array, minval: Any, maxval: Any, dtype: np.dtype):
    """The block from `start` on of `jax.random.uniform(key, ..., dtype, minval, maxval)`."""
    import jax
    import jax.numpy as jnp
    from jax.extend.random import threefry_2x32

    low = jax.lax.iota(jnp.uint32, _BLOCK) + start.astype(jnp.uint32)
    counts = jnp.concatenate([jnp.zeros_like(low), low])
    first, second = jnp.split(threefry_2x32(jax.random.key_data(key), counts), 2)
    if dtype == np.float32:
        bits, mantissa = first ^ second, 23
    else:
        bits, mantissa = first.astype("uint64") << np.uint64(32) | second.astype("uint64"), 52
    # Random bits in the mantissa of a number from [1, 2).
    width = bits.dtype.itemsize * 8
    one = dtype.type(1).view(bits.dtype)
    unit = jax.lax.bitcast_convert_type(bits >> bits.dtype.type(width - mantissa) | one, dtype) - 1
    return jnp.maximum(minval, unit * (maxval - minval) + minval)
