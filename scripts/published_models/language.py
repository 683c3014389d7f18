"""Models of sequences of tokens, in Linen unless said otherwise."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from audit_zoo.cases import ADAM, KEY, Case, linen, periodic_tokens, trained_by

WIDTH, HEADS, LAYERS, VOCABULARY = 64, 4, 2, 32
FAST_ADAM = optax.adam(3e-3)
normal, uniform = nn.initializers.normal, nn.initializers.uniform
RMSNorm = nn.RMSNorm


def dense(width: int, stddev: float = 0.02, name: str | None = None) -> nn.Dense:
    return nn.Dense(width, use_bias=False, kernel_init=normal(stddev), name=name)


def torch_dense(width: int, fan_in: int, use_bias: bool = True) -> nn.Dense:
    """`torch.nn.Linear`, whose weights and biases have the bound 1 / √fan_in."""
    init = bounded(fan_in**-0.5)
    return nn.Dense(width, use_bias, kernel_init=init, bias_init=init)


def bounded(bound: float) -> Any:
    """A symmetric uniform draw."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


def split_heads(x: jax.Array, heads: int = HEADS) -> jax.Array:
    return x.reshape(*x.shape[:-1], heads, -1)


def rotated(x: jax.Array) -> jax.Array:
    """RoPE: pairs of features, turned by the position."""
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1])[:, None] * 1e4 ** -(jnp.arange(half) / half)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attention(q: jax.Array, k: jax.Array, v: jax.Array, bias: Any = 0.0) -> jax.Array:
    """Causal attention without a scale, from (batch, length, heads, features)."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias
    allowed = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    weights = nn.softmax(jnp.where(allowed, scores, -1e9))
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(*q.shape[:2], -1)


class LlamaBlock(nn.Module):
    """Grouped queries, RoPE, RMSNorm and SwiGLU; N(0, .02²) everywhere, as in transformers."""

    experts: int = 0

    @nn.compact
    def __call__(self, x):
        y, size = RMSNorm()(x), WIDTH // HEADS
        q = rotated(split_heads(dense(WIDTH, name="q_proj")(y)))
        k = rotated(split_heads(dense(2 * size, name="k_proj")(y), 2))
        v = split_heads(dense(2 * size, name="v_proj")(y), 2)
        k, v = (jnp.repeat(part, HEADS // 2, 2) for part in (k, v))
        x += dense(WIDTH, name="o_proj")(attention(q * size**-0.5, k, v))
        y = RMSNorm()(x)
        if self.experts:
            return x + Experts(self.experts)(y)
        hidden = nn.silu(dense(2 * WIDTH, name="gate_proj")(y)) * dense(2 * WIDTH)(y)
        return x + dense(WIDTH, name="down_proj")(hidden)


class Experts(nn.Module):
    """Mixtral: a router picks two experts for each token."""

    experts: int

    @nn.compact
    def __call__(self, x):
        chances = nn.softmax(dense(self.experts, name="router")(x))
        best, chosen = jax.lax.top_k(chances, 2)
        best /= best.sum(-1, keepdims=True)
        weights = (best[..., None] * nn.one_hot(chosen, self.experts)).sum(-2)
        shapes = [(self.experts, WIDTH, WIDTH)] * 3
        names = ("w1", "w2", "w3")
        w1, w2, w3 = (
            self.param(name, normal(0.02), shape) for name, shape in zip(names, shapes, strict=True)
        )
        hidden = nn.silu(jnp.einsum("btd,edf->btef", x, w1)) * jnp.einsum("btd,edf->btef", x, w3)
        return jnp.einsum("bte,btef,efd->btd", weights, hidden, w2)


class Llama(nn.Module):
    experts: int = 0

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(VOCABULARY, WIDTH, embedding_init=normal(0.02))(tokens)
        for _ in range(LAYERS):
            x = LlamaBlock(self.experts)(x)
        return dense(VOCABULARY, name="lm_head")(RMSNorm()(x))


def llama() -> Case:
    return linen("Llama", Llama(), periodic_tokens(), FAST_ADAM, 32)


def mixtral() -> Case:
    return linen("Mixtral: experts and router", Llama(4), periodic_tokens(), FAST_ADAM, 32)


class MambaBlock(nn.Module):
    """state-spaces/mamba: steps start between .001 and .1, so softplus is near -5."""

    states: int = 8
    rank: int = 4

    @nn.compact
    def __call__(self, x):
        inner = 2 * WIDTH
        x, z = jnp.split(torch_dense(2 * inner, WIDTH, False)(x), 2, -1)
        taps = bounded(0.5)
        x = nn.silu(
            nn.Conv(
                inner,
                (4,),
                padding="CAUSAL",
                feature_group_count=inner,
                kernel_init=taps,
                bias_init=taps,
            )(x)
        )
        sizes = [self.rank, self.rank + self.states]
        projected = torch_dense(self.rank + 2 * self.states, inner, False)(x)
        dt, b, c = jnp.split(projected, sizes, -1)

        def steps(key, shape, dtype):
            dt = jnp.exp(jax.random.uniform(key, shape, dtype, jnp.log(1e-3), jnp.log(0.1)))
            return dt + jnp.log(-jnp.expm1(-dt))  # the inverse of softplus

        init = bounded(self.rank**-0.5)
        dt = nn.softplus(nn.Dense(inner, kernel_init=init, bias_init=steps, name="dt_proj")(dt))

        def levels(key, shape, dtype=jnp.float32):
            return jnp.log(jnp.broadcast_to(jnp.arange(1, shape[1] + 1, dtype=dtype), shape))

        a = -jnp.exp(self.param("A_log", levels, (inner, self.states)))

        def advance(state, inputs):
            dt, x, b, c = inputs
            state = jnp.exp(dt[..., None] * a) * state + (dt * x)[..., None] * b[:, None]
            return state, jnp.einsum("bdn,bn->bd", state, c)

        inputs = [jnp.moveaxis(array, 1, 0) for array in (dt, x, b, c)]
        start = jnp.zeros((len(x), inner, self.states))
        _, y = jax.lax.scan(advance, start, inputs)
        y = jnp.moveaxis(y, 0, 1) + self.param("D", nn.initializers.ones, (inner,)) * x
        out = bounded(inner**-0.5 / LAYERS**0.5)
        return nn.Dense(WIDTH, use_bias=False, kernel_init=out)(y * nn.silu(z))


class Mamba(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(VOCABULARY, WIDTH, embedding_init=normal(0.02))
        x = embed(tokens)
        for _ in range(LAYERS):
            x += MambaBlock()(RMSNorm()(x))
        return embed.attend(RMSNorm()(x))


def mamba() -> Case:
    return linen("Mamba", Mamba(), periodic_tokens(), FAST_ADAM, 32)


class T5(nn.Module):
    """google-research/text-to-text-transfer-transformer: scores without a scale, so queries have
    the variance 1 / (width · features of a head)."""

    @nn.compact
    def __call__(self, tokens):
        length, narrow = tokens.shape[1], WIDTH**-0.5
        embed = nn.Embed(VOCABULARY, WIDTH, embedding_init=normal(1.0))
        near = self.param("relative", normal(narrow), (HEADS, length))
        bias = near[:, abs(jnp.arange(length)[:, None] - jnp.arange(length))]
        x = embed(tokens)
        for i in range(LAYERS):
            y = RMSNorm()(x)
            stddevs = ((WIDTH * WIDTH / HEADS) ** -0.5, narrow, narrow)
            q, k, v = (
                split_heads(dense(WIDTH, stddev, f"{name}_{i}")(y))
                for name, stddev in zip("qkv", stddevs, strict=True)
            )
            x += dense(WIDTH, narrow)(attention(q, k, v, bias))
            hidden = nn.relu(dense(4 * WIDTH, narrow)(RMSNorm()(x)))
            x += dense(WIDTH, (4 * WIDTH) ** -0.5)(hidden)
        return embed.attend(RMSNorm()(x) * narrow)


def t5() -> Case:
    return linen("T5, tied", T5(), periodic_tokens(), FAST_ADAM, 32)


class Albert(nn.Module):
    """google-research/albert: one block, used several times; a small embedding; norm behind."""

    @nn.compact
    def __call__(self, tokens):
        init = nn.initializers.truncated_normal(0.02)
        x = nn.Embed(VOCABULARY, 16, embedding_init=init)(tokens)
        x += self.param("positions", init, (tokens.shape[1], 16))
        x = nn.Dense(WIDTH, kernel_init=init)(nn.LayerNorm()(x))
        attend = nn.MultiHeadDotProductAttention(HEADS, kernel_init=init)
        norms = nn.LayerNorm(), nn.LayerNorm()
        up, down = nn.Dense(4 * WIDTH, kernel_init=init), nn.Dense(WIDTH, kernel_init=init)
        mask = nn.make_causal_mask(tokens)
        for _ in range(4):
            x = norms[0](x + attend(x, x, mask=mask))
            x = norms[1](x + down(nn.gelu(up(x))))
        x = nn.LayerNorm()(nn.gelu(nn.Dense(16, kernel_init=init)(x)))
        return nn.Dense(VOCABULARY, kernel_init=init)(x)


def albert() -> Case:
    return linen("ALBERT: shared layers", Albert(), periodic_tokens(), FAST_ADAM, 32)


def unit(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


class NGPT(nn.Module):
    """NVIDIA/ngpt: all on a sphere; branches are steps of .05 towards their ends."""

    @nn.compact
    def __call__(self, tokens):
        stddev = WIDTH**-0.5

        def stored(name, size, value):
            """A scale, stored as small as the weights."""
            stored = self.param(name, nn.initializers.constant(stddev), (size,))
            return stored * value / stddev

        x = nn.Embed(VOCABULARY, WIDTH, embedding_init=normal(stddev))(tokens)
        for i in range(LAYERS):
            q, k, v = (split_heads(dense(WIDTH, stddev, f"{name}_{i}")(x)) for name in "qkv")
            sqk = split_heads(stored(f"sqk_{i}", WIDTH, 1.0))
            q, k = sqk * unit(rotated(q)), sqk * unit(rotated(k))
            y = dense(WIDTH, stddev * (2 * LAYERS) ** -0.5)(
                attention(q * (WIDTH / HEADS) ** 0.5, k, v)
            )
            x = unit(x + jnp.abs(stored(f"attn_alpha_{i}", WIDTH, 0.05)) * (unit(y) - x))
            suv = self.param(f"suv_{i}", nn.initializers.ones, (8 * WIDTH,)) * WIDTH**0.5
            u, v = jnp.split(suv * dense(8 * WIDTH, stddev)(x), 2, -1)
            y = unit(dense(WIDTH, stddev * (2 * LAYERS) ** -0.5)(u * nn.silu(v)))
            x = unit(x + jnp.abs(stored(f"mlp_alpha_{i}", WIDTH, 0.05)) * (y - x))
        return stored("sz", VOCABULARY, 1.0) * dense(VOCABULARY, stddev)(x)


def ngpt() -> Case:
    return linen("nGPT", NGPT(), periodic_tokens(), FAST_ADAM, 32)


class Adapted(nn.Module):
    """A frozen layer, and beside it the adapter of huggingface/peft: A as Linear, B zero."""

    features: int
    frozen: int

    @nn.compact
    def __call__(self, x):
        shape = (x.shape[-1], self.features)
        kernel = 0.02 * jax.random.normal(jax.random.key(self.frozen), shape)
        a = self.param("lora_A", bounded(shape[0] ** -0.5), (shape[0], 8))
        b = self.param("lora_B", nn.initializers.zeros, (8, shape[1]))
        return x @ kernel + 2 * (x @ a @ b)


class LoRA(nn.Module):
    """A frozen GPT whose queries and values are adapted."""

    @nn.compact
    def __call__(self, tokens):
        table = jax.random.normal(jax.random.key(100), (VOCABULARY, WIDTH))
        x = table[tokens]
        for i in range(LAYERS):
            y, layer = unit(x) * WIDTH**0.5, 10 * i
            q, k, v = (split_heads(Adapted(WIDTH, layer + j)(y)) for j in range(3))
            x += Adapted(WIDTH, layer + 3)(attention(q * (WIDTH / HEADS) ** -0.5, k, v))
            hidden = nn.gelu(Adapted(4 * WIDTH, layer + 4)(unit(x) * WIDTH**0.5))
            x += Adapted(WIDTH, layer + 5)(hidden)
        return (unit(x) * WIDTH**0.5) @ table.T * WIDTH**-0.5


def lora_gpt() -> Case:
    return linen("LoRA in a frozen GPT", LoRA(), periodic_tokens(), optax.adam(1e-2), 32)


class Houlsby(nn.Module):
    """google-research/adapter-bert: bottlenecks of N(0, .001²) behind the frozen branches."""

    @nn.compact
    def __call__(self, tokens):
        init = nn.initializers.truncated_normal(1e-3)
        keys = iter(jax.random.split(jax.random.key(9), 50))

        def frozen(x, width):
            return x @ jax.random.normal(next(keys), (x.shape[-1], width)) * x.shape[-1] ** -0.5

        def adapter(x):
            y = nn.Dense(16, kernel_init=init)(x)
            return x + nn.Dense(x.shape[-1], kernel_init=init)(nn.gelu(y))

        x = jax.random.normal(next(keys), (VOCABULARY, WIDTH))[tokens]
        for _ in range(LAYERS):
            q, k, v = (split_heads(frozen(x, WIDTH)) for _ in range(3))
            y = frozen(attention(q * (WIDTH / HEADS) ** -0.5, k, v), WIDTH)
            x = nn.LayerNorm()(x + adapter(y))
            y = frozen(nn.gelu(frozen(x, 4 * WIDTH)), WIDTH)
            x = nn.LayerNorm()(x + adapter(y))
        return nn.Dense(VOCABULARY, kernel_init=nn.initializers.truncated_normal(0.02))(x)


def houlsby() -> Case:
    return linen("Houlsby adapters", Houlsby(), periodic_tokens(), FAST_ADAM, 32)


class GatedMLP(nn.Module):
    """gMLP: the gate's kernel over positions is nearly zero and its bias one."""

    @nn.compact
    def __call__(self, tokens):
        length = tokens.shape[1]
        x = nn.Embed(VOCABULARY, WIDTH, embedding_init=normal(0.02))(tokens)
        for i in range(LAYERS):
            y = nn.gelu(nn.Dense(4 * WIDTH)(nn.LayerNorm()(x)))
            u, v = jnp.split(y, 2, -1)
            space = self.param(f"space_{i}", bounded(1e-3 / length), (length, length))
            bias = self.param(f"space_bias_{i}", nn.initializers.ones, (length, 1))
            v = jnp.einsum("btd,st->bsd", nn.LayerNorm()(v), jnp.tril(space)) + bias
            x += nn.Dense(WIDTH)(u * v)
        return nn.Dense(VOCABULARY)(nn.LayerNorm()(x))


def gmlp() -> Case:
    return linen("gMLP", GatedMLP(), periodic_tokens(), FAST_ADAM, 32)


class MixedGPT(nn.Module):
    """karpathy/nanoGPT in bfloat16, with parameters in float32 and without biases."""

    @nn.compact
    def __call__(self, tokens):
        layer = functools.partial(nn.Dense, use_bias=False, dtype=jnp.bfloat16)
        init, end = normal(0.02), normal(0.02 / (2 * LAYERS) ** 0.5)
        embed = nn.Embed(VOCABULARY, WIDTH, embedding_init=init, dtype=jnp.bfloat16)
        x = embed(tokens) + self.param("wpe", init, (tokens.shape[1], WIDTH)).astype(jnp.bfloat16)
        for _ in range(LAYERS):
            y = layer(3 * WIDTH, kernel_init=init)(nn.LayerNorm(dtype=jnp.bfloat16)(x))
            q, k, v = map(split_heads, jnp.split(y, 3, -1))
            x += layer(WIDTH, kernel_init=end)(attention(q * (WIDTH / HEADS) ** -0.5, k, v))
            y = nn.gelu(layer(4 * WIDTH, kernel_init=init)(nn.LayerNorm(dtype=jnp.bfloat16)(x)))
            x += layer(WIDTH, kernel_init=end)(y)
        return embed.attend(nn.LayerNorm(dtype=jnp.bfloat16)(x))


def nanogpt() -> Case:
    return linen("nanoGPT in bfloat16", MixedGPT(), periodic_tokens(), FAST_ADAM, 32)


class Decoder(nn.Module):
    """Linen's own attention without biases, at its defaults."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(VOCABULARY, WIDTH)(tokens)
        for _ in range(LAYERS):
            attend = nn.MultiHeadDotProductAttention(HEADS, use_bias=False)
            y = nn.LayerNorm()(x)
            x += attend(y, y, mask=nn.make_causal_mask(tokens))
            x += nn.Dense(WIDTH)(nn.relu(nn.Dense(2 * WIDTH)(nn.LayerNorm()(x))))
        return nn.Dense(VOCABULARY)(nn.LayerNorm()(x))


def attention_without_biases() -> Case:
    return linen("Flax's attention without biases", Decoder(), periodic_tokens(), FAST_ADAM, 32)


def torch_recurrence(gates: int) -> tuple[Any, Any]:
    """Plain JAX: `torch.nn.GRU` (3 gates) or `LSTM` (4), all U(-1 / √hidden, 1 / √hidden)."""
    size, bound = 32, 32**-0.5
    keys = iter(jax.random.split(KEY, 8))

    def draw(*shape):
        return jax.random.uniform(next(keys), shape, minval=-bound, maxval=bound)

    params = {
        "embedding": jax.random.normal(next(keys), (VOCABULARY, size)),
        "weight_ih": draw(gates * size, size),
        "weight_hh": draw(gates * size, size),
        "bias_ih": draw(gates * size),
        "bias_hh": draw(gates * size),
        "head": draw(VOCABULARY, size),
        "head_bias": draw(VOCABULARY),
    }

    def gru(params, state, x):
        h, _ = state
        i = x @ params["weight_ih"].T + params["bias_ih"]
        o = h @ params["weight_hh"].T + params["bias_hh"]
        (ir, iz, i_n), (hr, hz, hn) = jnp.split(i, 3, -1), jnp.split(o, 3, -1)
        r, z = jax.nn.sigmoid(ir + hr), jax.nn.sigmoid(iz + hz)
        h = (1 - z) * jnp.tanh(i_n + r * hn) + z * h
        return (h, h), h

    def lstm(params, state, x):
        h, c = state
        i = x @ params["weight_ih"].T + params["bias_ih"]
        i, f, g, o = jnp.split(i + h @ params["weight_hh"].T + params["bias_hh"], 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    def apply(params, tokens):
        x = params["embedding"][tokens].swapaxes(0, 1)
        start = (jnp.zeros((len(tokens), size)),) * 2
        cell = functools.partial(gru if gates == 3 else lstm, params)
        _, states = jax.lax.scan(cell, start, x)
        return states.swapaxes(0, 1) @ params["head"].T + params["head_bias"]

    return apply, params


def torch_gru() -> Case:
    model = torch_recurrence(3)
    return Case("GRU with torch's bound", "plain JAX, lax.scan", *model, periodic_tokens(),
                FAST_ADAM, 32)  # fmt: skip


def torch_lstm() -> Case:
    model = torch_recurrence(4)
    return Case("LSTM with torch's bound", "plain JAX, lax.scan", *model, periodic_tokens(),
                FAST_ADAM, 32)  # fmt: skip


def clip() -> Case:
    """Plain JAX: two towers of openai/CLIP, on views of one hidden vector."""
    keys = jax.random.split(KEY, 6)
    sizes = (32, WIDTH, WIDTH)

    def tower(key):
        embed, up, down, project = jax.random.split(key, 4)
        fc = (2 * WIDTH) ** -0.5
        return {
            "embed": sizes[0] ** -0.5 * jax.random.normal(embed, sizes[:2]),
            "up": fc * jax.random.normal(up, (WIDTH, 4 * WIDTH)),
            "down": (WIDTH * 2 * LAYERS) ** -0.5 * jax.random.normal(down, (4 * WIDTH, WIDTH)),
            "project": WIDTH**-0.5 * jax.random.normal(project, (WIDTH, 32)),
        }

    params = {"image": tower(keys[0]), "text": tower(keys[1]), "logit_scale": jnp.log(1 / 0.07)}

    def norm(x):
        x = x - x.mean(-1, keepdims=True)
        return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)

    def encode(params, x):
        x = norm(x @ params["embed"])
        y = norm(x) @ params["up"]
        x = x + (y * jax.nn.sigmoid(1.702 * y)) @ params["down"]
        return unit(norm(x) @ params["project"])

    def loss(params, images, texts):
        scale = jnp.exp(params["logit_scale"])
        logits = scale * encode(params["image"], images) @ encode(params["text"], texts).T
        labels = jnp.arange(len(images))
        both = [
            optax.softmax_cross_entropy_with_integer_labels(x, labels) for x in (logits, logits.T)
        ]
        return (both[0].mean() + both[1].mean()) / 2

    hidden = jax.random.normal(keys[2], (4096, 8))
    views = tuple(hidden @ jax.random.normal(key, (8, 32)) * 8**-0.5 for key in keys[3:5])
    return trained_by("CLIP", "plain JAX", loss, params, views, ADAM, 64)


LANGUAGE = (
    llama,
    mixtral,
    mamba,
    t5,
    albert,
    ngpt,
    lora_gpt,
    houlsby,
    gmlp,
    nanogpt,
    attention_without_biases,
    torch_gru,
    torch_lstm,
    clip,
)
