"""Constant initializers."""

import jax.numpy as jnp
import numpy as np
import pytest

import initjax


def test_zeros_and_ones_are_initializers_themselves(key):
    assert not initjax.zeros(key, (2, 3)).any()
    assert (initjax.ones(key, (2, 3)) == 1).all()
    assert repr(initjax.zeros) == "zeros" and repr(initjax.ones) == "ones"
    assert initjax.zeros == initjax.constant(0) != initjax.ones


def test_the_key_may_be_anything():
    assert initjax.zeros(None, (2,)).shape == (2,)  # pyright: ignore


def test_integers_are_filled_in_where_they_are_asked_for(key):
    filled = initjax.constant(3)(key, (2,), jnp.int32)
    assert filled.dtype == jnp.int32 and filled.tolist() == [3, 3]


def test_an_array_is_kept_as_numbers_and_broadcast(key):
    value = np.array([[1.0], [2.0]])
    initializer = initjax.constant(value)
    assert initializer == initjax.constant([[1], [2]])
    assert initializer(key, (2, 3)).tolist() == [[1, 1, 1], [2, 2, 2]]
    assert repr(initializer) == "constant(((1.0,), (2.0,)))"


@pytest.mark.parametrize("value", ["1", None, {}, object(), [None]])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match="value must be a number or numbers"):
        initjax.constant(value)
