"""The function between two layers is read exactly, at every point.

These tests use private functions: a `Layer` shows the name of its activation, and averages that
follow from it, but not the function itself.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend import core

from initjax.auditing._reading.expressions import IDENTITY
from initjax.auditing._reading.primitives import PRIMITIVES, Primitive
from initjax.auditing._reading.trace import trace

Z = np.linspace(-7.0, 7.0, 201, dtype=np.float32)
X = jnp.ones((8, 5))
PARAMS = {
    "in": jnp.ones((5, 6)),
    "bias": jnp.ones(6),
    "out": jnp.ones((6, 3)),
    "slope": jnp.float32(0.1),
}
NAMES = (
    "relu leaky_relu tanh sigmoid silu softplus elu selu relu6 mish hard_tanh gelu soft_sign"
    " hard_sigmoid log_sigmoid squareplus"
).split()


def activation_between(between, dtype=jnp.float32):
    """The activation that is read between two layers, and why there is none if there is none."""

    def loss(p, x):
        return jnp.square(between(x @ p["in"] + p["bias"], p) @ p["out"]).astype(jnp.float32).mean()

    params = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)
    traced = trace("test", loss, params, (X.astype(dtype),), False)
    first, last = traced.anatomy.sites.values()
    assert (first.activation is None) == (last.inputs[0].signal is None)
    return first.activation, last.inputs[0].lost


def assert_reads(function, wrap=lambda f: f):
    found, _ = activation_between(lambda z, p: wrap(function)(z))
    assert found is not None
    np.testing.assert_allclose(found(Z), function(Z), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_activations_of_jax_are_read(name):
    assert_reads(getattr(jax.nn, name))


@pytest.mark.parametrize("name", ["gelu", "leaky_relu", "selu", "silu", "relu6", "softplus"])
def test_activations_in_bfloat16_are_read_too(name):
    function = getattr(jax.nn, name)
    found, _ = activation_between(lambda z, p: function(z), jnp.bfloat16)
    assert found is not None
    # It runs in the precision of its argument; only its constants were rounded to bfloat16.
    np.testing.assert_allclose(np.asarray(found(Z)), np.asarray(function(Z)), rtol=5e-3, atol=1e-2)


@jax.custom_jvp
def _sine(z: Any) -> Any:
    return jnp.sin(z)


_sine.defjvp(lambda primals, tangents: (_sine(*primals), tangents[0]))


@jax.custom_vjp
def _cubed(z: Any) -> Any:
    return z**3 - 0.5


_cubed.defvjp(lambda z: (_cubed(z), z), lambda z, cotangent: (cotangent,))
NUMBER = np.asarray([1.5], np.float32)

WRAPPERS = {
    "plain": lambda f: f,
    "jit": jax.jit,
    "remat": jax.checkpoint,
    "policy": lambda f: jax.checkpoint(f, policy=jax.checkpoint_policies.dots_saveable),
    "vmap": jax.vmap,
    "layout": lambda f: lambda z: f(z.T[None]).reshape(6, 8).T,
    "barrier": lambda f: lambda z: lax.optimization_barrier((jnp.ones(3), f(z)))[1],
    "cond": lambda f: lambda z: lax.cond(z.size > 3, f, f, z),
}
FUNCTIONS = {
    "custom_jvp": _sine,
    "custom_vjp": _cubed,
    "constants": lambda z: jnp.tanh(z * np.float32(2)) + NUMBER[0] - jnp.sqrt(3.0),
    "product with itself": lambda z: z * jax.nn.sigmoid(1.7 * z),
    "choice": lambda z: jnp.where(z > 1, jnp.log1p(jnp.abs(z)), jnp.minimum(z, 0.5) ** 2),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_any_elementwise_function_is_read_through_any_wrapper(function, wrap):
    assert_reads(function, wrap)


def test_one_row_teaches_the_audit_a_new_primitive(monkeypatch):
    bend = core.Primitive("bend")
    bend.def_abstract_eval(lambda aval: aval)
    assert activation_between(lambda z, p: bend.bind(z)) == (None, "bend")
    monkeypatch.setitem(PRIMITIVES, "bend", Primitive("elementwise"))
    found, _ = activation_between(lambda z, p: bend.bind(z))
    assert found is not None and found.text == "bend(z)"


def test_an_array_with_one_element_counts_as_a_number():
    assert_reads(lambda z: jnp.maximum(z, NUMBER) / NUMBER[0])


FOLDED = {
    "add": lax.add, "sub": lax.sub, "mul": lax.mul, "neg": lax.neg, "abs": lax.abs,
    "max": lax.max, "min": lax.min, "sqrt": lax.sqrt, "eq": lax.eq, "ne": lax.ne, "lt": lax.lt,
    "le": lax.le, "gt": lax.gt, "ge": lax.ge,
    "select_n": lambda x, y: lax.select_n(x > y, x, y),
    "convert_element_type": lambda x: lax.convert_element_type(x, jnp.bfloat16),
}  # fmt: skip
NUMBERS = [3.14159, -0.7, 2.5e-3, 1e30, 0.0, -1.0, 7.0, np.inf, np.nan]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32])
@pytest.mark.parametrize("name", FOLDED)
def test_constants_are_folded_to_the_numbers_that_jax_computes(name, dtype):
    exact = PRIMITIVES[name].exact
    assert exact is not None
    dtype = jnp.float32 if name == "sqrt" and dtype == jnp.int32 else dtype
    numbers = np.asarray([3, -1, 0, 7, 2**31 - 1] if dtype == jnp.int32 else NUMBERS, dtype)
    unary = name in ("neg", "abs", "sqrt", "convert_element_type")
    for x in numbers:
        for y in numbers[: 1 if unary else None]:
            operands = [x] if unary else [x, y]
            expected = np.asarray(FOLDED[name](*operands))
            given = [x > y, x, y] if name == "select_n" else operands
            with np.errstate(all="ignore"):
                found = np.asarray(exact(*map(np.asarray, given))).astype(expected.dtype)
            np.testing.assert_array_equal(found.astype(float), expected.astype(float))


def test_every_folded_primitive_is_tested():
    folded = {name for name, row in PRIMITIVES.items() if row.exact is not None}
    assert folded == {*FOLDED, "add_any"}
    assert PRIMITIVES["add_any"].exact is PRIMITIVES["add"].exact


def test_a_layer_that_is_read_directly_has_the_identity_as_activation():
    found, _ = activation_between(lambda z, p: z)
    assert found == IDENTITY


def test_equal_functions_compare_equal():
    one, _ = activation_between(lambda z, p: jnp.tanh(z) * 2)
    same, _ = activation_between(lambda z, p: jnp.tanh(z) * 2)
    other, _ = activation_between(lambda z, p: jnp.tanh(z) * 3)
    assert one == same and hash(one) == hash(same)
    assert one != other


def test_an_activation_can_be_evaluated_in_any_precision_and_differentiated():
    found, _ = activation_between(lambda z, p: jax.nn.gelu(z))
    assert found is not None
    assert found(jnp.ones(3, jnp.float16)).dtype == jnp.float16
    slope = jax.vmap(jax.grad(found))(Z)
    np.testing.assert_allclose(slope, jax.vmap(jax.grad(jax.nn.gelu))(Z), rtol=1e-5, atol=1e-6)
    with jax.enable_x64(True):
        wide = found(jnp.asarray(Z, jnp.float64))
        assert wide.dtype == jnp.float64
        np.testing.assert_allclose(
            wide, jax.nn.gelu(jnp.asarray(Z, jnp.float64)), rtol=1e-6, atol=1e-7
        )
