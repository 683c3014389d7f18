"""Checks of what the first layers are given.

A direction of the input in which its squares are many times those of all others together is all
that the first layer sees, and what it learns from: the best learning rate for that direction is as
many times too small for the others. So a common shift counts by its square beside the variance.
"""

from __future__ import annotations

import math

import numpy as np

from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding, finding, names_of
from initjax.auditing._judging.graph import layers_after
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._judging.names import some
from initjax.auditing._judging.numbers import plain, rounded

_LARGE_INPUT, _VERY_LARGE_INPUT, _SMALL_INPUT = 100.0, 1000.0, 1e-3  # mean squares
# Embeddings learn their scale: recommenders draw them at 0.01, codebooks of K rows within 1/K.
_SMALL_EMBEDDING = 1e-6
_UNEVEN_INPUT = 25.0  # mean square, where a few features are much larger than the others
# Squared mean, divided by variance. Tanh and ReLU networks of three layers, trained 300 steps by
# SGD at the best of seven rates, end at 3 to 20 times the loss from 25 on, and from 1000 on they
# don't learn at all. Images in [0, 1] have 0.5 to 12.
_SHIFT, _LARGE_SHIFT = 50.0, 1000.0
_CONSTANT = 1e-10  # variance of a feature, divided by its squared mean
_SHOWN = 3  # features


def batch(evidence: Evidence) -> list[Finding]:
    """A batch of one example, or of many that are equal."""
    if not any(layer.samples > 1 for layer in evidence.layers):
        if _one_in_each_turn(evidence):
            return []
        message = (
            "The batch has only one example, so spread over examples, dead units, correlation and"
            " rank can't be measured"
        )
    elif _equal(evidence):
        message = (
            "All examples of the batch are equal, so spread over examples, dead units, correlation"
            " and rank say nothing"
        )
    else:
        return []
    return finding("warning", "batch", [], message, "Pass a batch of 64 different examples or more")


def _one_in_each_turn(evidence: Evidence) -> bool:
    """Whether a loop, as of lax.map, takes one example of the batch in each turn."""
    traced = evidence.traced
    inputs = [var.aval.shape for var in traced.jaxpr.invars[len(traced.names) :]]
    counts = {math.prod(shape[:axes]) for shape in inputs for axes in (1, 2) if shape}
    return any(length in counts for layer in evidence.layers for _, length in layer.site.loops)


def _equal(evidence: Evidence) -> bool:
    """Whether the first layers get the same numbers for every example, not all zero."""
    entering = _entering(evidence)
    constant = [
        layer.feature_means.size
        and (layer.feature_variances <= _CONSTANT * np.square(layer.feature_means)).all()
        for layer in entering
    ]
    given = any(layer.input_square > 0 for layer in entering)
    return given and all(constant) and not _looks_up(evidence)


def input_offset(evidence: Evidence) -> list[Finding]:
    """Inputs whose mean is larger than their spread."""
    found = [layer for layer in _entering(evidence) if _shift(layer) > _SHIFT]
    found = [
        layer
        for layer in found
        if not _centered_later(layer, evidence) and not _acts_as_bias(layer, evidence)
    ]
    if not found:
        return []
    worst = max(found, key=_shift)
    means, variances = worst.feature_means, worst.feature_variances
    # Those that make up the shift.
    own = np.square(means) > _SHIFT * variances.mean()
    own &= variances > _CONSTANT * np.square(means)
    mean = float(np.sqrt(np.square(means[own]).mean()))
    spread = float(np.sqrt(variances[own].mean()))
    is_about, varies = ("is", "varies") if own.sum() == 1 else ("are", "vary")
    message = (
        f"{_features(worst, own)} of the input of {some(names_of(found))} {is_about} about"
        f" {mean:.4g} and {varies} by only {spread:.2g}, so all examples look alike to the network"
    )
    remedy = "Subtract from each feature its mean, and divide it by its standard deviation"
    bad = _shift(worst) > _LARGE_SHIFT or worst.input_square > _VERY_LARGE_INPUT
    level = "failure" if bad else "warning"
    return finding(level, "input_offset", found, message, remedy)


def _shift(layer: JudgedLayer) -> float:
    """The squared mean of the features, divided by their variance. Constant ones act as a bias."""
    squares, variances = np.square(layer.feature_means), layer.feature_variances
    varying = variances > _CONSTANT * squares
    return float(squares[varying].sum() / variances[varying].sum()) if varying.any() else 0.0


def _centered_later(layer: JudgedLayer, evidence: Evidence) -> bool:
    """Whether a normalization over the batch takes the shift out again."""
    after = layers_after(layer, evidence.layers) if layer.site.normalized else ()
    return any(other.correlation < 1 - 1 / _SHIFT for other in after)


def _acts_as_bias(layer: JudgedLayer, evidence: Evidence) -> bool:
    """Whether a layer's input is a condition, such as a time, that is not large: what hardly varies
    in it is one bias more.

    It stands beside other inputs, which tell the examples apart, or has the slow waves of an
    embedding in it.
    """
    if layer.input_square > _UNEVEN_INPUT:
        return False
    others = any(_shift(other) <= _SHIFT for other in _entering(evidence))
    return others or _looks_up(evidence) or any(tag.waves for tag in layer.site.inputs)


def input_scale(evidence: Evidence) -> list[Finding]:
    """Inputs whose mean square is far from one."""
    entering = _entering(evidence)
    empty = [layer for layer in entering if layer.input_square == 0]
    if empty and len(empty) == len(entering) and not _looks_up(evidence):
        message = f"The input of {some(names_of(empty))} is zero in the whole batch"
        remedy = "Check how the batch is loaded, or pass a batch of real data"
        return finding("failure", "input_scale", empty, message, remedy)
    large = [
        layer
        for layer in entering
        if layer.input_square > (_UNEVEN_INPUT if _much_larger(layer).any() else _LARGE_INPUT)
        and not layer.site.normalized  # which takes out any scale
        and _shift(layer) <= _SHIFT  # else it is that
    ]
    if large:
        worst = max(large, key=lambda layer: layer.input_square)
        level = "failure" if worst.input_square > _VERY_LARGE_INPUT else "warning"
        return finding(level, "input_scale", large, *_large(large, worst))
    small = [
        layer
        for layer in entering
        if 0 < layer.input_square < _SMALL_INPUT and layer.input_largest < 0.5
    ]
    if small:
        rms = math.sqrt(min(layer.input_square for layer in small))
        message = f"The input of {some(names_of(small))} has root mean square {rms:.2g};"
        message += " initializers expect about 1"
        remedy = f"Divide the input by {rounded(rms)}"
        return finding("warning", "input_scale", small, message, remedy)
    return _small_embeddings(evidence)


def outweighed(layer: JudgedLayer, evidence: Evidence) -> tuple[JudgedLayer, ...]:
    """The embeddings that are so small that a layer's biases outweigh what it makes of them.

    Other layers may be near: those before a codebook, whose gradient passes straight through it.
    """
    near = {path for tag in layer.site.inputs for path in tag.near}
    tables = tuple(
        other for other in evidence.layers if other.kind == "embedding" and other.path in near
    )
    small = layer.input_square < _SMALL_INPUT and layer.bias_variance > layer.rms**2 / 2
    return tables if small else ()


def _small_embeddings(evidence: Evidence) -> list[Finding]:
    """Embeddings without which half of the units behind them are always on, and half always off."""
    for layer in evidence.layers:
        very_small = layer.input_square < _SMALL_EMBEDDING and layer.dead > 0
        tables = outweighed(layer, evidence) if very_small else ()
        if tables:
            rms = math.sqrt(layer.input_square)
            message = (
                f"What {layer.name} gets from the embeddings {some(names_of(tables))} has root mean"
                f" square {rms:.2g}, so its biases outweigh it; initializers expect about 1"
            )
            remedy = f"Draw the embeddings {1 / rms if rms else math.inf:.2g} times as large"
            return finding("warning", "input_scale", [*tables, layer], message, remedy)
    return []


def _large(layers: list[JudgedLayer], worst: JudgedLayer) -> tuple[str, str]:
    """Message and remedy: a few features may be much larger than the others."""
    rms = math.sqrt(worst.input_square)
    squares, own = _squares(worst), _much_larger(worst)
    if own.any():
        others = math.sqrt(float(squares[~own].mean()))
        message = (
            f"{_features(worst, own)} of the input of {some(names_of(layers))}"
            f" {'has' if own.sum() == 1 else 'have'} root mean square"
            f" {math.sqrt(float(squares[own].mean())):.3g}, and the others {others:.2g};"
            " initializers expect about 1"
        )
        remedy = "Subtract from each feature its mean, and divide it by its standard deviation"
        return message, remedy
    message = f"The input of {some(names_of(layers))} has root mean square {plain(rms)};"
    message += " initializers expect about 1"
    return message, f"Divide the input by {rounded(rms)}"


def _squares(layer: JudgedLayer) -> np.ndarray:
    """The mean square of each feature."""
    return np.square(layer.feature_means) + layer.feature_variances


def _much_larger(layer: JudgedLayer) -> np.ndarray:
    """Which features are much larger than the others: at most half of them."""
    squares = _squares(layer)
    if not squares.size:
        return np.zeros(0, bool)
    own = squares > _UNEVEN_INPUT * max(1.0, float(np.median(squares)))
    return own & (own.sum() <= own.size / 2)


def _features(layer: JudgedLayer, own: np.ndarray) -> str:
    """The start of a sentence about some of the features of a layer's input."""
    numbers = np.flatnonzero(own).tolist()
    if len(numbers) > own.size / 2 and own.size > 1:
        return "The features"
    return f"Feature{'s' * (len(numbers) > 1)} {some(list(map(str, numbers)), _SHOWN)}"


def _entering(evidence: Evidence) -> list[JudgedLayer]:
    """The layers whose input is made from the batch alone."""
    return [
        layer
        for layer in evidence.layers
        if layer.kind != "embedding" and (layer.unpredicted == "batch" or layer.feature_means.size)
    ]


def _looks_up(evidence: Evidence) -> bool:
    return any(layer.kind == "embedding" for layer in evidence.layers)
