"""Titles say what was compared."""

from experiments.common import comparison, sweep_directory, titles


def settings(directory, *rows):
    with sweep_directory.SweepDirectory(directory) as stored:
        stored.add(list(rows))
    return comparison.settings(sweep_directory.read(directory))


def test_a_title_names_data_network_training_and_seeds(tmp_path, row, rng):
    rows = [row(init, seed, rng) for seed in range(2) for init in ("he_normal", "glorot_uniform")]
    found = settings(tmp_path, *rows)
    assert sorted(titles.title(found).partition(" on ")[0].split(" and ")) == [
        "glorot_uniform", "he_normal",
    ]  # fmt: skip
    assert titles.title(found).endswith(
        " on mnist: MLP with hidden layers 128-64, relu, adam, learning rate 0.001, batch 128,"
        " 2 seeds, 2 epochs"
    )
    assert titles.differences(found) == [{}]
    unusual = {"hidden": [], "dtype": "bfloat16", "output_init": "zeros"}
    found = settings(tmp_path / "other", row("he_normal", 0, rng, **unusual))
    assert titles.title(found) == (
        "he_normal on mnist: MLP without hidden layers, relu, bfloat16, adam, learning rate 0.001,"
        " batch 128, output zeros, 1 seed, 2 epochs"
    )


def test_a_title_counts_what_differs_and_many_initializers(tmp_path, row, rng):
    rows = [
        row("he_normal", 0, rng, init=f"normal({init})", learning_rate=rate, activation=activation)
        for init in range(1, 5)
        for rate in (0.1, 0.2)
        for activation in ("relu", "tanh")
    ]
    found = settings(tmp_path, *rows)
    assert titles.title(found) == (
        "4 initializers on mnist, in 6 settings (2 activations, 2 learning rates): MLP with hidden"
        " layers 128-64, adam, batch 128, 1 seed, 2 epochs"
    )
    labels = titles.differences(found)
    assert labels[0] == {"activation": "relu", "learning rate": "learning rate 0.1"}
    assert labels[-1] == {
        "activation": "tanh", "learning rate": "each at its best learning rate",
    }  # fmt: skip


def test_a_title_says_how_few_seeds_an_initializer_may_have(tmp_path, row, rng):
    rows = [row("he_normal", seed, rng) for seed in range(4)] + [row("glorot_uniform", 0, rng)]
    assert ", 1 to 4 seeds, 2 epochs" in titles.title(settings(tmp_path, *rows))
