"""Valid and invalid arguments of the initializers of independent numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import initjax
from initjax import _drawing


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: initjax.normal(-1), "stddev must be a finite number >= 0, got -1"),
        (lambda: initjax.normal(float("nan")), "stddev must be a finite number"),
        (lambda: initjax.uniform(float("inf")), "scale must be a finite number, got inf"),
        (lambda: initjax.random_uniform(1, 0), "minval must not exceed maxval, got 1.0 > 0.0"),
        (lambda: initjax.truncated_normal(lower=2), "lower must be below upper, got 2.0 >= 2.0"),
    ],
)
def test_values_out_of_range_are_refused_at_construction(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("wrong", ["0.1", None, True, [0.1], 1j])
def test_non_numeric_values_are_refused(wrong):
    with pytest.raises(TypeError, match="stddev must be a real number"):
        initjax.normal(wrong)


def test_a_wrong_dtype_is_refused():
    with pytest.raises(TypeError, match="dtype must be a dtype, got 'bflot16'"):
        initjax.normal(dtype="bflot16")
    with pytest.raises(TypeError, match="dtype must be numeric"):
        initjax.normal(dtype=str)


@pytest.mark.parametrize("make", [initjax.normal, initjax.uniform, initjax.bounded_normal])
@pytest.mark.parametrize("dtype", ["int32", "bool", "uint8", "int4"])
def test_integer_dtypes_are_refused_at_construction(make, dtype):
    with pytest.raises(TypeError, match=f"dtype must be floating or complex, got {dtype}"):
        make(dtype=dtype)


def test_traced_numbers_are_explained(key):
    with pytest.raises(TypeError, match=r"stddev must be known .* traced"):
        jax.vmap(lambda stddev: initjax.normal(stddev)(key, (2,)))(jnp.arange(3.0))


@pytest.mark.parametrize(
    ("initializer", "dtype", "message"),
    [
        (initjax.normal(1e39), "float32", r"normal\(stddev=1e\+39\) draws numbers up to 5.5e\+39"),
        (initjax.normal(1e38), "float32", r"up to 5.5e\+38, but the largest float32 is 3.4e\+38"),
        (initjax.normal(2e4), "float16", r"up to 1.1e\+05, but the largest float16 is 6.55e\+04"),
        (initjax.normal(100.0), "float8_e4m3fn", r"up to 550, but the largest .* is 448"),
        (initjax.random_normal(3e38, 1e38), "float32", "but the largest float32 is"),
        (initjax.uniform(-1e39), "float32", "but the largest float32 is"),
        (initjax.random_uniform(-1e39, 0.0), "float32", "too wide for float32"),
        (initjax.random_uniform(-3e38, 3e38), "float32", "too wide for float32"),
        (initjax.truncated_normal(1.0, None, 1e39, np.inf), "float32", "beyond float32"),
        (initjax.truncated_normal(1e39), "float32", "but the largest float32 is"),
        (initjax.bounded_normal(0.0, 1e-30, 1e10, 2e10), "float32", "beyond float32"),
        (initjax.variance_scaling(1e80, "fan_in", "uniform"), "float32", "largest float32"),
        (initjax.uniform(65519.0), "float16", "up to 65519, but the largest float16 is 65504"),
        (initjax.bounded_normal(0.0, 1e39, -1e38, 1e38), "float32", "beyond float32"),
    ],
)
def test_numbers_too_large_for_the_dtype_are_refused(initializer, dtype, message, key):
    with pytest.raises(ValueError, match=message):
        initializer(key, (30, 20), dtype)


def test_a_density_far_wider_than_its_bounds_is_uniform(key):
    for mean, stddev in ((0.0, 1e300), (3.0, 2e38), (1.0, 1e12)):
        drawn = initjax.bounded_normal(mean, stddev, -2.0, 2.0)(key, (1000,))
        assert scipy.stats.kstest(drawn, scipy.stats.uniform(-2, 4).cdf).pvalue > 1e-4


@pytest.mark.parametrize("mean", [30.0, 1e3, 1e5, 1e8, -1e4])
def test_a_mean_far_from_the_bounds_costs_no_digits(mean, key):
    """There the distance from the nearer bound is exponential, with the rate of the distance."""
    bounds = (0.0, 10.0) if mean < 0 else (-10.0, 0.0)
    drawn = np.abs(initjax.bounded_normal(mean, 1.0, *bounds)(key, (10_000,)))
    assert len(np.unique(drawn)) > 9_000
    unit = scipy.stats.truncnorm(abs(mean), np.inf, loc=-abs(mean))
    expected = unit.cdf if abs(mean) < 100 else scipy.stats.expon(scale=1 / abs(mean)).cdf
    assert scipy.stats.kstest(drawn, expected).pvalue > 1e-4
    for beyond in (1e30, 1e17):  # where float64 itself has no digits for the difference
        assert np.all(np.abs(initjax.bounded_normal(beyond, 1.0, 1.0, 2.0)(key, (9,))) == 2)


def test_the_largest_numbers_that_fit_the_dtype_are_drawn(key):
    for initializer, dtype in (
        (initjax.normal(6e37), "float32"),
        (initjax.normal(11_000.0), "float16"),
        (initjax.random_uniform(-1.7e38, 1.7e38), "float32"),
        (initjax.random_uniform(-60_000, 60_000), "float16"),
        (initjax.truncated_normal(1e38, None, -1.0, 3.0), "float32"),
        (initjax.bounded_normal(0.0, 1.0, -1e300, 1e300), "float8_e4m3fn"),
    ):
        assert jnp.isfinite(initializer(key, (300, 20), dtype)).all()


def ends(initializer, dtype):
    """The draws for uniform numbers at both ends of their interval."""
    dtype = np.dtype(dtype)
    wide = np.dtype("float32") if dtype.itemsize < 4 else dtype
    transform, numbers, bounds = _drawing._program(initializer, (), dtype, wide)
    kernel = transform(lambda minval, maxval: jnp.stack([minval, maxval]), *numbers)
    return np.asarray(_drawing._rounded(kernel, bounds, dtype), np.float64)


DTYPES = ["float32", "float64", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_draws_stay_within_bounds_in_every_dtype(dtype):
    generator = np.random.default_rng(0)
    settings = [(1.46, 0.288, 0.13, 1.16), (0.0, 1.0, -2.0, 2.0), (0.0, 0.02, -np.inf, 0.05)]
    for _ in range(40):
        low, high = np.sort(generator.normal(size=2).round(2))
        settings.append((generator.normal(), generator.uniform(0.05, 2), low - 0.5, high + 0.5))
    tried = 0
    with jax.enable_x64(dtype == "float64"):
        for mean, stddev, low, high in settings:
            bounds = mean + stddev * low, mean + stddev * high
            for initializer, (least, most) in (
                (initjax.bounded_normal(mean, stddev, low, high), (low, high)),
                (initjax.random_truncated_normal(mean, stddev, low, high), bounds),
                (initjax.random_uniform(max(low, -1.0), high), (max(low, -1.0), high)),
            ):
                if dtype.startswith("float8"):  # it may have no number in between
                    numbers = np.arange(256, dtype=np.uint8).view(dtype).astype(float)
                    if not ((least <= numbers) & (numbers <= most)).any():
                        continue
                bottom, top = ends(initializer, dtype)
                assert least <= bottom <= top <= most, initializer
                tried += 1
    assert tried > 100


def test_bounds_without_a_number_between_them_give_the_nearest_one(key):
    assert (initjax.random_uniform(0.1, 0.1)(key, (3,)) == np.float32(0.1)).all()
    drawn = initjax.bounded_normal(1.0, 0.1, 1.0001, 1.0002)(key, (3,), "bfloat16")
    assert (drawn == 1.0).all()


def test_there_are_no_outliers_as_in_jax():
    """In float32 a uniform number of 1 maps to an infinite normal number."""
    initializer = initjax.truncated_normal(1.0, None, 1.9, np.inf)
    assert 5 < ends(initializer, "float32")[1] < 6


@pytest.mark.parametrize("scalar", [np.float32(0.5), np.array(0.5), jnp.array(0.5), 1])
def test_scalars_of_every_kind_are_numbers(scalar):
    assert initjax.normal(scalar) == initjax.normal(float(scalar))
