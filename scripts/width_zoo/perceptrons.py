"""Perceptrons, plain, residual, normalized, stacked and over sets, in five ways of writing JAX."""

import functools
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
from audit_zoo.perceptrons import flat
from flax import nnx

from .cases import Apply, Factors, Init

_CLASSES, _PIXELS = 10, 14 * 14


class _NnxMLP(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.stem = nnx.Linear(_PIXELS, width, rngs=rngs)
        self.hidden = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(2)])
        self.head = nnx.Linear(width, _CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.stem(flat(x)))
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return self.head(x)


@functools.cache
def _rest(build: Any) -> Any:
    """What isn't trained, made outside of what is traced; drawn only if there is some."""
    with jax.ensure_compile_time_eval():
        shapes = nnx.split(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))), nnx.Param, ...)
        if not jax.tree.leaves(shapes[2]):
            return shapes
        return nnx.split(build(rngs=nnx.Rngs(0)), nnx.Param, ...)


def nnx_model(build: Any, factors: Factors) -> tuple[Apply, Init]:
    """The model of an NNX module; `build` takes `rngs`."""

    def init(key: jax.Array) -> Any:
        return nnx.split(build(rngs=nnx.Rngs(key)), nnx.Param, ...)[1]

    def apply(params: Any, x: jax.Array) -> jax.Array:
        graphdef, _, rest = _rest(build)
        return factors.logits * nnx.merge(graphdef, params, rest, copy=True)(x)

    return apply, init


def mlp(width: int, factors: Factors) -> tuple[Apply, Init]:
    """NNX: two hidden layers with biases."""
    return nnx_model(functools.partial(_NnxMLP, width), factors)


class _Residual(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width, name="stem")(flat(x))
        for _ in range(2):
            x = x + nn.Dense(self.width)(nn.relu(nn.Dense(self.width)(x)))
        return nn.Dense(_CLASSES, name="head")(nn.relu(x))


def linen_model(module: nn.Module, factors: Factors, example: Any) -> tuple[Apply, Init]:
    """The model of a Linen module."""

    def apply(params: Any, x: jax.Array) -> Any:
        logits: Any = module.apply(params, x)
        return factors.logits * logits

    return apply, lambda key: module.init(key, example)


def residual_mlp(width: int, factors: Factors) -> tuple[Apply, Init]:
    """Linen: two blocks of two layers."""
    return linen_model(_Residual(width), factors, jnp.zeros((1, 14, 14, 1)))


def _lecun(key: jax.Array, *shape: int) -> jax.Array:
    return jax.random.normal(key, shape) * shape[-2] ** -0.5


def normed_mlp(width: int, factors: Factors) -> tuple[Apply, Init]:
    """Plain functions: LayerNorm and RMSNorm before the hidden layers, with gains."""

    def init(key: jax.Array) -> Any:
        keys = jax.random.split(key, 4)
        return {
            "stem": _lecun(keys[0], _PIXELS, width),
            "blocks": [
                {"gain": jnp.ones(width), "kernel": _lecun(one, width, width)} for one in keys[1:3]
            ],
            "head": {"gain": jnp.ones(width), "kernel": _lecun(keys[3], width, _CLASSES)},
        }

    def apply(params: Any, x: jax.Array) -> jax.Array:
        x = factors.product("stem") * (flat(x) @ params["stem"])
        for number, block in enumerate(params["blocks"]):
            y = (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-6)
            times = factors.product(f"blocks/{number}/kernel")
            x = x + jax.nn.gelu(times * ((y * block["gain"]) @ block["kernel"]))
        x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)
        return factors.logits * ((x * params["head"]["gain"]) @ params["head"]["kernel"])

    return apply, init


def plain_mlp(width: int, factors: Factors) -> tuple[Apply, Init]:
    """Plain functions: two hidden layers without biases, all products scaled as a plan says."""
    shapes = {"a": (7 * 7, width), "b": (width, width), "c": (width, width)}
    shapes["head"] = (width, _CLASSES)

    def init(key: jax.Array) -> Any:
        keys = jax.random.split(key, len(shapes))
        return {n: _lecun(one, *s) for one, (n, s) in zip(keys, shapes.items(), strict=True)}

    def apply(params: Any, x: jax.Array) -> jax.Array:
        x = flat(x)
        for name in "abc":
            x = jax.nn.relu(factors.product(name) * (x @ params[name]))
        return factors.logits * (x @ params["head"])

    return apply, init


def stacked_mlp(width: int, factors: Factors) -> tuple[Apply, Init]:
    """As Haiku: modules by name in a flat dict; the blocks are stacked and scanned."""

    def init(key: jax.Array) -> Any:
        stem, blocks, head = jax.random.split(key, 3)
        return {
            "net/~/stem": {"w": _lecun(stem, _PIXELS, width), "b": jnp.zeros(width)},
            "net/~/blocks": {"w": _lecun(blocks, 3, width, width), "b": jnp.zeros((3, width))},
            "net/~/head": {"w": _lecun(head, width, _CLASSES), "b": jnp.zeros(_CLASSES)},
        }

    def affine(module: Any, x: jax.Array) -> jax.Array:
        return x @ module["w"] + module["b"]

    def apply(params: Any, x: jax.Array) -> jax.Array:
        x = affine(params["net/~/stem"], flat(x))
        step = lambda x, one: (x + jax.nn.tanh(affine(one, x)), None)  # noqa: E731
        x, _ = jax.lax.scan(step, x, params["net/~/blocks"])
        return factors.logits * affine(params["net/~/head"], x)

    return apply, init


class _DeepSets(eqx.Module):
    phi: list[eqx.nn.Linear]
    rho: list[eqx.nn.Linear]

    def __init__(self, width: int, key: jax.Array):
        keys = jax.random.split(key, 4)
        self.phi = [eqx.nn.Linear(2, width, key=keys[0]), eqx.nn.Linear(width, width, key=keys[1])]
        self.rho = [eqx.nn.Linear(width, width, key=keys[2]), eqx.nn.Linear(width, 4, key=keys[3])]

    def __call__(self, points: jax.Array) -> jax.Array:
        x = jax.nn.relu(jax.vmap(self.phi[0])(points))
        x = jax.nn.relu(jax.vmap(self.phi[1])(x)).mean(0)
        return self.rho[1](jax.nn.relu(self.rho[0](x)))


class _CNN(eqx.Module):
    convs: list[eqx.nn.Conv2d]
    head: eqx.nn.Linear

    def __init__(self, width: int, key: jax.Array):
        keys = jax.random.split(key, 4)
        sizes = [(1, width), (width, width), (width, width)]
        self.convs = [
            eqx.nn.Conv2d(*size, 3, stride=2, padding=1, key=one)
            for size, one in zip(sizes, keys[:3], strict=True)
        ]
        self.head = eqx.nn.Linear(width, _CLASSES, key=keys[3])

    def __call__(self, image: jax.Array) -> jax.Array:
        x = image.transpose(2, 0, 1)
        for conv in self.convs:
            x = jax.nn.relu(conv(x))
        return self.head(x.mean((1, 2)))


def _equinox_model(build: Any, factors: Factors) -> tuple[Apply, Init]:
    static = eqx.partition(eqx.filter_eval_shape(build, jax.random.key(0)), _is_shape)[1]

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return factors.logits * jax.vmap(eqx.combine(params, static))(x)

    return apply, lambda key: eqx.filter(build(key), eqx.is_inexact_array)


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def deep_sets(width: int, factors: Factors) -> tuple[Apply, Init]:
    """Equinox: a network on points, their mean, and a network on it."""
    return _equinox_model(lambda key: _DeepSets(width, key), factors)


def cnn(width: int, factors: Factors) -> tuple[Apply, Init]:
    """Equinox: three convolutions and global pooling."""
    return _equinox_model(lambda key: _CNN(width, key), factors)
