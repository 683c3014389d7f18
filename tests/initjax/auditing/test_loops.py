"""Layers in loops and branches: found once, and predicted from turn to turn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import initjax

rng = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


X = normal(8, 5)
STACK = {"w": normal(7, 5, 5) / 2, "bias": normal(7, 5) / 2, "out": normal(5, 3)}
RNN = {"in": normal(5, 6), "own": normal(6, 6) / 3, "bias": normal(6), "out": normal(6, 2)}
SERIES = normal(10, 8, 5)


def square(z):
    return jnp.square(z).mean()


def audited(loss, params, *batch):
    return initjax.audit(loss, params, *batch).layers


def read(loss, params, *batch):
    """The layers, and for each the name of the one it reads, or why it reads none."""
    found = audited(loss, params, *batch)
    reads = [
        layer.unpredicted if layer.source is None else found[layer.source].name for layer in found
    ]
    return dict(zip([layer.name for layer in found], reads, strict=True)), found


def mean_squares(stack):
    return [float(jnp.square(leaf).mean()) for leaf in stack]


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


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_loop_over_stacked_weights_is_one_layer_with_its_own_weights_in_each_turn(spelling):
    reads, (*inner, out) = read(SPELLINGS[spelling], STACK, X)
    names = [f"w[{turn}]" for turn in range(7)]
    assert [layer.name for layer in inner] == names
    order = slice(None, None, -1 if spelling == "reverse" else 1)
    variances = [5 * square for square in mean_squares(STACK["w"])[order]]
    assert [layer.weight_variance for layer in inner] == pytest.approx(variances, rel=1e-5)
    biases = mean_squares(STACK["bias"])[order]
    assert [layer.bias_variance for layer in inner] == pytest.approx(biases, rel=1e-5)
    for layer in inner:
        assert (layer.shape, layer.fan_in, layer.units) == ((5, 5), 5, 5)
        assert (layer.samples, layer.uses, layer.activation) == (8, 1, "tanh")
    # In a reversed loop, the last turn takes the first slice.
    assert reads["out"] == names[order][-1]
    expected = [*["loop"] * 6, "batch"] if spelling == "reverse" else ["batch", *names[:-1]]
    assert [reads[name] for name in names] == expected
    assert (out.shape, out.uses) == ((5, 3), 1)


def test_stacked_layers_are_predicted_from_turn_to_turn():
    looped, plain = (initjax.audit(loss, STACK, X) for loss in (stacked, unrolled))
    assert len(plain.layers) == len(looped.layers) == 8
    for one, other in zip(looped.layers, plain.layers, strict=True):
        for name in ("predicted_rms", "rms_z", "predicted_gradient_ratio", "rms", "gradient_ratio"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-4, nan_ok=True)
        assert one.source == other.source
    assert looped.network.depth == plain.network.depth == 7


def test_a_reader_of_the_outputs_of_all_turns_reads_no_single_layer():
    def supervised(p, x):
        def step(h, w):
            h = jnp.tanh(h @ w)
            return h, h

        _, hs = lax.scan(step, x, p["w"])
        return square(hs @ p["out"])

    reads, _ = read(supervised, STACK, X)
    assert reads["out"] == "all turns"


def test_an_activation_before_the_product_is_followed_too():
    def before(p, x):
        h, _ = lax.scan(lambda h, w: (jnp.tanh(h) @ w, None), x, p["w"])
        return square(jnp.tanh(h) @ p["out"])

    reads, (*inner, _) = read(before, STACK, X)
    names = [f"w[{turn}]" for turn in range(7)]
    assert [layer.activation for layer in inner] == ["tanh"] * 7
    assert list(reads.values()) == ["batch", *names]


def test_only_the_first_turn_reads_the_layer_before_the_loop():
    def loss(p, x):
        h, _ = lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), jnp.tanh(x @ p["in"]), p["w"])
        return square(h @ p["out"])

    reads, found = read(loss, {**STACK, "in": normal(5, 5)}, X)
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


def test_a_loop_over_time_uses_one_layer_many_times():
    reads, found = read(rnn, RNN, SERIES)
    assert list(reads) == ["in", "own", "out"]
    assert [layer.uses for layer in found] == [10, 10, 1]
    assert reads["in"] == "batch"
    assert reads["own"] == "shared loop"


def test_the_gates_of_an_lstm_are_one_layer_without_an_activation():
    gates, out = audited(lstm, LSTM, SERIES)
    assert (gates.fan_in, gates.activation, gates.role, gates.uses) == (11, "", "", 10)
    assert gates.bias_variance == pytest.approx(float(jnp.square(LSTM["bias"]).mean()), rel=1e-5)
    assert out.unpredicted == "product"


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
    ("loss", "params"),
    [
        (layers_around_time, {"in": normal(3, 5, 5), "own": normal(3, 5, 5)}),
        (time_around_layers, {"in": normal(3, 5, 5)}),
    ],
)
def test_of_nested_loops_the_one_that_slices_the_weights_is_found(loss, params):
    found = audited(loss, params, SERIES)
    assert [layer.name for layer in found] == [f"{name}[{n}]" for n in range(3) for name in params]
    assert [layer.uses for layer in found] == [10] * len(found)
    for number, name in enumerate(params):
        variances = [5 * square for square in mean_squares(params[name])]
        mine = [layer.weight_variance for layer in found[number :: len(params)]]
        assert mine == pytest.approx(variances, rel=1e-5)


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

    variances = [5 * square for square in mean_squares(STACK["w"])]
    halved = [layer.weight_variance for layer in audited(twice, STACK, X)]
    assert halved == pytest.approx([variance / 16 for variance in variances], rel=1e-5)
    for loss, turns in ((carried, 7), (counted, 1)):
        found = audited(loss, STACK, X)
        assert [layer.activation for layer in found] == [""] * turns
        plain = [layer.weight_variance for layer in found]
        assert plain == pytest.approx(variances[:turns], rel=1e-5)


@pytest.mark.parametrize("counted", [True, False], ids=["fori", "while"])
def test_fori_and_while_loops_share_their_weights(counted):
    fixed = (lambda leaf: leaf) if counted else lax.stop_gradient  # JAX can't differentiate while

    def loss(p, x, turns):
        turns = 7 if counted else turns
        h, own = fixed(x @ p["in"]), fixed(p["own"])
        h = lax.fori_loop(0, turns, lambda _, h: jnp.tanh(h @ own), h)
        return square(h @ p["out"])

    first, inner, last = audited(loss, RNN, X, 7)
    assert [layer.name for layer in (first, inner, last)] == ["in", "own", "out"]
    assert inner.uses == (7 if counted else 1)  # how often is known only while it runs
    assert np.isfinite(inner.gradient) == counted
    assert (first.fan_in, inner.fan_in, last.fan_in) == (5, 6, 6)


def test_gradients_are_predicted_only_for_layers_with_one_reader():
    """A loop that also reads the layer adds a second term to its gradient."""

    def loss(p, x, turns=0):
        h = jnp.tanh(x @ p["in"])
        looped = lax.fori_loop(0, 3, lambda _, g: jnp.tanh(g @ p["own"]), h) if turns else 0
        return square(h @ p["out"]) + square(looped)

    _, found = read(loss, RNN, X)
    assert found[0].predicted_gradient_ratio > 0
    _, found = read(lambda p, x: loss(p, x, 3), RNN, X)
    assert np.isnan(found[0].predicted_gradient_ratio)


@pytest.mark.parametrize("number", [2, 3])
def test_every_branch_has_its_own_layers_and_predictions_restart_behind_them(number):
    def loss(p, x, choice):
        branches = [lambda x, w=w: jnp.tanh(x @ w) for w in p["w"][:number]]
        h = lax.switch(choice, branches, x)
        return square(h @ p["out"])

    *inner, out = audited(loss, STACK, X, 1)
    assert [layer.name for layer in inner] == ["w", "w (use 2)", "w (use 3)"][:number]
    assert [layer.samples for layer in inner] == [0, 8, 0][:number]
    assert out.unpredicted == "branch"


def test_a_function_that_is_called_twice_is_two_layers():
    call = jax.jit(lambda w, bias, x: jnp.tanh(x @ w + bias))

    def loss(p, x):
        h = call(p["w"][0], p["bias"][0], x)
        return square(call(p["w"][0], p["bias"][0], h) @ p["out"])

    reads, _ = read(loss, STACK, X)
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
    into, own, _ = audited(loss, p, x)
    assert into.uses == own.uses == 10
    assert np.log(own.gradient**2 * 8 * 6) == pytest.approx(np.log(squares.mean()), rel=1e-4)
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
    repaired, repair = initjax.fix(loss, params, X, keep, method="variance")
    ratios = np.abs(repaired["w"] / params["w"]).mean((1, 2))
    assert ratios[1] == ratios[3] == 1 and ratios[0] != 1 and ratios[2] != 1
    assert ("w", "did not run on this batch, or not in every iteration of its loop") in repair.left


def test_a_layer_that_was_not_run_is_no_nan_to_debug():
    def loss(p, x, keep):
        x = lax.cond(keep, lambda x: jnp.tanh(x @ p["yes"]), lambda x: jnp.sin(x @ p["no"]), x)
        return jnp.square(x @ p["out"]).mean()

    params = {"yes": STACK["w"][0], "no": STACK["w"][1], "out": STACK["out"]}
    with jax.debug_nans(True):
        found = initjax.audit(loss, params, X, np.array(True))
        _, repair = initjax.fix(loss, params, X, np.array(True), method="variance")
    assert sorted(layer.samples > 0 for layer in found.layers) == [False, True, True]
    assert np.isfinite(repair.after.network.loss)


@pytest.mark.parametrize("scanned", [True, False])
def test_layers_without_weights_are_left_out(scanned):
    def loss(p, x):
        if scanned:
            x, _ = lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["empty"])
        else:
            x = x + x[:, :0] @ p["empty"]
        return jnp.square(jnp.tanh(x @ p["w"]) @ p["out"]).mean()

    empty = jnp.zeros((0, 5, 5) if scanned else (0, 5))
    params = {"empty": empty, "w": STACK["w"][0], "out": STACK["out"]}
    layers = initjax.audit(loss, params, X).layers
    assert [layer.name for layer in layers] == ["w", "out"]
    _, repair = initjax.fix(loss, params, X, method="variance")
    assert repair.verdict == "ok"
