r"""Initializers of state space models: Mamba, Mamba-2, S4D and HiPPO.

The models store time steps and decays through a function that keeps them positive. So Mamba's bias
of the time step is `inverse_softplus(log_uniform(0.001, 0.1))`, and Mamba-2's `A_log` is
`logarithm(random_uniform(1.0, 16.0))`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax._drawing import draw_by_law, draw_dtypes
from initjax._fitting import check_drawn, check_held
from initjax._laws import Law, log_uniform_center
from initjax._values import (
    checked_choice,
    checked_dtype,
    checked_initializer,
    checked_positive,
    initializer,
    resharded,
    resolved_dtype,
    settle,
)

if TYPE_CHECKING:
    import jax


@initializer
class log_uniform:
    r"""Draws numbers whose logarithm is uniform, from `minval` to `maxval`.

    The density is proportional to :math:`1/x`. With :math:`L = \log(maxval/minval)`, the mean is
    :math:`(maxval - minval)/L` and the mean square :math:`(maxval^2 - minval^2)/(2L)`.

    Args:
      minval: the lower bound, above 0.
      maxval: the upper bound, at least minval.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Raises:
      TypeError, ValueError: a bound is not a finite number above 0, or minval exceeds maxval.

    Example:
      >>> import jax
      >>> draw = log_uniform(0.001, 0.1)(jax.random.key(0), (1000, 1000))
      >>> round(float(jax.numpy.median(draw)), 3), bool((draw >= 0.001).all())
      (0.01, True)

    Reference:
      Gu and Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", section
      3.6, https://arxiv.org/abs/2312.00752, for time steps; `scipy.stats.loguniform`.
    """

    minval: float = 0.001
    maxval: float = 0.1
    dtype: Any = None

    def __post_init__(self) -> None:
        minval = checked_positive("log_uniform", "minval", self.minval)
        maxval = checked_positive("log_uniform", "maxval", self.maxval)
        if minval > maxval:
            raise ValueError(f"log_uniform: minval must not exceed maxval, got {minval} > {maxval}")
        dtype = checked_dtype("log_uniform", self.dtype, inexact=True)
        settle(self, minval=minval, maxval=maxval, dtype=dtype)

    __call__ = draw_by_law

    def _law(self, shape: tuple[int, ...], dtype: np.dtype) -> Law:
        bounds = self.minval, self.maxval
        low, high = map(np.log, bounds)
        return Law(
            transform=_log_uniform,
            numbers=(dtype.type(low), dtype.type(high)),
            reach=self.maxval,
            central=log_uniform_center(low, high),
            bounds=bounds,
        )


def _log_uniform(uniform: Callable, low: Any, high: Any) -> jax.Array:
    import jax.numpy as jnp

    return jnp.exp(uniform(low, high))


def _check_inner(self: Any) -> None:
    checked_initializer(type(self).__name__, "initializer", self.initializer)


def _draw_stored(
    self: Any, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
) -> jax.Array:
    """The method `__call__` of an initializer that stores what another draws by its `_stored`.

    That is drawn with at least 32 bits, and the result is rounded once.
    """
    import jax.numpy as jnp
    from jax.core import Tracer

    dtype, wide = draw_dtypes(dtype, getattr(self.initializer, "dtype", None), repr(self))
    drawn = jnp.asarray(self.initializer(key, tuple(shape), wide))
    if not isinstance(drawn, Tracer) and not bool((drawn > 0).all()):
        raise ValueError(
            f"{self!r} needs an initializer of positive numbers, but it drew {drawn.min()}"
        )
    kernel = self._stored(drawn)
    traced = isinstance(kernel, Tracer) or not kernel.size
    reach = 0.0 if traced else float(jnp.abs(kernel).max())
    check_drawn(self, dtype, wide, reach, (0.0, 0.0))
    return resharded(kernel.astype(dtype), out_sharding)


@initializer
class inverse_softplus:
    r"""Draws :math:`\log(e^y - 1)` with `y` by another initializer: its softplus is `y`.

    Args:
      initializer: draws the positive numbers `y`.

    Raises:
      TypeError: initializer isn't an initializer (or lacks its parentheses).
      ValueError: when called outside of `jax.jit`, a number isn't positive.

    Example:
      >>> import jax
      >>> bias = inverse_softplus(log_uniform(0.001, 0.1))(jax.random.key(0), (1000,))
      >>> step = jax.nn.softplus(bias)
      >>> round(float(step.min()), 3), round(float(step.max()), 1)
      (0.001, 0.1)

    Reference:
      The bias of the time step in Mamba and Mamba-2, https://github.com/state-spaces/mamba; their
      floor of 1e-4 matters only if the range of time steps goes below it.
    """

    initializer: Any

    __post_init__ = _check_inner
    __call__ = _draw_stored

    def _stored(self, y: jax.Array) -> jax.Array:
        import jax.numpy as jnp

        return y + jnp.log(-jnp.expm1(-y))  # exact for small and for large y


@initializer
class logarithm:
    r"""Draws :math:`\log y` with `y` by another initializer: its exponential is `y`.

    Mamba-2's `A_log` is `logarithm(random_uniform(1.0, 16.0))`; the chrono initialization of a
    recurrent network's forget gate is `logarithm(random_uniform(1.0, steps - 1.0))`.

    Args:
      initializer: draws the positive numbers `y`.

    Raises:
      TypeError: initializer isn't an initializer (or lacks its parentheses).
      ValueError: when called outside of `jax.jit`, a number isn't positive.

    Example:
      >>> import jax
      >>> from initjax import random_uniform
      >>> draw = logarithm(random_uniform(1.0, 16.0))(jax.random.key(0), (1000, 1000))
      >>> round(float(jax.numpy.exp(draw).mean()), 1)
      8.5

    Reference:
      Dao and Gu 2024, "Transformers are SSMs", https://arxiv.org/abs/2405.21060, and the authors'
      code. Tallec and Ollivier 2018, "Can recurrent neural networks warp time?",
      https://arxiv.org/abs/1804.11188
    """

    initializer: Any

    __post_init__ = _check_inner
    __call__ = _draw_stored

    def _stored(self, y: jax.Array) -> jax.Array:
        import jax.numpy as jnp

        return jnp.log(y)


@initializer
class s4d:
    r"""Fills the last axis with the diagonal state matrix of S4D, :math:`A_n` for n = 0, 1, ...

    =======  ======================================================================
    method   :math:`A_n`
    =======  ======================================================================
    'real'   :math:`-(n + 1)`; Mamba's, whose `A_log` is `s4d("real")`
    'lin'    :math:`-1/2 + i \pi n`
    'inv'    :math:`-1/2 + i \frac{N}{\pi} (\frac{N}{2n + 1} - 1)`
    'legs'   :math:`-1/2 + i \omega_n`, the eigenvalues of the normal part of HiPPO-LegS
    =======  ======================================================================

    `N` is the size of the state. The complex methods keep one of each pair of conjugate numbers, so
    there the last axis has the size N/2. Every row is the same. S4D's other parameters: time steps
    `logarithm(log_uniform(0.001, 0.1))`, `C` and `D` `normal(1.0)`, `C` complex.

    Args:
      method: as above.
      part: 'log_real', the logarithm of the decay, :math:`\log(-Re A_n)`, as the models store it,
        or 'imag', :math:`Im A_n`.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Raises:
      TypeError, ValueError: method or part is not one of the above; when called, the shape has no
        axes.

    Example:
      >>> import jax
      >>> s4d("real")(jax.random.key(0), (2, 3)).round(2)
      Array([[0.  , 0.69, 1.1 ],
             [0.  , 0.69, 1.1 ]], dtype=float32)
      >>> [round(float(a), 4) for a in s4d("legs", "imag")(jax.random.key(0), (4,))]
      [19.8574, 5.3542, 1.9578, 0.4275]

    Reference:
      Gu et al. 2022, "On the Parameterization and Initialization of Diagonal State Space Models",
      section 4, https://arxiv.org/abs/2206.11893, and the authors' code, https://github.com/state-spaces/s4.
    """

    method: str = "real"
    part: str = "log_real"
    dtype: Any = None

    def __post_init__(self) -> None:
        checked_choice("s4d", "method", self.method, ("real", "lin", "inv", "legs"))
        checked_choice("s4d", "part", self.part, ("log_real", "imag"))
        settle(self, dtype=checked_dtype("s4d", self.dtype, inexact=True))

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        shape = tuple(shape)
        if not shape:
            raise ValueError(f"{self!r} needs a shape of at least one axis, got {shape}")
        n = np.arange(shape[-1])
        size = 2 * shape[-1]
        if self.part == "log_real":
            row = np.log(n + 1.0) if self.method == "real" else np.full(shape[-1], np.log(0.5))
        elif self.method == "real":
            row = np.zeros(shape[-1])
        elif self.method == "lin":
            row = np.pi * n
        elif self.method == "inv":
            row = size / np.pi * (size / (2 * n + 1) - 1)
        else:
            row = _legs_frequencies(size)
        return _repeated(self, row, shape, dtype, out_sharding)


@functools.lru_cache(8)  # for 2,048 they take seconds, and layers are usually of one size
def _legs_frequencies(size: int) -> np.ndarray:
    """The positive imaginary eigenvalues of HiPPO-LegS plus its correction of rank one."""
    state, _ = _legs(size)
    root = np.sqrt(np.arange(size) + 0.5)
    skew = state + np.outer(root, root) + 0.5 * np.eye(size)
    return -np.linalg.eigvalsh(-1j * skew)[: size // 2]


@initializer
class hippo:
    r"""Fills a state space model's matrix `A` or vector `B` so that its state remembers its input.

    The state :math:`x' = A x + B u` then holds the coefficients of the past input `u` in a basis:

    =========  ==========================================================================
    measure    basis
    =========  ==========================================================================
    'legs'     Legendre polynomials over the whole past (with :math:`x' = (A x + B u)/t`)
    'legt'     Legendre polynomials over a sliding window
    'fourier'  sines and cosines over a sliding window
    =========  ==========================================================================

    Matrices take up the last two axes, vectors the last; the axes before them are batches.

    Args:
      measure: as above.
      side: 'state' for `A`, 'input' for `B`.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Raises:
      TypeError, ValueError: measure or side is not one of the above; when called, the shape of a
        matrix isn't (..., n, n), that of a vector has no axes, or `n` is odd and the basis Fourier's.

    Example:
      >>> import jax
      >>> hippo("legs")(jax.random.key(0), (3, 3)).round(2)
      Array([[-1.  ,  0.  ,  0.  ],
             [-1.73, -2.  ,  0.  ],
             [-2.24, -3.87, -3.  ]], dtype=float32)
      >>> hippo("legs", "input")(jax.random.key(0), (3,)).round(2)
      Array([1.  , 1.73, 2.24], dtype=float32)

    Reference:
      Gu et al. 2020, "HiPPO: Recurrent Memory with Optimal Polynomial Projections",
      https://arxiv.org/abs/2008.07669, and Gu et al. 2022, "How to Train Your HiPPO",
      https://arxiv.org/abs/2206.12037; the numbers of the authors' `hippo.py` in
      https://github.com/state-spaces/s4.
    """  # noqa: E501

    measure: str = "legs"
    side: str = "state"
    dtype: Any = None

    def __post_init__(self) -> None:
        checked_choice("hippo", "measure", self.measure, _MEASURES)
        checked_choice("hippo", "side", self.side, ("state", "input"))
        settle(self, dtype=checked_dtype("hippo", self.dtype, inexact=True))

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        shape = tuple(shape)
        axes = 2 if self.side == "state" else 1
        if len(shape) < axes or len({*shape[-axes:]}) > 1:
            wanted = "(..., n, n)" if axes == 2 else "(..., n)"
            raise ValueError(f"{self!r} needs a shape {wanted}, got {shape}")
        if self.measure == "fourier" and shape[-1] % 2:
            raise ValueError(f"{self!r} needs a shape whose last axis is even, got {shape}")
        values = _MEASURES[self.measure](shape[-1])[axes == 1]
        return _repeated(self, values, shape, dtype, out_sharding)


def _repeated(
    self: Any, values: np.ndarray, shape: tuple[int, ...], dtype: Any, out_sharding: Any
) -> jax.Array:
    """The same numbers along all axes before theirs, in a floating dtype that can hold them."""
    import jax.numpy as jnp

    dtype = resolved_dtype(dtype, self.dtype)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(f"{self!r} needs a floating dtype, got {dtype.name}")
    largest, limit = np.abs(values).max(initial=0.0), float(jnp.finfo(dtype).max)
    if largest > limit:
        raise ValueError(
            f"{self!r} has numbers up to {largest:.3g} in the shape {shape}, but the largest"
            f" {dtype.name} is {limit:.3g}"
        )
    check_held(self, dtype, values)
    return resharded(jnp.broadcast_to(jnp.asarray(values, dtype), shape), out_sharding)


def _legs(size: int) -> tuple[np.ndarray, np.ndarray]:
    root = np.sqrt(2 * np.arange(size) + 1.0)
    return 0.0 - np.tril(np.outer(root, root), -1) - np.diag(np.arange(size) + 1.0), root


def _legt(size: int) -> tuple[np.ndarray, np.ndarray]:
    root = np.sqrt(2 * np.arange(size) + 1.0)
    row, column = np.indices((size, size))
    sign = np.where(row < column, (-1.0) ** (row - column), 1.0)
    return -sign * np.outer(root, root) / 2, root / 2


def _fourier(size: int) -> tuple[np.ndarray, np.ndarray]:
    inputs = np.where(np.arange(size) % 2, 0.0, 2**0.5)
    inputs[:1] = 1.0
    # Pairs of a cosine and a sine turn with frequency pi n.
    turn = np.where(np.arange(size - 1) % 2, 0.0, np.pi * (np.arange(size - 1) // 2))
    return np.diag(turn, -1) - np.diag(turn, 1) - np.outer(inputs, inputs), inputs


_MEASURES = {"legs": _legs, "legt": _legt, "fourier": _fourier}
