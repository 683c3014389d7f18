"""Models of images, in Linen, NNX and Equinox."""

import functools
import math
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from audit_zoo.cases import ADAM, KEY, Case, clean_digits, equinox, in_nnx, linen, mnist, trained_by
from flax import nnx

WIDTH, HEADS, LAYERS, PATCHES = 48, 4, 2, 16
init = nn.initializers
truncated = init.truncated_normal(0.02)


def patches(images: jax.Array) -> jax.Array:
    """(batch, 16, 49): a grid of 4 x 4 patches."""
    x = images.reshape(-1, 4, 7, 4, 7).swapaxes(2, 3)
    return x.reshape(len(images), PATCHES, 49)


class ViT(nn.Module):
    """google-research/vision_transformer: Glorot in the blocks, a token and a head of zeros."""

    @nn.compact
    def __call__(self, images):
        x = nn.Conv(WIDTH, (7, 7), (7, 7))(images).reshape(len(images), PATCHES, WIDTH)
        token = self.param("cls", init.zeros, (1, 1, WIDTH))
        x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], 1)
        x += self.param("pos_embedding", init.normal(0.02), (1, *x.shape[1:]))
        glorot = init.xavier_uniform()
        layer = functools.partial(nn.Dense, kernel_init=glorot, bias_init=init.normal(1e-6))
        for _ in range(LAYERS):
            y = nn.LayerNorm()(x)
            x += nn.MultiHeadDotProductAttention(HEADS, kernel_init=glorot)(y, y)
            x += layer(WIDTH)(nn.gelu(layer(4 * WIDTH)(nn.LayerNorm()(x))))
        return nn.Dense(10, kernel_init=init.zeros)(nn.LayerNorm()(x)[:, 0])


def vit() -> Case:
    return linen("ViT, norm first", ViT(), mnist("standard"), ADAM, 64)


class CaiTBlock(nnx.Module):
    """NNX: each branch ends in a LayerScale."""

    def __init__(self, scale: float, rngs: nnx.Rngs):
        options: Any = {"kernel_init": truncated, "rngs": rngs}
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2)])
        self.qkv = nnx.Linear(WIDTH, 3 * WIDTH, **options)
        self.proj = nnx.Linear(WIDTH, WIDTH, **options)
        self.up = nnx.Linear(WIDTH, 4 * WIDTH, **options)
        self.down = nnx.Linear(4 * WIDTH, WIDTH, **options)
        self.gammas = nnx.Param(jnp.full((2, WIDTH), scale))

    def __call__(self, x: jax.Array) -> jax.Array:
        parts = jnp.split(self.qkv(self.norms[0](x)), 3, -1)
        q, k, v = (part.reshape(*part.shape[:2], HEADS, -1) for part in parts)
        y = nn.dot_product_attention(q, k, v).reshape(x.shape)
        x = x + self.gammas[0] * self.proj(y)
        return x + self.gammas[1] * self.down(nnx.gelu(self.up(self.norms[1](x))))


class CaiT(nnx.Module):
    """facebookresearch/deit, CaiT: LayerScale, at 1e-5 as in its networks of 18 to 24 layers."""

    def __init__(self, scale: float):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Linear(49, WIDTH, rngs=rngs)
        self.positions = nnx.Param(truncated(KEY, (PATCHES, WIDTH)))
        self.blocks = nnx.List([CaiTBlock(scale, rngs) for _ in range(3)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 10, kernel_init=truncated, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = self.embed(patches(images)) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def cait() -> Case:
    return in_nnx("CaiT: LayerScale 1e-5", CaiT(1e-5), mnist("standard"), ADAM, 64)


class ConvNeXt(nn.Module):
    """facebookresearch/ConvNeXt: depthwise convolutions and LayerScale at 1e-6."""

    @nn.compact
    def __call__(self, x):
        layer = functools.partial(nn.Dense, kernel_init=truncated)
        x = nn.LayerNorm()(nn.Conv(WIDTH, (4, 4), (4, 4), kernel_init=truncated)(x))
        for i in range(3):
            depthwise = nn.Conv(WIDTH, (7, 7), feature_group_count=WIDTH, kernel_init=truncated)
            y = layer(WIDTH)(nn.gelu(layer(4 * WIDTH)(nn.LayerNorm()(depthwise(x)))))
            x += self.param(f"gamma_{i}", init.constant(1e-6), (WIDTH,)) * y
        return layer(10)(nn.LayerNorm()(x.mean((1, 2))))


def convnext() -> Case:
    return linen("ConvNeXt: LayerScale 1e-6", ConvNeXt(), mnist("standard"), ADAM, 64)


class Mixer(nn.Module):
    """google-research/vision_transformer, MLP-Mixer: Flax's defaults, a head of zeros."""

    @nn.compact
    def __call__(self, images):
        x = nn.Conv(WIDTH, (7, 7), (7, 7))(images).reshape(len(images), PATCHES, WIDTH)
        for _ in range(LAYERS):
            y = nn.LayerNorm()(x).swapaxes(1, 2)
            x += nn.Dense(PATCHES)(nn.gelu(nn.Dense(24)(y))).swapaxes(1, 2)
            x += nn.Dense(WIDTH)(nn.gelu(nn.Dense(4 * WIDTH)(nn.LayerNorm()(x))))
        return nn.Dense(10, kernel_init=init.zeros)(nn.LayerNorm()(x).mean(1))


def mixer() -> Case:
    return linen("MLP-Mixer", Mixer(), mnist("standard"), ADAM, 64)


class Perceiver(nn.Module):
    """google-deepmind, Perceiver IO: latents of N(0, .02²) read 196 pixels in blocks of 2 x 2."""

    latents: int = 12

    @nn.compact
    def __call__(self, images):
        pixels = images.reshape(-1, 14, 2, 14, 2).swapaxes(2, 3).reshape(len(images), 196, 4)
        angles = jnp.arange(196)[:, None] * jnp.pi * 2.0 ** -jnp.arange(8)
        places = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
        x = jnp.concatenate([pixels, jnp.tile(places, (len(images), 1, 1))], -1)
        x = nn.LayerNorm()(x)
        z = self.param("latents", truncated, (self.latents, WIDTH))
        z = jnp.tile(z, (len(images), 1, 1))
        z = self.block(z, x)
        for _ in range(LAYERS):
            z = self.block(z, None)
        query = jnp.tile(self.param("query", truncated, (1, WIDTH)), (len(images), 1, 1))
        return nn.Dense(10)(self.block(query, nn.LayerNorm()(z))[:, 0])

    def block(self, z, x):
        y = nn.LayerNorm()(z)
        scale = init.variance_scaling(1.0, "fan_in", "truncated_normal")
        attend = nn.MultiHeadDotProductAttention(HEADS, kernel_init=scale)
        z += attend(y, y if x is None else x)
        return z + nn.Dense(WIDTH)(nn.gelu(nn.Dense(WIDTH)(nn.LayerNorm()(z))))


def perceiver() -> Case:
    return linen("Perceiver IO", Perceiver(), mnist("standard"), ADAM, 32)


class RetinaNet(nn.Module):
    """torchvision, RetinaNet: heads of N(0, .01²) at width 256, and here of the same gain; the
    bias says that 1% of places hold an object."""

    @nn.compact
    def __call__(self, x):
        he = init.variance_scaling(2.0, "fan_out", "normal")
        for width in (16, 32):
            x = nn.Conv(width, (3, 3), (2, 2), use_bias=False, kernel_init=he)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
        x = nn.Conv(32, (1, 1), kernel_init=init.variance_scaling(1 / 3, "fan_in", "uniform"))(x)
        small = functools.partial(
            nn.Conv, kernel_size=(3, 3), kernel_init=init.normal(0.01 * 8**0.5)
        )
        scores = boxes = x
        for _ in range(2):
            scores, boxes = nn.relu(small(32)(scores)), nn.relu(small(32)(boxes))
        prior = init.constant(-math.log(99.0))
        return small(10, bias_init=prior)(scores), small(4)(boxes)


def retinanet() -> Case:
    """Finds the center of the digit: its class, and the box around it."""
    images, labels = mnist("standard")
    model = RetinaNet()
    variables = model.init(KEY, images[:2])
    ink = (images[..., 0] > 0).astype(jnp.float32)
    places = jnp.arange(28.0)
    rows, columns = (ink.sum(axis) for axis in (2, 1))
    rows, columns = (weight @ places / weight.sum(-1) for weight in (rows, columns))
    cells = (rows // 4).astype(jnp.int32) * 7 + (columns // 4).astype(jnp.int32)
    box = jnp.stack([rows % 4, columns % 4, ink.any(2).sum(1), ink.any(1).sum(1)], -1) / 14 - 0.5

    def loss(params, images, labels, cells, box):
        state = {"params": params, "batch_stats": variables["batch_stats"]}
        (scores, boxes), _ = model.apply(state, images, mutable=["batch_stats"])
        scores, boxes = (x.reshape(len(x), 49, -1) for x in (scores, boxes))
        here = jax.nn.one_hot(cells, 49)
        targets = here[..., None] * jax.nn.one_hot(labels, 10)[:, None]
        p = jax.nn.sigmoid(scores)
        right = p * targets + (1 - p) * (1 - targets)
        entropy = optax.sigmoid_binary_cross_entropy(scores, targets)
        alpha = 0.25 * targets + 0.75 * (1 - targets)
        focal = (alpha * (1 - right) ** 2 * entropy).sum((1, 2)).mean()
        return focal + (here[..., None] * jnp.abs(boxes - box[:, None])).sum((1, 2)).mean()

    data = images, labels, cells, box
    return trained_by("RetinaNet's head", "Linen", loss, variables["params"], data, ADAM, 32)


class SimCLR(nn.Module):
    """google-research/simclr: a ResNet whose branches end in a norm of zeros, two layers behind."""

    @nn.compact
    def __call__(self, x):
        he = init.variance_scaling(2.0, "fan_in", "truncated_normal")
        conv = functools.partial(nn.Conv, use_bias=False, kernel_init=he)
        norm = functools.partial(nn.BatchNorm, use_running_average=False)
        x = nn.relu(norm()(conv(16, (3, 3), (2, 2))(x)))
        for width, strides in ((16, (1, 1)), (32, (2, 2))):
            y = nn.relu(norm()(conv(width, (3, 3), strides)(x)))
            y = norm(scale_init=init.zeros)(conv(width, (3, 3))(y))
            if strides != (1, 1):
                x = norm()(conv(width, (1, 1), strides)(x))
            x = nn.relu(x + y)
        layer = functools.partial(nn.Dense, use_bias=False, kernel_init=init.normal(0.01))
        x = nn.relu(norm()(layer(64)(x.mean((1, 2)))))
        return norm(use_bias=False)(layer(32)(x))


def simclr() -> Case:
    """Two views of each image, of shifted and noisy pixels."""
    images, _ = mnist("standard")
    model = SimCLR()
    variables = model.init(KEY, images[:2])
    views = (
        jnp.roll(images, shift, (1, 2)) + 0.1 * jax.random.normal(jax.random.key(i), images.shape)
        for i, shift in enumerate(((2, 1), (-1, -2)))
    )

    def loss(params, one, other):
        state = {"params": params, "batch_stats": variables["batch_stats"]}
        z, _ = model.apply(state, jnp.concatenate([one, other]), mutable=["batch_stats"])
        z /= jnp.linalg.norm(z, axis=-1, keepdims=True)
        scores = z @ z.T / 0.5 - 1e9 * jnp.eye(len(z))
        labels = jnp.roll(jnp.arange(len(z)), len(one))
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    return trained_by("SimCLR", "Linen", loss, variables["params"], tuple(views), ADAM, 32)


class WeightNormed(nn.Module):
    """Linen's weight normalization in a CNN."""

    @nn.compact
    def __call__(self, x):
        for width in (16, 32):
            x = nn.relu(nn.WeightNorm(nn.Conv(width, (3, 3), (2, 2)))(x))
        x = nn.relu(nn.WeightNorm(nn.Dense(64))(x.reshape(len(x), -1)))
        return nn.WeightNorm(nn.Dense(10))(x)


def weight_norm() -> Case:
    return linen("Weight normalization", WeightNormed(), mnist("standard"), ADAM, 64)


class Decoder(nn.Module):
    """Linen's transposed convolutions at their defaults, which count fan_in without strides."""

    @nn.compact
    def __call__(self, x):
        for width in (16, 32):
            x = nn.relu(nn.Conv(width, (3, 3), (2, 2))(x))
        z = nn.Dense(16)(x.reshape(len(x), -1))
        x = nn.relu(nn.Dense(7 * 7 * 32)(z)).reshape(-1, 7, 7, 32)
        x = nn.relu(nn.ConvTranspose(16, (4, 4), (2, 2))(x))
        return nn.ConvTranspose(1, (4, 4), (2, 2))(x)


def transposed() -> Case:
    return linen("Decoder of transposed convolutions", Decoder(), clean_digits(), ADAM, 32)


class Vgg(eqx.Module):
    """Equinox: VGG with its defaults, which are torch's."""

    convs: list[eqx.nn.Conv2d]
    head: eqx.nn.MLP

    def __init__(self, key):
        keys = jax.random.split(key, 5)
        sizes = (1, 8, 8, 16, 16)
        self.convs = [
            eqx.nn.Conv2d(a, b, 3, padding=1, key=k)
            for a, b, k in zip(sizes, sizes[1:], keys, strict=False)
        ]
        self.head = eqx.nn.MLP(16 * 49, 10, 64, 1, key=keys[4])

    def __call__(self, image):
        x = image.transpose(2, 0, 1)
        for i, conv in enumerate(self.convs):
            x = jax.nn.relu(conv(x))
            if i % 2:
                x = eqx.nn.MaxPool2d(2, 2)(x)
        return self.head(x.ravel())


def vgg() -> Case:
    return equinox("VGG, Equinox's default", Vgg(KEY), mnist("standard"), ADAM, 64)


VISION = (
    vit,
    cait,
    convnext,
    mixer,
    perceiver,
    retinanet,
    simclr,
    weight_norm,
    transposed,
    vgg,
)
