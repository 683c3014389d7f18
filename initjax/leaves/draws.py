"""What is told of an array of random numbers: law, scale and rules, and how to say it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from initjax.leaves._families import Fit, fits, numbers_of, rounding_of
from initjax.leaves._rules import Named, named
from initjax.leaves._structures import Structure

_FILLED = 0.9  # the part of rows that aren't zero, from which on the others may be padding
_SMALL = 0.1  # a ratio of which two digits are told
_UNSURE = 0.1  # a coincidence that is told
_MOST_RULES = 3
_MOST_KERNELS = 256  # of a stack that are tested one by one
_SPECS = {
    "normal": "normal({stddev:.3g})",
    "truncated normal": "truncated_normal({before:.3g})",
    "uniform": "random_uniform({low:.3g}, {high:.3g})",
    "uniform from zero": "uniform({high:.3g})",
    "uniform off center": "random_uniform({low:.3g}, {high:.3g})",
    "normal off center": "random_normal({mean:.3g}, {stddev:.3g})",
    "log-uniform": "log_uniform({low:.3g}, {high:.3g})",
    "logarithm of uniform": "logarithm(random_uniform({lowest:.3g}, {highest:.3g}))",
    "inverse softplus of log-uniform": "inverse_softplus(log_uniform({least:.3g}, {most:.3g}))",
}


def drawn(
    array: np.ndarray, shape: tuple[int, ...], fans: tuple[int, ...], special: Structure | None
) -> dict[str, Any]:
    """What is told of random numbers.

    Args:
      array: the numbers, or the first of them.
      shape: that of the parameter, which fans are counted from.
      fans: what may be the fan_in of a bias.
      special: the structure of the array, if it has one.

    Returns:
      Fields of an `IdentifiedLeaf`.
    """
    inner = array if special is None or special.inner is None else special.inner
    filled = _without_zeros(inner) if special is None else inner
    outer = "{}" if special is None else special.spec
    numbers = numbers_of(filled)
    found = fits(numbers)
    padded = f"; {len(inner) - len(filled)} of {len(inner)} rows are zero"
    padded = padded if len(filled) < len(inner) else ""
    if not found and special is None and (each := _each(array)):
        return each
    if not found:
        text = "no law fits: trained, loaded, or drawn by a law that isn't known"
        zeros = 1 - np.count_nonzero(array) / array.size
        if zeros > 0.01:
            text += f"; {zeros:.0%} of it is zero"
        return {"law": "none", "text": text, "laws": ()}
    rounding = rounding_of(array.dtype)
    if outer.startswith("sparse"):  # its scale has nothing to do with fans
        fit = found[0]
        spec = outer.format(f"{fit.stddev:.3g}")
        return {"law": "sparse", "text": spec, "rules": [spec], "p_value": fit.p_value}
    counted = shape if special is None else inner.shape
    scales = [named(fit, numbers.size, rounding, counted, fans) for fit in found]
    rules, texts = [], []
    for fit, scale in zip(found, scales, strict=True):
        specs = [outer.format(rule.spec) for rule in scale.rules]
        rules += specs
        texts.append(_one(fit, scale, outer))
    fit, scale = found[0], scales[0]
    law = fit.law if special is None else special.law
    if len(found) == 1:
        fixed = fit.law not in ("normal", "truncated normal", "uniform", "uniform from zero")
        return {
            "law": law,
            "laws": [fit.law],
            "text": texts[0] + padded,
            "rules": rules or [outer.format(_spec(fit))],
            "ratio": scale.ratio,
            "coincidence": 0.0 if fixed else scale.coincidence,
            "p_value": fit.p_value,
        }
    text = f"too few numbers to tell: {listed([_short(fit, outer) for fit in found], 'or')}"
    fitting = [rule.text for scale in scales for rule in scale.rules if rule.rank == 0]
    if fitting:
        text += f"; the scale fits {listed(fitting, 'or')}"
    return {
        "law": "too few numbers",
        "laws": [fit.law for fit in found] + ([] if special is None else [special.law]),
        "text": text,
        "rules": rules,
        "ratio": scale.ratio,
        "coincidence": max(scale.coincidence for scale in scales),
        "p_value": max(fit.p_value for fit in found),
    }


def origin(array: np.ndarray, shape: tuple[int, ...]) -> str:
    """The initializer that random numbers look drawn from, in a few words; "" if that isn't sure.

    Args:
      array: the numbers, or the first of them.
      shape: that of the parameter, which fans are counted from.
    """
    numbers = numbers_of(array)
    found = fits(numbers)
    if len(found) != 1:
        return ""
    scale = named(found[0], numbers.size, rounding_of(array.dtype), shape)
    if scale.rules and scale.coincidence < _UNSURE:
        return _names(scale, "{}")
    usual = [rule.text for rule in scale.rules if not rule.by_fans]  # a round number
    return usual[0] if usual else _spec(found[0])


def _each(array: np.ndarray) -> dict[str, Any] | None:
    """What is told of a stack of kernels that were drawn by one law at different scales."""
    if array.ndim < 3 or not 1 < len(array) <= _MOST_KERNELS:
        return None
    found = [fits(numbers_of(kernel)) for kernel in array]
    laws = {tuple(fit.law for fit in fitting) for fitting in found}
    if len(laws) != 1 or len(found[0]) != 1:
        return None
    stddevs = [fitting[0].stddev for fitting in found]
    law = found[0][0].law
    text = f"{law}: {len(array)} kernels with standard deviations of {min(stddevs):.3g} to"
    # The least of so many p values, as one.
    p_value = min(1.0, len(found) * min(fitting[0].p_value for fitting in found))
    return {"law": law, "text": f"{text} {max(stddevs):.3g}", "p_value": p_value}


def _without_zeros(array: np.ndarray) -> np.ndarray:
    """The array without a few rows of zeros, such as that of padding in an embedding."""
    if array.ndim != 2 or np.count_nonzero(array[:, 0]) == len(array):
        return array
    rows = array.any(axis=1)
    return array[rows] if rows.mean() > _FILLED else array


def _one(fit: Fit, scale: Named, outer: str) -> str:
    """The text for a law that is sure."""
    if not scale.rules:
        text = outer.format(_spec(fit))
        if scale.nearest is None:
            return text
        usual = _SMALL < scale.ratio < 100
        ratio = f"{scale.ratio:.2f}" if usual else f"{scale.ratio:.2g}"
        return f"{text}, {ratio} of the scale of {scale.nearest.text}"
    text = f"{_names(scale, outer)}, {scale.ratio:.2f} of its scale"
    if scale.coincidence > _UNSURE:
        text += f" (by chance: {scale.coincidence:.0%})"
    return text


def _names(scale: Named, outer: str) -> str:
    """The rules that a scale fits, in words."""
    notes = {rule.note for rule in scale.rules}
    if len(notes) > 1:
        return listed([outer.format(rule.text) for rule in scale.rules], "or")
    names = listed([outer.format(rule.name) for rule in scale.rules], "or")
    return f"{names} {notes.pop()}".rstrip()  # said once


def _short(fit: Fit, outer: str) -> str:
    return fit.law if outer == "{}" else outer.format(fit.law)


def _spec(fit: Fit) -> str:
    """An initializer with the estimated parameters."""
    return _SPECS[fit.law].format(
        **fit._asdict(),
        before=fit.high / 2,
        lowest=math.exp(min(fit.low, 700)),
        highest=math.exp(min(fit.high, 700)),
        least=np.logaddexp(0, fit.low),
        most=np.logaddexp(0, fit.high),
    )


def listed(names: Iterable[str], word: str = "and") -> str:
    """A few names for a sentence, and how many more there are."""
    names = list(dict.fromkeys(names))
    if len(names) > _MOST_RULES:
        names = [*names[: _MOST_RULES - 1], f"{len(names) - _MOST_RULES + 1} more"]
        word = "and"
    return f" {word} ".join(filter(None, (", ".join(names[:-1]), names[-1])))
