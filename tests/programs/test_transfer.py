"""`python -m experiments.transfer`: the grid that the flags name, and what a run leaves."""

import csv
import json

import pytest

from experiments import transfer
from experiments.common import command_line
from experiments.common.config import UsageError


@pytest.fixture
def flags(monkeypatch):
    """Sets flags of the program, in this process."""

    def given(**values):
        transfer._FLAGS.mark_as_parsed()
        for name in transfer._FLAGS:
            default = transfer._FLAGS[name].default
            monkeypatch.setattr(transfer._FLAGS[name], "value", values.get(name, default))

    return given


def test_the_grid_has_a_run_for_each_scheme_size_rate_and_seed(flags):
    flags(width="32,8,16", depth="2", learning_rate="0.001:0.0079", seeds="2")
    found = transfer.grid()
    assert len(found) == 2 * 2 * 3 * 3
    assert [config.seed for config in found[:18]] == [0] * 18  # so that a part is a fair sample
    assert {config.base for config in found} == {(8, 8)}
    assert {config.hidden for config in found} == {(8, 8), (16, 16), (32, 32)}
    assert {config.learning_rate for config in found} == {0.001, 0.002, 0.004}
    flags(width="8", depth="2,4", residual=True, scheme="completep")
    found = transfer.grid()
    assert {(config.hidden, config.base) for config in found} == {
        ((8,) * 2,) * 2,
        ((8,) * 4, (8,) * 2),
    }
    assert max(config.learning_rate or 0 for config in found) == 0.032


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": "8"}, "--width=8 --depth=3: give several widths and one depth, or"),
        ({"depth": "2,4"}, "--width=32,64,128,256 --depth=2,4: give several widths and one"),
        ({"width": "8", "depth": "2,4"}, "--depth=2,4: --model=mlp can't grow in depth"),
        ({"width": "0,8"}, "--width=0: must be at least 1"),
        ({"scheme": "mupp"}, "--scheme=mupp: did you mean mup"),
        ({"optimizer": "adamm"}, "--optimizer=adamm: did you mean adam"),
        ({"learning_rate": "0.1:0.01"}, "--learning_rate=0.1:0.01: must be numbers separated by"),
        ({"learning_rate": "0:1"}, "--learning_rate=0:1: must be numbers separated by commas, or"),
        ({"learning_rate": "a:b"}, "--learning_rate=a:b: must be numbers separated by commas, or"),
        ({"learning_rate": "1,x"}, "--learning_rate=1,x: must be numbers separated by commas"),
    ],
)
def test_a_wrong_flag_is_named_with_what_is_valid(flags, given, message):
    flags(**given)
    with pytest.raises(UsageError) as error:
        transfer.grid()
    assert str(error.value).startswith(message)


def test_runs_are_trained_once_and_told_drawn_and_stored(flags, folder, tmp_path, capsys):
    flags(
        width="8,16", depth="1", scheme="mup", steps=20, learning_rate="0.004,0.008,0.016",
        seeds="2", data_dir=folder, workdir=str(tmp_path),
    )  # fmt: skip
    transfer.main()
    first = capsys.readouterr().out
    assert "\nruns    12, of which 0 are finished; on " in first
    transfer.main()
    second = capsys.readouterr().out
    assert "\nruns    12, of which 12 are finished; on " in second
    lines = [line for line in first.splitlines() if str(tmp_path) not in line]
    assert not [line for line in lines if len(line) > 80]
    assert (
        first.partition("\nMLP, depth 1, relu; ")[2]
        == second.partition("\nMLP, depth 1, relu; ")[2]
    )
    record = json.loads((tmp_path / "transfer.json").read_text())
    assert [len(scheme["losses"]) for scheme in record["schemes"]] == [2]
    assert record["conclusions"] and record["fields"]["base"] == [8]
    with (tmp_path / "best_rates.csv").open(newline="") as file:
        assert [line["width"] for line in csv.DictReader(file)] == ["8", "16"]
    assert (tmp_path / "transfer.png").read_bytes().startswith(b"\x89PNG")


def test_help_explains_all_flags():
    names = {name for group in transfer._GROUPS.values() for name in group}
    assert names - {"help"} <= {*transfer._FLAGS}
    text = command_line.parse(transfer._PROGRAM, ["transfer", "--help"])
    assert isinstance(text, str)
    assert all(f"\n{group}:\n" in text for group in transfer._GROUPS)
    assert all(f"\n  --{name}\n" in text for name in names)
