"""A published bug, the recipes that make its networks, and the losses they are trained with."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

Apply = Callable[..., jax.Array]  # maps (params, inputs) to outputs
Model = Callable[[jax.Array], tuple[Apply, Any]]  # maps a key to a function and its parameters
Init = Callable[..., jax.Array]  # an initializer: maps (key, shape) to an array
Loss = Callable[[jax.Array, jax.Array], jax.Array]  # maps (outputs, targets) to a number
Data = tuple[jax.Array, jax.Array]  # inputs and targets

# The default initializers of Keras, in which most of the originals are written.
GLOROT, ZEROS = jax.nn.initializers.glorot_uniform(), jax.nn.initializers.zeros
NORMAL = jax.nn.initializers.normal  # of this standard deviation
KERAS_NORMAL = NORMAL(0.05)
ADAM = optax.adam(1e-3)


def keras_uniform(key: jax.Array, shape: Sequence[int]) -> jax.Array:
    """What Keras called "uniform"."""
    return jax.random.uniform(key, shape, minval=-0.05, maxval=0.05)


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """A network, its loss, one batch of data, and how it is trained.

    Attributes:
        model: the function and its parameters, from a key.
        loss: of the outputs and targets.
        data: inputs and targets.
        optimizer: what it is trained with.
        framework: what it is written in.
        alone: whether its error is measured one example at a time, as in use. It matters only
            where the examples of a batch influence each other.
    """

    model: Model
    loss: Loss
    data: Data
    optimizer: optax.GradientTransformation = ADAM
    framework: str = "plain JAX"
    alone: bool = False

    def but(self, **changes: Any) -> "Recipe":
        """The same recipe with these changes."""
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True)
class Bug:
    """A fault that somebody published, and its repair.

    Attributes:
        name: the number of the question or issue, and the set that has it.
        says: what the source says is wrong, and what its repair changes.
        faulty: the network as published.
        repaired: the network after the repair.
        causes: what an audit may correctly name. Written before any audit was run.
        harmless: whether training showed no harm here, whatever the source says. An audit that
            reports nothing is then right.
    """

    name: str
    says: str
    faulty: Recipe
    repaired: Recipe
    causes: tuple[str, ...]
    harmless: bool = False


@dataclasses.dataclass(frozen=True)
class Friend:
    """A network that looks like a bug and is well initialized."""

    name: str
    says: str
    recipe: Recipe


def mlp(
    sizes: Sequence[int],
    activations: Sequence[Callable[[jax.Array], jax.Array] | None],
    kernel: Init | Sequence[Init] = GLOROT,
    bias: Init = ZEROS,
) -> Model:
    """Layers of these sizes, in plain JAX; None is no activation."""
    kernels = kernel if isinstance(kernel, Sequence) else [kernel] * len(activations)

    def make(key: jax.Array) -> tuple[Apply, Any]:
        params = []
        for i, shape in enumerate(itertools.pairwise(sizes)):
            kernel_key, bias_key = jax.random.split(jax.random.fold_in(key, i))
            params.append({"w": kernels[i](kernel_key, shape), "b": bias(bias_key, shape[1:])})
        return apply, params

    def apply(params: Any, x: jax.Array) -> jax.Array:
        for layer, activation in zip(params, activations, strict=True):
            x = x @ layer["w"] + layer["b"]
            x = x if activation is None else activation(x)
        return x

    return make


def linen(module: nn.Module, example: jax.Array) -> Model:
    """A Linen module; dropout, if any, has a fixed key."""

    def make(key: jax.Array) -> tuple[Apply, Any]:
        params = module.init({"params": key, "dropout": key}, example)["params"]

        def apply(params: Any, x: jax.Array) -> jax.Array:
            outputs: Any = module.apply({"params": params}, x, rngs={"dropout": jax.random.key(7)})
            return outputs

        return apply, params

    return make


def in_nnx(module: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    """An NNX module."""

    def make(key: jax.Array) -> tuple[Apply, Any]:
        graphdef, params, rest = nnx.split(module(nnx.Rngs(key)), nnx.Param, ...)

        def apply(params: Any, x: jax.Array) -> jax.Array:
            return nnx.merge(graphdef, params, rest, copy=True)(x)

        return apply, params

    return make


def equinox(module: Callable[[jax.Array], Callable[[jax.Array], jax.Array]]) -> Model:
    """An Equinox module, a function of one example."""

    def make(key: jax.Array) -> tuple[Apply, Any]:
        params, static = eqx.partition(module(key), eqx.is_inexact_array)

        def apply(params: Any, x: jax.Array) -> jax.Array:
            return jax.vmap(eqx.combine(params, static))(x)

        return apply, params

    return make


def mse(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean((outputs - targets) ** 2)


def mae(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean(jnp.abs(outputs - targets))


def bce(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Keras's binary cross-entropy, of probabilities that it clips."""
    p = jnp.clip(outputs, 1e-7, 1 - 1e-7)
    return -jnp.mean(targets * jnp.log(p) + (1 - targets) * jnp.log(1 - p))


def bce_unclipped(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """The same as one writes it by hand."""
    return -jnp.mean(targets * jnp.log(outputs) + (1 - targets) * jnp.log(1 - outputs))


def bce_of_logits(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return optax.sigmoid_binary_cross_entropy(outputs, targets).mean()


def cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Of logits, with numbers of classes."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()


def summed_cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Summed over the batch."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).sum()


def keras_cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Keras's, of probabilities, which it divides by their sum and clips."""
    p = outputs / jnp.sum(outputs, axis=-1, keepdims=True)
    p = jnp.clip(p, 1e-7, 1 - 1e-7)
    return -jnp.mean(jnp.take_along_axis(jnp.log(p), targets[:, None], axis=-1))


def nll(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Of probabilities, as one writes it by hand."""
    hot = jax.nn.one_hot(targets, outputs.shape[-1])
    return -jnp.mean(jnp.sum(hot * jnp.log(outputs), axis=-1))


def error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """How wrong the outputs are, whatever their scale: 0 is best, about 1 or less is no better
    than a constant.

    The share of wrong classes; for targets of 0 and 1, that at the best threshold; for others the
    mean squared error over the variance of the targets, at most 10.
    """
    if targets.shape[-1] == 10 and targets.ndim == 2:  # one-hot digits
        targets = jnp.argmax(targets, -1)
    if jnp.issubdtype(targets.dtype, jnp.integer):
        return jnp.mean(jnp.argmax(outputs, -1) != targets)
    outputs = outputs.reshape(targets.shape).astype(jnp.float32)
    relative = jnp.mean((outputs - targets) ** 2) / jnp.var(targets)
    binary = jnp.all((targets == 0) | (targets == 1))
    wrong = jnp.where(jnp.isfinite(outputs).all(), _at_best_threshold(outputs, targets), 1.0)
    return jnp.where(binary, wrong, jnp.clip(jnp.nan_to_num(relative, nan=10.0), 0, 10))


def _at_best_threshold(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    thresholds = jnp.quantile(outputs, jnp.linspace(0, 1, 65))
    above = outputs.ravel() > thresholds[:, None]
    return jnp.min(jnp.mean(above != (targets.ravel() == 1), axis=1))
