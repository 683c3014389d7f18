"""How independent numbers are drawn: uniform ones, transformed by the law of an initializer.

A law is a monotone function of uniform numbers. So two laws under one key give numbers that rise
and fall together.

Its numbers (a standard deviation, bounds) are operands of the compiled program outside of `jit`,
and constants inside of it, as JAX has them. XLA computes beforehand what it can from constants,
and rounds otherwise: so the last bit of a draw may differ inside and outside of `jit`, as in JAX.

`jax.random.uniform` keeps sixteen bytes of counters for every number until it is done. The number
at an index depends on the key and the index alone, though, so that an array can be drawn in blocks
that stay in the processor's cache: the same bits, in a quarter of the memory and half the time.
That is done for every larger draw outside of `jit` on a CPU, and anywhere else by `in_blocks`.
Elsewhere XLA decides: it fuses the steps on a GPU or TPU, and may give each device its shard.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax._values import Initializer, resolved_dtype

if TYPE_CHECKING:
    import jax

_BLOCK = 2**20  # numbers: 16 MB of work, and enough for several cores. A power of two.

# Whether a draw inside of `jit` has the bits of one outside: set while a whole initializer is
# compiled for use outside.
_as_outside_of_jit = contextvars.ContextVar("_as_outside_of_jit", default=False)


def draw_dtypes(asked: Any, default: Any) -> tuple[np.dtype, np.dtype]:
    """The dtype to return and the dtype to draw in, which is never narrower than float32."""
    import jax.numpy as jnp

    dtype = resolved_dtype(asked, default)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(f"a random initializer needs a floating dtype, got {dtype.name}")
    if jnp.finfo(dtype).bits < 8:
        raise TypeError(f"a random initializer needs a dtype of 8 bits or more, got {dtype.name}")
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
    shape, counted = tuple(shape), is_counted(key)
    transform, numbers, bounds = _program(initializer, shape, dtype, wide)
    traced = isinstance(key, Tracer)
    if not traced:
        blocks = blocks or (counted and out_sharding is None and _suits_blocks(shape))
    elif _as_outside_of_jit.get():
        # As operands: a zero is added that XLA cannot know, since not every number times 0 is 0.
        zero = jax.random.key_data(key)[0].astype(wide) * 0
        numbers = tuple(number + zero for number in numbers)
    if blocks and math.prod(shape) > _BLOCK:
        return _drawn_in_blocks()(transform, key, numbers, bounds, shape, dtype, wide)
    outside = not traced or _as_outside_of_jit.get()
    return _drawn()(transform, key, numbers, bounds, shape, dtype, wide, outside, out_sharding)


def draw_by_law(
    self: Any,
    key: jax.Array,
    shape: Sequence[int],
    dtype: Any = None,
    out_sharding: Any = None,
) -> jax.Array:
    """The method `__call__` of an initializer that has a `_law` and a `dtype`."""
    return draw(self, key, shape, *draw_dtypes(dtype, self.dtype), out_sharding)


def _suits_blocks(shape: tuple[int, ...]) -> bool:
    """Whether an array is drawn in blocks by itself: on a CPU, if the bits are the same."""
    import jax

    # JAX 0.12 rounds some normal numbers otherwise along a last axis this short.
    same = jax.__version_info__ < (0, 12) or math.prod(shape[-1:]) > 6
    return jax.default_backend() == "cpu" and same


def draw_in_shards(
    initializer: Initializer, key: jax.Array, shape: tuple[int, ...], dtype: Any, sharding: Any
) -> jax.Array:
    """Draws what the initializer draws outside of `jit`, each shard on its device.

    Args:
      initializer: any; those that have no law are compiled whole.
      key: a PRNG key.
      shape: the shape of the array.
      dtype: its dtype.
      sharding: how the array is sharded.
    """
    if not hasattr(initializer, "_law") or np.dtype(dtype).kind == "c":
        return _compiled_whole(sharding)(initializer, key, shape, dtype)
    dtype, wide = draw_dtypes(dtype, None)
    transform, numbers, bounds = _program(initializer, shape, dtype, wide)
    return _drawn(sharding)(transform, key, numbers, bounds, shape, dtype, wide, True, None)


@functools.lru_cache
def _compiled_whole(sharding: Any) -> Callable:
    """A draw by any initializer: one program for each, its shape and dtype."""
    import jax

    def drawn(initializer, key, shape, dtype):
        token = _as_outside_of_jit.set(True)
        try:
            return initializer(key, shape, dtype)
        finally:
            _as_outside_of_jit.reset(token)

    return jax.jit(drawn, static_argnums=(0, 2, 3), out_shardings=sharding)


def is_counted(key: jax.Array) -> bool:
    """Whether the bits of a key are a function of the index alone, which is known here.

    Refuses what is not a single key.
    """
    import jax

    kind = str(jax.random.key_impl(key))  # an error, if it is no key
    if np.ndim(key) - (not jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise ValueError(
            "an initializer takes a single key, got an array of keys of shape"
            f" {np.shape(key)}; map it over them with jax.vmap"
        )
    partitionable = jax.config.jax_threefry_partitionable  # pyright: ignore
    return partitionable and kind in ("threefry2x32", "fry")


@functools.lru_cache(maxsize=1024)
def _program(
    initializer: Any, shape: tuple[int, ...], dtype: np.dtype, wide: np.dtype
) -> tuple[Callable, tuple[Any, ...], tuple[Any, ...]]:
    """What the law of an initializer comes to, kept: a function, its numbers, and bounds."""
    import jax.numpy as jnp

    with np.errstate(over="ignore"):  # that is refused here
        law = initializer._law(shape, wide)
    limit = float(jnp.finfo(dtype).max)
    if not law.reach <= limit:
        raise ValueError(
            f"{initializer!r} draws numbers up to {law.reach:.3g}, but {dtype.name} ends at"
            f" {limit:.3g}"
        )
    bounds = _within(law.bounds, dtype) if law.bounds else ()
    return law.transform, law.numbers, tuple(wide.type(bound) for bound in bounds)


def _within(bounds: Sequence[float], dtype: np.dtype) -> tuple[Any, ...]:
    """The least and the greatest number of a dtype between two bounds, if it has any there."""
    import jax.numpy as jnp

    minval, maxval = bounds
    lowest, highest = jnp.finfo(dtype).min, jnp.finfo(dtype).max
    low = dtype.type(max(minval, float(lowest)))
    high = dtype.type(min(maxval, float(highest)))
    if float(low) < minval:
        low = np.nextafter(low, highest)
    if float(high) > maxval:
        high = np.nextafter(high, lowest)
    return (low, high) if low <= high else ()


@functools.lru_cache
def _drawn(sharding: Any = None) -> Callable:
    """The compiled draw: a program for each kind of law, shape and dtype, whatever the numbers."""
    import jax

    def drawn(transform, key, numbers, bounds, shape, dtype, wide, outside, out_sharding):
        def uniform(minval, maxval, apart=False):
            u = jax.random.uniform(key, shape, wide, minval, maxval, out_sharding=out_sharding)
            return jax.lax.optimization_barrier(u) if apart and outside else u

        return _rounded(transform(uniform, *numbers), bounds, dtype)

    static = (0, 4, 5, 6, 7, 8)
    if sharding is not None:
        return jax.jit(drawn, static_argnums=static, out_shardings=sharding)
    # Inline, so that XLA sees an outer program's constants, as it does in JAX's draws.
    return jax.jit(drawn, static_argnums=static, inline=True)


@functools.cache
def _drawn_in_blocks() -> Callable:
    """As `_drawn`, but block by block; the last block overlaps the one before it."""
    import jax
    import jax.numpy as jnp

    def drawn(transform, key, numbers, bounds, shape, dtype, wide):
        size = math.prod(shape)
        moved = _moved_as(dtype)
        # An index of 64 bits for the largest arrays only: JAX cannot map it with 32 elsewhere.
        large = size >= 2**31

        def indexing():
            return jax.enable_x64(True) if large else contextlib.nullcontext()

        def fill(index, array):
            def uniform(minval, maxval, apart=False):
                return _uniform_from(key, start, minval, maxval, wide)

            with indexing():
                start = index.astype("int64" if large else "int32") * _BLOCK
                start = jnp.minimum(start, size - _BLOCK)
            block = _rounded(transform(uniform, *numbers), bounds, dtype)
            if moved != dtype:
                block = jax.lax.bitcast_convert_type(block, moved)
            with indexing():
                return jax.lax.dynamic_update_slice(array, block, (start,))

        array = jax.lax.fori_loop(0, -(-size // _BLOCK), fill, jnp.zeros(size, moved))
        if moved != dtype:
            array = jax.lax.bitcast_convert_type(array, dtype)
        return array.reshape(shape)

    return jax.jit(drawn, static_argnums=(0, 4, 5, 6), inline=True)


def _moved_as(dtype: np.dtype) -> np.dtype:
    """The dtype that a block is moved as: XLA's CPU would widen a whole array of some dtypes."""
    import jax

    bfloat16 = dtype.name == "bfloat16" and jax.__version_info__ < (0, 12)
    return np.dtype(f"uint{8 * dtype.itemsize}") if bfloat16 or dtype.itemsize == 1 else dtype


def _rounded(kernel: jax.Array, bounds: tuple[Any, ...], dtype: np.dtype) -> jax.Array:
    """What has been drawn, in the dtype asked for, within bounds that have been rounded to it."""
    import jax.numpy as jnp

    return (jnp.clip(kernel, *bounds) if bounds else kernel).astype(dtype)


def _uniform_from(key: jax.Array, start: jax.Array, minval: Any, maxval: Any, dtype: np.dtype):
    """The block from `start` on of `jax.random.uniform(key, ..., dtype, minval, maxval)`."""
    import jax
    import jax.numpy as jnp
    from jax.extend.random import threefry_2x32

    high, low = jnp.zeros((), "uint32"), start.astype("uint32")
    if start.dtype == "int64":
        with jax.enable_x64(True):
            high = (start >> 32).astype("uint32")
    lows = jax.lax.iota("uint32", _BLOCK) + low
    counts = jnp.concatenate([high + (lows < low).astype("uint32"), lows])
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
