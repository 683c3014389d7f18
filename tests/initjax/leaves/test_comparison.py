"""What became of leaves: steps that change nothing, new draws over a checkpoint, and more."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import initjax


def statuses(before, after):
    return {leaf.path: leaf.status for leaf in initjax.compare_leaves(before, after).leaves}


def test_an_update_that_is_lost_under_jit_is_seen():
    """A module of NNX is copied into `jax.jit`: what the copy learns is lost."""
    model = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)
    x = jnp.ones((2, 8))

    def step(state):
        model = nnx.merge(graph, state)
        gradients = nnx.grad(lambda model: model(x).sum())(model)
        nnx.update(model, jax.tree.map(lambda p, g: p - 0.1 * g, nnx.state(model), gradients))
        return nnx.state(model)

    before = jax.tree.map(jnp.copy, nnx.state(model))
    after = jax.jit(step)(state)
    lost = initjax.compare_leaves(before, nnx.state(model))
    assert lost.unchanged == ("bias", "kernel")
    assert str(lost).startswith("2 of 2 leaves unchanged. If this was a step of training, its")
    assert set(statuses(before, after).values()) == {"changed"}


def test_frozen_leaves_and_the_size_of_an_update_are_told(key):
    params = {"body": initjax.he_normal()(key, (32, 64)), "head": jnp.zeros((64, 4))}
    optimizer = optax.sgd(0.1)
    gradients = {"body": jnp.zeros((32, 64)), "head": jnp.ones((64, 4))}
    updates, _ = optimizer.update(gradients, optimizer.init(params))
    found = initjax.compare_leaves(params, optax.apply_updates(params, updates))
    body, head = found.leaves
    assert (body.status, body.relative_change) == ("unchanged", 0.0)
    assert (head.status, head.relative_change) == ("changed", math.inf)
    assert head.text == "constant 0 before"
    (scaled,) = initjax.compare_leaves({"a": params["body"]}, {"a": params["body"] * 1.01}).leaves
    assert scaled.relative_change == pytest.approx(0.01, rel=1e-3)
    assert scaled.correlation == pytest.approx(1)


def test_a_checkpoint_that_a_new_draw_overwrites_is_seen(key):
    first, second = jax.random.split(key)
    loaded = {"kernel": initjax.he_normal()(first, (64, 32)), "bias": jnp.ones(32)}
    after = {"kernel": initjax.he_normal()(second, (64, 32)), "bias": jnp.zeros(32)}
    (bias, kernel) = initjax.compare_leaves(loaded, after).leaves
    assert (bias.status, kernel.status) == ("changed", "redrawn")
    assert abs(kernel.correlation) < 0.1
    trained = loaded["kernel"] + 0.5 * after["kernel"]
    assert statuses({"kernel": loaded["kernel"]}, {"kernel": trained}) == {"kernel": "changed"}


def test_a_redrawn_leaf_is_hardly_ever_missed_nor_a_trained_one_called_so():
    rng = np.random.default_rng(0)
    before, fresh = ({str(n): rng.standard_normal(100) for n in range(1000)} for _ in range(2))
    assert set(statuses(before, fresh).values()) == {"redrawn"}
    # An update as large as the parameters: correlation 0.7.
    steps = {name: before[name] + fresh[name] for name in before}
    assert list(statuses(before, steps).values()).count("redrawn") == 0


def test_all_other_changes_have_names(key):
    before = {
        "a": jnp.ones(3),
        "broken": jnp.ones(3),
        "flag": jnp.array([True, False]),
        "gone": jnp.ones(2),
        "half": jnp.ones(3),
        "key": jax.random.key(0),
        "memory": jnp.ones(3),
        "step": jnp.array(1),
    }
    after = {
        "a": jnp.ones(4),
        "broken": jnp.array([1.0, jnp.nan, 1.0]),
        "flag": jnp.array([True, False]),
        "half": jnp.ones(3, jnp.bfloat16),
        "key": jax.random.key(1),
        "memory": jnp.array([1e30, 1.0, 2.0]),
        "new": jnp.ones(2),
        "step": jnp.array(2),
    }
    found = initjax.compare_leaves(before, after)
    assert {leaf.path: leaf.status for leaf in found.leaves} == {
        "a": "reshaped",
        "broken": "not finite",
        "flag": "unchanged",
        "gone": "removed",
        "half": "reshaped",
        "key": "changed",
        "memory": "unwritten",
        "new": "added",
        "step": "changed",
    }
    text = found.to_text(60)
    assert text.startswith("1 of 9 leaves unchanged, 2 changed, ")
    assert max(map(len, text.splitlines())) <= 60
    json.dumps(found.to_dict(), allow_nan=False)


def test_complex_and_half_precision_leaves_are_compared(key):
    for dtype in ("complex64", "bfloat16"):
        values = initjax.normal(1.0)(key, (200,), dtype)
        assert statuses({"a": values}, {"a": values * 1.1}) == {"a": "changed"}
        assert statuses({"a": values}, {"a": values}) == {"a": "unchanged"}
        other = initjax.normal(1.0)(jax.random.key(9), (200,), dtype)
        assert statuses({"a": values}, {"a": other}) == {"a": "redrawn"}


def test_a_tree_without_arrays_is_an_error():
    with pytest.raises(ValueError, match="compare_leaves: params"):
        initjax.compare_leaves({}, {"a": jnp.ones(3)})
