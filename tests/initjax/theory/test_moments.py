"""Gains against golden numbers, closed forms, and inequalities that hold for all activations."""

import math
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from flax import nnx

import initjax
from initjax.theory import variance_map
from initjax.theory.moments import moments

# E[phi], E[phi^2], E[phi'^2] for unit normal inputs, by another quadrature, to ten digits.
GOLDEN = {
    "identity": (lambda z: z, 0, 1, 1),
    "relu": (jax.nn.relu, 0.3989422804, 0.5, 0.5),
    "leaky_relu": (jax.nn.leaky_relu, 0.3949528576, 0.50005, 0.50005),
    "leaky_relu(.2)": (lambda z: jax.nn.leaky_relu(z, 0.2), 0.3191538243, 0.52, 0.52),
    "tanh": (jnp.tanh, 0, 0.3942944904, 0.4644029024),
    "sigmoid": (jax.nn.sigmoid, 0.5, 0.2933790359, 0.0448362414),
    "selu": (jax.nn.selu, 0, 1, 1.0715749925),
    "elu": (jax.nn.elu, 0.1605205723, 0.6449454175, 0.6681020012),
    "gelu(erf)": (
        lambda z: jax.nn.gelu(z, approximate=False),
        0.2820947918,
        0.4252214826,
        0.4558508656,
    ),
    "gelu(tanh)": (jax.nn.gelu, 0.2820385881, 0.4251937110, 0.4558178460),
    "silu": (jax.nn.silu, 0.2066209641, 0.3557755198, 0.3794823516),
    "softplus": (jax.nn.softplus, 0.8060591833, 0.9212459089, 0.2933790359),
    "mish": (jax.nn.mish, 0.2404038884, 0.4523421924, 0.4790837584),
    "relu6": (jax.nn.relu6, 0.3989422802, 0.4999999981, 0.4999999990),
    "hard_tanh": (jax.nn.hard_tanh, 0, 0.5160585510, 0.6826894921),
    "erf": (jax.scipy.special.erf, 0, 0.4645590544, 0.5694100347),
    "softsign": (jax.nn.soft_sign, 0, 0.1830140213, 0.2276713404),
    "hard_sigmoid": (jax.nn.hard_sigmoid, 0.5, 0.2776390911, 0.0277027834),
    "hard_swish": (jax.nn.hard_swish, 0.1662167007, 0.3315673751, 0.3585315172),
    "sin": (jnp.sin, 0, 0.4323323584, 0.5676676416),
    "squared_relu": (lambda z: jnp.square(jax.nn.relu(z)), 0.5, 1.5, 2),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_golden_table(name):
    activation, mean, second, derivative_second = GOLDEN[name]
    expected = (mean, second, derivative_second)
    np.testing.assert_allclose(moments(activation), expected, atol=2e-10)
    gains = [initjax.gain(activation, kind) for kind in ("forward", "centered", "backward")]
    expected = [x**-0.5 for x in (second, second - mean**2, derivative_second)]
    np.testing.assert_allclose(gains, expected, rtol=1e-8)


def test_closed_forms_at_any_variance():
    q = 1.7
    _, second, derivative_second = moments(jax.scipy.special.erf, q)
    assert second == pytest.approx(2 / math.pi * math.asin(2 * q / (1 + 2 * q)), abs=1e-12)
    assert derivative_second == pytest.approx(4 / math.pi / math.sqrt(1 + 4 * q), abs=1e-12)
    assert moments(jnp.exp, q).mean == pytest.approx(math.exp(q / 2), rel=1e-12)


def test_kinks_and_jumps_are_found_anywhere():
    at = 0.6180339887
    upper = 0.5 * math.erfc(at / 2**0.5)
    density = math.exp(-(at**2) / 2) / (2 * math.pi) ** 0.5
    result = moments(lambda z: jnp.where(z > at, z, 0))
    np.testing.assert_allclose(result, (density, upper + at * density, upper), atol=1e-10)
    kink = moments(lambda z: jnp.maximum(z, at))
    assert kink.derivative_second == pytest.approx(upper, abs=1e-10)


def test_jumps_are_found_next_to_the_edges_of_panels_too():
    places = np.random.default_rng(0).uniform(-2, 2, (25, 20))
    for jumps in places:
        mean = moments(lambda z, jumps=jumps: (np.asarray(z)[..., None] > jumps).sum(-1)).mean
        assert mean == pytest.approx(scipy.stats.norm.sf(jumps).sum(), abs=1e-10)


@pytest.mark.parametrize("width", [2e-4, 5e-3])
def test_a_narrow_spike_is_found_wherever_it_is(width):
    """With 16 nodes in panels of a quarter, 9 of 24 spikes on relu were missed."""
    for start in np.linspace(-3, 3, 24):
        inside = scipy.stats.norm.cdf([start, start + width])
        spike = moments(lambda z, a=start: (a < np.asarray(z)) & (np.asarray(z) < a + width))
        assert spike.mean == pytest.approx(inside[1] - inside[0], rel=1e-8)
        both = moments(
            lambda z, a=start: (
                np.maximum(np.asarray(z), 0)
                + 1e3 * ((a < np.asarray(z)) & (np.asarray(z) < a + width))
            )
        )
        assert both.second > 0.5 + 1e5 * spike.mean


def test_divergent_moments_are_infinite():
    def root(z):
        return jnp.sign(z) * jnp.sqrt(jnp.abs(z))

    assert moments(root).derivative_second == math.inf
    assert initjax.gain(root) == pytest.approx((math.pi / 2) ** 0.25, abs=1e-9)
    with pytest.raises(ValueError, match="no backward gain, since that moment is inf"):
        initjax.gain(root, "backward")
    with pytest.raises(ValueError, match="no forward gain, since that moment is inf"):
        initjax.gain(lambda z: jnp.abs(z) ** -0.5)


@pytest.mark.parametrize("power", [0.6, 0.75])
@pytest.mark.parametrize("at", [0.0, 0.7])
def test_moments_of_integrable_singularities_are_finite(power, at):
    """E[phi'^2] of |z|^p is p^2 E[|z|^(2p-2)], which is finite for p > 1/2."""
    moment = moments(lambda z: jnp.abs(z - at) ** power).derivative_second
    expected = scipy.integrate.quad(
        lambda x: power**2 * (scipy.stats.norm.pdf(at + x) + scipy.stats.norm.pdf(at - x)),
        *(0, 12),
        weight="alg",
        wvar=(2 * power - 2, 0),
    )[0]
    assert moment == pytest.approx(expected, rel=3e-3 if power < 0.7 else 1e-6)


def test_a_gain_is_the_same_inside_every_transformation():
    def inside(_):
        gains.append(initjax.gain(lambda z: jnp.tanh(z)))  # a new lambda, so nothing is cached
        return jnp.zeros(())

    gains, x = [], jnp.ones(3)
    jax.jit(inside)(x)
    jax.eval_shape(inside, jnp.ones(4))
    jax.vmap(inside)(x)
    jax.grad(inside)(x)
    jax.lax.scan(lambda carry, x: (carry, inside(x)), 0, x)
    assert set(gains) == {initjax.gain(jnp.tanh)} and len(gains) >= 5


def test_a_gain_that_depends_on_a_traced_number_is_explained():
    def scaled(slope):
        return initjax.gain(lambda z: jnp.where(z > 0, z, slope * z))

    for transformed in (jax.jit(scaled), jax.grad(scaled)):
        with pytest.raises(TypeError, match=r"activation .* depends on a number that is traced"):
            transformed(0.2)


def test_functions_that_jax_cannot_trace_are_differentiated_numerically():
    for traced, untraced in ((jnp.tanh, np.tanh), (jax.nn.relu, lambda z: np.maximum(z, 0.0))):
        mine = moments(lambda z, function=untraced: function(np.asarray(z)))
        np.testing.assert_allclose(mine, moments(traced), atol=1e-10)


def test_custom_derivatives_are_used():
    @jax.custom_vjp
    def step(z):
        return jnp.sign(z)

    step.defvjp(lambda z: (step(z), z), lambda z, g: (g * (jnp.abs(z) < 1),))
    assert moments(step).derivative_second == pytest.approx(math.erf(0.5**0.5), abs=1e-10)


def test_a_float32_function_is_integrated_to_float32_precision():
    single = moments(lambda z: jnp.tanh(z.astype(jnp.float32)))
    np.testing.assert_allclose(single, moments(jnp.tanh), atol=1e-6)


coefficients = st.lists(st.floats(-3, 3), min_size=4, max_size=4)


@hypothesis.settings(max_examples=60)
@hypothesis.given(coefficients)
def test_the_gaussian_poincare_inequality(numbers):
    """Var phi <= E phi'^2 for every phi, with equality for affine functions."""
    a, b, c, d = numbers
    mean, second, derivative_second = moments(
        lambda z: a * np.asarray(z) + b * np.abs(z - c) + d * np.sin(3 * np.asarray(z))
    )
    assert second - mean**2 <= derivative_second + 1e-9


def test_the_table_of_pytorch():
    assert initjax.torch_gain("relu") == 2**0.5
    assert initjax.torch_gain("conv_transpose2d") == initjax.torch_gain("sigmoid") == 1
    assert initjax.torch_gain("leaky_relu", 5**0.5) == pytest.approx(3**-0.5)
    assert initjax.torch_gain("leaky_relu") == pytest.approx((2 / 1.0001) ** 0.5)
    assert initjax.torch_gain("selu") == 0.75
    with pytest.raises(ValueError, match=r"nonlinearity must be one of .*; got 'gelu'"):
        initjax.torch_gain("gelu")


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        (jax.nn.softmax, "must act on each number by itself"),
        (jnp.sum, "must act on each number by itself"),
        (lambda z: (z - z.mean()) / z.std(), "must act on each number by itself"),
        (lambda z: z / jnp.abs(z).max(), "must act on each number by itself"),
        (jax.nn.standardize, "must act on each number by itself"),
        (jnp.cumsum, "must act on each number by itself"),
        (lambda z: jnp.exp(0.2 * z**2), "grows so fast that inputs beyond 12 standard dev"),
        (lambda z: jnp.exp(0.25 * z**2), "grows so fast"),
        (lambda z: jnp.exp(4 * z), "grows so fast"),
        (lambda z: 1 / z**40, "isn.t finite|no forward gain"),
        (jnp.log, "isn.t finite"),
        (jnp.zeros_like, "no forward gain"),
        ("rellu", "is not an activation in jax.nn; valid names include relu,"),
    ],
)
def test_activations_without_a_gain_are_refused(activation, message):
    with pytest.raises(ValueError, match=message):
        initjax.gain(activation)


def _raises(z):
    raise RuntimeError("no number")


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        (_raises, r"_raises at .* can't be applied to an array \(RuntimeError: no number\); give"),
        (math.tanh, r"tanh> can't be applied to an array .*numpy\.vectorize"),
        (lambda z: z if z > 0 else 0, r"<lambda>.* can't be applied to an array"),
        (jax.nn.one_hot, r"one_hot at .* can't be applied .*'num_classes'"),
        (nnx.PReLU, r"PReLU'> must return an array of real numbers, got PReLU"),
        (lambda z: (z, z), r"must return an array of real numbers, got tuple"),
        (lambda z: 1j * z, r"must return an array of real numbers, got complex128"),
        ("glu", r"function glu at .* must act on each number by itself"),
    ],
)
def test_a_function_that_is_no_activation_is_named(activation, message):
    with pytest.raises((TypeError, ValueError), match=message):
        initjax.gain(activation)


def test_a_wrong_kind_and_a_wrong_type_are_refused():
    with pytest.raises(ValueError, match="kind must be one of backward"):
        initjax.gain("relu", "backwards")
    with pytest.raises(TypeError, match="must be a function or a name"):
        initjax.gain(3)  # pyright: ignore


def test_the_gain_of_an_activation_that_changes_is_that_of_now():
    """Of a trainable slope, an attribute, a global variable, in JAX or NumPy."""

    class Leaky:
        slope: Any = 0.0

        def in_jax(self, z):
            return jnp.where(z > 0, z, self.slope * z)

        def __call__(self, z):  # can't be traced
            return np.where(np.asarray(z) > 0, z, self.slope * np.asarray(z))

    leaky, module = Leaky(), nnx.PReLU(negative_slope_init=0.0)
    for slope in (0.0, 1.0, 0.0, 0.5):
        leaky.slope = slope
        module.negative_slope[...] = jnp.float32(slope)
        for activation in (leaky, leaky.in_jax, module, module.__call__):
            expected = (2 / (1 + slope**2)) ** 0.5
            assert initjax.gain(activation) == pytest.approx(expected)
            assert variance_map(activation, 1.0, 2.0) == pytest.approx(2 / expected**2)
            assert initjax.he_normal(gain=activation).scale == pytest.approx(expected**2)
