"""What is measured, against a plain NumPy twin, wherever a layer stands and whatever its type."""

import functools
import gc
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import initjax

BINS = np.linspace(-4, 4, 42)  # of histograms, in root mean squares
FLAT = 0.06  # of its steepest slope: where an activation counts as flat
rng = np.random.default_rng(0)


def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)


def close(found, expected, rel=2e-5):
    assert float(found) == pytest.approx(float(expected), rel=rel, abs=1e-7)


# The model of the twin: (examples, places, features), a bias first, a scale, sparse weights, and
# units that are dead.

X = normal(20, 3, 5)
Y = normal(20, 3, 4)
PARAMS = {
    "in": {"kernel": normal(5, 7), "bias": normal(7)},
    "mid": np.maximum(normal(7, 9), 0),
    "out": {"kernel": normal(9, 4), "bias": normal(4)},
}
PARAMS["in"]["bias"][[2, 5]] = -20
NAMES = ["in/kernel", "mid", "out/kernel"]
SGD = optax.sgd(0.5)


def model(p, x, shifts=(0.0, 0.0, 0.0)):
    z1 = p["in"]["bias"] + x @ p["in"]["kernel"] + shifts[0]
    z2 = 0.5 * (jax.nn.relu(z1) @ p["mid"]) + shifts[1]
    z3 = jnp.tanh(z2) @ p["out"]["kernel"] + p["out"]["bias"] + shifts[2]
    return z1, z2, z3


def loss(p, x, y):
    return jnp.square(model(p, x)[-1] - y).mean()


@functools.cache
def found():
    report = initjax.audit(loss, PARAMS, X, Y, optimizer=SGD)
    assert [layer.name for layer in report.layers] == NAMES
    return report


@functools.cache
def twin():
    """Pre-activations, weights, inputs, biases and gradients in float64, by layer."""
    values = [np.asarray(z, np.float64) for z in model(PARAMS, X)]
    zeros = [np.zeros(z.shape, np.float32) for z in values]

    def shifted(shifts):
        return jnp.square(model(PARAMS, X, shifts)[-1] - Y).mean()

    gradients = [np.asarray(g, np.float64) for g in jax.grad(shifted)(zeros)]
    weights = [np.asarray(w, np.float64) for w in
               (PARAMS["in"]["kernel"], PARAMS["mid"], PARAMS["out"]["kernel"])]  # fmt: skip
    inputs = [np.asarray(X), np.maximum(values[0], 0), np.tanh(values[1])]
    biases = [np.asarray(PARAMS["in"]["bias"]), np.zeros(1), np.asarray(PARAMS["out"]["bias"])]
    return values, weights, inputs, biases, gradients


def participation(matrix):
    """Of the eigenvalues of the units' covariance, from its definition."""
    eigenvalues = np.linalg.eigvalsh(matrix.T @ matrix)
    return eigenvalues.sum() ** 2 / np.square(eigenvalues).sum()


@pytest.mark.parametrize("layer", range(3), ids=NAMES)
def test_forward_statistics_are_those_of_a_plain_twin(layer):
    measured = found().layers[layer]
    values, weights, inputs, biases, _ = twin()
    z, w, x, bias = values[layer], weights[layer], inputs[layer], biases[layer]
    units = z.reshape(-1, z.shape[-1])
    close(measured.mean, z.mean())
    close(measured.rms, np.sqrt(np.square(z).mean()))
    close(measured.stddev, z.std())
    close(measured.unit_stddev, np.sqrt(units.var(axis=0).mean()))
    gain = (1, 0.5**2, 1)[layer] * len(w) * np.square(w).mean()
    close(measured.weight_variance, gain)
    close(measured.input_square, np.square(x).mean())
    close(measured.bias_variance, np.square(bias).mean())
    assert (measured.samples, measured.units) == (60, z.shape[-1])
    norms = np.linalg.norm(z[1:], axis=-1) * np.linalg.norm(z[:-1], axis=-1)
    products = (z[1:] * z[:-1]).sum(-1)
    close(measured.correlation, (products[norms > 0] / norms[norms > 0]).mean())
    close(measured.rank, participation(units - units.mean(0)), rel=1e-3)
    close(measured.weight_rank, participation(w), rel=1e-3)
    counts, _ = np.histogram(np.clip(z / np.sqrt(np.square(z).mean()), -4, 4), BINS)
    np.testing.assert_allclose(measured.histogram, counts / z.size, atol=2.1 / z.size)


def test_flat_and_dead_units_are_those_of_the_activation():
    first, second, third = found().layers
    values, *_ = twin()
    close(first.saturated, (values[0] <= 0).mean())
    close(first.dead, (values[0] <= 0).all((0, 1)).mean())
    assert first.dead >= 2 / 7
    close(second.saturated, (1 - np.tanh(values[1]) ** 2 < FLAT).mean())
    assert 0 < second.saturated < 1
    falling, _ = audited_small().layers
    params, x = SMALL
    close(falling.saturated, (1 - np.tanh(x @ params["in"]) ** 2 < FLAT).mean())
    assert math.isnan(third.saturated) and math.isnan(third.dead)  # nothing follows


@pytest.mark.parametrize("layer", range(3), ids=NAMES)
def test_backward_statistics_are_those_of_perturbations(layer):
    measured, gradient = found().layers[layer], twin()[-1][layer]
    units = gradient.reshape(-1, gradient.shape[-1])
    close(measured.gradient, np.sqrt(np.square(gradient).mean()))
    close(measured.gradient_rank, participation(units - units.mean(0)), rel=1e-3)
    counts, _ = np.histogram(np.clip(gradient / np.sqrt(np.square(gradient).mean()), -4, 4), BINS)
    np.testing.assert_allclose(measured.gradient_histogram, counts / gradient.size, atol=2.1 / 180)


def test_the_loss_and_the_first_update_are_measured():
    report, gradients = found(), jax.grad(loss)(PARAMS, X, Y)
    close(report.network.loss, loss(PARAMS, X, Y))
    pairs = [(PARAMS["in"]["kernel"], gradients["in"]["kernel"]), (PARAMS["mid"], gradients["mid"])]
    pairs.append((PARAMS["out"]["kernel"], gradients["out"]["kernel"]))
    for layer, (kernel, gradient) in zip(report.layers, pairs, strict=True):
        close(layer.update_ratio, 0.5 * np.std(gradient) / np.std(kernel))
    assert not {"not_finite", "unused"} & {finding.cause for finding in report.findings}


SMALL = {"in": normal(5, 6), "out": normal(6, 3)}, normal(8, 5)


def small(p, x):
    return jnp.square(-jnp.tanh(x @ p["in"]) @ p["out"]).mean()


@functools.cache
def audited_small():
    return initjax.audit(small, *SMALL)


def test_the_jacobian_is_that_of_the_last_layer_by_the_first():
    params, x = SMALL
    blocks = jax.vmap(jax.jacrev(lambda z: -jnp.tanh(z) @ params["out"]))(x @ params["in"])
    squares = np.square(np.linalg.svd(blocks, compute_uv=False))  # (examples, outputs)
    network = audited_small().network
    mean, condition = network.jacobian, network.jacobian_condition
    # With three outputs there are three directions.
    key, width = jax.random.key(0, impl="rbg"), 3**0.5
    directions = jax.random.uniform(key, (3, 8, 3), np.float32, -width, width)
    pulled = np.einsum("keo,eoi->kei", directions, blocks)
    close(mean, np.square(pulled).sum() / 8 / 3 / 3, rel=1e-4)
    gram = np.einsum("ien,jen->eij", pulled, pulled)
    spectrum = np.linalg.eigvalsh(gram)
    close(condition, np.median(np.sqrt(spectrum[:, -1] / spectrum[:, 0])), rel=1e-3)
    # The estimate itself: a mean over 24 pulled vectors of a quadratic form.
    spread = np.sqrt(2 * np.square(squares).sum(1).mean() / 24) / 3
    assert mean == pytest.approx(squares.mean(), abs=5 * float(spread))


# Wherever a layer stands

STACK = {"w": normal(3, 6, 6), "bias": normal(3, 6)}
H, MANY = normal(12, 6), normal(512, 6)


def dense(h, layer):
    return jnp.tanh(h @ layer["w"] + layer["bias"]), None


def unrolled(p, x):
    for layer in range(3):
        x, _ = dense(x, jax.tree.map(lambda leaf, layer=layer: leaf[layer], p))
    return x


def backwards(p, x):
    return lax.scan(dense, x, jax.tree.map(lambda leaf: leaf[::-1], p), reverse=True)[0]


def nested(p, x):
    layer = jax.checkpoint(jax.jit(dense))
    return lax.cond(x.sum() > -1e9, lambda x: lax.scan(layer, x, p)[0], lambda x: x, x)


PLACES = {"scan": lambda p, x: lax.scan(dense, x, p)[0], "backwards": backwards, "nested": nested}


WHOLE = {"stack": STACK, "out": normal(6, 2)}


def with_readout(hidden):
    return lambda p, x: jnp.square(hidden(p["stack"], x) @ p["out"]).sum()


MEASURED = (
    "samples units mean stddev rms unit_stddev dead saturated correlation rank gradient"
    " gradient_rank weight_variance weight_rank bias_variance input_square"
).split()


@functools.cache
def placed(place):
    return initjax.audit(with_readout({**PLACES, "unrolled": unrolled}[place]), WHOLE, MANY)


@pytest.mark.parametrize("place", PLACES)
def test_statistics_do_not_depend_on_where_a_layer_stands(place):
    *layers, _ = placed(place).layers
    *expected, _ = placed("unrolled").layers
    assert [layer.name for layer in layers] == [f"stack/w[{turn}]" for turn in range(3)]
    assert [layer.activation for layer in expected] == ["tanh"] * 3
    order = slice(None, None, -1 if place == "backwards" else 1)
    for layer, other in zip(layers[order], expected, strict=True):
        for name in MEASURED:
            if place == "nested" and name in ("dead", "saturated"):
                continue  # what follows a choice of branches is not known
            value = getattr(other, name)
            assert math.isfinite(value), name
            assert getattr(layer, name) == pytest.approx(value, rel=5e-4, abs=1e-5), name
        for name in ("histogram", "gradient_histogram"):
            assert len(getattr(other, name)) == len(BINS) - 1
            np.testing.assert_allclose(
                getattr(layer, name), getattr(other, name), rtol=1e-3, atol=1e-5, err_msg=name
            )


def test_the_loss_is_traced_once_for_many_reports_and_no_activations_are_kept():
    calls = []

    def counted(p, x):
        calls.append(x)
        return with_readout(PLACES["scan"])(p, x)

    auditor = initjax.auditor(counted, WHOLE, MANY)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, WHOLE)
    auditor(WHOLE, MANY)
    gc.collect()
    before = sum(array.nbytes for array in jax.live_arrays())
    one, two = auditor(WHOLE, MANY).layers[0], auditor(doubled, MANY).layers[0]
    gc.collect()
    kept = sum(array.nbytes for array in jax.live_arrays()) - before
    assert len(calls) == 1
    assert kept < MANY.nbytes / 4
    close(two.weight_variance, 4 * one.weight_variance)


def test_the_rank_of_many_examples_is_that_of_every_eighth():
    z = (MANY @ STACK["w"][0] + STACK["bias"][0])[::8]
    close(placed("unrolled").layers[0].rank, participation(z - z.mean(0)), rel=1e-3)


def test_a_while_loop_is_measured_at_its_last_turn_and_only_forward():
    def looped(p, x, turns):
        return jnp.square(lax.fori_loop(0, turns, lambda _, h: jnp.tanh(h @ p), x)).sum()

    def objective(p, x, turns):  # JAX differentiates no while loop
        return looped(lax.stop_gradient(p), x, turns) + jnp.square(x @ p).sum()

    w = STACK["w"][0]
    looping, once = initjax.audit(objective, w, H, 3).layers
    h = H
    for _ in range(2):
        h = jnp.tanh(h @ w)
    close(looping.rms, jnp.sqrt(jnp.square(h @ w).mean()))
    assert math.isnan(looping.gradient) and looping.gradient_histogram == ()
    assert math.isfinite(once.gradient)


def test_a_layer_inside_of_a_rule_of_differentiation_is_measured_forward_only():
    @jax.custom_vjp
    def straight_through(w, x):
        return x @ jnp.round(w)

    straight_through.defvjp(
        lambda w, x: (straight_through(w, x), (w, x)),
        lambda kept, g: (kept[1].T @ g, g @ kept[0].T),
    )

    def rounded(p, x):
        noise = p["count"] * jax.random.normal(p["key"], (2,))
        return jnp.square(jnp.tanh(straight_through(p["a"], x)) @ p["b"] + noise).sum()

    params = {"a": normal(6, 6), "b": normal(6, 2), "key": jax.random.key(0), "count": 2}
    report = initjax.audit(rounded, params, H, optimizer=optax.sgd(1.0))
    first, last = report.layers
    gradient = jax.grad(rounded, allow_int=True)(params, H)["a"]
    close(first.update_ratio, jnp.std(gradient) / np.std(params["a"]), rel=1e-4)
    close(first.rms, np.sqrt(np.square(H @ np.round(params["a"])).mean()))
    assert math.isnan(first.gradient) and math.isfinite(last.gradient)
    named = {name for finding in report.findings for name in finding.layers}
    assert not named & {"key", "count"}  # no floats


# Whatever its type


def test_parameters_in_bfloat16_are_measured_in_float32():
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    batch = (X.astype(jnp.bfloat16), Y.astype(jnp.bfloat16))
    layers = initjax.audit(loss, narrow, *batch, optimizer=SGD).layers
    values, *_, gradients = twin()
    for layer, z, gradient in zip(layers, values, gradients, strict=True):
        close(layer.rms, np.sqrt(np.square(z).mean()), rel=0.01)
        close(layer.gradient, np.sqrt(np.square(gradient).mean()), rel=0.03)
        assert layer.update_ratio > 0
    weight = np.asarray(narrow["in"]["kernel"], np.float32)
    close(layers[0].weight_variance, 5 * np.square(weight).mean(), rel=1e-6)


def test_float64_gives_the_same():
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), SMALL)
        report = initjax.audit(small, *wide)
    for layer, other in zip(report.layers, audited_small().layers, strict=True):
        for name in ("rms", "correlation", "unit_stddev", "weight_rank"):
            close(getattr(layer, name), getattr(other, name), rel=5e-5)
    close(report.network.loss, audited_small().network.loss)
    assert math.isfinite(report.network.jacobian)
    assert math.isfinite(report.network.jacobian_condition)


def test_numbers_at_the_ends_of_float32_are_measured():
    def tiny(p, x):
        return 1e-30 * jnp.square(x @ p).sum()

    kernel, x = np.float32(1e25) * normal(5, 6), 1e-10 * normal(8, 5)
    (layer,) = initjax.audit(tiny, kernel, x).layers
    square = np.square(np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)).mean()
    close(layer.rms, np.sqrt(square), rel=5e-5)
    # Its square is beyond float32.
    assert layer.gradient == pytest.approx(2e-30 * np.sqrt(square), rel=5e-4, abs=0)


SHARDED = """
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
import initjax

def loss_fn(p, x):
    h, _ = jax.lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), x, p["w"])
    return jax.numpy.square(h @ p["out"]).mean()

def flat(p, x):  # has a Jacobian
    return jax.numpy.square(jax.nn.relu(x @ p["w"][0]) @ p["out"]).mean()

rng = np.random.default_rng(0)
normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
params, x = {"w": normal(3, 32, 32) / 4, "out": normal(32, 8)}, normal(64, 32)
plain = initjax.audit(loss_fn, params, x)
for kind in (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit):
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind,) * 2)
    place = lambda leaf, *spec: jax.device_put(leaf, NamedSharding(mesh, P(*spec)))
    sharded = {"w": place(params["w"], None, "model", None), "out": place(params["out"], "model")}
    split = initjax.audit(loss_fn, sharded, place(x, "data"))
    assert not sharded["w"].sharding.is_fully_replicated
    assert str(plain) == str(split), f"{plain}\\n{split}"
    with jax.set_mesh(mesh):
        assert initjax.audit(flat, sharded, place(x, "data")).network.jacobian > 0
    repaired, _ = initjax.fix(loss_fn, sharded, place(x, "data"), method="variance")
    assert not np.array_equal(repaired["w"], params["w"])
    for name in params:
        assert repaired[name].sharding == sharded[name].sharding, repaired[name].sharding
print(len(split.layers), "layers alike")
"""


def test_sharded_parameters_give_the_same_report():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED], capture_output=True, text=True, env=environment
    )
    assert done.stdout == "4 layers alike\n", done.stderr


# What did not happen


def test_a_branch_that_was_not_taken_and_a_layer_without_a_gradient_are_not_measured():
    params, x = {"taken": normal(5, 6), "other": normal(5, 6), "out": normal(6, 3)}, normal(8, 5)

    def loss(p, x, frozen=False):
        h = lax.cond(x.sum() > 1e9, lambda: x @ p["other"], lambda: x @ p["taken"])
        return jnp.square((lax.stop_gradient(h) if frozen else h) @ p["out"]).sum()

    for frozen in (False, True):
        taken, other, out = initjax.audit(functools.partial(loss, frozen=frozen), params, x).layers
        known = [name for name in MEASURED if not math.isnan(getattr(other, name))]
        assert known == ["samples", "units"] and (other.samples, other.units) == (0, 0)
        assert other.histogram == other.gradient_histogram == ()
        assert math.isfinite(taken.rms) and taken.samples == 8
        assert math.isfinite(out.gradient)
        assert math.isnan(taken.gradient) == frozen


def test_a_gradient_of_zero_is_measured_as_such():
    params = {"in": normal(5, 6), "out": np.zeros((6, 3), np.float32)}

    def loss(p, x):
        return jnp.square(jnp.tanh(x @ p["in"]) @ p["out"] - 1).sum()

    first, last = initjax.audit(loss, params, normal(8, 5)).layers
    assert first.gradient == 0 < last.gradient


def test_the_rank_of_a_kernel_with_few_rows_that_are_not_zero_is_seen():
    kernel = np.zeros((7, 7, 3, 64), np.float32)
    kernel[3, 3] = normal(3, 64)

    def loss(p, x):
        z = lax.conv_general_dilated(
            x, p, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.square(z).mean()

    (layer,) = initjax.audit(loss, kernel, normal(2, 8, 8, 3)).layers
    assert layer.weight_rank > 1.5


def test_one_example_without_an_axis_for_it_is_measured():
    report = initjax.audit(small, SMALL[0], SMALL[1][0])
    assert math.isnan(report.network.jacobian)
    first, _ = report.layers
    assert (first.samples, first.units) == (1, 6)
    close(first.rms, np.sqrt(np.square(SMALL[1][0] @ SMALL[0]["in"]).mean()))


def test_promotion_may_be_strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        report = initjax.audit(small, *SMALL, optimizer=SGD)
    close(report.network.loss, audited_small().network.loss)
    again = initjax.audit(small, *SMALL, optimizer=SGD)
    assert str([*map(vars, report.layers)]) == str([*map(vars, again.layers)])


def test_a_gradient_that_is_not_a_number_is_infinite_and_not_missing():
    def loss(p, x):
        z = jnp.maximum(x @ p["in"], 1e9) - 1e9  # zero everywhere
        return jnp.sqrt(jnp.square(z).sum()) + (z @ p["out"]).sum()

    report = initjax.audit(loss, *SMALL)
    assert math.isfinite(report.network.loss)
    assert report.layers[0].gradient == math.inf


def test_a_layer_whose_output_overflows_still_has_no_bias():
    params = {"in": jnp.full((4, 3), 1e4, jnp.float16)}
    x = jnp.full((8, 4), 1e4, jnp.float16)
    (layer,) = initjax.audit(lambda p: (x @ p["in"]).mean(), params).layers
    assert not math.isfinite(layer.rms)
    assert layer.bias_variance == 0


def test_each_of_several_weights_behind_a_barrier_is_measured():
    params = {"a": normal(5, 6), "b": 3 * normal(5, 6)}

    def loss(p, x):
        a, b = lax.optimization_barrier((p["a"], p["b"]))
        return jnp.square(x @ a).mean() + jnp.square(x @ b).mean()

    for layer in initjax.audit(loss, params, normal(8, 5)).layers:
        kernel = params[layer.name]
        close(layer.weight_variance, 5 * np.square(kernel, dtype=np.float64).mean())
