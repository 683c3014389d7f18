"""Trees of parameters: every draw depends on the key, its own path and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import initjax


def choose(path):
    return initjax.zeros if path.endswith("bias") else initjax.he_normal()


def shapes(*names):
    return {name: {"kernel": jax.ShapeDtypeStruct((5, 4), np.float32)} for name in names}


def test_adding_renaming_and_reordering_layers_leaves_other_draws_alone(key):
    before = initjax.initialize(key, shapes("a", "b"), choose)
    after = initjax.initialize(key, shapes("z", "b", "c", "a"), choose)
    np.testing.assert_array_equal(before["a"]["kernel"], after["a"]["kernel"])
    np.testing.assert_array_equal(before["b"]["kernel"], after["b"]["kernel"])
    assert not np.array_equal(before["a"]["kernel"], before["b"]["kernel"])


def test_a_draw_is_that_of_the_key_named_by_the_path(key):
    tree = initjax.initialize(key, {"layers": [shapes("a")["a"]]}, choose)
    own = initjax.named_key(key, "layers/0/kernel")
    np.testing.assert_array_equal(
        tree["layers"][0]["kernel"], initjax.he_normal()(own, (5, 4), np.float32)
    )


def test_jitted_and_eager_draws_are_equal(key):
    eager = initjax.initialize(key, shapes("a", "b"), choose)
    jitted = jax.jit(lambda key: initjax.initialize(key, shapes("a", "b"), choose))(key)
    jax.tree.map(np.testing.assert_array_equal, eager, jitted)


def test_the_bits_are_pinned():
    """These must never change: runs stored today have to be repeatable tomorrow."""
    key = jax.random.key(0)
    words = jax.random.key_data(initjax.named_key(key, "hidden/0/kernel")).tolist()
    assert words == GOLDEN_KEY
    drawn = initjax.initialize(key, shapes("a"), lambda path: initjax.glorot_uniform())
    first = np.asarray(drawn["a"]["kernel"])[0].view(np.uint32).tolist()
    assert first == GOLDEN_BITS


GOLDEN_KEY = [2938851939, 622255339]
GOLDEN_BITS = [3209613809, 3203303011, 1062078016, 3204825213]


def test_streams_by_name_are_independent(key):
    names = [f"stream {i}" for i in range(200)]
    words = {tuple(jax.random.key_data(initjax.named_key(key, name)).tolist()) for name in names}
    assert len(words) == 200


def test_an_empty_tree_stays_empty(key):
    assert initjax.initialize(key, {}, choose) == {}


def test_an_initializer_that_does_not_fit_is_told_with_the_path(key):
    with pytest.raises(ValueError, match=r"a/kernel: in_axis=5 is outside shape \(5, 4\)"):
        initjax.initialize(key, shapes("a"), lambda path: initjax.he_normal(in_axis=5))


def test_a_linen_model_is_initialized_whole(key):
    model = linen.Sequential([linen.Dense(8), linen.relu, linen.Dense(3)])
    abstract = jax.eval_shape(model.init, key, np.zeros((1, 5), np.float32))
    params = initjax.initialize(key, abstract, choose)
    logits = model.apply(params, np.ones((2, 5), np.float32))
    assert jax.tree.map(np.shape, logits) == (2, 3)
    assert not params["params"]["layers_0"]["bias"].any()


def test_an_nnx_model_is_initialized_whole(key):
    model = nnx.eval_shape(lambda: nnx.Linear(5, 3, rngs=nnx.Rngs(0)))
    state = nnx.state(model)
    params = initjax.initialize(key, nnx.to_pure_dict(state), choose)
    nnx.update(model, nnx.State(params))
    assert model(jnp.ones((2, 5))).shape == (2, 3)
    np.testing.assert_array_equal(model.kernel[...], params["kernel"])
