"""What may be in params and the batch besides arrays."""

import jax
import jax.numpy as jnp
import pytest

from initjax import audit, lecun_normal


def test_flags_and_text_in_the_batch_are_constants(key):
    x = jax.random.normal(key, (64, 8))

    def loss_fn(params, batch):
        h = batch["act"](batch["x"] @ params["in"]) if batch["train"] else batch["x"]
        assert batch["mode"] == "mse"
        return jnp.square(h @ params["out"] - 1).mean()

    params = {"in": lecun_normal()(key, (8, 16)), "out": lecun_normal()(key, (16, 1))}
    batch = {"x": x, "act": jnp.tanh, "train": True, "mode": "mse", "none": None}
    assert audit(loss_fn, params, batch).verdict == "ok"


def test_shapes_and_needed_values_are_told_apart_from_arrays(key):
    x = jax.random.normal(key, (64, 8))
    params = {"out": lecun_normal()(key, (8, 1))}

    def loss_fn(params, x, repeats=1):
        return sum(jnp.square(x @ params["out"]).mean() for _ in range(repeats))

    with pytest.raises(TypeError, match=r"params\['out'\] is a shape, float32\[8, 1\]"):
        audit(loss_fn, jax.eval_shape(lambda: params), x)
    with pytest.raises(TypeError, match="close over it"):
        audit(loss_fn, params, x, 3)


def test_one_example_in_each_turn_of_a_loop_is_no_batch_of_one(key):
    x = jax.random.normal(key, (64, 8))
    params = {"in": lecun_normal()(key, (8, 16)), "out": lecun_normal()(key, (16, 1))}

    def loss_fn(params, x):
        z = jax.lax.map(lambda x: jnp.tanh(x @ params["in"]) @ params["out"], x)
        return jnp.square(z - 1).mean()

    assert audit(loss_fn, params, x).verdict == "ok"
