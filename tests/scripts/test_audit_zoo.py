"""Nine models get the right verdict; `scripts/audit_evidence.py` audits all."""

import importlib
import pathlib

import pytest

import initjax

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(SCRIPTS)
    EVIDENCE = importlib.import_module("audit_evidence")
    FAULTY = importlib.import_module("audit_zoo.faulty")
    HEALTHY = importlib.import_module("audit_zoo.healthy")
    PUBLISHED = importlib.import_module("published_models.registry").PUBLISHED


def audited(case):
    return initjax.audit(case.loss_fn, case.params, *case.batch(0), optimizer=case.optimizer)


@pytest.mark.parametrize(
    ("name", "framework", "verdict", "cause"),
    [
        ("constant", "NNX", "failure", "symmetry"),
        ("twin_branches", "Equinox", "warning", "duplicate"),
        ("sigmoid", "plain JAX", "failure", "vanishing"),
    ],
)
def test_a_planted_fault_is_found_and_named(name, framework, verdict, cause):
    case = getattr(FAULTY, name)()
    assert case.framework == framework and cause in case.causes
    report = audited(case)
    assert report.verdict == verdict
    assert cause in EVIDENCE.causes_of(report)


@pytest.mark.parametrize(
    ("name", "framework"),
    [
        ("he_mlp", "Linen"),
        ("lstm", "Linen, RNN"),
        ("equinox_mlp", "Equinox"),
        ("torch_gru", "plain JAX, lax.scan"),
        ("a2c", "Linen"),
        ("sac_actor", "Equinox"),
    ],
)
def test_a_healthy_model_raises_no_alarm(name, framework):
    makes = {make.__name__: make for make in (*HEALTHY.HEALTHY, *PUBLISHED)}
    case = makes[name]()
    assert case.framework == framework and case.causes == ()
    report = audited(case)
    assert (report.verdict, report.findings, report.unread) == ("ok", (), ())
