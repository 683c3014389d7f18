"""Perceptrons, plain, gated, residual and scanned, in Linen, NNX and plain JAX."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

import initjax

from .cases import KEY, Apply

Init = Callable[..., jax.Array]
Activation = Callable[[jax.Array], jax.Array]
LECUN, ZEROS = nn.initializers.lecun_normal(), nn.initializers.zeros_init()  # Flax's defaults


def flat(images: jax.Array) -> jax.Array:
    return images.reshape(len(images), -1)


class MLP(nn.Module):
    """Linen: hidden layers of these widths, then a linear layer."""

    widths: Sequence[int]
    activation: Activation = nn.relu
    kernel_init: Init = LECUN
    bias_init: Init = ZEROS
    readout_init: Init = LECUN
    outputs: int = 10

    @nn.compact
    def __call__(self, x):
        x = flat(x)
        for width in self.widths:
            x = nn.Dense(width, kernel_init=self.kernel_init, bias_init=self.bias_init)(x)
            x = self.activation(x)
        return nn.Dense(self.outputs, kernel_init=self.readout_init)(x)


class NnxMLP(nnx.Module):
    """NNX: the same."""

    def __init__(self, widths: Sequence[int], activation: Activation = nnx.relu, **options: Any):
        rngs = nnx.Rngs(0)
        sizes = [784, *widths, 10]
        pairs = itertools.pairwise(sizes)
        self.activation = activation
        self.layers = nnx.List([nnx.Linear(*pair, rngs=rngs, **options) for pair in pairs])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = flat(x)
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class Gated(nn.Module):
    """Linen: blocks of SwiGLU with RMSNorm."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(64)(flat(x))
        for _ in range(3):
            y = nn.RMSNorm()(x)
            y = nn.silu(nn.Dense(128, use_bias=False)(y)) * nn.Dense(128, use_bias=False)(y)
            x = x + nn.Dense(64, use_bias=False)(y)
        return nn.Dense(10)(nn.RMSNorm()(x))


def plain_mlp(
    sizes: Sequence[int],
    activation: Activation,
    kernel_init: Init,
    bias_init: Init = initjax.zeros,
    remat: bool = False,
) -> tuple[Apply, Any]:
    """Plain JAX: a list of layers."""
    params = []
    for i, shape in enumerate(itertools.pairwise(sizes)):
        kernel_key, bias_key = jax.random.split(jax.random.fold_in(KEY, i))
        kernel, bias = kernel_init(kernel_key, shape), bias_init(bias_key, shape[1:])
        params.append({"kernel": kernel, "bias": bias})

    def layer(params: Any, x: jax.Array) -> jax.Array:
        return activation(x @ params["kernel"] + params["bias"])

    def apply(params: Any, x: jax.Array) -> jax.Array:
        x = flat(x)
        for one in params[:-1]:
            x = (jax.checkpoint(layer) if remat else layer)(one, x)
        return x @ params[-1]["kernel"] + params[-1]["bias"]

    return apply, params


def scanned_mlp(
    depth: int, width: int, activation: Activation, kernel_init: Init, bias_init: Init
) -> tuple[Apply, Any]:
    """Plain JAX: `depth` hidden layers, all but the first stacked and scanned over."""

    def draw(key: jax.Array, inputs: int, outputs: int) -> dict[str, jax.Array]:
        kernel_key, bias_key = jax.random.split(key)
        kernel = kernel_init(kernel_key, (inputs, outputs), jnp.float32)
        return {"kernel": kernel, "bias": bias_init(bias_key, (outputs,), jnp.float32)}

    first_key, hidden_key, last_key = jax.random.split(KEY, 3)
    hidden_keys = jax.random.split(hidden_key, depth - 1)
    params = {
        "first": draw(first_key, 784, width),
        "hidden": jax.vmap(lambda key: draw(key, width, width))(hidden_keys),
        "last": draw(last_key, width, 10),
    }

    def affine(params: Any, x: jax.Array) -> jax.Array:
        return x @ params["kernel"] + params["bias"]

    def apply(params: Any, x: jax.Array) -> jax.Array:
        x = activation(affine(params["first"], flat(x)))
        x, _ = jax.lax.scan(lambda x, one: (activation(affine(one, x)), None), x, params["hidden"])
        return affine(params["last"], x)

    return apply, params


def residual_mlp(
    blocks: int, width: int, kernel_init: Init, branch_scale: float
) -> tuple[Apply, Any]:
    """Plain JAX: x + scale relu(x A) B in every block, without normalization."""
    in_key, *keys, out_key = jax.random.split(KEY, 2 * blocks + 2)

    def square(key: jax.Array) -> jax.Array:
        return kernel_init(key, (width, width))

    params = {
        "stem": initjax.lecun_normal()(in_key, (784, width)),
        "blocks": [
            {"a": square(a_key), "b": branch_scale * square(b_key)}
            for a_key, b_key in zip(keys[::2], keys[1::2], strict=True)
        ],
        "head": initjax.lecun_normal()(out_key, (width, 10)),
    }

    def apply(params: Any, x: jax.Array) -> jax.Array:
        x = flat(x) @ params["stem"]
        for block in params["blocks"]:
            x = x + jax.nn.relu(x @ block["a"]) @ block["b"]
        return x @ params["head"]

    return apply, params
