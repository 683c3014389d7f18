"""Draws on an accelerator beside those on a CPU from the same key."""

import jax
import numpy as np
import pytest

import initjax

pytestmark = pytest.mark.skipif(jax.default_backend() == "cpu", reason="needs an accelerator")

# The largest difference, in units of the largest number drawn. Every backend has the same random
# words; functions such as erfinv, fused products and QR decompositions round differently.
TOLERANCES = {
    "uniform": 0,
    "glorot_uniform": 0,
    "he_uniform": 0,
    "lecun_uniform": 0,
    "random_uniform": 2e-7,
    "siren": 2e-7,
    "normal": 2e-7,
    "random_normal": 2e-7,
    "torch_kaiming_normal": 2e-7,
    "truncated_normal": 2e-6,
    "glorot_normal": 2e-6,
    "he_normal": 2e-6,
    "lecun_normal": 2e-6,
    "bounded_normal": 2e-6,
    "orthogonal": 1e-4,
    "scaled_orthogonal": 1e-4,
}


@pytest.mark.parametrize("name", TOLERANCES)
def test_the_same_key_gives_the_same_numbers_up_to_rounding(name):
    initializer = initjax.parse(name)

    def drawn(device):
        with jax.default_device(device):
            return np.asarray(initializer(jax.random.key(0), (300, 200)), np.float64)

    here, there = drawn(jax.devices("cpu")[0]), drawn(jax.devices()[0])
    assert np.abs(here - there).max() <= TOLERANCES[name] * np.abs(here).max()


def test_random_words_are_equal():
    def words(device):
        with jax.default_device(device):
            return np.asarray(jax.random.bits(jax.random.key(0), (1000,)))

    np.testing.assert_array_equal(words(jax.devices("cpu")[0]), words(jax.devices()[0]))
