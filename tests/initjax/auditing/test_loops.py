"""Layers in loops and branches: found once, and predicted from turn to turn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import initjax
from initjax.auditing._judging.assemble import layers
from initjax.auditing._measuring.passes import measurer
from initjax.auditing._reading.trace import trace

pytestmark = pytest.mark.usefixtures("without_jacobian")
rng = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


X = normal(8, 5)
STACK = {"w": normal(7, 5, 5) / 2, "bias": normal(7, 5) / 2, "out": normal(5, 3)}
RNN = {"in": normal(5, 6), "own": normal(6, 6) / 3, "bias": normal(6), "out": normal(6, 2)}
SERIES = normal(10, 8, 5)


def square(z):
    return jnp.square(z).mean()


def sites(loss, params, *batch):
    return list(trace("test", loss, params, batch, False).anatomy.sites.values())


def read(measurer, loss, params, *batch):
    """The layers, and for each the name of the one it reads, or why it reads none."""
    traced = trace("test", loss, params, batch, False)
    found = layers(traced, measurer(traced)(params, batch, traced.constants))
    reads = [
        layer.unpredicted if layer.source is None else found[layer.source].name for layer in found
    ]
    return dict(zip([layer.name for layer in found], reads, strict=True)), found


def dense(h, layer):
    return jnp.tanh(h @ layer[0] + layer[1]), None


def stacked(p, x, **options):
    h, _ = lax.scan(dense, x, (p["w"], p["bias"]), **options)
    return square(h @ p["out"])


def unrolled(p, x):
    for w, bias in zip(p["w"], p["bias"], strict=True):
        x = jnp.tanh(x @ w + bias)
    return square(x @ p["out"])


SPELLINGS = {
    "scan": stacked,
    "unroll": lambda p, x: stacked(p, x, unroll=True),
    "reverse": lambda p, x: stacked({**p, "w": p["w"][::-1], "bias": p["bias"][::-1]}, x,
                                    reverse=True),
    "remat": lambda p, x: square(
        lax.scan(jax.checkpoint(dense), x, (p["w"], p["bias"]))[0] @ p["out"]
    ),
    "jit": lambda p, x: square(lax.scan(jax.jit(dense), x, (p["w"], p["bias"]))[0] @ p["out"]),
}  # fmt: skip


@pytest.mark.parametrize("loss", SPELLINGS.values(), ids=SPELLINGS)
def test_a_loop_over_stacked_weights_is_one_layer_with_its_own_weights_in_each_turn(loss):
    inner, out = sites(loss, STACK, X)
    ((loop, length),) = inner.loops
    assert length == 7
    assert inner.stacked == {loop}
    assert (inner.fan_in, inner.bias, inner.output_axes) == (5, 1, (1,))
    assert inner.activation is not None and inner.activation.text == "tanh(z)"
    assert out.inputs[0].signal is not None and out.inputs[0].signal.site == inner.path
    assert out.stacked == frozenset()


def test_stacked_layers_are_predicted_from_turn_to_turn():
    reads, found = read(measurer, stacked, STACK, X)
    names = [f"w[{turn}]" for turn in range(7)]
    assert reads == dict(zip([*names, "out"], ["batch", *names], strict=True))
    _, plain = read(measurer, unrolled, STACK, X)
    assert len(plain) == len(found) == 8
    for one, other in zip(found, plain, strict=True):
        for name in ("predicted_rms", "rms_z", "predicted_gradient_ratio", "rms", "gradient_ratio"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-4, nan_ok=True)
    assert [layer.depth for layer in found] == list(range(8))


def test_the_result_of_a_loop_is_read_from_its_last_turn(pretended):
    """In a reversed loop, the last turn takes the first slice."""
    reads, _ = read(pretended, SPELLINGS["reverse"], STACK, X)
    assert reads["out"] == "w[0]"
    assert [reads[f"w[{turn}]"] for turn in range(7)] == ["loop"] * 6 + ["batch"]

    def supervised(p, x):
        def step(h, w):
            h = jnp.tanh(h @ w)
            return h, h

        _, hs = lax.scan(step, x, p["w"])
        return square(hs @ p["out"])

    reads, _ = read(pretended, supervised, STACK, X)
    assert reads["out"] == "all turns"


def test_an_activation_before_the_product_is_followed_too():
    def before(p, x):
        h, _ = lax.scan(lambda h, w: (jnp.tanh(h) @ w, None), x, p["w"])
        return square(jnp.tanh(h) @ p["out"])

    inner, out = sites(before, STACK, X)
    assert inner.activation is not None and inner.activation.text == "tanh(z)"
    assert inner.inputs[-1].signal is not None and inner.inputs[-1].signal.earlier
    assert out.inputs[0].signal is not None and out.inputs[0].signal.site == inner.path


def test_only_the_first_turn_reads_the_layer_before_the_loop(pretended):
    def loss(p, x):
        h, _ = lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), jnp.tanh(x @ p["in"]), p["w"])
        return square(h @ p["out"])

    reads, found = read(pretended, loss, {**STACK, "in": normal(5, 5)}, X)
    assert list(reads.values()) == ["batch", "in", *(f"w[{turn}]" for turn in range(7))]
    assert [layer.activation for layer in found] == ["tanh", *["relu"] * 7, ""]


def rnn(p, x):
    def step(h, x):
        h = jnp.tanh(x @ p["in"] + h @ p["own"] + p["bias"])
        return h, h

    h, _ = lax.scan(step, jnp.zeros((8, 6)), x)
    return square(h @ p["out"])


def lstm(p, x):
    def step(carry, x):
        h, c = carry
        gates = jnp.concatenate([x, h], -1) @ p["w"] + p["bias"]
        i, f, g, o = jnp.split(gates, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

    (h, _), _ = lax.scan(step, (jnp.zeros((8, 6)),) * 2, x)
    return square(h @ p["out"])


LSTM = {"w": normal(11, 24), "bias": normal(24), "out": normal(6, 2)}


def test_a_loop_over_time_uses_one_layer_many_times(pretended):
    reads, found = read(pretended, rnn, RNN, SERIES)
    assert list(reads) == ["in", "own", "out"]
    assert [layer.uses for layer in found] == [10, 10, 1]
    assert reads["in"] == "batch"
    assert reads["own"] == "shared loop"
    assert not any(site.stacked for site in sites(rnn, RNN, SERIES))


def test_the_gates_of_an_lstm_are_one_layer_without_an_activation():
    gates, out = sites(lstm, LSTM, SERIES)
    assert (gates.fan_in, gates.activation, gates.bias) == (11, None, 1)
    assert (gates.added, gates.residual) == (False, False)
    assert out.inputs[0].lost == "product"


def layers_around_time(p, x):
    def layer(h, w):
        def step(c, h):
            c = jnp.tanh(h @ w["in"] + c @ w["own"])
            return c, c

        return lax.scan(step, jnp.zeros((8, 5)), h)[1], None

    return square(lax.scan(layer, x, p)[0])


def time_around_layers(p, x):
    def step(c, x):
        h, _ = lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x + c, p["in"])
        return h, h

    return square(lax.scan(step, jnp.zeros((8, 5)), x)[0])


@pytest.mark.parametrize(
    ("loss", "params", "lengths", "stacked_by"),
    [
        (layers_around_time, {"in": normal(3, 5, 5), "own": normal(3, 5, 5)}, (3, 10), 0),
        (time_around_layers, {"in": normal(3, 5, 5)}, (10, 3), 1),
    ],
)
def test_of_nested_loops_the_one_that_slices_the_weights_is_found(
    pretended, loss, params, lengths, stacked_by
):
    for site in sites(loss, params, SERIES):
        assert tuple(length for _, length in site.loops) == lengths
        assert site.stacked == {site.loops[stacked_by][0]}
    _, found = read(pretended, loss, params, SERIES)
    assert len(found) == 3 * len(params)
    assert [layer.uses for layer in found] == [10] * len(found)


def test_a_scale_counts_only_if_it_is_the_same_in_every_turn():
    def twice(p, x):
        return square(lax.scan(lambda h, w: (jnp.tanh(0.5 * (h @ w) / 2), None), x, p["w"])[0])

    def carried(p, x):
        (h, _), _ = lax.scan(
            lambda c, w: ((jnp.tanh(c[0] @ w * c[1]), c[1] / 2), None), (x, 1.0), p["w"]
        )
        return square(h)

    def counted(p, x):
        return square(lax.fori_loop(0, 4, lambda i, h: jnp.tanh(h @ p["w"][0] / (i + 1)), x))

    assert [site.scale for site in sites(twice, STACK, X)] == [0.25]
    for loss in (carried, counted):
        (site,) = sites(loss, STACK, X)
        assert (site.scale, site.activation) == (1, None)


@pytest.mark.parametrize("counted", [True, False], ids=["fori", "while"])
def test_fori_and_while_loops_share_their_weights(counted):
    def loss(p, x, turns):
        turns = 7 if counted else turns
        h = lax.fori_loop(0, turns, lambda _, h: jnp.tanh(h @ p["own"]), x @ p["in"])
        return square(h @ p["out"])

    first, inner, last = sites(loss, RNN, X, 7)
    ((_, length),) = inner.loops
    assert length == (7 if counted else None)
    assert inner.differentiable == counted
    assert not inner.stacked
    assert (first.fan_in, inner.fan_in, last.fan_in) == (5, 6, 6)


def test_gradients_are_predicted_only_for_layers_with_one_reader(pretended):
    """A loop that also reads the layer adds a second term to its gradient."""

    def loss(p, x, turns=0):
        h = jnp.tanh(x @ p["in"])
        looped = lax.fori_loop(0, 3, lambda _, g: jnp.tanh(g @ p["own"]), h) if turns else 0
        return square(h @ p["out"]) + square(looped)

    _, found = read(pretended, loss, RNN, X)
    assert found[0].predicted_gradient_ratio > 0
    _, found = read(pretended, lambda p, x: loss(p, x, 3), RNN, X)
    assert np.isnan(found[0].predicted_gradient_ratio)


@pytest.mark.parametrize("number", [2, 3])
def test_every_branch_has_its_own_layers_and_predictions_restart_behind_them(number):
    def loss(p, x, choice):
        branches = [lambda x, w=w: jnp.tanh(x @ w) for w in p["w"][:number]]
        h = lax.switch(choice, branches, x)
        return square(h @ p["out"])

    *inner, out = sites(loss, STACK, X, 1)
    assert len(inner) == number
    assert len({site.path for site in inner}) == number
    assert out.inputs[0].lost == "branch"


def test_a_function_that_is_called_twice_is_two_layers(pretended):
    call = jax.jit(lambda w, bias, x: jnp.tanh(x @ w + bias))

    def loss(p, x):
        h = call(p["w"][0], p["bias"][0], x)
        return square(call(p["w"][0], p["bias"][0], h) @ p["out"])

    reads, _ = read(pretended, loss, STACK, X)
    assert list(reads) == ["w", "w (use 2)", "out"]
    assert list(reads.values()) == ["batch", "w", "w (use 2)"]


def test_a_layer_in_a_loop_reports_the_mean_over_turns():
    """The mean of squared gradients, too, and the mean over the turns in which a value is known."""
    p, x = RNN, SERIES

    def loss(p, x, shifts=None):
        def turn(h, now):
            x, shift = now
            h = jnp.tanh(x @ p["in"] + h @ p["own"] + shift + p["bias"])
            return h, None

        shifts = jnp.zeros((10, 8, 6)) if shifts is None else shifts
        h, _ = lax.scan(turn, jnp.zeros((8, 6)), (x, shifts))
        return jnp.square(h @ p["out"]).sum()

    gradients = jax.grad(lambda shifts: loss(p, x, shifts))(jnp.zeros((10, 8, 6)))
    squares = np.square(gradients).sum((1, 2))
    traced = trace("test", loss, p, (x,), False)
    into, own, _ = layers(traced, measurer(traced)(p, (x,), traced.constants))
    assert into.uses == own.uses == 10
    assert own.log_gradient == pytest.approx(np.log(squares.mean()), rel=1e-4)
    assert np.ptp(np.log(squares)) > 3  # so the mean of logarithms would differ
    assert -1 < own.correlation < 1  # h is zero in the first turn, and has none


def test_layers_of_a_branch_that_was_not_taken_are_marked_as_not_run():
    def turn(h, layer):
        w, keep = layer
        return lax.cond(keep, lambda h: h + jnp.tanh(h @ w), lambda h: h, h), None

    def loss(p, x, keep):
        return jnp.square(lax.scan(turn, x, (p["w"], keep))[0] @ p["out"]).mean()

    params = {"w": STACK["w"][:4], "out": STACK["out"]}
    keep = np.array([True, False, True, False])
    found = initjax.audit(loss, params, X, keep)
    assert [layer.samples > 0 for layer in found.layers] == [*keep, True]
    assert found.findings == ()
    assert str(found).count("not run") == 2
    mended, repair = initjax.fix(loss, params, X, keep, key=jax.random.key(0))
    ratios = np.abs(mended["w"] / params["w"]).mean((1, 2))
    assert ratios[1] == ratios[3] == 1 and ratios[0] != 1 and ratios[2] != 1
    assert ("w", "did not run on this batch, or not in every iteration of its loop") in repair.left
