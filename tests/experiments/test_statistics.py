"""Statistics: coverage of intervals, levels of tests, and numbers from the literature."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from experiments.common import statistics


def covered(intervals, truth):
    return np.mean([low <= truth <= high for _, low, high in intervals])


@pytest.mark.parametrize("n", [2, 5, 30])
def test_the_interval_of_a_mean_has_its_coverage(n, rng):
    """With as few as two seeds; a bootstrap interval covers 86% with five."""
    intervals = [statistics.mean_interval(values) for values in rng.normal(3, 2, (4000, n))]
    assert covered(intervals, 3) == pytest.approx(0.95, abs=5 * (0.05 * 0.95 / 4000) ** 0.5)


def test_the_bootstrap_interval_nearly_has_its_coverage_from_twenty_values_on(rng):
    """93.7% in the long run: below the level, so Student's t interval is the one that is shown."""
    draws = rng.normal(3, 2, (400, 20))
    intervals = [statistics.bootstrap_interval(values, rng) for values in draws]
    assert 0.89 < covered(intervals, 3) < 0.98
    with pytest.raises(
        ValueError, match=r"needs 20 values, got 19; mean_interval works with fewer"
    ):
        statistics.bootstrap_interval(draws[0, :19], rng)


@pytest.mark.parametrize(("n", "share"), [(10, 0.5), (30, 0.9), (30, 0.03), (100, 0.99)])
def test_the_interval_of_a_share_has_its_coverage(n, share):
    """Summed over all outcomes. Wilson's interval is known to fall slightly below its level."""
    outcomes = np.arange(n + 1)
    inside = [
        low <= share <= high
        for _, low, high in map(statistics.share_interval, outcomes, [n] * (n + 1))
    ]
    assert 0.9 < scipy.stats.binom.pmf(outcomes, n, share) @ inside <= 1


@given(st.integers(1, 200), st.data())
def test_the_interval_of_a_share_equals_scipys(n, data):
    count = data.draw(st.integers(0, n))
    theirs = scipy.stats.binomtest(count, n).proportion_ci(method="wilson")
    share = statistics.share_interval(count, n)
    np.testing.assert_allclose(share, (count / n, *theirs), atol=1e-12)


@pytest.mark.parametrize("n", [5, 30])
def test_tests_of_a_difference_keep_their_level_and_have_power(n, rng, monkeypatch):
    monkeypatch.setattr(statistics, "_RESAMPLES", 999)  # as good a test, and ten times as fast
    noise = rng.normal(0, 1, (2, 200, n))
    same = [statistics.compare(a, b, rng) for a, b in zip(noise[0], noise[1], strict=True)]
    for name in ("p", "p_sign_flip"):
        ps = np.array([getattr(result, name) for result in same])
        assert np.mean(ps <= 0.05) < 0.05 + 5 * (0.05 * 0.95 / 200) ** 0.5
    assert covered([result.difference for result in same], 0) > 0.9
    # Of the difference that is called detectable four in five are detected.
    first, second = noise
    shift = statistics.detectable_difference(2**0.5, n)
    found = [
        statistics.compare(a + shift, b, rng).p <= 0.05 for a, b in zip(first, second, strict=True)
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=5 * (0.8 * 0.2 / 200) ** 0.5)


def test_settings_at_the_margin_are_rarely_called_equivalent_and_equal_ones_often(rng, monkeypatch):
    monkeypatch.setattr(statistics, "_RESAMPLES", 99)  # of which nothing is looked at
    first, second = rng.normal(0, 0.001, (2, 200, 30))
    pairs = list(zip(first, second, strict=True))

    def called(shift):
        results = [statistics.compare(a + shift, b, rng, margin=0.001) for a, b in pairs]
        return np.mean([result.p_equivalence <= 0.05 for result in results])

    assert called(0.001) < 0.05 + 5 * (0.05 * 0.95 / 200) ** 0.5
    assert called(0) > 0.9


def test_equivalence_means_that_the_90_percent_interval_is_within_the_margin(rng):
    """Another definition of the two one-sided tests (Schuirmann)."""
    for shift in (0, 0.3, 0.5, 0.7):
        first, second = rng.normal(0, 0.5, (2, 20))
        result = statistics.compare(first + shift, second, rng, margin=0.8)
        low, high = scipy.stats.ttest_rel(first + shift, second).confidence_interval(0.9)
        assert (result.p_equivalence <= 0.05) == (-0.8 < low and high < 0.8)


def test_pairing_finds_a_difference_that_an_unpaired_test_misses(rng):
    """Two settings that differ little, with seeds that differ much."""
    seeds = rng.normal(0, 1, 20)
    first, second = seeds + 0.1 + rng.normal(0, 0.05, 20), seeds
    result = statistics.compare(first, second, rng)
    assert result.p < 1e-4 and result.p_sign_flip < 1e-3 and result.correlation > 0.99
    assert result.improvement.value > 0.9
    unpaired = scipy.stats.ttest_ind(first, second)
    assert unpaired[1] > 0.5  # pyright: ignore[reportOperatorIssue]
    mirrored = statistics.compare(second, first, rng)
    assert mirrored.difference.value == -result.difference.value and mirrored.p == result.p


@pytest.mark.parametrize(
    ("stddev", "n", "difference"),
    # Of accuracy in points, 80% power at 0.05: from a table of sample sizes for pairs that are
    # correlated by .5, whose differences have the standard deviation of one.
    [(0.13, 16, 0.1), (0.2, 34, 0.1), (0.13, 56, 0.05)],
)
def test_the_detectable_difference_equals_that_of_power_tables(stddev, n, difference):
    assert statistics.detectable_difference(stddev, n) == pytest.approx(difference, rel=0.03)


def test_p_values_of_constant_differences_are_those_of_a_sign_test(rng):
    result = statistics.compare([0.1135] * 5, [0.1135] * 5, rng, margin=0.001)
    assert (result.p, result.p_sign_flip, result.p_equivalence) == (1, 1, 2**-5)
    assert result.difference == (0, 0, 0) and result.improvement.value == 0.5
    apart = statistics.compare([0.2] * 5, [0.1] * 5, rng, margin=0.001)
    assert (apart.p, apart.p_sign_flip, apart.p_equivalence) == (2**-4, 2**-4, 1)


def test_rounding_is_no_evidence(rng):
    """0.1 + 0.2 is not 0.3 in floating point; a test of the signs would find p = 2e-6."""
    result = statistics.compare([0.1 + 0.2] * 20, [0.3] * 20, rng, margin=0.001)
    assert result.difference.value != 0
    assert result.p == result.p_sign_flip == 1 and result.p_equivalence < 1e-5
    assert result.improvement.value == 0.5 and result.seeds_to_settle == np.inf
    values = rng.uniform(size=20)
    assert statistics.compare(3 * values, values + values + values, rng).p == 1
    # What a metric can't resolve is no evidence either, but what it can is.
    noise = rng.uniform(1e-8, 2e-8, 20)
    assert statistics.compare(values + noise, values, rng).p < 1e-6
    assert statistics.compare(values + noise, values, rng, resolution=2e-8).p == 1
    noise[19] = 0.1
    mixed = statistics.compare(values + noise, values, rng, resolution=2e-8)
    assert mixed.p == pytest.approx(scipy.stats.ttest_1samp([0] * 19 + [0.1], 0)[1])


@pytest.mark.parametrize("factor", [2.0**-100, 2.0**1000])
def test_results_do_not_depend_on_the_unit_even_near_overflow(factor, rng):
    first, second = rng.normal(0, 1, (2, 25))
    one = statistics.compare(first, second, np.random.default_rng(0), margin=0.1)
    other = statistics.compare(
        first * factor, second * factor, np.random.default_rng(0), margin=0.1 * factor
    )
    assert (other.p, other.p_sign_flip, other.p_equivalence) == (
        one.p, one.p_sign_flip, one.p_equivalence,
    )  # fmt: skip
    assert one.bootstrap and other.bootstrap
    np.testing.assert_allclose(other.difference, np.array(one.difference) * factor)
    np.testing.assert_allclose(other.bootstrap, np.array(one.bootstrap) * factor)
    assert other.detectable == pytest.approx(one.detectable * factor)


@pytest.mark.parametrize(
    ("difference", "stddev", "seeds"), [(0.1, 0.13, 16), (0.1, 0.2, 34), (0.05, 0.13, 56)]
)
def test_the_seeds_that_settle_a_difference_equal_those_of_power_tables(difference, stddev, seeds):
    assert statistics.seeds_to_settle(difference, stddev) == pytest.approx(seeds, abs=1)
    assert statistics.seeds_to_settle(-difference, stddev) == pytest.approx(seeds, abs=1)
    # Even a large difference needs six, or the sign-flip test can't find it.
    assert statistics.seeds_to_settle(100 * difference, stddev) == 6
    assert statistics.seeds_to_settle(0, stddev) == np.inf


def test_intervals_of_columns_are_those_of_each(rng):
    values = rng.normal(3, 2, (5, 4)) * [1, 1e-3, 1e30, 0]
    for column, interval in zip(values.T, statistics.mean_intervals(values).T, strict=True):
        np.testing.assert_allclose(interval, statistics.mean_interval(column), rtol=1e-12)


def test_a_few_equal_differences_are_not_significant(rng):
    """Accuracies over 10,000 images that differ twice by 0.0013, except for the last bit."""
    result = statistics.compare([0.9767, 0.9754], [0.9754, 0.9741], rng)
    assert 0 < np.ptp([0.9767 - 0.9754, 0.9754 - 0.9741]) < 1e-15
    assert result.p == result.p_sign_flip == 0.5


def test_the_share_of_improvements_has_its_coverage_with_ties(rng):
    """Of settings with discrete values, such as accuracies; ties count half."""
    first, second = rng.integers(0, 4, (2, 2000, 20)), rng.integers(0, 4, (2, 2000, 20))
    intervals = [
        statistics.share_interval(np.sum(a > b) + np.sum(a == b) / 2, 20)
        for a, b in zip(first[0], second[0], strict=True)
    ]
    assert covered(intervals, 0.5) > 0.94


def test_the_bootstrap_needs_twenty_values(rng):
    first, second = rng.normal(0, 1, (2, 20))
    result = statistics.compare(first, second, rng)
    assert result.bootstrap is not None and result.bootstrap.value == result.difference.value
    width = result.bootstrap.high - result.bootstrap.low
    assert 0.7 < width / (result.difference.high - result.difference.low) < 1
    assert statistics.compare(first[:19], second[:19], rng).bootstrap is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holms_p_values_keep_their_order_and_are_between_unadjusted_and_bonferronis(ps):
    adjusted = np.array(statistics.holm(ps))
    ps = np.array(ps)
    assert (adjusted >= ps).all() and (adjusted <= np.minimum(1, ps * len(ps)) + 1e-15).all()
    assert (np.diff(adjusted[np.argsort(ps, kind="stable")]) >= 0).all()


def test_holm_keeps_the_level_for_all_tests_together(rng):
    ps = rng.uniform(size=(4000, 10))
    any_found = [min(statistics.holm(row)) <= 0.05 for row in ps]
    assert np.mean(any_found) < 0.05 + 5 * (0.05 * 0.95 / 4000) ** 0.5


@pytest.mark.parametrize("draw", ["standard_normal", "standard_exponential", "standard_t"])
def test_with_many_seeds_approximations_are_as_close_as_samples(draw, rng):
    values = getattr(rng, draw)(*([4] if draw == "standard_t" else []), size=200)
    values += 0.12 - values.mean()
    found = statistics.bootstrap_interval(values, rng)
    sampled = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, rng=rng
    ).confidence_interval
    error = values.std() / 200**0.5
    # The standard error of a sampled bound is 0.02 of that of the mean.
    np.testing.assert_allclose(found[1:], sampled, atol=0.1 * error)
    flips = scipy.stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=5_000, rng=rng
    )
    assert statistics._sign_flip_test(values, rng) == pytest.approx(flips.pvalue, abs=0.03)


def test_where_one_seed_outweighs_all_others_signs_are_sampled(rng):
    """Half of all flips of the others add to it; a normal sum would make it 0.32."""
    values = rng.normal(0, 1, 60)
    values = np.append(values - values.mean(), 1000.0)
    assert statistics._tails(values) > 0.9
    assert statistics._sign_flip_test(values, rng) == pytest.approx(0.5, abs=0.05)


def test_a_t_test_is_that_of_scipy(rng):
    for n in (2, 7, 60):
        values = rng.normal(0.3, 1, n)
        for alternative in ("two-sided", "less", "greater"):
            expected = scipy.stats.ttest_1samp(values, 0.1, alternative=alternative)[1]
            assert statistics._t_test(values, 0.1, alternative) == expected
