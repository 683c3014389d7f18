"""Constant initializers."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import initjax


def test_zeros_and_ones_are_initializers(key):
    assert not initjax.zeros(key, (2, 3)).any()
    assert (initjax.ones(key, (2, 3)) == 1).all()
    assert repr(initjax.zeros) == "zeros" and repr(initjax.ones) == "ones"
    assert initjax.zeros == initjax.constant(0) != initjax.ones


def test_the_key_may_be_anything():
    assert initjax.zeros(None, (2,)).shape == (2,)  # pyright: ignore


def test_integer_dtypes_are_filled_on_request(key):
    filled = initjax.constant(3)(key, (2,), jnp.int32)
    assert filled.dtype == jnp.int32 and filled.tolist() == [3, 3]


def test_an_array_is_stored_as_numbers_and_broadcast(key):
    value = np.array([[1.0], [2.0]])
    initializer = initjax.constant(value)
    assert initializer == initjax.constant([[1], [2]])
    assert initializer(key, (2, 3)).tolist() == [[1, 1, 1], [2, 2, 2]]
    assert repr(initializer) == "constant(((1.0,), (2.0,)))"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64", "int32", "bool"])
@pytest.mark.parametrize(
    "value",
    [
        *(3, -0.0, np.nan, np.inf, 0.1, np.float32(0.1), jnp.bfloat16(0.1), True, 2**40, 2**53 + 1),
        np.array([1, 2], np.uint32),
        np.arange(300, dtype=np.int16) % 100,
    ],
    ids=str,
)
def test_constants_equal_jax_bit_for_bit(value, dtype, key):
    mine, theirs = initjax.constant(value), jax.nn.initializers.constant(value)
    shape = (2, *np.shape(value))
    drawn = np.asarray(mine(key, shape, dtype))
    assert drawn.tobytes() == np.asarray(theirs(key, shape, jnp.dtype(dtype))).tobytes()


def test_a_value_may_be_traced(key):
    """Such as bias_init=constant(jnp.log(prior)) in a module that is built inside jit."""

    def log(prior):
        init = initjax.constant(jnp.log(prior))
        other = initjax.constant(jnp.log(prior))
        assert init == init and init != other and len({init, other}) == 2
        assert repr(init).startswith("constant(<")
        return init(key, (2,))

    np.testing.assert_allclose(jax.jit(log)(0.5), np.log([0.5, 0.5]), rtol=1e-6)
    mapped = jax.vmap(log)(jnp.arange(1.0, 4.0))
    np.testing.assert_allclose(mapped[:, 1], np.log([1, 2, 3]), rtol=1e-6)
    assert jax.grad(lambda prior: log(prior).sum())(0.5) == pytest.approx(4)


def test_a_large_array_is_stored_once_and_has_a_short_repr(key):
    value = np.random.default_rng(0).normal(size=(500, 400)).astype(np.float32)
    initializer, twin = initjax.constant(value), initjax.constant(value.copy())
    assert initializer.value.nbytes == value.nbytes
    assert len(repr(initializer)) < 80 and "float32 array of shape (500, 400)" in repr(initializer)
    assert initializer == twin == pickle.loads(pickle.dumps(initializer))
    assert hash(initializer) == hash(twin)
    before = value.copy()
    value[3, 3] += 1
    assert initializer != initjax.constant(value)
    np.testing.assert_array_equal(initializer(key, value.shape), before)


@pytest.mark.parametrize("shape", [(), (100,), (5, 20), (100, 1, 1)])
def test_up_to_a_hundred_numbers_can_be_parsed_again(shape):
    real, imaginary = np.random.default_rng(0).normal(size=(2, *shape)) * 1e-300
    for initializer in (initjax.constant(real), initjax.constant(real + 1j * imaginary)):
        assert initjax.parse(repr(initializer)) == initializer


def test_equal_constants_have_equal_bits(key):
    assert initjax.constant(np.nan) == initjax.constant(-np.nan)
    assert initjax.constant([0.0]) != initjax.constant([-0.0])
    assert initjax.constant(-0.0) != initjax.zeros
    traced = []
    draw = jax.jit(lambda init: traced.append(init) or init(key, (2,)), static_argnums=0)
    for value in (0.0, -0.0, np.nan, np.nan):
        drawn = np.asarray(draw(initjax.constant(value)))
        assert drawn.tobytes() == np.array([value, value], np.float32).tobytes()
    assert len(traced) == 3


def test_a_key_in_place_of_the_value_is_explained(key):
    raw = jax.random.PRNGKey(0)
    for arguments in [(key,), (key, (2,)), (key, (2,), "float32"), (raw, (2,)), (raw, (2,), "f4")]:
        with pytest.raises(
            TypeError, match=r"constant\(\.\.\.\) makes an initializer, which takes the key"
        ):
            initjax.constant(*arguments)


@pytest.mark.parametrize("value", ["1", None, {}, object(), [None], [[1], [1, 2]]])
def test_non_numeric_values_are_refused(value):
    with pytest.raises(TypeError, match="value must be a number or numbers"):
        initjax.constant(value)
