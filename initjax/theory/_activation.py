"""An activation, given as a function or by its name, as something to evaluate in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from initjax._values import is_traced, nearest_first
from initjax.theory._elementwise import translated

Activation: TypeAlias = Callable[[Any], Any] | str
"""A function that acts on each number by itself, or its name in `jax.nn`."""
Evaluate: TypeAlias = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]
"""Numbers to the activation and its derivative there; None where JAX can't differentiate it."""

_ROWS, _COLUMNS = 512, 16  # the shape that is traced, and compiled if it comes to that


def named(owner: str, activation: Activation) -> Callable[[Any], Any]:
    """The activation itself, which may be given by its name in `jax.nn`."""
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
    return activation


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
    import jax.numpy as jnp

    def both(z):
        value, pullback = jax.vjp(activation, z)
        return value, pullback(jnp.ones_like(value))[0]

    def refuse_traced(values):
        if any(map(is_traced, values)):
            raise TypeError(
                f"activation {activation!r} depends on a number that is traced by jax.jit,"
                " jax.vmap or jax.grad; use a number that is known while tracing"
            )

    sample = np.linspace(-3.1, 2.9, _ROWS * _COLUMNS).reshape(_ROWS, -1)
    try:
        with jax.enable_x64(True):
            closed = jax.make_jaxpr(both)(jax.ShapeDtypeStruct(sample.shape, sample.dtype))
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
        return _checked_elementwise(
            activation, sample, lambda z: (np.asarray(activation(z), np.float64),)
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
    """What evaluates by blocks of the sample's shape, once it has proved to be elementwise."""
    import jax

    def evaluate(z: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        padded = np.zeros((-(-z.size // sample.size), *sample.shape))
        padded.ravel()[: z.size] = z.ravel()
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            parts = list(map(block, padded))
        columns = [
            np.concatenate([np.asarray(array, np.float64).ravel() for array in column])
            for column in zip(*parts, strict=True)
        ]
        value, *derivative = (column[: z.size].reshape(z.shape) for column in columns)
        return value, derivative[0] if derivative else None

    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        elementwise = np.shape(block(sample)[0]) == sample.shape
    if elementwise:
        # Every other number, at another place and among others, has to give the same.
        mixed = sample.copy()
        mixed[:, 1::2] = 2 * sample[:, 1::2] + 0.7
        moved = np.roll(mixed.ravel(), 5).reshape(sample.shape)
        there, back = (evaluate(z)[0].ravel() for z in (sample, moved))
        elementwise = np.allclose(there[::2], np.roll(back, -5)[::2], atol=1e-6, equal_nan=True)
    if not elementwise:
        raise ValueError(f"activation {activation!r} must act on each number by itself")
    return evaluate


def differentiation(nodes: np.ndarray) -> np.ndarray:
    """The matrix from values at nodes to the derivatives there of the polynomial through them."""
    difference = nodes[:, None] - nodes[None, :] + np.eye(len(nodes))
    weight = 1 / np.prod(difference, axis=1)
    matrix = weight[None, :] / weight[:, None] / difference
    np.fill_diagonal(matrix, 0)
    np.fill_diagonal(matrix, -matrix.sum(axis=1))
    return matrix
