"""Error bars of finite networks against networks: norms, dead units, singular values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import initjax
from initjax.theory import (
    chi,
    dead_fraction,
    jacobian_spectrum,
    log_norm_moments,
    relu_correlation_map,
    variance_map,
)


def norms(activation, width, depth, weights, biases, nets, rng):
    """The log of the variance behind the last layer over its prediction, of real networks."""
    z, q = rng.standard_normal((nets, width), np.float32), 1.0
    h = z
    for layer in range(depth):
        h, q = activation(z), variance_map(activation, q, weights, biases)
        if layer < depth - 1:
            kernels = rng.standard_normal((nets, width, width), np.float32)
            z = np.einsum("ni,nij->nj", h, kernels) * math.sqrt(weights / width)
            z += math.sqrt(biases) * rng.standard_normal((nets, width), np.float32)
    return np.log((weights * np.mean(h**2, axis=1) + biases) / q)


@pytest.mark.parametrize(
    ("activation", "weights", "biases"),
    [
        (lambda z: np.maximum(z, 0), 2.0, 0.0),
        (lambda z: z, 1.0, 0.0),
        (np.tanh, 1.5, 0.05),
        (lambda z: np.maximum(z, 0.2 * z) - 0.3, 1.2, 0.1),
    ],
)
def test_log_norms_scatter_as_predicted(activation, weights, biases, rng):
    width, depth, nets = 40, 10, 1000
    measured = norms(activation, width, depth, weights, biases, nets, rng)
    mean, variance = log_norm_moments([width] * depth, activation, weights, biases)
    assert measured.mean() == pytest.approx(mean, abs=5 * math.sqrt(variance / nets))
    assert measured.var() == pytest.approx(variance, rel=5 * math.sqrt(2 / nets) + 0.03)


@pytest.mark.parametrize(("weights", "biases"), [(1.0, 0.0), (1.5, 0.05), (3.0, 0.0)])
def test_where_the_map_bends_the_mean_is_shifted(weights, biases, rng):
    """Many more networks, by their law: given the variance, units are independent."""
    width, depth, nets = 100, 10, 20_000
    q, expected = np.ones(nets), 1.0
    for _ in range(depth):
        h = np.tanh(np.sqrt(q)[:, None] * rng.standard_normal((nets, width), np.float32))
        q = weights * np.mean(h**2, axis=1) + biases
        expected = variance_map("tanh", expected, weights, biases)
    measured = np.log(q / expected)
    mean, variance = log_norm_moments([width] * depth, "tanh", weights, biases)
    assert measured.mean() == pytest.approx(mean, abs=5 * math.sqrt(variance / nets))
    assert measured.var() == pytest.approx(variance, rel=5 * math.sqrt(2 / nets) + 0.03)


def test_log_norms_of_wide_layers_are_the_published_ones():
    """-5L/(2n) and 5L/n for ReLU, whose E[phi^4]/E[phi^2]^2 is 6; -L/n and 2L/n for lines."""
    n, depth = 10**6, 20
    for activation, factor in (("relu", 5), ("identity", 2), (lambda z: 3 * z, 2)):
        mean, variance = log_norm_moments([n] * depth, activation)
        assert mean == pytest.approx(-factor / 2 * depth / n, rel=1e-4)
        assert variance == pytest.approx(factor * depth / n, rel=1e-4)
    mean, variance = log_norm_moments([100, 400])
    assert variance == pytest.approx(5 / 100 + 5 / 400, rel=0.04)


def test_log_norms_of_a_line_are_those_of_chi_squared():
    """log(chi2_n / n) has mean psi(n/2) - log(n/2) and variance psi'(n/2)."""
    import scipy.special

    for n in (20, 100):
        mean, variance = log_norm_moments([n], "identity")
        exact = scipy.special.digamma(n / 2) - math.log(n / 2), scipy.special.polygamma(1, n / 2)
        np.testing.assert_allclose((mean, variance), exact, rtol=4 / n**2)


def test_a_saturated_layer_forgets_what_came_before():
    """tanh's variance map drives deviations back: depth adds nothing."""
    deep, shallow = (log_norm_moments([100] * depth, "tanh", 3.0).variance for depth in (50, 10))
    assert deep == pytest.approx(shallow, rel=1e-3)
    relu = [log_norm_moments([100] * depth).variance for depth in (50, 10)]
    assert relu[0] == pytest.approx(5 * relu[1])


def test_golden_dead_fractions():
    golden = {0.5: 0.0039, 0.7: 0.036, 0.9: 0.175, 0.95: 0.259, 0.99: 0.388}
    for c, share in golden.items():
        assert dead_fraction(c, 256) == pytest.approx(share, abs=6e-4 if c > 0.5 else 6e-5)


@pytest.mark.parametrize("c", [0.0, 0.3, 0.9, 0.999999, 1.0])
def test_dead_fractions_of_few_inputs_are_orthants(c):
    assert dead_fraction(c, 1) == pytest.approx(1 / 2, abs=1e-12)
    assert dead_fraction(c, 2) == pytest.approx(1 / 4 + math.asin(c) / (2 * math.pi), abs=1e-12)
    three = 1 / 8 + 3 * math.asin(c) / (4 * math.pi)
    assert dead_fraction(c, 3) == pytest.approx(three, abs=1e-12)


def test_units_die_as_predicted(rng):
    """He's ReLU network, whose inputs are orthogonal: c_l follows from the correlation map."""
    width, depth, batch, nets = 250, 12, 64, 20
    measured = np.zeros((nets, depth))
    for net in range(nets):
        h = rng.standard_normal((batch, width), np.float32)
        for layer in range(depth):
            z = h @ rng.standard_normal((width, width), np.float32)
            measured[net, layer] = np.mean((z <= 0).all(axis=0))
            h = np.maximum(z, 0) * math.sqrt(2 / width)
    c = 0.0
    for layer in range(depth):
        if layer >= 3:
            error = measured[:, layer].std() / nets**0.5
            assert abs(measured[:, layer].mean() - dead_fraction(c, batch)) < 5 * error
        c = relu_correlation_map(c)
    assert measured[:, -1].mean() > 0.1


@pytest.mark.parametrize(
    ("activation", "q", "ratio"),
    [
        ("relu", 1.0, 2),
        ("tanh", 0.57004788, 1.3422560773),
        (jax.scipy.special.erf, 0.51717684, 1.3538893191),
        ("hard_tanh", 1.0, 1.4647947735),
        (lambda z: jax.nn.gelu(z, approximate=False), 1.0, 2.0883),
        ("silu", 1.0, 1.9900),
        ("selu", 1.0, 1.3162),
    ],
)
def test_golden_moment_ratios(activation, q, ratio):
    spectrum = jacobian_spectrum(activation, q, depth=16)
    digits = 2e-10 if ratio == 2 or len(str(ratio)) > 7 else 6e-5
    assert spectrum.moment_ratio == pytest.approx(ratio, abs=digits)
    assert spectrum.mean == pytest.approx(1)
    assert spectrum.variance == pytest.approx(16 * (ratio - 1), abs=16 * digits)
    gaussian = jacobian_spectrum(activation, q, depth=16, weights="normal")
    assert gaussian.variance == pytest.approx(16 * ratio, abs=16 * digits)


@pytest.mark.parametrize("weights", ["orthogonal", "normal"])
@pytest.mark.parametrize(("activation", "q"), [("identity", 1.0), ("tanh", 0.57), ("relu", 1.0)])
def test_singular_values_scatter_as_predicted(weights, activation, q, key):
    """Of real Jacobians: each layer's derivative at normal pre-activations, then its kernel."""
    width, depth, nets = 128, 3, 12
    slope = jax.jit(jax.vmap(jax.grad(getattr(jax.nn, activation))))
    critical = 1 / chi(activation, q, 1.0)
    if weights == "orthogonal":
        kernel = initjax.orthogonal(critical**0.5)
    else:
        kernel = initjax.variance_scaling(critical, "fan_in", "normal")
    kernels, (means, spreads) = [], np.zeros((2, nets))
    for net, key_net in enumerate(jax.random.split(key, nets)):
        key_z, *keys = jax.random.split(key_net, depth + 1)
        z = math.sqrt(q) * jax.random.normal(key_z, (depth, width))
        if weights == "normal" or net == 0:  # few of the others do, and are slow to draw
            kernels = [np.asarray(kernel(each, (width, width))) for each in keys]
        jacobian = np.eye(width)
        for layer, slopes in zip(
            kernels, np.asarray(slope(z.ravel())).reshape(z.shape), strict=True
        ):
            jacobian = jacobian * slopes @ layer
        # Moments of the squared singular values, without finding them.
        gram = jacobian @ jacobian.T
        means[net] = np.trace(gram) / width
        spreads[net] = np.sum(gram**2) / width / means[net] ** 2 - 1
    mean, variance, _ = jacobian_spectrum(activation, q, depth, weights)
    error = means.std() / nets**0.5 + 1e-6
    assert means.mean() == pytest.approx(mean, abs=5 * error)
    # Finite width takes a few in a hundred.
    error = spreads.std() / nets**0.5 + 1e-6
    assert spreads.mean() == pytest.approx(variance / mean**2, rel=0.05, abs=5 * error)
    if (weights, activation) == ("orthogonal", "identity"):
        assert variance == pytest.approx(0, abs=1e-12)


def test_the_mean_of_the_spectrum_follows_the_weights():
    spectrum = jacobian_spectrum("tanh", 1.0, 5, weight_variance=1.3)
    assert spectrum.mean == pytest.approx(chi("tanh", 1.0, 1.3) ** 5)
    relative = jacobian_spectrum("tanh", 1.0, 5).variance
    assert spectrum.variance == pytest.approx(relative * spectrum.mean**2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log_norm_moments([0]), "widths must be a finite number >= 1"),
        (lambda: log_norm_moments([10], "tahn"), "log_norm_moments: 'tahn' is not an activation"),
        (lambda: log_norm_moments([10], jnp.zeros_like), "leads to a variance of 0"),
        (lambda: log_norm_moments([10], variance=0), "variance must be above 0"),
        (lambda: dead_fraction(1.2, 10), "correlation must be at most 1, got 1.2"),
        (lambda: dead_fraction(-0.1, 10), "correlation must be a finite number >= 0"),
        (lambda: dead_fraction(0.5, 0), "batch_size must be a finite number >= 1"),
        (lambda: jacobian_spectrum("tanh", 1, 3, "gaussian"), "weights must be one of"),
        (lambda: jacobian_spectrum(jnp.sign, 1, 3), "squared derivative of .* is 0"),
        (lambda: jacobian_spectrum("tanh", 1, 2.5), "depth must be an integer"),  # pyright: ignore
    ],
)
def test_wrong_arguments_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()
