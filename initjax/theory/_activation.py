"""Evaluation of an activation, given as a function or by name, in float64."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

from initjax._values import is_traced, nearest_first
from initjax.theory._elementwise import translated

Activation: TypeAlias = Callable[[Any], Any] | str
"""A function that acts on each number by itself, or its name in `jax.nn`."""
Evaluate: TypeAlias = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]
"""Numbers to the activation and its derivative there; None where JAX can't differentiate it."""

_ROWS, _COLUMNS = 512, 16  # the shape to trace, and to compile if needed
# Where a function that JAX can't trace is compared with what it was: up to a million.
_COMPARED = np.concatenate([np.linspace(-50, 50, 8001), np.geomspace(50, 1e6, 200)])


@dataclasses.dataclass(frozen=True, repr=False)
class Snapshot:
    """A function as it is now, for caches: equal to another if both compute the same.

    A function's identity isn't enough. What it computes may depend on an attribute, such as a
    trainable slope, or on a global variable.
    """

    digest: str
    function: Callable[[Any], Any] = dataclasses.field(compare=False)

    def __call__(self, z: Any) -> Any:
        return self.function(z)

    def __repr__(self) -> str:
        return repr(self.function)


def named(owner: str, activation: Activation) -> Callable[[Any], Any]:
    """The activation as a function that caches may keep, given a function or a name in `jax.nn`."""
    if isinstance(activation, str):
        import jax

        name, found = activation, getattr(jax.nn, activation, None)
        if not callable(found) or name.startswith("_"):
            known = ["relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu", "elu", "selu"]
            raise ValueError(
                f"{owner}: {name!r} is not an activation in jax.nn; valid names include"
                f" {', '.join(nearest_first(name, [*known, 'softplus', 'mish', 'identity']))}"
            )
        activation = found
    if not callable(activation):
        raise TypeError(f"{owner}: activation must be a function or a name, got {activation!r}")
    if str(getattr(activation, "__module__", "")).startswith("jax."):  # never changes
        return activation
    digest = _digest(activation)
    return activation if digest is None else Snapshot(digest, activation)


def _digest(activation: Callable[[Any], Any]) -> str | None:
    """Of the program that the function is, or else of its values; None if it has neither."""
    try:
        closed = _traced(_with_derivative(activation))
        if closed is None:
            z = np.concatenate([_COMPARED, -_COMPARED])
            # They may not show a narrow spike, so its identity counts too.
            parts = [str(id(activation)).encode(), np.asarray(activation(z), np.float64).tobytes()]
        elif any(map(is_traced, closed.consts)):
            return None
        else:
            parts = [str(closed.jaxpr).encode()]
            for const in map(np.asarray, closed.consts):
                parts += [f"{const.dtype} {const.shape}".encode(), const.tobytes()]
    except Exception:  # whatever is wrong with it, its evaluator says so
        return None
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _with_derivative(activation: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, Any]]:
    import jax
    import jax.numpy as jnp

    def both(z):
        value, pullback = jax.vjp(functools.partial(_applied, activation), z)
        return value, pullback(jnp.ones_like(value))[0]

    return both


def _applied(activation: Callable[[Any], Any], z: Any) -> Any:
    """The activation of an array.

    Raises:
      TypeError: it doesn't take arrays, or doesn't return one of real numbers.
    """
    import jax

    try:
        value = activation(z)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise TypeError(
            f"activation {_short(activation)} can't be applied to an array ({reason}); give a"
            " function such as jnp.tanh, or wrap one of single numbers in numpy.vectorize"
        ) from error
    kind = getattr(value, "dtype", np.result_type(type(value)) if np.isscalar(value) else None)
    if kind is None or np.issubdtype(kind, np.complexfloating):
        given = type(value).__name__ if kind is None else kind
        raise TypeError(
            f"activation {_short(activation)} must return an array of real numbers, got {given}"
        )
    return value


def _short(activation: Callable[[Any], Any]) -> str:
    """What errors call it: modules have reprs of many lines."""
    text = repr(activation)
    return text if len(text) <= 80 and "\n" not in text else f"a {type(activation).__name__}"


@contextlib.contextmanager
def _in_float64() -> Iterator[None]:
    """Where a function written for float32 may be called with float64, even under strict
    promotion."""
    import jax

    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def _traced(function: Callable) -> Any:
    """The function's program in float64; None if JAX can't trace it."""
    import jax

    try:
        with _in_float64():
            return jax.make_jaxpr(function)(jax.ShapeDtypeStruct((_ROWS, _COLUMNS), np.float64))
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
        return None


def evaluator(activation: Callable[[Any], Any]) -> Evaluate:
    """Makes a function that evaluates an activation and its derivative in float64.

    Elementary functions are run by NumPy. Others, such as those with erf, are compiled once by JAX.
    Functions that JAX can't trace are called with NumPy arrays.

    Args:
      activation: an elementwise function.

    Returns:
      A function of an array of any shape, to be called inside `jax.jit` and outside.

    Raises:
      TypeError, ValueError: activation isn't elementwise, or depends on traced numbers.
    """
    import jax

    def refuse_traced(values):
        if any(map(is_traced, values)):
            raise TypeError(
                f"activation {_short(activation)} depends on a number that is traced by jax.jit,"
                " jax.vmap or jax.grad; use a number that is known while tracing"
            )

    sample = np.linspace(-3.1, 2.9, _ROWS * _COLUMNS).reshape(_ROWS, -1)
    both = _with_derivative(activation)
    closed = _traced(both)
    if closed is None:
        return _checked_elementwise(
            activation, sample, lambda z: (np.asarray(_applied(activation, z), np.float64),)
        )
    refuse_traced(closed.consts)
    run = translated(closed)
    if run is not None and closed.out_avals[0].shape == sample.shape:

        def evaluate(z: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
            value, derivative = run(z.ravel())
            return value.reshape(z.shape), derivative.reshape(z.shape)

        return evaluate

    return _checked_elementwise(activation, sample, jax.jit(both))


def _checked_elementwise(activation: Callable, sample: np.ndarray, block: Callable) -> Evaluate:
    """Evaluates in blocks of the sample's shape, after checking that results are elementwise."""
    import jax

    def evaluate(z: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        padded = np.zeros((-(-z.size // sample.size), *sample.shape))
        padded.ravel()[: z.size] = z.ravel()
        with jax.ensure_compile_time_eval(), _in_float64():
            parts = list(map(block, padded))
        columns = [
            np.concatenate([np.asarray(array, np.float64).ravel() for array in column])
            for column in zip(*parts, strict=True)
        ]
        value, *derivative = (column[: z.size].reshape(z.shape) for column in columns)
        return value, derivative[0] if derivative else None

    with jax.ensure_compile_time_eval(), _in_float64():
        elementwise = np.shape(block(sample)[0]) == sample.shape
    if elementwise:
        # Every other number must give the same result at another place, among other numbers.
        mixed = sample.copy()
        mixed[:, 1::2] = 2 * sample[:, 1::2] + 0.7
        moved = np.roll(mixed.ravel(), 5).reshape(sample.shape)
        there, back = (evaluate(z)[0].ravel() for z in (sample, moved))
        elementwise = np.allclose(there[::2], np.roll(back, -5)[::2], atol=1e-6, equal_nan=True)
    if not elementwise:
        raise ValueError(f"activation {_short(activation)} must act on each number by itself")
    return evaluate


def differentiation(nodes: np.ndarray) -> np.ndarray:
    """The matrix from values at nodes to the derivatives there of the polynomial through them."""
    difference = nodes[:, None] - nodes[None, :] + np.eye(len(nodes))
    weight = 1 / np.prod(difference, axis=1)
    matrix = weight[None, :] / weight[:, None] / difference
    np.fill_diagonal(matrix, 0)
    np.fill_diagonal(matrix, -matrix.sum(axis=1))
    return matrix
