"""Biases that encode what is known before training."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import initjax


def test_a_prior_bias_predicts_its_probability(key):
    for probability in (0.01, 0.5, 1e-30, 0.999):
        bias = initjax.prior_bias(probability)(key, (4,))
        np.testing.assert_allclose(jax.nn.sigmoid(bias), probability, rtol=1e-5)
    bias = initjax.prior_bias([0.1, 0.2, 0.3])(key, (3,))
    np.testing.assert_allclose(jax.nn.sigmoid(bias), [0.1, 0.2, 0.3], rtol=1e-5)
    assert initjax.prior_bias(0.01) == initjax.constant(-np.log((1 - 0.01) / 0.01))


def test_class_frequencies_start_the_loss_at_their_entropy(key):
    counts = np.array([1, 9, 90])
    for given in (counts, counts / 7, counts.tolist()):
        logits = initjax.class_frequency_bias(given)(key, (3,))
        np.testing.assert_allclose(jax.nn.softmax(logits), counts / 100, rtol=1e-5)
        assert jax.nn.logsumexp(logits) == pytest.approx(0, abs=1e-6)
    labels = jnp.repeat(jnp.arange(3), counts)
    start = optax.softmax_cross_entropy_with_integer_labels(jnp.tile(logits, (100, 1)), labels)
    assert float(start.mean()) == pytest.approx(-(counts / 100 * np.log(counts / 100)).sum(), 1e-5)


def test_many_classes_have_a_bias(key):
    counts = np.arange(1, 1001)
    assert initjax.class_frequency_bias(counts)(key, (1000,)).shape == (1000,)


def test_a_forget_gate_bias_fills_the_gate_that_flax_reads_as_forget(key):
    """With a huge bias there, the cell of an LSTM keeps its state."""
    cell = nn.OptimizedLSTMCell(8)
    carry, x = (jnp.ones((1, 8)), jnp.full((1, 8), 0.5)), jnp.zeros((1, 4))
    params = cell.init(key, carry, x)
    rules = {"*/hf/bias": initjax.constant(100.0), "*": initjax.zeros}
    (state, _), _ = cell.apply(initjax.initialize(params, key, rules), carry, x)
    np.testing.assert_allclose(state, 1.0)  # 1 * 1 + sigmoid(0) * tanh(0)
    packed = initjax.forget_gate_bias(100.0)(key, (32,))
    gates = dict(zip(["hi", "hf", "hg", "ho"], jnp.split(packed, 4), strict=True))
    for name, bias in gates.items():
        assert (bias == (100.0 if name == "hf" else 0.0)).all()
    np.testing.assert_array_equal(
        initjax.forget_gate_bias(2.0, gate=0, gates=3)(key, (2, 6)), [[2, 2, 0, 0, 0, 0]] * 2
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda key: initjax.prior_bias(1.0), "above 0 and below 1, got 1.0"),
        (lambda key: initjax.prior_bias([0.5, 0.0]), r"above 0 and below 1, got \[0.5, 0.0\]"),
        (lambda key: initjax.prior_bias("a"), "probability must be a real number"),
        (lambda key: initjax.class_frequency_bias([3, 0]), r"add one to counts .* got \[3, 0\]"),
        (lambda key: initjax.class_frequency_bias(3.0), "counts must be a sequence"),  # pyright: ignore
        (lambda key: initjax.class_frequency_bias([]), "counts must be a sequence"),
        (lambda key: initjax.forget_gate_bias(gate=4), "gate must be below gates=4, got 4"),
        (lambda key: initjax.forget_gate_bias()(key, (6,)), r"a multiple of 4, got \(6,\)"),
    ],
)
def test_errors_say_what_is_valid(make, message, key):
    with pytest.raises((TypeError, ValueError), match=message):
        make(key)


@pytest.mark.parametrize("counts", [[10, 30], [10, 30, 20, 40]])
def test_unsigned_counts_are_no_key(counts, key):
    """They have the dtype and the shape of a raw PRNG key."""
    drawn = initjax.class_frequency_bias(np.array(counts, np.uint32))(key, (len(counts),))
    np.testing.assert_array_equal(drawn, initjax.class_frequency_bias(counts)(key, drawn.shape))


def test_frequencies_may_be_huge(key):
    bias = initjax.class_frequency_bias([1e308, 1e308, 1e-10])(key, (3,), "float32")
    np.testing.assert_allclose(bias, [np.log(0.5), np.log(0.5), np.log(0.5e-318)], rtol=1e-5)
