"""Fixed points, depth scales and critical points, against golden numbers and closed forms."""

import math

import jax
import jax.numpy as jnp
import pytest

from initjax.theory import (
    chi,
    chi_parallel,
    correlation_map,
    critical_line,
    critical_points,
    depth_scales,
    variance_map,
)
from initjax.theory._integrals import pair

# sb2: q*, sw2, 2/f'' with f'' the curvature of the correlation map at 1, xi_q
CRITICAL_TANH = {
    0.001: (0.10729236, 1.18918959, 69.75, 5.517),
    0.01: (0.27330091, 1.42420529, 16.64, 2.575),
    0.02: (0.37124032, 1.54419284, 10.86, 2.051),
    0.05: (0.57004788, 1.76095464, 6.171, 1.521),
    0.1: (0.80579918, 1.98607264, 4.010, 1.216),
    0.2: (1.16449629, 2.28515247, 2.587, 0.975),
    0.3: (1.46116945, 2.50512719, 1.993, 0.859),
    0.5: (1.97103061, 2.84316746, 1.424, 0.733),
    1.0: (3.03639639, 3.44321091, 0.890, 0.595),
}
# sw2: q*, chi, c*, xi_c, xi_q, at sb2 = 0.05
SCALES_TANH = {
    1.0: (0.19359252, 0.75903165, 1, 3.627, 1.748),
    1.3: (0.31531648, 0.88016351, 1, 7.834, 1.785),
    1.5: (0.41803720, 0.93863627, 1, 15.79, 1.683),
    1.7: (0.53307563, 0.98674081, 1, 74.92, 1.558),
    2.0: (0.72176187, 1.04766600, 0.744082, 25.21, 1.388),
    2.5: (1.06395838, 1.13351570, 0.446804, 11.80, 1.180),
    3.0: (1.42800846, 1.20893442, 0.299318, 9.051, 1.042),
    4.0: (2.19549393, 1.34240241, 0.165065, 6.980, 0.873),
}


def exact_gelu(z):
    return jax.nn.gelu(z, approximate=False)


@pytest.mark.parametrize("biases", CRITICAL_TANH)
def test_the_golden_table_of_critical_tanh(biases):
    q, weights, shrinking, xi_q = CRITICAL_TANH[biases]
    point = critical_line("tanh", biases)
    assert point.bias_variance == biases
    assert point.variance == pytest.approx(q, abs=1e-8)
    assert point.weight_variance == pytest.approx(weights, abs=1e-8)
    scales = depth_scales("tanh", point.weight_variance, biases)
    assert scales.variance == pytest.approx(q, abs=1e-8)
    assert scales.chi_parallel == pytest.approx(point.chi_parallel, abs=1e-8)
    assert scales.variance_depth == pytest.approx(xi_q, abs=6e-4)
    assert abs(scales.gradient_depth) > 1e10 and scales.correlation_depth > 1e6
    # 1 - f(1 - e) = e - f'' e^2/2 + O(e^3), so that 1 - c_l is about (2/f'')/l.
    bends = []
    for e in (1e-3, 2e-3):
        gap = point.weight_variance * pair(jnp.tanh, point.variance, 1 - e).gap / point.variance
        bends.append((e - gap) / e**2)
    assert 1 / (2 * bends[0] - bends[1]) == pytest.approx(shrinking, rel=1e-3)


@pytest.mark.parametrize("weights", SCALES_TANH)
def test_the_golden_table_of_depth_scales(weights):
    q, chi_1, c, xi_c, xi_q = SCALES_TANH[weights]
    scales = depth_scales("tanh", weights, 0.05)
    assert scales.variance == pytest.approx(q, abs=1e-8)
    assert scales.chi == pytest.approx(chi_1, abs=1e-8)
    assert scales.correlation == pytest.approx(c, abs=1e-6)
    assert scales.correlation_depth == pytest.approx(xi_c, rel=6e-4)
    assert scales.variance_depth == pytest.approx(xi_q, abs=6e-4)
    assert scales.gradient_depth == pytest.approx(-1 / math.log(chi_1), rel=1e-6)


@pytest.mark.parametrize("weights", [1.3, 2.5])
def test_repeated_maps_converge_at_the_depth_scales(weights):
    """Iterated, not solved: the variance from 1, the correlation from 0.1."""
    scales = depth_scales("tanh", weights, 0.05)
    q, off_q, c, off_c = 1.0, [], 0.1, []
    for _ in range(60):
        c, q = correlation_map("tanh", c, q, weights, 0.05), variance_map("tanh", q, weights, 0.05)
        off_q.append(abs(q - scales.variance))
        off_c.append(abs(c - scales.correlation))
    assert -1 / math.log(off_q[14] / off_q[13]) == pytest.approx(scales.variance_depth, rel=0.01)
    slope = (off_c[59] / off_c[49]) ** 0.1
    assert -1 / math.log(slope) == pytest.approx(scales.correlation_depth, rel=0.01)


@pytest.mark.parametrize(
    ("biases", "q", "weights"),
    [
        (0.05, 0.51717684, 1.37583901),
        (0.1, 0.72635923, 1.55211786),
        (0.3, 1.31182395, 1.96307059),
    ],
)
def test_erfs_critical_line_in_closed_form(biases, q, weights):
    point = critical_line(jax.scipy.special.erf, biases)
    assert point.variance == pytest.approx(q, abs=1e-8)
    assert point.weight_variance == pytest.approx(weights, abs=1e-8)
    closed = math.pi / 4 * math.sqrt(1 + 4 * point.variance)
    assert point.weight_variance == pytest.approx(closed, rel=1e-11)


@pytest.mark.parametrize(
    ("activation", "q", "weights"),
    [
        (jax.nn.soft_sign, 0.412183, 3.141247),
        (jax.nn.elu, 1.300913, 1.533718),
        (jax.nn.selu, 0.827302, 0.901766),
        (exact_gelu, 0.722036, 2.302520),
        (jax.nn.silu, 0.826576, 2.728612),
        (jax.nn.mish, 0.905400, 2.104798),
        (jnp.sin, 0.55207, 1.50207),
    ],
)
def test_other_critical_points_with_a_bias_variance_of_a_twentieth(activation, q, weights):
    point = critical_line(activation, 0.05)
    digits = 5e-6 if activation is jnp.sin else 6e-7
    assert point.variance == pytest.approx(q, abs=digits)
    assert point.weight_variance == pytest.approx(weights, abs=digits)
    unstable = activation in (exact_gelu, jax.nn.silu, jax.nn.mish)
    assert (point.chi_parallel > 1) == unstable


def test_hard_tanhs_critical_point_in_closed_form():
    """E[phi'^2] = P(|z| < 1), and E[phi^2] by parts."""
    point = critical_line("hard_tanh", 0.05)
    at = 1 / math.sqrt(point.variance)
    inside = math.erf(at / math.sqrt(2))
    second = point.variance * (inside - 2 * at * math.exp(-(at**2) / 2) / math.sqrt(2 * math.pi))
    second += 1 - inside
    assert point.weight_variance == pytest.approx(1 / inside, rel=1e-11)
    assert point.weight_variance * second + 0.05 == pytest.approx(point.variance, rel=1e-11)


def test_homogeneous_activations_have_one_point_at_every_variance():
    for slope in (0.0, 0.01, 0.3):
        point = critical_line(lambda z, a=slope: jnp.where(z > 0, z, a * z))
        assert math.isnan(point.variance) and point.bias_variance == 0
        assert point.weight_variance == pytest.approx(2 / (1 + slope**2), rel=1e-12)
        assert point.chi_parallel == pytest.approx(1, abs=1e-12)
    [point] = critical_points("relu")
    assert math.isnan(point.variance) and point.weight_variance == pytest.approx(2, abs=1e-12)
    with pytest.raises(
        ValueError, match=r"'relu' is critical only at bias_variance 0, with .* 2; "
    ):
        critical_line("relu", 0.1)


@pytest.mark.parametrize(
    ("activation", "q", "weights", "biases"),
    [
        (exact_gelu, (3 + math.sqrt(17)) / 2, 1.98305826, 0.17292239),
        (jax.nn.silu, 14.3201736, 1.98800468, 0.55514317),
        (jax.nn.gelu, 3.5567728, 1.98288824, 0.1728952),
        (jax.nn.mish, 1.6701691, 2.01352407, 0.09452179),
    ],
)
def test_isolated_critical_points(activation, q, weights, biases):
    [point] = critical_points(activation)
    assert point.variance == pytest.approx(q, abs=6e-8)
    assert point.weight_variance == pytest.approx(weights, abs=1e-8)
    assert point.bias_variance == pytest.approx(biases, abs=6e-8 if q < 3.56 else 1e-8)
    assert chi(activation, point.variance, point.weight_variance) == pytest.approx(1, abs=1e-9)
    slope = chi_parallel(activation, point.variance, point.weight_variance)
    assert slope == pytest.approx(1, abs=1e-9)


def test_tanhs_critical_point_is_at_zero_where_gelus_is_unstable():
    for name in ("tanh", "soft_sign", "elu"):
        [point] = critical_points(name)
        assert point.variance == point.bias_variance == 0
        assert point.weight_variance == pytest.approx(1, abs=1e-12)
    assert critical_line("gelu") == pytest.approx((0, 4, 0, 1))
    assert variance_map("gelu", 0.01, 4.0) > 0.01
    assert all(point.variance > 0 for point in critical_points("gelu"))


def test_softplus_has_no_critical_point_and_sigmoid_only_with_huge_weights():
    with pytest.raises(
        ValueError, match=r"'softplus' has no critical point with bias_variance 0; "
    ):
        critical_line("softplus")
    assert critical_points("softplus") == critical_points("sigmoid") == []
    # Small or moderate weights would need a negative bias variance; at q = 1 it is -5.54.
    point = critical_line("sigmoid", 0.05)
    assert point.variance > 40 and point.weight_variance > 100
    q = point.variance
    assert chi("sigmoid", q, point.weight_variance) == pytest.approx(1, abs=1e-9)
    assert variance_map("sigmoid", q, point.weight_variance, 0.05) == pytest.approx(q, rel=1e-9)


def test_relu_below_at_and_above_criticality():
    below, at, above = (depth_scales("relu", weights) for weights in (1.0, 2.0, 3.0))
    assert below.variance == 0 and below.correlation == at.correlation == above.correlation == 1
    assert below.gradient_depth == pytest.approx(1 / math.log(2))
    for depth in (below.correlation_depth, below.variance_depth):
        assert depth == pytest.approx(below.gradient_depth)
    assert at.variance == 1 and depth_scales("relu", 2.0, variance=7.0).variance == 7
    assert at.variance_depth == at.gradient_depth == at.correlation_depth == math.inf
    assert above.variance == above.correlation_depth == math.inf
    assert above.variance_depth == above.gradient_depth == pytest.approx(-1 / math.log(1.5))
    with_bias = depth_scales("relu", 1.0, 0.1)
    assert with_bias.variance == pytest.approx(0.2) and with_bias.correlation == 1
    assert depth_scales("relu", 2.0, 0.1).variance == math.inf


@pytest.mark.parametrize("weights", [0.5, 1.0])
def test_tanh_without_biases_vanishes_up_to_a_weight_variance_of_one(weights):
    scales = depth_scales("tanh", weights)
    assert scales.variance == 0 and scales.correlation == 1
    assert scales.chi == pytest.approx(weights) and scales.chi_parallel == pytest.approx(weights)
    expected = math.inf if weights == 1 else 1 / math.log(2)
    assert scales.gradient_depth == pytest.approx(expected)
    assert depth_scales("tanh", 1.5).correlation == 0  # and above it, chaos: c = 0 is fixed


def test_a_tiny_bias_variance_is_a_tiny_fixed_point():
    assert depth_scales("tanh", 0.5, 1e-20).variance == pytest.approx(2e-20, rel=1e-9)
    for start in (1e-30, 1e-3, 1e3, 1e20):
        scales = depth_scales("tanh", 1.5, 0.05, variance=start)
        assert scales.variance == pytest.approx(0.41803720, abs=1e-8)


def test_the_start_selects_among_several_fixed_points():
    """GELU's unstable fixed point at sb2 = 0.05 separates convergence from explosion."""
    point = critical_line("gelu", 0.05)
    weights = point.weight_variance
    assert depth_scales("gelu", weights, 0.05, variance=1.05 * point.variance).variance == math.inf
    settled = depth_scales("gelu", weights, 0.05, variance=0.95 * point.variance)
    assert 0.1 < settled.variance < 0.9 * point.variance and settled.chi_parallel < 1
    q = settled.variance
    assert variance_map("gelu", q, weights, 0.05) == pytest.approx(q, rel=1e-10)


def test_superlinear_activations_explode_or_vanish():
    def square(z):
        return jnp.square(jax.nn.relu(z))

    explodes = depth_scales(square, 1.0)
    assert explodes.variance == explodes.chi == math.inf and explodes.gradient_depth == 0
    assert depth_scales(square, 0.5).variance == 0
    assert depth_scales(jnp.exp, 2.0).variance == math.inf
    q = depth_scales(jnp.exp, 0.1).variance
    assert q == pytest.approx(0.1 * math.exp(2 * q), rel=1e-10)


def test_thresholds_block_small_signals():
    """Their moments are tiny below the threshold, but that isn't too fast a growth."""

    def shrink(z):
        return jnp.sign(z) * jax.nn.relu(jnp.abs(z) - 1)

    assert depth_scales(shrink, 0.5).variance == 0
    assert critical_points(shrink) == []
    with pytest.raises(ValueError, match="no critical point with bias_variance 0; it needs"):
        critical_line(shrink)
    point = critical_line(shrink, 0.5)
    assert chi(shrink, point.variance, point.weight_variance) == pytest.approx(1)
    q = variance_map(shrink, point.variance, point.weight_variance, 0.5)
    assert q == pytest.approx(point.variance)


@pytest.mark.parametrize("q", [0.01, 1.0])
def test_relus_correlations_converge_as_one_over_depth_squared(q):
    c = 0.0
    for _ in range(20):
        c = correlation_map("relu", c, q, 2.0)
    assert c == pytest.approx(0.94842848, abs=1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: critical_line("tanh", -0.1), "critical_line: bias_variance must be a finite"),
        (lambda: critical_line("thanh"), "critical_line: 'thanh' is not an activation in jax.nn"),
        (lambda: critical_line(lambda z: 0 * z + 2), "lets no gradient through at any variance"),
        (lambda: critical_points("thanh"), "critical_points: 'thanh' is not an activation"),
        (lambda: depth_scales("tanh", -1.0), "depth_scales: weight_variance must be a finite"),
        (lambda: depth_scales("tanh", 1.0, variance=0), "depth_scales: variance must be above 0"),
    ],
)
def test_wrong_arguments_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()
