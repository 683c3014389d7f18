"""Networks for images, as Flax NNX modules: hidden blocks of any number, and a linear output.

Each has a list `hidden` of blocks and three methods, from which `experiments.common.models` makes
pure functions: `embed` maps images to what the first block takes, `step` applies one block, and
`readout` maps what the last one returns to logits.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
from flax import nnx


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


class MLP(nnx.Module):
    """Hidden layers with one activation, then a linear layer for the logits.

    Args:
      features: the sizes of the input, of every hidden layer, and of the output.
      activation: a function of `jax.nn`.
      dtype: the dtype of the computation; the parameters' is `param_dtype`.
      rngs: as in every NNX module.
    """

    def __init__(
        self,
        features: Sequence[int],
        activation: Callable[[jax.Array], jax.Array],
        dtype: Any,
        param_dtype: Any,
        *,
        rngs: nnx.Rngs,
    ):
        linear = functools.partial(nnx.Linear, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        *sizes, inputs, outputs = features
        self.hidden = nnx.List(map(linear, sizes, [*sizes[1:], inputs]))
        self.output = linear(inputs, outputs)
        self.activation = activation

    def embed(self, images: jax.Array) -> jax.Array:
        return images.reshape(len(images), -1)

    def step(self, block: nnx.Linear, x: jax.Array) -> jax.Array:
        return self.activation(block(x))

    def readout(self, x: jax.Array) -> jax.Array:
        return self.output(x)
