"""The statistics that JAX compiles on an accelerator, taken here on a CPU.

Enters by a private name: on a machine without an accelerator nothing public leads there.
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
