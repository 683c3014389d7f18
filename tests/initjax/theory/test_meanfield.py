"""The maps of mean field theory against closed forms, golden numbers, networks and plain twins."""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import initjax
from initjax.theory import (
    chi,
    chi_parallel,
    correlation_map,
    moments,
    relu_correlation_map,
    variance_map,
)
from initjax.theory._integrals import pair, single
from initjax.theory._pieces import pieces

CORRELATIONS = [-1, -0.99, -0.5, -0.001, 0, 0.25, 0.5, 0.9, 0.99, 0.9999, 1 - 1e-8, 1]


class Expectations(NamedTuple):
    """Of an activation whose two inputs are normal, alike and correlated."""

    mean: float
    second: float
    derivative_second: float
    product: float
    kurtosis: float
    derivative_product: float


def expectations(activation, variance, correlation):
    function = getattr(jax.nn, activation) if isinstance(activation, str) else activation
    one, two = single(function, variance), pair(function, variance, correlation)
    second = float(one.second)
    return Expectations(
        mean=float(one.mean),
        second=second,
        derivative_second=float(one.derivative_second),
        product=second - two.gap,
        kurtosis=float(one.fourth) / second**2,
        derivative_product=two.derivative_product,
    )


@pytest.mark.parametrize(
    ("kernel_variance", "golden"),
    [
        (lambda fans: 2 / fans[0], (2, 2, 2)),  # He
        (lambda fans: 1 / fans[0], (1, 0.5, 0.25)),  # LeCun, Flax's default
        (lambda fans: 1 / fans[0] / 3, (0.333, 0.0556, 0.0093)),  # PyTorch's default
        (lambda fans: 2 / sum(fans), (1.719, 1.146, 0.991)),  # Glorot
        (lambda fans: 1e-4, (0.0784, 0.0005, 0)),
        (lambda fans: 1, (784, 5.0e4, 1.6e6)),
    ],
)
def test_the_variances_of_the_published_network(kernel_variance, golden):
    """784-128-64-10 with ReLU and inputs of mean square one, by the variance of its kernels."""
    q, *expected = golden
    first, *layers = itertools.pairwise([784, 128, 64, 10])
    measured = first[0] * kernel_variance(first)
    assert measured == pytest.approx(q, rel=2e-3)
    for fans, q in zip(layers, expected, strict=True):
        measured = variance_map("relu", measured, fans[0] * kernel_variance(fans))
        assert measured == pytest.approx(q, rel=6e-3, abs=5e-5)


def test_relu_is_the_arc_cosine_kernel_at_any_variance():
    for c, q in itertools.product(CORRELATIONS, (1e-6, 1, 1e4)):
        assert correlation_map("relu", c, q, 2.0) == pytest.approx(
            relu_correlation_map(c), abs=1e-12
        )


@pytest.mark.parametrize("slope", [0.01, 0.2, -0.5])
def test_leaky_relu_is_a_mixture_of_the_arc_cosine_kernel_and_the_line(slope):
    def leaky(z):
        return jnp.where(z > 0, z, slope * z)

    # phi = slope z + (1 - slope) relu(z), and E[u relu(v)] = c/2.
    for c in CORRELATIONS:
        product = slope**2 * c + slope * (1 - slope) * c
        product += (1 - slope) ** 2 * relu_correlation_map(c) / 2
        expected = product / ((1 + slope**2) / 2)
        assert correlation_map(leaky, c, 0.7, 1.3) == pytest.approx(expected, abs=1e-12)


def test_golden_numbers_of_relus_correlation_map():
    golden = {
        -0.5: 0.1089977810,
        0: 0.3183098862,
        0.25: 0.4533098778,
        0.5: 0.6089977810,
        0.9: 0.9095383988,
        0.99: 0.9903002557,
    }
    measured = relu_correlation_map(list(golden))
    np.testing.assert_allclose(measured, list(golden.values()), atol=1e-10)
    path = [0.0]
    for _ in range(2000):
        path.append(relu_correlation_map(path[-1]))
    golden = {2: 0.49373109, 5: 0.73594635, 10: 0.87153552, 20: 0.94842848}
    golden |= {50: 0.98786194, 100: 0.99642315}
    np.testing.assert_allclose([path[i] for i in golden], list(golden.values()), atol=1e-8)
    assert (1 - path[2000]) * 2 * 2000**2 / (9 * math.pi**2) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("q", [1e-4, 0.3, 1.7, 1e4])
def test_erf_has_closed_forms(q):
    erf = jax.scipy.special.erf

    def product(c):
        return 2 / math.pi * math.asin(2 * q * c / (1 + 2 * q))

    assert variance_map(erf, q, 1.4, 0.1) == pytest.approx(1.4 * product(1) + 0.1, rel=1e-12)
    assert chi(erf, q, 1.4) == pytest.approx(1.4 * 4 / math.pi / math.sqrt(1 + 4 * q), rel=1e-11)
    slope = 4 / math.pi / (1 + 2 * q) / math.sqrt(1 + 4 * q)  # of product(1) in q
    assert chi_parallel(erf, q, 1.4) == pytest.approx(1.4 * slope, rel=1e-10)
    for c in CORRELATIONS:
        expected = (1.4 * product(c) + 0.1) / (1.4 * product(1) + 0.1)
        assert correlation_map(erf, c, q, 1.4, 0.1) == pytest.approx(expected, abs=1e-12)


def test_steps_and_clipped_lines_are_orthants_and_rectangles():
    """Kinks and jumps in both inputs, where a quadrature that ignores them fails."""
    at = 0.37
    for c in [-0.99, -0.5, 0, 0.5, 0.9, 0.9999]:
        law = scipy.stats.multivariate_normal([0, 0], np.array([[1, c], [c, 1]]))  # pyright: ignore
        orthant = law.cdf([-at, -at])
        step = expectations(_step_at_37, 1.0, c)
        assert step.product == pytest.approx(orthant, abs=1e-10)
        rectangle = law.cdf([1, 1], lower_limit=[-1, -1])
        assert expectations("hard_tanh", 1.0, c).derivative_product == pytest.approx(
            rectangle, abs=1e-10
        )


def _step_at_37(z):
    return jnp.where(z > 0.37, 1.0, 0.0)


@pytest.mark.parametrize("name", ["tanh", "gelu", "sin", "softplus"])
@pytest.mark.parametrize("c", [-0.8, 0.0, 0.6])
def test_smooth_ones_agree_with_gauss_and_hermite(name, c):
    """The slow and plain twin: 80 x 80 nodes."""
    activation = jnp.sin if name == "sin" else getattr(jax.nn, name)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    q = 0.8
    with jax.enable_x64(True):
        u, v = np.asarray(activation(np.stack(_two(nodes[:, None], nodes, q, c))))
        alone = np.asarray(activation(math.sqrt(q) * nodes))
    after = 1.7 * weights @ alone**2 + 0.2
    expected = (1.7 * weights @ (u * v) @ weights + 0.2) / after
    assert correlation_map(activation, c, q, 1.7, 0.2) == pytest.approx(expected, abs=2e-9)


def _two(x, y, q, c):
    """Normal numbers of variance q and correlation c."""
    first = math.sqrt(q) * (x + 0 * y)
    return first, c * first + math.sqrt(q * (1 - c**2)) * y


@pytest.mark.parametrize("activation", [np.round, np.floor, lambda z: np.clip(z, -0.3, 1.9)])
def test_broken_ones_agree_with_drawn_numbers(activation, rng):
    q, c, n = 1.3, 0.7, 1_000_000
    u, v = _two(rng.standard_normal(n), rng.standard_normal(n), q, c)
    layer = expectations(lambda z: activation(np.asarray(z)), q, c)
    drawn = {
        "mean": activation(u),
        "second": activation(u) ** 2,
        "product": activation(u) * activation(v),
    }
    for name, numbers in drawn.items():
        error = numbers.std() / n**0.5
        assert abs(getattr(layer, name) - numbers.mean()) < 5 * error, name
    fourth = (activation(u) ** 4).mean() / (activation(u) ** 2).mean() ** 2
    assert layer.kurtosis == pytest.approx(fourth, rel=0.02)


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu"])
def test_a_wide_network_does_what_the_maps_say(name, key):
    width, weights, biases, c, q = 2000, 1.6, 0.1, 0.4, 0.9
    activation = getattr(jax.nn, name)
    key_z, key_w, key_b = jax.random.split(key, 3)
    x, y = jax.random.normal(key_z, (2, width))
    z = jnp.stack(_two(x, y, q, c))
    kernel = initjax.variance_scaling(weights, "fan_in", "normal")(key_w, (width, width))
    z = activation(z) @ kernel + math.sqrt(biases) * jax.random.normal(key_b, (width,))
    after = variance_map(name, q, weights, biases)
    assert np.mean(z**2) == pytest.approx(after, rel=5 * math.sqrt(2 / width))
    measured = np.mean(z[0] * z[1]) / np.sqrt(np.mean(z[0] ** 2) * np.mean(z[1] ** 2))
    expected = correlation_map(name, c, q, weights, biases)
    assert measured == pytest.approx(expected, abs=5 * (1 - expected**2) / width**0.5)


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "selu", "hard_tanh", "soft_sign"])
@pytest.mark.parametrize("q", [1e-3, 0.9, 30.0])
def test_the_fast_way_agrees_with_moments(name, q):
    layer, slow = expectations(name, q, 0.5), moments(name, q)
    np.testing.assert_allclose(layer[:3], slow, rtol=1e-11, atol=1e-13)
    assert chi(name, q, 1.3) == pytest.approx(1.3 * slow.derivative_second, rel=1e-11)


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "softplus", "hard_tanh"])
def test_slopes_are_those_of_the_maps(name):
    q, step = 0.8, 1e-4
    sides = [variance_map(name, q + side, 1.7) for side in (step, -step)]
    slope = (sides[0] - sides[1]) / (2 * step)
    assert chi_parallel(name, q, 1.7) == pytest.approx(slope, rel=1e-6)
    # d/dc of E[phi(u) phi(v)] is q E[phi'(u) phi'(v)], and chi's at c = 1.
    for c in (-0.9, 0.0, 0.7):
        above, below = (expectations(name, q, c + side).product for side in (step, -step))
        expected = q * expectations(name, q, c).derivative_product
        assert (above - below) / (2 * step) == pytest.approx(expected, abs=1e-5)
    assert expectations(name, q, 1.0).derivative_product == pytest.approx(
        chi(name, q, 1.0), abs=1e-10
    )


def test_a_variance_of_zero_stands_for_the_limit():
    assert variance_map("sigmoid", 0, 1.0, 0.1) == pytest.approx(0.35, abs=1e-12)
    assert variance_map("tanh", 0, 1.0) == 0
    assert chi("tanh", 0, 1.3) == pytest.approx(1.3, abs=1e-12)
    assert chi("relu", 0, 1.3) == pytest.approx(1.3 / 2, abs=1e-12)
    assert chi_parallel("tanh", 0, 1.3) == pytest.approx(1.3, abs=1e-12)
    assert chi_parallel("sigmoid", 0, 16.0) == pytest.approx(1, abs=2e-6)
    assert correlation_map("tanh", 0.3, 0, 1.0) == pytest.approx(0.3, abs=1e-12)
    assert correlation_map("relu", 0.3, 0, 1.0) == pytest.approx(relu_correlation_map(0.3))
    assert correlation_map("tanh", 0.3, 0, 1.0, 0.1) == pytest.approx(1)


def test_the_isometric_corner_is_algebraic():
    """tanh with a weight variance of 1, no biases: q_l = 1/(2l + 1/q_0), not exponential."""
    q, ratio, golden = 0.05, 1.0, {10: 0.5143, 100: 0.0943, 200: 0.0493, 1000: 0.01023}
    for layer in range(1, 1001):
        ratio *= chi("tanh", q, 1.0)
        q = variance_map("tanh", q, 1.0)
        if layer in golden:
            assert ratio == pytest.approx(golden[layer], abs=5e-5 if layer < 1000 else 5e-6)
            assert q == pytest.approx(1 / (2 * layer + 1 / 0.05), rel=0.1)
            assert ratio == pytest.approx(1 / (1 + 2 * 0.05 * layer), rel=0.05)
    assert q * (2 * 1000 + 20) == pytest.approx(1, abs=0.03)


def test_steep_ones_that_cancel_around_zero_are_followed():
    def steep(z):
        return jnp.tanh(20 * (z - 2)) + jnp.tanh(20 * (z + 2))

    assert pieces(steep, -3, 4).tolerance == 1e-10  # not taken for noise
    slow = moments(steep, 1.3)
    assert variance_map(steep, 1.3, 1.0) == pytest.approx(slow.second, rel=1e-12)
    assert chi(steep, 1.3, 1.0) == pytest.approx(slow.derivative_second, rel=1e-12)


def test_singularities_are_integrated_where_they_can_be():
    def root(z):
        return jnp.sign(z) * jnp.sqrt(jnp.abs(z))

    q = 1.3
    assert chi(root, q, 1.0) == math.inf
    assert variance_map(root, q, 1.0) == pytest.approx(math.sqrt(2 * q / math.pi), rel=1e-10)
    for c in (0.5, 1):
        plain = expectations(lambda z: np.sign(z) * np.sqrt(np.abs(z)), q, c).product
        assert expectations(root, q, c).product == pytest.approx(plain, abs=1e-8)
        assert expectations(root, q, -c).product == pytest.approx(-plain, abs=1e-8)
    assert expectations(root, q, 1.0).product == pytest.approx(math.sqrt(2 * q / math.pi), rel=1e-9)


def test_narrow_spikes_are_found_wherever_they_are():
    for start in np.linspace(-3, 3, 13):
        end = start + max(2e-4, 3e-4 * abs(start))

        def spike(z, start=start, end=end):
            return 1.0 * ((start < np.asarray(z)) & (np.asarray(z) < end))

        inside = scipy.stats.norm.cdf(end) - scipy.stats.norm.cdf(start)
        assert variance_map(spike, 1.0, 1.0) == pytest.approx(inside, rel=1e-6)


def test_an_activation_of_any_kind_is_taken():
    class Scaled:
        def __eq__(self, other):  # and so none can be a key
            return self is other

        def __call__(self, z):
            return jnp.tanh(z)

    def numeric(z):
        return np.maximum(np.asarray(z), 0.0)

    for c in (-0.4, 0.8):
        tanh = correlation_map("tanh", c, 1.1, 1.3)
        assert correlation_map(Scaled(), c, 1.1, 1.3) == pytest.approx(tanh, abs=1e-14)
        relu = correlation_map("relu", c, 1.1, 1.3)
        assert correlation_map(numeric, c, 1.1, 1.3) == pytest.approx(relu, abs=1e-11)
    for dtype, digits in ((jnp.float32, 1e-6), (jnp.float16, 1e-4), (jnp.bfloat16, 1e-3)):
        coarse = correlation_map(lambda z, t=dtype: jnp.tanh(z.astype(t)), 0.8, 1.1, 1.3)
        assert coarse == pytest.approx(correlation_map("tanh", 0.8, 1.1, 1.3), abs=digits)


def test_numbers_are_the_same_inside_of_jit_and_under_strict_promotion():
    found = []

    def inside(_):
        found.append(expectations(lambda z: jax.nn.gelu(z), 0.7, 0.3))
        return jnp.zeros(())

    jax.jit(inside)(jnp.ones(3))
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        inside(0)
    np.testing.assert_allclose(found[0], expectations("gelu", 0.7, 0.3), rtol=1e-13)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-13)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: variance_map("tahn", 1, 1), "variance_map: 'tahn' is not an activation"),
        (
            lambda: variance_map("tanh", -1, 1),
            "variance_map: variance must be a finite",
        ),
        (lambda: chi("tanh", 1, math.nan), "chi: weight_variance must be a finite number >= 0"),
        (lambda: correlation_map("tanh", 1.1, 1, 1), "correlation must be at most 1, got 1.1"),
        (lambda: correlation_map("tanh", -2, 1, 1), "correlation must be a finite number >= -1"),
        (lambda: correlation_map("tanh", 0.5, 1, 0), "the next layer's variance is 0"),
        (lambda: relu_correlation_map([0.5, 1.5]), r"must be in \[-1, 1\], got \[0.5, 1.5\]"),
        (lambda: variance_map(jnp.log, 1, 1), "isn't finite"),
        (lambda: variance_map(lambda z: jnp.exp(4 * z), 1, 1), "grows so fast"),
        (lambda: variance_map(lambda z: jnp.exp(9 * z), 1, 1), "grows so fast"),
        (lambda: variance_map(lambda z: jnp.exp(0.2 * z**2), 1, 1), "grows so fast"),
        (lambda: variance_map(jax.nn.softmax, 1, 1), "must act on each number by itself"),
    ],
)
def test_wrong_arguments_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()
