"""Elementwise JAX computations evaluated by NumPy.

Theory evaluates an activation at tens of thousands of float64 points. Compiling the activation for
that takes longer than everything else, so its traced computation is run by NumPy, one primitive at
a time. Only primitives that act on each number by itself are listed, so whatever is translated is
elementwise.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

_CHUNK = 8192  # numbers at a time, so that intermediate results stay in the processor's cache

_BY_NAME: dict[str, Callable] = {
    **{name: getattr(np, name) for name in ("abs", "sign", "floor", "ceil", "sqrt", "cbrt")},
    **{name: getattr(np, name) for name in ("exp", "exp2", "expm1", "log", "log1p", "tan", "tanh")},
    **{name: getattr(np, name) for name in ("sin", "cos", "sinh", "cosh", "square")},
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "atan2": np.arctan2,
    "neg": np.negative,
    "one_minus_square": lambda z: (1 - z) * (1 + z),
    "is_finite": np.isfinite,
    "erf": np.vectorize(math.erf, otypes=[float]),
    "erfc": np.vectorize(math.erfc, otypes=[float]),
    "rsqrt": lambda z: 1 / np.sqrt(z),
    "logistic": lambda z: 1 / (1 + np.exp(-z)),
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "rem": np.fmod,
    "pow": np.power,
    "max": np.maximum,
    "min": np.minimum,
    "clamp": lambda low, z, high: np.minimum(np.maximum(z, low), high),
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
    "not": np.logical_not,
    "select_n": lambda which, if_false, if_true: np.where(which, if_true, if_false),
    # An operand is a scalar or has the shape of the input: NumPy broadcasts where it is used.
    "broadcast_in_dim": lambda z: z,
    "stop_gradient": lambda z: z,  # derivatives have been taken
    "polynomial": lambda z, *terms: functools.reduce(
        lambda total, term: total * z + term, reversed(terms)
    ),  # from the constant term on
    "copy": lambda z: z,
    "copy_p": lambda z: z,
}
_BY_RULE: dict[str, Callable] = {
    # JAX's own function for the derivative of erf, which splits numbers by their bits.
    "exp_neg_sq": lambda z: np.exp(-z * z),
}
_NESTED = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call")
_HIGHEST_POWER = 8  # taken by multiplication, which is faster than `np.power`


def translated(closed: Any) -> Callable[[np.ndarray], list[np.ndarray]] | None:
    """Translates a traced elementwise function of one float64 array to NumPy.

    Args:
      closed: a closed jaxpr of one input, whose shape all arrays in it must have.

    Returns:
      A function of a flat float64 array of any size that returns a list of such arrays; None where
      the jaxpr needs anything that isn't elementwise, in float64, and listed here.
    """
    shape = closed.in_avals[0].shape
    slots: list[Any] = [None]  # constants; the first is the input
    steps: list[tuple[Callable, list[int], int]] = []
    try:
        results = _inlined(closed.jaxpr, closed.consts, [0], shape, slots, steps)
    except LookupError:
        return None

    def run(z: np.ndarray) -> list[np.ndarray]:
        values = [np.empty_like(z) for _ in results]
        for start in range(0, z.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            known = [z[part], *slots[1:]]
            with np.errstate(all="ignore"):
                for apply, inputs, output in steps:
                    known[output] = apply(*[known[index] for index in inputs])
            for value, result in zip(values, results, strict=True):
                value[part] = known[result]
        return values

    return run


def _inlined(
    jaxpr: Any,
    consts: Any,
    inputs: list[int],
    shape: tuple[int, ...],
    slots: list[Any],
    steps: list[tuple[Callable, list[int], int]],
) -> list[int]:
    """Adds the steps of a jaxpr, given the slots of its inputs; returns those of its outputs.

    Raises:
      LookupError: there is a step that NumPy can't do.
    """
    from jax.extend.core import Literal

    places = dict(zip(jaxpr.invars, inputs, strict=True))

    def slot(value: Any = None) -> int:
        slots.append(value)
        return len(slots) - 1

    def place(var: Any) -> int:
        if isinstance(var, Literal):
            return slot(_scalar(var.val))
        return places[var]

    for var, const in zip(jaxpr.constvars, consts, strict=True):
        places[var] = slot(_scalar(const))
    for eqn in jaxpr.eqns:
        operands = [place(var) for var in eqn.invars]
        nested = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        if eqn.primitive.name in _NESTED and hasattr(nested, "consts"):
            rule = _BY_RULE.get(getattr(nested.jaxpr.debug_info, "func_name", ""))
            if rule is not None:
                (output,) = eqn.outvars
                places[output] = slot()
                steps.append((rule, operands, places[output]))
                continue
            outputs = _inlined(nested.jaxpr, nested.consts, operands, shape, slots, steps)
            places.update(zip(eqn.outvars, outputs, strict=True))
            continue
        if len(eqn.outvars) != 1:
            raise LookupError(f"{eqn.primitive.name} of several results")
        (output,) = eqn.outvars
        is_scalar = output.aval.shape == ()
        if not (is_scalar or output.aval.shape == shape):
            raise LookupError(f"{eqn.primitive.name} of another shape")
        if output.aval.dtype not in (np.float64, np.bool_) and not (
            is_scalar and output.aval.dtype == np.float32
        ):
            raise LookupError(f"{eqn.primitive.name} in {output.aval.dtype}")
        places[output] = slot()
        steps.append((_operation(eqn), operands, places[output]))
    return [place(var) for var in jaxpr.outvars]


def _scalar(value: Any) -> np.ndarray:
    if np.shape(value) or getattr(value, "dtype", np.dtype(float)).kind not in "fbiu":
        raise LookupError("an array")
    return np.asarray(value)


def _operation(eqn: Any) -> Callable:
    name, params = eqn.primitive.name, eqn.params
    if name == "convert_element_type":
        dtype = np.dtype(params["new_dtype"])
        return lambda z: np.asarray(z).astype(dtype)
    if name == "integer_pow":
        exponent = params["y"]
        if 1 <= exponent <= _HIGHEST_POWER:
            return lambda z: functools.reduce(np.multiply, [z] * exponent)
        return lambda z: np.power(z, float(exponent))
    if name == "round":
        if int(params["rounding_method"]) == 1:  # halves to even numbers
            return np.round
        return lambda z: np.copysign(np.floor(np.abs(z) + 0.5), z)
    if name == "select_n" and (len(eqn.invars) != 3 or eqn.invars[0].aval.dtype != np.bool_):
        raise LookupError("select_n of more than two")
    return _BY_NAME[name]
