"""Slopes of the logarithm of a size over the logarithm of width, with intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Slope(NamedTuple):
    """A power of width, by which a size grows: the mean over seeds and its 95% interval."""

    mean: float
    low: float
    """NaN for a single seed, which has no interval."""
    high: float

    def __str__(self) -> str:
        interval = "" if math.isnan(self.low) else f" ({_plain(self.low)} to {_plain(self.high)})"
        return f"{_plain(self.mean)}{interval}"


def slope_of(widths: Sequence[int], sizes: np.ndarray) -> Slope | None:
    """The slope of log2 size over log2 width: by least squares for each seed, then over seeds.

    Args:
      widths: at least two.
      sizes: (widths, seeds).

    Returns:
      The slope; None if a size is zero or not finite, since it has no logarithm.
    """
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        return None
    x = np.log2(np.asarray(widths, np.float64))
    x = x - x.mean()
    return over_seeds((x @ np.log2(sizes)) / (x @ x))


def over_seeds(slopes: np.ndarray) -> Slope:
    """The mean of numbers and its 95% interval by Student's t distribution."""
    mean, count = float(slopes.mean()), len(slopes)
    if count < 2:
        return Slope(mean, math.nan, math.nan)
    from scipy import special

    half = float(special.stdtrit(count - 1, 0.975) * slopes.std(ddof=1) / math.sqrt(count))
    return Slope(mean, mean - half, mean + half)


def _plain(number: float) -> str:
    return f"{number:.2f}".replace("-0.00", "0.00")
