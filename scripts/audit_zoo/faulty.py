"""Models with a planted fault, one per function: what is wrong, and the causes that fit.

Each was compared with its healthy version, and optimizers and rates were chosen so that the fault
costs something within 200 steps. Wrong fans don't always: with Adam at 1e-3, the hourglasses and
the heads learn as well as the healthy versions. An autoencoder whose transposed convolutions had a
too small scale learned faster than the correct one, so it was left out.
"""

from collections.abc import Callable

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import initjax

from .cases import KEY, Case, equinox, in_nnx, linen, mnist, periodic_tokens, plain
from .convolutional import Hourglasses, MobileNet, NnxCNN
from .perceptrons import MLP, NnxMLP, plain_mlp, residual_mlp, scanned_mlp
from .sequential import GPT, Heads, Rows

init = jax.nn.initializers
SGD = optax.sgd(0.05, momentum=0.9)
SLOW_SGD = optax.sgd(0.003, momentum=0.9)


def zeros() -> Case:
    model = MLP((128, 64), kernel_init=init.zeros)
    return linen("ReLU MLP of 3 layers", model, mnist()).with_fault(
        "hidden kernels of zeros", "zero"
    )


def constant() -> Case:
    model = NnxMLP((128, 64), kernel_init=init.constant(0.05))
    return in_nnx("ReLU MLP of 3 layers", model, mnist()).with_fault("all kernels 0.05", "symmetry")


def small_normal() -> Case:
    model = MLP((128,) * 8, kernel_init=init.normal(1e-3), readout_init=init.normal(1e-3))
    return linen("ReLU MLP of 9 layers", model, mnist()).with_fault(
        "kernels from N(0, 0.001²)", "vanishing"
    )


def large_normal() -> Case:
    model = eqx.nn.Sequential([eqx.nn.Lambda(jnp.ravel), eqx.nn.MLP(784, 10, 128, 6, key=KEY)])
    model = initjax.initialize(model, KEY, {"*/weight": initjax.random_normal(0.0, 1.0)})
    return equinox("ReLU MLP of 7 layers", model, mnist(), SGD).with_fault(
        "kernels from N(0, 1)", "exploding"
    )


def depthwise() -> Case:
    model = MobileNet(init.glorot_normal())
    return linen("MobileNet of 5 blocks", model, mnist("standard"), SGD, 64).with_fault(
        "Glorot counts 32 times the fan_out in depthwise kernels", "wrong_fan"
    )


def transposed() -> Case:
    model = Hourglasses(init.he_normal())
    return linen("Stacked hourglasses", model, mnist("standard"), SLOW_SGD, 64).with_fault(
        "He counts 49 times the fan_in at strides (7, 7)", "wrong_fan"
    )


def einsum_heads() -> Case:
    model = Heads(init.he_normal())
    return linen("Multi-head perceptron", model, mnist("standard"), SLOW_SGD, 64).with_fault(
        "He counts 16 times the fan_in in an Einsum of 16 heads", "wrong_fan"
    )


def saturated() -> Case:
    model = plain_mlp((784, *(128,) * 4, 10), jnp.tanh, initjax.random_normal(0.0, 1.0))
    return plain("Tanh MLP of 5 layers", model, mnist("standard"), SGD).with_fault(
        "kernels from N(0, 1)", "saturated"
    )


def deep_lecun() -> Case:
    optimizer = optax.sgd(0.01, momentum=0.9)
    return linen("ReLU MLP of 31 layers", MLP((64,) * 30), mnist("standard"), optimizer).with_fault(
        "LeCun's scale, Flax's default, for ReLU", "vanishing"
    )


def sigmoid() -> Case:
    model = plain_mlp((784, *(128,) * 8, 10), jax.nn.sigmoid, initjax.glorot_uniform())
    return plain("Sigmoid MLP of 9 layers", model, mnist("standard"), SGD).with_fault(
        "Glorot's scale for sigmoids", "vanishing", "depth"
    )


def residual() -> Case:
    model = residual_mlp(32, 64, initjax.he_normal(), branch_scale=1.0)
    return plain("Residual MLP of 32 blocks", model, mnist("standard")).with_fault(
        "He's scale in every branch, no normalization", "branch_scale"
    )


def pixels() -> Case:
    return in_nnx("CNN", NnxCNN(), mnist("pixels"), SGD, 64).with_fault(
        "pixels from 0 to 255", "input_scale"
    )


def readout() -> Case:
    model = MLP((128, 64), kernel_init=init.he_normal(), readout_init=init.normal(10.0))
    return linen("ReLU MLP of 3 layers", model, mnist(), SGD).with_fault(
        "readout from N(0, 10²)", "output_scale"
    )


def tied_readout() -> Case:
    model = GPT(embedding_init=init.normal(1.0))
    return linen("GPT-2, tied", model, periodic_tokens(), optax.adam(3e-3), 32).with_fault(
        "embedding, and so readout, from N(0, 1)", "output_scale"
    )


def dead() -> Case:
    model = MLP((128,) * 4, kernel_init=init.he_normal(), bias_init=init.constant(-2.0))
    return linen("ReLU MLP of 5 layers", model, mnist("standard")).with_fault("biases -2", "dead")


class _Branches(eqx.Module):
    """Narrow networks, summed."""

    branches: list[Callable[[jax.Array], jax.Array]]

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.stack([branch(x.ravel()) for branch in self.branches]).sum(0) / 4


def twin_branches() -> Case:
    model = _Branches([eqx.nn.MLP(784, 10, 4, 1, key=KEY) for _ in range(16)])
    return equinox("16 narrow MLPs, summed", model, mnist(), optax.adam(3e-3)).with_fault(
        "all from one key", "duplicate", "symmetry"
    )


def _deep_tanh(variance: float) -> Case:
    model = scanned_mlp(
        60,
        128,
        jnp.tanh,
        initjax.variance_scaling(variance, "fan_in", "normal"),
        initjax.random_normal(0.0, 0.05**0.5),
    )
    optimizer = optax.sgd(1e-3, momentum=0.9)
    return plain(
        "Tanh MLP of 61 layers",
        model,
        mnist("standard"),
        optimizer,
        128,
        "plain JAX, lax.scan",
    )


def chaotic() -> Case:
    return _deep_tanh(4.0).with_fault("kernels' variance 4 / fan_in: chaos", "exploding", "depth")


def ordered() -> Case:
    return _deep_tanh(0.8).with_fault("kernels' variance 0.8 / fan_in: order", "vanishing", "depth")


def recurrent() -> Case:
    cell = nn.SimpleCell(64, activation_fn=nn.relu, recurrent_kernel_init=init.orthogonal(2.0))
    return linen("ReLU RNN over 28 rows", Rows(cell), mnist(), framework="Linen, RNN").with_fault(
        "recurrent kernel of norm 2", "exploding", "depth"
    )


FAULTY = (
    zeros,
    constant,
    small_normal,
    large_normal,
    depthwise,
    transposed,
    einsum_heads,
    saturated,
    deep_lecun,
    sigmoid,
    residual,
    pixels,
    readout,
    tied_readout,
    dead,
    twin_branches,
    chaotic,
    ordered,
    recurrent,
)
