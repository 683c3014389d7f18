"""One model gets the right answer; `scripts/coordinate_evidence.py` checks all."""

import importlib
import pathlib

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(SCRIPTS)
    EVIDENCE = importlib.import_module("coordinate_evidence")
    CASES = importlib.import_module("width_zoo.cases")
    RIGHT = importlib.import_module("width_zoo.right")


def test_a_planted_error_is_named_and_its_remedy_gives_a_right_model():
    case = RIGHT.unit().wrong(
        "a rate that is too large in wide models",
        CASES.Mistake("learning_rate", 1.0, "b"),
        CASES.Label("b", "learning_rate", "grows", "after steps"),
    )
    result = EVIDENCE.check(case, steps=1, seeds=2)
    told = EVIDENCE.told_by(result)
    assert EVIDENCE.is_right(case, told, result.stable)
    assert not EVIDENCE.is_right(RIGHT.unit(), told, result.stable)
    EVIDENCE.check(EVIDENCE.remedied(case, told), steps=1, seeds=2).assert_stable()
