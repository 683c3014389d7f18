"""What theory predicts of a layer: its variance, correlation, gradient and dead units."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from initjax.auditing._activations import rectifies
from initjax.auditing._reading.expressions import Expression
from initjax.auditing._reading.sites import Site
from initjax.theory._integrals import Single, pair, single
from initjax.theory.finite_width import LogNorm, dead_fraction, log_step

_SLACK = 0.02  # of a log variance: what no theory of random weights is expected to explain
_LARGEST = 1e30  # variance that is predicted from


class Forecast(NamedTuple):
    """What theory says of one layer's pre-activations, and what the next layer's forecast needs."""

    expression: Expression | None
    """The activation that follows."""
    gain: float
    """fan_in E[W²]."""
    units: float
    square: float
    """The mean square of the pre-activations."""
    correlation: float
    """Of two examples."""
    deviation: LogNorm
    """The law of the logarithm of `square` in networks of this width, relative to this."""
    own_variance: float
    """What measuring a mean square over this many units adds to that variance."""
    depth: int
    """The number of layers before it in its chain."""


def forecast_of(site: Site, forward: dict[str, Any], before: Forecast | None) -> Forecast:
    """Predicts a layer's pre-activations.

    Args:
      site: the layer.
      forward: what was measured of it: of its weights, biases, units and samples; and of its input
        and correlation, for where no prediction comes before.
      before: the prediction for the layer that it reads; None where predictions restart.
    """
    gain = site.scale**2 * site.fan_in * float(forward["weight_square"])
    bias = float(forward["bias_square"])
    units = max(1.0, float(forward["units"]))
    correlation = float(forward["correlation"])
    given = Forecast(
        site.activation if isinstance(site.activation, Expression) else None,
        gain,
        units,
        gain * float(forward["input_square"]) + bias,
        correlation,
        LogNorm(0.0, 0.0),
        2 / units * _together(correlation, forward, 0),
        0,
    )
    if before is None or before.expression is None or not 0 < before.square < _LARGEST:
        return given
    try:
        one = expectations(before.expression, before.square)
        second, fourth = float(one.second), float(one.fourth)
        if not second > 0:
            return given
        step = log_step(one, before.square, gain, bias)
        square = step.variance
        correlation = math.nan
        if math.isfinite(before.correlation):
            c = min(1.0, max(-1.0, before.correlation))
            gap = pair(before.expression, before.square, c).gap
            correlation = (gain * (second - gap) + bias) / square if square else math.nan
    except (TypeError, ValueError):
        return given
    # Of the mean of phi² over a finite number of units.
    spread = max(0.0, fourth / second**2 - 1) / before.units
    spread *= _together(before.correlation, forward, before.depth)
    return given._replace(
        square=square,
        correlation=correlation,
        deviation=step.carried(before.deviation, spread),
        own_variance=2 / units * _together(correlation, forward, before.depth + 1),
        depth=before.depth + 1,
    )


@functools.lru_cache(maxsize=4096)
def expectations(activation: Expression, variance: float) -> Single:
    """The Gaussian expectations that forecasts and gradient ratios share."""
    return single(activation, variance)


def predicted_gradient_ratio(forecast: Forecast, reader: Forecast) -> float:
    """chi_1: the gradient's squared norm at a layer, by that at the only layer that reads it."""
    if forecast.expression is None or not 0 < forecast.square < _LARGEST:
        return math.nan
    return reader.gain * float(expectations(forecast.expression, forecast.square).derivative_second)


def _together(correlation: float, forward: dict[str, Any], depth: int) -> float:
    """The variance of a mean over examples of squares, as a part of that of one example.

    Two squares of normal numbers with correlation c have correlation c²: examples that are alike
    deviate together, others average out. Every layer of a finite width adds chance to c.
    """
    if not math.isfinite(correlation):
        return 1.0
    chance = (depth + 1) / max(1.0, float(forward["units"]))
    square = min(1.0, correlation**2 + chance)
    return square + (1 - square) / max(1.0, float(forward["samples"]))


def range_of(forecast: Forecast) -> tuple[float, float]:
    """The root mean squares between which 95% of the networks of these widths lie."""
    if not 0 < forecast.square < math.inf:
        return forecast.square**0.5, forecast.square**0.5
    middle = math.log(forecast.square) + forecast.deviation.mean - forecast.own_variance / 2
    # Half of the log, and twice its deviation.
    half, deviation = middle / 2, math.sqrt(forecast.deviation.variance + forecast.own_variance)
    return math.exp(half - deviation), math.exp(half + deviation)


def z_score(square: float, forecast: Forecast) -> float:
    """How many standard deviations a measured mean square is off."""
    if not (0 < square < math.inf and 0 < forecast.square < math.inf):
        return math.nan if square == forecast.square else math.inf
    error = math.log(square / forecast.square)
    error -= forecast.deviation.mean - forecast.own_variance / 2
    return error / math.sqrt(forecast.deviation.variance + forecast.own_variance + _SLACK**2)


def predicted_dead(
    expression: Expression | None, forward: dict[str, Any], directions: int | None = None
) -> float:
    """The part of a rectifier's units that are flat on a whole batch if biases are zero.

    It follows from the measured correlation, minus what biases add to it: chance makes the inputs
    of a narrow layer more alike than those of an infinite one. Examples that lie in a few
    directions count as so many.
    """
    square, bias = float(forward["square"]), float(forward["bias_square"])
    samples, correlation = float(forward["samples"]), float(forward["correlation"])
    if expression is None or not samples > 1 or not rectifies(expression):
        return math.nan
    if not (math.isfinite(correlation) and square - bias > 1e-6 * square):
        return math.nan
    alike = (correlation * square - bias) / (square - bias)
    return float(dead_fraction(min(1.0, max(0.0, alike)), int(directions or samples)))
