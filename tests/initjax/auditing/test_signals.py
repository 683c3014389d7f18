"""The activation between two layers is named, or the reason is given why there is none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import initjax

rng = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


X = normal(8, 5)
PARAMS = {"in": normal(5, 6), "bias": normal(6), "out": normal(6, 3), "slope": jnp.float32(0.1)}
NAMES = (
    "relu leaky_relu tanh sigmoid silu softplus elu selu relu6 mish hard_tanh gelu soft_sign"
    " hard_sigmoid log_sigmoid squareplus"
).split()
NARROW = ["gelu", "leaky_relu", "selu", "silu", "relu6", "softplus"]


def audited(functions, dtype=jnp.float32):
    """Audits pairs of layers with a function between the two of each: one program, for speed.

    Args:
      functions: maps the output of a layer and its parameters to the input of the next, by name.
      dtype: of parameters and data.

    Returns:
      By name, the two layers, and whether the second is predicted from the first.
    """

    def loss(params, x):
        total = jnp.float32(0)
        for name, function in functions.items():
            p = params[name]
            output = function(x @ p["in"] + p["bias"], p) @ p["out"]
            total += jnp.square(output).astype(jnp.float32).mean()
        return total

    params = {name: jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS) for name in functions}
    found = initjax.audit(loss, params, X.astype(dtype)).layers
    numbers = {layer.name: number for number, layer in enumerate(found)}
    pairs = {}
    for name in functions:
        first, last = numbers[f"{name}/in"], numbers[f"{name}/out"]
        assert found[last].source in (None, first)
        assert (found[last].source is None) == (found[last].unpredicted != "")
        pairs[name] = found[first], found[last], found[last].source == first
    return pairs


@functools.cache
def named(dtype=jnp.float32):
    names = NAMES if dtype == jnp.float32 else NARROW
    return audited(
        {name: lambda z, p, name=name: getattr(jax.nn, name)(z) for name in names}, dtype
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_activations_of_jax_are_named(name):
    first, last, predicted = named()[name]
    assert (first.activation, last.activation, predicted) == (name, "", True)


@pytest.mark.parametrize("name", NARROW)
def test_activations_in_bfloat16_are_named_too(name):
    first, _, predicted = named(jnp.bfloat16)[name]
    assert (first.activation, predicted) == (name, True)


def twice(half):
    return jnp.repeat(half, 2, axis=-1)


MIXING = {
    "glu": (lambda z, p: twice(jax.nn.glu(z)), "product"),
    "gate": (lambda z, p: twice(z[:, :3] * jax.nn.silu(z[:, 3:])), "product"),
    "flipped": (lambda z, p: z * z[:, ::-1], "product"),
    "reversed": (lambda z, p: z + lax.rev(z, (1,)), "sum"),
    "rolled": (lambda z, p: z * jnp.roll(z, 1, -1), "product"),
    "softmax": (lambda z, p: jax.nn.softmax(z), "normalization"),
    "slope": (lambda z, p: jnp.where(z > 0, z, p["slope"] * z), "parametric"),
    "array": (lambda z, p: z * np.linspace(0, 1, 6, dtype=np.float32), "array"),
    "sort": (lambda z, p: jnp.sort(z), "sort"),
    "cumsum": (lambda z, p: jnp.cumsum(z, -1), "reduction"),
    "gather": (lambda z, p: z[:, jnp.array([1, 0, 2, 3, 4, 5])], "array"),
    "cond": (lambda z, p: lax.cond(X.sum() > 1, jnp.tanh, jax.nn.relu, z), "branch"),
}


@functools.cache
def mixed():
    return audited({name: function for name, (function, _) in MIXING.items()})


@pytest.mark.parametrize("name", MIXING)
def test_a_function_that_mixes_units_is_not_an_activation(name):
    first, last, predicted = mixed()[name]
    assert (first.activation, predicted) == ("", False)
    assert last.unpredicted == MIXING[name][1]


@functools.cache
def others():
    return audited({
        "loop": lambda z, p: lax.fori_loop(0, 2, lambda _, z: jnp.sin(z) + 1, z),
        "none": lambda z, p: z,
        "twice": lambda z, p: jnp.tanh(z) * 2,
        "long": lambda z, p: jnp.sin(jnp.sin(jnp.sin(z + 1) + 2) + 3),
    })  # fmt: skip


def test_a_loop_over_a_layers_output_is_not_an_activation():
    first, last, predicted = others()["loop"]
    assert (first.activation, predicted) == ("", False)
    assert last.unpredicted not in ("", "batch")


def test_a_layer_that_is_read_directly_has_the_identity_as_activation():
    first, last, predicted = others()["none"]
    assert (first.activation, last.activation, predicted) == ("identity", "", True)


def test_activations_without_a_name_show_their_text():
    first, _, predicted = others()["twice"]
    assert (first.activation, predicted) == ("mul(tanh(z), 2.0)", True)
    first, _, predicted = others()["long"]
    assert len(first.activation) == 40 and predicted
