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


@pytest.mark.parametrize(
    "value",
    [
        *(
            2**63,
            2**64 - 1,
            -(2**63),
            2**70,
            -(2**90),
            [2**64, 1],
            np.uint64(2**64 - 1),
            [2**62, -1],
        ),
        *(
            jnp.bfloat16(1.5),
            jnp.float8_e5m2(2),
            np.float16(0.1),
            np.longdouble(1) / 3,
            np.array(3),
        ),
        *(np.bool_(True), [[True, False]], jnp.ones(2), (), [[]], ((1, 2), (3, 4)), -0.0, [np.nan]),
        *(1j, -1j, complex(0.0, -0.0), complex(-0.0, 1), complex(np.nan, np.inf), [1 + 2j, -1j]),
        *(np.complex64(1 + 2j), complex(-np.inf, -2), [complex(-0.0, -0.0)]),
    ],
    ids=str,
)
def test_every_constant_is_parsed_again(value, key):
    initializer = initjax.constant(value)
    again = initjax.parse(repr(initializer))
    assert again == initializer and repr(again) == repr(initializer)
    number, parsed = (np.asarray(vars(made)["value"]) for made in (initializer, again))
    assert number.tobytes() == parsed.tobytes() and number.dtype == parsed.dtype


def test_a_floating_dtype_must_hold_the_value_and_an_integer_dtype_drops_fractions(key):
    for value, dtype in (
        (1e6, "float16"),
        (1e-10, "float16"),
        (1j, "float32"),
        (np.inf, "float8_e4m3fn"),
    ):
        with pytest.raises(ValueError, match=rf"^constant\(.*\): {dtype} can't hold "):
            initjax.constant(value)(key, (2,), dtype)
    assert initjax.constant(0.7)(key, (2,), "int32").tolist() == [0, 0]


def test_a_call_without_key_and_shape_is_explained(key):
    for wrong in (lambda: initjax.zeros(), lambda: initjax.he_normal()(key)):  # pyright: ignore
        with pytest.raises(TypeError, match=r"^(zeros|he_normal\(\)) is an initializer already"):
            wrong()
    with pytest.raises(TypeError, match=r"^zeros needs a dtype, such as 'float32', got 'flaot32'"):
        initjax.zeros(key, (2,), "flaot32")
