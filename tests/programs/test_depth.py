"""`python -m experiments.depth`: the grid that the flags name, and what its results say."""

import csv
import json
import os
import subprocess
import sys

import pytest

from experiments import depth
from experiments.common.config import UsageError

# Halves the compilation time of XLA, for tests that don't check bits.
FAST = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}


def run(*flags, cwd):
    command = [sys.executable, "-m", "experiments.depth", *flags]
    return subprocess.run(command, cwd=cwd, env=FAST, capture_output=True, text=True, timeout=300)


@pytest.fixture
def grid(monkeypatch):
    """Makes the grid of some flags, in this process."""

    def make(**given):
        values = {"weight_variance": None, "bias_variance": None, "init": None, **given}
        depth._FLAGS.mark_as_parsed()
        for name, value in values.items():
            monkeypatch.setattr(depth._FLAGS[name], "value", value)
        return depth.grid()

    return make


def test_the_grid_has_a_run_for_each_variance_depth_rate_and_seed(grid):
    found = grid(weight_variance="1,2", depth="3,20", learning_rate="0.1/depth,0.01", seeds="2")
    assert len(found) == 2 * 2 * 2 * 2
    assert [config.seed for config in found[:8]] == [0] * 8  # so that a part is a fair sample
    assert found[0].init == 'variance_scaling(1.0, "fan_in", "normal")'
    assert found[0].bias_init == "random_normal(stddev=0.223607)"
    assert (found[0].hidden, found[0].learning_rate) == ((128,) * 3, 0.0333333)
    assert {config.learning_rate for config in found} == {0.0333333, 0.005, 0.01}
    assert (found[0].inputs, found[0].steps) == ("standardized", 300)


def test_a_rate_that_two_flags_name_at_some_depth_is_trained_once(grid):
    found = grid(weight_variance="1", depth="5,10", learning_rate="0.01,0.1/depth", seeds="2")
    rates = [(len(one.hidden), one.learning_rate) for one in found if one.seed == 0]
    assert sorted(rates) == [(5, 0.01), (5, 0.02), (10, 0.01)] and len(found) == 6


def test_shards_add_up_to_the_grid_and_say_how_to_get_the_results(
    folder, tmp_path, grid, monkeypatch, capsys
):
    flags = {"depth": "2", "width": "8", "steps": 30, "learning_rate": "0.05", "seeds": "3"}
    monkeypatch.chdir(tmp_path)
    for shard, started, finished in (("0/2", 3, 0), ("1/2", 3, 0), ("0/1", 6, 6)):
        grid(**flags, init="zeros,he_normal", data_dir=folder, shard=shard)
        depth.main()
        text = capsys.readouterr().out
        assert f"\nruns    {started}, of which {finished} are finished" in text
        next_step = f"shard   {shard} is finished; when all 2 are, rerun without --shard for the"
        assert (next_step in " ".join(text.split("\n        "))) == (shard != "0/1")
        assert all(len(line) <= 80 for line in text.splitlines())
    assert "results runs/depth" in text


def test_initializers_come_without_biases_and_equal_ones_once(grid):
    found = grid(init="he_normal,kaiming_normal()", depth="2", learning_rate="0.1", seeds="1")
    assert [(one.init, one.bias_init) for one in found] == [("he_normal", "zeros")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"init": "zeros", "weight_variance": "1"}, "give either --init or --weight_variance"),
        ({"weight_variance": "1,x"}, "--weight_variance=1,x: must be numbers separated by commas"),
        ({"bias_variance": "-1"}, "--bias_variance=-1: must be a finite number of at least 0"),
        ({"depth": "0"}, "--depth=0: must be at least 1"),
        ({"depth": "2000"}, "2,000 hidden layers|1,001 hidden layers"),
        ({"width": "8.5"}, "--width=8.5: must be integers separated by commas"),
        ({"learning_rate": "0.1/width"}, "--learning_rate=0.1/width: must be numbers, or NUMBER/d"),
        ({"learning_rate": "nan/depth"}, "--learning_rate=nan: must be a finite number above 0"),
        ({"activation": "rleu"}, "--activation=rleu: did you mean relu"),
        ({"init": "he_norml"}, "--init: "),
    ],
)
def test_a_wrong_flag_is_named_with_what_is_valid(grid, given, message):
    with pytest.raises(UsageError, match=f"^({message})"):
        grid(**given)


FLAGS = ("--depth=2,6", "--width=8", "--steps=60", "--learning_rate=0.1/depth", "--seeds=2")


def test_a_diagram_is_printed_drawn_and_stored(folder, tmp_path):
    flags = ("--weight_variance=1,1.5,2", "--bias_variance=0.1", *FLAGS, f"--data_dir={folder}")
    result = run(*flags, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "\nruns    12, of which 0 are finished; on " in result.stdout
    (start,) = [place for place, line in enumerate(lines) if line.startswith("variance ")]
    assert lines[start].split() == ["variance", "1", "1.5", "2"]
    assert lines[start + 1].split()[:2] == ["depth", "2"]
    directory = tmp_path / "runs/depth"
    record = json.loads((directory / "depth.json").read_text())
    (diagram,) = record["diagrams"]
    assert diagram["weight_variances"] == [1, 1.5, 2] and diagram["depths"] == [2, 6]
    assert len(diagram["accuracy"][0][0]) == 2 and diagram["conclusions"]
    assert (directory / f"{diagram['name']}.png").read_bytes().startswith(b"\x89PNG")
    with (directory / "cells.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == 6 and {cell["runs"] for cell in cells} == {"2"}


def test_help_explains_all_flags(tmp_path):
    result = run("--help", cwd=tmp_path)
    assert result.returncode == 0 and result.stderr == ""
    for group, names in depth._GROUPS.items():
        assert f"\n{group}:\n" in result.stdout
        assert all(f"\n  --{name}\n" in result.stdout for name in names)
    assert {name for names in depth._GROUPS.values() for name in names} == {*depth._FLAGS, "help"}
