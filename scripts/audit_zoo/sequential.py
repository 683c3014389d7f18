"""Networks over sequences and sets: attention, recurrence, embeddings, in Linen and NNX."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

import initjax

from .perceptrons import ZEROS, Init, flat


class Heads(nn.Module):
    """Linen: a perceptron over the rows of an image, split into heads as in attention."""

    split_init: Init
    heads: int = 16
    layers: int = 4

    @nn.compact
    def __call__(self, x):
        size = 64 // self.heads
        merge_init = initjax.he_normal(**initjax.einsum_fans("btnh,nhd->btd"))
        x = nn.Dense(64)(x[..., 0])
        for _ in range(self.layers):
            x = nn.Einsum((64, self.heads, size), "btd,dnh->btnh", kernel_init=self.split_init)(x)
            x = nn.Einsum((self.heads, size, 64), "btnh,nhd->btd", kernel_init=merge_init)(
                nn.relu(x)
            )
        return nn.Dense(10)(flat(nn.relu(x)))


class ViT(nn.Module):
    """Linen: a vision transformer of patches, with dropout and a head of zeros."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(64, (7, 7), (7, 7))(x).reshape(len(x), 16, 64)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, 16, 64))
        for _ in range(2):
            y = nn.LayerNorm()(x)
            x = x + nn.Dropout(0.1, deterministic=False)(nn.MultiHeadDotProductAttention(4)(y, y))
            y = nn.gelu(nn.Dense(128)(nn.LayerNorm()(x)))
            x = x + nn.Dropout(0.1, deterministic=False)(nn.Dense(64)(y))
        return nn.Dense(10, kernel_init=ZEROS)(nn.LayerNorm()(x).mean(1))


class GPTBlock(nn.Module):
    """Linen: a layer of `GPT`, for `nn.scan`."""

    layers: int

    @nn.compact
    def __call__(self, x, _):
        init = nn.initializers.normal(0.02)
        end = nn.initializers.normal(0.02 / (2 * self.layers) ** 0.5)
        attention = nn.MultiHeadDotProductAttention(4, kernel_init=init, out_kernel_init=end)
        y = nn.LayerNorm()(x)
        x = x + attention(y, y, mask=nn.make_causal_mask(y[..., 0]))
        y = nn.gelu(nn.Dense(4 * x.shape[-1], kernel_init=init)(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1], kernel_init=end)(y), None


class GPT(nn.Module):
    """Linen: GPT-2 with scanned layers; the readout is tied to the embedding."""

    embedding_init: Init = nn.initializers.normal(0.02)
    layers: int = 3
    width: int = 64
    vocabulary: int = 32

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(self.vocabulary, self.width, embedding_init=self.embedding_init)
        shape = (tokens.shape[1], self.width)
        x = embed(tokens) + self.param("positions", nn.initializers.normal(0.02), shape)
        scan = nn.scan(
            GPTBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.layers,
        )
        x, _ = scan(self.layers, name="blocks")(x, None)
        return embed.attend(nn.LayerNorm()(x))


class Rows(nn.Module):
    """Linen: a recurrent cell that reads an image row by row."""

    cell: nn.RNNCellBase

    @nn.compact
    def __call__(self, x):
        states: Any = nn.RNN(self.cell)(x[..., 0])
        return nn.Dense(10)(states[:, -1])


class NnxGRU(nnx.Module):
    """NNX: reads an image row by row."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.rnn = nnx.RNN(nnx.GRUCell(28, 64, rngs=rngs))
        self.readout = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        states: Any = self.rnn(x[..., 0])
        return self.readout(states[:, -1])


class Bag(nn.Module):
    """Linen: the mean of embeddings."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(512, 32)(tokens).mean(1)
        return nn.Dense(2)(nn.relu(nn.Dense(32)(x)))


class PointSet(nn.Module):
    """Linen: messages from a set's points to their sum and back, by `segment_sum`."""

    @nn.compact
    def __call__(self, points):
        sets, size, _ = points.shape
        segments = jnp.repeat(jnp.arange(sets), size)
        x = nn.relu(nn.Dense(64)(points.reshape(sets * size, -1)))
        mean = jax.ops.segment_sum(x, segments, sets) / size
        x = nn.relu(nn.Dense(64)(x) + nn.Dense(64)(mean)[segments])
        return nn.Dense(4)(jax.ops.segment_sum(x, segments, sets) / size)
