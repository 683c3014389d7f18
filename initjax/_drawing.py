"""How independent numbers are drawn: uniform numbers, transformed by an initializer's law.

A law is a monotone function of uniform numbers. So with the same key, the draws of two laws are
correlated.

Its parameters (a standard deviation, bounds) are operands of the compiled program outside `jit`,
and constants inside it, as in JAX. XLA folds constants, which changes the rounding. So the last bit
of a draw may differ inside and outside `jit`, as in JAX.

`jax.random.uniform` needs sixteen bytes of counters for every number. But each number depends only
on the key and its index, so an array can be drawn in blocks that stay in the processor's cache: the
same bits, with a quarter of the memory and in half the time. Every larger draw outside `jit` on a
CPU is drawn in blocks, and so is any draw by `in_blocks`. Elsewhere XLA decides: it fuses the steps
on a GPU or TPU, and may give each device its shard.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax._fitting import check_drawn
from initjax._laws import Law, UnfitError
from initjax._values import Initializer, resolved_dtype, shown

if TYPE_CHECKING:
    import jax

_BLOCK = 2**20  # numbers: 16 MB of work, and enough for several cores. A power of two.

# Whether a draw inside `jit` has the same bits as one outside: set while a whole initializer is
# compiled for use outside.
_as_outside_of_jit = contextvars.ContextVar("_as_outside_of_jit", default=False)


def checked_draw(self: Any, key: Any, asked: Any) -> tuple[np.dtype, np.dtype]:
    """The dtypes as `draw_dtypes`, for a random initializer that is called with this key."""
    check_key(self, key)
    return draw_dtypes(asked, self.dtype, shown(self))


def check_key(initializer: Any, key: Any) -> None:
    """Raises an error unless this is a single PRNG key, typed or raw."""
    import jax

    array = isinstance(key, jax.Array | np.ndarray)
    typed = array and jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key)
    single = () if typed else _raw_key_shape(str(jax.config.jax_default_prng_impl))  # pyright: ignore
    shape = key.shape if array else ()
    raw = array and key.dtype == np.uint32 and shape[len(shape) - len(single) :] == single
    if not (typed or raw):
        got = repr(key)
        if array or len(got) > 60:
            got = f"{key.dtype}{list(shape)}" if array else f"a {type(key).__name__}"
        stream = type(key).__name__ in ("Rngs", "RngStream")  # of NNX
        hint = "; call it, as in rngs.params()" if stream else ""
        raise TypeError(
            f"{shown(initializer)} needs a PRNG key, such as jax.random.key(0), got {got}{hint}"
        )
    if shape != single:
        raise ValueError(
            f"{shown(initializer)} takes a single key, got an array of keys of shape {shape}; map"
            " it over them with jax.vmap"
        )


@functools.cache
def _raw_key_shape(impl: str) -> tuple[int, ...]:
    """The shape of a raw key of this kind."""
    import jax

    return jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=impl))).shape


def draw_dtypes(
    asked: Any, default: Any, owner: str = "a random draw"
) -> tuple[np.dtype, np.dtype]:
    """The dtype of the result, and the dtype of the draw, which has at least 32 bits."""
    import jax.numpy as jnp

    dtype = resolved_dtype(asked, default, owner)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(f"{owner} needs a floating dtype, got {dtype.name}")
    if jnp.finfo(dtype).bits < 8:
        raise TypeError(f"{owner} needs a dtype of 8 bits or more, got {dtype.name}")
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
      wide: the dtype of the draw.
      out_sharding: how the array is sharded.
      blocks: whether to draw in blocks even inside `jit` or on an accelerator.
    """
    import jax
    from jax.core import Tracer

    if wide.kind == "c":
        raise TypeError(f"{shown(initializer)} draws real numbers, got dtype {wide.name}")
    shape = tuple(shape)
    _check_program(initializer, shape, dtype, wide)
    transform, numbers, bounds = _program(initializer, shape, dtype, wide)
    traced = isinstance(key, Tracer)
    if not traced:
        blocks = blocks or (out_sharding is None and _suits_blocks(shape))
    elif _as_outside_of_jit.get():
        # Add a zero that XLA can't fold, to make them operands: x * 0 isn't 0 for every x.
        zero = jax.random.key_data(key)[0].astype(wide) * 0
        numbers = tuple(number + zero for number in numbers)
    if blocks and math.prod(shape) > _BLOCK and _is_counted(key):
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
    return draw(self, key, shape, *checked_draw(self, key, dtype), out_sharding)


def _suits_blocks(shape: tuple[int, ...]) -> bool:
    """Whether to draw an array in blocks by default: on a CPU, if the bits are the same."""
    import jax

    # JAX 0.12 rounds some normal numbers differently along a last axis this short.
    same = jax.__version_info__ < (0, 12) or math.prod(shape[-1:]) > 6
    return jax.default_backend() == "cpu" and same


def draw_in_shards(
    initializer: Initializer, key: jax.Array, shape: tuple[int, ...], dtype: Any, sharding: Any
) -> jax.Array:
    """Draws the same numbers as the initializer outside `jit`, each shard on its device.

    Args:
      initializer: any initializer; one without a law is compiled whole.
      key: a PRNG key.
      shape: the shape of the array.
      dtype: its dtype.
      sharding: how the array is sharded.
    """
    if not hasattr(initializer, "_law") or np.dtype(dtype).kind == "c":
        return _compiled_whole(sharding)(initializer, key, shape, dtype)
    check_key(initializer, key)
    dtype, wide = draw_dtypes(dtype, None, shown(initializer))
    _check_program(initializer, shape, dtype, wide)
    transform, numbers, bounds = _program(initializer, shape, dtype, wide)
    return _drawn(sharding)(transform, key, numbers, bounds, shape, dtype, wide, True, None)


@functools.lru_cache
def _compiled_whole(sharding: Any) -> Callable:
    """A draw by any initializer, compiled for each initializer, shape and dtype."""
    import jax

    def drawn(initializer, key, shape, dtype):
        token = _as_outside_of_jit.set(True)
        try:
            return initializer(key, shape, dtype)
        finally:
            _as_outside_of_jit.reset(token)

    return jax.jit(drawn, static_argnums=(0, 2, 3), out_shardings=sharding)


def _is_counted(key: jax.Array) -> bool:
    """Whether each random number depends only on the key and its index, as blocks need.

    Without `jit`, blocks would be drawn one by one in Python.
    """
    import jax

    config: Any = jax.config
    if config.jax_disable_jit or not config.jax_threefry_partitionable:
        return False
    return str(jax.random.key_impl(key)) in ("threefry2x32", "fry")


def _check_program(
    initializer: Any, shape: tuple[int, ...], dtype: np.dtype, wide: np.dtype
) -> None:
    """Raises an error or warns if the dtype doesn't suit the law."""
    law, bounds = _law(initializer, shape, dtype, wide)
    # Without a number between its bounds, a draw is the nearest one, as it must be.
    alone = bool(law.bounds) and not bounds
    central = (law.central[0], law.central[0]) if alone else law.central
    check_drawn(initializer, dtype, wide, law.reach, central)


def _program(
    initializer: Any, shape: tuple[int, ...], dtype: np.dtype, wide: np.dtype
) -> tuple[Callable, tuple[Any, ...], tuple[Any, ...]]:
    """The law of an initializer: a function, its parameters, and bounds."""
    law, bounds = _law(initializer, shape, dtype, wide)
    return law.transform, law.numbers, bounds


@functools.lru_cache(maxsize=1024)
def _law(
    initializer: Any, shape: tuple[int, ...], dtype: np.dtype, wide: np.dtype
) -> tuple[Law, tuple[Any, ...]]:
    """The law of an initializer, cached, and its bounds as numbers of the dtype."""
    with np.errstate(over="ignore"):  # its reach is checked at each draw
        try:
            law = initializer._law(shape, wide)
        except UnfitError as error:
            raise ValueError(f"{shown(initializer)}: {error}") from None
    bounds = _within(law.bounds, dtype) if law.bounds else ()
    return law, tuple(wide.type(bound) for bound in bounds)


def _within(bounds: Sequence[float], dtype: np.dtype) -> tuple[Any, ...]:
    """The smallest and largest numbers of a dtype between two bounds, if there are any."""
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
    """The compiled draw: one program per kind of law, shape and dtype, for all parameters."""
    import jax

    def drawn(transform, key, numbers, bounds, shape, dtype, wide, outside, out_sharding):
        def uniform(minval, maxval, apart=False):
            u = jax.random.uniform(key, shape, wide, minval, maxval, out_sharding=out_sharding)
            return jax.lax.optimization_barrier(u) if apart and outside else u

        return _rounded(transform(uniform, *numbers), bounds, dtype)

    static = (0, 4, 5, 6, 7, 8)
    if sharding is not None:
        return jax.jit(drawn, static_argnums=static, out_shardings=sharding)
    # Inline, so that XLA sees an outer program's constants, as in JAX's draws.
    return jax.jit(drawn, static_argnums=static, inline=True)


@functools.cache
def _drawn_in_blocks() -> Callable:
    """As `_drawn`, but block by block; the last block overlaps the one before it."""
    import jax
    import jax.numpy as jnp

    def drawn(transform, key, numbers, bounds, shape, dtype, wide):
        # Blocks read the key's data, which JAX's check for keys used twice doesn't count as use.
        jax.random.bits(key, (0,))
        size = math.prod(shape)
        moved = _moved_as(dtype)
        # 64-bit indices only for the largest arrays.
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
    """The dtype to copy a block as: for some dtypes XLA on a CPU would widen the whole array."""
    import jax

    bfloat16 = dtype.name == "bfloat16" and jax.__version_info__ < (0, 12)
    return np.dtype(f"uint{8 * dtype.itemsize}") if bfloat16 or dtype.itemsize == 1 else dtype


def _rounded(kernel: jax.Array, bounds: tuple[Any, ...], dtype: np.dtype) -> jax.Array:
    """The draw in the requested dtype, clipped to bounds that are rounded to it."""
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
    # Random bits in the mantissa of a number in [1, 2).
    width = bits.dtype.itemsize * 8
    one = dtype.type(1).view(bits.dtype)
    unit = jax.lax.bitcast_convert_type(bits >> bits.dtype.type(width - mantissa) | one, dtype) - 1
    return jnp.maximum(minval, unit * (maxval - minval) + minval)
