"""The published table compared with our runs."""

import numpy as np

from experiments.common import comparison, published, sweep_directory


def test_published_figures_are_compared_with_our_runs(tmp_path, fill):
    fill(tmp_path)  # two epochs, which is another setting
    (setting,) = comparison.settings(sweep_directory.read(tmp_path))
    assert published.compare(setting) == []
    five = {
        "epochs": 5,
        "loss": [0.3163 + 0.01, 1, 1, 1, 1],
        "acc": [0.9] * 5,
        "val_loss": [2.3] * 6,
        "val_acc": [0.1, 0.95, 0.96, 0.97, 0.97, 0.9769],
    }
    fill(tmp_path / "five", seeds=4, **five)
    (setting,) = comparison.settings(sweep_directory.read(tmp_path / "five"))
    rows = [line for line in published.compare(setting) if line["initializer"] == "he_normal"]
    assert len(rows) == 8
    first, last = rows[0], rows[-1]
    assert (first["metric"], first["published"], first["ours"]) == ("loss", "0.3163", "0.3263")
    assert first["our runs below it"] == "0%" and first["inside 95%"] == "no"
    assert last["metric"] == "val_acc" and last["inside 95%"] == "yes"


def test_the_interval_contains_one_more_run_in_95_of_100_cases(rng):
    """It is the prediction interval of a new run, not the interval of the mean."""
    draws = rng.normal(0.975, 0.0016, (2000, 6))
    inside = [published.inside(values[:5], values[5], rounding=0) for values in draws]
    assert abs(np.mean(inside) - 0.95) < 5 * (0.05 * 0.95 / 2000) ** 0.5
