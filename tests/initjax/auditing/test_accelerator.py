"""What an accelerator does otherwise, imitated on a CPU: JAX compiles the statistics there, and
products are in TF32.

The first enters by a private name: on a machine without an accelerator nothing public leads there.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import initjax
from initjax.auditing._measuring import passes
from tests.tf32 import in_tf32

rng = np.random.default_rng(0)


def normal(*shape):
    return rng.normal(size=shape).astype(np.float32) / shape[-2] ** 0.5


def stacked(p, x, y):
    h, _ = lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), x @ p["in"], p["stack"])
    return optax.softmax_cross_entropy_with_integer_labels(jnp.tanh(h) @ p["out"], y).mean()


def shared(p, x, y):
    def turn(h, x):
        h = jnp.tanh(x @ p["in"] + h @ (2 * p["stack"][0]))
        return h, None

    h, _ = lax.scan(turn, jnp.zeros((x.shape[0], 6)), jnp.stack([x, -x]))
    h = lax.cond(h.sum() > 1e9, lambda h: h @ p["stack"][1], lambda h: h @ p["stack"][2], h)
    return optax.softmax_cross_entropy_with_integer_labels(h @ p["out"], y).mean()


PARAMS = {"in": normal(5, 6), "stack": normal(3, 6, 6), "out": normal(6, 4)}
X, Y = normal(128, 5), np.arange(128) % 4


@pytest.mark.parametrize("loss", [stacked, shared])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16], ids=str)
def test_what_jax_compiles_is_what_numpy_computes(loss, dtype, monkeypatch):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)
    x = X.astype(dtype)
    with jax.numpy_rank_promotion("raise"):
        auditor = initjax.auditor(loss, params, x, Y, optimizer=optax.sgd(0.1))
        expected = auditor(params, x, Y)
        monkeypatch.setattr(passes, "on_host", lambda array: False)
        found = auditor(params, x, Y)
    assert [finding.cause for finding in found.findings] == [
        finding.cause for finding in expected.findings
    ]
    for one, other in zip(found.layers, expected.layers, strict=True):
        for field in dataclasses.fields(initjax.Layer):
            mine, theirs = getattr(one, field.name), getattr(other, field.name)
            if isinstance(theirs, float):
                assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-4, nan_ok=True), field.name
            elif field.name not in ("histogram", "gradient_histogram", "predicted_range"):
                assert mine == theirs, field.name
    # A number on the edge of a bin may fall on either side.
    for one, other in zip(found.layers, expected.layers, strict=True):
        np.testing.assert_allclose(one.histogram, other.histogram, atol=0.01)


def test_promotion_may_be_strict_there_too(monkeypatch):
    monkeypatch.setattr(passes, "on_host", lambda array: False)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        report = initjax.audit(lambda p, x: jnp.square(jnp.tanh(x @ p)).mean(), normal(5, 6), X)
    assert [layer.samples for layer in report.layers] == [128]


def test_it_may_forbid_nan_and_infinity_there(monkeypatch):
    monkeypatch.setattr(passes, "on_host", lambda array: False)
    zeros = {**PARAMS, "in": np.zeros_like(PARAMS["in"])}
    with jax.debug_nans(True), jax.debug_infs(True):
        report = initjax.audit(stacked, zeros, X, Y)
    assert [finding.cause for finding in report.findings] == ["zero"]


IMAGES = rng.normal(size=(64, 6, 6, 2)).astype(np.float32) + 1
CONVOLUTIONAL = {"image": normal(3, 3, 2, 8), "in": normal(288, 32), "out": normal(32, 4)}


def pre_activations(p, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    first = lax.conv_general_dilated(x, p["image"], (1, 1), "SAME", dimension_numbers=numbers)
    second = jax.nn.relu(first).reshape(len(x), -1) @ p["in"]
    return first, second, jax.nn.relu(second) @ p["out"]


def convolutional(p, x):
    return jnp.square(pre_activations(p, x)[-1]).mean()


@pytest.fixture
def default_precision():
    with jax.default_matmul_precision("default"):
        yield


@pytest.mark.usefixtures("default_precision")
@pytest.mark.parametrize("method", ["variance", "units"])
def test_a_fix_ends_where_it_says_although_the_model_multiplies_in_tf32(method):
    fixed, repair = initjax.fix(in_tf32(convolutional), CONVOLUTIONAL, IMAGES, method=method)
    assert [change.name for change in repair.changes] == ["image", "in"]
    rough = in_tf32(pre_activations)(fixed, IMAGES)[:2]
    with jax.default_matmul_precision("highest"):
        exact = pre_activations(fixed, IMAGES)[:2]
    for signals, tolerance in ((exact, 1e-5), (rough, 1e-3)):
        for z in signals:
            stddev = z.std() if method == "variance" else z.reshape(-1, z.shape[-1]).std(0)
            np.testing.assert_allclose(stddev, 1, atol=tolerance)


@pytest.mark.usefixtures("default_precision")
def test_an_audit_measures_the_model_as_it_runs():
    report = initjax.audit(in_tf32(convolutional), CONVOLUTIONAL, IMAGES)
    rough = [float(jnp.sqrt(jnp.square(z).mean())) for z in in_tf32(pre_activations)(
        CONVOLUTIONAL, IMAGES)]  # fmt: skip
    with jax.default_matmul_precision("highest"):
        signals = pre_activations(CONVOLUTIONAL, IMAGES)
    exact = [float(jnp.sqrt(jnp.square(z).mean())) for z in signals]
    np.testing.assert_allclose([layer.rms for layer in report.layers], rough, rtol=1e-5)
    assert not np.allclose(rough, exact, rtol=1e-5)
