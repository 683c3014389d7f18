"""Models as pure functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import initjax
from experiments.common import config, models


def draw(model):
    rules = {"*bias": initjax.normal(0.1), "*": initjax.he_normal()}
    return initjax.initialize(model.shapes, jax.random.key(0), rules)


def test_the_mlp_equals_its_formula():
    model = models.mlp((784, 128, 64, 10), "relu", "float32")
    params = draw(model)
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), np.uint8)
    x = images.reshape(5, 784) / np.float32(255)
    for layer in (params["hidden"][0], params["hidden"][1]):
        x = np.maximum(x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]), 0)
    logits = x @ np.asarray(params["output"]["kernel"]) + np.asarray(params["output"]["bias"])
    np.testing.assert_allclose(model.apply(params, images), logits, rtol=1e-4, atol=1e-5)


def test_an_mlp_without_hidden_layers_is_linear():
    model = models.mlp((4, 3), "relu", "float32")
    assert model.apply(draw(model), np.ones((2, 2, 2, 1), np.uint8)).shape == (2, 3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_mlp_computes_in_its_dtype_with_float32_parameters(dtype):
    model = models.mlp((4, 5, 3), "tanh", dtype)
    params = draw(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert model.apply(params, np.ones((2, 2, 2, 1), np.uint8)).dtype == dtype


@pytest.mark.parametrize("activation", config.ACTIVATIONS)
def test_every_activation_runs(activation):
    model = models.mlp((4, 5, 3), activation, "float32")
    assert np.isfinite(model.apply(draw(model), np.ones((2, 2, 2, 1), np.uint8))).all()


def test_the_activations_are_all_the_elementwise_functions_of_jax_nn():
    x = jnp.linspace(-3, 3, 8).reshape(2, 4)
    elementwise = set()
    for name in filter(str.islower, dir(jax.nn)):
        function = getattr(jax.nn, name)
        try:
            y = function(x)
            if y.shape == x.shape and jnp.array_equal(function(x.T).T, y):
                elementwise.add(name)
        except (TypeError, ValueError, AttributeError):
            pass  # a module, or a function that needs other arguments
    assert set(config.ACTIVATIONS) <= elementwise
    # Newer releases of JAX may have more; those known today are all here.
    assert elementwise - set(config.ACTIVATIONS) <= {"log1mexp", "relu_squared"}


def test_equal_models_are_one_object_so_compiled_programs_are_reused():
    assert models.mlp((4, 3), "relu", "float32") is models.mlp((4, 3), "relu", "float32")


def test_a_packed_network_equals_the_unrolled_one():
    model = models.mlp((4, 8, *[6] * 5, 3, 3), "tanh", "float32")
    params = draw(model)
    packed = model.pack(params)
    assert [(stack.first, stack.length) for stack in model.stacks] == [(2, 4)]
    assert packed["hidden"][2]["kernel"].shape == (4, 6, 6)
    shapes = jax.tree.map(lambda leaf: leaf.shape, model.pack(model.shapes))
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, packed)
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 2, 1), np.uint8)
    np.testing.assert_array_equal(model.apply(packed, images), model.unrolled(params, images))
    again = model.unpack(packed)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_the_program_of_a_deep_network_does_not_grow_with_its_depth():
    def equations(depth):
        model = models.mlp((4, *[6] * depth, 3), "tanh", "float32")
        images = np.zeros((5, 2, 2, 1), np.uint8)
        return str(jax.make_jaxpr(model.apply)(model.pack(model.shapes), images)).count("\n")

    assert equations(100) == equations(6)


def test_pixels_can_be_standardized():
    images = np.array([0, 255, 51, 204], np.uint8).reshape(1, 2, 2, 1)
    model = models.mlp((4, 4), "relu", "float32", (0.5, 0.25))
    params = {"output": {"kernel": np.eye(4, dtype=np.float32), "bias": np.zeros(4, np.float32)}}
    np.testing.assert_allclose(model.apply(params, images)[0], [-2, 2, -1.2, 1.2], rtol=1e-6)
