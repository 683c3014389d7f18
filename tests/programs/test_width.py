"""`python -m experiments.width`: what it finds, writes and prints, and what it refuses."""

import json
import subprocess
import sys

import pytest

from experiments import width
from experiments.common.config import UsageError


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the program in this process and returns what it prints."""
    width._FLAGS.mark_as_parsed()

    def start(**values):
        for name, value in {"workdir": str(tmp_path / "out"), **values}.items():
            monkeypatch.setattr(width._FLAGS[name], "value", value)
        width.main()
        return capsys.readouterr().out

    return start


def test_a_scheme_that_is_not_stable_is_told_from_one_that_is(run, folder, tmp_path):
    options = {"widths": "16,256", "batch_size": 32, "steps": 1, "seeds": 1}
    output = run(**options, data_dir=folder)
    *_, standard, mup, _, results, repeat = output.splitlines()
    assert standard == "verdict standard: not stable; at fault: hidden/1/kernel, output/kernel"
    assert mup == "verdict mup: stable"
    assert results == f"results {tmp_path / 'out'}"
    assert all(f"--{name}={value}" in repeat for name, value in options.items())
    assert all(len(line) <= 80 for line in output.splitlines()[:10])

    found = json.loads((tmp_path / "out/coordinates.json").read_text())["schemes"]
    assert list(found) == ["standard", "mup"]
    assert found["mup"]["stable"] and not found["standard"]["stable"]
    # The narrowest network is the base network, which no scheme changes.
    assert found["mup"]["loss"][0] == found["standard"]["loss"][0]
    assert found["mup"]["loss"][1] != found["standard"]["loss"][1]
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["config"]["widths"] == [16, 256] and config["config"]["depth"] == 2
    assert (tmp_path / "out/coordinates.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"widths": "64"}, "--widths=64: must be at least two sizes"),
        ({"widths": "64,b"}, "--widths=64,b: must be integers"),
        ({"widths": "0,8"}, "--widths=0,8: every size must be at least 1"),
        ({"model": "transformer", "widths": "8,30"}, "--widths=8,30: 30 can't be divided among"),
        ({"depth": 0}, "--depth=0: must be at least 1"),
        ({"seeds": 0}, "--seeds=0: must be at least 1"),
        ({"steps": 0}, "--steps=0: must be at least 1"),
        ({"scheme": "mup,mop"}, "--scheme=mop: did you mean mup?"),
        ({"scheme": "u_mup", "optimizer": "sgd"}, "--scheme=u_mup has no rules for --optimizer"),
        ({"model": "a:b"}, "--scheme=standard is not for a network of your own"),
        ({"workdir": "."}, "--workdir=. is not empty"),
    ],
)
def test_a_wrong_value_is_named(run, values, words):
    with pytest.raises(UsageError) as error:
        run(**values)
    assert str(error.value).startswith(words)


def test_flags_are_checked_before_jax_is_imported():
    code = "import sys; from experiments import width; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {name for names in width._GROUPS.values() for name in names} == {
        *width._FLAGS,
        "help",
    }
