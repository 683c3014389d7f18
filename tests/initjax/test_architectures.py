"""The rules to paste for architectures in use, from the README, on small models of them in Flax.

Every rule must match, every parameter must have one, and an audit finds nothing wrong.
"""

import functools
import pathlib
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import initjax
from initjax._flattening import paths

README = pathlib.Path(initjax.__file__).with_name("README.md").read_text()
SECTION = README.partition("## Rules to paste")[2].partition("\n## ")[0]
RULES: dict[str, Any] = {}
exec("".join(re.findall(r"^```python\n(.*?)^```$", SECTION, re.M | re.S)), RULES)
LAYERS, WIDTH, HEADS = RULES["layers"], RULES["width"], RULES["heads"]

LayerNorm, RMSNorm = nn.LayerNorm, nn.RMSNorm
Layer = functools.partial(nn.Dense, use_bias=False)


class Block(nn.Module):
    """A layer of a transformer before whose branches the stream is normalized."""

    norm: Any
    use_bias: bool
    causal: bool = False
    gated: bool = False

    @nn.compact
    def __call__(self, x):
        y = self.norm()(x)
        mask = nn.make_causal_mask(y[..., 0]) if self.causal else None
        x += nn.MultiHeadDotProductAttention(HEADS, use_bias=self.use_bias, name="attention")(
            y, y, mask=mask
        )
        y = self.norm()(x)
        dense = functools.partial(nn.Dense, use_bias=self.use_bias)
        hidden = dense(4 * WIDTH, name="up")(y)
        hidden = (
            nn.silu(dense(4 * WIDTH, name="gate")(y)) * hidden if self.gated else nn.gelu(hidden)
        )
        return x + dense(WIDTH, name="down")(hidden)


class ViT(nn.Module):
    @nn.compact
    def __call__(self, images):
        x = nn.Conv(WIDTH, (4, 4), (4, 4), name="embedding")(images).reshape(len(images), -1, WIDTH)
        x = jnp.concatenate(
            [jnp.tile(self.param("cls", nn.initializers.zeros, (1, 1, WIDTH)), (len(x), 1, 1)), x],
            1,
        )
        x += self.param("pos_embedding", nn.initializers.zeros, (1, *x.shape[1:]))
        for i in range(LAYERS):
            x = Block(LayerNorm, True, name=f"layers_{i}")(x)
        return nn.Dense(10, name="head")(LayerNorm()(x)[:, 0])


class GPT2(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(VOCABULARY, WIDTH, name="wte")
        x = embed(tokens) + nn.Embed(tokens.shape[1], WIDTH, name="wpe")(
            jnp.arange(tokens.shape[1])
        )
        for i in range(LAYERS):
            x = Block(LayerNorm, True, causal=True, name=f"h_{i}")(x)
        return embed.attend(LayerNorm(name="ln_f")(x))


class Llama(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(VOCABULARY, WIDTH)(tokens)
        for i in range(LAYERS):
            x = Block(RMSNorm, False, causal=True, gated=True, name=f"layers_{i}")(x)
        return Layer(VOCABULARY, name="lm_head")(RMSNorm()(x))


class T5Layer(nn.Module):
    """A layer of an encoder, whose attention doesn't divide by the root of the head's width."""

    @nn.compact
    def __call__(self, x, bias):
        project = functools.partial(nn.DenseGeneral, use_bias=False)
        names = ("query", "key", "value")
        y = RMSNorm()(x)
        q, k, v = (project((HEADS, WIDTH // HEADS), name=name)(y) for name in names)
        weights = nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias)
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        x += project(WIDTH, axis=(-2, -1), name="out")(y)
        y = RMSNorm()(x)
        y = nn.gelu(Layer(4 * WIDTH, name="wi_0")(y)) * Layer(4 * WIDTH, name="wi_1")(y)
        return x + Layer(WIDTH, name="wo")(y)


class T5(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(VOCABULARY, WIDTH, name="token_embedder")(tokens)
        size = tokens.shape[1]
        near = self.param("rel_embedding", nn.initializers.zeros, (HEADS, size))
        bias = near[:, abs(jnp.arange(size)[:, None] - jnp.arange(size))]
        for i in range(LAYERS):
            x = T5Layer(name=f"layers_{i}")(x, bias)
        return Layer(VOCABULARY, name="logits_dense")(RMSNorm()(x))


class MambaBlock(nn.Module):
    states: int = 8
    rank: int = 4

    @nn.compact
    def __call__(self, x):
        inner = 2 * WIDTH
        x, z = jnp.split(Layer(2 * inner, name="in_proj")(x), 2, -1)
        conv = nn.Conv(inner, (4,), padding="CAUSAL", feature_group_count=inner, name="conv1d")
        x = nn.silu(conv(x))
        projected = Layer(self.rank + 2 * self.states, name="x_proj")(x)
        dt, b, c = jnp.split(projected, [self.rank, self.rank + self.states], -1)
        dt = nn.softplus(nn.Dense(inner, name="dt_proj")(dt))
        a = -jnp.exp(self.param("A_log", nn.initializers.zeros, (inner, self.states)))
        decay = jnp.exp(dt[..., None] * a)
        step = (dt * x)[..., None] * b[..., None, :]

        def advance(state, inputs):
            decay, step, c = inputs
            state = decay * state + step
            return state, jnp.einsum("bdn,bn->bd", state, c)

        start = jnp.zeros((len(x), inner, self.states))
        inputs = [jnp.moveaxis(array, 1, 0) for array in (decay, step, c)]
        _, y = jax.lax.scan(advance, start, inputs)
        y = jnp.moveaxis(y, 0, 1) + self.param("D", nn.initializers.zeros, (inner,)) * x
        return Layer(WIDTH, name="out_proj")(y * nn.silu(z))


class Mamba(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(VOCABULARY, WIDTH)
        x = embed(tokens)
        for _ in range(LAYERS):
            x += MambaBlock()(RMSNorm()(x))
        return embed.attend(RMSNorm()(x))


PLAIN_NORM = functools.partial(LayerNorm, use_bias=False, use_scale=False)


class DiTBlock(nn.Module):
    @nn.compact
    def __call__(self, x, c):
        modulation = nn.Dense(6 * WIDTH, name="adaLN_modulation")(nn.silu(c))[:, None]
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = jnp.split(modulation, 6, -1)
        y = nn.Dense(3 * WIDTH, name="qkv")(PLAIN_NORM()(x) * (1 + scale) + shift)
        q, k, v = (heads_of(part) for part in jnp.split(y, 3, -1))
        x += gate * nn.Dense(WIDTH)(nn.dot_product_attention(q, k, v).reshape(x.shape))
        y = nn.Dense(4 * WIDTH)(PLAIN_NORM()(x) * (1 + mlp_scale) + mlp_shift)
        return x + mlp_gate * nn.Dense(WIDTH)(nn.gelu(y))


class TimeEmbedder(nn.Module):
    @nn.compact
    def __call__(self, times):
        angles = times[:, None] * 1e4 ** -(jnp.arange(32) / 32)
        c = nn.Dense(WIDTH)(jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1))
        return nn.Dense(WIDTH)(nn.silu(c))


class DiT(nn.Module):
    """Predicts the noise in each patch."""

    @nn.compact
    def __call__(self, images, times, labels):
        x = nn.Conv(WIDTH, (4, 4), (4, 4), name="x_embedder")(images)
        x = x.reshape(len(images), -1, WIDTH)
        c = TimeEmbedder(name="t_embedder")(times) + nn.Embed(10, WIDTH, name="y_embedder")(labels)
        angles = jnp.arange(x.shape[1])[:, None] * 1e4 ** -(2 * jnp.arange(WIDTH // 2) / WIDTH)
        x += jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
        for i in range(LAYERS):
            x = DiTBlock(name=f"blocks_{i}")(x, c)
        modulation = nn.Dense(2 * WIDTH, name="adaLN_modulation")(nn.silu(c))[:, None]
        shift, scale = jnp.split(modulation, 2, -1)
        return nn.Dense(16, name="final_layer")(PLAIN_NORM()(x) * (1 + scale) + shift)


class ConvNeXt(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = LayerNorm()(nn.Conv(WIDTH, (4, 4), (4, 4))(x))
        for i in range(LAYERS):
            y = nn.Conv(WIDTH, (7, 7), feature_group_count=WIDTH)(x)
            y = nn.Dense(WIDTH)(nn.gelu(nn.Dense(4 * WIDTH)(LayerNorm()(y))))
            x += self.param(f"gamma_{i}", nn.initializers.zeros, (WIDTH,)) * y
        return nn.Dense(10, name="head")(LayerNorm()(x.mean((1, 2))))


class ActorCritic(nn.Module):
    @nn.compact
    def __call__(self, observations):
        trunks = []
        for _ in range(2):
            h = nn.tanh(nn.Dense(WIDTH)(observations))
            trunks.append(nn.tanh(nn.Dense(WIDTH)(h)))
        mean = nn.Dense(3, name="policy")(trunks[0])
        log_std = self.param("log_std", nn.initializers.zeros, (3,))
        return mean, log_std, nn.Dense(1, name="value")(trunks[1])[:, 0]


class Discriminator(nn.Module):
    """DCGAN's, on images of 16 x 16."""

    @nn.compact
    def __call__(self, x):
        x = nn.leaky_relu(nn.Conv(32, (4, 4), (2, 2), use_bias=False)(x), 0.2)
        x = nn.Conv(64, (4, 4), (2, 2), use_bias=False)(x)
        x = nn.leaky_relu(nn.BatchNorm(use_running_average=False)(x), 0.2)
        return nn.Conv(1, (4, 4), padding="VALID", use_bias=False)(x).reshape(len(x))


class Siren(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = jnp.sin(30 * nn.Dense(WIDTH)(x))
        return nn.Dense(1)(x)[:, 0]


class Adapted(nn.Module):
    """A frozen kernel with an adapter beside it, as in `nnx.LoRALinear`."""

    features: int

    @nn.compact
    def __call__(self, x):
        shape = (x.shape[-1], self.features)
        kernel = initjax.he_normal()(jax.random.key(self.features), shape)
        a = self.param("lora_a", nn.initializers.zeros, (shape[0], RULES["rank"]))
        b = self.param("lora_b", nn.initializers.zeros, (RULES["rank"], shape[1]))
        return x @ kernel + x @ a @ b


class LoRA(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        return Adapted(10)(nn.relu(Adapted(WIDTH)(nn.relu(Adapted(2 * WIDTH)(x)))))


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def heads_of(x):
    return x.reshape(*x.shape[:2], HEADS, -1)


def causal_attention(q, k, v, scale):
    """Attention whose logits are multiplied by a scale."""
    mask = nn.make_causal_mask(q[..., 0, 0])
    return nn.dot_product_attention(q * scale * q.shape[-1] ** 0.5, k, v, mask=mask).reshape(
        *q.shape[:2], -1
    )


class NGPTBlock(nn.Module):
    """Its scaling parameters are stored times width**-0.5."""

    @nn.compact
    def __call__(self, x):
        def stored(name, size, value):
            return self.param(name, nn.initializers.zeros, (size,)) * value * WIDTH**0.5

        q, k, v = (heads_of(Layer(WIDTH, name=name)(x)) for name in ("query", "key", "value"))
        sqk = stored("sqk", WIDTH, 1.0).reshape(HEADS, -1)
        y = causal_attention(sqk * unit(q), sqk * unit(k), v, (WIDTH / HEADS) ** 0.5)
        y = unit(Layer(WIDTH, name="out")(y))
        x = unit(x + jnp.abs(stored("attn_alpha", WIDTH, 0.05)) * (y - x))
        suv = self.param("suv", nn.initializers.zeros, (8 * WIDTH,)) * WIDTH**0.5
        u, v = jnp.split(suv * Layer(8 * WIDTH, name="up")(x), 2, -1)
        y = unit(Layer(WIDTH, name="down")(u * nn.silu(v)))
        return unit(x + jnp.abs(stored("mlp_alpha", WIDTH, 0.05)) * (y - x))


class NGPT(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(VOCABULARY, WIDTH)(tokens)
        for i in range(LAYERS):
            x = NGPTBlock(name=f"layers_{i}")(x)
        sz = self.param("sz", nn.initializers.zeros, (VOCABULARY,)) * WIDTH**0.5
        return sz * Layer(VOCABULARY, name="lm_head")(x)


class NanochatBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        names = ("c_q", "c_k", "c_v")
        q, k, v = (heads_of(Layer(WIDTH, name=name)(PLAIN_RMS_NORM()(x))) for name in names)
        q, k = 1.2 * PLAIN_RMS_NORM()(q), 1.2 * PLAIN_RMS_NORM()(k)
        x += Layer(WIDTH, name="c_proj")(causal_attention(q, k, v, (WIDTH / HEADS) ** -0.5))
        y = nn.relu(Layer(4 * WIDTH, name="c_fc")(PLAIN_RMS_NORM()(x))) ** 2
        return x + Layer(WIDTH, name="c_proj_mlp")(y)


PLAIN_RMS_NORM = functools.partial(RMSNorm, use_scale=False)


class Nanochat(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        start = x = PLAIN_RMS_NORM()(nn.Embed(VOCABULARY, WIDTH, name="wte")(tokens))
        names = ("resid_lambdas", "x0_lambdas")
        residual, skip = (self.param(name, nn.initializers.zeros, (LAYERS,)) for name in names)
        for i in range(LAYERS):
            x = NanochatBlock(name=f"h_{i}")(residual[i] * x + skip[i] * start)
        return Layer(VOCABULARY, name="lm_head")(PLAIN_RMS_NORM()(x))


VOCABULARY, ROWS = 32, 64
TOKENS = jax.random.randint(jax.random.key(1), (ROWS, 8), 0, VOCABULARY)
IMAGES = jax.random.normal(jax.random.key(2), (ROWS, 16, 16, 1))
LABELS = jax.random.randint(jax.random.key(3), (ROWS,), 0, 10)
NOISE = jax.random.normal(jax.random.key(4), (ROWS, 16, 16))
POINTS = jax.random.uniform(jax.random.key(5), (256, 2), minval=-1)


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def next_token(logits, tokens):
    return cross_entropy(logits[:, :-1], tokens[:, 1:])


def square(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def actor_critic_loss(outputs, actions, returns):
    mean, log_std, value = outputs
    log_probability = -((actions - mean) ** 2) / 2 * jnp.exp(-2 * log_std) - log_std
    return -jnp.mean(returns[:, None] * log_probability) + square(value, returns)


# By the name of the rules: a model, its inputs, and the loss of its outputs.
MODELS = {
    "vit": (ViT(), (IMAGES,), lambda y: cross_entropy(y, LABELS)),
    "gpt2": (GPT2(), (TOKENS,), lambda y: next_token(y, TOKENS)),
    "gpt_neox": (GPT2(), (TOKENS,), lambda y: next_token(y, TOKENS)),
    "llama": (Llama(), (TOKENS,), lambda y: next_token(y, TOKENS)),
    "t5": (T5(), (TOKENS,), lambda y: cross_entropy(y, TOKENS)),
    "mamba": (Mamba(), (TOKENS,), lambda y: next_token(y, TOKENS)),
    "ngpt": (NGPT(), (TOKENS,), lambda y: next_token(y, TOKENS)),
    "nanochat": (Nanochat(), (TOKENS,), lambda y: next_token(y, TOKENS)),
    "dit": (DiT(), (IMAGES, jnp.arange(ROWS) / ROWS, LABELS), lambda y: square(y, NOISE)),
    "convnext": (ConvNeXt(), (IMAGES,), lambda y: cross_entropy(y, LABELS)),
    "actor_critic": (
        ActorCritic(),
        (IMAGES[:, 0, :, 0],),
        lambda y: actor_critic_loss(y, NOISE[:, 0, :3], NOISE[:, 1, 0]),
    ),
    "gan": (
        Discriminator(),
        (jnp.tanh(IMAGES),),
        lambda y: optax.sigmoid_binary_cross_entropy(y, LABELS % 2).mean(),
    ),
    "siren_net": (Siren(), (POINTS,), lambda y: square(y, jnp.sin(5 * POINTS).sum(-1))),
    "lora": (LoRA(), (IMAGES,), lambda y: cross_entropy(y, LABELS)),
}


# Standard deviations in the sources, by rules and the end of a path.
STDDEVS = {
    ("vit", "query/kernel"): (2 / (WIDTH + WIDTH)) ** 0.5,
    ("vit", "out/kernel"): (2 / (WIDTH + WIDTH)) ** 0.5,
    ("vit", "up/kernel"): (2 / (WIDTH + 4 * WIDTH)) ** 0.5,
    ("gpt2", "h_1/down/kernel"): 0.02 / (2 * LAYERS) ** 0.5,
    ("gpt_neox", "h_1/up/kernel"): (2 / (5 * WIDTH)) ** 0.5,
    ("gpt_neox", "h_0/down/kernel"): 2 / (LAYERS * WIDTH**0.5),
    ("llama", "lm_head/kernel"): 0.986578 * WIDTH**-0.5,  # a unit normal truncated at 3
    ("llama", "layers_0/attention/out/kernel"): 0.02 / 2**0.5,
    ("llama", "layers_1/up/kernel"): 0.02 / 4**0.5,
    ("llama", "layers_1/gate/kernel"): 0.02,
    ("t5", "query/kernel"): (WIDTH * WIDTH / HEADS) ** -0.5,
    ("t5", "out/kernel"): WIDTH**-0.5,
    ("mamba", "in_proj/kernel"): (3 * WIDTH) ** -0.5,
    ("mamba", "out_proj/kernel"): (3 * 2 * WIDTH * LAYERS) ** -0.5,
    ("ngpt", "down/kernel"): WIDTH**-0.5,
    ("nanochat", "c_q/kernel"): WIDTH**-0.5,
    ("nanochat", "c_fc/kernel"): 0.4 * WIDTH**-0.5,
    ("dit", "x_embedder/kernel"): (2 / (16 + WIDTH)) ** 0.5,
    ("dit", "qkv/kernel"): (2 / (WIDTH + 3 * WIDTH)) ** 0.5,
    ("convnext", "Conv_0/kernel"): 0.02,
    ("actor_critic", "Dense_3/kernel"): 2**0.5 * WIDTH**-0.5,
    ("lora", "Adapted_1/lora_a"): (3 * 2 * WIDTH) ** -0.5,
}


@functools.cache
def drawn(name):
    """A model's variables by the rules, and the function from its parameters to the loss."""
    key = jax.random.key(0)
    model, inputs, loss = MODELS[name]
    shapes = dict(jax.eval_shape(model.init, key, *inputs))
    shapes.pop("batch_stats", None)
    params = jax.jit(lambda key: initjax.initialize(shapes, key, RULES[name]))(key)

    def loss_fn(params, *inputs):
        outputs, _ = model.apply(params, *inputs, mutable=["batch_stats"])
        return loss(outputs)

    return params, loss_fn, inputs


@pytest.mark.parametrize("name", MODELS)
def test_a_model_drawn_by_the_rules_is_healthy_and_learns(name):
    params, loss_fn, inputs = drawn(name)
    leaves = dict(zip(paths(params), jax.tree.leaves(params), strict=True))
    for (rules, end), stddev in STDDEVS.items():
        if rules == name:
            kernel = next(leaf for path, leaf in leaves.items() if path.endswith(end))
            assert np.std(kernel) == pytest.approx(stddev, rel=0.1), end
    report = initjax.audit(loss_fn, params, *inputs)
    assert report.verdict == "ok", str(report)
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params, state):
        loss, gradients = jax.value_and_grad(loss_fn)(params, *inputs)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, loss

    state, losses = optimizer.init(params), []
    for _ in range(12):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert losses[-1] < losses[0] - 0.01, losses
