"""Models that are compiled once and audited with many parameters, each with at most one fault."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

import initjax

DEPTH, WIDTH, CLASSES, INPUTS = 12, 64, 10, 32
X = np.random.default_rng(0).normal(size=(64, INPUTS)).astype(np.float32)
Y = np.arange(64) % CLASSES


def normal(number, *shape):
    """Of unit variance over the square root of the shape's fan-in."""
    drawn = np.random.default_rng(number).normal(size=shape) / shape[-2] ** 0.5
    return drawn.astype(np.float32)


def with_value(array, place, value):
    changed = np.array(array)
    changed[place] = value
    return changed


class Model:
    """A loss that is compiled once, and audited with many parameters."""

    def __init__(self, loss, params, *batch, optimizer=None):
        self.audit = initjax.auditor(loss, params, *batch, optimizer=optimizer)

    def __call__(self, params, *batch):
        return self.audit(params, *batch)


def causes(report):
    for finding in report.findings:
        for text in (finding.message, finding.remedy):
            assert re.fullmatch(r"[A-Z0-9].*[^.]\.", text), text  # a sentence
    return [(finding.cause, finding.level) for finding in report.findings]


def audited(loss, params, *batch):
    return causes(Model(loss, params, *batch)(params, *batch))


@functools.cache
def deep(activation):
    """A classifier of 14 layers, of which the inner ones are stacked."""

    def turn(z, layer):
        return activation(z) @ layer["kernel"] + layer["bias"], None

    def loss(p, x, y):
        z, _ = jax.lax.scan(turn, x @ p["in"]["kernel"] + p["in"]["bias"], p["stack"])
        logits = activation(z) @ p["out"]["kernel"] + p["out"]["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return Model(loss, params(), X, Y, optimizer=optax.sgd(0.1))


def params(gain=1.05, biases=0.0, **changes):
    """Parameters of that, critical for tanh; with changes to one leaf each."""
    tree = {
        "in": {"kernel": normal(1, INPUTS, WIDTH), "bias": np.zeros(WIDTH, np.float32)},
        "stack": {
            "kernel": normal(2, DEPTH, WIDTH, WIDTH) * gain**0.5,
            "bias": normal(3, DEPTH, 1, WIDTH)[:, 0] * biases**0.5,
        },
        "out": {"kernel": normal(4, WIDTH, CLASSES), "bias": np.zeros(CLASSES, np.float32)},
    }
    for name, change in changes.items():
        layer, leaf = name.split("_")
        tree[layer][leaf] = change(tree[layer][leaf])
    return tree


def tanh(tree, x=X):
    return deep(jnp.tanh)(tree, x, Y)


def relu(tree, x=X):
    return deep(jax.nn.relu)(tree, x, Y)


SHIFT = normal(5, 1, INPUTS)


def sine(tree, x=X):
    return deep(jnp.sin)(tree, x, Y)


def identity(tree, x=X):
    return deep(jnp.asarray)(tree, x, Y)


ALIKE = X / 6 + SHIFT  # examples that differ little


def square(z):
    return jnp.square(z).mean()


def cross_entropy(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()
