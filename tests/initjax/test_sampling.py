"""What the initializers of independent numbers take, and what they refuse."""

import jax.numpy as jnp
import numpy as np
import pytest

import initjax


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
