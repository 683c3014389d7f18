r"""Attention at initialization: what a softmax reads, and how alike tokens become with depth.

With random query and key kernels the scores of a row are normal, so its softmax is a random energy
model. If the scores' standard deviation `s` is far below :math:`\sqrt{2 \ln T}`, for `T` keys, a
row reads nearly all keys equally, and tokens become alike with depth (rank collapse). If it is far
above, a row reads one key, and the gradients of queries and keys vanish (entropy collapse). The
published theory is for many keys; here the expectations are those at the given number of keys.

Tokens are described by their mean square per feature `q`, called the variance as in
`initjax.theory.meanfield`, and by the cosine `c` of two of them, their correlation. `score_scale`
is the standard deviation of the scores of tokens with mean square 1 and cosine 0. With kernels of
queries and keys of gains :math:`\sigma_q` and :math:`\sigma_k` (1 for LeCun initialization) and
scores divided by :math:`\sqrt{d}` for heads of size `d`, it is :math:`\sigma_q \sigma_k`.
"""

import math
from typing import NamedTuple

import numpy as np

from initjax._values import checked_choice, checked_integer, checked_number, checked_positive
from initjax.theory._activation import Activation, named
from initjax.theory._integrals import pair, single
from initjax.theory._softmax import expected_product, expected_weights

NORMS = ("pre", "post")


class AttentionWeights(NamedTuple):
    """The weights of a row of attention, on average over rows and kernels. Floats."""

    squares: float
    """The sum of the squared weights: 1/T if all are equal, 1 if one key has all the weight."""
    effective_keys: float
    """The number of keys that a row reads: 1 over that sum."""
    entropy: float
    """The entropy of the weights in nats: ln T if all are equal, 0 if one key has all."""


class AttentionMap(NamedTuple):
    """What attention makes of tokens, before the value and output kernels."""

    variance: float
    """The mean square of a token after attention."""
    correlation: float
    """The cosine of two tokens after attention."""
    score_stddev: float
    """The standard deviation of a row's scores."""
    weights: AttentionWeights
    """What the softmax makes of these scores."""


class TokenSignals(NamedTuple):
    """Tokens in a transformer: arrays in float64 with one number per block."""

    correlation: np.ndarray
    """The cosine of two tokens after each block."""
    variance: np.ndarray
    """The mean square of a token after each block; 1 with normalization after the blocks."""
    score_stddev: np.ndarray
    """The standard deviation of a row's scores in each block."""
    effective_keys: np.ndarray
    """The number of keys that a row reads in each block."""

    def alike_after(self, correlation: float = 0.99) -> int | None:
        """The number of blocks after which the cosine of tokens is above this; None if never."""
        above = np.flatnonzero(self.correlation > correlation)
        return int(above[0]) + 1 if len(above) else None


def attention_weights(score_stddev: float, num_keys: int, causal: bool = False) -> AttentionWeights:
    r"""Computes how concentrated the softmax of normal scores is, at any number of keys.

    For :math:`p = softmax(x)` of independent :math:`x_i \sim N(0, s^2)`

    .. math:: E[\sum_i p_i^2] = T \int E[w^2 e^{-w}] E[e^{-w}]^{T - 1} dt, \quad w = e^{x - t}

    This is at least 1/T. For many keys it becomes :math:`\max(0, 1 - \sqrt{2 \ln T} / s)`.

    Args:
      score_stddev: s, the standard deviation of a row's scores, after scaling and before masking.
      num_keys: T, the number of keys.
      causal: whether row i has only the first i keys; the results are means over rows.

    Returns:
      `AttentionWeights`, accurate to 1e-6 for s up to 32 and to 1e-3 beyond.

    Raises:
      TypeError, ValueError: score_stddev is not a finite number >= 0; num_keys isn't an integer
        >= 1.

    Example:
      >>> squares, effective_keys, entropy = attention_weights(1.0, num_keys=512)
      >>> round(squares, 4), round(effective_keys), round(entropy / math.log(512), 2)
      (0.0052, 191, 0.92)

    Reference:
      Giorlandino and Goldt 2025, "Two failure modes of deep transformers and how to avoid them",
      https://arxiv.org/abs/2505.24333, for many keys; Derrida 1981, "Random-energy model".
    """
    owner = "attention_weights"
    stddev = checked_number(owner, "score_stddev", score_stddev, minimum=0)
    keys = checked_integer(owner, "num_keys", num_keys, minimum=1)
    return _weights(stddev, keys, causal)


def attention_threshold(num_keys: int, variance: float = 1.0, correlation: float = 0.0) -> float:
    r"""Computes the scale of scores above which rows read few keys instead of many.

    .. math:: \sqrt{2 \ln T / (q (q - p))}, \quad p = c q

    a `score_scale`. With the default values it is the critical standard deviation of a row's
    scores. The transition is sharp only for many keys: see `attention_weights`.

    Args:
      num_keys: T, the number of keys.
      variance: q, the mean square of a token.
      correlation: c, the cosine of two tokens.

    Returns:
      The threshold, a float; infinite if all tokens are equal.

    Raises:
      TypeError, ValueError: num_keys isn't an integer >= 1; variance is not a finite number above
        0; correlation is not in [-1, 1].

    Example:
      >>> round(attention_threshold(512), 2), round(attention_threshold(512, correlation=0.9), 2)
      (3.53, 11.17)

    Reference:
      Giorlandino and Goldt 2025, "Two failure modes of deep transformers and how to avoid them",
      https://arxiv.org/abs/2505.24333, where scores are scaled by :math:`\beta \sqrt{\ln T}`.
    """
    owner = "attention_threshold"
    keys = checked_integer(owner, "num_keys", num_keys, minimum=1)
    q = checked_positive(owner, "variance", variance)
    gap = q * q * (1 - _checked_correlation(owner, correlation))
    return math.sqrt(2 * math.log(keys) / gap) if gap > 0 else math.inf


def attention_map(
    correlation: float,
    num_keys: int,
    score_scale: float = 1.0,
    variance: float = 1.0,
    causal: bool = False,
) -> AttentionMap:
    r"""Computes mean square and cosine of tokens after softmax attention.

    .. math:: q' = p + (q - p) E[\sum_k a_{ik}^2], \quad p' = p + (q - p) E[\sum_k a_{ik} a_{jk}]

    with :math:`p = c q` and attention weights `a` of rows i and j, whose scores have the standard
    deviation :math:`s = \beta \sqrt{q (q - p)}`, where :math:`\beta` is score_scale, and the
    correlation `c`. For many keys the second mean is 0. The value and output kernels, of gains 1,
    preserve both.

    Args:
      correlation: c, the cosine of two tokens.
      num_keys: T, the number of keys.
      score_scale: the standard deviation of scores of tokens with mean square 1 and cosine 0.
      variance: q, the mean square of a token.
      causal: whether row i has only the first i keys; the results are means over rows, with the
        approximation that a row's weights on the keys of a shorter one are independent of their
        sum.

    Returns:
      `AttentionMap`.

    Raises:
      TypeError, ValueError: correlation is not in [-1, 1]; num_keys isn't an integer >= 1;
        score_scale is not a finite number >= 0; variance is not a finite number above 0.

    Example:
      >>> after = attention_map(correlation=0.5, num_keys=64)
      >>> round(after.correlation, 2), round(after.weights.effective_keys)
      (0.99, 40)

    Reference:
      Giorlandino and Goldt 2025, "Two failure modes of deep transformers and how to avoid them",
      https://arxiv.org/abs/2505.24333, for many keys.
    """
    owner = "attention_map"
    c = _checked_correlation(owner, correlation)
    keys = checked_integer(owner, "num_keys", num_keys, minimum=1)
    scale = checked_number(owner, "score_scale", score_scale, minimum=0)
    q = checked_positive(owner, "variance", variance)
    return _attend(c, keys, scale, q, causal)


def transformer_map(
    num_blocks: int,
    num_keys: int,
    score_scale: float = 1.0,
    activation: Activation = "relu",
    value_variance: float = 1.0,
    weight_variance: float = 1.0,
    bias_variance: float = 0.0,
    residual: float = 1.0,
    norm: str = "pre",
    causal: bool = False,
    correlation: float = 0.0,
    variance: float = 1.0,
) -> TokenSignals:
    r"""Computes how alike tokens become from block to block of a transformer.

    A block adds attention and then an MLP of two kernels to the residual stream. Without
    normalization, with `q`, `p` of the stream and `q_n`, `p_n` of what a branch reads:

    .. math:: q \to a^2 q + v q' + b, \quad p \to a^2 p + v p' + b

    for attention with `q'`, `p'` of `attention_map`, and for the MLP

    .. math:: q \to a^2 q + w E[\phi(x)^2] + b, \quad p \to a^2 p + w E[\phi(x) \phi(y)] + b

    for normal `x`, `y` of variance :math:`w q_n + b` and covariance :math:`w p_n + b`.
    Normalization makes mean squares 1: of what each branch reads ('pre'), or of the stream after
    each addition ('post'). The layers are wide and the kernels independent.

    Args:
      num_blocks: the number of blocks.
      num_keys: T, the number of tokens of a sequence.
      score_scale: the standard deviation of scores of tokens with mean square 1 and cosine 0.
      activation: phi of the MLP, a function that acts on each number by itself, or a name in
        `jax.nn`.
      value_variance: v, the product of the variances times fan_in of the value and output kernels.
      weight_variance: w, the variance times fan_in of the MLP's two kernels.
      bias_variance: b, the variance of the biases of the MLP and of attention's output.
      residual: a, the factor of the residual stream.
      norm: 'pre' or 'post'.
      causal: whether token i reads only the first i tokens.
      correlation: the cosine of two tokens before the first block.
      variance: the mean square of a token before the first block; for 'post' it doesn't matter.

    Returns:
      `TokenSignals`, arrays of shape (num_blocks,).

    Raises:
      TypeError, ValueError: a number is not as above, activation isn't such a function or name, or
        norm is neither.

    Example:
      >>> signals = transformer_map(40, num_keys=512, norm="post")
      >>> signals.correlation[[9, 39]].round(2).tolist(), signals.alike_after(0.9)
      ([0.99, 1.0], 7)

    Reference:
      Giorlandino and Goldt 2025, "Two failure modes of deep transformers and how to avoid them",
      https://arxiv.org/abs/2505.24333, for ReLU, many keys and no mask.
    """
    owner = "transformer_map"
    blocks = checked_integer(owner, "num_blocks", num_blocks, minimum=0)
    keys = checked_integer(owner, "num_keys", num_keys, minimum=1)
    scale = checked_number(owner, "score_scale", score_scale, minimum=0)
    phi = named(owner, activation)
    v = checked_number(owner, "value_variance", value_variance, minimum=0)
    w = checked_number(owner, "weight_variance", weight_variance, minimum=0)
    b = checked_number(owner, "bias_variance", bias_variance, minimum=0)
    kept = checked_number(owner, "residual", residual) ** 2
    post = checked_choice(owner, "norm", norm, NORMS) == "post"
    c = _checked_correlation(owner, correlation)
    q = 1.0 if post else checked_positive(owner, "variance", variance)
    signals = np.empty((4, blocks))
    for block in range(blocks):
        read = _attend(c, keys, scale, 1.0, causal)
        q, c = _add(kept, q, c, v * read.variance + b, v * read.variance * read.correlation + b)
        if post:
            q = 1.0
        hidden = w + b
        shared = (w * c + b) / hidden if hidden > 0 else 1.0
        second = float(single(phi, hidden).second)
        product = second - pair(phi, hidden, min(1.0, shared)).gap
        q, c = _add(kept, q, c, w * second + b, w * product + b)
        if post:
            q = 1.0
        signals[:, block] = c, q, read.score_stddev, read.weights.effective_keys
    return TokenSignals(*signals)


def _add(kept: float, q: float, c: float, square: float, product: float) -> tuple[float, float]:
    """Mean square and cosine of the residual stream after a branch was added."""
    after = kept * q + square
    if not 0 < after < math.inf:
        raise ValueError(f"transformer_map: the variance of the tokens becomes {after:g}")
    return after, min(1.0, max(-1.0, (kept * q * c + product) / after))


def _attend(c: float, keys: int, scale: float, q: float, causal: bool) -> AttentionMap:
    gap = q * (1 - c)
    stddev = scale * math.sqrt(q * gap)
    weights = _weights(stddev, keys, causal)
    product = expected_product(stddev, keys, max(c, 0.0), causal)
    after = q * c + gap * weights.squares
    both = q * c + gap * min(product, weights.squares)
    cosine = min(1.0, max(-1.0, both / after)) if after > 0 else 1.0
    return AttentionMap(max(after, 0.0), cosine, stddev, weights)


def _weights(stddev: float, keys: int, causal: bool) -> AttentionWeights:
    squares, entropy = expected_weights(stddev, keys, causal)
    return AttentionWeights(squares, 1 / squares, entropy)


def _checked_correlation(owner: str, value: float) -> float:
    c = checked_number(owner, "correlation", value, minimum=-1)
    if c > 1:
        raise ValueError(f"{owner}: correlation must be at most 1, got {value!r}")
    return c
