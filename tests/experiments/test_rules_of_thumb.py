"""Rules of thumb: what is said about them follows from paired tests."""

import numpy as np
import pyarrow as pa

from experiments.common import depth_results, rules_of_thumb, sweep_directory, trainability

ORTHOGONAL = "orthogonal(scale=1.4142)"


def grid(row, accuracies, seeds=6, activation="relu"):
    """A grid with one cell per depth and initializer, of a mean accuracy."""
    rng, rows = np.random.default_rng(0), []
    for depth, by_init in accuracies.items():
        for init, mean in by_init.items():
            for seed in range(seeds):
                acc = mean + np.random.default_rng(seed).normal(0, 0.01) + rng.normal(0, 0.002)
                rows.append(
                    row(
                        "zeros", seed, rng,
                        key=f"{depth} {init} {seed}", init=init, activation=activation,
                        model="mlp", inputs="unit", hidden=[16] * depth, epochs=1, steps=50,
                        learning_rate=0.1 / depth,
                        loss=[1.0], acc=[acc], val_loss=[2.3, 1 - acc], val_acc=[0.1, acc],
                        step_loss=np.full(50, 1 - acc), step_acc=np.full(50, acc),
                    )
                )  # fmt: skip
    (found,) = trainability.grids(pa.Table.from_pylist(rows, sweep_directory.SCHEMA))
    return found


def test_a_rule_holds_is_outdone_fails_or_does_not_matter_as_the_tests_say(row):
    he, glorot = "he_normal", "glorot_normal"
    found = grid(
        row,
        {
            2: {he: 0.9, glorot: 0.9, ORTHOGONAL: 0.9},
            4: {he: 0.9, glorot: 0.8, ORTHOGONAL: 0.9},
            6: {he: 0.8, glorot: 0.7, ORTHOGONAL: 0.9},
            8: {he: 0.7, glorot: 0.8, ORTHOGONAL: 0.9},
            10: {he: 0.11, glorot: 0.1, ORTHOGONAL: 0.1},
        },
    )
    outcomes = rules_of_thumb.outcomes(found)
    kinds = {outcome.depth: outcome.kind for outcome in outcomes}
    expected = ["no difference", "holds", "outdone", "fails", "nothing trains"]
    assert kinds == dict(zip((2, 4, 6, 8, 10), expected, strict=True))
    first, *others = rules_of_thumb.sentences(found)
    assert first.startswith('"He for relu" holds at depth 4; is outdone by kernels whose ')
    assert others[2].startswith(f"depth 6: {ORTHOGONAL} (by 9.9 ")
    assert "is ahead of he_normal; he_normal is ahead of glorot_normal (by 10.1 " in others[2]
    shown = "\n".join(depth_results.lines(found))
    assert "he_normal                 89." in shown or "he_normal                 90." in shown
    assert f"- depth 8: {ORTHOGONAL} is the best of 3" in shown


def test_a_rule_fails_if_any_independent_weights_are_ahead_however_they_are_named(row):
    cells = {4: {"he_normal": 0.8, "random_normal(stddev=0.3)": 0.9}}
    assert rules_of_thumb.outcomes(grid(row, cells))[0].kind == "fails"


def test_few_seeds_settle_nothing_and_activations_without_a_rule_have_no_sentences(row):
    cells = {4: {"he_normal": 0.9, "glorot_normal": 0.2}}
    (outcome,) = rules_of_thumb.outcomes(grid(row, cells, seeds=5))
    assert (outcome.kind, outcome.reason) == ("no difference", "5 seeds can't settle it")
    assert rules_of_thumb.sentences(grid(row, cells, activation="gelu")) == []
