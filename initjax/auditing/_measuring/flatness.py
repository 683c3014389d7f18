"""Where an activation is flat: its slope, compared with the steepest it has."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from initjax.auditing._activations import FLAT, steepest
from initjax.auditing._reading.expressions import Expression

_BLOCK = 2**15  # numbers at a time, so that one compiled program serves arrays of all shapes


def flatness(activation: Expression, z: Any) -> Any:
    """Whether an activation is flat at pre-activations of any shape."""
    return abs(_slopes(activation, z)) < FLAT * steepest(activation)


def flat_in_blocks(activation: Expression, z: np.ndarray) -> np.ndarray:
    """The same for an array of NumPy's."""
    return np.abs(_slopes_in_blocks(activation, z)) < FLAT * steepest(activation)


def _slopes_in_blocks(activation: Expression, z: np.ndarray) -> np.ndarray:
    import jax

    numbers = np.ascontiguousarray(z, np.float32).reshape(-1)
    padded = np.zeros(-(-numbers.size // _BLOCK) * _BLOCK, np.float32)
    padded[: numbers.size] = numbers
    # In a thread of its own, which doesn't inherit that NaN is no mistake: at NaN the slope is NaN.
    with jax.ensure_compile_time_eval(), jax.debug_nans(False), jax.debug_infs(False):
        found = [_compiled(activation)(part) for part in padded.reshape(-1, _BLOCK)]
        return np.concatenate([np.asarray(part) for part in found])[: z.size].reshape(z.shape)


@functools.lru_cache(maxsize=256)
def _compiled(activation: Expression) -> Callable[[np.ndarray], Any]:
    import jax

    return jax.jit(functools.partial(_slopes, activation))


def _slopes(activation: Expression, z: Any) -> Any:
    import jax
    import jax.numpy as jnp

    return jax.jvp(activation, (z,), (jnp.ones_like(z),))[1]
