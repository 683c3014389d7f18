"""What an optimizer's first step leaves unchanged, or moves uphill, and what draws look like."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import initjax
from tests.initjax.auditing.judged import (
    DEPTH,
    INPUTS,
    WIDTH,
    X,
    causes,
    normal,
    params,
    square,
    tanh,
)

KEYS = jax.random.split(jax.random.key(0), 3)
SHAPES = {"in": (INPUTS, 64), "hidden": (64, 64), "out": (64, 4)}
TREE = {
    name: {"kernel": initjax.he_normal()(key, shape), "bias": jnp.zeros(shape[1])}
    for key, (name, shape) in zip(KEYS, SHAPES.items(), strict=True)
}


def loss_fn(p, x):
    for name in SHAPES:
        x = jax.nn.relu(x.astype(p[name]["kernel"].dtype)) @ p[name]["kernel"] + p[name]["bias"]
    return square(x - 1).astype("float32")


def labels(*frozen):
    return {
        name: {leaf: "frozen" if (name, leaf) in frozen else "trained" for leaf in layer}
        for name, layer in TREE.items()
    }


def trained(*frozen):
    """Adam for all parameters but some."""
    kinds: Any = {"trained": optax.adam(1e-3), "frozen": optax.set_to_zero()}
    return optax.multi_transform(kinds, labels(*frozen))


KERNELS = jax.tree.map(lambda leaf: leaf.ndim > 1, TREE)
UPHILL = optax.chain(optax.scale_by_adam(), optax.scale(1e-3))
CLIMBING = optax.multi_transform(
    {"trained": optax.adam(1e-3), "frozen": UPHILL}, labels(("in", "bias"))
)
WARMUP = optax.adam(optax.linear_schedule(0.0, 1e-3, 100))
NARROW = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), TREE)
INPUT, INNER = ("in", "kernel"), ("hidden", "kernel")
BODY = [(name, leaf) for name in ("in", "hidden") for leaf in TREE[name]]


def heavy(kernel):
    """A kernel of the same scale that no initializer draws."""
    tails = np.sign(kernel) * np.abs(kernel) ** 2
    return tails * kernel.std() / tails.std()


LOADED = {
    **TREE,
    "hidden": {**TREE["hidden"], "kernel": heavy(np.asarray(TREE["hidden"]["kernel"]))},
}


@pytest.mark.parametrize(
    ("optimizer", "tree", "found", "words"),
    [
        (trained(), TREE, [], ""),
        (WARMUP, TREE, [], ""),
        (CLIMBING, TREE, [], ""),  # some parameters are meant to
        (UPHILL, TREE, [("ascent", "failure")], "adds the gradient and does not subtract it"),
        (optax.masked(optax.adam(1e-3), KERNELS), TREE, [("ascent", "failure")], "in/bias and out"),
        (trained(("hidden", "bias")), TREE, [], ""),  # constants may stay
        (trained(INPUT), TREE, [("frozen", "warning")], "in/kernel looks drawn from he_normal"),
        (trained(INPUT, INNER), TREE, [], ""),  # most of the model, as under adapters
        (trained(*BODY), TREE, [("frozen", "warning")], "hidden/kernel and in/kernel unchanged"),
        (
            trained(*BODY, ("out", "kernel")),
            TREE,
            [("frozen", "warning")],
            "and in/kernel unchanged",
        ),
        (trained(*BODY), LOADED, [], ""),
        (optax.adam(1e-5), NARROW, [("frozen", "warning")], "two bfloat16 numbers"),
        (optax.adam(1e-3), NARROW, [], ""),
    ],
)
def test_what_the_first_step_leaves_or_moves_uphill_is_found(optimizer, tree, found, words):
    report = initjax.audit(loss_fn, tree, X, optimizer=optimizer)
    assert causes(report) == found
    assert all(words in finding.message for finding in report.findings)


def test_what_was_trained_before_may_be_frozen():
    tree = {**TREE, "in": {**TREE["in"], "kernel": heavy(np.asarray(TREE["in"]["kernel"]))}}
    assert causes(initjax.audit(loss_fn, tree, X, optimizer=trained(INPUT))) == []


def test_a_fault_of_scale_says_what_the_kernels_look_drawn_from():
    drawn = params(stack_kernel=lambda k: normal(2, DEPTH, WIDTH, WIDTH) * 0.02 * WIDTH**0.5)
    (finding,) = tanh(drawn).findings
    assert finding.cause == "vanishing"
    assert finding.message.endswith("look drawn from normal(0.02).")
