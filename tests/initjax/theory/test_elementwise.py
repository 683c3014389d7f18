"""Activations evaluated by NumPy against JAX, and what the first use of theory may cost."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from initjax.theory._activation import evaluator
from initjax.theory._elementwise import translated

NAMES = ["relu", "relu6", "leaky_relu", "tanh", "sigmoid", "gelu", "silu", "elu", "selu", "celu"]
NAMES += ["softplus", "mish", "identity", "hard_tanh", "hard_sigmoid", "hard_swish", "soft_sign"]
NAMES += ["log_sigmoid", "squareplus", "sparse_plus", "sparse_sigmoid"]
FUNCTIONS = {
    **{name: getattr(jax.nn, name) for name in NAMES},
    "gelu(erf)": lambda z: jax.nn.gelu(z, approximate=False),
    "erf": jax.scipy.special.erf,
    "powers": lambda z: 0.1 * z**3 - z**9 * 1e-6 + z**-2 + jnp.abs(z) ** 1.5,
    "trigonometry": lambda z: jnp.sin(z) + jnp.sinc(z) + jnp.arctan2(z, 2.0) + jnp.arcsinh(z),
    "clipped": lambda z: jnp.clip(z, -1, 2) + jnp.fmod(z, 0.7) + jnp.floor(z) + jnp.sign(z),
    "conditions": lambda z: jnp.where((z > 1) | ~(z > -2), z, 3 * z) + (jnp.abs(z) <= 3) * z,
    "roots": lambda z: jnp.sqrt(1 + z**2) + jax.lax.rsqrt(2 + z) + jnp.cbrt(z) + jnp.log1p(z + 9),
    "exponentials": lambda z: jnp.exp2(z / 4) + jnp.expm1(z / 3) + jnp.cosh(z / 5) + jnp.log(9 + z),
    "a constant": lambda z: jnp.full_like(z, 0.3),
}
Z = np.random.default_rng(0).uniform(-1.9, 7, (30, 11))


def value_and_derivative(function):
    def both(z):
        value, pullback = jax.vjp(function, z)
        return value, pullback(jnp.ones_like(value))[0]

    return both


def trace(function):
    with jax.enable_x64(True):
        shape = jax.ShapeDtypeStruct((4, 3), np.float64)
        return jax.make_jaxpr(value_and_derivative(function))(shape)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numpy_gives_the_values_and_derivatives_that_jax_gives(name):
    function = FUNCTIONS[name]
    assert translated(trace(function)) is not None
    with jax.enable_x64(True):
        expected = jax.jit(value_and_derivative(function))(Z)
    for mine, jaxs in zip(evaluator(function)(Z), expected, strict=True):
        np.testing.assert_allclose(mine, jaxs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "function",
    [
        jax.nn.softmax,
        lambda z: z - z.mean(),
        lambda z: z[::-1],
        lambda z: z * np.arange(3.0),
        lambda z: jnp.tanh(z.astype(jnp.float32)),
        lambda z: jax.lax.reduce_precision(z, 8, 7),
    ],
)
def test_what_is_not_elementwise_in_float64_is_left_to_jax(function):
    assert translated(trace(function)) is None


def test_a_function_that_numpy_cannot_run_is_evaluated_by_jax():
    def rounded(z):
        return jnp.tanh(z.astype(jnp.float32)).astype(z.dtype)

    value, derivative = evaluator(rounded)(Z)
    np.testing.assert_array_equal(value, np.asarray(rounded(jnp.asarray(Z, jnp.float32))))
    np.testing.assert_allclose(derivative, 1 - np.tanh(Z) ** 2, atol=1e-6)


def test_theory_compiles_nothing_and_imports_no_scipy():
    code = """
import logging, sys
import jax
jax.config.update("jax_log_compiles", True)
compiled = []
class Handler(logging.Handler):
    def emit(self, record):
        if "XLA compilation" in record.getMessage():
            compiled.append(record.getMessage())
logging.getLogger("jax").addHandler(Handler())
jax.jit(lambda x: x + 1)(1.0)
assert len(compiled) == 1, compiled
import initjax.theory
for name in ("relu", "tanh", "gelu"):
    initjax.theory.depth_scales(name, 1.9, 0.02)
    initjax.theory.critical_line(name)
    initjax.gain(name)
initjax.theory.dead_fraction(0.5, 32)
assert len(compiled) == 1, compiled
assert not [name for name in sys.modules if name.partition(".")[0] == "scipy"]
"""
    subprocess.run([sys.executable, "-c", code], check=True)
