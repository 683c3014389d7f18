"""What theory predicts of a layer: its variance, correlation, gradient and dead units."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax.auditing._measuring.passes import FLAT, steepest
from initjax.auditing._reading.expressions import Expression
from initjax.auditing._reading.sites import Site
from initjax.theory._integrals import pair, single
from initjax.theory.finite_width import LogNorm, dead_fraction, log_step

if TYPE_CHECKING:
    from initjax.auditing._judging.layers import Layer

_SLACK = 0.02  # of a log variance: what no theory of random weights is asked to explain


@dataclasses.dataclass
class Forecast:
    """What theory says of one layer's pre-activations."""

    square: float
    correlation: float
    variance_of_log: float
    """Of the logarithm of `square` in networks of this width, and its mean below."""
    mean_of_log: float
    own_variance: float
    """What a mean square over this many units adds when it is measured."""
    depth: int


def forecast_of(
    site: Site, forward: dict[str, Any], source: Layer | None, before: Forecast | None
) -> Forecast:
    gain = site.scale**2 * site.fan_in * float(forward["weight_square"])
    bias = float(forward["bias_square"])
    units = max(1.0, float(forward["units"]))
    given = Forecast(
        gain * float(forward["input_square"]) + bias,
        float(forward["correlation"]),
        0.0,
        0.0,
        2 / units * _together(float(forward["correlation"]), forward, 0),
        0,
    )
    if source is None or before is None or source.expression is None:
        return given
    if not (math.isfinite(before.square) and 0 < before.square < 1e30):
        return given
    try:
        one = single(source.expression, before.square)
        second, fourth = float(one.second), float(one.fourth)
        if not second > 0:
            return given
        step = log_step(one, before.square, gain, bias)
        square = step.variance
        correlation = math.nan
        if math.isfinite(before.correlation):
            c = min(1.0, max(-1.0, before.correlation))
            gap = pair(source.expression, before.square, c).gap
            correlation = (gain * (second - gap) + bias) / square if square else math.nan
    except (TypeError, ValueError):
        return given
    # Of the mean of phi^2 over a finite number of units.
    spread = max(0.0, fourth / second**2 - 1) / max(1, source.units)
    spread *= _together(before.correlation, forward, before.depth)
    deviation = step.carried(LogNorm(before.mean_of_log, before.variance_of_log), spread)
    return Forecast(
        square,
        correlation,
        deviation.variance,
        deviation.mean,
        2 / units * _together(correlation, forward, before.depth + 1),
        before.depth + 1,
    )


def _together(correlation: float, forward: dict[str, Any], depth: int) -> float:
    """The variance of a mean over examples of squares, as a part of that of one example.

    Two squares of normal numbers with correlation c have correlation c^2: examples that are alike
    scatter together, others average out. Every layer of a finite width adds chance to c.
    """
    if not math.isfinite(correlation):
        return 1.0
    chance = (depth + 1) / max(1.0, float(forward["units"]))
    square = min(1.0, correlation**2 + chance)
    return square + (1 - square) / max(1.0, float(forward["samples"]))


def range_of(forecast: Forecast) -> tuple[float, float]:
    if not 0 < forecast.square < math.inf:
        return forecast.square**0.5, forecast.square**0.5
    middle = math.log(forecast.square) + forecast.mean_of_log - forecast.own_variance / 2
    # Half of the log, and twice its deviation.
    half, deviation = middle / 2, math.sqrt(forecast.variance_of_log + forecast.own_variance)
    return math.exp(half - deviation), math.exp(half + deviation)


def z_score(square: float, forecast: Forecast) -> float:
    if not (0 < square < math.inf and 0 < forecast.square < math.inf):
        return math.nan if square == forecast.square else math.inf
    error = math.log(square / forecast.square)
    error -= forecast.mean_of_log - forecast.own_variance / 2
    return error / math.sqrt(forecast.variance_of_log + forecast.own_variance + _SLACK**2)


def predicted_dead(expression: Expression | None, forward: dict[str, Any]) -> float:
    """The part of a rectifier's units that are flat on a whole batch, if biases were zero.

    It follows from the measured correlation, less what the biases add to it: chance makes a narrow
    layer's inputs more alike than those of an infinite one.
    """
    square, bias = float(forward["square"]), float(forward["bias_square"])
    samples, correlation = float(forward["samples"]), float(forward["correlation"])
    if expression is None or not samples > 1 or not _rectifies(expression):
        return math.nan
    if not (math.isfinite(correlation) and square - bias > 1e-6 * square):
        return math.nan
    alike = (correlation * square - bias) / (square - bias)
    return float(dead_fraction(min(1.0, max(0.0, alike)), int(samples)))


@functools.lru_cache(maxsize=256)
def normal_flat(expression: Expression) -> float:
    """The part of unit normal inputs at which an activation is flat."""
    z = np.linspace(-6, 6, 4001, dtype=np.float32)
    flat = np.abs(_slopes(expression, z)) < FLAT * steepest(expression)
    density = np.exp(-(z.astype(np.float64) ** 2) / 2)
    return float((density * flat).sum() / density.sum())


@functools.lru_cache(maxsize=256)
def _rectifies(expression: Expression) -> bool:
    """Whether it is exactly flat on one side of zero and not on the other."""
    flat = (_slopes(expression, np.array([-4, -1, -0.01, 0.01, 1, 4], np.float32)) == 0).tolist()
    return flat in ([True] * 3 + [False] * 3, [False] * 3 + [True] * 3)


@functools.lru_cache(maxsize=256)
def flat_sides(expression: Expression) -> tuple[bool, bool]:
    """Whether an activation is flat at -6, and at 6."""
    slope = np.abs(_slopes(expression, np.array([-6, 6], np.float32)))
    left, right = (slope < FLAT * steepest(expression)).tolist()
    return left, right


def _slopes(expression: Expression, z: np.ndarray) -> np.ndarray:
    import jax

    with jax.ensure_compile_time_eval():
        return np.asarray(jax.jvp(expression, (z,), (np.ones_like(z),))[1])
