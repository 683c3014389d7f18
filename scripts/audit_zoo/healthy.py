"""Models without a fault, one per function: an audit should find nothing wrong."""

from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import initjax

from .cases import (
    KEY,
    Case,
    bags_of_tokens,
    clean_digits,
    curve,
    equinox,
    in_nnx,
    linen,
    mnist,
    noisy_digits,
    periodic_tokens,
    picture,
    plain,
    point_sets,
)
from .convolutional import Autoencoder, MobileNet, NnxCNN, ResNet, UNet
from .perceptrons import MLP, Gated, NnxMLP, flat, plain_mlp, residual_mlp, scanned_mlp
from .sequential import GPT, Bag, Heads, NnxGRU, PointSet, Rows, ViT

init = jax.nn.initializers
FAST_ADAM = optax.adam(3e-3)


def he_mlp() -> Case:
    return linen("ReLU MLP, He", MLP((128, 64), kernel_init=init.he_normal()), mnist())


def default_mlp() -> Case:
    return linen("ReLU MLP, Flax's default", MLP((128, 64)), mnist())


def logistic() -> Case:
    model = nn.Sequential([flat, nn.Dense(10, kernel_init=init.zeros)])
    return linen("Logistic regression from zeros", model, mnist(), optax.sgd(0.1))


def glorot_tanh() -> Case:
    model = plain_mlp((784, 128, 64, 10), jnp.tanh, initjax.glorot_uniform())
    return plain("Tanh MLP, Glorot", model, mnist("standard"))


def remat() -> Case:
    kernel_init = initjax.he_normal(gain=jax.nn.gelu)
    model = plain_mlp((784, 128, 128, 10), jax.nn.gelu, kernel_init, remat=True)
    return plain("GELU MLP, rematerialized", model, mnist("standard"))


def orthogonal_tanh() -> Case:
    model = scanned_mlp(200, 64, jnp.tanh, initjax.orthogonal(), initjax.zeros)
    return plain(
        "Tanh MLP of 201 layers, orthogonal",
        model,
        mnist(),
        optax.adam(3e-4),
        128,
        "plain JAX, lax.scan",
    )


def selu() -> Case:
    model = MLP((128,) * 8, activation=nn.selu)
    return linen("SELU MLP of 9 layers, LeCun", model, mnist("standard"))


def bfloat16() -> Case:
    return in_nnx("ReLU MLP in bfloat16", NnxMLP((128, 64), dtype=jnp.bfloat16), mnist())


def equinox_mlp() -> Case:
    model = eqx.nn.Sequential([eqx.nn.Lambda(jnp.ravel), eqx.nn.MLP(784, 10, 128, 2, key=KEY)])
    return equinox("ReLU MLP, Equinox's default", model, mnist())


def regression() -> Case:
    model = MLP((64, 64), activation=nn.tanh, outputs=1)
    return linen("Tanh MLP, regression", model, curve(), FAST_ADAM)


def siren() -> Case:
    sizes = (2, 64, 64, 64, 1)
    apply, params = plain_mlp(sizes, lambda x: jnp.sin(30 * x), initjax.siren())
    first_key, bias_key = jax.random.split(KEY)
    params[0]["kernel"] = initjax.siren(first=True)(first_key, sizes[:2])
    for i, layer in enumerate(params):
        key = jax.random.fold_in(bias_key, i)
        layer["bias"] = initjax.torch_bias(sizes[i])(key, layer["bias"].shape)
    return plain("SIREN", (apply, params), picture(), optax.adam(3e-4))


def gated() -> Case:
    return linen("SwiGLU blocks, RMSNorm", Gated(), mnist())


def scaled_residual() -> Case:
    model = residual_mlp(32, 64, initjax.he_normal(), branch_scale=32**-0.5)
    return plain("Residual MLP, 32 branches / √32", model, mnist("standard"))


def lora() -> Case:
    """Only the adapters are parameters; the kernels that they adapt are frozen."""
    apply, base = plain_mlp((784, 128, 64, 10), jax.nn.relu, initjax.he_normal())
    params = []
    for i, layer in enumerate(base):
        inputs, outputs = layer["kernel"].shape
        a = initjax.he_normal()(jax.random.fold_in(KEY, i), (inputs, 8))
        params.append({"a": a, "b": jnp.zeros((8, outputs))})

    def adapted(params: Any, x: jax.Array) -> jax.Array:
        return apply(
            [
                layer | {"kernel": layer["kernel"] + adapter["a"] @ adapter["b"]}
                for layer, adapter in zip(base, params, strict=True)
            ],
            x,
        )

    return plain("LoRA adapters, B = 0", (adapted, params), mnist(), FAST_ADAM)


def cnn() -> Case:
    return in_nnx("CNN", NnxCNN(), mnist(), batch_size=64)


def equinox_cnn() -> Case:
    conv_key, linear_key, head_key = jax.random.split(KEY, 3)
    model = eqx.nn.Sequential(
        [
            eqx.nn.Lambda(lambda image: image.transpose(2, 0, 1)),
            eqx.nn.Conv2d(1, 16, 4, stride=2, key=conv_key),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.MaxPool2d(2, stride=2),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(16 * 6 * 6, 64, key=linear_key),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Linear(64, 10, key=head_key),
        ]
    )
    return equinox("CNN, Equinox's default", model, mnist(), batch_size=64)


def resnet() -> Case:
    return linen("ResNet, batch norm", ResNet(), mnist(), batch_size=64)


def fixup() -> Case:
    model = ResNet(normalized=False)
    return linen("ResNet, no norm, branches end in 0", model, mnist("standard"), batch_size=64)


def mobilenet() -> Case:
    model = MobileNet(initjax.lecun_normal(**initjax.conv_fans(groups=32)))
    return linen("MobileNet of 5 blocks", model, mnist("standard"), batch_size=64)


def autoencoder() -> Case:
    return linen(
        "Autoencoder, transposed convolutions", Autoencoder(), clean_digits(), batch_size=64
    )


def unet() -> Case:
    return linen("U-Net, denoising", UNet(), noisy_digits(), batch_size=32)


def heads() -> Case:
    model = Heads(initjax.he_normal(**initjax.einsum_fans("btd,dnh->btnh")))
    return linen("Multi-head perceptron", model, mnist("standard"), batch_size=64)


def vit() -> Case:
    return linen("ViT, dropout, head of zeros", ViT(), mnist(), batch_size=64)


def gpt() -> Case:
    return linen("GPT-2, tied", GPT(), periodic_tokens(), FAST_ADAM, 32, "Linen, nn.scan")


def lstm() -> Case:
    model = Rows(nn.OptimizedLSTMCell(64))
    return linen("LSTM over 28 rows", model, mnist(), FAST_ADAM, 64, "Linen, RNN")


def gru() -> Case:
    return in_nnx("GRU over 28 rows", NnxGRU(), mnist(), FAST_ADAM, 64, "NNX, RNN")


def bag() -> Case:
    return linen("Bag of embeddings", Bag(), bags_of_tokens(), FAST_ADAM)


def point_set() -> Case:
    return linen("Sets of points, segment_sum", PointSet(), point_sets(), batch_size=64)


HEALTHY = (
    he_mlp,
    default_mlp,
    logistic,
    glorot_tanh,
    remat,
    orthogonal_tanh,
    selu,
    bfloat16,
    equinox_mlp,
    regression,
    siren,
    gated,
    scaled_residual,
    lora,
    cnn,
    equinox_cnn,
    resnet,
    fixup,
    mobilenet,
    autoencoder,
    unet,
    heads,
    vit,
    gpt,
    lstm,
    gru,
    bag,
    point_set,
)
