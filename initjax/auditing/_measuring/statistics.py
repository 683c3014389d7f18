"""What is calculated of samples, outside of the passes that take them: ranks and histograms."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

BINS = np.linspace(-4, 4, 42)  # of histograms, in root mean squares


def described(record: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A record with ranks and a histogram in the place of samples, and squares in float64.

    Where no gradient has come to a site, what is known of it is NaN; a gradient of NaN is infinite.
    """
    numbers = {
        name: array.astype(np.float64)
        for name, array in record.items()
        if not name.endswith("sample")
    }
    if "input_square" in numbers:
        largest = numbers["input_largest"]
        numbers["input_square"] *= np.where(largest > 0, largest, 1) ** 2
    if "whole" in numbers:
        whole = numbers.pop("whole")
        for name, power in (("mean", 1), ("square", 2), ("unit_variance", 2)):
            numbers[name] *= whole**power
    if "sample" in record:
        numbers["rank"] = _over_turns(_least_rank, record["sample"])
        numbers["histogram"] = _over_turns(_histogram, record["sample"])
    if "weight_sample" in record:
        uncentered = functools.partial(_least_rank, centered=False)
        numbers["weight_rank"] = _over_turns(uncentered, record["weight_sample"])
    if "called" in numbers:
        called = numbers.pop("called") > 0
        numbers["rank"] = np.where(called, numbers["rank"], math.nan)
        size = np.where(np.isnan(numbers["log_square"]), math.inf, numbers["log_square"])
        numbers["log_square"] = np.where(called, size, math.nan)
    return numbers


def over_turns(record: dict[str, np.ndarray], turns: int) -> dict[str, Any]:
    """The means of a record over the turns of loops: of those turns in which it was measured.

    Args:
      record: what was measured, with the turns as leading axes.
      turns: how many such axes there are.

    Returns:
      The record without these axes; NaN for what was never measured.
    """
    axes = tuple(range(turns))
    means = {}
    for name, array in record.items():
        known = ~np.isnan(array)
        count = known.sum(axes)
        if name == "log_square":  # of the squares, which a float may not hold
            largest = np.where(known, array, -math.inf).max(axes, initial=-math.inf)
            unit = np.where(np.isfinite(largest), largest, 0)
            parts = np.exp(np.where(known, array, -math.inf) - unit).sum(axes)
            with np.errstate(divide="ignore"):
                mean = np.log(parts / np.maximum(count, 1)) + unit
        else:
            mean = np.where(known, array, 0).sum(axes) / np.maximum(count, 1)
        means[name] = np.where(count > 0, mean, math.nan)
    return means


def _over_turns(function: Callable[[np.ndarray], Any], samples: np.ndarray) -> np.ndarray:
    """A function of one sample, (members, rows, columns), over those of all turns of loops."""
    turns, shape = samples.shape[:-3], samples.shape[-3:]
    found = [function(sample) for sample in samples.reshape(-1, *shape)]
    return np.array(found).reshape((*turns, *np.shape(found[0])))


def _least_rank(sample: np.ndarray, centered: bool = True) -> float:
    """The effective rank of the member that has the least."""
    return float(np.min([effective_rank(member, centered) for member in sample]))


def effective_rank(sample: np.ndarray, centered: bool = True) -> float:
    """The effective rank of the units' functions: the participation ratio of their covariance.

    Args:
      sample: (samples, units).
      centered: whether a unit's mean over samples does not count.

    Returns:
      1 if all units compute the same function of the batch but for a factor and, if centered, an
      offset; 0 if they compute nothing; NaN if a number is not finite.
    """
    largest = np.abs(sample).max(initial=0)
    if not np.isfinite(largest):
        return math.nan
    scaled = sample.astype(np.float64) / (largest or 1)
    if centered:
        scaled -= scaled.mean(axis=0)
        scaled[np.abs(scaled) < 1e-5] = 0  # rounding in float32 is not a direction
    gram = scaled @ scaled.T
    return float(np.trace(gram) ** 2 / (np.square(gram).sum() or 1))


def _histogram(sample: np.ndarray) -> np.ndarray:
    """The part of the numbers in every bin, in their root mean squares."""
    largest = np.abs(sample).max(initial=0)
    scaled = sample.astype(np.float64) / (largest or 1)
    scaled /= np.sqrt(np.square(scaled).mean()) or 1
    counts, _ = np.histogram(np.clip(scaled, BINS[0], BINS[-1]), BINS)
    return counts / max(1, sample.size)
