"""PyTorch's initializers, with their meaning in PyTorch."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import initjax


def test_torch_kaiming_is_the_core_with_the_gain_of_the_table():
    core = initjax.variance_scaling
    assert initjax.torch_kaiming_normal() == core(2.0, "fan_in", "normal")
    default = initjax.torch_kaiming_uniform(a=5**0.5)
    assert default.scale == pytest.approx(1 / 3) and default.distribution == "uniform"
    tanh = initjax.torch_kaiming_normal(mode="fan_out", nonlinearity="tanh")
    assert tanh == core(1.0, "fan_out", "normal", gain=5 / 3)
    assert initjax.torch_kaiming_normal(gain=1.5) == core(2.25, "fan_in", "normal")
    with pytest.raises(ValueError, match="mode must be one of"):
        initjax.torch_kaiming_normal(mode="fan_avg")


def test_torch_defaults_for_a_whole_layer(key):
    """Var(output) = E[x^2]/3 + 1/(3 fan_in)."""
    layer = linen.Dense(
        4000, kernel_init=initjax.torch_kaiming_uniform(5**0.5), bias_init=initjax.torch_bias(300)
    )
    output, _ = layer.init_with_output(key, jnp.ones((1, 300)))
    assert np.var(output) == pytest.approx(1 / 3 + 1 / 900, rel=0.12)
