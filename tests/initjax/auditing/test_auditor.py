"""An audit that is compiled once, by `auditor` or by an earlier `audit`, and never gets stale."""

import functools
import gc
import sys
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import initjax
from initjax.auditing import _audit

rng = np.random.default_rng(0)


def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)


X, Y = normal(64, 5), np.arange(64) % 3
PARAMS = {"in": normal(5, 6) / 2, "out": normal(6, 3) / 2}
ADAM = optax.adam(0.03)


def loss(p, x, y):
    logits = jnp.tanh(x @ p["in"]) @ p["out"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


@functools.cache
def made():
    return initjax.auditor(loss, PARAMS, X, Y, optimizer=ADAM)


@pytest.fixture
def compiled():
    """The programs that were compiled, or loaded from JAX's cache, since the list was cleared."""
    programs = []

    def listen(event: str, duration_secs: float, **details: str | int) -> None:
        if "backend_compile" in event:
            programs.append(details)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield programs
    jax.monitoring.unregister_event_duration_listener(listen)


# An auditor


def test_an_auditor_gives_the_report_that_an_audit_gives():
    expected = initjax.audit(loss, PARAMS, X, Y, optimizer=ADAM)
    for params in (PARAMS, jax.tree.map(jnp.asarray, PARAMS)):
        report = made()(params, X, Y)
        assert str(report) == str(expected)
        assert report.to_dict() == expected.to_dict()


def test_an_auditor_gives_the_loss_without_its_aux():
    auditor = initjax.auditor(lambda *given: (loss(*given), "aux"), PARAMS, X, Y, has_aux=True)
    assert auditor(PARAMS, X, Y).network.loss == pytest.approx(float(loss(PARAMS, X, Y)))


def test_an_auditor_sees_new_parameters_and_batches_in_a_training_loop(compiled):
    @jax.jit
    def update(params, state, *batch):
        gradient = jax.grad(loss)(params, *batch)
        steps, state = ADAM.update(gradient, state, params)
        return optax.apply_updates(params, steps), state

    params, losses, counts = jax.tree.map(jnp.asarray, PARAMS), [], []
    state = ADAM.init(params)
    for number in range(4):
        x = X + number
        compiled.clear()
        report = made()(params, x, Y)
        counts.append(len(compiled))
        losses.append(report.network.loss)
        assert losses[-1] == pytest.approx(float(loss(params, x, Y)), rel=1e-5)
        rms = float(jnp.sqrt(jnp.square(x @ params["in"]).mean()))
        assert report.layers[0].rms == pytest.approx(rms, rel=1e-5)
        params, state = update(params, state, x, Y)
    assert len(set(losses)) == 4
    assert counts[1:] == [0, 0, 0]


@pytest.mark.parametrize(
    ("params", "batch", "parts"),
    [
        ({**PARAMS, "in": normal(5, 7)}, (X, Y),
         ["params['in'] is float32[5, 7]", "made for float32[5, 6]"]),
        ({**PARAMS, "out": PARAMS["out"].astype(np.float16)}, (X, Y),
         ["params['out'] is float16[6, 3]", "made for float32[6, 3]"]),
        (PARAMS, (X[:32], Y), ["batch[0] is float32[32, 5]", "made for float32[64, 5]"]),
        (PARAMS, (X, Y.astype(np.float32)), ["batch[1] is float32[64]", "made for int32[64]"]),
        ({**PARAMS, "bias": normal(6)}, (X, Y), ["structure", ": params['bias'] is new;"]),
        ({"in": PARAMS["in"]}, (X, Y), ["different structure", ": params['out'] is missing;"]),
        ({"first": PARAMS["in"], "out": PARAMS["out"]}, (X, Y),
         ["params['in'] is missing and params['first'] is new"]),
        ({**PARAMS, "in": "relu"}, (X, Y), ["params['in'] is 'relu'", "made for float32[5, 6]"]),
        (PARAMS, (X, "labels"), ["batch[1] is 'labels'", "made for int32[64]"]),
        ({**PARAMS, "name": jnp.tanh}, (X, Y), ["structure", ": params['name'] is new;"]),
        (PARAMS, (X,), ["different structure", ": batch[1] is missing;"]),
        (PARAMS, (X, Y, Y), ["different structure", ": batch[2] is new;"]),
    ],
)  # fmt: skip
def test_an_auditor_refuses_what_it_was_not_made_for_and_names_it(params, batch, parts):
    with pytest.raises(ValueError) as raised:
        made()(params, *batch)
    text = str(raised.value)
    assert text.startswith("auditor: ") and "initjax.auditor(loss_fn, params, *batch)" in text
    assert [part for part in parts if part not in text] == []


def test_an_auditor_is_for_the_functions_and_numbers_of_a_module_too():
    def loss_fn(params, x):
        return jnp.square(params["activation"](x @ params["in"]) @ params["out"]).mean()

    params = {**PARAMS, "activation": jnp.tanh}
    auditor = initjax.auditor(loss_fn, params, X)
    assert auditor({**params, "in": 2 * PARAMS["in"]}, X).layers[0].activation == "tanh"
    with pytest.raises(
        ValueError, match=r"params\['activation'\] is .*sin.*, but .* made for .*tan"
    ):
        auditor({**params, "activation": jnp.sin}, X)


def test_text_in_a_batch_is_passed_on():
    def loss_fn(params, batch):
        assert batch["words"].tolist() == ["a", "b"]
        return jnp.square(batch["x"] @ params["in"]).mean()

    def batch(*words):
        return {"x": X, "words": np.array(words)}

    auditor = initjax.auditor(loss_fn, PARAMS, batch("a", "b"))
    assert auditor(PARAMS, batch("a", "b")).layers
    with pytest.raises(ValueError, match=r"batch\[0\]\['words'\] is \['a', 'c'\], but"):
        auditor(PARAMS, batch("a", "c"))


def test_what_cannot_be_audited_is_refused_when_the_auditor_is_made():
    swapped: tuple[Any, ...] = (PARAMS, loss)
    with pytest.raises(TypeError, match="auditor: loss_fn must be a function of"):
        initjax.auditor(*swapped, X, Y)
    with pytest.raises(TypeError, match="auditor: optimizer must be an Optax transformation"):
        initjax.auditor(loss, PARAMS, X, Y, optimizer=0.1)


# An audit that remembers


class Model:
    def loss(self, *given):
        return loss(*given)


MODEL = Model()


@pytest.mark.parametrize(
    ("loss_fn", "optimizer"),
    [(lambda *given: loss(*given), None), (jax.jit(loss), ADAM), (MODEL.loss, ADAM)],
    ids=["function", "jit", "method"],
)
def test_the_second_audit_of_the_same_function_and_shapes_compiles_nothing(
    loss_fn, optimizer, compiled
):
    initjax.audit(loss_fn, PARAMS, X, Y, optimizer=optimizer)
    assert compiled
    compiled.clear()
    doubled = {**PARAMS, "in": 2 * PARAMS["in"]}
    report = initjax.audit(loss_fn, doubled, X[::-1].copy(), Y, optimizer=optimizer)
    assert compiled == []
    expected = np.sqrt(np.square(X @ doubled["in"]).mean())
    assert report.layers[0].rms == pytest.approx(expected, rel=1e-5)


def test_other_shapes_another_optimizer_and_other_dtypes_are_compiled_for_themselves(compiled):
    def audited(params, x, y, optimizer=None):
        compiled.clear()
        report = initjax.audit(loss, params, x, y, optimizer=optimizer)
        return len(compiled) > 0, report

    audited(PARAMS, X, Y)
    again, _ = audited(PARAMS, X, Y)
    shapes, fewer = audited(PARAMS, X[:32], Y[:32])
    optimizer, stepped = audited(PARAMS, X, Y, optax.sgd(1.0))
    dtypes, _ = audited(PARAMS, X.astype(jnp.bfloat16), Y)
    assert (again, shapes, optimizer, dtypes) == (False, True, True, True)
    assert [layer.samples for layer in fewer.layers] == [32, 32]
    gradient = jax.grad(loss)(PARAMS, X, Y)["in"]
    assert stepped.layers[0].update_ratio == pytest.approx(
        float(jnp.std(gradient)) / PARAMS["in"].std(), rel=1e-4
    )


CLOSED_OVER = {
    "Python number": float,
    "NumPy number": np.float32,
    "JAX number": jnp.float32,
    "array": lambda shift: np.full(6, shift, np.float32),
    "JAX array": lambda shift: jnp.full(6, shift),
    "array of one element": lambda shift: np.full(1, shift, np.float32),
}


@pytest.mark.parametrize("jit", [False, True], ids=["plain", "jit"])
@pytest.mark.parametrize("make", CLOSED_OVER.values(), ids=CLOSED_OVER)
def test_an_audit_sees_what_the_loss_closes_over_now(make, jit):
    held = {}

    def loss_fn(p, x):
        def hidden(z):
            return jax.nn.relu(z - held["shift"])

        return jnp.square((jax.jit(hidden) if jit else hidden)(x @ p["in"]) @ p["out"]).mean()

    z = X @ PARAMS["in"]
    for shift in (0.0, 1.5):
        held["shift"] = make(shift)
        report = initjax.audit(loss_fn, PARAMS, X)
        first, last = report.layers
        assert report.network.loss == pytest.approx(float(loss_fn(PARAMS, X)), rel=1e-5)
        square = np.square(np.maximum(z - shift, 0)).mean()
        assert last.input_square == pytest.approx(square, rel=1e-5)
        if first.activation:  # a shift by an array is none
            assert first.saturated == pytest.approx((z <= shift).mean(), abs=1e-6)


def test_another_array_in_the_loss_compiles_nothing(compiled):
    held = {"x": X}

    def loss_fn(p):
        return loss(p, held["x"], Y)

    initjax.audit(loss_fn, PARAMS)
    held["x"] = 3 * X
    compiled.clear()
    (first, _) = initjax.audit(loss_fn, PARAMS).layers
    assert compiled == []
    assert first.rms == pytest.approx(np.sqrt(np.square(3 * X @ PARAMS["in"]).mean()), rel=1e-5)


def test_an_audit_runs_the_callback_that_the_loss_has_now():
    held = {}

    def loss_fn(p, x):
        shift = held["shift"]
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        moved = jax.pure_callback(lambda x: np.asarray(x) + np.float32(shift), shape, x)
        return jnp.square(moved @ p["in"]).mean()

    for shift in (0.0, 5.0):
        held["shift"] = shift
        (layer,) = initjax.audit(loss_fn, {"in": PARAMS["in"]}, X).layers
        assert layer.input_square == pytest.approx(np.square(X + shift).mean(), rel=1e-5)


def _with_rule(held, p, x):
    @jax.custom_vjp
    def hidden(z):
        return jnp.tanh(z)

    factor = held["factor"]
    hidden.defvjp(lambda z: (jnp.tanh(z), None), lambda _, gradient: (factor * gradient,))
    return jnp.square(hidden(x @ p["in"]) @ p["out"]).mean()


@pytest.mark.parametrize("kind", [float, lambda factor: np.full(6, factor, np.float32)])
def test_an_audit_follows_the_rule_of_differentiation_that_the_loss_has_now(kind):
    held = {}

    def loss_fn(p, x):
        return _with_rule(held, p, x)

    gradients = []
    for factor in (1.0, 100.0):
        held["factor"] = kind(factor)
        gradients.append(initjax.audit(loss_fn, PARAMS, X).layers[0].gradient)
    assert gradients[1] == pytest.approx(100 * gradients[0], rel=1e-4)


def test_an_audit_follows_a_rule_whose_array_changes_in_place():
    held = {"factor": np.ones(6, np.float32)}

    def loss_fn(p, x):
        return _with_rule(held, p, x)

    before = initjax.audit(loss_fn, PARAMS, X).layers[0].gradient
    held["factor"] *= 100
    assert initjax.audit(loss_fn, PARAMS, X).layers[0].gradient == pytest.approx(100 * before)


def test_an_audit_measures_the_step_that_the_optimizer_takes_now():
    rate = [1.0]

    def update(updates, state, params=None):
        return jax.tree.map(lambda gradient: -rate[0] * gradient, updates), state

    optimizer = optax.GradientTransformation(lambda params: (), update)
    before = initjax.audit(loss, PARAMS, X, Y, optimizer=optimizer).layers[0].update_ratio
    rate[0] = 10.0
    after = initjax.audit(loss, PARAMS, X, Y, optimizer=optimizer).layers[0].update_ratio
    assert after == pytest.approx(10 * before)


def test_losses_that_cannot_be_compared_are_audited():
    class Loss:
        def __init__(self, weights):
            self.weights = weights

        def __eq__(self, other):
            return self.weights == other.weights

        def __hash__(self):
            return 0

        def __call__(self, p, x):
            return loss(p, x * self.weights, Y)

    losses = [Loss(np.full(5, weight, np.float32)) for weight in (1, 2)]
    one, two = (initjax.audit(each, PARAMS, X).layers[0].rms for each in losses)
    assert two == pytest.approx(2 * one)


@pytest.mark.parametrize("transform", [jax.jit, jax.grad])
def test_an_audit_inside_a_transformation_is_refused(transform):
    with pytest.raises(TypeError, match=r"outside jax\.jit"):
        transform(lambda p: initjax.audit(loss, p, X, Y).network.loss)(PARAMS)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["", "jit", "remat"])
@pytest.mark.parametrize("kind", [np.array, jnp.array], ids=["numpy", "jax"])
def test_arrays_that_a_loss_closes_over_are_freed_with_it(kind, wrap):
    def audited(data):
        def loss_fn(p):
            return loss(p, data, Y)

        wrapped = wrap(loss_fn)
        assert [layer.samples for layer in initjax.audit(wrapped, PARAMS).layers] == [64, 64]
        return weakref.ref(data)

    reference = audited(kind(X))
    gc.collect()
    assert reference() is None


def test_an_array_that_a_loss_no_longer_closes_over_is_freed():
    held = {"x": jnp.array(X)}

    def loss_fn(p):
        return loss(p, held["x"], Y)

    initjax.audit(loss_fn, PARAMS)
    reference = weakref.ref(held.pop("x"))
    gc.collect()
    assert reference() is None


def test_a_fix_after_an_audit_compiles_no_second_audit(compiled):
    def function():
        return lambda *given: loss(*given)

    def programs(call, loss_fn):
        compiled.clear()
        call(loss_fn, PARAMS, X, Y)
        return len(compiled)

    fix = functools.partial(initjax.fix, method="variance")
    fix(function(), PARAMS, X, Y)  # small programs that all calls share
    alone, after_audit = function(), function()
    whole = programs(fix, alone)
    audit = programs(initjax.audit, after_audit)
    assert audit > 0
    assert programs(fix, after_audit) == whole - audit
    assert programs(initjax.audit, alone) == 0


def test_a_function_may_be_deleted_after_the_names_of_the_library(monkeypatch):
    """At exit Python sets a module's names to None before it deletes all objects."""

    def loss_fn(p, x):
        return jnp.square(x @ p).mean()

    initjax.audit(loss_fn, jnp.eye(4), jnp.ones((8, 4)))
    errors = []
    monkeypatch.setattr(sys, "unraisablehook", errors.append)
    monkeypatch.setattr(_audit, "_measurers", None)
    del loss_fn
    gc.collect()
    assert not errors
