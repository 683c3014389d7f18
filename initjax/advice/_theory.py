"""What theory says about a choice in a plain network: numbers, and the sentences that they give."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

from initjax.advice._choices import DEEP, Choice
from initjax.theory import (
    chi,
    critical_line,
    critical_points,
    depth_scales,
    jacobian_spectrum,
    log_norm_moments,
    moments,
    variance_map,
)

_GROWTH = 10.0  # of a gradient's squared norm, from one end to the other, that is named
_NARROW = 0.25  # L/n from which on Gaussian kernels are advised against
_REACH = 6  # xi_c: the depth up to which networks can be trained
_HUGE = 20.0  # a weight variance that makes switches of units


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What mean field theory predicts for a plain network. NaN where it predicts nothing.

    The input has mean square one. With residual connections or normalization, everything is NaN but
    the ratio of depth and width.
    """

    chi: float
    """chi_1, the factor of a gradient's mean square per layer, where the variance converges."""
    variance: float
    """q*, the variance of pre-activations to which deep layers converge."""
    correlation_depth: float
    """xi_c: the number of layers over which the difference of two inputs falls by a factor of e.
    Networks can be trained up to about six times that depth."""
    gradient: float
    """The mean square of the gradient at the first layer, divided by that at the last."""
    depth_over_width: float
    """L/n, which sets how much finite networks differ from the prediction."""
    scatter: float
    """The standard deviation of the logarithm of the signal's squared norm from network to network,
    for normal weights."""
    jacobian_variance: float
    """The variance of the squared singular values of the network's Jacobian over their squared
    mean, for these weights."""


def theory_of(
    function: Callable[[Any], Any], choice: Choice, depth: int, width: int, plain: bool
) -> Prediction:
    """The predictions for a choice."""
    nan = math.nan
    nothing = Prediction(nan, nan, nan, nan, depth / width, nan, nan)
    if not plain:
        return nothing
    weights, biases = choice.weight_variance, choice.bias_variance
    first = weights + biases
    try:
        scales = depth_scales(function, weights, biases, first)
        variances = _variances(function, weights, biases, first, depth)
        steps = [chi(function, q, weights) for q in variances[:-1]]
    except (TypeError, ValueError, ArithmeticError):  # no fixed point, or no moments
        return nothing
    found = dataclasses.replace(
        nothing,
        chi=scales.chi,
        variance=scales.variance,
        correlation_depth=scales.correlation_depth,
        gradient=math.exp(min(700.0, sum(math.log(max(step, 1e-300)) for step in steps))),
    )
    kind = "orthogonal" if choice.name == "orthogonal" else "normal"
    try:
        noise = log_norm_moments([width] * depth, function, weights, biases, first)
        spread = sum(jacobian_spectrum(function, q, 1, kind).variance for q in variances)
    except (TypeError, ValueError, ArithmeticError):  # the signal explodes or vanishes
        return found
    return dataclasses.replace(found, scatter=math.sqrt(noise.variance), jacobian_variance=spread)


def _variances(
    function: Callable[[Any], Any], weights: float, biases: float, first: float, depth: int
) -> list[float]:
    """Of the pre-activations, layer by layer."""
    found = [first]
    while len(found) < depth and 0 < found[-1] < 1e100:
        found.append(variance_map(function, found[-1], weights, biases))
    return [q for q in found if 0 < q < 1e100]


def reasons(choice: Choice, theory: Prediction, depth: int) -> list[str]:
    """Why a plain network is to be drawn so."""
    if math.isnan(theory.chi):
        return []
    # Factors of a half or two are no more than a few layers at q* would make.
    on_its_way = abs(theory.chi - 1) < 0.01 and abs(_log(theory.gradient)) > math.log(2)
    found = [
        f"Weights of variance {choice.weight_variance:.4g}/fan_in{_with_biases(choice)} have"
        f" chi_1 = {theory.chi:.3g}{_where(theory)}: from the last of {_layers(depth)} to the"
        f" first, the gradient's mean square changes by a factor of {_factor(theory.gradient)}"
        f"{', since signals are still on their way to q*' if on_its_way else ''}."
    ]
    reach = _REACH * theory.correlation_depth
    if math.isinf(reach) or reach > 1e4:
        found.append(
            "Two inputs become alike more slowly than exponentially (xi_c is infinite), so wide"
            " networks can be trained at any depth."
        )
    else:
        found.append(
            f"The difference of two inputs shrinks by e every xi_c = {theory.correlation_depth:.3g}"
            f" layers: about {_REACH} xi_c = {reach:.3g} layers can be trained, and this network"
            f" has {depth}."
        )
    if theory.depth_over_width >= _NARROW and choice.name == "orthogonal":
        found.append(
            f"L/n is {theory.depth_over_width:.2g}, where chi_1 = 1 isn't enough. Orthogonal"
            " kernels spread the singular values of the Jacobian less: the relative variance of"
            f" their squares is {theory.jacobian_variance:.2g}, with normal kernels"
            f" {theory.jacobian_variance + depth:.2g}."
        )
    elif theory.depth_over_width >= _NARROW and theory.scatter > 0.5:
        factor = _factor(math.exp(min(700.0, theory.scatter / 2)))
        found.append(
            f"L/n is {theory.depth_over_width:.2g}: from network to network, the signal's root"
            f" mean square varies by a factor of {factor} (one standard deviation)."
        )
    return found


def warnings(
    function: Callable[[Any], Any],
    activation: str,
    others: Iterable[tuple[Choice, Prediction]],
    chosen: tuple[Choice, Prediction],
    depth: int,
) -> list[str]:
    """What not to do in a plain network.

    Args:
      function: the activation.
      activation: what it is called.
      others: the choices that weren't chosen, and what theory says of them.
      chosen: the one that was.
      depth: the number of hidden layers.
    """
    found = []
    if no_scale := _no_scale(function, activation):
        found.append(no_scale)
    ratio = chosen[1].depth_over_width
    if activation == "relu" and depth > DEEP and ratio >= _NARROW:
        found.append(
            f"Plain ReLU networks of {_layers(depth)} at L/n = {ratio:.2g}: no initializer makes"
            " them isometric. Use tanh with orthogonal kernels, residual connections or"
            " normalization."
        )
    mine = abs(_log(chosen[1].gradient))
    for choice, theory in others:
        factor = theory.gradient
        if abs(_log(factor)) > mine + math.log(_GROWTH):
            how = "vanish" if factor < 1 else "explode"
            found.append(
                f"{choice.spec}: gradients {how}; their mean square changes by a factor of"
                f" {_factor(factor)} over {_layers(depth)}."
            )
    alike = chosen[1].depth_over_width >= _NARROW and depth > DEEP
    if chosen[0].name == "orthogonal" and alike:
        found.append(
            "Normal or uniform kernels of the same variance, at this L/n: they have the right"
            " chi_1, but spread the Jacobian's singular values further."
        )
    return found


def _no_scale(function: Callable[[Any], Any], activation: str) -> str:
    """That no usual scale is critical, if so."""
    if critical_points(function):
        return ""
    start = f"Deep networks of {'this activation' if activation == 'unnamed' else activation}: "
    advice = "; use tanh or relu, subtract the activation's mean, or normalize."
    try:
        point = critical_line(function)
    except ValueError:
        return f"{start}no initializer puts them on the edge of chaos{advice}"
    if point.weight_variance < _HUGE:
        return ""
    return (
        f"{start}no usual initializer puts them on the edge of chaos. The only one without biases"
        f" needs weights of variance {point.weight_variance:.3g}/fan_in, with which units are"
        f" switches (q* = {point.variance:.3g}){advice}"
    )


def _log(factor: float) -> float:
    """The logarithm of a factor; zero for one that isn't known."""
    return 0.0 if math.isnan(factor) else math.log(max(factor, 1e-300))


def _with_biases(choice: Choice) -> str:
    return f" and biases of variance {choice.bias_variance:.3g}" if choice.bias_variance else ""


def _where(theory: Prediction) -> str:
    return "" if math.isinf(theory.variance) else f" at q* = {theory.variance:.3g}"


def _layers(depth: int) -> str:
    return f"{depth} layer{'s' * (depth != 1)}"


def _factor(number: float) -> str:
    return f"{number:.2g}" if 1e-4 < number < 1e4 else f"{number:.0e}"


# Networks that aren't plain

NORMALIZED = (
    "Behind a normalization the scale of kernels doesn't change the signals: it only sets how large"
    " an update is beside them."
)
ATTENTION = (
    "Queries and keys: keep the standard deviation of the scores well below sqrt(2 ln T) for T keys"
    " (`initjax.theory.attention_threshold`). Above it, every row reads a single key."
)


def residual_reason(function: Callable[[Any], Any], choice: Choice, branches: int) -> str:
    """How much a residual stream grows."""
    added = choice.weight_variance * moments(function).second
    unscaled, scaled = (
        math.exp(min(700.0, branches * math.log1p(added * scale**2)))
        for scale in (1.0, branches**-0.5)
    )
    return (
        f"Each branch adds to the stream: over {branches}, its variance grows about"
        f" {_factor(unscaled)}-fold, and only {_factor(scaled)}-fold if the last kernel of each is"
        f" multiplied by 1/sqrt({branches}), as `initjax.residual_scaling` does."
    )


def other_warnings(
    residual: bool, normalization: str | None, attention: bool, depth: int
) -> list[str]:
    """What not to do in a network that isn't plain."""
    if attention and not residual:
        return [
            "Attention without residual connections: every block averages tokens, until all are"
            " alike (rank collapse)."
        ]
    if normalization == "batch" and not residual and depth > DEEP:
        return [
            f"Batch normalization in {_layers(depth)} without residual connections: gradients grow"
            " exponentially with depth, for ReLU 1.47x per layer, from any initializer."
        ]
    return []
