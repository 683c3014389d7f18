"""Published bugs build, and their labels are causes; `scripts/published_bugs_evidence.py` audits
and trains all."""

import importlib
import pathlib

import jax
import numpy as np
import pytest

from initjax.auditing._judging.causes import CAUSES

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(SCRIPTS)
    EVIDENCE = importlib.import_module("published_bugs_evidence")
    CASES = importlib.import_module("published_bugs.cases")
    BATCH = importlib.import_module("published_bugs.batch")
    REGISTRY = importlib.import_module("published_bugs.registry")

# Labels were written before these causes existed.
PLANNED = (
    "constant_output bounded_output double_softmax batch_coupling sum_loss target_scale"
    " no_activation first_layer attention_uniform attention_one_hot"
).split()
BUGS = [bug for group in REGISTRY.BUGS.values() for bug in group]


def test_every_bug_has_a_name_of_its_own_and_labels_that_are_causes():
    names = [each.name for each in (*BUGS, *REGISTRY.FRIENDS)]
    assert len(names) == len(set(names)) > 100
    for bug in BUGS:
        assert bug.causes and set(bug.causes) <= {*CAUSES, *PLANNED}, bug.name
        assert "->" in bug.says, bug.name


@pytest.mark.parametrize(
    "name", ["softmax(axis=0) in NNX (kin)", "SO48385830 (DeepLocalize, DeepFD)"]
)
def test_a_fault_and_its_repair_have_a_finite_loss_and_an_error(name):
    (bug,) = [bug for bug in BUGS if bug.name == name]
    for recipe in (bug.faulty, bug.repaired):
        apply, params = recipe.model(jax.random.key(0))
        x, y = recipe.data
        assert len(x) == len(y) == 256
        outputs = apply(params, x)
        assert np.isfinite(recipe.loss(outputs, y))
        assert 0.5 < float(CASES.error(outputs, y)) <= 10  # untrained


def test_errors_do_not_depend_on_the_scale_of_the_loss_or_of_the_targets():
    y = jax.numpy.arange(8.0)[:, None]
    wrong = y + 1
    assert float(CASES.error(wrong, y)) == pytest.approx(1 / 5.25)
    assert float(CASES.error(10 * wrong, 10 * y)) == pytest.approx(1 / 5.25)
    hot = jax.numpy.array([[0.0], [1], [1], [0]])
    assert float(CASES.error(jax.numpy.array([[-9.0], [3], [8], [-1]]), hot)) == 0
    assert float(CASES.error(jax.numpy.ones((4, 1)), hot)) == 0.5


def test_a_fault_that_costs_nothing_is_harmless():
    good, bad = [[0.2, 0.1]] * 3, [[0.5, 0.4], [0.6, 0.4], [0.5, 0.5]]
    assert EVIDENCE._harm(bad, good)
    assert not EVIDENCE._harm(good, good)
    assert not EVIDENCE._harm([[0.9, 0.9], [0.0, 0.0], [0.2, 0.1]], good)
