"""Splines of Kolmogorov-Arnold networks: the numbers of pykan at ecde4ec (0.2.8)."""

import jax
import numpy as np
import pytest

import initjax
from initjax.kan import _least_norm

# `curve2coef` of cos(0), cos(1), ... at the grid points, by grid intervals and order.
PYKAN = {
    (5, 3): [
        0.2922291,
        1.2733097,
        0.6145319,
        -0.4896235,
        -1.1529187,
        -0.8386566,
        0.5856832,
        0.1978969,
    ],
    (4, 2): [0.9722305, 1.0277695, 0.0528352, -0.8851289, -1.0948561, -0.2124311],
}
# The standard deviations of `KANLayer(200, 300, num=5, k=3, noise_scale=0.5).coef`.
STDDEVS = [0.01436, 0.04433, 0.05248, 0.05359, 0.05348, 0.05230, 0.04441, 0.01438]


@pytest.mark.parametrize(("intervals", "order"), PYKAN)
def test_coefficients_are_those_of_pykan(intervals, order):
    values = np.cos(np.arange(intervals + 1))
    np.testing.assert_allclose(
        values @ _least_norm(intervals, order), PYKAN[intervals, order], atol=1e-6
    )


def test_coefficients_have_the_standard_deviations_of_pykan(key):
    drawn = initjax.kan_spline(0.5)(key, (200, 300, 8))
    np.testing.assert_allclose(np.std(drawn, (0, 1)), STDDEVS, rtol=0.015)
    assert abs(np.mean(drawn)) < 1e-3
    np.testing.assert_allclose(
        initjax.kan_spline(1.0)(key, (200, 300, 8)), 2 * drawn, rtol=1e-3, atol=1e-6
    )


def test_splines_pass_through_uniform_noise(key):
    drawn = np.asarray(initjax.kan_spline(0.3)(key, (5000, 4 + 3)), float)
    at_points = drawn @ np.linalg.pinv(_least_norm(4, 3))
    bound = 0.3 / (2 * 4)
    assert abs(at_points).max() <= bound * (1 + 1e-5)
    assert np.std(at_points) == pytest.approx(bound / 3**0.5, rel=0.02)


def test_the_product_has_the_highest_precision_on_every_device(key):
    text = str(jax.make_jaxpr(lambda key: initjax.kan_spline()(key, (3, 8)))(key))
    assert text.count("dot_general") == text.count("Precision.HIGHEST, Precision.HIGHEST") == 1


@pytest.mark.parametrize("shape", [(), (3,), (5, 3)])
def test_a_shape_without_a_grid_is_refused(shape, key):
    with pytest.raises(ValueError, match="needs a shape whose last axis is above 3"):
        initjax.kan_spline()(key, shape)
    with pytest.raises(ValueError, match="order must be a finite number >= 1"):
        initjax.kan_spline(order=0)
