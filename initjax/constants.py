"""Deterministic initializers: constants, identities, and fixed transforms."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax._fitting import check_held
from initjax._values import (
    checked_choice,
    checked_dtype,
    checked_integer,
    checked_number,
    initializer,
    is_traced,
    resharded,
    resolved_dtype,
    settle,
)

if TYPE_CHECKING:
    import jax

_WRITTEN_OUT = 100  # the most numbers that a repr lists; a larger array is a shape and a digest


@initializer
class constant:
    """Fills the array with a value.

    Two constants are equal if their reprs are equal, so `nan` equals itself and -0.0 isn't 0.0.
    `parse(repr(x)) == x` holds for up to a hundred numbers. The repr of a larger array is its shape
    and a digest, which can't be parsed.

    Args:
      value: a number, or numbers that broadcast to the shape: a sequence, nested or not, or an
        array. Up to a hundred are kept as a number or nested tuples, more as an array. May be
        traced, as inside `jax.jit`; then the initializer equals only itself.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Raises:
      TypeError, ValueError: the value is not numeric; when called, the dtype is floating and can't
        hold it, as float16 can't hold 1e6 or 1e-10 (but inf), or float32 a complex number.

    Example:
      >>> import jax
      >>> constant(-7.0)(jax.random.key(0), (2, 3)).tolist()
      [[-7.0, -7.0, -7.0], [-7.0, -7.0, -7.0]]

    Reference:
      `jax.nn.initializers.constant`, bit for bit where the dtype can hold the value, and in integer
      dtypes, which drop fractions.
    """

    value: Any = dataclasses.field(compare=False)
    dtype: Any = None
    _written: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        value, written = _kept(self.value)
        settle(self, value=value, _written=written, dtype=checked_dtype("constant", self.dtype))

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        import jax.numpy as jnp

        value = np.asarray(self.value) if isinstance(self.value, tuple) else self.value
        dtype = resolved_dtype(dtype, self.dtype, repr(self))
        if not is_traced(value) and jnp.issubdtype(dtype, jnp.inexact):
            check_held(self, dtype, value)
        return jnp.full(shape, value, dtype, out_sharding=out_sharding)

    def __repr__(self) -> str:
        if self.dtype is not None:
            return f"constant({self._written}, dtype={self.dtype!r})"
        return {"0.0": "zeros", "1.0": "ones"}.get(self._written, f"constant({self._written})")


def _kept(value: Any) -> tuple[Any, str]:
    """The value of a constant as it is stored, and its repr."""
    if is_traced(value):
        return value, f"<{value} at {id(value):#x}>"
    try:
        array = np.array(value)  # a copy, so later changes to the original don't matter
        if array.dtype.kind == "O" and all(isinstance(number, int) for number in array.flat):
            array = array.astype(float)  # integers beyond 64 bits
    except (ValueError, TypeError, OverflowError):  # rows of unequal lengths
        array = None
    if array is None or array.dtype.kind not in "biufcV" or array.dtype.type is np.void:
        raise TypeError(f"constant: value must be a number or numbers, got {value!r}")
    if array.size > _WRITTEN_OUT:
        array.flags.writeable = False
        digest = hashlib.blake2b(array.tobytes(), digest_size=8)
        return array, f"<{array.dtype.name} array of shape {array.shape}, {digest.hexdigest()}>"
    huge = array.dtype.kind in "iu" and (np.abs(array.astype(float)) >= 2**31).any()
    if array.dtype.kind != "c" and not huge:
        array = array.astype(float)  # so that constant(0) is the same value as constant(0.0)
    value = _tuples(array.tolist())
    return value, _literal(value)


def _literal(value: Any) -> str:
    """The value as a specification spells it; like repr, but exact for every complex number."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' * (len(value) == 1)})"
    if isinstance(value, complex):
        finite = math.isfinite(value.real) and math.isfinite(value.imag)
        zeros = [math.copysign(1, part) for part in (value.real, value.imag) if part == 0]
        if not finite or -1 in zeros or (value.real == 0 and value.imag < 0):
            return f"complex({value.real!r}, {value.imag!r})"
    return repr(value)


@initializer
class identity:
    """Fills each matrix of the last two axes with `gain` on its diagonal and zeros elsewhere.

    Matrices need not be square; axes before the last two are batches.

    Args:
      gain: the number on the diagonal.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Raises:
      TypeError, ValueError: gain is not a finite real number; when called, the shape has fewer than
        two axes, or the dtype can't hold the gain.

    Example:
      >>> import jax
      >>> identity()(jax.random.key(0), (2, 3)).tolist()
      [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]

    Reference:
      `keras.initializers.Identity`, and Haiku's for stacks of matrices. Le, Jaitly and Hinton 2015,
      "A Simple Way to Initialize Recurrent Networks of Rectified Linear Units",
      https://arxiv.org/abs/1504.00941
    """

    gain: float = 1.0
    dtype: Any = None

    def __post_init__(self) -> None:
        gain = checked_number("identity", "gain", self.gain)
        settle(self, gain=gain, dtype=checked_dtype("identity", self.dtype))

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        import jax.numpy as jnp

        shape = tuple(shape)
        if len(shape) < 2:
            raise ValueError(f"{self!r} needs a shape of at least two axes, got {shape}")
        dtype = resolved_dtype(dtype, self.dtype, repr(self))
        check_held(self, dtype, [0.0, self.gain])
        eye = jnp.eye(*shape[-2:], dtype=dtype) * jnp.asarray(self.gain, dtype)
        kernel = jnp.broadcast_to(eye, shape)
        return resharded(kernel, out_sharding)


@initializer
class dirac:
    """Fills a convolution kernel `(*spatial, in / groups, out)` so that it passes its input on.

    At the center tap input feature `i` goes to output feature `i` of each group; all
    other entries are zero. The center of an even number of taps is the right one, `k // 2`.

    Args:
      groups: the number of groups of the convolution.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Raises:
      TypeError, ValueError: groups is not an integer above 0; when called, the shape does not have
        3 to 5 axes, or its last is not a multiple of groups.

    Example:
      >>> import jax
      >>> dirac()(jax.random.key(0), (3, 2, 2)).tolist()
      [[[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]

    Reference:
      `torch.nn.init.dirac_`, for a kernel in Flax's layout.
    """

    groups: int = 1
    dtype: Any = None

    def __post_init__(self) -> None:
        groups = checked_integer("dirac", "groups", self.groups, 1)
        settle(self, groups=groups, dtype=checked_dtype("dirac", self.dtype))

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        import jax.numpy as jnp

        shape = tuple(shape)
        if len(shape) not in (3, 4, 5) or shape[-1] % self.groups:
            raise ValueError(
                f"{self!r} needs a shape of 3 to 5 axes, the last a multiple of {self.groups},"
                f" got {shape}"
            )
        dtype = resolved_dtype(dtype, self.dtype, repr(self))
        check_held(self, dtype, [0.0, 1.0])
        kernel = jnp.zeros(shape, dtype)
        if 0 not in shape:
            taps = jnp.eye(shape[-2], shape[-1] // self.groups, dtype=dtype)
            center = tuple(size // 2 for size in shape[:-2])
            kernel = kernel.at[center].set(jnp.tile(taps, (1, self.groups)))
        return resharded(kernel, out_sharding)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


# As in JAX, these two are initializers, not factories: kernel_init=zeros.
zeros: constant = constant(0.0)
ones: constant = constant(1.0)


@initializer
class hadamard_identity:
    r"""Fills with a partial identity, widened by a Hadamard matrix (ZerO); nothing is random.

    In a kernel `(..., in, out)` the center tap is the identity if `out <= in`, and otherwise the
    first `in` rows and `out` columns of :math:`H_p / \sqrt{p}`, `p` the smallest power of two >=
    `out`: entries :math:`\pm 1/\sqrt{p}`, so that a wider layer breaks the symmetry between its
    units without any randomness. The other taps are zeros. The last layer of a residual branch and
    the head are `zeros` in that method.

    Args:
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Raises:
      TypeError: dtype isn't a numeric dtype.
      ValueError: when called, the shape has fewer than two axes, or the dtype can't hold the
        entries.

    Example:
      >>> import jax
      >>> kernel = hadamard_identity()(jax.random.key(0), (2, 4))
      >>> kernel.tolist()
      [[0.5, 0.5, 0.5, 0.5], [0.5, -0.5, 0.5, -0.5]]

    Reference:
      Zhao et al. 2022, "ZerO Initialization: Initializing Neural Networks with only Zeros and
      Ones", algorithm 1, https://arxiv.org/abs/2110.12661; the factor is that of the authors' code.
      Their convolutions, whose sizes are odd, have the tap in the middle; here it is `size // 2`.
    """

    dtype: Any = None

    def __post_init__(self) -> None:
        settle(self, dtype=checked_dtype("hadamard_identity", self.dtype))

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        import jax
        import jax.numpy as jnp

        shape = tuple(shape)
        if len(shape) < 2:
            raise ValueError(f"{self!r} needs a shape of at least two axes, got {shape}")
        dtype = resolved_dtype(dtype, self.dtype, repr(self))
        inputs, outputs = shape[-2:]
        check_held(self, dtype, [0.0, 1.0])
        if outputs <= inputs:
            taps = jnp.eye(inputs, outputs, dtype=dtype)
        else:
            # Sylvester's matrix: the sign follows the parity of the ones that two indices share.
            shared = jnp.arange(inputs)[:, None] & jnp.arange(outputs)[None, :]
            odd = jax.lax.population_count(shared) % 2
            entry = (2 ** (outputs - 1).bit_length()) ** -0.5
            check_held(self, dtype, [entry, -entry])
            taps = jnp.where(odd == 1, -entry, entry).astype(dtype)
        kernel = jnp.zeros(shape, dtype)
        if 0 not in shape:
            kernel = kernel.at[tuple(size // 2 for size in shape[:-2])].set(taps)
        return resharded(kernel, out_sharding)


@initializer
class stft:
    r"""Fills the kernel of a convolution that computes a short-time Fourier transform.

    In a kernel `(time, 1, frequencies)` the real side is :math:`w_t \cos(2 \pi t k / F)` and the
    imaginary one :math:`-w_t \sin(2 \pi t k / F)`, with `F = 2 (frequencies - 1)`: the lower half
    of a transform over `F` points, as in `numpy.fft.rfft`.

    Args:
      side: 'real' or 'imag'.
      window: a window of `scipy.signal.get_window`: a name, or a tuple of a name and numbers, such
        as ('kaiser', 8.0). None means no window.
      scaling: what the window is divided by: 'density', the root of its sum of squares;
        'spectrum', the sum of its absolute values; None, nothing.
      periodic: whether the window is periodic instead of symmetric.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Raises:
      TypeError, ValueError: side, window or scaling isn't one of the above, periodic is not a bool;
        when called, the shape is not (time, 1, frequencies).

    Example:
      >>> import jax, numpy as np
      >>> frame = np.random.default_rng(0).normal(size=16)
      >>> kernel = stft("real", window=None)(jax.random.key(0), (16, 1, 9))
      >>> bool(np.allclose(frame @ kernel[:, 0], np.fft.rfft(frame).real, atol=1e-5))
      True

    Reference:
      `keras.initializers.STFT`.
    """

    side: str = "real"
    window: Any = "hann"
    scaling: str | None = "density"
    periodic: bool = False
    dtype: Any = None

    def __post_init__(self) -> None:
        checked_choice("stft", "side", self.side, ("real", "imag"))
        if self.scaling is not None:
            checked_choice("stft", "scaling", self.scaling, ("density", "spectrum"))
        if not isinstance(self.periodic, bool):
            raise TypeError(f"stft: periodic must be True or False, got {self.periodic!r}")
        # JSON turns a tuple into a list.
        window = tuple(self.window) if isinstance(self.window, list) else self.window
        if window is not None:
            import scipy.signal

            try:
                scipy.signal.get_window(window, 1)
            except (TypeError, ValueError) as error:
                raise ValueError(f"stft: window {window!r}: {error}") from None
        settle(self, window=window, dtype=checked_dtype("stft", self.dtype, inexact=True))

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        import jax.numpy as jnp

        shape = tuple(shape)
        if len(shape) != 3 or shape[1] != 1:
            raise ValueError(f"{self!r} needs a shape (time, 1, frequencies), got {shape}")
        time, _, frequencies = shape
        window = np.ones(time)
        if self.window is not None and time:
            import scipy.signal

            window = np.asarray(scipy.signal.get_window(self.window, time, self.periodic))
            if not window.any():
                raise ValueError(f"{self!r}: the window is zero at all of its {time} points")
            total = {"density": np.sqrt(np.sum(window**2)), "spectrum": np.sum(np.abs(window))}
            window = window / total.get(str(self.scaling), 1.0)
        # Reduce the angles modulo whole turns first, so that no digits are lost.
        period = max(2 * (frequencies - 1), 1)
        turns = np.outer(np.arange(time), np.arange(frequencies)) % period / period
        wave = np.cos(2 * np.pi * turns) if self.side == "real" else -np.sin(2 * np.pi * turns)
        kernel = (window[:, None] * wave)[:, None]
        dtype = resolved_dtype(dtype, self.dtype, repr(self))
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(f"{self!r} needs a floating dtype, got {dtype.name}")
        if kernel.size:
            check_held(self, dtype, [kernel.min(), 0.0, kernel.max()])
        return resharded(jnp.asarray(kernel, dtype), out_sharding)
