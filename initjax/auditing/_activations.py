"""Every fact about one activation: its name, where it is flat, its critical scale, what suits it.

Facts come from its values and slopes at fixed points, all evaluated at once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from initjax.auditing._reading.expressions import IDENTITY, Expression, bare
from initjax.theory._integrals import single
from initjax.theory._pieces import evaluate

FLAT = 0.06  # of its steepest slope: tanh is flatter than that beyond 0.97
DEEP = 20  # layers from which on normal kernels spread singular values too far
_FEW = 3  # layers from which on sigmoids need kernels that make up for their slope
_SLOPES = {"sigmoid": 1 / 4, "hard_sigmoid": 1 / 6}  # at zero, of those with a mean of 1/2
_LONGEST_NAME = 40
_VARIANCES = np.exp(np.linspace(math.log(1e-8), math.log(1e3), 400))  # of the critical table

# Points, in float32 as the networks have them.
_STEEP = np.linspace(-5, 5, 1001, dtype=np.float32)
_NORMAL = np.linspace(-6, 6, 4001, dtype=np.float32)
_SIDES = np.array([-6, 6], np.float32)
_NEAR_ZERO = np.array([-4, -1, -0.01, 0.01, 1, 4], np.float32)
_GROWTH = np.linspace(-20, 20, 201, dtype=np.float32)
_NAMED = np.linspace(-7.3, 7.1, 97, dtype=np.float32)
_ALL = (_STEEP, _NORMAL, _SIDES, _NEAR_ZERO, _GROWTH, _NAMED)
_ENDS = np.cumsum([points.size for points in _ALL])[:-1]


class _Samples(NamedTuple):
    """Slopes at some of the points, values at others."""

    steep: np.ndarray
    normal: np.ndarray
    sides: np.ndarray
    near_zero: np.ndarray
    growth: np.ndarray
    named: np.ndarray


@functools.lru_cache(maxsize=256)
def _samples(activation: Expression) -> _Samples:
    value, slope = evaluate(activation, checked=False)(np.concatenate(_ALL, dtype=np.float64))
    assert slope is not None  # primitives can be differentiated
    values, slopes = np.split(value, _ENDS), np.split(slope, _ENDS)
    return _Samples(*slopes[:4], *values[4:])


# Where it is flat


@functools.lru_cache(maxsize=256)
def steepest(activation: Expression) -> float:
    """The steepest slope of an activation between -5 and 5."""
    return float(np.abs(_samples(activation).steep).max())


@functools.lru_cache(maxsize=256)
def normal_flat(activation: Expression) -> float:
    """The part of unit normal inputs at which an activation is flat."""
    flat = np.abs(_samples(activation).normal) < FLAT * steepest(activation)
    density = np.exp(-(_NORMAL.astype(np.float64) ** 2) / 2)
    return float((density * flat).sum() / density.sum())


@functools.lru_cache(maxsize=256)
def rectifies(activation: Expression) -> bool:
    """Whether it is exactly flat on one side of zero and not on the other."""
    flat = (_samples(activation).near_zero == 0).tolist()
    return flat in ([True] * 3 + [False] * 3, [False] * 3 + [True] * 3)


@functools.lru_cache(maxsize=256)
def bends(activation: Expression) -> bool:
    """Whether its slope varies, as that of every activation does that is not a mere factor."""
    slopes = np.abs(_samples(activation).steep)
    return bool(np.ptp(slopes) > 0.1 * slopes.max())


@functools.lru_cache(maxsize=256)
def saturates(activation: Expression) -> bool:
    """Whether it is flat at both -6 and 6."""
    return bool((np.abs(_samples(activation).sides) < FLAT * steepest(activation)).all())


@functools.lru_cache(maxsize=256)
def outgrows_lines(activation: Expression) -> bool:
    """Whether it grows faster than in proportion, as an exponential or a square does."""
    sizes = np.abs(_samples(activation).growth)
    return not sizes.max() <= 2.5 * sizes[np.abs(_GROWTH) <= 10].max()


@functools.lru_cache(maxsize=256)
def frequency(activation: Expression) -> float:
    """The radians by which a sine or cosine turns for a unit of its input; NaN if it is neither."""
    wave = bare(activation)
    if getattr(wave.primitive, "name", "") not in ("sin", "cos"):
        return math.nan
    (inside,) = wave.inputs
    if not isinstance(inside, Expression) or bare(inside) != IDENTITY:
        return math.nan
    zero, one = np.asarray(inside(np.array([0, 1], np.float32))).tolist()
    return abs(one - zero)


# Its name, and what suits it


@functools.lru_cache(maxsize=256)
def name_of(activation: Expression | None) -> str:
    """The usual name of an activation: jax.nn's, if it is one of those, else its text.

    Args:
      activation: None where it could not be read.

    Returns:
      The name, of at most 40 characters; "" for None.
    """
    if not isinstance(activation, Expression):
        return ""
    if bare(activation) == IDENTITY:  # multiplied by a number, or shifted by one
        return "identity"
    text = activation.text
    short = text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 3] + "..."
    return next(_names(_samples(activation).named), short)


def _names(values: np.ndarray) -> Iterator[str]:
    """The usual names of what has these values, closest first."""
    for rtol, atol in ((1e-4, 1e-5), (5e-3, 2e-3)):  # constants may be rounded to 8 bits
        for name, known in _named_values().items():
            if np.allclose(values, known, rtol=rtol, atol=atol):
                yield name


@functools.cache
def _named_values() -> dict[str, np.ndarray]:
    with np.errstate(all="ignore"):
        return {name: function(_NAMED.astype(np.float64)) for name, function in _FUNCTIONS.items()}


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(z / 2)) / 2


def _erf(z: np.ndarray) -> np.ndarray:
    return np.array([math.erf(number) for number in z.tolist()])  # importing SciPy's takes longer


def _softplus(z: np.ndarray) -> np.ndarray:
    return np.logaddexp(z, 0)


def _elu(z: np.ndarray) -> np.ndarray:
    return np.where(z > 0, z, np.expm1(z))


def _relu6(z: np.ndarray) -> np.ndarray:
    return np.clip(z, 0, 6)


_FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda z: np.maximum(z, 0),
    "gelu": lambda z: z / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
    "tanh": np.tanh,
    "silu": lambda z: z * _sigmoid(z),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "elu": _elu,
    "selu": lambda z: 1.0507009873554805 * np.where(z > 0, z, 1.6732632423543772 * np.expm1(z)),
    "relu6": _relu6,
    "mish": lambda z: z * np.tanh(_softplus(z)),
    "hard_tanh": lambda z: np.clip(z, -1, 1),
    "soft_sign": lambda z: z / (1 + np.abs(z)),
    "hard_sigmoid": lambda z: _relu6(z + 3) / 6,
    "hard_silu": lambda z: z * _relu6(z + 3) / 6,
    "log_sigmoid": lambda z: -_softplus(-z),
    "squareplus": lambda z: (z + np.sqrt(z**2 + 4)) / 2,
    "gelu (exact)": lambda z: z / 2 * (1 + _erf(z / math.sqrt(2))),
    "leaky_relu(0.2)": lambda z: np.where(z > 0, z, 0.2 * z),
    "squared relu": lambda z: np.maximum(z, 0) ** 2,
    "sin": np.sin,
    "cos": np.cos,
    "sin(30 z)": lambda z: np.sin(30 * z),
    "exp": np.exp,
    "square": np.square,
    "erf": _erf,
}  # celu is elu where its parameter is 1, as it is unless given


def recommended(name: str, depth: int = 0) -> str:
    """The initializer that keeps a signal's scale through an activation.

    Args:
      name: of the activation, as `name_of` gives it.
      depth: how many layers follow each other.

    Returns:
      A call, with advice if no scale helps.
    """
    return "".join(suited(name, depth))


def suited(name: str, depth: int = 0) -> tuple[str, str]:
    """The same, with the call and the advice apart; `initjax.recommend` starts from it, too."""
    if name in ("relu", "leaky_relu", "relu6"):
        return "he_normal()", ""
    if name in ("tanh", "identity", "erf", "soft_sign", "hard_tanh"):
        return ("orthogonal()" if depth > DEEP else "lecun_normal()"), ""
    with_biases = "; initjax.recommend adds biases, which this depth needs" if depth > DEEP else ""
    if name in ("gelu", "gelu (exact)", "silu", "mish", "hard_silu"):
        return f"lecun_normal(gain={name.partition(' ')[0]!r})", with_biases
    if name == "elu":
        return "lecun_normal(gain='elu')", ""
    if name in ("sigmoid", "softplus", "hard_sigmoid", "squareplus"):
        advice = f", and use tanh or relu, since no scale keeps {name}'s gradient"
        steep = _SLOPES.get(name) if depth > _FEW else None
        return (f"orthogonal({1 / steep:.1f})" if steep else "lecun_normal()"), advice
    return ("siren()" if name.startswith("sin(") else "lecun_normal()"), ""


def function_of(name: str) -> Callable[[Any], Any] | None:
    """The activation that has this name: jax.nn's, if it is one of those; None if there is none."""
    import jax

    return getattr(jax.nn, name, None) or _FUNCTIONS.get(name)


def known_name(function: Callable[[np.ndarray], np.ndarray]) -> str:
    """The usual name of a function; "" if it has none."""
    values = evaluate(function, checked=False)(_NAMED.astype(np.float64))[0]
    return "identity" if np.allclose(values, _NAMED) else next(_names(values), "")


# Its critical scale


@functools.lru_cache(maxsize=256)
def critical_growth(activation: Expression) -> float:
    """log chi_1 at unit variance; zero where no smaller variance has chi_1 = 1."""
    if activation == IDENTITY:
        return 0.0
    try:
        one = single(activation, 1.0)
        return max(0.0, math.log(float(one.derivative_second) / float(one.second)))
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0


@functools.lru_cache(maxsize=64)
def critical_table(activation: Expression) -> tuple[np.ndarray, np.ndarray] | None:
    """The variance at which chi_1 = 1, by the mean square of a layer's input.

    Args:
      activation: what the layer's input comes from.

    Returns:
      Logarithms of mean squares and of variances, to interpolate between; None if the mean square
      of the input doesn't determine the variance.
    """
    try:
        found = single(activation, _VARIANCES)
    except (TypeError, ValueError):
        return None
    second, slope = np.asarray(found.second), np.asarray(found.derivative_second)
    known = (second > 0) & (slope > 0) & np.isfinite(second) & np.isfinite(slope)
    second, slope = second[known], slope[known]
    if second.size < 2 or (np.diff(second) <= 0).any():
        return None
    aims = np.minimum(second / slope, 1.0)
    return np.log(second).astype(np.float32), np.log(aims).astype(np.float32)
