"""Faults of the batch axis and of what is averaged over it, and of the targets' scale."""

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
    Model,
    Recipe,
    bce,
    cross_entropy,
    in_nnx,
    mlp,
    mse,
    nll,
    summed_cross_entropy,
)
from .outputs import Classifier

relu, sigmoid, softmax = jax.nn.relu, jax.nn.sigmoid, jax.nn.softmax
SGD = optax.sgd
_trunc = jax.nn.initializers.truncated_normal


def _after(model: Model, change) -> Model:
    """The model with a function of the whole batch of inputs in front."""

    def make(key: jax.Array) -> tuple[Apply, object]:
        apply, params = model(key)
        return (lambda params, x: apply(params, change(x))), params

    return make


def _over_batch(x: jax.Array) -> jax.Array:
    """TheDeepChecker's softmax by hand, over the wrong axis."""
    e = jnp.exp(x - x.max(axis=0, keepdims=True))
    return e / e.sum(axis=0, keepdims=True)


_digits = Recipe(mlp((784, 64, 10), (relu, None)), cross_entropy, data.digits())
_soft = Recipe(mlp((784, 64, 10), (relu, softmax)), nll, data.digits(), alone=True)
_column = Recipe(mlp((9, 32, 1), (relu, None)), mse, data.standardized(data.cars()))
_flat = data.with_scaled_targets(data.standardized(data.cars()))
_regression = Recipe(
    mlp((9, 32, 1), (relu, None)), mse, (_flat[0], _flat[1][:, 0]), optax.adam(1e-2)
)


def _mse_of_column(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return mse(outputs[:, 0], targets)


def _nnx_over_batch(axis: int) -> Recipe:
    def head(x: jax.Array) -> jax.Array:
        return nnx.softmax(x, axis=axis)

    model = in_nnx(lambda rngs: Classifier((784, 64, 10), head, rngs))
    return Recipe(model, nll, data.digits(), framework="NNX", alone=True)


COUPLED = (
    Bug(
        "baseCNN_wrong_soft (TheDeepChecker)",
        "softmax by hand over the batch axis -> over the classes",
        _soft.but(model=mlp((784, 64, 10), (relu, _over_batch))),
        _soft,
        ("batch_coupling",),
    ),
    Bug(
        "softmax(axis=0) in NNX (kin)",
        "jax.nn.softmax over the batch axis -> over the classes",
        _nnx_over_batch(0),
        _nnx_over_batch(-1),
        ("batch_coupling",),
    ),
    Bug(
        "log_softmax over the batch (kin)",
        "cross-entropy of log_softmax(axis=0) -> axis -1",
        _digits.but(
            loss=lambda outputs, y: (
                -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(outputs, axis=0), y[:, None], 1))
            )
        ),
        _digits,
        ("batch_coupling",),
    ),
    Bug(
        "(N, 1) and (N,) in the loss",
        "outputs minus targets is of shape (N, N) -> the same shape",
        _regression,
        _regression.but(loss=_mse_of_column),
        ("batch_coupling",),
    ),
    Bug(
        "reshape for transpose (kin, asked often)",
        "features first, reshaped to rows: each row mixes examples -> transposed",
        _digits.but(model=_after(_digits.model, lambda x: x.T.reshape(x.shape))),
        _digits,
        ("batch_coupling",),
    ),
    Bug(
        "cumulative sum over the wrong axis (kin)",
        "logits are added up over the batch, as over time -> each its own",
        _digits.but(
            model=mlp((784, 64, 10), (relu, lambda x: jnp.cumsum(x, axis=0))), optimizer=SGD(0.1)
        ),
        _digits.but(optimizer=SGD(0.1)),
        ("batch_coupling",),
    ),
)


def _summed(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.sum((outputs - targets) ** 2)


def _summed_nll(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return -jnp.sum(jax.nn.one_hot(targets, 10) * jnp.log(outputs))


_wide = Recipe(mlp((784, 10), (softmax,), _trunc(1.0)), _summed_nll, data.digits(), SGD(0.01))
_logistic = Recipe(mlp((784, 10), (softmax,), ZEROS), _summed_nll, data.digits(), SGD(0.1))
_both = Recipe(
    mlp((784, 64, 64, 10), (relu, relu, None), NORMAL(1.0), NORMAL(1.0)),
    summed_cross_entropy,
    data.digits(),
    SGD(0.01),
)
_small = mlp((784, 64, 10), (relu, None), _trunc(0.1), jax.nn.initializers.constant(0.1))
_linear = Recipe(
    mlp((1, 1), (None,), ZEROS),
    _summed,
    data.with_scaled_targets(data.squares(1.0)),
    SGD(0.05),
)

SUMMED = (
    Bug(
        "IPS_14 (TheDeepChecker)",
        "784-10, truncated normal of stddev 1, cross-entropy by hand, summed -> averaged, Glorot",
        _wide,
        _wide.but(model=mlp((784, 10), (softmax,)), loss=nll, optimizer=SGD(0.1)),
        ("sum_loss", "output_scale"),
    ),
    Bug(
        "IPS_14's sum, in a perceptron",
        "784-64-10, cross-entropy summed, SGD 0.1 -> averaged",
        _digits.but(loss=summed_cross_entropy, optimizer=SGD(0.1)),
        _digits.but(optimizer=SGD(0.1)),
        ("sum_loss",),
    ),
    Bug(
        "TFE_742675d (TheDeepChecker)",
        "logistic regression from zeros, cross-entropy summed -> averaged",
        _logistic,
        _logistic.but(loss=nll),
        ("sum_loss",),
    ),
    Bug(
        "TFE_bc09f95 (TheDeepChecker)",
        "784-64-64-10 ReLU, all N(0, 1), cross-entropy summed -> averaged, He",
        _both,
        _both.but(
            model=mlp((784, 64, 64, 10), (relu, relu, None), jax.nn.initializers.he_normal()),
            loss=cross_entropy,
            optimizer=SGD(0.1),
        ),
        ("sum_loss", "exploding", "output_scale"),
    ),
    Bug(
        "IPS_1 (TheDeepChecker)",
        "cross-entropy summed, Adam -> averaged",
        Recipe(_small, summed_cross_entropy, data.digits()),
        Recipe(_small, cross_entropy, data.digits()),
        ("sum_loss",),
        harmless=True,
    ),
    Bug(
        "summed squares (IPS_17's kind)",
        "regression, squared errors summed over 256 examples, SGD -> averaged",
        _linear,
        _linear.but(loss=mse),
        ("sum_loss",),
    ),
)

_thousands = (data.standardized(data.cars())[0], 10 * data.cars()[1])
_scaled = data.with_scaled_targets(data.standardized(data.cars()))
_quartic = Recipe(
    mlp((1, 50, 50, 1), (sigmoid, jax.nn.elu, None)), mse, data.quartic(), optax.adam(1e-2)
)

TARGETS = (
    Bug(
        "SO52800582 (DeepLocalize)",
        "x from -100 to 100, y = x⁴ -> both scaled",
        _quartic,
        _quartic.but(data=data.with_scaled_targets(data.standardized(data.quartic()))),
        ("target_scale", "input_scale"),
    ),
    Bug(
        "regrNN_over_scaled_outputs (TheDeepChecker)",
        "targets are ten times the miles per gallon: 230 on average -> scaled",
        _column.but(data=_thousands),
        _column.but(data=_scaled),
        ("target_scale",),
    ),
    Bug(
        "house prices (UMLAUT's kind)",
        "targets near 100,000, MSE -> scaled",
        _column.but(data=(_scaled[0], 100_000 + 20_000 * _scaled[1])),
        _column.but(data=_scaled),
        ("target_scale",),
    ),
    Bug(
        "targets with SGD (kin)",
        "targets near 230, SGD 0.01: diverges -> scaled",
        _column.but(data=_thousands, optimizer=SGD(0.01)),
        _column.but(data=_scaled, optimizer=SGD(0.01)),
        ("target_scale",),
    ),
)

FRIENDS = (
    Friend(
        "IPS_15's loss: sum / (2 N)",
        "a mean, written as a sum",
        _column.but(
            data=_scaled, loss=lambda outputs, y: jnp.sum((outputs - y) ** 2) / (2 * len(y))
        ),
    ),
    Friend(
        "logistic regression from zeros",
        "no hidden layer: nothing to break the symmetry of",
        _logistic.but(loss=nll),
    ),
    Friend(
        "SO59325381: labels divided by 255 (DeepLocalize)",
        "as integers all labels are 0: a fault, and not of the initialization",
        _digits.but(data=(data.digits()[0], (data.digits()[1] / 255).astype(jnp.int32))),
    ),
    Friend(
        "summed over classes, averaged over examples",
        "the gradient does not grow with the batch",
        _digits.but(
            loss=lambda outputs, y: jnp.mean(
                jnp.sum((outputs - jax.nn.one_hot(y, 10)) ** 2, axis=-1)
            )
        ),
    ),
    Friend(
        "inputs standardized by the batch's own mean",
        "a normalization",
        _digits.but(
            model=_after(_digits.model, lambda x: (x - x.mean(0)) / (x.std(0) + 1e-2)),
        ),
    ),
    Friend(
        "targets from 0 to 1",
        "no scaling needed",
        _column.but(data=data.shares(9), model=mlp((9, 32, 1), (relu, sigmoid), GLOROT), loss=bce),
    ),
)
