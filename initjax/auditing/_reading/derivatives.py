"""Elementwise primitives and their derivatives in NumPy.

Facts about an activation need its values and slopes at some thousand points. JAX would compile a
program for them, which takes longer than everything else that is done with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

Pair = tuple[np.ndarray, np.ndarray]
"""A value and its derivative."""

# Of one operand: the function, and its derivative by the operand x and the value y.
_UNARY: dict[str, tuple[Callable, Callable]] = {
    "abs": (np.abs, lambda x, y: np.sign(x)),
    "atan": (np.arctan, lambda x, y: 1 / (1 + x**2)),
    "cbrt": (np.cbrt, lambda x, y: y / (3 * x)),
    "ceil": (np.ceil, lambda x, y: 0 * x),
    "copy": (np.positive, lambda x, y: np.ones_like(x)),
    "cos": (np.cos, lambda x, y: -np.sin(x)),
    "erf": (special.erf, lambda x, y: 2 / math.sqrt(math.pi) * np.exp(-(x**2))),
    "erfc": (special.erfc, lambda x, y: -2 / math.sqrt(math.pi) * np.exp(-(x**2))),
    "exp": (np.exp, lambda x, y: y),
    "exp2": (np.exp2, lambda x, y: math.log(2) * y),
    "expm1": (np.expm1, lambda x, y: y + 1),
    "floor": (np.floor, lambda x, y: 0 * x),
    "log": (np.log, lambda x, y: 1 / x),
    "log1p": (np.log1p, lambda x, y: 1 / (1 + x)),
    "logistic": (special.expit, lambda x, y: y * special.expit(-x)),
    "neg": (np.negative, lambda x, y: -np.ones_like(x)),
    "rsqrt": (lambda x: 1 / np.sqrt(x), lambda x, y: -y / (2 * x)),
    "sign": (np.sign, lambda x, y: 0 * x),
    "sin": (np.sin, lambda x, y: np.cos(x)),
    "sqrt": (np.sqrt, lambda x, y: 0.5 / y),
    "square": (np.square, lambda x, y: 2 * x),
    "tanh": (np.tanh, lambda x, y: 1 - y**2),
}
# Of two: the function, and how the operands' derivatives a and b give that of the value.
_BINARY: dict[str, tuple[Callable, Callable]] = {
    "add": (np.add, lambda x, y, a, b: a + b),
    "add_any": (np.add, lambda x, y, a, b: a + b),
    "sub": (np.subtract, lambda x, y, a, b: a - b),
    "mul": (np.multiply, lambda x, y, a, b: a * y + x * b),
    "div": (np.divide, lambda x, y, a, b: a / y - x / y * (b / y)),
    "max": (np.maximum, lambda x, y, a, b: _larger(x, y, a, b)),
    "min": (np.minimum, lambda x, y, a, b: _larger(y, x, a, b)),
}
# Of booleans, or to booleans.
_LOGICAL: dict[str, Callable] = {
    "gt": np.greater, "ge": np.greater_equal, "lt": np.less, "le": np.less_equal,
    "eq": np.equal, "ne": np.not_equal, "is_finite": np.isfinite,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert,
}  # fmt: skip


def apply_in_numpy(name: str, params: dict[str, Any], operands: list[Pair]) -> Pair:
    """The value and the derivative that a primitive makes of its operands'.

    Raises:
      LookupError: there is no rule for it.
    """
    values, slopes = zip(*operands, strict=True)
    x, a = operands[0]
    if name in _UNARY:
        function, derivative = _UNARY[name]
        value = function(x)
        return value, _times(a, derivative(x, value))
    if name in _BINARY:
        function, derivative = _BINARY[name]
        return function(*values), derivative(*values, *slopes)
    if name in _LOGICAL:
        return _LOGICAL[name](*values), np.zeros(x.shape)
    if name == "integer_pow":
        power = params["y"]
        return x**power, _times(a, power * x ** (power - 1.0))
    if name == "pow" and not slopes[1].any():
        return x ** values[1], _times(a, values[1] * x ** (values[1] - 1))
    if name == "select_n" and x.dtype == bool and len(values) == 3:
        return np.where(x, values[2], values[1]), np.where(x, slopes[2], slopes[1])
    if name == "clamp":
        low, middle, high = values
        inside = (low < middle) & (middle < high)
        return np.clip(middle, low, high), np.where(inside, slopes[1], 0.0)
    if name == "convert_element_type":
        to = np.dtype(params["new_dtype"])
        if to.kind in "biu":
            return x.astype(to), np.zeros(x.shape)
        return x.astype(np.float64), a
    raise LookupError(name)


def _larger(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The derivative of the larger one; the mean of both where they are equal, as JAX has it."""
    return np.where(x > y, a, np.where(x < y, b, (a + b) / 2))


def _times(a: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """A product in which a constant's derivative stays zero."""
    return np.where(a == 0, 0.0, a * slope)
