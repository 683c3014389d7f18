"""Attention's theory against softmaxes of random scores and against random transformers."""

import math

import jax
import numpy as np
import pytest

from initjax.theory import (
    attention_map,
    attention_threshold,
    attention_weights,
    transformer_map,
)


def softmax(scores, causal=False):
    if causal:
        later = np.triu(np.ones(scores.shape[-2:], bool), 1)
        scores = np.where(later, -np.inf, scores)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("stddev", "keys"), [(0.1, 16), (1.0, 16), (3.0, 16), (2.0, 512), (8.0, 64), (100.0, 64)]
)
def test_weights_have_the_concentration_and_entropy_of_random_scores(stddev, keys):
    p = softmax(stddev * np.random.default_rng(0).standard_normal((2000, keys)))
    expected = attention_weights(stddev, keys)
    for drawn, value in (
        ((p**2).sum(axis=1), expected.squares),
        (-(p * np.log(np.maximum(p, 1e-300))).sum(axis=1), expected.entropy),
    ):
        assert drawn.mean() == pytest.approx(value, abs=4.5 * drawn.std() / 2000**0.5 + 1e-9)
    assert expected.effective_keys == 1 / expected.squares


@pytest.mark.parametrize("keys", [1, 2, 512, 10**6])
def test_equal_scores_read_all_keys_and_one_key_is_read_fully(keys):
    for stddev in (0.0, 1e-300, 1e-12):
        even = attention_weights(stddev, keys)
        assert even.squares == pytest.approx(1 / keys, rel=1e-6)
        assert even.entropy == pytest.approx(math.log(keys), abs=1e-6)
    causal = attention_weights(0.0, keys, causal=True)
    rows = np.arange(1, keys + 1)
    assert causal.squares == pytest.approx((1 / rows).mean(), rel=1e-5)
    assert causal.entropy == pytest.approx(np.log(rows).mean(), abs=1e-5)
    assert attention_weights(1e6, keys).squares == pytest.approx(1, abs=1e-4)


def test_many_keys_have_the_published_limit():
    """The sum of squared weights becomes 1 - sqrt(2) / beta for scores beta sqrt(ln T)."""
    for beta, published in ((3.0, 0.529), (20.0, 0.929)):
        squares = [
            attention_weights(beta * math.log(keys) ** 0.5, keys).squares
            for keys in (2**6, 2**9, 2**13, 2**18)
        ]
        gaps = np.array(squares) - published
        assert (np.diff(gaps) < 0).all() and 0 < gaps[-1] < 0.6 * gaps[0]
    below = [attention_weights(0.5 * math.log(t) ** 0.5, t).squares for t in (2**6, 2**12, 2**18)]
    assert below[0] > 4 * below[1] > 16 * below[2]
    assert attention_threshold(512) == pytest.approx((2 * math.log(512)) ** 0.5)
    assert attention_threshold(512, variance=2.0, correlation=0.5) == pytest.approx(
        (2 * math.log(512) / (2 * (2 - 1))) ** 0.5
    )
    assert attention_threshold(512, correlation=1.0) == math.inf


@pytest.mark.parametrize(
    ("correlation", "keys", "scale", "variance", "causal", "close"),
    [
        (0.5, 16, 1.0, 1.0, False, 0.01),
        (0.9, 64, 6.0, 1.0, False, 0.01),
        (0.3, 64, 2.0, 2.0, False, 0.01),
        (0.5, 32, 1.0, 1.0, True, 0.015),
        (0.8, 64, 8.0, 1.0, True, 0.05),  # an approximation: see its docstring
    ],
)
def test_tokens_after_attention_are_those_of_correlated_rows(
    correlation, keys, scale, variance, causal, close
):
    rng, c = np.random.default_rng(1), correlation
    found = attention_map(correlation, keys, scale, variance, causal)
    common, own = rng.standard_normal((400, 1, keys)), rng.standard_normal((400, keys, keys))
    scores = found.score_stddev * (c**0.5 * common + (1 - c) ** 0.5 * own)
    weights = softmax(scores, causal)
    gram = np.einsum("nik,njk->nij", weights, weights).mean(axis=0)
    products = variance * (c + (1 - c) * gram)
    after = np.trace(products) / keys
    different = (products.sum() - np.trace(products)) / (keys * (keys - 1))
    assert found.variance == pytest.approx(after, rel=close)
    assert found.correlation == pytest.approx(different / after, rel=close)
    assert found.score_stddev == pytest.approx(scale * variance * (1 - c) ** 0.5)


def simulated(blocks, tokens, width, scale, values, weights, biases, norm, seed):
    """The cosine of two tokens after each block of a random tanh transformer with one head."""
    rng = np.random.default_rng(seed)

    def kernel(variance):
        return rng.standard_normal((width, width)) * (variance / width) ** 0.5

    def normalized(x):
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True))

    def bias():
        return biases**0.5 * rng.standard_normal(width)

    x = normalized(rng.standard_normal((tokens, width)))
    cosines = []
    for _ in range(blocks):
        h = normalized(x)
        scores = (h @ kernel(scale)) @ (h @ kernel(scale)).T / width**0.5
        x = x + softmax(scores) @ h @ kernel(values) + bias()
        x = normalized(x) if norm == "post" else x
        x = x + np.tanh(normalized(x) @ kernel(weights) + bias()) @ kernel(weights) + bias()
        x = normalized(x) if norm == "post" else x
        gram = normalized(x) @ normalized(x).T / width
        cosines.append((gram.sum() - tokens) / (tokens * (tokens - 1)))
    return cosines


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_tokens_become_alike_as_in_random_transformers(norm, scale):
    drawn = np.array([simulated(6, 24, 64, scale, 1.0, 1.5, 0.05, norm, n) for n in range(40)])
    predicted = transformer_map(
        6, 24, scale, "tanh", 1.0, 1.5, bias_variance=0.05, norm=norm
    ).correlation
    error = 4.5 * drawn.std(axis=0) / 40**0.5
    assert (np.abs(drawn.mean(axis=0) - predicted) < error + 0.02).all()


@pytest.mark.parametrize(
    ("beta", "measured"),
    [(0.5, [0.18, 0.59, 0.90, 0.984]), (3.0, [0.10, 0.24, 0.46, 0.78])],
)
def test_tokens_become_alike_as_measured_in_the_published_setting(beta, measured):
    """Post-normalization, 512 tokens of width 256; many keys would give .85 instead of .78."""
    signals = transformer_map(
        40,
        512,
        beta * math.log(512) ** 0.5,
        value_variance=0.2,
        weight_variance=0.2,
        norm="post",
    )
    assert signals.correlation[9::10] == pytest.approx(measured, abs=0.035)
    assert (signals.variance == 1).all()
    alike = signals.alike_after(0.9)
    assert alike == (31 if beta == 0.5 else None)
    first = signals.alike_after(0.05)
    assert first is not None and first <= 10


def test_activations_may_be_functions_of_any_kind():
    named = transformer_map(2, 16, activation="gelu")
    given = transformer_map(2, 16, activation=lambda z: jax.nn.gelu(z))
    assert given.correlation == pytest.approx(named.correlation)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attention_weights(-1.0, 4), "score_stddev must be a finite number >= 0"),
        (lambda: attention_weights(1.0, 0), "num_keys must be a finite number >= 1"),
        (lambda: attention_map(1.5, 4), "correlation must be at most 1"),
        (lambda: attention_threshold(4, variance=0.0), "variance must be above 0"),
        (lambda: transformer_map(2, 4, norm="none"), "norm must be one of pre, post"),
        (
            lambda: transformer_map(1, 4, value_variance=0.0, residual=0.0),
            "the variance of the tokens becomes 0",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
