"""Attention in an audit: what is recognized, what is measured, and what is judged."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.extend import core

import initjax
from initjax.auditing._reading.attention import attentions
from initjax.auditing._reading.inlined import inlined
from initjax.auditing._reading.trace import trace

EXAMPLES, TOKENS, WIDTH, HEADS = 4, 12, 16, 2
HEAD = WIDTH // HEADS


def _normal(key, *shape, gain=1.0):
    return jax.random.normal(key, shape) * (gain / shape[0]) ** 0.5


def _rms_norm(x):
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)


def _parameters(key, kv_heads=HEADS, gain=1.0):
    shapes = {"q": WIDTH, "k": HEAD * kv_heads, "v": HEAD * kv_heads, "o": WIDTH}
    keys = jax.random.split(key, len(shapes))
    gains = {"q": gain, "k": gain}
    return {
        name: _normal(key, WIDTH, size, gain=gains.get(name, 1.0))
        for key, (name, size) in zip(keys, shapes.items(), strict=True)
    }


def _heads(params, x):
    return [(x @ params[name]).reshape(*x.shape[:-1], -1, HEAD) for name in "qkv"]


def _attend(weigh, params, x):
    q, k, v = _heads(params, x)
    scores = jnp.einsum("...thd,...shd->...hts", q, k) / HEAD**0.5
    return jnp.einsum("...hts,...shd->...thd", weigh(scores), v).reshape(x.shape)


def _causal(scores):
    return jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -1e9)


def _by_hand(scores):
    powers = jnp.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _alibi(scores):
    distance = jnp.abs(jnp.arange(TOKENS)[:, None] - jnp.arange(TOKENS))
    return jax.nn.softmax(scores - distance / jnp.array([2.0, 4.0])[:, None, None])


def _dropped(scores):
    kept = jax.random.bernoulli(jax.random.key(7), 0.9, scores.shape)
    weights = jax.nn.softmax(scores.astype(jnp.float32))
    return jnp.where(kept, weights / 0.9, 0).astype(scores.dtype)


def _with_sink(scores):
    sink = jnp.zeros((*scores.shape[:-1], 1))
    return jax.nn.softmax(jnp.concatenate([_causal(scores), sink], -1))[..., :-1]


def _in_windows(scores):
    """Swin masks after a reshape, and reshapes again."""
    windows = scores.reshape(-1, 2, *scores.shape[1:]) - 100 * (jnp.arange(TOKENS) > 7)
    return jax.nn.softmax(windows.reshape(scores.shape))


def _talking_heads(scores):
    mix = jnp.array([[1.0, 0.5], [-0.5, 1.0]])
    return jnp.einsum("bhts,hg->bgts", jax.nn.softmax(scores), mix)


WEIGH = {
    "softmax": jax.nn.softmax,
    "causal": lambda scores: jax.nn.softmax(_causal(scores)),
    "by hand": _by_hand,
    "log_softmax": lambda scores: jnp.exp(jax.nn.log_softmax(scores)),
    "masked later": lambda scores: jax.nn.softmax(
        scores, where=jnp.tril(jnp.ones((TOKENS, TOKENS), bool))
    ),
    "capped": lambda scores: jax.nn.softmax(_causal(5 * jnp.tanh(scores / 5))),
    "ALiBi": _alibi,
    "dropout": _dropped,
    "sink": _with_sink,
    "windows": _in_windows,
    "talking heads": _talking_heads,
}


def _rope_and_norm(params, x):
    q, k, v = _heads(params, x)
    angle = jnp.arange(TOKENS)[:, None, None] * jnp.array([1.0, 0.1, 0.01, 1e-3])
    cos, sin = jnp.cos(angle), jnp.sin(angle)

    def rotated(z):
        a, b = jnp.split(_rms_norm(z), 2, axis=-1)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    return jax.nn.dot_product_attention(rotated(q), rotated(k), v, is_causal=True).reshape(x.shape)


def _grouped(params, x):
    q, k, v = _heads(params, x)
    q = q.reshape(*q.shape[:2], k.shape[2], -1, HEAD)
    scores = jnp.einsum("btkgd,bskd->bkgts", q, k) / HEAD**0.5
    return jnp.einsum("bkgts,bskd->btkgd", jax.nn.softmax(scores), v).reshape(x.shape)


def _example_by_example(params, x):
    return jax.vmap(jax.checkpoint(functools.partial(_attend, jax.nn.softmax, params)))(x)


def _unnormalized(params, x):
    q, k, v = _heads(params, x)
    powers = jnp.exp(jnp.einsum("bthd,bshd->bhts", q, k) / HEAD**0.5)
    sums = powers.sum(-1).transpose(0, 2, 1)[..., None]
    return (jnp.einsum("bhts,bshd->bthd", powers, v) / sums).reshape(x.shape)


def _additive(params, x):
    hidden = jnp.tanh((x @ params["k"])[:, None] + (x @ params["q"])[:, :, None])
    return jax.nn.softmax((hidden @ params["o"][:, :1])[..., 0]) @ (x @ params["v"])


def _pooling(params, x):
    h = jnp.tanh(x @ params["k"])
    return (jax.nn.softmax(h @ params["o"][:, :1], axis=1) * h).sum(1, keepdims=True)


def _latents(params, x):
    q, k, v = (
        (tokens @ params[name]).reshape(*tokens.shape[:-1], HEADS, HEAD)
        for name, tokens in (("q", params["o"]), ("k", x), ("v", x))
    )
    scores = jnp.einsum("thd,bshd->bhts", q, k) / HEAD**0.5
    mixed = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v)
    return mixed.reshape(len(x), WIDTH, WIDTH)


MIX = {
    **{name: functools.partial(_attend, weigh) for name, weigh in WEIGH.items()},
    "RoPE and QK normalization": _rope_and_norm,
    "grouped heads": _grouped,
    "vmap and remat": _example_by_example,
    "normalized later": _unnormalized,
    "additive": _additive,
    "pooling": _pooling,
    "latent queries": _latents,
}


def _loss_of(mix):
    def loss_fn(params, x):
        return jnp.square(mix(params, x)).mean()

    return loss_fn


def _found(loss_fn, params, *batch):
    traced = trace("audit", loss_fn, params, batch, False)
    program = core.ClosedJaxpr(traced.jaxpr, traced.constants)
    sites = traced.anatomy.sites
    found = attentions(inlined(program, len(traced.shapes)), sites)

    def names(paths):
        return {traced.names[source.leaf] for path in paths for source in sites[path].sources}

    return [(each, *map(names, (each.site.query_sites, each.site.key_sites))) for each in found]


@pytest.mark.parametrize("name", MIX)
def test_attention_is_recognized_however_it_is_written(name, key):
    params = _parameters(key, 1 if name == "grouped heads" else HEADS)
    x = jax.random.normal(key, (EXAMPLES, TOKENS, WIDTH))
    ((found, queries, keys),) = _found(_loss_of(MIX[name]), params, x)
    products = name not in ("additive", "pooling", "latent queries")
    assert queries == ({"q"} if products else set())
    assert keys == ({"k", "q"} if name == "additive" else {"k"})
    assert found.tokens is not None
    assert found.tokens.value.shape[-1] == WIDTH  # what the layer of the keys reads
    biased = name in (
        "windows",
        "causal",
        "ALiBi",
        "capped",
        "masked later",
        "RoPE and QK normalization",
    )
    assert (found.content is not found.scores) == biased


def _router(params, x):
    gates = jax.nn.softmax(x @ params["q"])
    experts = jax.nn.relu(jnp.einsum("btd,ed->bte", x, params["k"]))
    return jnp.einsum("bte,bted->btd", gates, experts[..., None] * x[:, :, None])


def _contrastive(params, x):
    one, other = x[:, 0] @ params["q"], x[:, 1] @ params["k"]
    return jnp.diag(jax.nn.log_softmax(one @ other.T))


def _codebook(params, x):
    return jax.nn.softmax(x @ params["q"]) @ params["v"]


@pytest.mark.parametrize("mix", [_router, _contrastive, _codebook])
def test_other_softmaxes_are_no_attention(mix, key):
    x = jax.random.normal(key, (EXAMPLES, TOKENS, WIDTH))
    assert not _found(_loss_of(mix), _parameters(key), x)


def test_statistics_are_those_of_the_attention(key):
    params = _parameters(key)
    x = jax.random.normal(key, (8, TOKENS, WIDTH)) + 0.5
    loss_fn = _loss_of(functools.partial(_attend, lambda s: jax.nn.softmax(_causal(s))))
    (found,) = initjax.audit(loss_fn, params, x).attention
    q, k, v = _heads(params, x)
    scores = np.asarray(jnp.einsum("bthd,bshd->bhts", q, k) / HEAD**0.5)
    weights = np.asarray(jax.nn.softmax(_causal(scores)))
    rows = range(1, TOKENS)
    variance = np.mean([scores[..., row, : row + 1].var(-1) for row in rows])
    np.testing.assert_allclose(found.score_stddev, variance**0.5, rtol=1e-4)
    squares = np.square(weights)[..., 1:, :].sum(-1).mean()
    np.testing.assert_allclose(found.effective_keys, 1 / squares, rtol=1e-4)
    np.testing.assert_allclose(found.keys, 1 / np.mean([1 / (row + 1) for row in rows]), rtol=1e-4)

    def cosine(tokens):  # (..., tokens, features)
        units = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
        gram = units @ np.swapaxes(units, -2, -1)
        return (gram.sum((-2, -1)) - TOKENS).mean() / (TOKENS * (TOKENS - 1))

    np.testing.assert_allclose(found.token_correlation, cosine(np.asarray(x)), atol=1e-4)
    mixed = np.einsum("bhts,bshd->bhtd", weights, np.asarray(v))
    np.testing.assert_allclose(found.correlation, cosine(mixed), atol=1e-4)
    assert found.parameters[0].path == "q" and found.parameters[1].path == "k"


@pytest.mark.parametrize("weigh", [_in_windows, _with_sink])
def test_masks_do_not_count_as_scores(weigh, key):
    x = jax.random.normal(key, (8, TOKENS, WIDTH))
    report = initjax.audit(_loss_of(functools.partial(_attend, weigh)), _parameters(key), x)
    (found,) = report.attention
    assert found.score_stddev < 1.3 and found.keys < 9
    assert not any(finding.cause.startswith("attention") for finding in report.findings)


def test_theory_predicts_what_queries_read(key):
    x = jax.random.normal(key, (64, 32, WIDTH))
    for gain in (0.1, 1, 9):
        params = _parameters(key, gain=gain)
        loss_fn = _loss_of(functools.partial(_attend, jax.nn.softmax))
        (found,) = initjax.audit(loss_fn, params, x).attention
        assert found.predicted_effective_keys == pytest.approx(found.effective_keys, rel=0.15)
        assert found.predicted_correlation == pytest.approx(found.correlation, abs=0.12)


def _transformer(params, x, *, skip=1.0, scale=HEAD**-0.5):
    def block(x, params):
        q, k, v = _heads(params, _rms_norm(x))
        scores = scale * jnp.einsum("bthd,bshd->bhts", q, k)
        mixed = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v)
        return skip * x + mixed.reshape(x.shape) @ params["o"], None

    x, _ = jax.lax.scan(block, x, params["blocks"])
    return jnp.square(_rms_norm(x)[:, 0] @ params["head"] - 1).mean()


def _stacked(key, blocks=6, gain=1.0):
    keys = jax.random.split(key, blocks)
    return {
        "blocks": jax.vmap(lambda key: _parameters(key, gain=gain))(keys),
        "head": _normal(key, WIDTH, 1),
    }


@pytest.mark.parametrize(
    ("cause", "options", "gain", "remedy"),
    [
        (None, {}, 1, ""),
        (None, {}, 0.01, ""),  # as GPT-2, which starts with even weights
        ("attention_uniform", {"skip": 0.0}, 1, "x + attention(norm(x))"),
        ("attention_one_hot", {"scale": 1.5}, 4, "sqrt(8) = 2.83"),
        ("attention_one_hot", {}, 16, "lecun_normal"),
    ],
)
def test_only_attention_that_does_harm_is_at_fault(cause, options, gain, remedy, key):
    params, x = _stacked(key, gain=gain), jax.random.normal(key, (64, TOKENS, WIDTH))
    report = initjax.audit(functools.partial(_transformer, **options), params, x)
    assert len(report.attention) == 6 and report.attention[2].name == "blocks[2]"
    found = [finding for finding in report.findings if finding.cause.startswith("attention")]
    assert [finding.cause for finding in found] == ([cause] if cause else [])
    if cause:
        assert remedy in found[0].remedy and "blocks" in found[0].message
        uniform = cause == "attention_uniform"
        assert ("expects this from blocks[3] on" in found[0].message) == uniform
        marked = [line for line in str(report).splitlines() if line[:1] in "!x" and "[5]" in line]
        assert any("blocks[5]" in line for line in marked)  # in the table of attentions


def _blocks(params, x, *, post, gated=False, shifted=False):
    for block in params["blocks"]:
        norm = (lambda x: x) if post else _rms_norm
        add = _rms_norm if post else (lambda x: x)
        x = add(x + _attend(jax.nn.softmax, block, norm(x)) @ block["o"])
        h = norm(x)
        gate = h @ block["gate"] if gated else 1.0
        x = add(x + (jax.nn.gelu(h @ block["up"]) * gate) @ block["down"])
        if shifted:
            x = x + block["shift"]
    return jnp.square(x.mean(1) - 1).mean()


def _token_cosines(key, **options):
    def block(key):
        keys = jax.random.split(key, 4)
        return {
            **_parameters(keys[0]),
            "up": _normal(keys[1], WIDTH, 4 * WIDTH),
            "gate": _normal(keys[2], WIDTH, 4 * WIDTH),
            "down": _normal(keys[3], 4 * WIDTH, WIDTH),
            "shift": jnp.zeros(TOKENS)[:, None],
        }

    params = {"blocks": [block(key) for key in jax.random.split(key, 4)]}
    x = 0.3 * jax.random.normal(key, (16, TOKENS, WIDTH))
    found = initjax.audit(functools.partial(_blocks, **options), params, x).attention
    names = ("token_correlation", "predicted_token_correlation")
    return [np.array([getattr(each, name) for each in found]) for name in names]


@pytest.mark.parametrize("options", [{"post": False, "gated": True}, {"post": True}])
def test_theory_predicts_through_blocks_how_alike_tokens_become(options, key):
    measured, predicted = _token_cosines(key, **options)
    assert np.isnan(predicted[0]) and measured[-1] - measured[0] > 0.3
    np.testing.assert_allclose(predicted[1:], measured[1:], atol=0.1)


def test_predictions_restart_where_something_unread_comes_between(key):
    _, predicted = _token_cosines(key, post=False, shifted=True)
    assert np.isnan(predicted).all()


def test_small_scores_are_no_vanishing_gradient(key):
    names = jax.random.split(key, 7)
    shapes = {**dict.fromkeys("qkvo", (WIDTH, WIDTH)), "up": (WIDTH, WIDTH), "down": (WIDTH, WIDTH)}
    params = {
        name: _normal(key, *shape, gain=0.005 if name in "qkvo" else 1.0)
        for key, (name, shape) in zip(names, shapes.items(), strict=False)
    }
    params["head"] = _normal(names[-1], WIDTH, 1)

    def loss_fn(params, x):
        x = x + _attend(jax.nn.softmax, params, _rms_norm(x)) @ params["o"]
        x = x + jax.nn.gelu(_rms_norm(x) @ params["up"]) @ params["down"]
        return jnp.square(_rms_norm(x).mean(1) @ params["head"] - 1).mean()

    x = jax.random.normal(key, (64, TOKENS, WIDTH))
    assert initjax.audit(loss_fn, params, x).verdict == "ok"


class _Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        mask = nn.make_causal_mask(x[..., 0])
        return x + nn.MultiHeadDotProductAttention(num_heads=HEADS)(nn.LayerNorm()(x), mask=mask)


class _Equinox(eqx.Module):
    attention: eqx.nn.MultiheadAttention

    def __call__(self, x):
        return jax.vmap(lambda x: self.attention(x, x, x))(x)


def test_attention_of_flax_and_equinox_is_read(key):
    x = jax.random.normal(key, (EXAMPLES, TOKENS, WIDTH))
    linen = _Linen()
    module = nnx.MultiHeadAttention(
        num_heads=HEADS, in_features=WIDTH, decode=False, rngs=nnx.Rngs(0)
    )
    models: list[tuple[Any, Any]] = [
        (linen.apply, linen.init(key, x)),
        (lambda model, x: model(x), module),
        (lambda model, x: model(x), _Equinox(eqx.nn.MultiheadAttention(HEADS, WIDTH, key=key))),
    ]
    for mix, params in models:
        ((found, queries, keys),) = _found(_loss_of(mix), params, x)
        assert found.tokens is not None and found.tokens.value.shape == x.shape
        assert "query" in queries.pop() and "key" in keys.pop()


def _long(params, x):
    z = x @ params["q"]
    for _ in range(200):
        z = z + 0.01 * jnp.sin(z)
    return jax.nn.softmax(z) @ params["v"]


def _masked_often(params, x):
    powers = jnp.exp(x @ params["q"])
    for _ in range(40):
        powers = powers * powers
    return powers / powers.sum(-1, keepdims=True) @ params["v"]


@pytest.mark.parametrize("mix", [_long, _masked_often])
def test_reading_takes_no_longer_where_values_enter_twice_at_every_step(mix, key):
    x = jax.random.normal(key, (EXAMPLES, TOKENS, WIDTH))
    assert not _found(_loss_of(mix), _parameters(key), x)


def _in_no_turn(params, x):
    no_turn = jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape)), params)
    attend = functools.partial(_attend, jax.nn.softmax)
    return x @ params["o"] + jax.lax.scan(lambda x, p: (attend(p, x), None), x, no_turn)[0]


def test_attention_that_never_runs_has_no_row(key):
    x = jax.random.normal(key, (EXAMPLES, TOKENS, WIDTH))
    assert not initjax.audit(_loss_of(_in_no_turn), _parameters(key), x).attention


def test_tokens_that_are_not_measured_are_not_compared_with_later_ones(key):
    def mix(params, x):
        q, k, v = (x @ params[name] for name in "qkv")
        x = jax.nn.softmax((q[:, :, None] * k[:, None]).sum(-1)) @ v
        return _attend(jax.nn.softmax, params, x.mean(1, keepdims=True) + 1e-3 * x)

    x = jax.random.normal(key, (EXAMPLES, TOKENS, WIDTH))
    report = initjax.audit(_loss_of(mix), _parameters(key), x)
    first, second = report.attention
    assert np.isnan(first.token_correlation) and second.token_correlation > 0.999
    assert "attention_uniform" not in [finding.cause for finding in report.findings]


def test_a_ratio_of_gradients_needs_layers(key):
    def loss_fn(params, x):
        weights = jax.nn.softmax((x * params["scale"]) @ x.mT)
        return jnp.square(weights @ x @ params["o"]).mean()

    x = jax.random.normal(key, (EXAMPLES, TOKENS, WIDTH))
    params = {"scale": jnp.ones(WIDTH), "o": _normal(key, WIDTH, WIDTH)}
    (found,) = initjax.audit(loss_fn, params, x).attention
    assert np.isnan(found.gradient_ratio)
