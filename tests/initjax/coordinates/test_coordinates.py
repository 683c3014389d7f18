"""The coordinate check: what it measures, which layers it names, and what it says."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import initjax

WIDTHS = (32, 64, 128)


def scaled(key, shape, base, power):
    """Normal weights of unit gain at a base of 32 units; their stddev falls as width^power."""
    return jax.random.normal(key, shape) / base**0.5 * (shape[0] / 32) ** -power


def loss_fn(params, x, y):
    h = jax.nn.relu(x @ params["in"]["kernel"] + params["in"]["bias"])
    h = jax.nn.relu(h @ params["hidden"]["kernel"])
    logits = h @ params["out"]["kernel"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def maker(hidden=0.5, out=1.0):
    """A perceptron; standard deviations fall as these powers of width."""

    def make(width, key):
        keys = jax.random.split(key, 5)
        params = {
            "in": {"kernel": scaled(keys[0], (16, width), 16, 0), "bias": jnp.zeros(width)},
            "hidden": {"kernel": scaled(keys[1], (width, width), 16, hidden)},
            "out": {"kernel": scaled(keys[2], (width, 4), 32, out)},
        }
        x = jax.random.normal(keys[3], (48, 16))
        return loss_fn, params, (x, jax.random.randint(keys[4], (48,), 0, 4))

    return make


def rates(hidden=1.0, out=1.0, optimizer=optax.adam):
    """A learning rate that falls as these powers of width."""

    def of_width(width):
        def labels(params):
            return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key, params)

        rate = {"in": 0.0, "hidden": hidden, "out": out}
        parts = {name: optimizer(0.01 * (width / 32) ** -power) for name, power in rate.items()}
        return optax.multi_transform(dict[Any, Any](parts), labels)

    return of_width


def check(make, optimizer, **arguments):
    arguments = {"steps": 2, "seeds": 2, **arguments}
    return initjax.coordinate_check(make, WIDTHS, optimizer, **arguments)


def faults(result):
    return {
        (one.name.partition("/")[0], fault.cause, fault.exponent)
        for one in result.coordinates
        for fault in one.faults
    }


def test_a_right_model_is_stable():
    result = check(maker(), rates())
    assert result.stable and not result.findings, result
    assert [one.role for one in result.coordinates] == ["input", "hidden", "output", "vector"]
    result.assert_stable()
    assert "stable over widths 32 to 128" in str(result)


@pytest.mark.parametrize(
    ("make", "optimizer", "expected"),
    [
        (maker(), rates(hidden=0.0), {("hidden", "learning_rate", -1.0)}),
        (maker(), rates(out=2.0), {("out", "learning_rate", 1.0)}),
        (maker(hidden=0.0), rates(), {("hidden", "stddev", -0.5)}),
        (maker(out=0.5), rates(), {("out", "stddev", -0.5)}),
    ],
    ids=["rate", "rate_twice", "stddev", "head"],
)
def test_a_planted_error_is_found_at_its_layer(make, optimizer, expected):
    result = check(make, optimizer)
    assert faults(result) == expected, result
    with pytest.raises(AssertionError, match=r"by (sqrt|width)"):
        result.assert_stable()
