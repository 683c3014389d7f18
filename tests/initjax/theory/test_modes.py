"""Theory is the same in every mode of JAX."""

import jax
import jax.numpy as jnp
import pytest

from initjax import theory
from initjax.theory import _integrals, _pieces, _softmax

MODES = {
    "strict promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "no rank promotion": lambda: jax.numpy_rank_promotion("raise"),
    "x64": lambda: jax.enable_x64(True),
    "debug_nans": lambda: jax.debug_nans(True),
    "debug_infs": lambda: jax.debug_infs(True),
    "check_tracer_leaks": jax.checking_leaks,
    "disable_jit": lambda: jax.disable_jit(True),
    "bfloat16 products": lambda: jax.default_matmul_precision("bfloat16"),
}
CALLS = {
    "gain": lambda: theory.gain("relu"),
    "gain of an erf": lambda: theory.gain(lambda z: jax.nn.gelu(z, approximate=False)),
    "gain of NaN that is not chosen": lambda: theory.gain(
        lambda z: jnp.where(z > -1e9, jnp.tanh(z), jnp.nan)
    ),
    "gain in float32": lambda: theory.gain(lambda z: jnp.maximum(z, jnp.float32(0.5) * z)),
    "torch_gain": lambda: theory.torch_gain("tanh"),
    "moments": lambda: theory.moments("silu", 2.0),
    "variance_map": lambda: theory.variance_map("tanh", 1.0, 1.5, 0.1),
    "correlation_map": lambda: theory.correlation_map("tanh", 0.5, 1.0, 1.5),
    "relu_correlation_map": lambda: theory.relu_correlation_map(jnp.array([0.5])),
    "chi": lambda: theory.chi("tanh", 1.0, 1.0),
    "chi_parallel": lambda: theory.chi_parallel("tanh", 1.0, 1.0),
    "depth_scales": lambda: theory.depth_scales("tanh", 1.5, 0.05),
    "critical_line": lambda: theory.critical_line("tanh", 0.1),
    "critical_points": lambda: theory.critical_points("tanh"),
    "log_norm_moments": lambda: theory.log_norm_moments([64] * 4),
    "dead_fraction": lambda: theory.dead_fraction(0.5, 64),
    "jacobian_spectrum": lambda: theory.jacobian_spectrum("tanh", 1.5, 10),
    "attention_weights": lambda: theory.attention_weights(1.5, 16),
    "attention_threshold": lambda: theory.attention_threshold(16, correlation=0.5),
    "attention_map": lambda: theory.attention_map(0.5, 16),
    "transformer_map": lambda: theory.transformer_map(2, 16, activation="tanh"),
}


@pytest.fixture
def forget():
    """Nothing is served from a cache that another mode has filled."""

    def forget():
        for module in (_pieces, _integrals, _softmax):
            for function in vars(module).values():
                if hasattr(function, "cache_clear"):
                    function.cache_clear()

    return forget


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_theory_is_the_same_in_every_mode(call, forget):
    forget()
    expected = repr(call())
    for name, mode in MODES.items():
        forget()
        with mode():
            assert repr(call()) == expected, name


def test_every_public_function_of_theory_is_tried():
    functions = {name for name in theory.__all__ if name.islower()} - {"phase_diagram"}
    assert functions <= set(CALLS)
