"""Audits and repairs in every mode of JAX, of small models of every kind."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import initjax

KEY = jax.random.key(0)
LABELS = np.arange(32) % 4


def normal(number, *shape):
    drawn = np.random.default_rng(number).normal(size=shape) / np.prod(shape[:-1]) ** 0.5
    return drawn.astype(np.float32)


def cross_entropy(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def perceptron(p, x):
    h = jax.nn.gelu(x @ p["in"] + p["bias"][None])
    h = jnp.where(h > -1e9, h, jnp.nan)  # a NaN that is not chosen
    return cross_entropy(jax.nn.relu(h @ p["middle"]) @ p["out"])


def convolutional(p, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    h = lax.conv_general_dilated(x, p["kernel"], (1, 1), "SAME", dimension_numbers=numbers)
    mean, variance = h.mean((0, 1, 2), keepdims=True), jnp.var(h, (0, 1, 2), keepdims=True)
    h = (h - mean) / jnp.sqrt(variance + 1e-5) * p["scale"][None, None, None]
    return cross_entropy(jax.nn.relu(h).reshape(len(x), -1) @ p["out"])


def attention(p, x):
    h = (x - x.mean(-1, keepdims=True)) / (jnp.std(x, -1, keepdims=True) + 1e-6)
    scores = jnp.einsum("bid,bjd->bij", h @ p["query"], h @ p["key"]) / 8**0.5
    scores = jnp.where(jnp.tril(jnp.ones(scores.shape[1:], bool))[None], scores, -jnp.inf)
    h = x + jax.nn.softmax(scores) @ (h @ p["value"]) @ p["end"]
    return cross_entropy(h.mean(1) @ p["out"])


def recurrent(p, x):
    def step(h, x):
        return jnp.tanh(x @ p["in"] + h @ p["again"]), None

    h, _ = lax.scan(step, jnp.zeros((len(x), 8)), x.swapaxes(0, 1))
    return cross_entropy(h @ p["out"])


def dropped_out(p, x, key):
    h = jax.nn.relu(x @ p["in"])
    h = jnp.where(jax.random.bernoulli(key, jnp.float32(0.9), h.shape), h / 0.9, 0)
    return cross_entropy(jnp.tanh(h @ p["middle"]) @ p["out"])


VECTORS, SEQUENCES = normal(0, 32, 6) * 6**0.5, normal(1, 32, 5, 8) * 13
DENSE = {"in": 2 * normal(2, 6, 8), "middle": normal(3, 8, 8), "out": normal(4, 8, 4)}
MODELS = {
    "zeros": (perceptron, {**DENSE, "bias": np.zeros(8), "middle": np.zeros((8, 8))}, VECTORS),
    "convolutional": (
        convolutional,
        {"kernel": normal(5, 3, 3, 2, 4), "scale": np.ones(4), "out": normal(6, 64, 4)},
        normal(7, 32, 4, 4, 2) * 23,
    ),
    "attention": (
        attention,
        {name: normal(n, 8, 8) for n, name in enumerate(("query", "key", "value", "end"))}
        | {"out": normal(8, 8, 4)},
        SEQUENCES,
    ),
    "recurrent": (
        recurrent,
        {"in": normal(9, 8, 8), "again": normal(10, 8, 8), "out": normal(11, 8, 4)},
        SEQUENCES,
    ),
    "dropped_out": (dropped_out, DENSE, VECTORS, KEY),
}


@contextlib.contextmanager
def all_checks():
    """All modes that JAX has to find mistakes, at once."""
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.debug_nans(True),
        jax.debug_infs(True),
        jax.debug_key_reuse(True),
        jax.checking_leaks(),
    ):
        yield


MODES = {
    "all checks": all_checks,
    "x64": lambda: jax.enable_x64(True),
    "disable_jit": lambda: jax.disable_jit(True),
}


def float32(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), tree)


# Keys in the batch are also tried below, and gradients' repairs in x64; these take half a minute.
@pytest.mark.parametrize(
    "model", [*list(MODELS)[:-1], pytest.param("dropped_out", marks=pytest.mark.slow)]
)
def test_an_audit_is_the_same_in_every_mode(model):
    loss, params, *batch = MODELS[model]
    expected = initjax.audit(loss, float32(params), *batch)
    for name, mode in MODES.items():
        if name == "disable_jit" and model == "recurrent":
            continue  # JAX unrolls the loop
        with mode():
            report = initjax.audit(loss, float32(params), *batch)
        assert [f.cause for f in report.findings] == [f.cause for f in expected.findings], name
        for one, other in zip(report.layers, expected.layers, strict=True):
            numbers = [(each.rms, each.gradient, each.weight_variance) for each in (one, other)]
            np.testing.assert_allclose(*numbers, rtol=1e-4, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(
    ("method", "mode"),
    [
        ("variance", "all checks"),
        pytest.param("gradient", "all checks", marks=pytest.mark.slow),
        ("variance", "x64"),
        ("units", "x64"),
        ("gradient", "x64"),
        ("variance", "disable_jit"),
    ],
)
def test_a_repair_works_in_every_mode(method, mode):
    loss, params, *batch = MODELS["zeros"]
    with MODES[mode]():
        key = jax.random.key(1)
        _, repair = initjax.fix(
            loss, float32(params), *batch, key=key, method=method, optimizer=optax.sgd(0.1)
        )
    assert [finding.cause for finding in repair.before.findings] == ["zero"]
    assert repair.changes and repair.verdict == "ok"


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg", "unsafe_rbg", "raw"])
def test_keys_of_every_kind_may_be_in_the_batch_and_redraw_kernels(kind):
    make = jax.random.PRNGKey if kind == "raw" else functools.partial(jax.random.key, impl=kind)
    params = float32({**DENSE, "middle": np.zeros((8, 8))})
    fixed, repair = initjax.fix(dropped_out, params, VECTORS, make(0), key=make(1))
    assert repair.before.verdict == "failure" and repair.verdict == "ok"
    assert np.abs(fixed["middle"]).max() > 0
