"""Four models get the right answer; `scripts/coordinate_evidence.py` checks all."""

import importlib
import pathlib

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(SCRIPTS)
    EVIDENCE = importlib.import_module("coordinate_evidence")
    RIGHT = importlib.import_module("width_zoo.right")
    PLANTED = importlib.import_module("width_zoo.planted")


@pytest.mark.parametrize("name", ["unit", "normed_sgd"])
def test_a_right_model_is_stable(name):
    case = getattr(RIGHT, name)()
    result = EVIDENCE.check(case, steps=2)
    result.assert_stable()
    assert EVIDENCE.is_right(case, EVIDENCE.told_by(result), result.stable)


@pytest.mark.parametrize("name", ["stacked_rate", "gain_rate"])
def test_a_planted_error_is_named_and_its_remedy_works(name):
    case = getattr(PLANTED, name)()
    result = EVIDENCE.check(case, steps=2)
    told = EVIDENCE.told_by(result)
    assert EVIDENCE.is_right(case, told, result.stable)
    EVIDENCE.check(EVIDENCE.remedied(case, told), steps=2).assert_stable()
