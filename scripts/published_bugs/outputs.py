"""Faults of the output: constant, bounded where targets are not, or twice through softmax."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from . import data
from .cases import (
    KERAS_NORMAL,
    NORMAL,
    Bug,
    Friend,
    Recipe,
    bce,
    bce_of_logits,
    cross_entropy,
    equinox,
    in_nnx,
    keras_cross_entropy,
    keras_uniform,
    linen,
    mae,
    mlp,
    mse,
    nll,
)

relu, sigmoid, softmax, tanh = jax.nn.relu, jax.nn.sigmoid, jax.nn.softmax, jnp.tanh
Head = Callable[[jax.Array], jax.Array] | None
_he = jax.nn.initializers.he_normal()


class Dropped(nn.Module):
    """SO31880720: ReLU twice, dropout, and a head."""

    head: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.relu(nn.Dense(50)(x)))
        x = nn.Dropout(0.2, deterministic=False)(x)
        return self.head(nn.Dense(1)(nn.relu(nn.Dense(50)(x))))


class Convolutional(nn.Module):
    """SO47352366, with fewer channels: two convolutions with pooling, a layer, a head."""

    head: Head = None
    outputs: int = 10

    @nn.compact
    def __call__(self, x):
        drawn: dict[str, Any] = {
            "kernel_init": nn.initializers.truncated_normal(0.1),
            "bias_init": nn.initializers.constant(0.1),
        }
        for channels in (6, 12):
            x = nn.relu(nn.Conv(channels, (5, 5), **drawn)(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(32, **drawn)(x.reshape(len(x), -1)))
        x = nn.Dense(self.outputs, **drawn)(nn.Dropout(0.5, deterministic=False)(x))
        return x if self.head is None else self.head(x)


class Classifier(nnx.Module):
    """NNX: a hidden layer and a head."""

    def __init__(self, sizes: tuple[int, int, int], head: Head, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(*sizes[:2], rngs=rngs)
        self.out = nnx.Linear(*sizes[1:], rngs=rngs)
        self.head = head

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.out(relu(self.hidden(x)))
        return x if self.head is None else self.head(x)


def _digits(head: Head, loss=cross_entropy, hidden=relu) -> Recipe:
    return Recipe(mlp((784, 64, 10), (hidden, head)), loss, data.digits())


def _nnx(sizes: tuple[int, int, int], head: Head, loss, batch) -> Recipe:
    return Recipe(in_nnx(lambda rngs: Classifier(sizes, head, rngs)), loss, batch, framework="NNX")


_dropped = Recipe(
    linen(Dropped(softmax), data.patterns()[0]), bce, data.patterns(), framework="Linen"
)
_xor = Recipe(
    mlp((2, 2, 3, 1), (sigmoid, sigmoid, softmax), keras_uniform),
    mse,
    data.xor(),
    optax.adam(0.03),
)
_momentum = optax.sgd(0.1, momentum=0.9, nesterov=True)
_share = Recipe(
    mlp((3, 3, 2, 1), (tanh, tanh, softmax), keras_uniform), mse, data.shares(), _momentum
)
_mean = Recipe(mlp((20, 60, 50, 1), (relu, relu, softmax)), bce, data.sums(20))
_narrow = Recipe(
    mlp((1, 1, 1), (sigmoid, softmax), KERAS_NORMAL), mae, data.sums(1, 0, 100), optax.rmsprop(1e-2)
)
_two = data.with_binary_classes(data.sums(16))


def _one_logit(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return -jnp.mean(targets * jax.nn.log_softmax(outputs))


def _rounded(head: Callable[[jax.Array], jax.Array]) -> Recipe:
    return Recipe(
        equinox(lambda key: eqx.nn.MLP(16, 1, 32, 2, final_activation=head, key=key)),
        mse,
        data.sums(16),
        framework="Equinox",
    )


CONSTANT = (
    Bug(
        "SO31880720 (DeepLocalize, DeepFD)",
        "softmax over one unit, BCE -> sigmoid",
        _dropped,
        _dropped.but(model=linen(Dropped(sigmoid), data.patterns()[0])),
        ("constant_output",),
    ),
    Bug(
        "SO34311586 (DeepLocalize, DeepFD)",
        "XOR, softmax over one unit, MSE -> sigmoid",
        _xor,
        _xor.but(model=mlp((2, 2, 3, 1), (sigmoid, sigmoid, sigmoid), keras_uniform)),
        ("constant_output",),
    ),
    Bug(
        "SO33969059 (DeepLocalize)",
        "regression, softmax over one unit, U(-.05, .05), MSE -> linear, and Glorot",
        _share,
        _share.but(model=mlp((3, 3, 2, 1), (tanh, tanh, None))),
        ("constant_output",),
    ),
    Bug(
        "SO45337371 (DeepLocalize)",
        "softmax over one unit after two ReLU layers, BCE -> sigmoid",
        _mean,
        _mean.but(model=mlp((20, 60, 50, 1), (relu, relu, sigmoid))),
        ("constant_output",),
    ),
    Bug(
        "SO45442843 (DeepLocalize)",
        "1-1-1 with softmax over one unit, MAE, inputs up to 100 -> scaled, sigmoid, BCE",
        _narrow,
        _narrow.but(
            model=mlp((1, 1, 1), (sigmoid, sigmoid), KERAS_NORMAL),
            loss=bce,
            data=data.standardized(data.sums(1, 0, 100)),
        ),
        ("constant_output", "input_scale"),
    ),
    Bug(
        "SO50079585's kind (DeepLocalize)",
        "CNN for two classes with softmax over one unit, in NNX -> two units",
        _nnx((16, 32, 1), softmax, bce, data.sums(16)),
        _nnx((16, 32, 2), softmax, keras_cross_entropy, _two),
        ("constant_output",),
    ),
    Bug(
        "log_softmax over one logit (kin of SO31880720)",
        "the loss is 0 from the start -> sigmoid cross-entropy",
        Recipe(mlp((20, 60, 1), (relu, None)), _one_logit, data.sums(20)),
        Recipe(mlp((20, 60, 1), (relu, None)), bce_of_logits, data.sums(20)),
        ("constant_output",),
    ),
    Bug(
        "rounded output (kin, asked often)",
        "predictions are rounded inside of the loss: gradient zero -> not rounded",
        _rounded(lambda x: jnp.round(sigmoid(x))),
        _rounded(sigmoid),
        ("constant_output",),
    ),
    Bug(
        "thresholded output (kin, asked often)",
        "predictions are compared with 0.5 inside of the loss: gradient zero -> not compared",
        _mean.but(
            model=mlp((20, 60, 1), (relu, lambda x: (sigmoid(x) > 0.5).astype(jnp.float32))),
            loss=mse,
        ),
        _mean.but(model=mlp((20, 60, 1), (relu, sigmoid)), loss=mse),
        ("constant_output",),
    ),
)

_cnn = Recipe(
    linen(Convolutional(relu), data.digits(shape=(14, 14, 1))[0]),
    cross_entropy,
    data.digits(shape=(14, 14, 1)),
    framework="Linen",
)
_squares = Recipe(mlp((1, 5, 1), (sigmoid, sigmoid)), mse, data.squares(), optax.sgd(0.005))
_line = Recipe(mlp((1, 4, 2, 1), (relu, relu, relu)), mse, data.line(), optax.adam(1e-2))
_signs = Recipe(mlp((2, 4, 1), (relu, relu)), mse, data.signed(), optax.sgd(0.1))
_bank = Recipe(
    mlp((11, 12, 12, 1), (relu, relu, relu), KERAS_NORMAL), bce, data.tabular(), optax.adam(3e-3)
)
_cars = Recipe(mlp((9, 64, 64, 1), (relu, relu, sigmoid), _he), mse, data.standardized(data.cars()))
_iris = Recipe(
    mlp((4, 4, 3), (relu, sigmoid), KERAS_NORMAL),
    keras_cross_entropy,
    data.blobs(3, 4),
    optax.adam(1e-2),
)

BOUNDED = (
    Bug(
        "SO47352366 (DeepLocalize)",
        "ReLU on the logits of a CNN -> no ReLU",
        _cnn,
        _cnn.but(model=linen(Convolutional(), data.digits(shape=(14, 14, 1))[0])),
        ("bounded_output",),
    ),
    Bug(
        "ReLU on the logits (kin of SO47352366)",
        "ReLU on the logits of a perceptron, in NNX -> no ReLU",
        _nnx((784, 64, 10), relu, cross_entropy, data.digits()),
        _nnx((784, 64, 10), None, cross_entropy, data.digits()),
        ("bounded_output",),
    ),
    Bug(
        "SO48221692 (DeepLocalize, DeepFD)",
        "sigmoid head, targets are squares up to 100, MSE -> linear",
        _squares,
        _squares.but(model=mlp((1, 5, 1), (sigmoid, None))),
        ("bounded_output", "target_scale"),
    ),
    Bug(
        "y = 2x - 1 (DeepFD's kind)",
        "1-4-2-1, ReLU head: often dead -> linear",
        _line,
        _line.but(model=mlp((1, 4, 2, 1), (relu, relu, None))),
        ("bounded_output", "dead"),
    ),
    Bug(
        "SO48251943 (DeepLocalize, DeepFD)",
        "2-4-1 with a ReLU head, targets of both signs -> tanh",
        _signs,
        _signs.but(model=mlp((2, 4, 1), (relu, tanh))),
        ("bounded_output", "dead"),
    ),
    Bug(
        "SO44066044 (DeepLocalize)",
        "ReLU head into BCE, inputs in their own units -> scaled, sigmoid",
        _bank,
        _bank.but(
            model=mlp((11, 12, 12, 1), (relu, relu, sigmoid), KERAS_NORMAL),
            data=data.standardized(data.tabular()),
        ),
        ("bounded_output", "input_scale"),
    ),
    Bug(
        "regrNN_inapp_act (TheDeepChecker)",
        "sigmoid head, targets are miles per gallon, MSE -> linear",
        _cars,
        _cars.but(model=mlp((9, 64, 64, 1), (relu, relu, None), _he), optimizer=optax.adam(1e-2)),
        ("bounded_output", "target_scale"),
    ),
    Bug(
        "tanh head (kin of SO48221692)",
        "tanh head, targets between -20 and 20 -> linear",
        _signs.but(model=mlp((2, 16, 1), (relu, tanh)), data=data.signed(20.0)),
        _signs.but(
            model=mlp((2, 16, 1), (relu, None)), data=data.signed(20.0), optimizer=optax.adam(3e-2)
        ),
        ("bounded_output", "target_scale"),
    ),
    Bug(
        "softplus head (kin of SO48251943)",
        "softplus head, targets of both signs -> linear",
        _signs.but(model=mlp((2, 16, 1), (relu, jax.nn.softplus))),
        _signs.but(model=mlp((2, 16, 1), (relu, None))),
        ("bounded_output",),
    ),
    Bug(
        "SO59278771, SO51930566 (DeepLocalize)",
        "three sigmoids into categorical cross-entropy -> softmax",
        _iris,
        _iris.but(model=mlp((4, 4, 3), (relu, softmax), KERAS_NORMAL)),
        ("bounded_output", "double_softmax"),
        harmless=True,
    ),
    Bug(
        "sigmoid on the logits (UMLAUT's kind)",
        "sigmoid of the logits into softmax cross-entropy -> logits",
        _digits(sigmoid),
        _digits(None),
        ("bounded_output", "double_softmax"),
    ),
    Bug(
        "tanh on the logits (kin)",
        "tanh of the logits into softmax cross-entropy -> logits",
        _digits(tanh),
        _digits(None),
        ("bounded_output", "double_softmax"),
        harmless=True,
    ),
)

_four = Recipe(mlp((8, 32, 4), (relu, softmax)), cross_entropy, data.blobs(4, 8), optax.sgd(0.1))
_soft_cnn = _cnn.but(model=linen(Convolutional(softmax), data.digits(shape=(14, 14, 1))[0]))
_logits_cnn = _cnn.but(model=linen(Convolutional(), data.digits(shape=(14, 14, 1))[0]))
_twice = Recipe(mlp((20, 32, 1), (relu, sigmoid)), bce_of_logits, data.sums(20), optax.adam(3e-3))

DOUBLED = (
    Bug(
        "baseCNN_red_soft (TheDeepChecker)",
        "softmax in a CNN, cross-entropy of logits on it, 10 classes -> logits",
        _soft_cnn,
        _logits_cnn,
        ("double_softmax",),
    ),
    Bug(
        "double softmax, perceptron (ten repositories)",
        "softmax in the model, cross-entropy of logits on it, 10 classes -> logits",
        _digits(softmax),
        _digits(None),
        ("double_softmax",),
    ),
    Bug(
        "double softmax, 4 classes (ten repositories)",
        "the same with 4 classes -> logits",
        _four,
        _four.but(model=mlp((8, 32, 4), (relu, None))),
        ("double_softmax",),
    ),
    Bug(
        "double sigmoid (kin)",
        "sigmoid in the model, binary cross-entropy of logits on it -> logits",
        _twice,
        _twice.but(model=mlp((20, 32, 1), (relu, None))),
        ("double_softmax", "bounded_output"),
    ),
    Bug(
        "double softmax in NNX (kin)",
        "softmax in the module, one-hot cross-entropy of logits on it -> logits",
        _nnx((784, 64, 10), softmax, cross_entropy, data.digits()),
        _nnx((784, 64, 10), None, cross_entropy, data.digits()),
        ("double_softmax",),
    ),
)

FRIENDS = (
    Friend("log_softmax twice", "the second changes nothing", _digits(jax.nn.log_softmax)),
    Friend("softmax and NLL by hand", "softmax once", _digits(softmax, nll)),
    Friend(
        "softmax head, MSE of one-hot targets",
        "slow, but it learns",
        _digits(softmax, lambda outputs, y: mse(outputs, jax.nn.one_hot(y, 10))),
    ),
    Friend(
        "sigmoid head, targets from 0 to 1",
        "in reach",
        _share.but(model=mlp((3, 16, 1), (tanh, sigmoid))),
    ),
    Friend(
        "ReLU head, targets that are never negative",
        "in reach",
        Recipe(mlp((3, 32, 1), (relu, relu), _he), mse, data.shares(), optax.adam(1e-2)),
    ),
    Friend(
        "tanh head, targets from -1 to 1",
        "in reach",
        _signs.but(model=mlp((2, 16, 1), (relu, tanh))),
    ),
    Friend(
        "sigmoid head for 10 classes, in NNX",
        "logits, and BCE of one-hot targets",
        _nnx(
            (784, 64, 10),
            None,
            lambda outputs, y: bce_of_logits(outputs, jax.nn.one_hot(y, 10)),
            data.digits(),
        ),
    ),
    Friend(
        "small readout",
        "N(0, 0.01²), on purpose",
        Recipe(mlp((784, 64, 10), (relu, None), (_he, NORMAL(0.01))), cross_entropy, data.digits()),
    ),
)
