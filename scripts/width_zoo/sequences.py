"""Transformers, a recurrent network and a mixture of experts."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from .cases import Apply, Factors, Init
from .perceptrons import linen_model, nnx_model

_VOCABULARY, _LENGTH, _BLOCKS = 32, 16, 1
_ROWS, _CLASSES, _EXPERTS = 14, 10, 4


class _Transformer(nn.Module):
    width: int
    heads: int
    attention: float

    @nn.compact
    def __call__(self, tokens):
        size = self.width // self.heads
        x = nn.Embed(_VOCABULARY, self.width)(tokens)
        x = x + self.param("positions", nn.initializers.normal(0.1), (_LENGTH, self.width))
        for _ in range(_BLOCKS):
            y = nn.LayerNorm()(x)
            q, k, v = (
                nn.DenseGeneral((self.heads, size), use_bias=False, name=f"{name}{_}")(y)
                for name in ("query", "key", "value")
            )
            scores = self.attention * jnp.einsum("bihd,bjhd->bhij", q, k) / size**0.5
            scores = jnp.where(jnp.tri(_LENGTH, dtype=bool), scores, -1e9)
            mixed = jnp.einsum("bhij,bjhd->bihd", jax.nn.softmax(scores), v)
            x = x + nn.DenseGeneral(self.width, (-2, -1), use_bias=False, name=f"out{_}")(mixed)
            y = nn.gelu(nn.Dense(2 * self.width, name=f"up{_}")(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width, name=f"down{_}")(y)
        return nn.Dense(_VOCABULARY, name="head")(nn.LayerNorm()(x))


def wide_heads(width: int, factors: Factors) -> tuple[Apply, Init]:
    """Linen: a transformer of 4 heads, of a quarter of the width."""
    module = _Transformer(width, 4, factors.attention)
    return linen_model(module, factors, jnp.zeros((1, _LENGTH), int))


def many_heads(width: int, factors: Factors) -> tuple[Apply, Init]:
    """Linen: a transformer with heads of size 16."""
    module = _Transformer(width, width // 16, factors.attention)
    return linen_model(module, factors, jnp.zeros((1, _LENGTH), int))


def _normed(x: jax.Array, gain: jax.Array) -> jax.Array:
    return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * gain


def tied(width: int, factors: Factors) -> tuple[Apply, Init]:
    """Plain functions: an RMSNorm transformer of heads of size 16; the embedding is the readout."""
    heads, size = width // 16, 16

    def init(key: jax.Array) -> Any:
        embedding, *keys = jax.random.split(key, _BLOCKS + 1)

        def block(key: jax.Array) -> Any:
            packed, out, up, down = jax.random.split(key, 4)
            normal = jax.random.normal
            return {
                "gains": jnp.ones((2, width)),
                "qkv": normal(packed, (width, 3, heads, size)) * width**-0.5,
                "out": normal(out, (heads, size, width)) * width**-0.5,
                "up": normal(up, (width, 2 * width)) * width**-0.5,
                "down": normal(down, (2 * width, width)) * (2 * width) ** -0.5,
            }

        table = jax.random.normal(embedding, (_VOCABULARY, width))
        return {"embedding": table, "blocks": list(map(block, keys)), "gain": jnp.ones(width)}

    def apply(params: Any, tokens: jax.Array) -> jax.Array:
        x = params["embedding"][tokens]
        for block in params["blocks"]:
            y = _normed(x, block["gains"][0])
            q, k, v = jnp.einsum("btd,dchs->cbths", y, block["qkv"])
            scores = factors.attention * jnp.einsum("bihs,bjhs->bhij", q, k) / size**0.5
            scores = jnp.where(jnp.tri(_LENGTH, dtype=bool), scores, -1e9)
            mixed = jnp.einsum("bhij,bjhs->bihs", jax.nn.softmax(scores), v)
            x = x + jnp.einsum("bihs,hsd->bid", mixed, block["out"])
            y = _normed(x, block["gains"][1])
            x = x + jax.nn.gelu(y @ block["up"]) @ block["down"]
        return factors.logits * (_normed(x, params["gain"]) @ params["embedding"].T)

    return apply, init


class _GRU(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.rnn = nnx.RNN(nnx.GRUCell(_ROWS, width, rngs=rngs))
        self.head = nnx.Linear(width, _CLASSES, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        states: Any = self.rnn(images[..., 0])
        return self.head(states[:, -1])


def gru(width: int, factors: Factors) -> tuple[Apply, Init]:
    """NNX: a GRU that reads images row by row."""
    return nnx_model(functools.partial(_GRU, width), factors)


def experts(width: int, factors: Factors) -> tuple[Apply, Init]:
    """Plain functions: a soft mixture of experts in a residual block."""
    shapes = {
        "stem": (_ROWS * _ROWS, width),
        "router": (width, _EXPERTS),
        "up": (_EXPERTS, width, width),
        "down": (_EXPERTS, width, width),
        "head": (width, _CLASSES),
    }

    def init(key: jax.Array) -> Any:
        keys = jax.random.split(key, len(shapes))
        return {
            name: jax.random.normal(one, shape) * shape[-2] ** -0.5
            for one, (name, shape) in zip(keys, shapes.items(), strict=True)
        }

    def apply(params: Any, x: jax.Array) -> jax.Array:
        x = x.reshape(len(x), -1) @ params["stem"]
        gates = jax.nn.softmax(x @ params["router"])
        y = jax.nn.relu(jnp.einsum("bd,edf->ebf", x, params["up"]))
        y = jnp.einsum("ebf,efd->ebd", y, params["down"])
        x = x + jnp.einsum("be,ebd->bd", gates, y)
        return factors.logits * (jax.nn.relu(x) @ params["head"])

    return apply, init
