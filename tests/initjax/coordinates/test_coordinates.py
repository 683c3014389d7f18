"""The coordinate check: what it measures, which layers it names, and what it says."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import initjax
from initjax.auditing._reading.trace import trace
from initjax.coordinates import _check
from initjax.coordinates._program import program

WIDTHS = (32, 128)


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


def test_an_optimizer_by_width_may_have_no_module():
    of_width = eval("lambda width: adam", {"adam": optax.adam(0.01)})
    assert of_width.__module__ is None
    assert _check._optimizers(of_width)(32).update


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


def test_results_are_plain_data_a_table_and_a_picture(tmp_path):
    result = check(maker(hidden=0.0), rates())
    data = json.loads(json.dumps(result.to_dict()))
    assert data["version"] == 1 and not data["stable"]
    hidden = next(one for one in data["coordinates"] if one["name"] == "hidden/kernel")
    assert hidden["role"] == "hidden" and hidden["fan_in"] == [32, 128]
    assert hidden["slopes"]["size"][0][0] == pytest.approx(0.5, abs=0.1)
    assert hidden["change"][0][0][0] == 0 < hidden["change"][0][0][1]
    assert np.shape(data["loss"]) == (2, 2, 3)
    assert max(map(len, str(result).splitlines())) <= 80
    assert "divide its stddev by sqrt(width)" in " ".join(str(result).split())
    assert "A plan" not in str(result)  # for one layer at fault
    assert len(result.plot(tmp_path / "check.png").axes) == 3
    assert (tmp_path / "check.png").exists()


def test_stacked_layers_zero_heads_and_one_draw_are_measured():
    def loss_fn(params, x):
        h, _ = jax.lax.scan(lambda h, w: (h + jnp.tanh(h @ w), None), x @ params["in"], params["w"])
        return jnp.square(h @ params["out"] - 1).mean()

    def make(width):
        keys = jax.random.split(jax.random.key(0), 3)
        stacked = jax.random.normal(keys[1], (2, width, width)) / width**0.5
        params = {"in": jax.random.normal(keys[0], (16, width)) / 4, "w": stacked}
        x = jax.random.normal(keys[2], (32, 16))
        return loss_fn, {**params, "out": jnp.zeros((width, 1))}, (x,)

    def optimizer(width):
        parts: dict[Any, Any] = {"in": optax.adam(0.01), "wide": optax.adam(0.3 / width)}
        return optax.multi_transform(parts, {"in": "in", "w": "wide", "out": "wide"})

    result = check(make, optimizer)
    assert result.stable and result.seeds == 1, result
    of = {one.name: one for one in result.coordinates}
    # Without a head there is no gradient; in the second step there is.
    assert [of[name].changes_at for name in ("w", "in", "out")] == [2, 2, 1]
    assert of["out"].slope("size", 0) is None and of["w"].slope("size", 0) is not None
    assert "Zero at the start, which has no slope: out." in result.notes


def test_scores_that_grow_with_heads_are_found():
    def loss_fn(params, x, y):
        h = x @ params["in"]["kernel"]
        q, k, v = jnp.split(h @ params["qkv"]["kernel"], 3, axis=-1)
        scores = jnp.einsum("btd,bsd->bts", q, k) * q.shape[-1] ** -0.5
        h = jnp.einsum("bts,bsd->btd", jax.nn.softmax(scores), v)
        return jnp.square(h @ params["out"]["kernel"] - y).mean()

    def make(width, key):
        keys = jax.random.split(key, 5)
        params = {
            "in": {"kernel": scaled(keys[0], (8, width), 8, 0)},
            "qkv": {"kernel": jnp.tile(scaled(keys[1], (width, width), 32, 0.5), (1, 3))},
            "out": {"kernel": scaled(keys[2], (width, 2), 32, 1)},
        }
        x = jax.random.normal(keys[3], (8, 6, 8))
        return loss_fn, params, (x, jnp.sin(3 * x[..., :2]))

    def optimizer(width):
        parts: dict[Any, Any] = {"in": optax.adam(0.01), "wide": optax.adam(0.3 / width)}
        return optax.multi_transform(parts, {"in": "in", "qkv": "wide", "out": "wide"})

    result = check(make, optimizer)
    assert faults(result) == {("qkv", "scores", -0.5)}, result
    assert "divide them by the size of a head" in " ".join(result.findings)


def test_queries_that_are_scaled_for_their_scores_are_not_at_fault():
    """Flax and Equinox scale the queries, and not the scores."""

    def loss_fn(params, x, y):
        h = x @ params["in"]
        q, k = h @ params["query"] / h.shape[-1], h @ params["key"]
        scores = jax.nn.softmax(jnp.einsum("btd,bsd->bts", q, k))
        return jnp.square(jnp.einsum("bts,bsd->btd", scores, h) @ params["out"] - y).mean()

    def make(width, key):
        keys = jax.random.split(key, 5)
        params = {
            "in": scaled(keys[0], (8, width), 8, 0),
            "query": scaled(keys[1], (width, width), 32, 0.5),
            "key": scaled(keys[2], (width, width), 32, 0.5),
            "out": scaled(keys[3], (width, 2), 32, 1),
        }
        x = jax.random.normal(keys[4], (8, 6, 8))
        return loss_fn, params, (x, jnp.sin(3 * x[..., :2]))

    def optimizer(width):
        parts: dict[Any, Any] = {"in": optax.adam(0.01), "wide": optax.adam(0.3 / width)}
        wide = dict.fromkeys(("query", "key", "out"), "wide")
        return optax.multi_transform(parts, {"in": "in", **wide})

    assert faults(check(make, optimizer, steps=1)) == set()


class Model(nnx.Module):
    """A batch norm after a bias, dropout, and a count."""

    def __init__(self, width, rngs):
        self.first = nnx.Linear(8, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.last = nnx.Linear(width, 1, kernel_init=initjax.normal(1 / width), rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.relu(self.norm(self.first(x)))))


def test_a_module_of_nnx_is_trained_without_its_statistics():
    def make(width, key):
        x = jax.random.normal(key, (64, 8))

        def loss_fn(model, x):  # a new function every time, which closes over an array
            return jnp.square(model(x) - jnp.sin(x[:, :1])).mean()

        return loss_fn, Model(width, nnx.Rngs(key)), (x,)

    result = check(make, optax.adamw(1e-3, weight_decay=0.1))
    assert faults(result) == {("last", "learning_rate", -1.0)}, result
    names = [one.name for one in result.coordinates]
    assert sorted(names) == sorted(
        ["first/kernel", "last/kernel", "first/bias", "norm/bias", "norm/scale", "last/bias"]
    )


def test_a_loss_that_is_not_finite_is_a_finding():
    result = check(maker(), lambda width: optax.sgd(1e30 if width == 128 else 1e-3), steps=3)
    assert not result.stable and result.diverged == ((128, 1),)
    assert "the loss at width 128 isn't finite after step 1" in result.findings
    json.dumps(result.to_dict(), allow_nan=False)


def fixed(width, key):
    return maker()(32, key)


def deeper(width, key):
    _, params, (x, _) = maker()(width, key)

    def loss_fn(params, x):
        h = x @ params["in"]["kernel"]
        h = h @ params["hidden"]["kernel"] if width > 32 else h
        return jnp.square(h @ params["out"]["kernel"]).mean()

    return loss_fn, params, (x,)


@pytest.mark.parametrize(
    ("make", "widths", "optimizer", "error"),
    [
        (3, WIDTHS, optax.sgd(1.0), "make must be a function of (width, key)"),
        (maker(), 64, optax.sgd(1.0), "widths must be a sequence of whole numbers"),
        (maker(), [64], optax.sgd(1.0), "at least two increasing numbers, such as [64, 128, 256]"),
        (maker(), [64, 64], optax.sgd(1.0), "increasing numbers"),
        (maker(), WIDTHS, optax.adam, "call it, as in optax.adam(1e-3)"),
        (maker(), WIDTHS, 0.1, "optimizer must be an Optax transformation, got 0.1"),
        (maker(), WIDTHS, lambda width: width, "optimizer must be an Optax transformation, got 32"),
        (
            lambda width: None,
            WIDTHS,
            optax.sgd(1.0),
            "must return (loss_fn, params, batch), got None",
        ),
        (lambda width: ({}, {}, ()), WIDTHS, optax.sgd(1.0), "loss_fn must be a function"),
        (
            lambda width: (loss_fn, {}, jnp.ones(3)),
            WIDTHS,
            optax.sgd(1.0),
            "batch must be the tuple",
        ),
        (
            lambda width: (loss_fn, jax.ShapeDtypeStruct((3, width), "float32"), ()),
            WIDTHS,
            optax.sgd(1.0),
            "params must be arrays, got shapes",
        ),
        (fixed, WIDTHS, optax.sgd(1.0), "no layer is wider at width 128 than at width 32"),
        (deeper, WIDTHS, optax.sgd(1.0), "it has a layer of hidden/kernel; change only widths"),
    ],
)
def test_bad_arguments_are_named(make, widths, optimizer, error):
    with pytest.raises((TypeError, ValueError)) as caught:
        initjax.coordinate_check(make, widths, optimizer, steps=1, seeds=1)
    assert str(caught.value).startswith("coordinate_check: ")
    assert error in str(caught.value)


@pytest.mark.parametrize(
    ("optimizer", "linear"),
    [
        (optax.sgd(optax.linear_schedule(0, 0.1, 5)), True),
        (optax.masked(optax.set_to_zero(), {"a": True, "b": False}), True),
        (optax.sign_sgd(0.1), False),
    ],
    ids=["warmup", "frozen", "signs"],
)
def test_sgd_is_linear_where_parameters_are_frozen_or_its_rate_starts_at_zero(optimizer, linear):
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    traced = trace("test", lambda params: (params["a"] * params["b"]).sum(), params, (), False)
    assert program(traced, params, optimizer).is_linear(params) is linear


def test_a_size_that_grows_by_no_fault_is_told_with_its_own_slope():
    flat = np.ones((2, 1, 2))
    size = flat * np.reshape([1.0, 4.0], (2, 1, 1))
    one = initjax.Coordinate(
        "a", "dense", "input", (16.0, 16.0), WIDTHS, size, flat, flat, "grows", 1, ()
    )
    result = initjax.CoordinateCheck(WIDTHS, (one,), np.ones((2, 1, 2)), ())
    assert result.findings == ("`a` grows as width^1.00 after step 1",)
    assert one.slope("size", 0) == one.slope("size", 1)
    for quantity, step, message in [
        ("sise", 0, "slope: quantity must be one of size, "),
        ("name", 0, "slope: quantity must be one of "),
        ("size", -1, "slope: step must be a finite number >= 0, got -1"),
        ("size", 2, "slope: step must be at most 1, the last one; got 2"),
        ("size", 0.5, "slope: step must be an integer, got 0.5"),
    ]:
        with pytest.raises(ValueError, match=message):
            one.slope(quantity, step)


def test_no_parameters_are_named_without_advice_for_another_function():
    with pytest.raises(ValueError, match=r"^coordinate_check: params holds no .*, got \{\}$"):
        initjax.coordinate_check(lambda width: (loss_fn, {}, ()), WIDTHS, optax.sgd(1.0))


def test_a_seed_in_place_of_a_key_is_named():
    with pytest.raises(TypeError, match=r"^coordinate_check: key must be a PRNG key, .*got 0;"):
        initjax.coordinate_check(maker(), WIDTHS, optax.sgd(1.0), key=0)


def test_training_that_changes_nothing_is_not_called_stable():
    with pytest.raises(ValueError, match=r"^coordinate_check: no layer is changed by training"):
        initjax.coordinate_check(maker(), [8, 16], optax.sgd(0.0), steps=1, seeds=1)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (lambda width: {} if width == 8 else {"a": jnp.ones(3)}, "only width 16 has a"),
        (
            lambda width: {"a": jnp.ones((3,) * (width // 8))},
            r"a has the shapes \(3,\) and \(3, 3\)",
        ),
    ],
)
def test_other_parameters_at_another_width_are_named(extra, message):
    def make(width, key):
        loss_fn, params, batch = maker()(width, key)
        return loss_fn, {**params, **extra(width)}, batch

    with pytest.raises(
        ValueError, match=f"other parameters at width 16 than at width 8: {message}"
    ):
        initjax.coordinate_check(make, [8, 16], optax.sgd(0.1), steps=1, seeds=1)


@pytest.mark.parametrize(("low", "told"), [(-1.0, True), (0.2, False)])
def test_a_fault_whose_interval_includes_zero_is_not_sure(low, told):
    flat = np.ones((2, 1, 2))
    fault = initjax.Fault("learning_rate", 1, initjax.Slope(0.5, low, 2.0), -0.5)
    one = initjax.Coordinate(
        "a", "dense", "hidden", (16.0, 16.0), WIDTHS, flat, flat, flat, "grows", 1, (fault,)
    )
    params = {"a": jnp.ones((2, 2))}
    traced = trace("test", lambda params: params["a"].sum(), params, (), False)
    notes = list(_check._notes([one], [program(traced, params, optax.sgd(0.1))]))
    assert ("Too few widths or seeds to be sure of: a." in notes) is told
