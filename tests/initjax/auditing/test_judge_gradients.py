"""Faults of signals and gradients are found: what explodes, vanishes, dies or is cut off."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import initjax
from tests.initjax.auditing.judged import (
    CLASSES,
    DEPTH,
    INPUTS,
    WIDTH,
    Model,
    X,
    Y,
    audited,
    causes,
    cross_entropy,
    normal,
    params,
    relu,
    square,
    with_value,
)


def test_a_large_readout_does_not_make_gradients_explode():
    report = relu(params(gain=2.0, out_kernel=lambda k: 60 * k))
    assert causes(report) == [("output_scale", "failure")]


def test_signals_that_explode_name_the_kernels_that_make_them_grow():
    tree = {str(n): normal(n, 32, 32) * (10 if n else 1) for n in range(4)}
    tree["4"] = normal(4, 32, CLASSES)

    def loss(p, x, y):  # the pools end every chain of predictions
        for n in range(4):
            x = jax.nn.relu(x @ p[str(n)]).reshape(-1, 2, 32).max(1)
        return optax.softmax_cross_entropy_with_integer_labels(x @ p["4"], y).mean()

    (found,) = initjax.audit(loss, tree, normal(9, 512, 32) * 512**0.5 * 4, Y[:32]).findings
    assert found.cause == "exploding" and found.layers == ("1", "2", "3")
    assert "1, 2 and 3 make signals grow, with a median gain of" in found.message


def test_residual_branches_that_add_up_are_found():
    def turn(h, block):
        return h + jax.nn.relu(h @ block["up"]) @ block["down"], None

    def loss(p, x):
        return square(jax.lax.scan(turn, x @ p["in"], p["blocks"])[0] @ p["out"])

    def tree(scale):
        return {
            "in": normal(1, INPUTS, 32),
            "blocks": {"up": normal(2, 24, 32, 64) * 2**0.5, "down": scale * normal(3, 24, 64, 32)},
            "out": normal(4, 32, 4),
        }

    model = Model(loss, tree(1.0), X)
    for scale, found in ((1.0, ("branch_scale", "failure")), (0.5, ("branch_scale", "warning"))):
        assert causes(model(tree(scale), X)) == [found]
    for scale in (24**-0.5, 0.0):  # the residual scaling, and branches that start as nothing
        assert causes(model(tree(scale), X)) == []


def test_a_large_first_step_is_reported_where_it_changes_what_a_layer_computes():
    """Small kernels may take one, as the policy of PPO does, if its effect is small."""

    def loss(p, x):
        h = jnp.tanh(jnp.tanh(x @ p["one"]) @ p["two"])
        return cross_entropy(h @ p["policy"]) + square(h @ p["value"] - 1)

    tree = {"one": 0.005 * normal(1, INPUTS, 32), "two": normal(2, 32, 32)}
    tree |= {"policy": 0.005 * normal(3, 32, CLASSES), "value": normal(4, 32, 1)}
    for rate, found in ((1e-3, []), (0.1, [("update", "warning")])):
        report = Model(loss, tree, X, optimizer=optax.adam(rate))(tree, X)
        assert causes(report) == found
    assert report.findings[0].layers == ("one",)


def test_a_branch_that_a_small_scale_silences_does_not_explode():
    """What enters it gets its gradient from the stream, too. At full scale the stream grows."""

    def loss(p, x):
        h = x @ p["in"]
        for block in p["blocks"]:
            h = h + p["scale"] * (jax.nn.relu(h @ block["up"]) @ block["down"])
        return cross_entropy(h @ p["out"])

    blocks = [{"up": normal(20 + i, 32, 64), "down": 8 * normal(30 + i, 64, 32)} for i in range(6)]
    tree = {"in": normal(1, INPUTS, 32), "blocks": blocks, "out": 0.1 * normal(2, 32, CLASSES)}
    model = Model(loss, {**tree, "scale": jnp.ones(32)}, X)
    for scale in (1e-6, 1e-2):
        assert causes(model({**tree, "scale": jnp.full(32, scale)}, X)) == []
    for scale, level in ((0.25, "warning"), (1.0, "failure")):
        found = causes(model({**tree, "scale": jnp.full(32, scale)}, X))
        assert found == [("branch_scale", level)]


def test_one_example_that_a_norm_amplifies_is_not_the_whole_batch():
    def loss(p, x):
        h = x @ p["in"]
        for kernel in p["hidden"]:
            h = h - h.mean(-1, keepdims=True)
            h = jax.nn.relu(h / jnp.sqrt((h**2).mean(-1, keepdims=True) + 1e-10) @ kernel)
        return cross_entropy(h @ p["out"])

    tree = {"in": normal(1, INPUTS, 32), "hidden": [2**0.5 * normal(2, 32, 32)]}
    tree["out"] = normal(3, 32, CLASSES)
    model = Model(loss, tree, X)
    assert causes(model(tree, with_value(X, 0, 1e-5 * X[0]))) == []
    exploding = {**tree, "in": 1e-6 * tree["in"]}
    assert ("exploding", "failure") in causes(model(exploding, X))


def test_one_feature_has_two_directions_in_which_units_are_dead_by_chance():
    def loss(p, x):
        return square(jax.nn.relu(jax.nn.relu(x @ p["in"]) @ p["hidden"] + p["bias"]) @ p["out"])

    tree = {"in": normal(1, 1, 64), "hidden": normal(2, 64, 64), "out": normal(3, 64, 1)}
    model = Model(loss, {**tree, "bias": jnp.zeros(64)}, X[:, :1])
    report = model({**tree, "bias": jnp.zeros(64)}, X[:, :1])
    assert causes(report) == [] and report.layers[1].dead > 0.15
    assert ("dead", "failure") in causes(model({**tree, "bias": jnp.full(64, -3.0)}, X[:, :1]))


def test_one_small_kernel_is_learned_first_and_two_in_a_row_are_not():
    def tree(*small):
        factors = np.where(np.isin(np.arange(DEPTH), small), 0.01, 1)
        return params(gain=2.0, stack_kernel=lambda k: k * factors[:, None, None].astype("f"))

    assert causes(relu(tree(4))) == []
    assert causes(relu(tree(4, 5))) == [("vanishing", "warning")]


@pytest.mark.parametrize(("gain", "found"), [(1e-3, []), (1e-5, [("vanishing", "warning")])])
def test_a_shallow_network_may_have_small_kernels(gain, found):
    def loss_fn(p, x):
        return jnp.square(jax.nn.relu(jax.nn.relu(x @ p[0]) @ p[1]) @ p[2] - x[:, :1]).mean()

    tree = [gain**0.5 * normal(i, *shape) for i, shape in enumerate([(16, 32), (32, 32), (32, 1)])]
    assert audited(loss_fn, tree, normal(3, 64, 16) * 8) == found


@pytest.mark.parametrize("between", ["pool", "dropout", "skip", "norm"])
def test_dead_units_are_found_whatever_follows_them(between):
    def loss(p, x, key):
        h = jax.nn.relu(x @ p["in"] + p["bias"])
        if between == "pool":
            h = h.reshape(len(h), -1, 2).max(-1).repeat(2, -1)
        elif between == "dropout":
            h = jnp.where(jax.random.bernoulli(key, 0.9, h.shape), h / 0.9, 0)
        elif between == "skip":
            h = h + x
        else:
            h = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5)
        return cross_entropy(h @ p["out"])

    def tree(bias):
        return {
            "in": normal(1, INPUTS, INPUTS) * 2**0.5,
            "bias": np.full(INPUTS, bias, np.float32),
            "out": normal(2, INPUTS, CLASSES) / 2,
        }

    key = jax.random.key(0)
    model = Model(loss, tree(0), X, key)
    assert causes(model(tree(0), X, key)) == []
    assert causes(model(tree(-100), X, key)) == [("dead", "failure")]


def test_guessing_costs_the_logarithm_of_the_classes_of_one_softmax():
    def loss(p, x):
        logits = (jax.nn.relu(x @ p["in"]) @ p["out"]).reshape(-1, 3, CLASSES)
        return -jax.nn.log_softmax(logits)[:, :, 0].mean()

    tree = {"in": normal(1, INPUTS, WIDTH), "out": normal(2, WIDTH, 3 * CLASSES)}
    assert Model(loss, tree, X)(tree, X).network.expected_loss == pytest.approx(np.log(CLASSES))


def test_layers_that_no_gradient_reaches_are_found():
    def loss(p, x, gate, step):
        h = x @ p["in"]
        h = h + gate * (jnp.tanh(h @ p["up"]) @ p["down"])
        return cross_entropy(jnp.where(step > 0, jnp.round(h), h) @ p["out"])

    tree = {name: normal(number, 32, 32) for number, name in enumerate(("in", "up", "down"))}
    tree["out"] = normal(4, 32, CLASSES) / 4
    zero, one = np.float32(0), np.float32(1)
    model = Model(loss, tree, X, one, zero)
    assert causes(model(tree, X, one, one)) == [("vanishing", "failure")]
    for gate in (zero, one):  # a branch that starts as nothing is on purpose
        assert ("vanishing", "failure") not in causes(model(tree, X, gate, zero))
    closed = {**tree, "out": np.zeros_like(tree["out"])}
    assert ("vanishing", "failure") not in causes(model(closed, X, one, zero))


def test_unused_turns_of_a_loop_do_not_block_its_gradient():
    def loss(p, tokens):
        def turn(h, step):
            counts, token = step
            return jnp.where(counts, jnp.tanh(p["in"][token] + h @ p["state"]), h), None

        counted = jnp.arange(6)[:, None, None] < 4
        h, _ = jax.lax.scan(turn, jnp.zeros((64, 16)), (counted, tokens))
        return cross_entropy(h @ p["out"])

    tree = {"in": normal(1, 8, 16), "state": normal(2, 16, 16), "out": normal(3, 16, CLASSES)}
    tokens = np.random.default_rng(0).integers(8, size=(6, 64))
    assert ("vanishing", "failure") not in audited(loss, tree, tokens)


def test_a_non_finite_gradient_is_found_even_if_the_loss_is_finite():
    def loss(p, x):
        z = jnp.maximum(x @ p["in"], 1e9) - 1e9
        return jnp.sqrt(square(z)) + cross_entropy(x @ p["out"])

    tree = {"in": normal(1, INPUTS, 8), "out": normal(2, INPUTS, CLASSES)}
    model = Model(loss, tree, X)
    (finding,) = model(tree, X).findings
    assert (finding.cause, finding.layers) == ("not_finite", ("in",))
    assert "gradient at in is infinite or NaN" in finding.message


@pytest.mark.parametrize(
    ("units", "bias", "stream", "found"),
    [
        (64, 0.1, False, True),
        (64, None, False, False),
        (64, 0.1, True, False),
        (4, 0.1, False, False),
    ],
    ids=["hidden", "codes", "stream", "few"],
)
def test_a_softmax_between_layers_makes_gradients_vanish(units, bias, stream, found):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = {"first": (16, 16), "in": (16, units), "out": (units, 16)}
    params = {
        name: initjax.lecun_normal()(key, shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=False)
    }
    params["bias"] = jnp.full(16, bias or 0.0)
    x = jax.random.normal(keys[3], (128, 16))

    def loss_fn(p, x):
        x = x @ p["first"]
        y = jax.nn.softmax(x @ p["in"]) @ p["out"]
        y = y if bias is None else y + p["bias"]
        return jnp.square((x + y if stream else y) - 1).mean()

    findings = initjax.audit(loss_fn, params, x).findings
    messages = [finding.message for finding in findings if finding.cause == "vanishing"]
    assert [f"softmax over its {units} units" in message for message in messages] == [True] * found
