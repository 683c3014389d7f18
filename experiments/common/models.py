"""Models: Flax NNX modules, split once into a pure function and a tree of parameter shapes."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


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
        self.dtype = dtype

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps uint8 images (batch, height, width, channels) to logits (batch, classes)."""
        x = images.reshape(len(images), -1).astype(self.dtype) / 255
        for layer in self.hidden:
            x = self.activation(layer(x))
        return self.output(x)


@dataclasses.dataclass(frozen=True, eq=False)  # equal if identical, so that it can be hashed
class Model:
    """A model as pure parts."""

    apply: Callable[[Any, jax.typing.ArrayLike], jax.Array]
    """Maps (params, images) to logits. Equal models share one function, so jit caches it."""
    shapes: Any
    """The parameters as nested dicts of `jax.ShapeDtypeStruct`."""
    features: tuple[int, ...]
    """The sizes of the input, of every hidden layer, and of the output."""


@functools.lru_cache
def mlp(features: tuple[int, ...], activation: str, dtype: str) -> Model:
    """Makes an MLP without drawing any parameter.

    Args:
      features: the sizes of the input, of every hidden layer, and of the output.
      activation: the name of an elementwise function of `jax.nn`, one of `config.ACTIVATIONS`.
      dtype: the dtype of the computation; parameters are float32, or float64 if this is.

    Returns:
      The model; its parameters are `hidden/0/kernel`, `hidden/0/bias`, ..., `output/kernel`,
      `output/bias`.
    """
    param_dtype = jnp.promote_types(dtype, jnp.float32)
    make = functools.partial(
        MLP, features, getattr(jax.nn, activation), jnp.dtype(dtype), param_dtype
    )
    graph, state = nnx.split(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))

    def apply(params: Any, images: jax.typing.ArrayLike) -> jax.Array:
        return nnx.merge(graph, nnx.State(params))(jnp.asarray(images))

    return Model(apply, nnx.to_pure_dict(state), features)
