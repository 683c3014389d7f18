"""Statistics that no public name shows.

These tests use private functions: `Report` has no field for what only the judgment needs, such as
the share of weights that are zero; and an accelerator, whose statistics JAX compiles, can only be
pretended.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from initjax.auditing._measuring import passes
from initjax.auditing._measuring.statistics import effective_rank
from initjax.auditing._reading.trace import trace

rng = np.random.default_rng(0)
SGD = optax.sgd(0.5)


def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)


def measured(loss, params, *batch, optimizer=None):
    traced = trace("test", loss, params, batch, False)
    return traced, passes.measurer(traced, optimizer).measure(params, batch, traced.constants)


X = normal(8, 5)
PARAMS = {"bias": normal(6), "in": normal(5, 6), "out": np.maximum(normal(6, 3), 0)}
WHOLE, MANY = {"bias": normal(3, 6), "out": normal(6, 2), "w": normal(3, 6, 6)}, normal(512, 6)


def small(p, x):
    return jnp.square(-jnp.tanh(x @ p["in"] + p["bias"][None]) @ p["out"]).mean()


def looped(p, x):
    def dense(h, layer):
        return jnp.tanh(h @ layer["w"] + layer["bias"]), None

    h, _ = lax.scan(dense, x, {"w": p["w"], "bias": p["bias"]})
    return jnp.square(h @ p["out"]).sum()


def test_the_effective_rank_of_one_direction_is_one():
    column, row = normal(64, 1), normal(1, 60)
    assert effective_rank(column * row) == pytest.approx(1, abs=1e-4)
    assert effective_rank(np.zeros((3, 3))) == 0
    assert np.isnan(effective_rank(np.full((3, 3), np.nan)))


def test_zeros_among_weights_and_the_largest_input_are_measured():
    _, result = measured(small, PARAMS, X)
    hidden = np.abs(np.tanh(X @ PARAMS["in"] + PARAMS["bias"]))
    expected = [(0, np.abs(X).max()), ((PARAMS["out"] == 0).mean(), hidden.max())]
    assert 0 < expected[1][0] < 1
    for record, numbers in zip(result.forward.values(), expected, strict=True):
        found = [float(record[name]) for name in ("weight_zeros", "input_largest")]
        assert found == pytest.approx(numbers, rel=2e-5, abs=1e-7)


def test_every_parameter_is_measured_and_kernels_keep_their_first_numbers():
    traced, result = measured(small, PARAMS, X, optimizer=SGD)
    assert traced.names == ["bias", "in", "out"]
    gradients = jax.grad(small)(PARAMS, X)
    for record, name in zip(result.parameters, traced.names, strict=True):
        assert record["stddev"] == pytest.approx(np.std(PARAMS[name]), rel=2e-5)
        assert record["update"] == pytest.approx(0.5 * float(np.std(gradients[name])), rel=2e-5)
        assert (record["broken"], record["learning"]) == (0, 1)
    bias, kernel, _ = result.prints
    np.testing.assert_array_equal(kernel, PARAMS["in"].reshape(1, -1))
    assert bias.size == 0


def test_what_jax_compiles_for_an_accelerator_gives_the_same(monkeypatch):
    _, expected = measured(small, PARAMS, X, optimizer=SGD)
    _, stacked = measured(looped, WHOLE, MANY)
    monkeypatch.setattr(passes, "on_host", lambda array: False)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        _, result = measured(small, PARAMS, X, optimizer=SGD)
    _, compiled = measured(looped, WHOLE, MANY)
    for one, other in ((result, expected), (compiled, stacked)):
        for mine, theirs in ((one.forward, other.forward), (one.backward, other.backward)):
            assert set(mine) == set(theirs)
            for path in mine:
                assert set(mine[path]) == set(theirs[path])
                for name, array in mine[path].items():
                    np.testing.assert_allclose(array, theirs[path][name], rtol=1e-4, atol=2e-5)
    for mine, theirs in zip(result.parameters, expected.parameters, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)
