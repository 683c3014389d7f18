"""Scales of zeros: some open in the first step, and others never do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import initjax

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 8)).astype(np.float32)
Y = np.arange(64) % 4


def params(one, two):
    keys = jax.random.split(jax.random.key(0), 3)
    a, b, c = (
        initjax.he_normal()(key, shape)
        for key, shape in zip(keys, [(8, 16), (16, 16), (16, 4)], strict=True)
    )
    return {"a": a, "b": b, "c": c, "one": jnp.full(16, one), "two": jnp.full(16, two)}


@functools.cache
def model(activation):
    def normalized(z, scale):
        z = z - z.mean(-1, keepdims=True)
        return activation(z / jnp.sqrt(jnp.square(z).mean(-1, keepdims=True) + 1e-5) * scale)

    def loss(p, x, y):
        z = normalized(normalized(x @ p["a"], p["one"]) @ p["b"], p["two"])
        return optax.softmax_cross_entropy_with_integer_labels(z @ p["c"], y).mean()

    return loss, initjax.auditor(loss, params(1.0, 1.0), X, Y)


@pytest.mark.parametrize(
    ("activation", "one", "two", "stuck"),
    [
        (jax.nn.relu, 1.0, 1.0, ""),
        (jax.nn.relu, 0.0, 1.0, "one"),  # its slope at zero is zero
        (jax.nn.relu, 1.0, 0.0, "two"),
        (jax.nn.gelu, 0.0, 1.0, ""),
        (jax.nn.gelu, 1.0, 0.0, ""),
        (jax.nn.gelu, 0.0, 0.0, "one and two"),
    ],
)
def test_scales_of_zeros_are_a_fault_if_no_gradient_opens_them(activation, one, two, stuck):
    loss, audit = model(activation)
    report = audit(params(one, two), X, Y)
    assert [finding.cause for finding in report.findings] == ["zero"] * bool(stuck)
    assert all(f"All numbers in {stuck} are zero" in f.message for f in report.findings)
    p = params(one, two)
    for _ in range(3):  # steps open those that can be opened
        p = jax.tree.map(lambda leaf, slope: leaf - slope, p, jax.grad(loss)(p, X, Y))
    assert (float(loss(p, X, Y)) == pytest.approx(np.log(4), abs=1e-3)) == bool(stuck)
