"""Parameters that get no gradient are named, unless they are cut on purpose."""

import jax
import jax.numpy as jnp
import pytest

from initjax import audit, he_normal, lecun_normal
from initjax.auditing._reading.trace import trace

stop = jax.lax.stop_gradient
KEYS = jax.random.split(jax.random.key(0), 8)
X = jax.random.normal(KEYS[0], (64, 8))
NET = {"in": he_normal()(KEYS[1], (8, 16)), "out": lecun_normal()(KEYS[2], (16, 1))}
OTHER = {"in": he_normal()(KEYS[3], (8, 16)), "out": lecun_normal()(KEYS[4], (16, 1))}
ROUTED = {**NET, "router": lecun_normal()(KEYS[5], (8, 3)), "scales": jnp.ones((3, 1))}
CODES = {**NET, "codes": jax.random.normal(KEYS[6], (5, 16))}


def body(p, x):
    return jax.nn.relu(x @ p["in"])


def net(p, x):
    return body(p, x) @ p["out"]


def square(z, y):
    return jnp.square(z - y).mean()


def cut_body(p, x):
    return square(stop(body(p, x)) @ p["out"], x[:, :1])


def hard_router(p, x):
    chosen = jnp.argmax(x @ p["router"], axis=1)
    return square(net(p, x) * p["scales"][chosen], x[:, :1])


def rounded(p, x):
    gate = jnp.round(jax.nn.sigmoid(x @ p["router"]))
    return square(net(p, x) * (gate @ p["scales"]), x[:, :1])


def soft_router(p, x):
    scores = jax.nn.softmax(x @ p["router"])
    chosen = jnp.argmax(scores, axis=1)
    return square(net(p, x) * p["scales"][chosen] * scores.max(1, keepdims=True), x[:, :1])


def bellman(p, x):
    return square(net(p["online"], x), x[:, :1] + 0.9 * stop(net(p["target"], 2 * x)))


def adapted(p, x):
    return square(jax.nn.relu(x @ stop(p["in"])) @ p["out"], 1)


def discriminator(p, x):
    fake = stop(jnp.tanh(x @ p["generator"]))
    return jax.nn.softplus(-net(p, x)).mean() + jax.nn.softplus(net(p, fake)).mean()


def quantized(p, x, moving):
    z = body(p, x)
    q = p["codes"][jnp.argmin(jnp.square(z[:, None] - p["codes"]).sum(2), axis=1)]
    codebook = 0 if moving else square(stop(z), q)
    z = z + stop(q - z)
    return square(z @ p["out"], x[:, :1]) + square(z, stop(q)) + codebook


@jax.custom_vjp
def rounding(z):
    return jnp.round(z)


rounding.defvjp(lambda z: (jnp.round(z), None), lambda _, g: (g,))


@pytest.mark.parametrize(
    ("loss_fn", "params", "leaf", "by"),
    [
        (cut_body, NET, "in", "stop_gradient"),
        (hard_router, ROUTED, "router", "argmax"),
        (rounded, ROUTED, "router", "round"),
    ],
)
def test_parameters_without_a_gradient_are_named(loss_fn, params, leaf, by):
    found = [f for f in audit(loss_fn, params, X).findings if f.cause == "no_gradient"]
    assert [f.layers for f in found] == [(leaf,)]
    assert f"{leaf} only through {by}" in found[0].message


@pytest.mark.parametrize(
    ("loss_fn", "params"),
    [
        (soft_router, ROUTED),
        (bellman, {"online": NET, "target": OTHER}),
        (adapted, NET),
        (discriminator, {**NET, "generator": lecun_normal()(KEYS[7], (8, 8))}),
        (lambda p, x: quantized(p, x, False), CODES),
        (lambda p, x: quantized(p, x, True), CODES),
    ],
)
def test_what_is_cut_on_purpose_is_not(loss_fn, params):
    assert not trace("audit", loss_fn, params, (X,), False).cuts


def test_a_straight_through_gradient_counts():
    def loss_fn(p, x):
        return square(rounding(body(p, x)) @ p["out"], x[:, :1])

    assert "no_gradient" not in [finding.cause for finding in audit(loss_fn, NET, X).findings]
