"""What training minimizes, as pure functions of parameters and a batch of arrays."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

TEST_BATCH = 1000  # images: fits the cache of a CPU, and is large enough to be fast


class Metrics(NamedTuple):
    """Sums over the examples of each batch: arrays of shape (batches,)."""

    loss: Any
    correct: Any
    """The number of correct predictions; None if the task has no accuracy."""


class Task(NamedTuple):
    """A task. Tasks are equal if their functions are identical, so that jit caches them."""

    sums: Callable[[Any, tuple[Any, ...], jax.Array], Metrics]
    """Maps (params, batch, real) to scalars: the metrics, summed over the real examples of the
    batch, which is a tuple of trees of arrays with a leading axis of examples."""
    padded: bool = True
    """Whether it can leave examples out; if not, all of them are real, and batches may have several
    sizes."""
    known: bool = True
    """Whether it is known what guessing gives; if not, the loss before training is needed."""
    test_batch: int = TEST_BATCH
    """Examples per batch of the test set."""


def examples(data: tuple[Any, ...]) -> int:
    """The number of examples in trees of arrays."""
    return jax.tree.leaves(data)[0].shape[0]


@functools.lru_cache
def classification(apply: Callable[[Any, Any], jax.Array]) -> Task:
    """Classification of images: the cross-entropy, and the number of correct predictions.

    Args:
      apply: the model, (params, images) -> logits.

    Returns:
      A task whose batches are images and their classes, int32 (batch,).
    """

    def sums(params: Any, batch: tuple[Any, ...], real: jax.Array) -> Metrics:
        images, targets = batch
        dtype = jax.tree.leaves(params)[0].dtype
        logits = apply(params, images).astype(jnp.promote_types(jnp.float32, dtype))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        correct = real & (jnp.argmax(logits, axis=-1) == targets)
        return Metrics(jnp.sum(jnp.where(real, losses, 0)), jnp.sum(correct))

    return Task(sums)
