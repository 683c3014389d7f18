"""The starting point of a run."""

import contextlib

import jax
import numpy as np
import pytest

import initjax
from experiments.common import data, fitting, starting, tasks
from experiments.common.config import Config, UsageError


@pytest.fixture
def digits():
    images = np.random.default_rng(0).integers(0, 256, (20, 2, 2, 1), np.uint8)
    labels = (np.arange(20) % 10).astype(np.int32)
    return data.Dataset("digits", "here", "d", 10, images, labels, images, labels)


def test_a_deep_network_is_drawn_as_initialize_draws_it_block_by_block(digits):
    config = Config(hidden=(6,) * 7, init="orthogonal(1.2)", bias_init="normal(0.1)", seed=3)
    start = starting.start(config, digits)
    rules = {"*bias": config.bias_init, "output/*": config.output_init, "*": config.init}
    key = initjax.named_key(start.key, "weights")
    expected = initjax.initialize(start.model.shapes, key, rules)
    assert jax.tree.structure(start.params) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), start.params, expected)


def test_standardized_inputs_have_mean_0_and_variance_1(digits):
    config = Config(hidden=(), inputs="standardized")
    model = starting.model(config, digits)
    params = {"output": {"kernel": np.eye(4, 10, dtype=np.float32), "bias": np.zeros(10, "f")}}
    pixels = np.asarray(model.apply(params, digits.train_images))[:, :4]
    np.testing.assert_allclose([pixels.mean(), pixels.std()], [0, 1], atol=1e-5)


def test_an_initializer_that_does_not_fit_a_deep_network_is_named(digits):
    config = Config(hidden=(6,) * 7, init="delta_orthogonal")
    with pytest.raises(UsageError, match=r"--init: hidden/0/kernel: .*an MLP has none"):
        starting.check(config, digits)


def test_options_of_jax_in_the_environment_change_no_run(digits):
    """Nor do they stop it: Optax's Adam can't be traced with strict promotion."""
    config, losses = Config(hidden=(5,), seed=3), []
    options = jax.threefry_partitionable(False), jax.numpy_dtype_promotion("strict")
    for context in (contextlib.nullcontext(), *options):
        with context, starting.precision(config):
            start = starting.start(config, digits)
            arrays = (digits.train_images, digits.train_labels)
            epochs = fitting.fit(
                *(tasks.classification(start.model.apply), "adam", 0.1, start.packed),
                *(starting.order_key(start.key), arrays, arrays),
                epochs=1,
                batch_size=3,
            )
            losses.append([epoch.metrics["val_loss"] for epoch in epochs])
    assert losses[0] == losses[1] == losses[2]
