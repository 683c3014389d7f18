"""The data: 256 examples each, synthetic, or of MNIST."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from audit_zoo.cases import mnist

from .cases import Data

_ROWS = 256
_KEYS = dict(enumerate(jax.random.split(jax.random.key(2), 16)))


@functools.cache
def digits(scale: str = "unit", shape: tuple[int, ...] = (784,)) -> Data:
    """MNIST: images of this shape, and labels; scales as `audit_zoo.cases.mnist` has them.

    The shape (14, 14, 1) has every second pixel, for convolutions.
    """
    images, labels = mnist(scale)
    images = images[:_ROWS, ::2, ::2] if shape == (14, 14, 1) else images[:_ROWS]
    return images.reshape(_ROWS, *shape), labels[:_ROWS]


def pixels(shape: tuple[int, ...] = (784,)) -> Data:
    """MNIST with pixels from 0 to 255."""
    return digits("pixels", shape)


@functools.cache
def patterns(features: int = 128) -> Data:
    """Inputs that are all ones or all zeros, and which."""
    y = (jnp.arange(_ROWS) % 2).astype(jnp.float32)[:, None]
    return jnp.tile(y, (1, features)), y


@functools.cache
def xor() -> Data:
    x = jnp.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    return jnp.tile(x, (_ROWS // 4, 1)), jnp.tile(x[:, :1] != x[:, 1:], (_ROWS // 4, 1)).astype(
        jnp.float32
    )


@functools.cache
def bits() -> Data:
    """All numbers of 8 bits, twice: to learn the identity."""
    x = ((np.arange(_ROWS)[:, None] >> np.arange(8)) & 1).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(x)


@functools.cache
def sums(features: int, low: float = 0.0, high: float = 1.0) -> Data:
    """Uniform features, and whether their mean is above its expectation."""
    x = jax.random.uniform(_KEYS[0], (_ROWS, features), minval=low, maxval=high)
    return x, (x.mean(1, keepdims=True) > (low + high) / 2).astype(jnp.float32)


@functools.cache
def shares(features: int = 3) -> Data:
    """Uniform features, and a smooth function of them between 0 and 1."""
    x = jax.random.uniform(_KEYS[1], (_ROWS, features))
    return x, (0.1 + 0.8 * x[:, :1] * x[:, 1:2])


@functools.cache
def squares(top: float = 10.0) -> Data:
    """x from 0 to `top`, and its square."""
    x = jnp.linspace(0, top, _ROWS)[:, None]
    return x, x**2


def line() -> Data:
    """y = 2x - 1 at 7 points."""
    x = jnp.arange(-1.0, 6.0)[:, None]
    return x, 2 * x - 1


@functools.cache
def quartic() -> Data:
    """x from -100 to 100, and its fourth power."""
    x = jnp.linspace(-100, 100, _ROWS)[:, None]
    return x, x**4


@functools.cache
def logarithm() -> Data:
    """x in (0, 1), and its logarithm."""
    x = jax.random.uniform(_KEYS[2], (_ROWS, 1), minval=0.01)
    return x, jnp.log(x)


@functools.cache
def signed(scale: float = 1.0) -> Data:
    """Two features, and a smooth function of them with both signs."""
    x = jax.random.normal(_KEYS[3], (_ROWS, 2))
    return x, scale * jnp.tanh(x[:, :1] - x[:, 1:] / 2)


@functools.cache
def tabular() -> Data:
    """Age, income, balance and others in their own units, and whether somebody stays."""
    z = jax.random.normal(_KEYS[4], (_ROWS, 11))
    stays = (z @ jnp.linspace(-1, 1, 11) > 0).astype(jnp.float32)[:, None]
    means = jnp.array([650, 40, 5, 76_000, 1.5, 0.7, 0.5, 100_000, 0.3, 0.3, 3])
    spreads = jnp.array([97, 10, 3, 62_000, 0.6, 0.4, 0.5, 57_000, 0.4, 0.4, 1])
    return means + spreads * z, stays


@functools.cache
def cars() -> Data:
    """Nine features of cars in their own units, and miles per gallon: 23 on average."""
    z = jax.random.normal(_KEYS[5], (_ROWS, 9))
    mpg = 23 + 7 * jnp.tanh(z @ jnp.array([-0.3, -0.5, -0.3, -0.8, 0.3, 0.4, 0, 0, 0]))[:, None]
    means = jnp.array([5.5, 194, 104, 2978, 15.6, 76, 0.6, 0.2, 0.2])
    spreads = jnp.array([1.7, 104, 38, 849, 2.8, 3.7, 0.5, 0.4, 0.4])
    return means + spreads * z, mpg


def standardized(data: Data) -> Data:
    """The same with inputs of mean 0 and variance 1."""
    x, y = data
    return (x - x.mean(0)) / (x.std(0) + 1e-6), y


def with_scaled_targets(data: Data) -> Data:
    """The same with targets of mean 0 and variance 1."""
    x, y = data
    return x, (y - y.mean(0)) / y.std(0)


def with_binary_classes(data: Data) -> Data:
    """The same with 0 and 1 as numbers of classes."""
    x, y = data
    return x, y[:, 0].astype(jnp.int32)


@functools.cache
def blobs(classes: int, features: int = 2) -> Data:
    """Normal clusters, and which."""
    y = jnp.arange(_ROWS) % classes
    centers = 2.5 * jax.random.normal(_KEYS[6], (classes, features))
    return centers[y] + jax.random.normal(_KEYS[7], (_ROWS, features)), y


@functools.cache
def circles(factor: float) -> Data:
    """Two concentric circles with noise, times a factor, and which."""
    y = (jnp.arange(_ROWS) % 2).astype(jnp.float32)
    angle = 2 * jnp.pi * jnp.arange(_ROWS) / _ROWS
    radius = 1 - 0.2 * y
    x = radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)
    x = x + 0.1 * jax.random.normal(_KEYS[8], x.shape)
    return factor * x, y[:, None]


@functools.cache
def tokens(vocabulary: int = 32, length: int = 16) -> Data:
    """Sequences, and after each token the one before it."""
    x = jax.random.randint(_KEYS[9], (_ROWS, length), 0, vocabulary)
    return x, jnp.roll(x, 1, axis=1).at[:, 0].set(0)


@functools.cache
def wave() -> Data:
    """Places in [-1, 1], and a signal with fine detail."""
    x = jnp.linspace(-1, 1, _ROWS)[:, None]
    return x, jnp.sin(20 * x) * jnp.cos(7 * x)
