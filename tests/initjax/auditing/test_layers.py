"""What theory predicts of layers against many random networks, within what chance allows."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import initjax

DEPTH, KEYS, EXAMPLES, INPUTS = 10, 32, 32, 48
NETWORKS = {  # activation, gain, variance of biases, width
    "relu": ("relu", 2.0, 0.0, 64),
    "relu, one example": ("relu", 2.0, 0.0, 16),
    "tanh": ("tanh", 1.5, 0.05, 64),
    "linear": ("linear", 1.0, 0.0, 64),
}
WIDE = {
    "wide relu": ("relu", 2.0, 0.0, 256),
    "wide tanh": ("tanh", 1.5, 0.05, 256),
    "wide linear": ("linear", 1.0, 0.0, 256),
}
ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "linear": lambda z: z}


def normal(rng, stddev, *shape):
    return (stddev * rng.normal(size=shape)).astype(np.float32)


@functools.cache
def program(activation, width):
    """A network whose inner layers are stacked, compiled once for all keys."""
    phi, target = ACTIVATIONS[activation], normal(np.random.default_rng(2), 1, width)

    def turn(z, layer):
        return phi(z) @ layer["w"] + layer["bias"], None

    def loss(params, x):  # linear in the output: its gradient knows nothing of the network
        z, _ = jax.lax.scan(turn, x @ params["in"], params["stack"])
        return (z @ target).mean()

    x = np.zeros((EXAMPLES, INPUTS), np.float32)
    return initjax.auditor(loss, draw(0, 1.0, 0.0, width), x)


def draw(seed, gain, biases, width):
    rng = np.random.default_rng(seed)
    return {
        "in": normal(rng, (gain / INPUTS) ** 0.5, INPUTS, width),
        "stack": {
            "w": normal(rng, (gain / width) ** 0.5, DEPTH - 1, width, width),
            "bias": normal(rng, biases**0.5, DEPTH - 1, width),
        },
    }


@functools.cache
def networks(name):
    """The layers of networks from many keys: the numbers of each, as (keys, layers)."""
    activation, *law = {**NETWORKS, **WIDE}[name]
    x = normal(np.random.default_rng(1), 1, EXAMPLES, INPUTS)
    if name == "relu, one example":
        x[:] = x[0]
    auditor = program(activation, law[-1])
    runs = [auditor(draw(seed, *law), x).layers for seed in range(KEYS)]
    fields = ["rms_z", "gradient_ratio", "predicted_gradient_ratio", "correlation"]
    fields += ["predicted_correlation", "dead", "predicted_dead", "rms", "predicted_rms"]
    return {
        field: np.array([[getattr(layer, field) for layer in run] for run in runs])
        for field in fields
    }


every = pytest.mark.parametrize(
    "name", [*NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in WIDE)]
)


@every
def test_deviations_from_theory_are_as_large_as_predicted(name):
    """z has mean 0 and, where the input of the network no longer decides, variance 1."""
    z = networks(name)["rms_z"]
    error = 1 / math.sqrt(KEYS)
    assert np.abs(z.mean(0)).max() < 0.25 + 4 * error  # the law is skewed, of which z knows little
    spread = z.std(0, ddof=1)
    certain = math.sqrt(scipy.stats.chi2.ppf(1 - 1e-4, KEYS - 1) / (KEYS - 1))
    assert spread.max() < 1.25 * certain
    assert spread[3:].min() > 0.6 / certain


@every
def test_the_gradients_ratio_is_predicted(name):
    found = networks(name)
    error = np.log(found["gradient_ratio"] / found["predicted_gradient_ratio"])[:, :-1]
    assert np.isnan(found["predicted_gradient_ratio"][:, -1]).all()
    assert np.abs(error.mean(0)).max() < 0.05 + 5 * error.std() / math.sqrt(KEYS)
    width = {**NETWORKS, **WIDE}[name][-1]
    assert error.std(0).max() < 4 / math.sqrt(width)


@pytest.mark.parametrize("name", ["relu", "tanh", "linear"])
def test_the_correlation_is_predicted(name):
    found = networks(name)
    error = (found["correlation"] - found["predicted_correlation"])[:, 1:]
    assert np.isnan(found["predicted_correlation"][:, 0]).all()
    assert np.abs(error.mean(0)).max() < 0.01 + 5 * error.std() / math.sqrt(KEYS)
    if name != "linear":
        assert (np.diff(found["predicted_correlation"].mean(0)[1:]) > 0.01).all()


def test_the_share_of_dead_units_is_predicted():
    found = networks("relu")
    error = (found["dead"] - found["predicted_dead"])[:, :-1]
    assert np.abs(error.mean(0)).max() < 0.01 + 5 * error.std() / math.sqrt(KEYS)
    assert found["predicted_dead"].mean(0)[DEPTH - 2] > 0.1  # more with depth, and nothing is wrong
    assert np.isnan(networks("tanh")["predicted_dead"]).all()
    alone = networks("relu, one example")  # half of the units are below zero, and always
    assert np.abs(alone["predicted_dead"][:, :-1] - 0.5).max() < 1e-3
    assert np.abs(alone["dead"][:, :-1].mean(0) - 0.5).max() < 5 / math.sqrt(KEYS * 4 * 16)


# One layer


def test_a_layer_holds_what_was_measured():
    rng = np.random.default_rng(0)
    params = {
        "in": {"kernel": rng.normal(size=(16, 32)), "bias": rng.normal(size=32)},
        "out": rng.normal(size=(32, 4)),
    }
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    x = jnp.asarray(rng.normal(size=(24, 16)), jnp.float32)

    def loss(p, x, shifts=(0.0, 0.0)):
        h = jnp.tanh(x @ p["in"]["kernel"] / 4 + p["in"]["bias"] + shifts[0])
        return jnp.square(h @ p["out"] + shifts[1]).mean()

    first, last = initjax.audit(loss, params, x, optimizer=optax.sgd(0.1)).layers
    z = np.asarray(x @ params["in"]["kernel"] / 4 + params["in"]["bias"])
    kernel = np.asarray(params["in"]["kernel"])
    assert (first.name, first.kind, first.shape) == ("in/kernel", "dense", (16, 32))
    assert (first.units, first.samples, first.uses) == (32, 24, 1)
    assert (first.activation, last.activation) == ("tanh", "")
    assert (first.role, last.role) == ("", "last")
    assert (first.unpredicted, last.unpredicted) == ("batch", "")
    assert first.weight_variance == pytest.approx(np.square(kernel).mean(), rel=1e-5)  # 16 / 4**2
    assert first.bias_variance == pytest.approx(np.square(params["in"]["bias"]).mean(), rel=1e-5)
    assert first.rms == pytest.approx(np.sqrt(np.square(z).mean()), rel=1e-5)
    assert first.stddev == pytest.approx(z.std(), rel=1e-5)
    assert first.unit_stddev == pytest.approx(np.sqrt(z.var(0).mean()), rel=1e-5)
    shifts = (jnp.zeros(z.shape), jnp.zeros((24, 4)))
    gradients = jax.grad(lambda shifts: loss(params, x, shifts))(shifts)
    squares = [float(jnp.square(gradient).sum()) for gradient in gradients]
    assert first.gradient == pytest.approx(math.sqrt(squares[0] / z.size), rel=1e-4)
    assert first.gradient_ratio == pytest.approx(squares[0] / squares[1], rel=1e-4)
    assert math.isnan(last.gradient_ratio)
    step = 0.1 * float(jnp.std(jax.grad(loss)(params, x)["in"]["kernel"]))
    assert first.update_ratio == pytest.approx(step / kernel.std(), rel=1e-4)
    # Beyond this tanh is less steep than .06.
    edge = math.atanh(math.sqrt(0.94))
    assert first.predicted_saturated == pytest.approx(2 * scipy.stats.norm.sf(edge), abs=1e-3)
    assert first.saturated == pytest.approx((np.abs(z) > edge).mean(), abs=1e-6)


def test_the_scale_of_the_ntk_parametrization_is_part_of_the_gain():
    rng = np.random.default_rng(0)
    params, x = [normal(rng, 1, 32, 64), normal(rng, 1, 64, 8)], normal(rng, 1, 16, 32)

    def ntk(p, x):
        return jnp.square(jax.nn.relu(x @ p[0] / jnp.sqrt(32)) @ p[1] * (2 / 64) ** 0.5).mean()

    first, last = initjax.audit(ntk, params, x).layers
    assert first.weight_variance == pytest.approx(np.square(params[0]).mean(), rel=1e-5)
    assert last.weight_variance == pytest.approx(2 * np.square(params[1]).mean(), rel=1e-5)
    z = x @ params[0] / 32**0.5
    assert first.rms == pytest.approx(np.sqrt(np.square(z).mean()), rel=1e-5)
    predicted = np.square(x).mean() * first.weight_variance
    assert first.predicted_rms**2 == pytest.approx(predicted, rel=1e-5)
    assert last.predicted_rms**2 == pytest.approx(predicted / 2 * last.weight_variance, rel=1e-5)


def test_a_gradient_is_compared_with_that_of_the_layer_it_leads_to():
    """Behind an attention, and along a residual stream, not with whichever layer comes next."""
    rng = np.random.default_rng(0)
    names = ["in", "query", "key", "value", "out", "up", "down", "head"]
    params = {name: jnp.asarray(rng.normal(size=(8, 8)) / 3, jnp.float32) for name in names}
    x = jnp.asarray(rng.normal(size=(6, 5, 8)), jnp.float32)

    def norm(h):
        return h / jnp.sqrt(jnp.square(h).mean(-1, keepdims=True) + 1e-6)

    def loss(p, x, shifts=None):
        def dense(name, h):
            return h @ p[name] + shifts[name] if shifts else h @ p[name]

        h = dense("in", x)
        query, key, value = (dense(name, norm(h)) for name in ("query", "key", "value"))
        scores = jnp.einsum("bqd,bkd->bqk", query, key)
        h += dense("out", jnp.einsum("bqk,bkd->bqd", jax.nn.softmax(scores), value))
        h += dense("down", jax.nn.relu(dense("up", norm(h))))
        return jnp.square(dense("head", norm(h)) - 1).mean()

    shifts = {name: jnp.zeros((6, 5, 8)) for name in names}
    gradients = jax.grad(lambda shifts: loss(params, x, shifts))(shifts)
    squares = {name: float(jnp.square(gradients[name]).sum()) for name in names}
    found = {layer.name: layer for layer in initjax.audit(loss, params, x).layers}
    follows = {"query": "out", "key": "out", "value": "out", "up": "down"}
    follows |= {"in": "out", "out": "down", "down": "head"}
    for name, follower in follows.items():
        ratio = squares[name] / squares[follower]
        assert found[name].gradient_ratio == pytest.approx(ratio, rel=1e-3), name
    assert math.isnan(found["head"].gradient_ratio)
