"""The boundary of a trainability diagram is found where it is known, with an honest interval."""

import dataclasses

import numpy as np
import pytest

from experiments.common import boundary, published

DEPTHS = np.unique(np.geomspace(5, 120, 16).round())
SCALES = np.array([3.6, 5, 8, 16, 40, 900, np.inf, 60, 20, 12, 9, 7])


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(boundary, "_RESAMPLES", 200)


def diagram(rng, k, limit, steepness=8.0, seeds=4):
    """Networks of the model that is fitted."""
    margin = steepness * np.log(np.minimum(k * SCALES, limit) / DEPTHS[:, None])
    chance = 1 / (1 + np.exp(-margin))
    return (rng.random((*chance.shape, seeds)) < chance[:, :, None]).astype(float)


@pytest.mark.parametrize(("k", "limit"), [(6.0, 70.0), (4.5, np.inf)])
def test_the_parameters_are_found_and_are_in_their_intervals(rng, k, limit):
    found = boundary.fit_boundary(DEPTHS, SCALES, diagram(rng, k, limit))
    assert found is not None and found.k_over_seeds is not None
    assert abs(found.k.value / k - 1) < 0.15
    for interval in (found.k, found.k_over_seeds):
        assert interval.low <= interval.value <= interval.high
        assert interval.low <= k <= interval.high < 1.6 * interval.low
    # What isn't in the diagram is not made up.
    assert found.limit.low <= limit <= found.limit.high if limit < 100 else found.limit.high > 100
    assert found.correlation.value > 0.6 and found.right > 0.85
    edges = found.depths[:2] / (k * SCALES[:2])
    assert (np.abs(np.log(edges)) < 0.4).all()


def test_a_clean_gap_has_its_boundary_well_inside_and_missing_networks_are_left_out():
    trained = (DEPTHS[:, None] < 5 * SCALES).astype(float)[:, :, None]
    trained[-1, 0] = np.nan
    found = boundary.fit_boundary(DEPTHS, SCALES, trained)
    assert found is not None and found.k_over_seeds is None  # one seed
    assert found.right > 0.99 and found.limit.value == np.inf
    above, below = DEPTHS[DEPTHS > 5 * SCALES[0]][0], DEPTHS[DEPTHS < 5 * SCALES[0]][-1]
    assert 1.1 * below < found.depths[0] < above / 1.1
    assert found.depths[6] == DEPTHS[-1]  # all trained


def test_an_infinite_scale_stays_infinite_if_no_other_column_trains():
    trained = np.zeros((5, 4, 2))
    trained[:2, 3] = 1
    scales = np.array([3.0, 6.0, 12.0, np.inf])
    found = boundary.fit_boundary(np.array([5, 10, 20, 40, 80]), scales, trained)
    assert found is not None
    assert (found.k.value, found.right) == (0, 1) and 10 < found.limit.value < 20


def test_there_is_no_boundary_where_all_or_none_train_or_of_two_columns():
    shape = (len(DEPTHS), len(SCALES), 2)
    assert boundary.fit_boundary(DEPTHS, SCALES, np.ones(shape)) is None
    assert boundary.fit_boundary(DEPTHS, SCALES, np.zeros(shape)) is None
    two = (DEPTHS[:, None] < 5 * SCALES[:2]).astype(float)[:, :, None]
    assert boundary.fit_boundary(DEPTHS, SCALES[:2], two) is None


def test_the_published_diagram_has_other_ks_in_the_ordered_and_in_the_chaotic_phase():
    """Golden numbers: 6 of the paper is that of the ordered phase, others draw 4.5 for both."""
    whole = published.published_diagram()
    assert whole.accuracy.shape == (91, 90, 1) and whole.accuracy[0, 0] == 0.746
    thinned = {"depths": whole.depths[::2], "weight_variances": whole.weight_variances[::2]}
    found = dataclasses.replace(whole, accuracy=whole.accuracy[::2, ::2], **thinned)
    assert found.critical == pytest.approx(1.760955, abs=1e-6)
    assert found.ordered and found.chaotic
    assert found.ordered.k.low < 6 < found.ordered.k.high
    assert 4.7 < found.chaotic.k.low < found.chaotic.k.high < 5.1
    assert found.ordered.correlation.value > 0.95 and found.chaotic.correlation.low > 0.95
