"""Networks without an activation are named, unless low rank or a recurrence is their purpose."""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import initjax

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 12)).astype(np.float32)


def kernels(*sizes):
    draw = initjax.lecun_normal()
    keys = jax.random.split(jax.random.key(0), len(sizes) - 1)
    return [draw(key, shape) for key, shape in zip(keys, itertools.pairwise(sizes), strict=True)]


def chain(*activations):
    def loss(p, x):
        for kernel, activation in zip(p, [*activations, lambda z: z], strict=True):
            x = activation(x @ kernel)
        return jnp.square(x - 1).mean()

    return loss


def same(z):
    return z


def recurrent(p, x):
    def turn(state, inputs):
        state = state @ p[0] + inputs @ p[1]
        return state, state @ p[2]

    return jnp.square(jax.lax.scan(turn, jnp.zeros((8, 16)), x.reshape(4, 8, 12))[1] - 1).mean()


def found(loss, params):
    causes = [finding.cause for finding in initjax.audit(loss, params, X).findings]
    return "no_activation" in causes


@pytest.mark.parametrize(
    ("loss", "params", "linear"),
    [
        (chain(same, same), kernels(12, 16, 16, 3), True),
        (chain(same, jnp.tanh), kernels(12, 16, 16, 3), False),
        (chain(same), kernels(12, 4, 12), False),
        (recurrent, [*kernels(16, 16), *kernels(12, 16, 3)], False),
    ],
    ids=["linear", "one tanh", "low rank", "recurrence"],
)
def test_a_network_without_any_activation_is_named(loss, params, linear):
    assert found(loss, params) == linear


@pytest.mark.parametrize(("pool", "linear"), [(nn.avg_pool, True), (nn.max_pool, False)])
def test_the_way_through_pools_dropout_and_reshapes_is_followed(pool, linear):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = pool(nn.Conv(4, (3, 3))(x.reshape(-1, 4, 3, 1)), (2, 1), (2, 1))
            x = nn.Dropout(0.5, deterministic=False)(x.reshape(len(x), -1))
            return nn.Dense(2)(x)

    model: Any = Net()
    rngs = {"dropout": jax.random.key(1)}
    params = model.init({"params": jax.random.key(0), **rngs}, X)
    assert found(lambda p, x: jnp.square(model.apply(p, x, rngs=rngs) - 1).mean(), params) == linear


@pytest.mark.parametrize(
    ("norm", "activation", "linear"),
    [
        (nn.BatchNorm(use_running_average=False), same, True),
        (nn.BatchNorm(use_running_average=False), nn.relu, False),
        (nn.LayerNorm(), same, False),
    ],
    ids=["batch", "batch and relu", "layer"],
)
def test_statistics_of_the_batch_are_no_activation(norm, activation, linear):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(activation(norm.copy()(nn.Dense(16)(x))))

    model: Any = Net()
    variables = model.init(jax.random.key(0), X)
    statistics = {name: tree for name, tree in variables.items() if name != "params"}

    def loss(params, x):
        out, _ = model.apply({"params": params, **statistics}, x, mutable=["batch_stats"])
        return jnp.square(out - 1).mean()

    assert found(loss, variables["params"]) == linear


def test_a_mean_over_a_set_keeps_what_was_applied_to_its_members():
    def loss(p, x):
        return jnp.square(jnp.tanh(x @ p[0]).mean(0) @ p[1] @ p[2] - 1).mean()

    assert not found(loss, kernels(12, 16, 16, 3))
