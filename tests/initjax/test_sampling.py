"""The laws of what is drawn: Kolmogorov-Smirnov on fixed keys, at p > 1e-4."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import initjax

SHAPE = (400, 500)

LAWS = {
    "uniform(0.7)": scipy.stats.uniform(0, 0.7),
    "random_uniform": scipy.stats.uniform(-0.05, 0.1),
    "random_uniform(-0.1, 0.3)": scipy.stats.uniform(-0.1, 0.4),
    "normal(0.3)": scipy.stats.norm(0, 0.3),
    "random_normal": scipy.stats.norm(0, 0.05),
    "random_normal(1.0, 0.2)": scipy.stats.norm(1.0, 0.2),
    "truncated_normal(0.3)": scipy.stats.truncnorm(-2, 2, scale=0.3),
    "truncated_normal(0.3, None, -1.0, 3.0)": scipy.stats.truncnorm(-1, 3, scale=0.3),
    "random_truncated_normal": scipy.stats.truncnorm(-2, 2, scale=0.05),
    "random_truncated_normal(1.0, 0.2, -1, 3)": scipy.stats.truncnorm(-1, 3, loc=1, scale=0.2),
    "bounded_normal": scipy.stats.truncnorm(-2, 2),
    "bounded_normal(1.0, 0.5, 0.0, 3.0)": scipy.stats.truncnorm(-2, 4, loc=1, scale=0.5),
    # Extreme bounds. JAX gives 10 values from [5, 9], and one only from [6, inf).
    **{
        f"truncated_normal(1.0, None, {lower}, {upper})": scipy.stats.truncnorm(
            float(lower), float(upper)
        )
        for lower, upper in [
            ("-inf", "inf"),
            ("-inf", 0.5),
            (-2.5, "inf"),
            (-10, 10),
            (-30, 40),
            (2, 2.1),
            (5, 9),
            (6, "inf"),
            ("-inf", -6),
            (-9, -5.5),
            (12, "inf"),
            (50, "inf"),
        ]
    },
}


@pytest.mark.parametrize("spec", LAWS)
def test_draws_follow_their_law(spec, key):
    drawn = np.ravel(initjax.parse(spec)(key, SHAPE))
    assert scipy.stats.kstest(drawn, LAWS[spec].cdf).pvalue > 1e-4


@pytest.mark.parametrize("spec", LAWS)
def test_the_test_of_the_law_would_notice_three_percent(spec, key):
    drawn = np.ravel(initjax.parse(spec)(key, SHAPE)) * 1.03
    assert scipy.stats.kstest(drawn, LAWS[spec].cdf).pvalue < 1e-4


def test_a_tail_keeps_its_digits_in_float64(key):
    with jax.enable_x64(True):
        drawn = initjax.truncated_normal(1.0, None, 8.0, np.inf)(key, SHAPE, "float64")
    law = scipy.stats.truncnorm(8, np.inf)
    assert scipy.stats.kstest(np.ravel(drawn), law.cdf).pvalue > 1e-4
    assert len(np.unique(drawn)) == drawn.size


def test_no_number_lies_beyond_what_the_size_of_the_sample_makes_likely(key):
    """PyTorch once had outliers at the bounds; where a uniform number is -1 so would JAX."""
    drawn = initjax.truncated_normal(1.0, None, -1000.0, 1000.0)(key, (4000, 5000))
    assert 5 < np.abs(drawn).max() < 6.5


@pytest.mark.parametrize("spec", ["uniform(0.7)", "random_uniform", "truncated_normal(0.3)"])
def test_draws_stay_within_their_bounds(spec, key):
    drawn = np.asarray(initjax.parse(spec)(key, SHAPE))
    low, high = LAWS[spec].support()
    assert drawn.min() >= np.float32(low) and drawn.max() <= np.float32(high)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("spec", [*LAWS, "he_normal", "orthogonal"])
def test_a_narrow_draw_is_the_rounded_float32_draw(spec, dtype, key):
    initializer = initjax.parse(spec)
    wide = initializer(key, SHAPE, jnp.float32)
    np.testing.assert_array_equal(initializer(key, SHAPE, dtype), wide.astype(dtype))


def test_a_bfloat16_draw_has_tails_and_no_bias(key):
    """JAX's own has 128 distinct values; its mean lies many standard errors from zero."""
    drawn = np.asarray(initjax.normal(1.0)(key, (2000, 2000), jnp.bfloat16), np.float32)
    assert len(np.unique(drawn)) > 1000
    assert abs(drawn.mean()) < 5 / 2000
    assert drawn.max() > 4.5


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
def test_a_value_out_of_range_is_refused_when_the_initializer_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("wrong", ["0.1", None, True, [0.1], 1j])
def test_what_is_no_number_is_refused(wrong):
    with pytest.raises(TypeError, match="stddev must be a real number"):
        initjax.normal(wrong)


def test_a_wrong_dtype_is_refused():
    with pytest.raises(TypeError, match="dtype must be a dtype, got 'bflot16'"):
        initjax.normal(dtype="bflot16")
    with pytest.raises(TypeError, match="dtype must be a number's"):
        initjax.normal(dtype=str)


@pytest.mark.parametrize("scalar", [np.float32(0.5), np.array(0.5), jnp.array(0.5), 1])
def test_scalars_of_every_kind_are_numbers(scalar):
    assert initjax.normal(scalar) == initjax.normal(float(scalar))
