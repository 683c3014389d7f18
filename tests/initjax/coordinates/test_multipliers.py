"""Outputs whose first weights and updates are right, and that are multiplied wrongly."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import initjax

WIDTHS = (16, 128)


def faults(power, divided):
    """Of a muP network with Adam whose logits are multiplied by this power of width."""

    def make(width, key):
        def loss_fn(params, x, labels):
            logits = jax.nn.relu(x @ params["in"]) @ params["out"] + params["bias"]
            logits = (
                logits / width**-power if divided else logits[:, None].squeeze(1) * width**power
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        keys = jax.random.split(key, 3)
        params = {
            "in": initjax.he_normal()(keys[0], (8, width)),
            "out": jax.random.normal(keys[1], (width, 4)) / width,
            "bias": jnp.zeros(4),
        }
        return loss_fn, params, (jax.random.normal(keys[2], (32, 8)), jnp.arange(32) % 4)

    def optimizer(width):
        rates = {"in": 1e-2, "bias": 1e-2, "out": 1e-2 / width}
        adam: dict[Any, Any] = {name: optax.adam(rate) for name, rate in rates.items()}
        return optax.partition(adam, {name: name for name in rates})

    result = initjax.coordinate_check(make, WIDTHS, optimizer, steps=1, seeds=2)
    return [
        (one.name, each.cause, each.exponent) for one in result.coordinates for each in one.faults
    ]


@pytest.mark.parametrize(("power", "divided"), [(-1, False), (1, True)])
def test_a_number_that_multiplies_logits_after_their_bias_is_judged(power, divided):
    assert faults(power, divided) == [("out", "multiplier", -power)]
