"""The commands of a report train the runs that it shows."""

import copy
import shlex

import pytest

from experiments import depth, sweep
from experiments.common import commands, sweep_directory
from experiments.common.config import Config, canonical

_AXES = ("init", "seed", "hidden", "activation", "optimizer", "learning_rate")
_FLAGS = {program: copy.deepcopy(program._FLAGS) for program in (sweep, depth)}
_COMMON = (
    *("epochs", "steps", "batch_size", "output_init", "bias_init", "dtype", "inputs"),
    *("scheme", "base"),
)


def named(command, monkeypatch):
    """The runs that a command trains."""
    *program, workdir = shlex.split(command)
    assert program[:2] == ["python", "-m"] and workdir == "--workdir=my runs"
    module = {"experiments.sweep": sweep, "experiments.depth": depth}[program[2]]
    values = copy.deepcopy(_FLAGS[module])
    values(program[2:])
    monkeypatch.setattr(module, "_FLAGS", values)
    return [key(vars(config)) for config in module.grid()]


def key(fields):
    fields = {**fields, "init": canonical(fields["init"]), "hidden": tuple(fields["hidden"])}
    fields["base"] = fields.get("base") and tuple(fields["base"])
    return tuple(fields.get(name) for name in (*_AXES, *_COMMON))


def of_rows(directory, row, rng, changes):
    rows = [row("he_normal", change["seed"], rng, **change) for change in changes]
    with sweep_directory.SweepDirectory(directory) as stored:
        stored.add(rows)
    return rows, commands.of_runs(sweep_directory.read(directory, steps=False), "my runs")


def test_the_commands_train_exactly_the_runs_that_are_there(tmp_path, row, rng, monkeypatch):
    inits = ["he_normal", "random_uniform(minval=-0.1, maxval=0.1)"]
    changes = [
        {
            "init": init,
            "seed": seed,
            "hidden": hidden,
            "optimizer": optimizer,
            "learning_rate": rate,
        }
        for init in inits
        for seed in (2, 5, 6)
        for hidden in ([128, 64], [32] * 9)
        for optimizer, rate in (("adam", 0.001), ("sgd", 0.3), ("sgd", 1e-5))
    ]
    changes += [{"init": "zeros", "seed": 0, "bias_init": "ones", "batch_size": 64}]
    changes += [{"seed": 3, "hidden": [64] * 9, "scheme": "mup", "base": [32] * 9, "epochs": 5}]
    rows, found = of_rows(tmp_path, row, rng, changes)
    assert len(found) == 4 and any("--hidden=9x32" in command for command in found)
    trained = [run for command in found for run in named(command, monkeypatch)]
    assert sorted(trained, key=str) == sorted(map(key, rows), key=str)


def test_one_command_completes_a_grid_that_was_filled_in_part(tmp_path, row, rng, monkeypatch):
    grid = [(init, seed) for init in ("he_normal", "zeros", "ones") for seed in range(5)]
    changes = [
        {"init": init, "seed": seed, "activation": activation}
        for place, (init, seed) in enumerate(grid)
        for activation in ("relu", "tanh")
        if rng.random() < 0.7 or place in (0, len(grid) - 1)
    ]
    rows, (command,) = of_rows(tmp_path, row, rng, changes)
    trained = named(command, monkeypatch)
    assert len(trained) == 30 and set(map(key, rows)) < set(trained)
    assert Config().epochs == 5 and "--epochs=2" in command


@pytest.mark.parametrize("rate", [lambda depth: 0.01, lambda depth: float(f"{0.1 / depth:.6g}")])
@pytest.mark.parametrize("by_variance", [True, False])
def test_networks_of_many_depths_take_one_command(
    rate, by_variance, tmp_path, row, rng, monkeypatch
):
    drawn = "variance_scaling(scale=1.76, mode='fan_in', distribution='normal')"
    bias = "random_normal(stddev=0.223607)" if by_variance else "zeros"
    changes = [
        {"init": init, "bias_init": bias, "seed": seed, "hidden": [16] * depth, "epochs": 1}
        | {"steps": 50, "learning_rate": rate(depth), "inputs": "standardized"}
        for init in ([drawn, drawn.replace("1.76", "2.0")] if by_variance else ["zeros", "ones"])
        for seed in (0, 1)
        for depth in (3, 7, 30, 31, 64, 100)
    ]
    rows, (command,) = of_rows(tmp_path, row, rng, changes)
    assert ("--weight_variance=1.76,2 --bias_variance=0.05" in command) == by_variance
    assert sorted(named(command, monkeypatch)) == sorted(map(key, rows))
