"""A report says in three sentences what was compared, what won, and what follows."""

import re

import numpy as np

from experiments.common import comparison, summaries, sweep_directory


def sentences(directory, *rows):
    if rows:
        with sweep_directory.SweepDirectory(directory) as stored:
            stored.add(list(rows))
    return summaries.of_settings(comparison.settings(sweep_directory.read(directory)))


def test_what_won_is_told_with_its_certainty(tmp_path, fill):
    fill(tmp_path)
    compared, won, follows = sentences(tmp_path)
    assert compared.startswith("36 networks were trained: 3 initializers, 12 seeds each; with the")
    assert re.fullmatch(
        r"he_normal has the highest mean test accuracy after 2 epochs, 97\.\d\d% \(95% interval"
        r" 97\.\d\d% to 97\.\d\d%\); it is ahead of glorot_uniform by 0\.0\d points \(p = .*\);"
        r" zeros learned nothing\.",
        won,
    )
    assert follows.startswith("For this network and this training, use he_normal;")


def test_where_no_difference_was_found_it_says_what_would_be_found(tmp_path, row, rng):
    rows = [
        row(
            "he_normal", seed, rng, init=init, loss=[loss + noise, 0.1], val_acc=[0, 0, 0.97 + luck]
        )
        for init, loss in (("ones", 0.2), ("zeros", 0.3))
        for seed, (noise, luck) in enumerate(rng.normal(0, 0.001, (8, 2)))
    ]
    _, won, follows = sentences(tmp_path, *rows)
    assert re.search(r"not shown to differ from (ones|zeros), where 0\.\d\d points would have", won)
    assert re.fullmatch(
        r"Either of \w+ and \w+ will do here, but they start differently: in the first epoch, ones"
        r" has a lower loss than zeros; to tell .* at the end would take about [\d,]+ seeds\.",
        follows,
    )


def test_few_seeds_and_runs_that_learned_nothing_get_advice(tmp_path, row, rng, fill):
    fill(tmp_path / "few", seeds=3)
    assert sentences(tmp_path / "few")[2].startswith("3 seeds settle nothing: train at least 6")
    one = [row(init, 0, rng) for init in ("he_normal", "glorot_uniform")]
    assert sentences(tmp_path / "one", *one)[2].startswith("One seed can't tell whether that is")
    alone = [row("he_normal", seed, rng) for seed in range(2)]
    assert "takes another initializer to compare it with" in sentences(tmp_path / "a", *alone)[2]
    lost = [row("zeros", seed, rng, init=init) for init in ("zeros", "ones") for seed in range(6)]
    compared, won, follows = sentences(tmp_path / "lost", *lost)
    assert "12 networks" in compared and won == "None of them learned anything after 2 epochs."
    assert "python -m experiments.audit" in follows


def test_of_several_settings_the_wins_are_counted(tmp_path, row, rng):
    """One is always best, one is behind where the activation is relu, one never learns."""
    rows = [
        row("he_normal", seed, rng, init=init, activation=activation, val_acc=[0, 0, acc + noise])
        for activation, accs in (("relu", (0.97, 0.9, 0.1135)), ("tanh", (0.97, 0.97, 0.1135)))
        for init, acc in zip(("ones", "identity", "zeros"), accs, strict=True)
        for seed, noise in enumerate(np.where(acc > 0.2, rng.normal(0, 0.003, 6), 0))
    ]
    compared, won, follows = sentences(tmp_path, *rows)
    assert compared.startswith("36 networks were trained: 3 initializers in 2 settings, 6 seeds")
    assert won == (
        "ones is the best, or not shown to be behind the best, in 2 of 2 settings, more than any"
        " other (identity in 1, zeros in 0); zeros learned nothing in any."
    )
    assert follows == "ones is a safe choice in all of these settings."


def test_initializers_are_compared_at_their_best_learning_rates(tmp_path, row, rng):
    """Only one setting takes every initializer, the one at the best rates."""
    rows = [
        row("he_normal", seed, rng, init=init, learning_rate=rate, val_acc=[0, 0, acc + noise])
        for init, rate, acc in (("ones", 0.1, 0.97), ("zeros", 0.01, 0.9))
        for seed, noise in enumerate(rng.normal(0, 0.003, 6))
    ]
    won = sentences(tmp_path, *rows)[1]
    assert won.startswith(
        "ones has the highest mean test accuracy after 2 epochs, each at its best"
    )
    assert "it is ahead of zeros by 7" in won.replace("6.9", "7")
