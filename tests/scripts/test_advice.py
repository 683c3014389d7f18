"""The scripts behind `initjax.recommend`: what they train, and what they make of it."""

import importlib
import pathlib
import types

import pyarrow as pa
import pytest

import initjax

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    names = ("advice.held_out", "advice.grid", "advice.outcomes", "advice_table", "advice_check")
    modules = {name.removeprefix("advice."): importlib.import_module(name) for name in names}
    return types.SimpleNamespace(**modules)


def test_held_out_networks_are_within_the_table_but_not_in_it(scripts):
    held_out = scripts.held_out.HELD_OUT
    assert len(set(held_out)) == 30 and not set(held_out) & set(scripts.grid.SETTINGS)
    assert not set(scripts.held_out.SEEDS) & set(scripts.grid.SEEDS)
    for network in held_out:
        alike = [
            one for one in scripts.grid.SETTINGS if one[:2] + one[4:] == network[:2] + network[4:]
        ]
        for wider in (1, -1):
            for deeper in (1, -1):
                assert any(
                    wider * (one.width - network.width) >= 0
                    and deeper * (one.depth - network.depth) >= 0
                    for one in alike
                ), network


def test_candidates_are_the_choices_of_the_library(scripts):
    """They were written down before the table was made."""
    for network in scripts.held_out.HELD_OUT[::3]:
        advice = scripts.grid.advice(network)
        drawn = {scripts.grid.drawn(one) for one in (advice.choice, *advice.alternatives)}
        for one in scripts.held_out.candidates(network.kind, network.activation, network.depth):
            specs = initjax.get(one.init), initjax.get(one.bias_init)
            assert any(specs == tuple(map(initjax.get, other)) for other in drawn), (network, one)


def outcome(scripts, init, accuracies, trained=True):
    seeds = dict(enumerate(accuracies))
    return scripts.outcomes.Outcome(init, "zeros", 1e-3, seeds, dict.fromkeys(seeds, trained))


def test_the_rule_fails_advice_that_is_worse_or_does_not_train(scripts):
    good = outcome(scripts, "a", [0.90, 0.91, 0.92, 0.90])
    alike = outcome(scripts, "b", [0.91, 0.90, 0.92, 0.91])
    bad = outcome(scripts, "c", [0.80, 0.82, 0.82, 0.81])
    failed = outcome(scripts, "d", [0.11, 0.11, 0.11, 0.11], trained=False)
    check = scripts.advice_check.check
    assert check(good, [alike, bad])[:2] == (True, [])
    assert check(bad, [good, failed]).worse_than == ["a"]
    assert check(failed, [bad])[:2] == (False, ["c"])
    assert check(failed, [failed._replace(init="e")])[:2] == (True, [])
    difference = scripts.outcomes.difference(good, bad, [0, 1, 2, 3], 1)
    assert difference.mean == pytest.approx(0.095)
    assert difference.low == pytest.approx(0.095 - 3.1824 * 0.0057735 / 2, abs=1e-4)


def test_rows_of_a_table_are_made_from_runs(scripts, monkeypatch):
    from experiments.common import sweep_directory

    network = scripts.held_out.HeldOut("plain", "tanh", 16, 4)
    rows = []
    for init in ("lecun_normal", "orthogonal"):
        for rate in (1e-3, 1e-2):
            for seed in range(5):
                config = scripts.grid.config(network, init, "zeros", rate, seed)
                accuracy = 0.9 - 0.1 * (init == "orthogonal") - 0.2 * (rate == 1e-2) + 0.01 * seed
                row = dict.fromkeys(sweep_directory.SCHEMA.names)
                row |= {name: getattr(config, name, None) for name in row}
                row |= {"dataset": "mnist", "digest": "x", "guess_acc": 0.11, "test_images": 10000}
                row |= {"classes": 10, "loss": [1.0], "val_loss": [1.0], "val_acc": [accuracy]}
                row |= {"acc": [0.5], "step_loss": [1.0, 1 - accuracy], "step_acc": [0.1, 0.2]}
                rows.append(row)
    runs = pa.Table.from_pylist(rows, sweep_directory.SCHEMA)
    monkeypatch.setattr(sweep_directory, "read", lambda directory: runs)
    table = scripts.advice_table.table(scripts.outcomes.read([pathlib.Path("runs")]))
    best, other = table.rows
    assert (table.steps, table.batch_size, table.data, table.rates) == (
        300,
        64,
        "standardized mnist",
        2,
    )
    assert best[:11] == (
        "plain",
        "tanh",
        "adam",
        16,
        4,
        "lecun_normal",
        "lecun_normal",
        "zeros",
        1e-3,
        5,
        5,
    )
    assert best.accuracy == pytest.approx(0.92) and best.difference == best.low == best.high == 0
    assert other.name == "orthogonal" and other.difference == pytest.approx(-0.1)
    assert other.high == pytest.approx(-0.1, abs=1e-6)  # the difference is the same for all seeds
