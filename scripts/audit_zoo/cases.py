"""A case of the zoo, the data to train it on, and how models become functions."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.common import data

_ROWS = 10_240  # of each data set; batches start over after them
KEY = jax.random.key(0)  # for all parameters; data have other keys
ADAM = optax.adam(1e-3)

Apply = Callable[..., jax.Array]  # maps (params, *inputs) to outputs
Data = tuple[jax.Array, ...]  # inputs, then targets, all with the same number of rows


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A model as a user would write it, before the first step.

    Attributes:
        name: what the model is.
        framework: what it is written in.
        apply: maps (params, *inputs) to outputs.
        params: as initialized.
        data: inputs and, last, targets: integers are classes, floats are regression targets.
        optimizer: what it is trained with.
        batch_size: rows in a batch.
        fault: what is wrong with it; "" if nothing is.
        causes: the causes that an audit may correctly name.
        loss: maps (params, *batch) to the loss, instead of the cross-entropy or the mean squared
            error of `apply`.
    """

    name: str
    framework: str
    apply: Apply
    params: Any
    data: Data
    optimizer: optax.GradientTransformation
    batch_size: int = 256
    fault: str = ""
    causes: tuple[str, ...] = ()
    loss: Apply | None = None

    def with_fault(self, fault: str, *causes: str) -> "Case":
        return dataclasses.replace(self, fault=fault, causes=causes)

    def batch(self, step: int | jax.Array) -> Data:
        """The inputs and targets of a step."""
        rows = (step * self.batch_size + jnp.arange(self.batch_size)) % len(self.data[0])
        return tuple(array[rows] for array in self.data)

    def loss_fn(self, params: Any, *batch: jax.Array) -> jax.Array:
        """The mean cross-entropy, or the mean squared error, unless the case has its own loss."""
        if self.loss is not None:
            return self.loss(params, *batch)
        outputs, targets = self.apply(params, *batch[:-1]), batch[-1]
        if self.classifies:
            logits = outputs.astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()
        return jnp.mean((outputs - targets) ** 2)

    @property
    def classifies(self) -> bool:
        return self.loss is None and jnp.issubdtype(self.data[-1].dtype, jnp.integer)

    def accuracy(self, params: Any, *batch: jax.Array) -> jax.Array:
        """The share of examples whose largest output is that of their class."""
        return jnp.mean(self.apply(params, *batch[:-1]).argmax(-1) == batch[-1])


@functools.cache
def mnist(scale: str = "unit") -> Data:
    """Images (28, 28, 1) and labels.

    Args:
      scale: "unit" for pixels / 255, "standard" for mean 0 and variance 1, "pixels" as stored.
    """
    digits = data.load("mnist", None)
    images = digits.train_images[:_ROWS].astype(np.float32)
    if scale == "unit":
        images = images / 255
    elif scale == "standard":
        images = (images - images.mean()) / images.std()
    return jnp.asarray(images), jnp.asarray(digits.train_labels[:_ROWS])


@functools.cache
def noisy_digits() -> Data:
    """Images with noise, and the same images without."""
    images, _ = mnist()
    return images + 0.3 * jax.random.normal(jax.random.key(1), images.shape), images


def clean_digits() -> Data:
    """Standardized images, twice: for autoencoders."""
    images, _ = mnist("standard")
    return images, images


@functools.cache
def periodic_tokens(vocabulary: int = 32, length: int = 32, period: int = 4) -> Data:
    """Periodic sequences of tokens, and the next tokens: copies from `period` positions back."""
    first = jax.random.randint(jax.random.key(2), (_ROWS, period), 0, vocabulary)
    tokens = jnp.tile(first, (1, length // period + 1))
    return tokens[:, :length], tokens[:, 1 : length + 1]


@functools.cache
def bags_of_tokens(vocabulary: int = 512, length: int = 24) -> Data:
    """Reviews: tokens, each with a hidden sentiment, and whether the sentiments sum to above 0."""
    token_key, sentiment_key = jax.random.split(jax.random.key(3))
    tokens = jax.random.randint(token_key, (_ROWS, length), 0, vocabulary)
    sentiment = jax.random.normal(sentiment_key, (vocabulary,))
    return tokens, (sentiment[tokens].sum(1) > 0).astype(jnp.int32)


@functools.cache
def point_sets(points: int = 16) -> Data:
    """Points in the plane, spread along one of four directions, and which one."""
    label_key, point_key = jax.random.split(jax.random.key(4))
    labels = jax.random.randint(label_key, (_ROWS,), 0, 4)
    angle = labels[:, None] * jnp.pi / 4
    along, across = jax.random.normal(point_key, (2, _ROWS, points)) * jnp.array([[[1.0]], [[0.3]]])
    x = along * jnp.cos(angle) - across * jnp.sin(angle)
    y = along * jnp.sin(angle) + across * jnp.cos(angle)
    return jnp.stack([x, y], -1), labels


@functools.cache
def picture() -> Data:
    """The pixels of an image of 4 x 4 digits, shuffled: coordinates in [-1, 1], and brightness."""
    images, _ = mnist()
    canvas = images[:16].reshape(4, 4, 28, 28).swapaxes(1, 2).reshape(-1, 1)
    places = jnp.linspace(-1, 1, 4 * 28)
    coordinates = jnp.stack(jnp.meshgrid(places, places, indexing="ij"), -1).reshape(-1, 2)
    order = jax.random.permutation(jax.random.key(5), len(canvas))
    return coordinates[order], 2 * canvas[order] - 1


@functools.cache
def curve() -> Data:
    """Points of a noisy sine."""
    x_key, noise_key = jax.random.split(jax.random.key(6))
    x = jax.random.uniform(x_key, (_ROWS, 1), minval=-1)
    return x, jnp.sin(3 * x) + 0.1 * jax.random.normal(noise_key, x.shape)


def linen(
    name: str,
    module: nn.Module,
    data: Data,
    optimizer: optax.GradientTransformation = ADAM,
    batch_size: int = 256,
    framework: str = "Linen",
) -> Case:
    """The case of a Linen module; its other variables are not trained."""
    variables = dict(jax.jit(module.init)({"params": KEY, "dropout": KEY}, data[0][:2]))
    params = variables.pop("params")

    def apply(params: Any, *inputs: jax.Array) -> jax.Array:
        outputs, _ = module.apply(
            {"params": params, **variables},
            *inputs,
            rngs={"dropout": jax.random.key(7)},
            mutable=list(variables),
        )
        return outputs

    return Case(name, framework, apply, params, data, optimizer, batch_size)


def in_nnx(
    name: str,
    module: nnx.Module,
    data: Data,
    optimizer: optax.GradientTransformation = ADAM,
    batch_size: int = 256,
    framework: str = "NNX",
) -> Case:
    """The case of an NNX module."""
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)

    def apply(params: Any, *inputs: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params, rest, copy=True)(*inputs)

    return Case(name, framework, apply, params, data, optimizer, batch_size)


def equinox(
    name: str,
    module: Callable[[jax.Array], jax.Array],
    data: Data,
    optimizer: optax.GradientTransformation = ADAM,
    batch_size: int = 256,
) -> Case:
    """The case of an Equinox module, a function of one example."""
    params, static = eqx.partition(module, eqx.is_inexact_array)

    def apply(params: Any, *inputs: jax.Array) -> jax.Array:
        return jax.vmap(eqx.combine(params, static))(*inputs)

    return Case(name, "Equinox", apply, params, data, optimizer, batch_size)


def plain(
    name: str,
    model: tuple[Apply, Any],
    data: Data,
    optimizer: optax.GradientTransformation = ADAM,
    batch_size: int = 256,
    framework: str = "plain JAX",
) -> Case:
    """The case of a function and its parameters."""
    return Case(name, framework, *model, data, optimizer, batch_size)


def trained_by(
    name: str,
    framework: str,
    loss: Apply,
    params: Any,
    data: Data,
    optimizer: optax.GradientTransformation = ADAM,
    batch_size: int = 256,
) -> Case:
    """The case of a loss of its own, a function of parameters and a batch."""
    return Case(name, framework, loss, params, data, optimizer, batch_size, loss=loss)
