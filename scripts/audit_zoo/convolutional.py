"""Convolutional networks, in Linen and NNX."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

import initjax

from .perceptrons import LECUN, ZEROS, Init, flat


class NnxCNN(nnx.Module):
    """NNX: two convolutions with pooling, and two linear layers."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv1 = nnx.Conv(1, 8, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(8, 16, (3, 3), rngs=rngs)
        self.linear1 = nnx.Linear(7 * 7 * 16, 64, rngs=rngs)
        self.linear2 = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.max_pool(nnx.relu(self.conv1(x)), (2, 2), (2, 2))
        x = nnx.max_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2))
        return self.linear2(nnx.relu(self.linear1(flat(x))))


class ResNet(nn.Module):
    """Linen: residual convolutions, with batch norm or with zeros at the end of each branch."""

    blocks: int = 3
    features: int = 16
    normalized: bool = True

    @nn.compact
    def __call__(self, x):
        def norm(x: jax.Array) -> jax.Array:
            return nn.BatchNorm(use_running_average=False)(x) if self.normalized else x

        he = nn.initializers.he_normal()
        x = nn.relu(norm(nn.Conv(self.features, (3, 3), (2, 2), kernel_init=he)(x)))
        for i in range(self.blocks):
            stride = 2 if i == 1 else 1
            width = self.features * (2 if i else 1)
            branch = nn.Conv(width, (3, 3), (stride, stride), kernel_init=he)(x)
            branch = nn.relu(norm(branch))
            end = he if self.normalized else ZEROS
            branch = norm(nn.Conv(width, (3, 3), kernel_init=end)(branch))
            if x.shape != branch.shape:
                x = nn.Conv(width, (1, 1), (stride, stride), kernel_init=LECUN)(x)
            x = nn.relu(x + branch)
        return nn.Dense(10)(x.mean((1, 2)))


class MobileNet(nn.Module):
    """Linen: depthwise and pointwise convolutions, without normalization."""

    depthwise_init: Init
    blocks: int = 5
    features: int = 32

    @nn.compact
    def __call__(self, x):
        he = nn.initializers.he_normal()
        x = nn.relu(nn.Conv(self.features, (4, 4), (4, 4), kernel_init=he)(x))
        for _ in range(self.blocks):
            x = nn.Conv(
                self.features,
                (3, 3),
                feature_group_count=self.features,
                kernel_init=self.depthwise_init,
            )(x)
            x = nn.relu(nn.Conv(self.features, (1, 1), kernel_init=he)(x))
        return nn.Dense(10)(x.mean((1, 2)))


class Hourglasses(nn.Module):
    """Linen: down from 7 x 7 to one pixel and up by a transposed convolution, several times."""

    upsample_init: Init
    stacks: int = 3

    @nn.compact
    def __call__(self, x):
        he = nn.initializers.he_normal()
        x = nn.relu(nn.Conv(32, (4, 4), (4, 4), kernel_init=he)(x))
        for _ in range(self.stacks):
            x = nn.relu(nn.Conv(64, (7, 7), (7, 7), kernel_init=he)(x))
            x = nn.relu(nn.ConvTranspose(32, (7, 7), (7, 7), kernel_init=self.upsample_init)(x))
        return nn.Dense(10)(flat(x))


class Autoencoder(nn.Module):
    """Linen: the decoder upsamples by transposed convolutions, from 1 to 28 pixels."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(64, kernel_init=nn.initializers.he_normal())(flat(x)))
        x = x.reshape(-1, 1, 1, 64)
        for features, size, stride in ((32, 7, 7), (16, 4, 2), (8, 4, 2)):
            up = initjax.he_normal(**initjax.conv_transpose_fans((stride, stride)))
            layer = nn.ConvTranspose(features, (size, size), (stride, stride), kernel_init=up)
            x = nn.relu(layer(x))
        return nn.Conv(1, (1, 1))(x)


class UNet(nn.Module):
    """Linen: down, up by transposed convolutions, with skip connections."""

    @nn.compact
    def __call__(self, x):
        he = nn.initializers.he_normal()
        up = initjax.he_normal(**initjax.conv_transpose_fans(strides=(2, 2)))
        high = nn.relu(nn.Conv(8, (3, 3), kernel_init=he)(x))
        middle = nn.relu(nn.Conv(16, (3, 3), (2, 2), kernel_init=he)(high))
        low = nn.relu(nn.Conv(32, (3, 3), (2, 2), kernel_init=he)(middle))
        x = nn.relu(nn.ConvTranspose(16, (2, 2), (2, 2), kernel_init=up)(low))
        x = nn.relu(nn.Conv(16, (3, 3), kernel_init=he)(jnp.concatenate([x, middle], -1)))
        x = nn.relu(nn.ConvTranspose(8, (2, 2), (2, 2), kernel_init=up)(x))
        x = nn.relu(nn.Conv(8, (3, 3), kernel_init=he)(jnp.concatenate([x, high], -1)))
        return nn.Conv(1, (1, 1))(x)
