"""Identities for random activations: Stein, Poincare, Price, and a plain integral."""

import math

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
import scipy.special

from initjax.theory import moments
from initjax.theory._integrals import hermite_coefficients, pair, single

SMOOTH = ["tanh", "sigmoid", "gelu", "silu", "softplus", "mish", "elu", "soft_sign", "selu"]
numbers = st.floats(-2, 2).map(lambda x: round(x, 3))
smooth = st.sampled_from(SMOOTH)
lines = st.lists(st.tuples(numbers, numbers, st.booleans()), min_size=1, max_size=5)
variances = st.sampled_from([0.01, 0.3, 1.0, 2.7, 40.0])
few, many = hypothesis.settings(max_examples=8), hypothesis.settings(max_examples=40)


def mixture(first, second, a, b, c, composed):
    """A sum or a composition of two activations."""
    first, second = getattr(jax.nn, first), getattr(jax.nn, second)
    if composed:
        return lambda z: first(a * second(z) + b) + c * z
    return lambda z: first(a * z + b) + c * second(z)


def piecewise(kinks):
    """A sum of ramps and steps with given heights and positions."""

    def activation(z):
        z = np.asarray(z)
        return sum(a * (z > k) if step else a * np.maximum(z - k, 0) for a, k, step in kinks)

    return activation


def check_stein(activation, q):
    """E[z phi] = sqrt(q) E[phi'], squared: by Hermite's coefficients, and by two inputs."""
    first = hermite_coefficients(activation, q, 2)[1]
    slopes = pair(activation, q, 0.0).derivative_product
    size = float(single(activation, q).second) + 1e-300
    assert first**2 == pytest.approx(q * slopes, abs=1e-9 * size)


def check_poincare(activation, q):
    """Var phi <= q E phi'^2."""
    found = single(activation, q)
    second = float(found.second)
    assert second - float(found.mean) ** 2 <= q * float(found.derivative_second) + 1e-9 * second


@few
@hypothesis.given(smooth, smooth, numbers, numbers, numbers, st.booleans(), variances)
def test_smooth_activations_satisfy_the_identities(first, second, a, b, c, composed, q):
    activation = mixture(first, second, a, b, c, composed)
    found = single(activation, q)
    size = float(found.second)
    hypothesis.assume(size > 1e-6)
    check_stein(activation, q)
    check_poincare(activation, q)
    slow = moments(activation, q)
    assert found.mean == pytest.approx(slow.mean, abs=1e-10 * size**0.5)
    assert size == pytest.approx(slow.second, rel=1e-10)
    assert found.derivative_second == pytest.approx(slow.derivative_second, rel=1e-9)
    # Price: the slope of E[phi(u) phi(v)] in c is q E[phi'(u) phi'(v)].
    nodes, weights = np.polynomial.legendre.leggauss(6)
    slopes = [pair(activation, q, 0.3 + 0.3 * x).derivative_product for x in nodes]
    rise = pair(activation, q, 0.0).gap - pair(activation, q, 0.6).gap
    assert rise == pytest.approx(0.3 * q * weights @ slopes, abs=1e-7 * size)


@many
@hypothesis.given(lines, variances)
def test_activations_with_kinks_satisfy_the_identities(kinks, q):
    activation = piecewise([(a, k, False) for a, k, _ in kinks])
    check_stein(activation, q)
    check_poincare(activation, q)


@many
@hypothesis.given(lines, variances, st.sampled_from([-0.95, -0.3, 0.5, 0.9, 0.999]))
def test_activations_with_kinks_and_jumps_agree_with_a_plain_integral(kinks, q, c):
    """It uses the conditional expectation of each ramp and step, given the first input."""
    activation, width = piecewise(kinks), math.sqrt(q * (1 - c**2))
    places = np.array([k for _, k, _ in kinks])
    steep = (places[:, None] + width * np.linspace(-9, 9, 37)).ravel() / c
    edges = np.unique(np.concatenate([math.sqrt(q) * np.linspace(-10, 10, 41), places, steep]))
    edges = edges[np.abs(edges) <= 10 * math.sqrt(q)]
    nodes, weights = np.polynomial.legendre.leggauss(12)
    half = np.diff(edges)[:, None] / 2
    u = (edges[:-1, None] + half * (nodes + 1)).ravel()
    density = (half * weights).ravel() * np.exp(-(u**2) / 2 / q) / math.sqrt(2 * math.pi * q)
    expected = np.zeros_like(u)
    for a, k, step in kinks:
        x = (c * u - k) / width
        above = scipy.special.ndtr(x)
        ramp = width * (x * above + np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi))
        expected += a * (above if step else ramp)
    product = density @ (activation(u) * expected)
    second = density @ activation(u) ** 2
    assert single(activation, q).second == pytest.approx(second, abs=1e-10 * second + 1e-13)
    gap = pair(activation, q, c).gap
    assert second - gap == pytest.approx(product, abs=1e-9 * second + 1e-13)
