"""Variance scaling: the variance is right, in the kernel and behind a real layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import linen, nnx

import initjax

NAMED = {
    "lecun_uniform": (1.0, "fan_in", "uniform"),
    "lecun_normal": (1.0, "fan_in", "truncated_normal"),
    "glorot_uniform": (1.0, "fan_avg", "uniform"),
    "glorot_normal": (1.0, "fan_avg", "truncated_normal"),
    "he_uniform": (2.0, "fan_in", "uniform"),
    "he_normal": (2.0, "fan_in", "truncated_normal"),
}


def law(distribution, stddev):
    return {
        "uniform": scipy.stats.uniform(-(3**0.5) * stddev, 2 * 3**0.5 * stddev),
        "normal": scipy.stats.norm(0, stddev),
        "truncated_normal": scipy.stats.truncnorm(-2, 2, scale=stddev / 0.87962566103423978),
    }[distribution]


@pytest.mark.parametrize("distribution", ["uniform", "normal", "truncated_normal"])
@pytest.mark.parametrize(
    ("mode", "n"), [("fan_in", 400), ("fan_out", 900), ("fan_avg", 650), ("fan_geo_avg", 600)]
)
def test_draws_follow_their_law(mode, n, distribution, key):
    kernel = initjax.variance_scaling(1.5, mode, distribution)(key, (400, 900))
    expected = law(distribution, (1.5 / n) ** 0.5)
    assert scipy.stats.kstest(np.ravel(kernel), expected.cdf).pvalue > 1e-4


@pytest.mark.parametrize("name", NAMED)
def test_a_named_method_is_the_core_with_its_arguments_fixed(name):
    method = getattr(initjax, name)()
    assert method == initjax.variance_scaling(*NAMED[name])
    assert repr(method) == f"{name}()"


def test_aliases_are_the_same_function():
    assert initjax.xavier_uniform is initjax.glorot_uniform
    assert initjax.xavier_normal is initjax.glorot_normal
    assert initjax.kaiming_uniform is initjax.he_uniform
    assert initjax.kaiming_normal is initjax.he_normal


@pytest.mark.parametrize("name", NAMED)
def test_the_variance_behind_real_layers(name, key):
    """1/fan_in keeps the mean square of unit inputs, 2/fan_in doubles it, fan_avg lies between."""
    scale, mode, _ = NAMED[name]
    initializer = getattr(initjax, name)()
    key_x, key_kernel = jax.random.split(key)
    x = jax.random.normal(key_x, (256, 600))
    expected = scale * (600 / 400 if mode == "fan_avg" else 1)
    # The kernel's variance is known to .3 %, and the outputs share it: five standard errors.
    dense = linen.Dense(200, kernel_init=initializer)
    output, _ = dense.init_with_output(key_kernel, x)
    assert np.mean(np.square(output)) == pytest.approx(expected, rel=0.05)
    linear = nnx.Linear(600, 200, kernel_init=initializer, rngs=nnx.Rngs(0))
    assert np.mean(np.square(linear(x))) == pytest.approx(expected, rel=0.05)


def test_the_variance_behind_a_convolution(key):
    key_x, key_kernel = jax.random.split(key)
    x = jax.random.normal(key_x, (8, 16, 16, 64))
    conv = linen.Conv(128, (3, 3), padding="VALID", kernel_init=initjax.lecun_normal())
    output, _ = conv.init_with_output(key_kernel, x)
    assert np.mean(np.square(output)) == pytest.approx(1.0, rel=0.05)


def test_the_axes_of_a_stack_of_kernels_do_not_count(key):
    stack = initjax.he_normal(batch_axis=0)(key, (8, 300, 200))
    assert np.std(stack) == pytest.approx((2 / 300) ** 0.5, rel=0.01)


def test_flax_embed_may_name_one_axis_twice(key):
    like_flax = initjax.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
    flax_default = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
    np.testing.assert_array_equal(like_flax(key, (100, 64)), flax_default(key, (100, 64)))


def test_a_huge_fan_keeps_its_variance_in_float16(key):
    kernel = initjax.lecun_normal()(key, (1_000_000, 4), jnp.float16)
    assert np.std(np.asarray(kernel, np.float64)) == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, "fan_in", "normal"), "scale must be a finite number >= 0, got -1"),
        ((1, "fan_inn", "normal"), "mode must be one of fan_in, .*; got 'fan_inn'"),
        ((1, "fan_in", "gaussian"), "distribution must be one of .*; got 'gaussian'"),
    ],
)
def test_a_wrong_argument_is_refused_when_the_initializer_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        initjax.variance_scaling(*arguments)


@pytest.mark.parametrize("axis", [1.0, "in", None, (0, 0.5), True])
def test_an_axis_must_be_an_integer(axis):
    with pytest.raises(TypeError, match="he_normal: in_axis must be an axis"):
        initjax.he_normal(in_axis=axis)


def test_a_bias_is_refused_with_advice(key):
    with pytest.raises(ValueError, match=r"in_axis=-2 is outside shape \(3,\).*for a bias use"):
        initjax.he_normal()(key, (3,))
