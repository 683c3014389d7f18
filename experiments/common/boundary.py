"""How deep networks train: the boundary of a trainability diagram, fitted to the theory's scale.

The theory says that networks train up to k depth scales xi_c, with one k for all initializations.
Near criticality xi_c is infinite, and something else limits the depth: width, steps, learning rate.
So the fit has three parameters: k, that limit, and how steep the boundary is,

    P(trained) = 1 / (1 + (depth / min(k xi_c, limit)) ** steepness)

which is a logistic regression on log(depth). All networks enter it, so weight variances at which
all depths or none are trained do no harm.
"""

from typing import NamedTuple

import numpy as np
from scipy import special, stats

from experiments.common.statistics import LEVEL, Interval

_RESAMPLES = 1000
_STEP = 0.01  # of log(depth) and log(k): parameters are found to 1%
_MARGIN = 3.5  # of log(depth): boundaries are sought this far outside of the diagram
_LOG_KS = np.arange(np.log(0.3), np.log(50), _STEP)
# Beyond these, the data don't bound k.
_KS = np.array([0, *np.exp(_LOG_KS[1:-1]), np.inf])
# Bounded, so that the boundary is in the middle of the gap if trained and untrained don't overlap.
_STEEPNESS = np.geomspace(1, 32, 11)
_AT_ONCE = 100  # resamples, whose likelihoods take some megabytes each


class Boundary(NamedTuple):
    """The boundary between depths that train and depths that don't: min(k xi_c, limit).

    The intervals are from a bootstrap that resamples weight variances and, if there are several,
    seeds. So they cover luck, and how well one k holds for all weight variances.
    """

    k: Interval
    """The depth at which half of the networks train, in units of xi_c. Infinite where the data
    have no upper bound for it."""
    k_over_seeds: Interval | None
    """The same k with an interval that resamples only seeds; None with a single seed."""
    limit: Interval
    """The same depth where xi_c is too large to matter; infinite if it is not in the diagram."""
    steepness: float
    """Of the boundary: an exponent of depth."""
    depths: np.ndarray
    """(columns,): the depth at which half of the networks of one weight variance train. It is the
    smallest or the largest depth of the diagram if it is not inside."""
    correlation: Interval
    """Spearman's rank correlation of these depths with xi_c; NaN if all depths are equal."""
    right: float
    """The share of the networks that are on their side of min(k xi_c, limit)."""


def fit_boundary(depths: np.ndarray, scales: np.ndarray, trained: np.ndarray) -> Boundary | None:
    """Fits the boundary of a trainability diagram.

    Args:
      depths: (rows,), ascending.
      scales: (columns,), xi_c of each weight variance, above 0; may be infinite.
      trained: (rows, columns, seeds): 1 for a network that trained, 0 for one that didn't, NaN for
        a missing one.

    Returns:
      The boundary; None if there is none to fit: fewer than three columns or two rows, or all
      networks train, or none does.
    """
    rows, columns, seeds = trained.shape
    if rows < 2 or columns < 3 or not 0 < np.nanmean(trained) < 1:
        return None
    boundaries = np.arange(np.log(depths[0]) - _MARGIN, np.log(depths[-1]) + _MARGIN, _STEP)
    inside = (boundaries >= np.log(depths[0])) & (boundaries <= np.log(depths[-1]))
    limits = np.append(boundaries[inside][::4], np.inf)
    # The place among `boundaries` of each column's boundary, for every k and limit.
    at = np.minimum(_LOG_KS[:, None] + np.log(scales)[:, None, None], limits)
    at_law = np.clip((at - boundaries[0]) / _STEP, 0, len(boundaries) - 1).round().astype(int)

    def of_law(likelihood: np.ndarray) -> np.ndarray:
        """(columns, ...) for each k and limit, from (columns, boundaries, ...)."""
        return np.stack([row[place] for row, place in zip(likelihood, at_law, strict=True)])

    totals = [
        of_law(_likelihood(depths, trained, boundaries, steepness).sum(axis=1)).sum(axis=0)
        for steepness in _STEEPNESS
    ]
    steepness = float(_STEEPNESS[np.argmax([total.max() for total in totals])])
    likelihood = _likelihood(depths, trained, boundaries, steepness)
    law = np.stack([of_law(one) for one in likelihood.swapaxes(0, 1)], axis=1)
    law = law.reshape(columns * seeds, -1)

    def best(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best k and limit for each of (resamples, columns, seeds)."""
        parts = np.array_split(weights.reshape(len(weights), -1), -(-len(weights) // _AT_ONCE))
        index = np.concatenate([(part @ law).argmax(axis=1) for part in parts])
        k, limit = np.unravel_index(index, (len(_KS), len(limits)))
        return _KS[k], np.exp(limits[limit])

    def halves(seed_counts: np.ndarray) -> np.ndarray:
        """(columns,): the boundary of each column by itself, for one of (seeds,)."""
        found = boundaries[np.einsum("s,csb->cb", seed_counts, likelihood).argmax(axis=1)]
        return np.clip(np.exp(found), depths[0], depths[-1])

    rng, every = np.random.default_rng(0), np.ones((columns, seeds))
    drawn_seeds, drawn_columns = _counts(rng, seeds), _counts(rng, columns)
    by_seeds = every * drawn_seeds[:, None, :]
    (k,), (limit,) = best(every[None])
    ks, found_limits = best(by_seeds * drawn_columns[:, :, None])
    half_depths = halves(every[0])
    unique, which = np.unique(drawn_seeds, axis=0, return_inverse=True)
    resampled = np.stack([halves(counts) for counts in unique])[which]
    correlations = []
    for counts, of_seeds in zip(drawn_columns, resampled, strict=True):
        places = np.repeat(np.arange(columns), counts)
        correlations.append(_rank_correlation(scales[places], of_seeds[places]))
    # An infinite scale stays infinite for a k of zero, which stands for a k below all bounds.
    reach = np.where(np.isinf(scales), np.inf, k * np.where(np.isinf(scales), 1, scales))
    expected = depths[:, None] <= np.minimum(reach, limit)
    known = np.isfinite(trained)
    return Boundary(
        _interval(k, ks),
        _interval(k, best(by_seeds)[0]) if seeds > 1 else None,
        _interval(limit, found_limits),
        steepness,
        half_depths,
        _interval(_rank_correlation(scales, half_depths), np.array(correlations)),
        float(np.mean((trained == expected[:, :, None])[known])),
    )


def _likelihood(
    depths: np.ndarray, trained: np.ndarray, boundaries: np.ndarray, steepness: float
) -> np.ndarray:
    """The log likelihood (columns, seeds, boundaries) of each column and seed by its boundary."""
    margin = steepness * (boundaries - np.log(depths)[:, None])
    return np.einsum("dcs,db->csb", trained == 1, special.log_expit(margin)) + np.einsum(
        "dcs,db->csb", trained == 0, special.log_expit(-margin)
    )


def _counts(rng: np.random.Generator, n: int) -> np.ndarray:
    """(resamples, n): how often each of n is drawn."""
    return rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)


def _rank_correlation(scales: np.ndarray, depths: np.ndarray) -> float:
    if np.ptp(depths) == 0 or len(set(scales)) == 1:
        return np.nan
    return float(np.corrcoef(stats.rankdata(scales), stats.rankdata(depths))[0, 1])


def _interval(value: float, resampled: np.ndarray) -> Interval:
    """A percentile interval. NaN is left out: a rank correlation of values that are all equal."""
    resampled = resampled[~np.isnan(resampled)]
    if not len(resampled):
        return Interval(float(value), np.nan, np.nan)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], method="closest_observation")
    return Interval(float(value), float(low), float(high))
