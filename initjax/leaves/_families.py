r"""Tests whether numbers were drawn from one of the laws that initializers use.

A law is rejected if its numbers look like this in fewer than one of 2000 cases (`LEVEL`). Three
kinds of tests share that level: the distance of Kolmogorov and Smirnov, the largest number, and
whether the numbers look independent: rows and columns have the same means and mean squares, and
neighbors are not correlated.

A scale that is not known is estimated first. Below their largest number, uniform numbers are
uniform again, so for them the test stays exact; for normal numbers of mean zero, the distance is
the same to 1% of the critical value, and for those of any mean it is 1.6 times smaller.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from initjax.leaves._arrays import parts

LEVEL = 5e-4  # the share of draws of a law for which it is rejected, and for its scale once more
FEWEST = 32  # numbers from which on a law is tested
SAMPLE = 2**16  # numbers that are compared with a law
_BLOCK = 1024  # rows and columns whose means are compared
_DISTANCE, _LARGEST, _ALIKE = 0.5, 0.2, 0.05  # the shares of the level for each test
_LARGEST_DRAWN = {4: 5.0, 2: 2.5}  # standard deviations; JAX's normal numbers end not far beyond
_CUT, _CUT_STDDEV = 2.0, 0.87962566103423978  # of a truncated normal distribution
_WITH_A_MEAN = 1.6
_CENTERED = 3.5  # standard deviations of a mean
_MANY = 1000  # numbers, of which no two of these laws draw the same
_SPECIAL_CASES = {"uniform off center": "uniform from zero", "normal off center": "normal"}


class Numbers(NamedTuple):
    """The numbers of a leaf, as the tests need them."""

    size: int
    low: float
    high: float
    sample: np.ndarray
    """Up to `SAMPLE` of them in float64, in order of size."""
    block: np.ndarray
    """Some rows and columns, of shape (rows, columns)."""
    rounding: float
    """The relative distance of neighboring numbers of the dtype."""
    itemsize: int

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(-self.low, self.high)


class Fit(NamedTuple):
    """A law that fits, with its parameters."""

    law: str
    p_value: float
    """The share of draws of this law that look less like it; at least `LEVEL`."""
    stddev: float
    low: float
    high: float
    mean: float = 0.0


def fits(numbers: Numbers) -> list[Fit]:
    """The laws that fit; several if there are too few numbers to tell.

    If a law with mean zero, or on [0, a), fits, those with more parameters are left out: they fit
    as well. From few numbers that aren't centered they can't be told apart, and are all there.
    """
    if len(numbers.sample) < FEWEST or not numbers.high > numbers.low:
        return []
    simple = [uniform(numbers), uniform_from_zero(numbers), *normals(numbers)]
    found = [fit for fit in simple if fit is not None]
    x = numbers.sample
    if not found or (len(x) < _MANY and not _centered(x)):
        found += [fit for fit in _with_offsets(numbers) if fit is not None]
        laws = {fit.law for fit in found}
        found = [fit for fit in found if not laws & {_SPECIAL_CASES.get(fit.law)}]
    return found


def _centered(x: np.ndarray) -> bool:
    """Whether numbers may have mean zero."""
    return abs(x.mean()) < _CENTERED * math.sqrt(np.square(x).mean() / len(x))


def uniform(numbers: Numbers) -> Fit | None:
    """U[-a, a)."""
    bound = numbers.largest
    rest = _without(numbers.sample, bound)
    return _fitted(numbers, "uniform", (rest / bound + 1) / 2, bound / 3**0.5, -bound, bound)


def uniform_from_zero(numbers: Numbers) -> Fit | None:
    """U[0, a), which `uniform` of JAX draws."""
    if numbers.low < 0:
        return None
    shares = _without(numbers.sample, numbers.high) / numbers.high
    return _fitted(
        numbers,
        "uniform from zero",
        shares,
        numbers.high / 12**0.5,
        0.0,
        numbers.high,
        mean=numbers.high / 2,
    )


def normals(numbers: Numbers) -> list[Fit | None]:
    """N(0, s²), and the same cut at two standard deviations."""
    x, size = numbers.sample, numbers.size
    stddev = math.sqrt(np.square(x).mean())
    found = []
    # In how many draws the largest of so many numbers is as small, or as large.
    reach = numbers.largest / stddev
    below = math.exp(size * math.log(max(math.erf(reach / 2**0.5), 1e-300)))
    smaller = 1.0 if reach > _LARGEST_DRAWN.get(numbers.itemsize, 5.0) else 2 * below
    tail = min(smaller, -2 * math.expm1(-size * math.erfc(reach / 2**0.5)), 1.0)
    cdf = normal_cdf(x / stddev)
    found.append(_fitted(numbers, "normal", cdf, stddev, -math.inf, math.inf, largest=tail))
    wide = stddev / _CUT_STDDEV
    error = 3.5 * math.sqrt((2.366 - 1) / (4 * len(x))) + numbers.rounding
    inside = numbers.largest <= _CUT * wide * (1 + error)
    mass = 2 * normal_cdf(np.array([_CUT, min(_CUT, numbers.largest / (wide * (1 - error)))])) - 1
    short = float(size * np.log(mass[1] / mass[0]))
    if inside:
        shares = (normal_cdf(np.clip(x / wide, -_CUT, _CUT)) - 0.5) / mass[0] + 0.5
        found.append(
            _fitted(
                numbers,
                "truncated normal",
                shares,
                stddev,
                -_CUT * wide,
                _CUT * wide,
                largest=math.exp(short),
            )
        )
    return found


def _with_offsets(numbers: Numbers) -> list[Fit | None]:
    """Laws with a mean, and those of numbers that are stored through a function."""
    x, low, high = numbers.sample, numbers.low, numbers.high
    mean, stddev = float(x.mean()), float(x.std())
    found = [_between(numbers, "uniform off center", x, low, high)]
    if stddev > 0 and not _centered(x):
        found.append(
            _fitted(
                numbers,
                "normal off center",
                normal_cdf((x - mean) / stddev),
                stddev,
                -math.inf,
                math.inf,
                mean=mean,
                factor=_WITH_A_MEAN,
            )
        )
    if low > 0 and high > 1.5 * low:
        found.append(_between(numbers, "log-uniform", np.log(x), low, high))
    # Over shorter intervals these laws are uniform for all that can be seen.
    if -20 < low and high < 20 and high - low > 0.5:
        found.append(_between(numbers, "logarithm of uniform", np.exp(x), low, high))
        if high < math.log(math.e - 1):  # what is stored is below 1
            inner = np.log(np.logaddexp(0, x))
            found.append(_between(numbers, "inverse softplus of log-uniform", inner, low, high))
    return found


def _between(numbers: Numbers, law: str, values: np.ndarray, low: float, high: float) -> Fit | None:
    """A law under which the values, in order, are uniform between the first and the last."""
    first, last = values[0], values[-1]
    if not last > first:
        return None
    shares = (values[1:-1] - first) / (last - first)
    x = numbers.sample
    return _fitted(numbers, law, shares, float(x.std()), low, high, mean=float(x.mean()))


def _fitted(
    numbers: Numbers,
    law: str,
    shares: np.ndarray,
    stddev: float,
    low: float,
    high: float,
    mean: float = 0.0,
    largest: float = 1.0,
    factor: float = 1.0,
) -> Fit | None:
    """The law, unless a test rejects it.

    Args:
      numbers: what was drawn.
      law: its name.
      shares: what is uniform between 0 and 1 under this law, in order.
      stddev: of the law.
      low: its lower bound.
      high: its upper bound.
      mean: its mean.
      largest: how often the largest number is as far off.
      factor: of the distance, for what the estimated parameters take off it.
    """
    p_value = min(
        kolmogorov(shares, numbers.rounding, factor) / _DISTANCE,
        largest / _LARGEST,
        *(p / _ALIKE for p in (*_alike(numbers.block), *_uncorrelated(numbers.block))),
        1.0,
    )
    return Fit(law, p_value, stddev, low, high, mean) if p_value >= LEVEL else None


def kolmogorov(shares: np.ndarray, rounding: float = 0.0, factor: float = 1.0) -> float:
    """How often uniform numbers between 0 and 1 are as far from their law as these, in order."""
    n = len(shares)
    if n < 2:
        return 1.0
    steps = np.arange(n + 1) / n
    distance = max((steps[1:] - shares).max(), (shares - steps[:-1]).max()) - rounding
    x = factor * distance * (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n))
    if x < 0.3:
        return 1.0
    k = np.arange(1, 20)
    terms = np.exp(-2 * (k * x) ** 2)
    return float(min(1.0, max(0.0, 2 * (terms[::2].sum() - terms[1::2].sum()))))


def _alike(block: np.ndarray) -> list[float]:
    """How often the means, and the mean squares, of rows and of columns are as different."""
    found = []
    for values in (block, np.square(block)):
        centered = values - values.mean()
        variance = np.square(centered).mean()
        for axis in (0, 1):
            count, others = block.shape[axis], block.shape[1 - axis]
            if others < 2 or count < (2 if values is block else 30) or variance == 0:
                continue
            scores = np.square(centered.mean(axis=axis)).sum() * count / variance
            # Mean squares have a skewed distribution, which makes large scores more likely.
            fourth = np.square(np.square(centered)).mean() / variance**2 - 3
            widened = 1 + max(fourth, 0) / (2 * count)
            found.append(_chi_square(scores, others - 1, widened))
    return found


def _uncorrelated(block: np.ndarray) -> list[float]:
    """How often neighbors, along each axis, are as correlated."""
    centered = block - block.mean()
    variance = np.square(centered).mean()
    found = []
    for one, other in (
        (centered[:, :-1], centered[:, 1:]),
        (centered[:-1], centered[1:]),
    ):
        if one.size >= FEWEST and variance > 0:
            score = float((one * other).sum() / variance / math.sqrt(one.size))
            found.append(math.erfc(abs(score) / 2**0.5))
    return found


def _chi_square(score: float, freedom: int, widened: float) -> float:
    """How often a sum of squared normal numbers is larger, after Wilson and Hilferty."""
    spread = 2 / (9 * freedom) * widened
    z = ((score / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(spread)
    return math.erfc(z / 2**0.5) / 2


def _without(ordered: np.ndarray, magnitude: float) -> np.ndarray:
    """The numbers, in order, without one of this magnitude if it is among them."""
    if ordered[-1] == magnitude:
        return ordered[:-1]
    return ordered[1:] if ordered[0] == -magnitude else ordered


@functools.cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    z = np.linspace(-9, 9, 2**14)
    return z, np.array([math.erfc(-value / 2**0.5) / 2 for value in z.tolist()])


def normal_cdf(z: np.ndarray) -> np.ndarray:
    """The normal distribution, to 1e-7. (Importing SciPy's takes a hundred times as long.)"""
    return np.interp(z, *_table())


def numbers_of(array: np.ndarray) -> Numbers:
    """What the tests need of an array of finite numbers, in linear time."""
    flat = array.reshape(-1)
    low, high = _ends(flat)
    sample = flat
    if flat.size > SAMPLE:  # one of each of equally long parts, at a place drawn once and for all
        starts = np.arange(SAMPLE) * flat.size // SAMPLE
        lengths = np.diff(np.append(starts, flat.size))
        within = np.random.default_rng(0).random(SAMPLE)
        sample = flat[starts + (within * lengths).astype(np.int64)]
    matrix = array.reshape(-1, array.shape[-1]) if array.ndim > 1 else array.reshape(1, -1)
    rows, columns = (max(1, -(-size // _BLOCK)) for size in matrix.shape)
    block = matrix[::rows, ::columns] if array.ndim > 1 else matrix[:, :SAMPLE]
    kind = array.dtype
    return Numbers(
        size=flat.size,
        low=low,
        high=high,
        sample=np.sort(sample.astype(np.float64)),
        block=np.asarray(block, np.float64),
        rounding=rounding_of(kind),
        itemsize=kind.itemsize,
    )


def rounding_of(dtype: np.dtype) -> float:
    """The relative distance of neighboring numbers."""
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).eps)


def _ends(flat: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest number."""
    low, high = math.inf, -math.inf
    for part in parts(flat):
        if part.dtype.itemsize < 4:  # NumPy compares wider numbers faster
            part = part.astype(np.float32)
        low, high = min(low, float(part.min())), max(high, float(part.max()))
    return low, high
