"""Initializers and rules of language models: their sources' formulas."""

import jax
import numpy as np
import pytest

import initjax


def test_small_init_and_wang_init_have_the_standard_deviations_of_gpt_neox():
    """GPT-NeoX at ea7aefd, megatron/model/init_functions.py, for its 20B model."""
    assert initjax.small_init(6144).stddev == pytest.approx((2 / (5 * 6144)) ** 0.5)
    assert initjax.wang_init(44, 6144).stddev == pytest.approx(2 / 44 / 6144**0.5)
    # Glorot's variance of a kernel of shape (d, 4d).
    assert initjax.small_init(64).stddev ** 2 == pytest.approx(2 / (64 + 4 * 64))


@pytest.mark.parametrize(("layers", "value"), [(1, 0.1), (18, 0.1), (24, 1e-5), (25, 1e-6)])
def test_layer_scale_has_the_values_of_the_paper(layers, value):
    assert initjax.layer_scale(layers) == initjax.constant(value)


def test_depth_indexed_rules_have_the_standard_deviations_of_torchtitan(key):
    """torchtitan at b5bcd76, models/common/param_init.py: base_std / (2 * (layer_id + 1)) ** 0.5"""
    rules = initjax.depth_indexed(["layers/{}/out", "layers/{}/down"], 12)
    shape = jax.ShapeDtypeStruct((300, 100), "float32")
    shapes = {"layers": {str(i): {"out": shape, "down": shape, "up": shape} for i in range(12)}}
    params = initjax.initialize(shapes, key, {**rules, "*": initjax.normal(0.02)})["layers"]
    assert len(rules) == 24
    for index in (0, 1, 10, 11):
        for name, stddev in (("out", 0.02 / (2 * (index + 1)) ** 0.5), ("up", 0.02)):
            assert np.std(params[str(index)][name]) == pytest.approx(stddev, rel=0.02)
        assert rules[f"layers/{index}/down"] == rules[f"layers/{index}/out"]


def test_depth_indexed_rules_tell_layer_1_from_layer_10(key):
    shapes = {f"layers_{i}": jax.ShapeDtypeStruct((100, 100), "float32") for i in range(12)}
    params = initjax.initialize(shapes, key, initjax.depth_indexed("*_{}*", 12))
    for index in range(12):
        stddev = 0.02 / (2 * (index + 1)) ** 0.5
        assert np.std(params[f"layers_{index}"]) == pytest.approx(stddev, rel=0.04)


def test_depth_indexed_branches_share_the_variance_of_the_residual_stream(key):
    """Each of n branches adds 1/n of the variance, so the sum grows like a harmonic series."""
    depth, width = 64, 64
    rules = initjax.depth_indexed("{}", depth, stddev=width**-0.5, branches_per_layer=1)
    x, total = jax.random.normal(key, (100, width)), 0.0
    for rule, each in zip(rules.values(), jax.random.split(key, depth), strict=True):
        total += x @ rule(each, (width, width))
    assert np.var(total) == pytest.approx(sum(1 / np.arange(1, depth + 1)), rel=0.1)


@pytest.mark.parametrize(("shape", "ratio"), [((400, 100), 0.5), ((100, 400), 1.0)])
def test_spectral_has_a_spectral_norm_of_the_root_of_out_over_in(shape, ratio, key):
    kernel = initjax.spectral()(key, shape)
    assert np.std(kernel) * shape[0] ** 0.5 == pytest.approx(ratio, rel=0.02)
    # The largest singular value of such noise is stddev (sqrt(in) + sqrt(out)).
    norm = np.linalg.svd(kernel)[1][0] / (shape[1] / shape[0]) ** 0.5
    assert norm == pytest.approx(1.5, rel=0.05)
    conv = initjax.spectral(3.0)(key, (3, 3, *shape))
    assert np.std(conv) * (9 * shape[0]) ** 0.5 == pytest.approx(3 * ratio, rel=0.02)


@pytest.mark.parametrize("axis", [-1, -2, 0])
def test_unit_norm_draws_directions_of_one_length(axis, key):
    kernel = initjax.unit_norm(axis, 2.0)(key, (40, 3, 50))
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=axis), 2.0, rtol=1e-6)
    size = kernel.shape[axis]
    assert np.mean(np.square(kernel)) == pytest.approx(4 / size, rel=1e-5)
    assert abs(np.mean(kernel)) < 5 * 2 / size**0.5 / kernel.size**0.5


def test_unit_norm_draws_complex_and_narrow_vectors(key):
    kernel = initjax.unit_norm()(key, (64, 4), "complex64")
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, rtol=1e-6)
    kernel = initjax.unit_norm()(key, (64, 4), "bfloat16").astype("float32")
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, rtol=2e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: initjax.depth_indexed("*/out", 3), r"must have \{\} .* got '\*/out'"),
        (lambda: initjax.depth_indexed(3, 3), r"must have \{\} .* got 3"),  # pyright: ignore
        (lambda: initjax.depth_indexed("{}", 0), "num_layers must be a finite number >= 1"),
        (lambda: initjax.depth_indexed("{}", 2, stddev=-1.0), "stddev must be"),
        (lambda: initjax.small_init(0), "small_init: features must be"),
        (lambda: initjax.wang_init(2, 1.5), "wang_init: features must be an integer"),  # pyright: ignore
        (lambda: initjax.layer_scale(0), "layer_scale: num_layers must be"),
        (lambda: initjax.spectral(-1.0), "spectral: scale must be"),
        (lambda: initjax.unit_norm(scale=0.0), "unit_norm: scale must be above 0"),
        (lambda: initjax.unit_norm((0, 1)), "unit_norm: axis must be one axis"),  # pyright: ignore
        (lambda: initjax.unit_norm(2)(jax.random.key(0), (3, 4)), r"has this axis, got \(3, 4\)"),
    ],
)
def test_errors_say_what_is_valid(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()
