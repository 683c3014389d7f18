"""`python -m experiments.recommend`: what it prints, and what it refuses."""

import subprocess
import sys

import pytest

import initjax
from experiments import recommend
from experiments.common.config import UsageError


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the program in this process and returns what it prints."""
    recommend._FLAGS.mark_as_parsed()

    def start(**values):
        for name, value in values.items():
            monkeypatch.setattr(recommend._FLAGS[name], "value", value)
        recommend.main()
        return capsys.readouterr().out

    return start


def test_the_advice_of_the_library_is_printed_in_80_columns(run):
    advice = initjax.recommend("gelu", 12, 768, residual=True, normalization="rms", attention=True)
    output = run(
        activation="gelu", depth=12, width=768, residual=True, normalization="rms", attention=True
    )
    assert output == f"{advice}\n" and all(len(line) <= 80 for line in output.splitlines())
    assert output.startswith("gelu network, 12 blocks of 768 units, residual, attention, rms norm")


def test_a_base_width_adds_the_parametrization(run):
    output = run(activation="relu", depth=2, width=256, base_width=64)
    assert output == f"{initjax.recommend('relu', 2, 256, base_width=64)}\n"
    assert "Width 64 to 256, by muP" in output and "  output       x0.25" in output


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"activation": "gleu"}, "--activation=gleu: did you mean gelu?"),
        ({"normalization": "weight"}, "--normalization=weight: must be one of none, layer"),
        ({"optimizer": "lion"}, "--optimizer=lion: must be one of adam"),
        ({"depth": 0}, "--depth=0: must be at least 1 and at most 1,000"),
        ({"width": -1}, "--width=-1: must be at least 1"),
        ({"base_width": 0}, "--base_width=0: must be at least 1"),
    ],
)
def test_a_wrong_value_is_named(run, values, words):
    with pytest.raises(UsageError) as error:
        run(**values)
    assert str(error.value).startswith(words)


def test_flags_are_checked_before_jax_is_imported():
    code = "import sys; from experiments import recommend; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {name for names in recommend._GROUPS.values() for name in names} == {
        *recommend._FLAGS,
        "help",
    }
