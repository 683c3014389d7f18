"""What is measured, against a plain NumPy twin, wherever a layer stands and whatever its type."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from initjax.auditing._activations import FLAT
from initjax.auditing._measuring import passes, taps
from initjax.auditing._measuring.passes import measurer
from initjax.auditing._measuring.statistics import BINS, effective_rank
from initjax.auditing._reading.trace import trace

rng = np.random.default_rng(0)


def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)


def measured(loss, params, *batch, optimizer=None, jacobian=False):
    traced = trace("test", loss, params, batch, False)
    with pytest.MonkeyPatch.context() as patched:
        if not jacobian:  # a program of its own, which takes as long to compile as all else
            patched.setattr(passes, "jacobian_probe", lambda traced: None)
        return traced, measurer(traced, optimizer)(params, batch, traced.constants)


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
    traced, result = measured(loss, PARAMS, X, Y, optimizer=SGD)
    assert [traced.names[min(site.sources).leaf] for site in traced.anatomy.sites.values()] == NAMES
    return traced, result, list(result.forward.values()), list(result.backward.values())


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
    _, _, forward, _ = found()
    record = forward[layer]
    values, weights, inputs, biases, _ = twin()
    z, w, x, bias = values[layer], weights[layer], inputs[layer], biases[layer]
    units = z.reshape(-1, z.shape[-1])
    close(record["mean"], z.mean())
    close(record["square"], np.square(z).mean())
    close(record["unit_variance"], units.var(axis=0).mean())
    close(record["weight_square"], np.square(w).mean())
    close(record["weight_zeros"], (w == 0).mean())
    close(record["input_square"], np.square(x).mean())
    close(record["input_largest"], np.abs(x).max())
    close(record["bias_square"], np.square(bias).mean())
    assert (record["samples"], record["units"]) == (60, z.shape[-1])
    norms = np.linalg.norm(z[1:], axis=-1) * np.linalg.norm(z[:-1], axis=-1)
    products = (z[1:] * z[:-1]).sum(-1)
    close(record["correlation"], (products[norms > 0] / norms[norms > 0]).mean())
    close(record["rank"], participation(units - units.mean(0)), rel=1e-3)
    close(record["weight_rank"], participation(w), rel=1e-3)
    counts, _ = np.histogram(np.clip(z / np.sqrt(np.square(z).mean()), -4, 4), BINS)
    np.testing.assert_allclose(record["histogram"], counts / z.size, atol=2.1 / z.size)


def test_flat_and_dead_units_are_those_of_the_activation():
    _, _, (first, second, third), _ = found()
    values, *_ = twin()
    close(first["flat"], (values[0] <= 0).mean())
    close(first["dead"], (values[0] <= 0).all((0, 1)).mean())
    assert float(first["dead"]) >= 2 / 7
    close(second["flat"], (1 - np.tanh(values[1]) ** 2 < FLAT).mean())
    assert 0 < float(second["flat"]) < 1
    falling, _ = measured_small().forward.values()
    params, x = SMALL
    close(falling["flat"], (1 - np.tanh(x @ params["in"]) ** 2 < FLAT).mean())
    assert "flat" not in third  # nothing follows


@pytest.mark.parametrize("layer", range(3), ids=NAMES)
def test_backward_statistics_are_those_of_perturbations(layer):
    _, _, _, backward = found()
    record, gradient = backward[layer], twin()[-1][layer]
    units = gradient.reshape(-1, gradient.shape[-1])
    close(record["log_square"], np.log(np.square(gradient).sum()))
    close(record["rank"], participation(units - units.mean(0)), rel=1e-3)
    counts, _ = np.histogram(np.clip(gradient / np.sqrt(np.square(gradient).mean()), -4, 4), BINS)
    np.testing.assert_allclose(record["histogram"], counts / gradient.size, atol=2.1 / 180)


def test_loss_parameters_and_first_update_are_measured():
    traced, result, *_ = found()
    close(result.loss, loss(PARAMS, X, Y))
    leaves, gradients = jax.tree.leaves(PARAMS), jax.tree.leaves(jax.grad(loss)(PARAMS, X, Y))
    assert len(result.parameters) == len(leaves) == 5
    for record, leaf, gradient in zip(result.parameters, leaves, gradients, strict=True):
        close(record["stddev"], np.std(leaf))
        close(record["update"], 0.5 * np.std(gradient))
        assert (record["broken"], record["learning"]) == (0, 1)
    kernel = traced.names.index("in/kernel")
    np.testing.assert_array_equal(result.prints[kernel], PARAMS["in"]["kernel"].reshape(1, -1))
    assert result.prints[traced.names.index("in/bias")].size == 0


SMALL = {"in": normal(5, 6), "out": normal(6, 3)}, normal(8, 5)


def small(p, x):
    return jnp.square(-jnp.tanh(x @ p["in"]) @ p["out"]).mean()


@functools.cache
def measured_small():
    return measured(small, *SMALL, jacobian=True)[1]


def test_the_jacobian_is_that_of_the_last_layer_by_the_first():
    params, x = SMALL
    blocks = jax.vmap(jax.jacrev(lambda z: -jnp.tanh(z) @ params["out"]))(x @ params["in"])
    squares = np.square(np.linalg.svd(blocks, compute_uv=False))  # (examples, outputs)
    found = measured_small().jacobian
    assert found is not None
    mean, condition = found
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


@functools.cache
def placed(place):
    """The paths of the layers, what is measured of them, a measurer, and how often it traced."""
    loss, calls = with_readout({**PLACES, "unrolled": unrolled}[place]), []

    def counted(*arguments):
        calls.append(place)
        return rerun(*arguments)

    rerun = taps.rerun
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(taps, "rerun", counted)
        patched.setattr(passes, "jacobian_probe", lambda traced: None)
        traced = trace("test", loss, WHOLE, (MANY,), False)
        run = measurer(traced)
        result = run(WHOLE, (MANY,), [])
        doubled = run(jax.tree.map(lambda leaf: 2 * leaf, WHOLE), (MANY,), [])
    *paths, _ = traced.anatomy.sites
    return paths, result, doubled, calls


@pytest.mark.parametrize("place", PLACES)
def test_statistics_do_not_depend_on_where_a_layer_stands(place):
    (path,), result, *_ = placed(place)
    paths, expected, *_ = placed("unrolled")
    for record, others in (
        (result.forward[path], [expected.forward[path] for path in paths]),
        (result.backward[path], [expected.backward[path] for path in paths]),
    ):
        names = set(others[0]) - ({"flat", "dead"} if place == "nested" else set())
        assert set(record) >= names  # what follows a choice of branches is not known
        for name in names:
            assert record[name].shape[:1] == (3,)
            order = slice(None, None, -1 if place == "backwards" else 1)
            stacked = np.stack([other[name] for other in others])
            np.testing.assert_allclose(
                record[name][order], stacked, rtol=1e-3, atol=1e-5, err_msg=name
            )


def test_the_program_is_traced_once_for_many_calls_and_keeps_no_activations():
    (path,), one, doubled, calls = placed("scan")
    assert calls == ["scan"]
    close(doubled.forward[path]["weight_square"][0], 4 * one.forward[path]["weight_square"][0])
    kept = jax.tree.leaves((one.forward, one.backward))
    assert sum(map(np.size, kept)) < MANY.size / 4


def test_the_rank_of_many_examples_is_that_of_every_eighth():
    (path, *_), result, *_ = placed("unrolled")
    z = (MANY @ STACK["w"][0] + STACK["bias"][0])[::8]
    close(result.forward[path]["rank"], participation(z - z.mean(0)), rel=1e-3)
    column, row = normal(64, 1), normal(1, 60)
    assert effective_rank(column * row) == pytest.approx(1, abs=1e-4)
    assert effective_rank(np.zeros((3, 3))) == 0
    assert np.isnan(effective_rank(np.full((3, 3), np.nan)))


def test_a_while_loop_is_measured_at_its_last_turn_and_only_forward():
    def looped(p, x, turns):
        return jnp.square(lax.fori_loop(0, turns, lambda _, h: jnp.tanh(h @ p), x)).sum()

    def objective(p, x, turns):  # JAX differentiates no while loop
        return looped(lax.stop_gradient(p), x, turns) + jnp.square(x @ p).sum()

    w = STACK["w"][0]
    traced, result = measured(objective, w, H, 3)
    first, *_ = traced.anatomy.sites
    h = H
    for _ in range(2):
        h = jnp.tanh(h @ w)
    close(result.forward[first]["square"], jnp.square(h @ w).mean())
    assert set(result.backward) == set(traced.anatomy.sites) - {first}


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
    traced, result = measured(rounded, params, H, optimizer=optax.sgd(1.0))
    described = dict(zip(traced.names, result.parameters, strict=True))
    gradient = jax.grad(rounded, allow_int=True)(params, H)["a"]
    close(described["a"]["update"], jnp.std(gradient), rel=1e-4)
    first, last = traced.anatomy.sites
    close(result.forward[first]["square"], np.square(H @ np.round(params["a"])).mean())
    assert set(result.backward) == {last}
    assert described["key"] == described["count"] == {}  # no floats


# Whatever its type


def test_parameters_in_bfloat16_are_measured_in_float32():
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    batch = (X.astype(jnp.bfloat16), Y.astype(jnp.bfloat16))
    _, result = measured(loss, narrow, *batch, optimizer=SGD)
    values, *_, gradients = twin()
    for record, z in zip(result.forward.values(), values, strict=True):
        close(record["square"], np.square(z).mean(), rel=0.02)
    for record, gradient in zip(result.backward.values(), gradients, strict=True):
        assert float(record["log_square"]) == pytest.approx(
            np.log(np.square(gradient).sum()), abs=0.06
        )
    weight = np.asarray(narrow["in"]["kernel"], np.float32)
    close(result.forward[min(result.forward)]["weight_square"], np.square(weight).mean(), rel=1e-6)
    assert result.parameters[0]["update"] > 0


def test_float64_gives_the_same():
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), SMALL)
        _, result = measured(small, *wide, jacobian=True)
    for record, other in zip(
        result.forward.values(), measured_small().forward.values(), strict=True
    ):
        for name in ("square", "correlation", "unit_variance", "weight_rank"):
            close(record[name], other[name], rel=1e-4)
    close(result.loss, measured_small().loss)
    assert result.jacobian is not None and np.isfinite(result.jacobian).all()


def test_numbers_at_the_ends_of_float32_are_measured():
    def tiny(p, x):
        return 1e-30 * jnp.square(x @ p).sum()

    kernel, x = np.float32(1e25) * normal(5, 6), 1e-10 * normal(8, 5)
    traced, result = measured(tiny, kernel, x)
    (path,) = traced.anatomy.sites
    square = np.square(np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)).mean()
    close(result.forward[path]["square"], square, rel=1e-4)
    gradient = np.log(4e-60 * square * 48)  # beyond float32
    assert float(result.backward[path]["log_square"]) == pytest.approx(gradient, abs=1e-3)


SHARDED = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
import initjax

def loss_fn(p, x):
    h, _ = jax.lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), x, p["w"])
    return jax.numpy.square(h @ p["out"]).mean()

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
    mended, _ = initjax.fix(loss_fn, sharded, place(x, "data"))
    for name in params:
        assert mended[name].sharding == sharded[name].sharding, mended[name].sharding
print(len(split.layers), "layers alike")
"""


def test_sharded_parameters_give_the_same_report():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED], capture_output=True, text=True, env=environment
    )
    assert done.stdout == "4 layers alike\n", done.stderr


def test_what_jax_compiles_for_an_accelerator_gives_the_same(monkeypatch):
    expected, stacked = measured(small, *SMALL, optimizer=SGD)[1], placed("scan")[1]
    monkeypatch.setattr(passes, "on_host", lambda array: False)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        result = measured(small, *SMALL, optimizer=SGD)[1]
    looped = measured(with_readout(PLACES["scan"]), WHOLE, MANY)[1]
    for one, other in ((result, expected), (looped, stacked)):
        for mine, theirs in ((one.forward, other.forward), (one.backward, other.backward)):
            assert set(mine) == set(theirs)
            for path in mine:
                assert set(mine[path]) == set(theirs[path])
                for name, array in mine[path].items():
                    np.testing.assert_allclose(array, theirs[path][name], rtol=1e-4, atol=2e-5)
    for mine, theirs in zip(result.parameters, expected.parameters, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


# What did not happen


def test_a_branch_that_was_not_taken_and_a_layer_without_a_gradient_are_not_measured():
    params, x = {"taken": normal(5, 6), "other": normal(5, 6), "out": normal(6, 3)}, normal(8, 5)

    def loss(p, x, frozen=False):
        h = lax.cond(x.sum() > 1e9, lambda: x @ p["other"], lambda: x @ p["taken"])
        return jnp.square((lax.stop_gradient(h) if frozen else h) @ p["out"]).sum()

    for frozen in (False, True):
        _, result = measured(functools.partial(loss, frozen=frozen), params, x)
        taken, other, _ = result.forward.values()
        assert {name for name, value in other.items() if not np.isnan(value).all()} == {"histogram"}
        assert np.isfinite(taken["square"]) and taken["samples"] == 8
        gradient, nothing, out = (record["log_square"] for record in result.backward.values())
        assert np.isnan(nothing) and np.isfinite(out)
        assert np.isnan(gradient) == frozen


def test_a_gradient_of_zero_is_measured_as_such():
    params = {"in": normal(5, 6), "out": np.zeros((6, 3), np.float32)}

    def loss(p, x):
        return jnp.square(jnp.tanh(x @ p["in"]) @ p["out"] - 1).sum()

    _, result = measured(loss, params, normal(8, 5))
    first, last = result.backward.values()
    assert first["log_square"] == -np.inf and np.isfinite(last["log_square"])


def test_the_rank_of_a_kernel_with_few_rows_that_are_not_zero_is_seen():
    kernel = np.zeros((7, 7, 3, 64), np.float32)
    kernel[3, 3] = normal(3, 64)

    def loss(p, x):
        z = lax.conv_general_dilated(
            x, p, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.square(z).mean()

    _, result = measured(loss, kernel, normal(2, 8, 8, 3))
    (record,) = result.forward.values()
    assert record["weight_rank"] > 1.5


def test_one_example_without_an_axis_for_it_is_measured():
    _, result = measured(small, SMALL[0], SMALL[1][0], jacobian=True)
    assert result.jacobian is None
    first, _ = result.forward.values()
    assert (first["samples"], first["units"]) == (1, 6)
    close(first["square"], np.square(SMALL[1][0] @ SMALL[0]["in"]).mean())


def test_promotion_may_be_strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        _, result = measured(small, *SMALL, jacobian=True, optimizer=SGD)
    close(result.loss, measured_small().loss)


def test_a_gradient_that_is_not_a_number_is_infinite_and_not_missing():
    def loss(p, x):
        z = jnp.maximum(x @ p["in"], 1e9) - 1e9  # zero everywhere
        return jnp.sqrt(jnp.square(z).sum()) + (z @ p["out"]).sum()

    _, result = measured(loss, *SMALL)
    assert np.isfinite(result.loss)
    first, _ = result.backward.values()
    assert first["log_square"] == np.inf
