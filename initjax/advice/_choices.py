"""The ways to initialize a network that advice chooses between, and the one that theory chooses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from initjax._values import Initializer
from initjax.auditing._activations import DEEP, suited
from initjax.orthogonal import orthogonal
from initjax.scaling import variance_scaling
from initjax.specs import parse
from initjax.theory import critical_line, critical_points, depth_scales, gain, moments
from initjax.theory._pieces import at_point

_BIASES = 0.05  # the bias variance at which the field's figures show tanh's critical line
_SMALL = 1e-12  # a variance at which an activation is a line, or two that meet at zero
_FLAT = 1e-3  # the slope at zero of an activation that is no line there, such as cos
_DIGITS = 4
_TENFOLD = math.log(10)

Activation = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Choice:
    """A way to initialize a network."""

    name: str
    """What it is called, whatever its numbers: 'he_normal', 'glorot_uniform' or 'lecun_normal';
    'gain', which keeps unit variance; 'orthogonal' or 'critical' (normal weights), of the scale at
    which gradients keep their norm; 'scaled', by the number of residual branches."""
    spec: str
    """The initializer of the kernels as a specification, for flags and `initjax.parse`."""
    bias_spec: str
    """The same of the biases."""
    weight_variance: float
    """sigma_w², the variance of a weight times fan_in. Its square root is the gain."""
    bias_variance: float
    """sigma_b², the variance of a bias."""
    branch_scale: float = 1.0
    """By what the last kernel of each residual branch is multiplied, as by `residual_scaling`."""

    @property
    def initializer(self) -> Initializer:
        """For the kernels."""
        return parse(self.spec)

    @property
    def bias_initializer(self) -> Initializer:
        """For the biases."""
        return parse(self.bias_spec)

    @property
    def gain(self) -> float:
        """The factor by which kernels are larger than LeCun's."""
        return math.sqrt(self.weight_variance)


def choices(
    function: Activation, name: str, depth: int, residual: bool = False, normalized: bool = False
) -> dict[str, Choice]:
    """The choices by name: rules of thumb first, then what theory adds to them.

    Args:
      function: the activation.
      name: its usual name; "" if it has none.
      depth: the number of hidden layers, or of blocks.
      residual: whether blocks are added to their input: then one choice scales them down.
      normalized: whether signals are normalized: then the scales that theory finds for plain
        networks have no meaning.
    """
    found = [
        Choice("he_normal", "he_normal", "zeros", 2.0, 0.0),
        Choice("glorot_uniform", "glorot_uniform", "zeros", 1.0, 0.0),
        Choice("lecun_normal", "lecun_normal", "zeros", 1.0, 0.0),
    ]
    if normalized:
        found.append(_orthogonal(1.0, 0.0))
    elif residual:
        found += [one for one in _by_theory(function, name) if one.name == "orthogonal"]
    else:
        found += _by_theory(function, name)
    if residual:
        found.append(dataclasses.replace(found[0], name="scaled", branch_scale=depth**-0.5))
    return {choice.name: choice for choice in found}


def proposed(
    function: Activation, name: str, depth: int, residual: bool = False, normalized: bool = False
) -> Choice:
    """The choice of theory alone.

    It is what an audit suggests, except in deep plain networks in which gradients would grow or
    shrink tenfold then, as with GELU: there an audit points to critical kernels and biases.

    Args:
      function: the activation.
      name: its usual name; "" if it has none.
      depth: the number of hidden layers, or of blocks.
      residual: whether blocks are added to their input.
      normalized: whether signals are normalized.
    """
    if residual or normalized:
        found = choices(function, name, depth, residual, normalized)
        return found["lecun_normal" if normalized else "scaled"]
    if name:
        chosen = _chosen(suited(name, depth)[0])
        critical = choices(function, name, depth).get("orthogonal")
        if depth <= DEEP or critical is None:
            return chosen
        growth, better = (abs(_growth(function, one)) for one in (chosen, critical))
        return critical if depth * growth > _TENFOLD and 4 * better < growth else chosen
    points = critical_points(function)
    if points and _keeps_lines(function, points[0].variance):
        scale = math.sqrt(points[0].weight_variance)
        deep = depth > DEEP and points[0].variance == 0
        return _orthogonal(scale, 0.0) if deep else _gain("", scale)
    return _gain("", gain(function))


def _growth(function: Activation, choice: Choice) -> float:
    """The logarithm of what each layer multiplies mean squared gradients by, in the end."""
    weights, biases = choice.weight_variance, choice.bias_variance
    return math.log(depth_scales(function, weights, biases, weights + biases).chi)


def _chosen(spec: str) -> Choice:
    """The choice that an audit calls so."""
    kind = spec.partition("(")[0]
    drawn = parse(spec)
    if isinstance(drawn, orthogonal):
        return _orthogonal(float(drawn.scale), 0.0)
    if isinstance(drawn, variance_scaling):
        name = "gain" if "gain" in spec else kind
        return Choice(name, spec.removesuffix("()"), "zeros", float(drawn.scale), 0.0)
    return Choice(kind, kind, "zeros", 2 / 30**2, 0.0)  # SIREN, of frequency 30


def _by_theory(function: Activation, name: str) -> list[Choice]:
    """Orthogonal kernels of critical scale, normal ones with critical variances, and the gain that
    keeps unit variance, as far as they differ from the rules of thumb."""
    points = critical_points(function)
    if points and math.isnan(points[0].variance):  # ReLU: He's variance is critical
        return [_orthogonal(math.sqrt(points[0].weight_variance), 0.0)]
    if points and _keeps_lines(function, points[0].variance):  # tanh
        return [
            _orthogonal(math.sqrt(points[0].weight_variance), 0.0),
            *_critical(function, _BIASES),
        ]
    keeps = gain(function)
    gains = [] if abs(keeps - 1) < 0.01 else [_gain(name, keeps)]
    for point in points:
        if point.variance > 0:  # GELU
            weights, biases = point.weight_variance, point.bias_variance
            return [_orthogonal(math.sqrt(weights), biases), *gains, _normal(weights, biases)]
    critical = _critical(function, _BIASES if points else 0.0)
    steep = []
    if points and critical:  # SELU
        steep = [_orthogonal(critical[0].gain, _BIASES)]
    elif critical and (slope := _slope(function)) > _FLAT:
        # Sigmoid, whose critical weights are so large that its units are switches.
        steep = [_orthogonal(1 / slope, 0.0)]
    return [*steep, *gains, *critical]


def _critical(function: Activation, biases: float) -> list[Choice]:
    try:
        return [_normal(critical_line(function, biases).weight_variance, biases)]
    except ValueError:  # there is no such point
        return []


def _keeps_lines(function: Activation, variance: float) -> bool:
    """Whether a critical point holds at any scale, or at zero where the activation is a line."""
    if math.isnan(variance):
        return True
    found = moments(function, _SMALL)
    return variance == 0 and abs(found.mean) < 1e-3 * math.sqrt(found.second)


def _slope(function: Activation) -> float:
    """The slope at zero."""
    return abs(at_point(function, 1e-3) - at_point(function, -1e-3)) / 2e-3


def _gain(name: str, scale: float) -> Choice:
    text = repr(name) if name.isidentifier() else _rounded(scale)
    return Choice("gain", f"lecun_normal(gain={text})", "zeros", scale**2, 0.0)


def _orthogonal(scale: float, bias_variance: float) -> Choice:
    scale = _rounded(scale)
    spec = "orthogonal" if scale == 1 else f"orthogonal({scale})"
    return Choice("orthogonal", spec, _biases(bias_variance), scale**2, bias_variance)


def _normal(weight_variance: float, bias_variance: float) -> Choice:
    variance = _rounded(weight_variance)
    spec = f'variance_scaling({variance}, "fan_in", "normal")'
    return Choice("critical", spec, _biases(bias_variance), variance, bias_variance)


def _biases(variance: float) -> str:
    return f"random_normal(stddev={_rounded(math.sqrt(variance))})" if variance else "zeros"


def _rounded(number: float) -> float:
    return float(np.format_float_positional(number, _DIGITS, fractional=False))
