"""Networks for images, as Flax NNX modules: hidden blocks of any number, and a linear output.

Each has a list `hidden` of blocks and three methods, from which `experiments.common.models` makes
pure functions: `embed` maps images to what the first block takes, `step` applies one block, and
`readout` maps what the last one returns to logits.

All but the MLPs read images as patches of 4x4 pixels: 7x7 of them for MNIST.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.common.config import HEADS, PATCH

Activation = Callable[[jax.Array], jax.Array]


class Network(Protocol):
    """What a network has to have."""

    hidden: nnx.List

    def embed(self, images: jax.Array) -> jax.Array:
        """Maps images (batch, height, width, channels) to the input of the first block."""
        ...

    def step(self, block: Any, x: jax.Array) -> jax.Array:
        """Applies one block of `hidden`."""
        ...

    def readout(self, x: jax.Array) -> jax.Array:
        """Maps the output of the last block to logits (batch, classes)."""
        ...


@dataclasses.dataclass(frozen=True)
class Layers:
    """Makes the layers of a network."""

    normalization: str
    """One of `config.NORMALIZATIONS`."""
    dtype: Any
    """Of the computation."""
    param_dtype: Any
    rngs: nnx.Rngs
    scores: float = 1.0
    """Multiplies the scores of attention, which are divided by the root of a head's size anyway."""
    branches: float = 1.0
    """Multiplies what a residual block adds to its input."""

    @property
    def _options(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype, "rngs": self.rngs}

    def linear(self, inputs: int, outputs: int) -> nnx.Linear:
        """A linear layer."""
        return nnx.Linear(inputs, outputs, **self._options)

    def convolution(self, inputs: int, outputs: int) -> "Convolution":
        """A convolution with kernels of 3x3."""
        return Convolution(inputs, outputs, (3, 3), **self._options)

    def normalized(self, layer: Any) -> Any:
        """The layer, with a normalization of as many features in its attribute `norm`."""
        layer.norm = self.norm(layer.out_features)
        return layer

    def norm(self, features: int) -> Activation:
        """A normalization over features, or what does nothing in its place."""
        return (
            unchanged if self.normalization == "none" else nnx.LayerNorm(features, **self._options)
        )


def unchanged(x: jax.Array) -> jax.Array:
    """Returns its argument."""
    return x


def times(factor: float, x: jax.Array) -> jax.Array:
    """The product, which costs nothing for a factor of 1."""
    return x if factor == 1 else factor * x


class MLP(nnx.Module):
    """Hidden layers, each with the activation after it; in between, normalization if wanted.

    Args:
      features: the sizes of the input, of every hidden layer, and of the output.
      activation: a function of `jax.nn`.
      layers: makes its layers.
    """

    def __init__(self, features: Sequence[int], activation: Activation, layers: Layers):
        *sizes, classes = features
        pairs = itertools.pairwise(sizes)
        self.hidden = nnx.List([layers.normalized(layers.linear(*pair)) for pair in pairs])
        self.output = layers.linear(sizes[-1], classes)
        self.activation = activation

    def embed(self, images: jax.Array) -> jax.Array:
        return images.reshape(len(images), -1)

    def step(self, block: Any, x: jax.Array) -> jax.Array:
        return self.activation(block.norm(block(x)))

    def readout(self, x: jax.Array) -> jax.Array:
        return self.output(x)


class ResidualMLP(nnx.Module):
    """A linear layer, then hidden layers that are added to their input; the activation, and before
    it normalization if wanted, is applied before each of them. Takes the arguments of `MLP`."""

    def __init__(self, features: Sequence[int], activation: Activation, layers: Layers):
        inputs, *sizes, classes = features
        width = sizes[0]
        self.input = layers.linear(inputs, width)
        self.hidden = nnx.List([layers.normalized(layers.linear(width, width)) for _ in sizes])
        self.norm = layers.norm(width)
        self.output = layers.linear(width, classes)
        self.activation = activation
        self.branches = layers.branches

    def embed(self, images: jax.Array) -> jax.Array:
        return self.input(images.reshape(len(images), -1))

    def step(self, block: Any, x: jax.Array) -> jax.Array:
        return x + times(self.branches, block(self.activation(block.norm(x))))

    def readout(self, x: jax.Array) -> jax.Array:
        return self.output(self.activation(self.norm(x)))


class CNN(nnx.Module):
    """Convolutions of patches, each with the activation after it; in between, normalization if
    wanted. Logits come from the means over positions. Takes the arguments of `MLP`, with the
    numbers of channels for sizes."""

    def __init__(self, features: Sequence[int], activation: Activation, layers: Layers):
        *sizes, classes = features
        pairs = itertools.pairwise(sizes)
        self.hidden = nnx.List([layers.normalized(layers.convolution(*pair)) for pair in pairs])
        self.output = layers.linear(sizes[-1], classes)
        self.activation = activation

    def embed(self, images: jax.Array) -> jax.Array:
        return patches(images)

    def step(self, block: Any, x: jax.Array) -> jax.Array:
        return self.activation(block.norm(block(x)))

    def readout(self, x: jax.Array) -> jax.Array:
        return self.output(x.mean((1, 2)))


class ResNet(nnx.Module):
    """Residual blocks of two convolutions, each after normalization and activation, as in He et
    al. 2016, "Identity Mappings in Deep Residual Networks", with layer normalization in place of
    batch normalization. Takes the arguments of `CNN`, with blocks of one size."""

    def __init__(self, features: Sequence[int], activation: Activation, layers: Layers):
        inputs, *sizes, classes = features
        width = sizes[0]
        self.input = layers.convolution(inputs, width)
        self.hidden = nnx.List([ResNetBlock(width, layers) for _ in sizes])
        self.norm = layers.norm(width)
        self.output = layers.linear(width, classes)
        self.activation = activation
        self.branches = layers.branches

    def embed(self, images: jax.Array) -> jax.Array:
        return self.input(patches(images))

    def step(self, block: "ResNetBlock", x: jax.Array) -> jax.Array:
        y = block.first(self.activation(block.first_norm(x)))
        return x + times(self.branches, block.second(self.activation(block.second_norm(y))))

    def readout(self, x: jax.Array) -> jax.Array:
        return self.output(self.activation(self.norm(x)).mean((1, 2)))


class ResNetBlock(nnx.Module):
    """The layers of a block of `ResNet`."""

    def __init__(self, width: int, layers: Layers):
        self.first_norm, self.second_norm = layers.norm(width), layers.norm(width)
        self.first = layers.convolution(width, width)
        self.second = layers.convolution(width, width)


class Transformer(nnx.Module):
    """A vision transformer: patches are tokens with learned positions, and each block adds
    attention and then an MLP, four times as wide, of normalized tokens. Logits come from the mean
    token. As in Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", but smaller.

    Args:
      features: the numbers of each patch, the width of every block, all equal, and the output's.
      activation: a function of `jax.nn`, for the MLPs.
      layers: makes its layers.
      tokens: how many patches an image has.
    """

    def __init__(
        self, features: Sequence[int], activation: Activation, layers: Layers, tokens: int
    ):
        inputs, *sizes, classes = features
        width = sizes[0]
        self.input = layers.linear(inputs, width)
        self.positions = nnx.Param(jnp.zeros((tokens, width), layers.param_dtype))
        self.hidden = nnx.List([TransformerBlock(width, layers) for _ in sizes])
        self.norm = layers.norm(width)
        self.output = layers.linear(width, classes)
        self.activation = activation
        self.scores, self.branches = layers.scores, layers.branches

    def embed(self, images: jax.Array) -> jax.Array:
        tokens = self.input(jax.lax.collapse(patches(images), 1, 3))
        return tokens + self.positions[...].astype(tokens.dtype)

    def step(self, block: "TransformerBlock", x: jax.Array) -> jax.Array:
        y = block.attention_norm(x)
        heads = (*y.shape[:2], HEADS, -1)
        query, key, value = (
            layer(y).reshape(heads) for layer in (block.query, block.key, block.value)
        )
        read = jax.nn.dot_product_attention(times(self.scores, query), key, value)
        x = x + times(self.branches, block.out(read.reshape(y.shape)))
        y = self.activation(block.up(block.mlp_norm(x)))
        return x + times(self.branches, block.down(y))

    def readout(self, x: jax.Array) -> jax.Array:
        return self.output(self.norm(x).mean(1))


class TransformerBlock(nnx.Module):
    """The layers of a block of `Transformer`."""

    def __init__(self, width: int, layers: Layers):
        self.attention_norm, self.mlp_norm = layers.norm(width), layers.norm(width)
        self.query, self.key = layers.linear(width, width), layers.linear(width, width)
        self.value, self.out = layers.linear(width, width), layers.linear(width, width)
        self.up, self.down = layers.linear(width, 4 * width), layers.linear(4 * width, width)


def patches(images: jax.Array) -> jax.Array:
    """Cuts images into patches of 4x4 pixels, after rows and columns of zeros where they lack.

    Args:
      images: an array (batch, height, width, channels).

    Returns:
      An array (batch, height/4, width/4, 16 channels), rounded up.
    """
    batch, height, width, channels = images.shape
    images = jnp.pad(images, ((0, 0), (0, -height % PATCH), (0, -width % PATCH), (0, 0)))
    rows, columns = grid(height, width)
    images = images.reshape(batch, rows, PATCH, columns, PATCH, channels)
    return images.swapaxes(2, 3).reshape(batch, rows, columns, PATCH * PATCH * channels)


def grid(height: int, width: int) -> tuple[int, int]:
    """The numbers of rows and columns of patches in an image."""
    return math.ceil(height / PATCH), math.ceil(width / PATCH)


class Convolution(nnx.Conv):
    """A convolution of 3x3 with circular padding: all positions are alike, as theory wants it."""

    def __call__(self, inputs: jax.Array) -> jax.Array:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert self.bias is not None
        x, kernel, bias = (
            array.astype(self.dtype) for array in (inputs, self.kernel[...], self.bias[...])
        )
        return _convolve(x, kernel) + bias


@jax.custom_vjp
def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves (batch, height, width, inputs) with a kernel (3, 3, inputs, outputs)."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(x, kernel), (x, kernel)


def _backward(
    saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # XLA's gradients of a convolution take 20 times as long on a CPU, inside of a loop.
    x, kernel = saved
    taps = [jnp.roll(x, (1 - i, 1 - j), (1, 2)) for i in range(3) for j in range(3)]
    of_kernel = jnp.stack([jnp.einsum("bhwi,bhwo->io", tap, gradient) for tap in taps])
    return (
        _convolve(gradient, jnp.flip(kernel, (0, 1)).swapaxes(2, 3)),
        of_kernel.reshape(kernel.shape),
    )


_convolve.defvjp(_forward, _backward)
