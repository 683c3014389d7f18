"""An activation, given as a function or by its name, as something to evaluate in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from initjax._values import is_traced, nearest_first

Activation: TypeAlias = Callable[[Any], Any] | str
"""A function that acts on each number by itself, or its name in `jax.nn`."""
Evaluate: TypeAlias = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]
"""Numbers to the activation and its derivative there; None where JAX cannot differentiate it."""

_ROWS, _COLUMNS = 512, 16  # evaluated at a time: one shape, one compilation


def named(owner: str, activation: Activation) -> Callable[[Any], Any]:
    """The activation itself, which may be given by its name in `jax.nn`."""
    if isinstance(activation, str):
        import jax

        name, found = activation, getattr(jax.nn, activation, None)
        if not callable(found) or name.startswith("_"):
            known = ["relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu", "elu", "selu"]
            raise ValueError(
                f"{owner}: {name!r} is no activation in jax.nn; it has"
                f" {', '.join(nearest_first(name, [*known, 'softplus', 'mish', 'identity']))}, ..."
            )
        activation = found
    if not callable(activation):
        raise TypeError(f"{owner}: the activation must be a function or a name, got {activation!r}")
    return activation


def evaluator(owner: str, activation: Activation) -> Evaluate:
    """Makes what evaluates an activation, compiled once.

    Args:
      owner: whose error it is if the activation is none.
      activation: a function that acts on each number by itself, or a name in `jax.nn`.

    Returns:
      A function of an array of any shape, to be called inside of `jax.jit` and outside.

    Raises:
      TypeError, ValueError: activation is no such function or name, or depends on traced numbers.
    """
    import jax
    import jax.numpy as jnp

    function = named(owner, activation)

    @jax.jit
    def traced(z):
        value, pullback = jax.vjp(function, z)
        return value, pullback(jnp.ones_like(value))[0]

    def untraced(z):
        return (np.asarray(function(z), np.float64),)

    def evaluate(z: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        padded = np.zeros((-(-z.size // (_ROWS * _COLUMNS)), _ROWS, _COLUMNS))
        padded.ravel()[: z.size] = z.ravel()
        parts = []
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            for part in map(chosen, padded):
                if any(map(is_traced, part)):
                    raise TypeError(
                        f"{owner}: {activation!r} depends on a number that is traced by jax.jit,"
                        " jax.vmap or jax.grad; it has to be known when this is asked for"
                    )
                parts.append(part)
        columns = [
            np.concatenate([np.asarray(array, np.float64).ravel() for array in column])
            for column in zip(*parts, strict=True)
        ]
        value, *derivative = (column[: z.size].reshape(z.shape) for column in columns)
        return value, derivative[0] if derivative else None

    sample = np.linspace(-3.1, 2.9, _ROWS * _COLUMNS).reshape(_ROWS, -1)
    chosen = traced
    try:
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            shape = jax.eval_shape(traced, sample)[0].shape
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
        chosen, shape = untraced, np.shape(function(sample))
    by_itself = shape == sample.shape
    if by_itself:
        # Every other number, at another place and among others, has to give the same.
        mixed = sample.copy()
        mixed[:, 1::2] = 2 * sample[:, 1::2] + 0.7
        moved = np.roll(mixed.ravel(), 5).reshape(sample.shape)
        there, back = (evaluate(z)[0].ravel() for z in (sample, moved))
        by_itself = np.allclose(there[::2], np.roll(back, -5)[::2], atol=1e-6, equal_nan=True)
    if not by_itself:
        raise ValueError(f"{owner}: {activation!r} must act on each number by itself")
    return evaluate


def differentiation(nodes: np.ndarray) -> np.ndarray:
    """The matrix from values at nodes to the derivatives there of the polynomial through them."""
    difference = nodes[:, None] - nodes[None, :] + np.eye(len(nodes))
    weight = 1 / np.prod(difference, axis=1)
    matrix = weight[None, :] / weight[:, None] / difference
    np.fill_diagonal(matrix, 0)
    np.fill_diagonal(matrix, -matrix.sum(axis=1))
    return matrix
