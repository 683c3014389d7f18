"""Faults of the draws and of the input: scale, mean, fans, constants, pixels."""

import itertools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from . import data
from .cases import (
    GLOROT,
    NORMAL,
    ZEROS,
    Apply,
    Bug,
    Friend,
    Init,
    Model,
    Recipe,
    bce,
    bce_unclipped,
    cross_entropy,
    in_nnx,
    keras_uniform,
    linen,
    mlp,
    mse,
    nll,
)
from .outputs import Convolutional

init = jax.nn.initializers
relu, sigmoid, softmax, tanh = jax.nn.relu, jax.nn.sigmoid, jax.nn.softmax, jnp.tanh
SGD, ONE = optax.sgd, NORMAL(1.0)
HE = init.he_normal()


def from_zero_to(scale: float) -> Init:
    """JAX's own `uniform(scale)`: from [0, scale)."""
    return init.uniform(scale)


def around_zero(scale: float) -> Init:
    def draw(key: jax.Array, shape: Sequence[int], dtype=jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -scale, scale)

    return draw


_log = Recipe(
    mlp((1, 50, 10, 1), (relu, relu, None), from_zero_to(1.0), from_zero_to(1.0)),
    mse,
    data.logarithm(),
    SGD(1e-3),
)
_hot = data.digits()[0], jax.nn.one_hot(data.digits()[1], 10)
_nielsen = Recipe(mlp((784, 30, 10), (None, None), ONE, ONE), mse, _hot, SGD(0.5))
_linear = Recipe(
    mlp((784, 128, 128, 10), (None, None, None), ONE, ONE), cross_entropy, data.digits()
)
_deep = Recipe(
    mlp((784, 128, 128, 128, 10), (relu, relu, relu, None), ONE, ONE),
    cross_entropy,
    data.digits(),
)
_raw = Recipe(mlp((784, 128, 1), (sigmoid, None), ONE), bce_unclipped, data.digits())
_even = data.digits()[0], (data.digits()[1] % 2).astype(jnp.float32)[:, None]
_cars = Recipe(mlp((9, 64, 64, 1), (relu, relu, None), HE), mse, data.standardized(data.cars()))
_cars = _cars.but(data=data.with_scaled_targets(_cars.data))
_net = Recipe(mlp((784, 64, 64, 10), (relu, relu, None), HE), cross_entropy, data.digits())


def _uniform_nnx(draw: Init) -> Recipe:
    class Scorer(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            sizes = (784, 128, 128, 10)
            self.layers = nnx.List(
                [
                    nnx.Linear(n, m, kernel_init=draw, rngs=rngs)
                    for n, m in itertools.pairwise(sizes)
                ]
            )

        def __call__(self, x: jax.Array) -> jax.Array:
            for layer in self.layers[:-1]:
                x = relu(layer(x))
            return self.layers[-1](x)

    return Recipe(in_nnx(Scorer), cross_entropy, data.digits(), framework="NNX")


class _Embedded(nn.Module):
    """A bag of tokens: embedding, mean, two layers."""

    embedding_init: Init

    @nn.compact
    def __call__(self, x):
        x = nn.Embed(64, 32, embedding_init=self.embedding_init)(x)
        return nn.Dense(2)(nn.relu(nn.Dense(32)(x.mean(1))))


SCALE = (
    Bug(
        "SO48385830 (DeepLocalize, DeepFD)",
        "784-30-10 linear, all N(0, 1), MSE -> sigmoid, softmax, cross-entropy",
        _nielsen,
        _nielsen.but(model=mlp((784, 30, 10), (sigmoid, softmax)), loss=nll, data=data.digits()),
        ("no_activation", "exploding", "output_scale", "target_scale"),
    ),
    Bug(
        "TFE_368 (TheDeepChecker)",
        "784-256-256-10, N(0, 1), no activation -> ReLU, He",
        _linear,
        _linear.but(model=mlp((784, 128, 128, 10), (relu, relu, None), HE)),
        ("no_activation", "exploding", "output_scale"),
    ),
    Bug(
        "TFE_333 (TheDeepChecker)",
        "784-10, N(0, 1), SGD -> Glorot",
        Recipe(mlp((784, 10), (None,), ONE, ONE), cross_entropy, data.digits(), SGD(0.1)),
        Recipe(mlp((784, 10), (None,)), cross_entropy, data.digits(), SGD(0.1)),
        ("output_scale",),
    ),
    Bug(
        "IPS_4 (TheDeepChecker)",
        "784-500-500-500-10 ReLU, all N(0, 1) -> He",
        _deep,
        _deep.but(model=mlp((784, 128, 128, 128, 10), (relu, relu, relu, None), HE)),
        ("exploding", "output_scale"),
    ),
    Bug(
        "IPS_7 (TheDeepChecker)",
        "784-512 sigmoid-1, N(0, 1), log of raw outputs -> sigmoid head, Glorot",
        _raw.but(data=_even),
        _raw.but(model=mlp((784, 128, 1), (sigmoid, sigmoid)), data=_even),
        ("not_finite", "output_scale", "saturated"),
    ),
    Bug(
        "baseCNN_miss_soft (TheDeepChecker)",
        "softmax forgotten before the log -> softmax",
        _net.but(loss=nll),
        _net.but(model=mlp((784, 64, 64, 10), (relu, relu, softmax), HE), loss=nll),
        ("not_finite",),
    ),
    Bug(
        "regrNN_random (TheDeepChecker)",
        "9-64-64-1, N(0, 1) -> He",
        _cars.but(model=mlp((9, 64, 64, 1), (relu, relu, None), ONE)),
        _cars,
        ("exploding", "output_scale", "target_scale"),
    ),
    Bug(
        "wide draws before tanh (kin)",
        "784-128-128-10 tanh, N(0, 1) -> Glorot",
        _net.but(model=mlp((784, 128, 128, 10), (tanh, tanh, None), ONE)),
        _net.but(model=mlp((784, 128, 128, 10), (tanh, tanh, None))),
        ("saturated", "output_scale", "exploding"),
    ),
)


def _sequence_model(head: Init) -> Recipe:
    class Copier(nn.Module):
        """One causal convolution over embedded tokens, a norm, and T5's head."""

        @nn.compact
        def __call__(self, x):
            x = nn.Embed(32, 128, embedding_init=NORMAL(1.0))(x)
            x = nn.Conv(128, (2,), padding="CAUSAL")(x)
            return nn.Dense(32, use_bias=False, kernel_init=head)(nn.RMSNorm()(x))

    model = linen(Copier(), data.tokens()[0])
    return Recipe(model, cross_entropy, data.tokens(), optax.adam(3e-4), framework="Linen")


def keras_fans_of_rank_3(key: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Keras before PR 22789: glorot_uniform, where a kernel of rank 3 counts as a convolution."""
    fan_in, fan_out = math.prod(shape[:-1]), shape[0] * shape[-1]
    return around_zero(math.sqrt(6 / (fan_in + fan_out)))(key, shape)


def fans_of_a_dense(key: jax.Array, shape: Sequence[int]) -> jax.Array:
    return init.glorot_uniform(in_axis=0, out_axis=(1, 2))(key, shape)


def _heads(draw: Init) -> Model:
    """Three layers of d inputs to h heads of k units, as EinsumDense has them."""

    def make(key: jax.Array) -> tuple[Apply, object]:
        keys = jax.random.split(key, 4)
        shapes = ((784, 8, 16), (128, 8, 16), (128, 8, 16))
        params = [draw(k, shape) for k, shape in zip(keys[:3], shapes, strict=True)]
        return apply, {"heads": params, "out": GLOROT(keys[3], (128, 10))}

    def apply(params, x: jax.Array) -> jax.Array:
        for kernel in params["heads"]:
            x = relu(jnp.einsum("nd,dhk->nhk", x, kernel)).reshape(len(x), -1)
        return x @ params["out"]

    return make


_tower = mlp((784, 256, 16, 256, 16, 256, 16, 10), (relu,) * 6 + (None,), init.he_normal())
_tower_wrong = mlp(
    (784, 256, 16, 256, 16, 256, 16, 10),
    (relu,) * 6 + (None,),
    init.variance_scaling(2.0, "fan_in", "normal", in_axis=-1, out_axis=-2),
)

FANS = (
    Bug(
        "transformers#16749",
        "T5's head drawn with variance 1: loss 110 instead of 10.4 -> 1 / fan_in",
        _sequence_model(NORMAL(1.0)),
        _sequence_model(init.lecun_normal()),
        ("output_scale",),
    ),
    Bug(
        "keras PR#22789",
        "EinsumDense: a kernel of rank 3 counts as a convolution -> as a dense layer",
        _net.but(model=_heads(keras_fans_of_rank_3), optimizer=SGD(0.05)),
        _net.but(model=_heads(fans_of_a_dense), optimizer=SGD(0.05)),
        ("wrong_fan", "vanishing"),
    ),
    Bug(
        "TransformerEngine PR#1484's kind",
        "a wrong in_axis of variance_scaling: fan_out counted as fan_in -> in_axis=-2."
        " The dtype passed as in_axis itself raises a TypeError in today's JAX",
        _net.but(model=_tower_wrong, optimizer=SGD(0.05)),
        _net.but(model=_tower, optimizer=SGD(0.05)),
        ("wrong_fan", "exploding", "vanishing"),
    ),
    Bug(
        "SO41550966 (DeepLocalize)",
        "ln x, kernels and biases from U[0, 1) -> centered",
        _log,
        _log.but(model=mlp((1, 50, 10, 1), (relu, relu, None)), optimizer=SGD(1e-2)),
        ("not_centered", "exploding", "target_scale"),
    ),
    Bug(
        "uniform(scale) in public code (JAX)",
        "jax.nn.initializers.uniform(0.1) taken for symmetric -> symmetric",
        _net.but(model=mlp((784, 128, 128, 10), (relu, relu, None), from_zero_to(0.1))),
        _net.but(model=mlp((784, 128, 128, 10), (relu, relu, None), around_zero(0.1))),
        ("not_centered",),
    ),
    Bug(
        "nnx.initializers.uniform(scale=) in public code",
        "uniform(scale=0.05) for every kernel -> symmetric",
        _uniform_nnx(from_zero_to(0.05)),
        _uniform_nnx(around_zero(0.1)),
        ("not_centered",),
    ),
    Bug(
        "uniform(scale) as a head (nanochat ports)",
        "readout from uniform(0.5) -> symmetric",
        _net.but(model=mlp((784, 128, 10), (relu, None), (HE, from_zero_to(0.5)))),
        _net.but(model=mlp((784, 128, 10), (relu, None), (HE, around_zero(0.1)))),
        ("not_centered", "output_scale"),
        harmless=True,
    ),
    Bug(
        "baseCNN_constant (TheDeepChecker)",
        "all kernels 0.01 -> He",
        _net.but(model=mlp((784, 64, 64, 10), (relu, relu, None), init.constant(0.01))),
        _net,
        ("symmetry",),
    ),
    Bug(
        "regrNN_constant (TheDeepChecker)",
        "9-64-64-1, all kernels 0.01 -> He",
        _cars.but(model=mlp((9, 64, 64, 1), (relu, relu, None), init.constant(0.01))),
        _cars,
        ("symmetry",),
    ),
    Bug(
        "weights of zeros (DeepCrime's mutation)",
        "all kernels zero -> He",
        _net.but(model=mlp((784, 64, 64, 10), (relu, relu, None), ZEROS)),
        _net,
        ("zero", "symmetry"),
    ),
    Bug(
        "weights of ones (DeepCrime's mutation)",
        "all kernels one -> He",
        _net.but(model=mlp((784, 64, 64, 10), (relu, relu, None), init.ones)),
        _net,
        ("symmetry", "not_centered"),
    ),
)

_photo = Recipe(
    linen(Convolutional(), data.digits(shape=(14, 14, 1))[0]),
    cross_entropy,
    data.digits(shape=(14, 14, 1)),
    SGD(0.05),
    framework="Linen",
)
_ten = Recipe(mlp((784, 50, 10), (relu, sigmoid)), nll, data.pixels(), SGD(0.01))
_stays = Recipe(
    mlp((11, 12, 3, 1), (relu, relu, sigmoid), keras_uniform),
    bce,
    data.tabular(),
    optax.adam(1e-2),
)
_kelvin = data.standardized(data.cars())[0] * 0.03 + 3.0, data.with_scaled_targets(data.cars())[1]

INPUT = (
    Bug(
        "SO55328966 (DeepLocalize, DeepFD)",
        "MNIST 0..255, 10 sigmoids into cross-entropy -> divided by 255, softmax",
        _ten,
        _ten.but(model=mlp((784, 50, 10), (relu, softmax)), data=data.digits()),
        ("input_scale",),
    ),
    Bug(
        "baseCNN_miss_norm (TheDeepChecker)",
        "a CNN on pixels from 0 to 255 -> divided by 255",
        _photo.but(data=data.pixels((14, 14, 1))),
        _photo,
        ("input_scale",),
    ),
    Bug(
        "baseCNN_dbl_norm (TheDeepChecker)",
        "pixels divided by 255 twice -> once",
        _net.but(data=(data.digits()[0] / 255, data.digits()[1])),
        _net,
        ("input_scale", "vanishing"),
    ),
    Bug(
        "regrNN_miss_norm (TheDeepChecker)",
        "cars in their own units -> standardized",
        _cars.but(data=(data.cars()[0], _cars.data[1])),
        _cars,
        ("input_scale",),
    ),
    Bug(
        "SO39525358 (DeepLocalize)",
        "features in their own units, kernels U(-.05, .05), BCE -> standardized",
        _stays,
        _stays.but(data=data.standardized(data.tabular())),
        ("input_scale",),
    ),
    Bug(
        "offset of the input (UMLAUT's kind)",
        "inputs of 3 +- 0.03 -> standardized",
        _cars.but(data=_kelvin),
        _cars,
        ("input_offset", "input_scale"),
    ),
)

FRIENDS = (
    Friend(
        "uniform around zero",
        "symmetric, of the right scale",
        _net.but(model=mlp((784, 128, 128, 10), (relu, relu, None), init.he_uniform())),
    ),
    Friend(
        "SO44164749 (DeepLocalize)",
        "784-500-60-10 with softmax: the repair changes the loss only",
        _net.but(model=mlp((784, 500, 60, 10), (relu, relu, softmax)), loss=nll),
    ),
    Friend(
        "SO47724077 (DeepLocalize)",
        "14-21-2 with softmax: the repair changes the optimizer only",
        Recipe(
            mlp((14, 21, 2), (relu, softmax)),
            nll,
            data.with_binary_classes(data.sums(14)),
            optax.adam(1e-2),
        ),
    ),
)
