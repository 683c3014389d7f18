"""What the first layers are given: its scale, its shift, and whether examples differ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import initjax

RNG = np.random.default_rng(0)
X = RNG.normal(size=(128, 16)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 3)
HE = initjax.he_normal()


def params(features):
    return [HE(KEYS[0], (features, 32)), HE(KEYS[1], (32, 32)), HE(KEYS[2], (32, 1))]


def loss(p, x, normalize=lambda z: z):
    z = jax.nn.relu(normalize(x @ p[0]))
    return jnp.square(jax.nn.relu(z @ p[1]) @ p[2] - jnp.sin(x[:, :1])).mean()


@pytest.fixture(scope="module")
def audit():
    auditor = initjax.auditor(loss, params(16), X)
    return lambda x: auditor(params(16), np.asarray(x, np.float32)).findings


def with_column(column, number=3):
    x = X.copy()
    x[:, number] = column
    return x


@pytest.mark.parametrize(
    ("x", "cause", "level", "text"),
    [
        (290 + 10 * X, "input_offset", "failure", " and vary by only 10, so"),
        (9 + X, "input_offset", "warning", " and vary by only 1, so"),
        (with_column(2010 + 6 * X[:, 3]), "input_offset", "failure", "Feature 3 of the input of 0"),
        (with_column(1e4 * X[:, 3]), "input_scale", "failure", "Feature 3 of the input of 0 has"),
        (255 * X, "input_scale", "failure", "The input of 0 has root mean square 25"),
        (0 * X, "input_scale", "failure", "zero in the whole batch"),
        (0 * X + 1, "batch", "warning", "All examples of the batch are equal"),
    ],
)
def test_what_is_wrong_with_an_input_is_said_by_feature(audit, x, cause, level, text):
    (finding,) = audit(x)
    assert (finding.cause, finding.level) == (cause, level)
    assert text in finding.message


@pytest.mark.parametrize(
    "x",
    [
        RNG.uniform(size=X.shape),
        RNG.uniform(size=X.shape) < 0.95,
        RNG.poisson(3, size=X.shape),
        np.eye(16)[RNG.integers(0, 16, 128)],
        with_column(1.0),
        0.1 * X + np.eye(16)[5],
        6 * X,
    ],
    ids="positive binary counts one-hot ones-column large-column six-fold".split(),
)
def test_an_input_may_be_positive_binary_or_have_a_column_of_ones(audit, x):
    assert audit(x) == ()


def test_collinear_inputs_are_no_collapse():
    report = initjax.audit(loss, params(1), RNG.uniform(size=(128, 1)).astype(np.float32))
    assert report.findings == ()
    assert report.layers[1].correlation > 0.999


def test_small_embeddings_are_named_and_not_the_units_that_they_leave_to_the_biases():
    def embedded(p, tokens):
        z = jax.nn.relu(p["table"][tokens].mean(1) @ p["kernels"][0] + p["bias"])
        return jnp.square(z @ p["kernels"][1] - 1).mean()

    bias = RNG.uniform(-0.1, 0.1, 32)
    p = {"table": 1e-6 * X, "kernels": params(16)[:2], "bias": bias.astype(np.float32)}
    tokens = RNG.integers(0, 128, (64, 8))
    auditor = initjax.auditor(embedded, p, tokens)
    (finding,) = auditor(p, tokens).findings
    assert finding.cause == "input_scale" and finding.layers == ("table", "kernels/0")
    # Recommenders draw them so; biases below zero are a fault all the same.
    assert auditor({**p, "table": 1e-2 * X}, tokens).verdict == "ok"
    (finding,) = auditor({**p, "table": 1e-2 * X, "bias": p["bias"] - 6}, tokens).findings
    assert finding.cause == "dead"


def test_half_of_the_units_behind_a_small_codebook_may_be_silent():
    def autoencoder(p, x):
        z = x @ p["in"]
        code = p["codes"][jnp.argmax(z @ p["codes"].T, axis=-1)]
        y = jax.nn.relu((z + jax.lax.stop_gradient(code - z)) @ p["up"] + p["bias"]) @ p["out"]
        return jnp.square(y - x).mean() + jnp.square(z - code).mean()

    sizes = {"in": (16, 8), "up": (8, 64), "out": (64, 16)}
    p = {name: HE(key, size) for key, (name, size) in zip(KEYS, sizes.items(), strict=True)}
    bias, codes = RNG.uniform(-0.35, 0.35, 64), RNG.uniform(-1 / 32, 1 / 32, (32, 8))
    p |= {"bias": bias.astype(np.float32), "codes": codes.astype(np.float32)}
    assert initjax.audit(autoencoder, p, X).verdict == "ok"


def siren_loss(p, x, y):
    z = jnp.sin(30 * jnp.sin(30 * (x @ p[0])) @ p[1])
    return jnp.square(z @ p[2] - y).mean()


def fourier_loss(p, x, y):
    z = 2 * jnp.pi * x @ jax.lax.stop_gradient(p[0])
    features = jnp.concatenate([jnp.sin(z), jnp.cos(z)], axis=-1)
    return jnp.square(jax.nn.relu(features @ p[1]) @ p[2] - y).mean()


def test_a_first_layer_of_sines_must_turn():
    x = RNG.uniform(-1, 1, (128, 2)).astype(np.float32)
    y = np.sin(4 * x[:, :1])
    first, hidden, last = (
        [initjax.siren(first=first)(key, shape) for key, shape in zip(KEYS, shapes, strict=True)]
        for first, shapes in [
            (True, [(2, 32), (32, 32), (32, 1)]),
            (False, [(2, 32), (32, 32), (32, 1)]),
            (False, [(2, 32), (64, 32), (32, 1)]),
        ]
    )
    siren = initjax.auditor(siren_loss, hidden, x, y)
    assert siren([first[0], *hidden[1:]], x, y).findings == ()
    (finding,) = siren(hidden, x, y).findings
    assert finding.cause == "first_layer" and "siren(first=True)" in finding.remedy
    fourier = initjax.auditor(fourier_loss, [hidden[0], *last[1:]], x, y)
    bands = [jax.random.normal(KEYS[0], (2, 32)) * scale for scale in (1.0, 0.01)]
    assert [
        [finding.cause for finding in fourier([band, *last[1:]], x, y).findings] for band in bands
    ] == [[], ["first_layer"]]


def test_a_normalization_over_the_batch_takes_out_scale_and_shift():
    def normalized(p, x):
        return loss(p, x, lambda z: (z - z.mean(0)) / jnp.sqrt(z.var(0) + 1e-5))

    assert initjax.audit(normalized, params(16), 290 + 10 * X).findings == ()


@pytest.mark.parametrize("beside", [True, False])
def test_what_hardly_varies_in_the_condition_on_a_time_is_a_bias(beside):
    def loss_fn(p, x, time):
        turns = time * 0.1 ** jnp.arange(8)
        z = (
            time + 0 * turns if beside else jnp.concatenate([jnp.sin(turns), jnp.cos(turns)], 1)
        ) @ p["t"]
        z = z + x @ p["x"] if beside else z
        return jnp.square(jax.nn.relu(z) @ p["out"] - x[:, :1]).mean()

    time = 0.9 + 0.01 * X[:, :1]
    tree = {"t": HE(KEYS[0], (8 if beside else 16, 32)), "out": HE(KEYS[1], (32, 1))}
    tree |= {"x": HE(KEYS[2], (16, 32))} if beside else {}
    found = initjax.audit(loss_fn, tree, X, time).findings
    assert "input_offset" not in [finding.cause for finding in found]
