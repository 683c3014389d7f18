"""The audit as a user calls it: what it takes, what it refuses, and that it changes nothing."""

import functools
import json
import types
from typing import Any

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import initjax

KEY = jax.random.key(0)
rng = np.random.default_rng(0)


def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)


X, Y = normal(64, 16), np.arange(64) % 4
KERNEL = normal(16, 8) / 4
PARAMS = {
    "in": {"kernel": normal(16, 32) / 8**0.5, "bias": np.zeros(32, np.float32)},
    "out": {"kernel": normal(32, 4) / 32**0.5, "bias": np.zeros(4, np.float32)},
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
    ("loss_fn", "given", "error", "parts"),
    [
        (PARAMS, loss, TypeError, ["loss_fn must be a function of (params, *batch)", "a dict"]),
        (None, PARAMS, TypeError, ["loss_fn must be a function", "None"]),
        (with_aux, PARAMS, ValueError, ["one number", "((), {'loss': ()})", "has_aux=True"]),
        (lambda p, x, y: {"a": loss(p, x, y)}, PARAMS, ValueError, ["{'a': ()}", "has_aux"]),
        (lambda p, x, y: x @ p["in"]["kernel"], PARAMS, ValueError,
         ["shape (64, 32)", "take its mean"]),
        (lambda p, x, y: None, PARAMS, ValueError, ["one number, got None"]),
        (lambda p, x, y: "low", PARAMS, ValueError, ["one number, got 'low'"]),
        (lambda p, x, y: y.sum(), PARAMS, ValueError, ["a floating number", "int32"]),
        (lambda p, x, y: x.mean() > 0, PARAMS, ValueError, ["a floating number", "bool"]),
        (untouched, {}, ValueError, ["no floating array", "audit(loss_fn, params, *batch)"]),
        (untouched, {"n": jnp.arange(3), "k": KEY}, ValueError, ["no floating array"]),
    ],
)  # fmt: skip
def test_what_cannot_be_audited_is_refused_by_name(loss_fn, given, error, parts):
    with pytest.raises(error) as raised:
        initjax.audit(loss_fn, given, X, Y)
    text = str(raised.value)
    assert text.startswith("audit: ")
    assert [part for part in parts if part not in text] == []


def test_a_loss_without_aux_is_refused_where_has_aux_is_set():
    with pytest.raises(ValueError, match=r"audit: with has_aux, loss_fn must return \(loss"):
        initjax.audit(loss, PARAMS, X, Y, has_aux=True)
    with pytest.raises(ValueError, match="one number, got an array of shape"):
        initjax.audit(lambda p, x, y: (x, None), PARAMS, X, Y, has_aux=True)


def test_a_batch_without_examples_and_an_optimizer_that_is_none_are_refused():
    with pytest.raises(ValueError, match=r"audit: the layer of params has an empty output; pass"):
        initjax.audit(plain, KERNEL, X[:0])
    with pytest.raises(TypeError, match=r"optimizer must be an Optax transformation, got 0\.001"):
        initjax.audit(plain, KERNEL, X, optimizer=1e-3)
    module = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(module, optax.adam(1e-3), wrt=nnx.Param)
    with pytest.raises(TypeError, match="transformation, got Optimizer: give its tx"):
        initjax.audit(plain, KERNEL, X, optimizer=optimizer)


def test_an_error_of_the_users_function_is_the_users():
    with pytest.raises(RuntimeError, match="should not be called"):
        initjax.audit(untouched, PARAMS, X, Y)


# What is given back


def plain(p, x):
    return jnp.square(x @ p).mean()


@functools.cache
def audited():
    return initjax.audit(loss, jax.tree.map(jnp.asarray, PARAMS), X, Y, optimizer=optax.adam(1e-3))


def test_the_report_is_that_of_the_model():
    report = audited()
    assert report.verdict == "ok"
    report.assert_healthy()
    assert [layer.name for layer in report.layers] == ["in/kernel", "out/kernel"]
    assert report.network.loss == pytest.approx(float(loss(PARAMS, X, Y)), rel=1e-5)
    assert report.network.expected_loss == pytest.approx(np.log(4))
    # Adam's first step has the learning rate's size whatever the gradient.
    kernel = float(np.std(PARAMS["in"]["kernel"]))
    assert report.layers[0].update_ratio == pytest.approx(1e-3 / kernel, rel=0.05)
    assert report.unread == ()
    found = report.to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_an_aux_a_jitted_loss_and_leaves_of_any_kind_change_nothing():
    """NumPy's arrays and Python's numbers are parameters like others, and are left as they were."""
    given = {**PARAMS, "scale": 1.0, "steps": 3}
    before = jax.tree.map(np.array, given)

    def scaled(p, x, y):
        value, aux = with_aux(p, x, y)
        return p["scale"] * value, aux

    report = initjax.audit(jax.jit(scaled), given, X, Y, has_aux=True)
    jax.tree.map(np.testing.assert_array_equal, given, before)
    assert [finding.cause for finding in report.findings] == []
    for one, other in zip(report.layers, audited().layers, strict=True):
        for field in ("rms", "gradient", "rms_z", "correlation", "rank"):
            assert getattr(one, field) == pytest.approx(
                getattr(other, field), rel=1e-4, nan_ok=True
            )


def test_a_bare_array_is_a_parameter_too():
    report = initjax.audit(plain, KERNEL, X)
    assert [layer.name for layer in report.layers] == ["params"]
    assert report.verdict == "ok"


def test_without_a_batch_data_are_those_that_the_loss_closes_over():
    report = initjax.audit(lambda p: plain(p, X), KERNEL)
    assert report.verdict == "ok"
    assert [layer.samples for layer in report.layers] == [64]


def test_numbers_that_are_not_finite_are_found_where_they_are():
    sick = {"kernel": np.where(np.eye(16, 8), np.nan, KERNEL)}
    report = initjax.audit(lambda p, x: plain(p["kernel"], x), sick, X)
    (finding,) = report.findings
    assert (finding.cause, finding.level, finding.layers) == ("not_finite", "failure", ("kernel",))
    assert "Some numbers in kernel are infinite or NaN." in str(report)
    infinite = np.where(np.eye(64, 16), np.inf, X)
    (finding,) = initjax.audit(
        lambda p, batch: plain(p, batch["x"]), KERNEL, {"x": infinite}
    ).findings
    assert finding.cause == "not_finite" and "batch[0]['x']" in finding.message


def test_what_could_not_be_read_is_said():
    shape = jax.ShapeDtypeStruct((64, 8), jnp.float32)

    def opaque(p, x):
        hidden = jax.pure_callback(lambda x, w: np.asarray(x) @ np.asarray(w), shape, x, p["w"])
        return jnp.square(hidden @ p["out"]).mean()

    def without_gradient(p, x):
        return opaque({**p, "w": jax.lax.stop_gradient(p["w"])}, x)

    report = initjax.audit(without_gradient, {"w": KERNEL, "out": normal(8, 4) / 8**0.5}, X)
    assert report.unread == ("pure_callback, which takes w",)
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
    variables = model.init(KEY, X[:1])
    return lambda v, x, y: cross_entropy(model.apply(v, x), y), variables


def nnx_model():
    return lambda model, x, y: cross_entropy(model(x), y), Nnx(nnx.Rngs(0))


def equinox_model():
    return lambda m, x, y: cross_entropy(jax.vmap(m)(x), y), EquinoxModel()


class EquinoxModel(equinox.Module):
    """A module with leaves that aren't arrays, which the loss depends on."""

    layers: tuple = (
        equinox.nn.Linear(16, 32, key=KEY),
        equinox.nn.Linear(32, 4, key=jax.random.key(5)),
    )
    activation: Any = jax.nn.relu
    dropout: equinox.nn.Dropout = equinox.nn.Dropout(0.5)
    dtype: Any = jnp.float32
    order: str = "then"
    repeats: int = 1
    nothing: Any = None

    def __call__(self, x):
        assert self.order == "then" and self.nothing is None
        for _ in range(self.repeats):
            x = self.dropout(self.activation(self.layers[0](x.astype(self.dtype))), inference=True)
        return self.layers[1](x)


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


def test_what_is_passed_beside_the_parameters_need_not_be_arrays_either():
    model = EquinoxModel()
    arrays, static = equinox.partition(model, equinox.is_inexact_array)
    report = initjax.audit(
        lambda p, static, x, mode: plain(equinox.combine(p, static).layers[0].weight.T, x),
        arrays, static, X, "train",
    )  # fmt: skip
    assert report.layers[0].name == "layers/0/weight"


def test_a_tied_module_of_nnx_is_audited_as_one_parameter():
    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Linear(16, 16, rngs=rngs)
            self.head = self.embed

    def tied_loss(model, x):
        return jnp.square(model.head(nnx.relu(model.embed(x)))).mean()

    model = Tied(nnx.Rngs(0))
    report = initjax.audit(tied_loss, model, X, optimizer=optax.adam(1e-3))
    assert [layer.name for layer in report.layers] == ["embed/kernel", "embed/kernel (use 2)"]
    assert "duplicate" not in [finding.cause for finding in report.findings]
    fixed, _ = initjax.fix(tied_loss, model, X, method="variance")
    assert fixed.head is fixed.embed


@pytest.mark.parametrize(
    "optimizer",
    [optax.lbfgs(), optax.contrib.reduce_on_plateau(), optax.chain(optax.adam(1e-3))],
    ids=["lbfgs", "plateau", "chain"],
)
def test_an_optimizer_gets_what_its_update_asks_for(optimizer):
    report = initjax.audit(plain, KERNEL, X, optimizer=optimizer)
    value, gradient = jax.value_and_grad(plain)(KERNEL, X)
    extra = {"value": value, "grad": gradient, "value_fn": lambda p: plain(p, X)}
    step, _ = optax.with_extra_args_support(optimizer).update(
        gradient, optimizer.init(KERNEL), jnp.asarray(KERNEL), **extra
    )
    (layer,) = report.layers
    assert layer.update_ratio == pytest.approx(
        float(jnp.std(jnp.asarray(step)) / KERNEL.std()), rel=1e-3
    )


def test_an_optimizer_that_asks_for_more_is_refused():
    def update(gradients, state, params, *, oracle):
        return gradients, state

    optimizer = types.SimpleNamespace(init=lambda params: (), update=update)
    with pytest.raises(TypeError, match=r"update needs more than gradients, .*'oracle'"):
        initjax.audit(plain, KERNEL, X, optimizer=optimizer)


@pytest.mark.filterwarnings("error")
def test_layers_of_complex_numbers_are_named_as_not_read():
    def loss_fn(p, x):
        modes = jnp.fft.rfft(jax.nn.relu(x @ p["in"]), axis=0)[:9]
        mixed = jnp.einsum("mi,mio->mo", modes, p["spectral"])
        return jnp.square(jnp.fft.irfft(mixed, n=64, axis=0) @ p["out"]).mean()

    spectral = (normal(9, 32, 32) + 1j * normal(9, 32, 32)) / 8
    given = {"in": PARAMS["in"]["kernel"], "spectral": spectral, "out": normal(32, 4) / 32**0.5}
    report = initjax.audit(loss_fn, given, X, optimizer=optax.adam(1e-3))
    assert [layer.name for layer in report.layers] == ["in", "out"]
    assert report.unread == ("complex numbers, which takes spectral",)
    assert report.verdict == "ok"


def test_a_layer_of_several_parameters_has_all_their_names():
    report = initjax.audit(
        lambda p, x: plain(p["base"] + p["change"], x), {"base": KERNEL, "change": 0 * KERNEL}, X
    )
    assert [layer.name for layer in report.layers] == ["base and change"]


def test_the_dictionary_of_a_model_that_is_ill_is_json_too():
    report = initjax.audit(loss, jax.tree.map(lambda leaf: np.nan * leaf, PARAMS), X, Y)
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.parametrize("forgotten", [False, True])
def test_what_the_last_block_leaves_unused_by_design_is_no_fault(forgotten):
    names = ["mid", "next", "skip"]
    keys = iter(jax.random.split(jax.random.key(0), 11))
    blocks = [{name: initjax.he_normal()(next(keys), (16, 16)) for name in names} for _ in range(3)]
    out = initjax.he_normal()(next(keys), (16, 4))
    tree = {"blocks": blocks, "biases": [jnp.zeros(16)] * 3, "out": out}

    def loss_fn(p, x):  # as in WaveNet
        total = 0
        for block, bias in zip(p["blocks"], p["biases"], strict=True):
            y = jnp.tanh(x @ block["mid"])
            total += y @ block["skip"]
            if not (forgotten and block is p["blocks"][-1]):
                x = (x + y @ block["next"] + bias) / 2**0.5
        return jnp.square(total @ p["out"] - 1).mean()

    found = initjax.audit(loss_fn, tree, jax.random.normal(next(keys), (64, 16))).findings
    assert ("unused" in [each.cause for each in found]) == forgotten


def test_what_is_unused_is_told_in_good_english():
    unused = {"kernel": KERNEL, "one": X}
    (finding,) = initjax.audit(lambda p, x: plain(p["kernel"], x), unused, X).findings
    assert finding.message == "The loss doesn't depend on one, so it won't be trained."
    assert finding.remedy == "Use it, or leave it out of params."
    (finding,) = initjax.audit(lambda p, x: plain(p["kernel"], x), {**unused, "two": X}, X).findings
    assert finding.remedy == "Use them, or leave them out of params."


def test_a_loss_without_a_layer_is_told_so():
    report = initjax.audit(lambda p, x: jnp.square(p * x).mean(), jnp.ones(20), normal(8, 20))
    assert [finding.cause for finding in report.findings] == ["no_layers"]
    assert "no_layers" in str(report)


def test_statistics_and_keys_among_the_parameters_are_data():
    """As of a Flax model with batch normalization whose variables are given whole."""
    x = normal(64, 8)
    params = {
        "params": {"in": normal(8, 16), "out": normal(16, 3)},
        "batch_stats": {"mean": jnp.zeros(16), "var": jnp.ones(16)},
        "count": jnp.uint32(3),
    }

    def loss(p, x):
        h = x @ p["params"]["in"] - p["batch_stats"]["mean"]
        h = jax.nn.relu(h / jnp.sqrt(p["batch_stats"]["var"] + 1e-5))
        mask = jax.random.bernoulli(jax.random.fold_in(KEY, p["count"]), 0.9, h.shape)
        return jnp.square(jnp.where(mask, h, 0) @ p["params"]["out"]).mean()

    first, last = initjax.audit(loss, params, x).layers
    assert (first.name, last.name) == ("params/in", "params/out")
    assert "parameter" not in last.unpredicted
