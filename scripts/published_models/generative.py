"""Models that generate or fit a distribution, in Linen, NNX, Equinox and plain JAX."""

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from audit_zoo.cases import ADAM, KEY, Case, curve, linen, mnist, plain, trained_by
from flax import nnx

init = nn.initializers
FAST_ADAM = optax.adam(3e-3)


def sines(times: jax.Array, size: int = 32) -> jax.Array:
    angles = 1000 * times[:, None] * 1e4 ** -(jnp.arange(size // 2) / (size // 2))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


@functools.cache
def diffused() -> tuple[jax.Array, ...]:
    """Noisy images, times, and the noise."""
    images, _ = mnist()
    images = 2 * jnp.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))[:4096, ::2, ::2] - 1
    keys = jax.random.split(jax.random.key(11))
    times = jax.random.uniform(keys[0], (len(images),))
    noise = jax.random.normal(keys[1], images.shape)
    level = jnp.cos(times * jnp.pi / 2)[:, None, None, None]
    return level * images + jnp.sqrt(1 - level**2) * noise, times, noise


class Residual(nn.Module):
    """hojonathanho/diffusion: the second convolution of a branch starts at zero."""

    features: int

    @nn.compact
    def __call__(self, x, t):
        fan_avg = init.variance_scaling(1.0, "fan_avg", "uniform")
        y = nn.Conv(self.features, (3, 3), kernel_init=fan_avg)(nn.swish(nn.GroupNorm(8)(x)))
        y += nn.Dense(self.features, kernel_init=fan_avg)(nn.swish(t))[:, None, None]
        y = nn.Conv(self.features, (3, 3), kernel_init=init.zeros)(nn.swish(nn.GroupNorm(8)(y)))
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, kernel_init=fan_avg)(x)
        return x + y


class Diffusion(nn.Module):
    @nn.compact
    def __call__(self, x, times):
        fan_avg = init.variance_scaling(1.0, "fan_avg", "uniform")
        t = nn.Dense(64, kernel_init=fan_avg)(sines(times))
        t = nn.Dense(64, kernel_init=fan_avg)(nn.swish(t))
        x = nn.Conv(16, (3, 3), kernel_init=fan_avg)(x)
        first = Residual(16)(x, t)
        x = nn.Conv(16, (3, 3), (2, 2), kernel_init=fan_avg)(first)
        x = Residual(32)(x, t)
        q, k, v = (nn.Dense(32, kernel_init=fan_avg)(nn.GroupNorm(8)(x)) for _ in range(3))
        q, k, v = (y.reshape(len(y), -1, 1, 32) for y in (q, k, v))
        y = nn.dot_product_attention(q, k, v).reshape(x.shape)
        x = Residual(32)(x + nn.Dense(32, kernel_init=init.zeros)(y), t)
        x = jax.image.resize(x, (len(x), 16, 16, 32), "nearest")
        x = nn.Conv(32, (3, 3), kernel_init=fan_avg)(x)
        x = Residual(16)(jnp.concatenate([x, first], -1), t)
        return nn.Conv(1, (3, 3), kernel_init=init.zeros)(nn.swish(nn.GroupNorm(8)(x)))


def diffusion() -> Case:
    return linen_of_two("Diffusion U-Net", Diffusion())


class DiT(nn.Module):
    """facebookresearch/DiT: Glorot, and modulations of zero, so that all blocks start shut."""

    width: int = 48

    @nn.compact
    def __call__(self, x, times):
        width, glorot = self.width, init.xavier_uniform()
        c = nn.Dense(width, kernel_init=init.normal(0.02))(sines(times))
        c = nn.Dense(width, kernel_init=init.normal(0.02))(nn.silu(c))
        # As a linear layer of the patch.
        flat = init.xavier_uniform(in_axis=(0, 1, 2), out_axis=3)
        x = nn.Conv(width, (4, 4), (4, 4), kernel_init=flat)(x).reshape(len(x), 16, width)
        angles = jnp.arange(16)[:, None] * 1e4 ** -(2 * jnp.arange(width // 2) / width)
        x += jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
        norm = functools.partial(nn.LayerNorm, use_bias=False, use_scale=False)
        layer = functools.partial(nn.Dense, kernel_init=glorot)
        for _ in range(2):
            m = nn.Dense(6 * width, kernel_init=init.zeros)(nn.silu(c))[:, None]
            shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = jnp.split(m, 6, -1)
            y = layer(3 * width)(norm()(x) * (1 + scale) + shift)
            q, k, v = (part.reshape(len(x), 16, 4, -1) for part in jnp.split(y, 3, -1))
            x += gate * layer(width)(nn.dot_product_attention(q, k, v).reshape(x.shape))
            y = layer(4 * width)(norm()(x) * (1 + mlp_scale) + mlp_shift)
            x += mlp_gate * layer(width)(nn.gelu(y))
        m = nn.Dense(2 * width, kernel_init=init.zeros)(nn.silu(c))[:, None]
        shift, scale = jnp.split(m, 2, -1)
        x = nn.Dense(16, kernel_init=init.zeros)(norm()(x) * (1 + scale) + shift)
        return x.reshape(len(x), 4, 4, 4, 4).swapaxes(2, 3).reshape(len(x), 16, 16, 1)


def dit() -> Case:
    return linen_of_two("DiT, adaLN-zero", DiT())


def linen_of_two(name: str, model: nn.Module) -> Case:
    """A Linen model of noisy images and times."""
    data = diffused()
    params = jax.jit(model.init)(KEY, *(array[:2] for array in data[:2]))

    def apply(*inputs: Any) -> jax.Array:
        outputs: Any = model.apply(*inputs)
        return outputs

    return Case(name, "Linen", apply, params, data, ADAM, 32)


class VAE(nn.Module):
    """google/flax, examples/vae."""

    @nn.compact
    def __call__(self, x, noise):
        x = x.reshape(len(x), -1)
        h = nn.relu(nn.Dense(128)(x))
        mean, log_variance = nn.Dense(10)(h), nn.Dense(10)(h)
        z = mean + jnp.exp(log_variance / 2) * noise
        return mean, log_variance, nn.Dense(784)(nn.relu(nn.Dense(128)(z)))


def vae() -> Case:
    model, (images, _) = VAE(), mnist()
    noise = jax.random.normal(jax.random.key(12), (len(images), 10))
    params = model.init(KEY, images[:2], noise[:2])

    def loss(params, images, noise):
        outputs: Any = model.apply(params, images, noise)
        mean, log_variance, logits = outputs
        targets = images.reshape(len(images), -1)
        entropy = optax.sigmoid_binary_cross_entropy(logits, targets).sum(-1)
        divergence = -0.5 * (1 + log_variance - mean**2 - jnp.exp(log_variance)).sum(-1)
        return (entropy + divergence).mean()

    return trained_by("VAE", "Linen", loss, params, (images, noise), ADAM, 128)


class Generator(nnx.Module):
    """DCGAN: N(0, .02²), and norms of N(1, .02²)."""

    def __init__(self, rngs: nnx.Rngs):
        small: Any = {"kernel_init": init.normal(0.02), "use_bias": False, "rngs": rngs}
        self.project = nnx.Linear(32, 7 * 7 * 32, **small)
        self.norms = nnx.List([_norm(32, rngs), _norm(16, rngs)])
        self.convs = nnx.List(
            [
                nnx.ConvTranspose(32, 16, (4, 4), (2, 2), **small),
                nnx.ConvTranspose(16, 1, (4, 4), (2, 2), **small),
            ]
        )

    def __call__(self, z):
        x = nnx.relu(self.norms[0](self.project(z).reshape(len(z), 7, 7, 32)))
        x = nnx.relu(self.norms[1](self.convs[0](x)))
        return jnp.tanh(self.convs[1](x))


class Discriminator(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        small: Any = {"kernel_init": init.normal(0.02), "use_bias": False, "rngs": rngs}
        self.convs = nnx.List(
            [
                nnx.Conv(1, 16, (4, 4), (2, 2), **small),
                nnx.Conv(16, 32, (4, 4), (2, 2), **small),
                nnx.Conv(32, 1, (7, 7), padding="VALID", **small),
            ]
        )
        self.norm = _norm(32, rngs)

    def __call__(self, x):
        x = nnx.leaky_relu(self.convs[0](x), 0.2)
        x = nnx.leaky_relu(self.norm(self.convs[1](x)), 0.2)
        return self.convs[2](x).reshape(len(x))


def _norm(features: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    def about_one(key, shape, dtype=jnp.float32):
        return 1 + 0.02 * jax.random.normal(key, shape, dtype)

    return nnx.BatchNorm(features, use_running_average=False, scale_init=about_one, rngs=rngs)


def _gan() -> tuple[Any, Any, tuple[jax.Array, ...]]:
    rngs = nnx.Rngs(0)
    images, _ = mnist()
    noise = jax.random.normal(jax.random.key(13), (len(images), 32))
    generator, discriminator = (
        nnx.split(model, nnx.Param, ...) for model in (Generator(rngs), Discriminator(rngs))
    )
    return generator, discriminator, (2 * images - 1, noise)


def discriminator() -> Case:
    (g, g_params, g_rest), (d, params, d_rest), data = _gan()

    def loss(params, images, noise):
        judge = nnx.merge(d, params, d_rest, copy=True)
        fake = nnx.merge(g, g_params, g_rest, copy=True)(noise)
        return jax.nn.softplus(-judge(images)).mean() + jax.nn.softplus(judge(fake)).mean()

    adam = optax.adam(2e-4, 0.5)
    return trained_by("DCGAN: discriminator", "NNX", loss, params, data, adam, 64)


def generator() -> Case:
    (g, params, g_rest), (d, d_params, d_rest), (_, noise) = _gan()

    def loss(params, noise):
        fake = nnx.merge(g, params, g_rest, copy=True)(noise)
        return jax.nn.softplus(-nnx.merge(d, d_params, d_rest, copy=True)(fake)).mean()

    adam = optax.adam(2e-4, 0.5)
    return trained_by("DCGAN: generator", "NNX", loss, params, (noise,), adam, 64)


def realnvp() -> Case:
    """Plain JAX: couplings whose last layer is zero, as in openai/glow, on a curve of points."""
    keys, width = jax.random.split(KEY, 6), 64

    def coupling(key):
        one, two = jax.random.split(key)
        return {
            "in": jax.random.normal(one, (1, width)),
            "hidden": width**-0.5 * jax.random.normal(two, (width, width)),
            "bias": jnp.zeros((2, width)),
            "out": jnp.zeros((width, 2)),
        }

    params = [coupling(key) for key in keys]

    def loss(params, points):
        x, log_det = points, 0.0
        for i, p in enumerate(params):
            a, b = x[:, i % 2 : i % 2 + 1], x[:, 1 - i % 2 : 2 - i % 2]
            h = jax.nn.relu(a @ p["in"] + p["bias"][0])
            scale, shift = jnp.split(jax.nn.relu(h @ p["hidden"] + p["bias"][1]) @ p["out"], 2, -1)
            b = b * jnp.exp(jnp.tanh(scale)) + shift
            log_det += jnp.tanh(scale)[:, 0]
            x = jnp.concatenate([a, b] if i % 2 == 0 else [b, a], -1)
        return (0.5 * (x**2).sum(-1) + jnp.log(2 * jnp.pi) - log_det).mean()

    x, y = curve()
    return trained_by("RealNVP", "plain JAX", loss, params, (jnp.concatenate([x, y], -1),))


class WaveNet(nn.Module):
    """Gated dilated convolutions with skips, at Flax's defaults."""

    @nn.compact
    def __call__(self, samples):
        x = nn.Conv(32, (2,), padding="CAUSAL")(samples)
        skips = 0.0
        for dilation in (1, 2, 4, 8):
            conv = functools.partial(
                nn.Conv, 32, (2,), padding="CAUSAL", kernel_dilation=(dilation,)
            )
            y = jnp.tanh(conv()(x)) * nn.sigmoid(conv()(x))
            skips += nn.Conv(32, (1,))(y)
            if dilation < 8:  # what follows the last is not read
                x += nn.Conv(32, (1,))(y)
        return nn.Conv(16, (1,))(nn.relu(nn.Conv(32, (1,))(nn.relu(skips))))


def wavenet() -> Case:
    """Sums of two sines, as 16 levels."""
    frequencies, phases = jax.random.uniform(jax.random.key(14), (2, 2048, 2, 1), maxval=3.0)
    waves = jnp.sin(frequencies * jnp.arange(49) / 4 + phases).sum(1) / 2
    levels = jnp.digitize(waves, jnp.linspace(-1, 1, 17)[1:-1])
    return linen("WaveNet", WaveNet(), (waves[:, :-1, None], levels[:, 1:]), FAST_ADAM, 32)


def mixture_density() -> Case:
    """Plain JAX: three normal densities, of a curve that is not a function."""
    y, x = curve()
    sizes = (1, 32, 9)
    keys = jax.random.split(KEY, 2)
    params = [
        {"w": s[0] ** -0.5 * jax.random.normal(k, s), "b": jnp.zeros(s[1])}
        for k, s in zip(keys, itertools.pairwise(sizes), strict=True)
    ]

    def loss(params, x, y):
        h = jnp.tanh(x @ params[0]["w"] + params[0]["b"])
        logits, means, log_widths = jnp.split(h @ params[1]["w"] + params[1]["b"], 3, -1)
        log_densities = -0.5 * ((y - means) / jnp.exp(log_widths)) ** 2 - log_widths
        return -jax.nn.logsumexp(jax.nn.log_softmax(logits) + log_densities, -1).mean()

    return trained_by("Mixture density", "plain JAX", loss, params, (x, y), FAST_ADAM)


def quantiles() -> Case:
    """Linen: quantile regression."""
    levels = jnp.array([0.1, 0.5, 0.9])
    model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(64), nn.relu, nn.Dense(3)])
    data = curve()

    def loss(params, x, y):
        error = y - model.apply(params, x)
        return jnp.maximum(levels * error, (levels - 1) * error).mean()

    return trained_by("Quantiles", "Linen", loss, model.init(KEY, data[0][:2]), data, FAST_ADAM)


def hypernetwork() -> Case:
    """Plain JAX: a network that makes the kernels of a CNN from an embedding of each layer."""
    keys = jax.random.split(KEY, 5)
    params = {
        "embeddings": jax.random.normal(keys[0], (2, 8)),
        "hidden": 8**-0.5 * jax.random.normal(keys[1], (8, 32)),
        "kernels": (4 / (32 * 9 * 8)) ** 0.5 * jax.random.normal(keys[2], (32, 3 * 3 * 8 * 8)),
        "stem": 3**-1 * jax.random.normal(keys[3], (3, 3, 1, 8)),
        "head": 392**-0.5 * jax.random.normal(keys[4], (7 * 7 * 8, 10)),
    }

    def conv(x, kernel, strides=1):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (strides, strides), "SAME", dimension_numbers=numbers
        )

    def apply(params, x):
        x = jax.nn.relu(conv(x, params["stem"], 2))
        made = jnp.tanh(params["embeddings"] @ params["hidden"]) @ params["kernels"]
        for strides, kernel in zip((2, 1), made.reshape(2, 3, 3, 8, 8), strict=True):
            x = jax.nn.relu(conv(x, kernel, strides))
        return x.reshape(len(x), -1) @ params["head"]

    return plain("Hypernetwork", (apply, params), mnist("standard"), FAST_ADAM, 64)


GENERATIVE = (
    diffusion,
    dit,
    vae,
    discriminator,
    generator,
    realnvp,
    wavenet,
    mixture_density,
    quantiles,
    hypernetwork,
)
