"""The audit as a user calls it: what it takes, what it refuses, and that it changes nothing."""

import functools
import json

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import initjax

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (64, 16))
Y = jnp.arange(64) % 4


def params(key=KEY):
    first, second = jax.random.split(key)
    return {
        "in": {"kernel": initjax.he_normal()(first, (16, 32)), "bias": jnp.zeros(32)},
        "out": {"kernel": initjax.lecun_normal()(second, (32, 4)), "bias": jnp.zeros(4)},
    }


def loss(p, x, y):
    h = jax.nn.relu(x @ p["in"]["kernel"] + p["in"]["bias"])
    logits = h @ p["out"]["kernel"] + p["out"]["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def with_aux(p, x, y):
    value = loss(p, x, y)
    return value, {"loss": value}


def untouched(p, x, y):
    raise RuntimeError("should not be called")


# What is refused


@pytest.mark.parametrize(
    ("loss_fn", "given", "error", "told"),
    [
        (params(), loss, TypeError, ["loss_fn must be a function of (params, *batch)", "'in'"]),
        (None, params(), TypeError, ["loss_fn must be a function", "None"]),
        (with_aux, params(), ValueError, ["one number", "((), {'loss': ()})", "has_aux=True"]),
        (lambda p, x, y: {"a": loss(p, x, y)}, params(), ValueError, ["{'a': ()}", "has_aux"]),
        (lambda p, x, y: x @ p["in"]["kernel"], params(), ValueError,
         ["shape (64, 32)", "take its mean"]),
        (lambda p, x, y: y.sum(), params(), ValueError, ["a floating number", "int32"]),
        (lambda p, x, y: x.mean() > 0, params(), ValueError, ["a floating number", "bool"]),
        (untouched, {}, ValueError, ["no floating array", "audit(loss_fn, params, *batch)"]),
        (untouched, {"n": jnp.arange(3), "k": KEY}, ValueError, ["no floating array"]),
        (untouched, {"w": jnp.ones(3), "name": "relu"}, TypeError,
         ["'name'", "'relu'", "not an array", "nnx.split"]),
        (untouched, [jnp.ones(3), jax.nn.relu], TypeError, ["parameter '1'", "not an array"]),
    ],
)  # fmt: skip
def test_what_cannot_be_audited_is_refused_by_name(loss_fn, given, error, told):
    with pytest.raises(error) as raised:
        initjax.audit(loss_fn, given, X, Y)
    text = str(raised.value)
    assert text.startswith("audit: ")
    assert [part for part in told if part not in text] == []


def test_a_loss_without_an_aux_is_refused_where_one_was_told():
    with pytest.raises(ValueError, match=r"audit: with has_aux, loss_fn must give \(loss"):
        initjax.audit(loss, params(), X, Y, has_aux=True)
    with pytest.raises(ValueError, match="one number, got an array of shape"):
        initjax.audit(lambda p, x, y: (x, None), params(), X, Y, has_aux=True)


def test_an_error_of_the_users_function_is_the_users():
    with pytest.raises(RuntimeError, match="should not be called"):
        initjax.audit(untouched, params(), X, Y)


# What is given back


def test_the_report_is_that_of_the_model_and_the_model_is_left_as_it_was():
    given, before = params(), jax.tree.map(np.array, params())
    report = initjax.audit(loss, given, X, Y, optimizer=optax.adam(1e-3))
    jax.tree.map(np.testing.assert_array_equal, given, before)
    assert report.verdict == "ok"
    report.assert_healthy()
    assert [layer.name for layer in report.layers] == ["in/kernel", "out/kernel"]
    assert report.network.loss == pytest.approx(float(loss(given, X, Y)), rel=1e-5)
    assert report.network.expected_loss == pytest.approx(np.log(4))
    # Adam's first step has the learning rate's size whatever the gradient.
    kernel = np.std(given["in"]["kernel"])
    assert report.layers[0].update_ratio == pytest.approx(1e-3 / float(kernel), rel=0.05)
    assert report.unread == ()
    found = report.to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@functools.cache
def plain():
    return str(initjax.audit(loss, params(), X, Y))


def test_an_aux_and_a_jitted_loss_change_nothing():
    report = initjax.audit(jax.jit(with_aux), params(), X, Y, has_aux=True)
    assert str(report) == plain()


def test_leaves_may_be_numpys_or_pythons():
    numpys = jax.tree.map(np.asarray, params())
    assert str(initjax.audit(loss, numpys, np.asarray(X), np.asarray(Y))) == plain()
    scaled = {**params(), "scale": 1.5, "steps": 3}
    report = initjax.audit(lambda p, x, y: p["scale"] * loss(p, x, y), scaled, X, Y)
    assert report.verdict == "ok"


def test_a_bare_array_is_a_parameter_too():
    kernel = initjax.lecun_normal()(KEY, (16, 8))
    report = initjax.audit(lambda p, x: jnp.square(x @ p).mean(), kernel, X)
    assert [layer.name for layer in report.layers] == ["params"]
    assert report.verdict == "ok"


def test_numbers_that_are_not_finite_are_found_where_they_are():
    sick = params()
    sick["in"]["bias"] = sick["in"]["bias"].at[3].set(jnp.nan)
    report = initjax.audit(loss, sick, X, Y)
    assert "in/bias: infinite or NaN" in str(report)
    (finding,) = report.findings
    assert (finding.cause, finding.level, finding.layers) == ("not_finite", "failure", ("in/bias",))
    (finding,) = initjax.audit(loss, params(), X.at[5, 0].set(jnp.inf), Y).findings
    assert finding.cause == "not_finite" and "batch[0]" in finding.message


def test_without_a_batch_data_are_those_that_the_loss_closes_over():
    report = initjax.audit(lambda p: loss(p, X, Y), params())
    assert report.verdict == "ok"
    assert [layer.samples for layer in report.layers] == [64, 64]


def test_what_could_not_be_read_is_said():
    def opaque(p, x, y):
        shape = jax.ShapeDtypeStruct((64, 32), jnp.float32)
        h = jax.lax.stop_gradient(
            jax.pure_callback(lambda x, w: np.asarray(x) @ np.asarray(w), shape,
                              *jax.lax.stop_gradient((x, p["in"]["kernel"])))
        )  # fmt: skip
        return jnp.square(h @ p["out"]["kernel"]).mean() + 0 * p["in"]["bias"].sum()

    report = initjax.audit(opaque, params(), X, Y)
    assert report.unread == ("pure_callback, which takes in/kernel",)
    assert "not read: pure_callback" in str(report)


# Every library


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Dense(32, kernel_init=initjax.he_normal())(x))
        return linen.Dense(4)(linen.LayerNorm()(x))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(16, 32, kernel_init=initjax.he_normal(), rngs=rngs)
        self.norm = nnx.BatchNorm(32, rngs=rngs)
        self.out = nnx.Linear(32, 4, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.norm(self.hidden(x))))


def cross_entropy(logits, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def linen_model():
    model = Linen()
    variables = model.init(KEY, X)
    return lambda v, x, y: cross_entropy(model.apply(v, x), y), variables


def nnx_model():
    return lambda model, x, y: cross_entropy(model(x), y), Nnx(nnx.Rngs(0))


def equinox_model():
    model = equinox.nn.MLP(16, 4, 32, 1, key=KEY)
    arrays, static = equinox.partition(model, equinox.is_inexact_array)
    return lambda p, x, y: cross_entropy(jax.vmap(equinox.combine(p, static))(x), y), arrays


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (linen_model, ["params/Dense_0/kernel", "params/Dense_1/kernel"]),
        (nnx_model, ["hidden/kernel", "out/kernel"]),
        (equinox_model, ["layers/0/weight", "layers/1/weight"]),
    ],
)
def test_models_of_every_library_are_audited_as_they_are(make, names):
    loss_fn, given = make()
    report = initjax.audit(loss_fn, given, X, Y)
    assert [layer.name for layer in report.layers] == names
    assert report.verdict == "ok"
    json.dumps(report.to_dict(), allow_nan=False)
    assert max(map(len, str(report).splitlines())) <= 100
