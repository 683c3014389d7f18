"""Paired comparisons: which of two settings is better, by how much, and how certain that is.

With the same seed, two initializers see the same batches and draw correlated weights. So their
difference is taken seed by seed: it varies much less than either of them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, special, stats

LEVEL = 0.95  # confidence level of every interval; the level of every test is 1 - LEVEL
POWER = 0.8  # probability of finding a difference that is called detectable
_RESAMPLES = 9_999
_MANY = 50  # seeds above which distributions of means are not sampled, but approximated
_HEAVY = 0.1  # tails, see `_tails`: below this, the approximations are closer than the samples
_FEWEST_FOR_BOOTSTRAP = 20  # with fewer values, BCa intervals are too narrow
FEWEST_TO_SETTLE = 6  # seeds: the smallest p value of a sign-flip test of n seeds is 2**(1 - n)
_ROUNDING = 1e-12  # relative, of float64: smaller differences are no evidence
_MOST_SEEDS = 10**6  # that `seeds_to_settle` looks for


class Interval(NamedTuple):
    """An estimate and the bounds of its 95% confidence interval."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """The statistics of the differences between two settings over shared seeds."""

    n: int
    """Number of seeds."""
    difference: Interval
    """The mean difference, first minus second, with Student's t interval."""
    bootstrap: Interval | None
    """The same with a BCa bootstrap interval; None below 20 seeds, where it is too narrow."""
    stddev: float
    """The standard deviation of the differences."""
    correlation: float
    """Correlation of the two settings over the seeds, which is why pairing helps. NaN if one is
    constant."""
    p: float
    """p value of the paired t test that the mean difference is zero."""
    p_sign_flip: float
    """p value of the permutation test that differences are as likely negative as positive. It
    needs no normal distribution, but with fewer than `FEWEST_TO_SETTLE` seeds it can't be below
    0.05."""
    p_equivalence: float
    """p value of the two one-sided tests (TOST) that the mean difference is at least the margin;
    NaN without a margin."""
    improvement: Interval
    """How often the first is above the second, with Wilson's interval; ties count half."""
    detectable: float
    """The true difference that this many seeds detect with a probability of 80%."""
    seeds_to_settle: float
    """Number of seeds that detect the observed difference with a probability of 80%; infinite if
    the means are equal."""


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """The mean with Student's t interval, which holds for few seeds, too; needs two values.

    Example:
      >>> [round(number, 3) for number in mean_interval([1.0, 2.0, 3.0, 4.0])]
      [2.5, 0.446, 4.554]
    """
    values = np.asarray(values, float)
    if len(values) < 2:
        return Interval(float(values.mean()), np.nan, np.nan)
    return Interval(*map(float, mean_intervals(values)))


def mean_intervals(values: np.ndarray) -> np.ndarray:
    """The same for every column of an array: rows of means, lower and upper bounds.

    Args:
      values: (seeds, ...), with two seeds or more.
    """
    n = len(values)
    unit = _unit(values)  # so that squares of large losses don't overflow
    mean = (values / unit).mean(axis=0)
    sem = (values / unit).std(axis=0, ddof=1) / n**0.5
    half = special.stdtrit(n - 1, (1 + LEVEL) / 2) * sem
    return np.stack([mean, mean - half, mean + half]) * unit


def _unit(*values: np.ndarray) -> float:
    """A power of two, so that dividing by it is exact, near the largest absolute value."""
    return 2.0 ** int(np.frexp(max(float(np.abs(array).max()) for array in values))[1])


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    rng: np.random.Generator,
    statistic: Callable[..., np.ndarray] = np.mean,
) -> Interval:
    """A statistic with its bootstrap interval, bias-corrected and accelerated (BCa).

    Args:
      values: 20 or more; with fewer, the interval is too narrow.
      rng: draws the resamples.
      statistic: a function of (values, axis).

    Raises:
      ValueError: there are fewer values.
    """
    values = np.asarray(values, float)
    if len(values) < _FEWEST_FOR_BOOTSTRAP:
        raise ValueError(
            f"bootstrap_interval: needs {_FEWEST_FOR_BOOTSTRAP} values, got {len(values)};"
            " mean_interval works with fewer"
        )
    value = float(statistic(values, axis=0))
    if np.ptp(values) == 0:
        return Interval(value, value, value)
    centered = values - value
    if statistic is np.mean and len(values) > _MANY and _tails(centered) < _HEAVY:
        return _approximate_bootstrap(value, centered)
    found = stats.bootstrap(
        (values,), statistic, n_resamples=_RESAMPLES, confidence_level=LEVEL, rng=rng
    )
    return Interval(value, *map(float, found.confidence_interval))


def _tails(values: np.ndarray) -> float:
    """The sum of fourth powers over the squared sum of squares: 1/n to 1.

    A sum of many values with random signs, or of resampled ones, is the closer to normal the
    smaller this is.
    """
    squares = (values / _unit(values)) ** 2
    return float((squares**2).sum() / squares.sum() ** 2)


def _approximate_bootstrap(mean: float, centered: np.ndarray) -> Interval:
    """The BCa interval of a mean from the moments of the values, without resamples.

    Args:
      mean: of the values.
      centered: the values without their mean.

    Reference:
      Efron 1987, "Better bootstrap confidence intervals".
    """
    unit = _unit(centered)
    values, n = centered / unit, len(centered)
    stddev = values.std()
    skew = float((values**3).mean()) / stddev**3 / (6 * n**0.5)  # the bias and the acceleration
    bounds = []
    for level in ((1 - LEVEL) / 2, (1 + LEVEL) / 2):
        shifted = skew + float(special.ndtri(level))
        z = skew + shifted / (1 - skew * shifted)
        bounds.append(mean + unit * stddev / n**0.5 * (z + skew * (z**2 - 1)))
    return Interval(mean, *map(float, bounds))


def share_interval(count: float, n: int) -> Interval:
    """The share of `count` in `n` with Wilson's interval. SciPy's takes only whole counts.

    Example:
      >>> share = share_interval(29.5, 30)
      >>> [round(number, 3) for number in share]
      [0.983, 0.859, 0.998]
    """
    share, z2 = count / n, float(stats.norm.ppf((1 + LEVEL) / 2)) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = (z2 * (share * (1 - share) / n + z2 / (4 * n * n))) ** 0.5 / (1 + z2 / n)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def compare(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    rng: np.random.Generator,
    margin: float | None = None,
    alpha: float = 1 - LEVEL,
    resolution: float | np.ndarray = 0.0,
) -> Comparison:
    """Compares two settings over the same seeds.

    If all differences are equal, as a few differences of accuracies over 10,000 images can be,
    nothing is known about their variance. Then every p value is that of a test of the signs.

    Args:
      first: values of the first setting, one per seed; two or more, all finite.
      second: values of the second setting for the same seeds.
      rng: draws resamples, and sign flips if there are too many to try all of them.
      margin: two settings whose means differ by less are equivalent.
      alpha: the two-sided level for which `detectable` is computed.
      resolution: of the values, one or one per seed: smaller differences count as zero in tests.
        Differences that are only rounding in float64 always do.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    correlation = np.nan
    if np.ptp(first) and np.ptp(second):
        correlation = float(np.corrcoef(first / _unit(first), second / _unit(second))[0, 1])
    unit = _unit(first, second)
    first, second, resolution = first / unit, second / unit, resolution / unit
    differences = first - second
    n, stddev = len(differences), float(differences.std(ddof=1))
    difference = mean_interval(differences)
    finest = np.maximum(resolution, _ROUNDING * np.maximum(np.abs(first), np.abs(second)))
    tested = np.where(np.abs(differences) <= finest, 0.0, differences)
    p_equivalence = np.nan
    if np.ptp(tested) <= np.max(finest):
        p = p_sign_flip = 2.0 ** (1 - n) if tested.all() else 1.0
        if margin is not None:
            p_equivalence = 2.0**-n if abs(difference.value) < margin / unit else 1.0
    else:
        p = _t_test(tested, 0)
        p_sign_flip = _sign_flip_test(tested, rng)
        if margin is not None:
            lower = _t_test(tested, -margin / unit, alternative="greater")
            upper = _t_test(tested, margin / unit, alternative="less")
            p_equivalence = max(lower, upper)
    bootstrap = None if n < _FEWEST_FOR_BOOTSTRAP else bootstrap_interval(differences, rng)
    seen = abs(difference.value) if tested.any() else 0.0
    return Comparison(
        n,
        _times(difference, unit),
        bootstrap and _times(bootstrap, unit),
        stddev * unit,
        correlation,
        p,
        p_sign_flip,
        p_equivalence,
        share_interval(float(np.sum(tested > 0) + np.sum(tested == 0) / 2), n),
        detectable_difference(stddev, n, alpha) * unit,
        seeds_to_settle(seen, stddev, alpha),
    )


def _times(interval: Interval, factor: float) -> Interval:
    return Interval(*(number * factor for number in interval))


def _sign_flip_test(values: np.ndarray, rng: np.random.Generator) -> float:
    if len(values) > _MANY and _tails(values) < _HEAVY:
        scaled = values / _unit(values)
        return float(2 * special.ndtr(-abs(scaled.sum()) / np.sqrt((scaled**2).sum())))
    found = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=_RESAMPLES, rng=rng
    )
    return float(found.pvalue)


def _t_test(values: np.ndarray, mean: float, alternative: str = "two-sided") -> float:
    """As SciPy's `ttest_1samp`, which takes ten times as long."""
    n, center = len(values), values.mean()
    variance = ((values - center) ** 2).mean() * (n / (n - 1))
    t = (center - mean) / np.sqrt(variance / n)
    if alternative == "two-sided":
        return float(2 * special.stdtr(n - 1, -abs(t)))
    return float(special.stdtr(n - 1, t if alternative == "less" else -t))


def detectable_difference(stddev: float, n: int, alpha: float = 1 - LEVEL) -> float:
    """The mean difference that a paired t test detects with a probability of 80%.

    Args:
      stddev: the standard deviation of the differences.
      n: the number of pairs, at least two.
      alpha: the two-sided level of the test.

    Example:
      >>> round(detectable_difference(0.13, 16), 3)
      0.097
    """
    return float(_detected(n, alpha) * stddev / n**0.5)


@functools.lru_cache(maxsize=1024)
def _detected(n: int, alpha: float) -> float:
    """The difference that is detected with a probability of 80%, in standard errors."""
    critical = stats.t.ppf(1 - alpha / 2, n - 1)

    def missing_power(noncentrality: float) -> float:  # results with the wrong sign don't count
        return POWER - float(stats.nct.sf(critical, n - 1, noncentrality))

    root: Any = optimize.brentq(missing_power, 0, 2 * critical + 1)
    return root


def seeds_to_settle(difference: float, stddev: float, alpha: float = 1 - LEVEL) -> float:
    """The number of seeds that detect a difference with a probability of 80%.

    Args:
      difference: the mean difference; infinitely many seeds don't detect zero.
      stddev: the standard deviation of the differences.
      alpha: the two-sided level of the test.

    Example:
      >>> seeds_to_settle(0.1, 0.13)
      16
    """
    low, high = FEWEST_TO_SETTLE, _MOST_SEEDS

    def detects(n: int) -> bool:
        critical = float(special.stdtrit(n - 1, 1 - alpha / 2))  # faster than SciPy's `t.ppf`
        if abs(difference) * n**0.5 >= 10 * critical * stddev:
            return True
        noncentrality = abs(difference) / stddev * n**0.5
        return float(stats.nct.sf(critical, n - 1, noncentrality)) >= POWER

    if not difference or not detects(high):
        return np.inf
    # A guess from the normal distribution narrows the search.
    quantile = special.ndtri(1 - alpha / 2)
    guess = ((quantile + special.ndtri(POWER)) * stddev / difference) ** 2 + quantile**2 / 2
    for number in (guess - 1, guess + 2):
        if low < number < high:
            number = int(number)
            low, high = (low, number) if detects(number) else (number + 1, high)
    while low < high:  # the smallest number that detects it
        middle = (low + high) // 2
        low, high = (low, middle) if detects(middle) else (middle + 1, high)
    return low


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p values: the smallest times n, the next times n - 1, and so on.

    Example:
      >>> holm([0.01, 0.04, 0.03])
      [0.03, 0.06, 0.06]

    Reference:
      Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = np.argsort(ps, kind="stable")
    scaled = np.asarray(ps, float)[order] * np.arange(len(ps), 0, -1)
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted.tolist()
