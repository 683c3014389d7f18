"""Comparisons: endpoints, the runs that are compared, and their differences."""

import numpy as np
import pytest
import scipy.stats

from experiments.common import comparison, statistics, sweep_directory

NAN = float("nan")


def settings(directory, *rows):
    if rows:
        with sweep_directory.SweepDirectory(directory) as stored:
            stored.add(list(rows))
    return comparison.settings(sweep_directory.read(directory))


def test_endpoints_are_computed_from_a_run(tmp_path, row, rng):
    """Its accuracy passes 0.95 at step 300, and the window of 100 steps does so 95 steps later."""
    step_acc = np.where(np.arange(938) < 300, 0.0, 1.0)
    step_loss = np.linspace(2, 0, 938)
    known = {
        "loss": [0.5, 0.2], "val_loss": [2.3, 0.4, 0.3], "val_acc": [0.1, 0.9, 0.97],
        "step_acc": step_acc, "step_loss": step_loss,
    }  # fmt: skip
    never = {**known, "step_acc": np.full(938, 0.9)}
    rows = [row("he_normal", 0, rng, **known), row("zeros", 0, rng, **never)]
    (setting,) = settings(tmp_path, *rows)
    he = {
        name: values[setting.inits.index("he_normal"), 0] for name, values in setting.values.items()
    }
    assert he == pytest.approx(
        {"final_acc": 0.97, "final_loss": 0.3, "first_loss": 0.5, "steps": 395, "area": 1.0}
    )
    assert setting.values["steps"][setting.inits.index("zeros"), 0] == np.inf
    assert setting.finite("steps")[setting.inits.index("zeros"), 0] == setting.steps == 938


@pytest.mark.parametrize(("acc", "learned"), [(0.1135, 0), (0.1290, 0), (0.1296, 1), (0.97, 1)])
def test_a_run_has_learned_five_standard_errors_above_guessing(acc, learned, tmp_path, row, rng):
    """0.1135 + 5 sqrt(0.1135 * 0.8865 / 10,000) = 0.1294."""
    (setting,) = settings(tmp_path, row("he_normal", 0, rng, val_acc=[0.1, 0.1, acc]))
    assert setting.trained.tolist() == [[learned]]


def test_a_run_that_diverged_counts_as_guessing_in_every_endpoint(tmp_path, row, rng):
    failed = {
        "status": "diverged", "loss": [0.4, NAN], "val_loss": [2.3, 0.4, NAN],
        "val_acc": [0.1, 0.9, 0.098], "step_loss": [*[1.0] * 469, *[NAN] * 469],
        "step_acc": [*[0.9] * 469, *[0.1] * 469],
    }  # fmt: skip
    rows = [row("he_normal", seed, rng) for seed in range(4)]
    rows += [row("glorot_uniform", seed, rng) for seed in range(3)]
    (setting,) = settings(tmp_path, *rows, row("glorot_uniform", 3, rng, **failed))
    place = setting.inits.index("glorot_uniform")
    values = {name: values[place, 3] for name, values in setting.values.items()}
    assert values["final_acc"] == 0.1135 and values["final_loss"] == pytest.approx(np.log(10))
    assert values["first_loss"] == 0.4  # before it diverged
    assert values["area"] == pytest.approx((1 + np.log(10)) / 2)
    assert setting.trained[place].tolist() == [1, 1, 1, 0]
    place = setting.runs["status"].to_pylist().index("diverged")
    assert comparison.column(setting.runs, "val_acc")[place].tolist() == [0.1, 0.9, 0.1135]
    # A run that never beats guessing is as good as one that diverged.
    stuck = {"val_acc": [0.1, 0.1, 0.1135], "val_loss": [2.3, 2.3, np.log(10)]}
    (other,) = settings(tmp_path / "stuck", *rows, row("glorot_uniform", 3, rng, **stuck))
    for endpoint in ("final_acc", "final_loss"):
        assert comparison.pairs(setting, endpoint) == comparison.pairs(other, endpoint)
    assert all(pair.comparison.n == 4 for pair in comparison.pairs(setting, "final_acc"))


def test_an_initializer_that_rarely_reaches_the_accuracy_is_not_ahead_in_steps(tmp_path, row, rng):
    """One reaches it in every run, the other sooner but only in one run of six."""

    def reaching(step):
        return {"step_acc": np.where(np.arange(938) < step, 0.0, 1.0)}

    rows = [row("he_normal", seed, rng, **reaching(300 + seed)) for seed in range(6)]
    rows += [row("zeros", seed, rng, **reaching(200 if seed == 0 else 938)) for seed in range(6)]
    (setting,) = settings(tmp_path, *rows)
    (pair,) = comparison.pairs(setting, "steps")
    better = 1 if pair.first == "he_normal" else -1
    assert pair.comparison.n == 6 and better * pair.comparison.difference.value < -400
    lines = {line["init"]: line for line in comparison.table(setting)}
    assert lines["zeros"]["reached"] == 1 and lines["he_normal"]["reached"] == 6
    assert lines["zeros"]["steps"].value == pytest.approx((295 + 5 * 938) / 6)


def test_pairs_use_shared_seeds_and_p_values_are_adjusted_for_all_pairs(tmp_path, fill):
    fill(tmp_path)
    (setting,) = settings(tmp_path)
    values = setting.values["final_acc"]
    pairs = comparison.pairs(setting, "final_acc")
    places = [(setting.inits.index(pair.first), setting.inits.index(pair.second)) for pair in pairs]
    raw = [scipy.stats.ttest_rel(values[i], values[j])[1] for i, j in places]
    np.testing.assert_allclose([pair.comparison.p for pair in pairs], raw)
    np.testing.assert_allclose([pair.p for pair in pairs], statistics.holm(raw))
    assert max(pair.p for pair in pairs) > 1.5 * min(raw)
    equivalence = [pair.comparison.p_equivalence for pair in pairs]
    assert [pair.p_equivalence for pair in pairs] == statistics.holm(equivalence)
    for pair, (i, j) in zip(pairs, places, strict=True):
        assert pair.comparison.difference == statistics.mean_interval(values[i] - values[j])


def test_a_detectable_difference_is_found_after_adjusting_for_all_pairs(rng, tmp_path, row):
    """Seven initializers: Holm's p is below 0.05 for at least 80% of such differences."""
    noise = rng.normal(0, 1, (300, 7, 30))
    alpha = 0.05 / 21
    shift = statistics.detectable_difference(2**0.5, 30, alpha)
    found = []
    for values in noise:
        values[0] += shift
        ps = [
            scipy.stats.ttest_rel(values[i], values[j])[1]
            for i in range(7)
            for j in range(i + 1, 7)
        ]
        found.append(statistics.holm(ps)[0] <= 0.05)
    assert np.mean(found) > 0.8 - 5 * (0.8 * 0.2 / 300) ** 0.5
    # `pairs` uses that level.
    rows = [
        row("he_normal", seed, rng, init=f"normal({init})", val_acc=[0.1, 0.9, rng.uniform(0.9, 1)])
        for seed in range(10)
        for init in range(1, 5)
    ]
    (setting,) = settings(tmp_path, *rows)
    for pair in comparison.pairs(setting, "final_acc"):
        level = statistics.detectable_difference(pair.comparison.stddev, 10, 0.05 / 6)
        assert pair.comparison.detectable == pytest.approx(level)


def test_initializers_are_compared_at_each_learning_rate_and_at_their_best(
    tmp_path, row, fill, rng
):
    """The best by the last training loss, not the largest rate or the best test accuracy."""
    fill(tmp_path, seeds=3)
    fill(tmp_path, seeds=3, learning_rate=0.01, loss=[0.2, 0.01], val_acc=[0.1, 0.9, 0.93])
    fill(tmp_path, seeds=3, learning_rate=0.1, loss=[0.1, 0.05], val_acc=[0.1, 0.9, 0.99])
    # A lucky rate with fewer seeds is not chosen.
    lucky = row("he_normal", 0, rng, learning_rate=1.0, loss=[0.1, 0.001])
    found = settings(tmp_path, lucky)
    assert [setting.fields["learning_rate"] for setting in found] == [0.001, 0.01, 0.1, 1.0, None]
    assert set(found[-1].runs["learning_rate"].to_pylist()) == {0.01} and len(found[-1].runs) == 9


def test_settings_differ_by_data_and_by_every_initializer(tmp_path, row, rng):
    """Copies are the same data; different data of the same name are not."""
    found = settings(
        tmp_path,
        row("he_normal", 0, rng),
        row("he_normal", 1, rng, dataset="a copy"),
        row("he_normal", 0, rng, digest="other"),
        row("he_normal", 0, rng, output_init="zeros"),
    )
    assert sorted(len(setting.runs) for setting in found) == [1, 1, 2]


def test_rows_without_steps_still_have_the_other_endpoints(tmp_path, fill):
    fill(tmp_path)
    (setting,) = comparison.settings(
        sweep_directory.read(tmp_path).drop_columns(["step_loss", "step_acc"])
    )
    assert set(setting.values) == {"final_acc", "final_loss", "first_loss"}
    assert "reached" not in comparison.table(setting)[0]
