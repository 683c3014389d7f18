"""Every cause is found in the simplest model that has it, and in no model without it."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax._flattening import paths
from initjax.auditing._judging.causes import CAUSES
from tests.initjax.auditing.judged import (
    ALIKE,
    INPUTS,
    SHIFT,
    Model,
    X,
    audited,
    causes,
    identity,
    normal,
    params,
    relu,
    sine,
    square,
    tanh,
    with_value,
)


def test_a_network_on_the_critical_line_is_healthy():
    report = tanh(params())
    assert causes(report) == []
    assert report.verdict == "ok"
    assert causes(relu(params(gain=2.0))) == []


def constant(leaf):
    return np.full_like(leaf, 0.1)


@pytest.mark.parametrize(
    ("cause", "level", "network", "tree", "x"),
    [
        ("not_finite", "failure", tanh, params(out_bias=lambda b: with_value(b, 0, np.nan)), X),
        ("not_finite", "failure", tanh, params(), with_value(X, 0, np.inf)),
        ("not_finite", "failure", relu, params(gain=1e12), X),
        ("zero", "failure", tanh, params(stack_kernel=lambda k: with_value(k, 3, 0)), X),
        ("zero", "failure", tanh, jax.tree.map(np.zeros_like, params()), X),
        ("symmetry", "warning", tanh, params(stack_kernel=lambda k: with_value(k, 3, 0.1)), X),
        ("symmetry", "failure", tanh, jax.tree.map(constant, params()), X),
        ("duplicate", "warning", tanh, params(stack_kernel=lambda k: with_value(k, 3, -k[7])), X),
        ("input_scale", "warning", relu, params(gain=2.0), 10 * X),
        ("input_scale", "failure", tanh, params(), 255 * X),
        ("input_scale", "failure", relu, params(gain=2.0), 255 * X),
        ("input_scale", "warning", tanh, params(), X / 100),
        ("input_offset", "warning", tanh, params(), X / 10 + SHIFT),
        ("input_offset", "failure", relu, params(gain=2.0), X / 100 + SHIFT),
        ("first_layer", "warning", sine, params(in_kernel=lambda k: k / 50), X),
        ("no_activation", "warning", identity, params(gain=1.0), X),
        ("not_centered", "warning", relu, params(gain=2.0, in_kernel=lambda k: k + 0.1), X),
        ("not_centered", "failure", relu, params(gain=2.0, stack_kernel=np.abs), X),
        ("vanishing", "warning", tanh, params(gain=0.5), X),
        ("vanishing", "failure", tanh, params(gain=0.2), X),
        ("exploding", "failure", relu, params(gain=8.0), X),
        ("depth", "warning", tanh, params(biases=0.2), X),
        ("collapse", "warning", tanh, params(gain=1.0, biases=0.15), ALIKE),
        ("saturated", "warning", tanh, params(in_kernel=lambda k: 3 * k), X),
        ("saturated", "failure", tanh, params(in_kernel=lambda k: 20 * k), X),
        ("dead", "failure", relu, params(gain=2.0, stack_bias=lambda b: b - 1.0), X),
        ("output_scale", "warning", tanh, params(out_kernel=lambda k: 20 * k), X),
        ("output_scale", "failure", tanh, params(out_kernel=lambda k: 99 * k), X),
    ],
)  # fmt: skip
def test_a_fault_of_a_deep_network_is_found(cause, level, network, tree, x):
    found = causes(network(tree, x))
    assert (cause, level) in found
    if level == "warning":
        assert all(level == "warning" for _, level in found)


@pytest.mark.parametrize(
    ("cause", "network", "tree", "x"),
    [
        ("zero", tanh, params(stack_kernel=lambda k: with_value(k, 3, 0)), X),
        ("symmetry", tanh, params(stack_kernel=lambda k: with_value(k, 3, 0.1)), X),
        ("duplicate", tanh, params(stack_kernel=lambda k: with_value(k, 3, k[7])), X),
        ("not_centered", relu, params(gain=2.0, stack_kernel=np.abs, out_kernel=np.abs), X),
        ("vanishing", tanh, params(gain=0.2), X),
        ("exploding", relu, params(gain=8.0), X),
        ("input_scale", tanh, params(), 255 * X),
        ("input_offset", tanh, params(), 290 + 10 * X),
        ("output_scale", tanh, params(out_kernel=lambda k: 50 * k), X),
        ("collapse", tanh, params(gain=1.0, biases=0.15), ALIKE),
    ],
)
def test_what_follows_from_a_cause_is_not_reported(cause, network, tree, x):
    assert [found for found, _ in causes(network(tree, x))] == [cause]


def test_a_fault_beside_zeros_is_found_in_the_same_round():
    def with_zeros(stack):
        return with_value(with_value(stack, 3, 0), 7, 0.1)

    found = dict(causes(tanh(params(stack_kernel=with_zeros))))
    assert found.keys() == {"zero", "symmetry"}
    dead = params(stack_kernel=lambda k: with_value(k, 7, 0), in_bias=lambda b: b - 20, gain=2.0)
    assert dict(causes(relu(dead))).keys() == {"zero", "dead"}


def test_the_layers_at_fault_are_named_and_the_remedy_fits_them():
    (finding,) = tanh(params(stack_kernel=lambda k: with_value(k, 3, 0))).findings
    assert finding.layers == ("stack/kernel[3]",)
    assert "lecun_normal()" in finding.remedy
    (finding,) = tanh(params(stack_kernel=lambda k: with_value(k, 3, k[7]))).findings
    assert finding.layers == ("stack/kernel[3]", "stack/kernel[7]")
    assert "key" in finding.remedy
    (finding,) = tanh(params(out_bias=lambda b: b * np.nan)).findings
    assert finding.layers == ("out/bias",)
    (finding,) = relu(params(gain=8.0)).findings
    assert "he_normal()" in finding.remedy
    (finding,) = tanh(params(), 255 * X).findings
    assert finding.layers == ("in/kernel",) and " 255; " in finding.message
    (finding,) = relu(params(gain=1e12)).findings
    assert finding.layers[0] == "stack/kernel[6]" and "in/kernel" not in finding.layers


def test_a_readout_may_start_at_zero():
    assert causes(tanh(params(out_kernel=np.zeros_like))) == []


@pytest.mark.parametrize("gain", [10.0, 100.0])
def test_a_saturated_network_whose_gradients_explode_is_not_healthy(gain):
    found = [cause for cause, _ in causes(tanh(params(gain=gain)))]
    assert "saturated" in found or "exploding" in found


def test_healthy_networks_of_any_key_are_healthy():
    """In narrow networks chance makes many dead units; none of 20 may have a finding."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        drawn = jax.tree.map(
            lambda leaf, rng=rng: (leaf.std() * rng.normal(size=leaf.shape)).astype(np.float32),
            params(gain=2.0),
        )
        assert causes(relu(drawn)) == []


def test_parameters_that_do_not_affect_the_loss_are_found():
    tree = {"in": normal(1, INPUTS, 8), "lost": np.ones(3, np.float32)}
    assert audited(lambda p, x: square(x @ p["in"]), tree, X) == [("unused", "warning")]


def test_a_model_without_layers_gets_a_warning():
    tree = {"in": normal(1, INPUTS, 8)}
    assert audited(lambda p, x: square(p["in"]) + square(x), tree, X) == [("no_layers", "warning")]
    (finding,) = Model(lambda p: square(p["in"]), tree)(tree).findings
    assert "*batch" in finding.remedy


def test_a_batch_of_one_example_gets_a_warning():
    tree = {"in": normal(1, INPUTS, 8)}
    assert audited(lambda p, x: square(x @ p["in"]), tree, X[:1]) == [("batch", "warning")]


def test_a_non_finite_loss_is_distinguished_from_non_finite_layers():
    def loss(p, x):
        return square(x @ p["in"]) + jnp.log(-x.var())

    tree = {"in": normal(1, INPUTS, 8)}
    (finding,) = Model(loss, tree, X)(tree, X).findings
    assert (finding.cause, finding.level, finding.layers) == ("not_finite", "failure", ())
    assert "The loss is nan" in finding.message


def test_every_cause_has_a_test_of_its_own():
    tests = pathlib.Path(__file__).parent.glob("test_*.py")
    text = "\n".join(test.read_text() for test in tests)
    assert [cause for cause in CAUSES if f'"{cause}"' not in text] == []


def test_a_cause_hides_only_causes_that_are_judged_after_it():
    names = list(CAUSES)
    for place, cause in enumerate(CAUSES.values()):
        hidden = names[place + 1 :] if cause.hides == "everything" else cause.hides
        assert set(hidden) <= set(names[place + 1 :])
    assert CAUSES["not_finite"].explains("update") and not CAUSES["depth"].explains("update")


def test_a_finding_tells_code_which_parameters_it_is_about():
    (finding,) = tanh(params(stack_kernel=lambda k: with_value(k, 3, k[7]))).findings
    names = paths(params())
    index = names.index("stack/kernel")
    found = [(p.index, p.path, p.slice, p.use) for p in finding.parameters]
    assert found == [(index, "stack/kernel", (3,), 1), (index, "stack/kernel", (7,), 1)]
    (finding,) = tanh(params(), with_value(X, 0, np.inf)).findings
    assert (finding.layers, finding.parameters) == (("batch[0]",), ())


def test_findings_are_sorted_by_level_and_causes_are_explained():
    copied = params(stack_kernel=lambda k: with_value(k, 3, k[7]), out_kernel=lambda k: 99 * k)
    found = tanh(copied).findings
    assert [finding.level for finding in found] == sorted(finding.level for finding in found)
    assert len(found) > 1
    assert all(CAUSES[finding.cause].meaning for finding in found)
