"""Training as pure, jitted functions of parameters, keys and data; nothing here touches the host.

An epoch is one `lax.scan` over its batches. The data are arguments, never constants of the
program; the state is donated. Initialization is no part of it, so that one compiled program serves
every initializer.
"""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

_EVALUATION_BATCH = 1000  # examples at a time: few enough for a processor's cache, enough for speed


class State(NamedTuple):
    """What training changes, and what it draws: parameters and the optimizer's state."""

    params: Any
    opt_state: Any


class Metrics(NamedTuple):
    """Sums over the examples of each batch: arrays of shape (batches,)."""

    loss: Any
    correct: Any


@functools.lru_cache
def optimizer(name: str, learning_rate: float) -> optax.GradientTransformation:
    """Makes an Optax optimizer by name; the same arguments give the same object, so jit caches.

    Args:
      name: `adam`, `sgd`, or `momentum` (SGD with momentum .9).
      learning_rate: a number > 0.
    """
    make = {
        "adam": optax.adam,
        "momentum": functools.partial(optax.sgd, momentum=0.9),
        "sgd": optax.sgd,
    }
    return make[name](learning_rate)


class Epoch(NamedTuple):
    """What is known after an epoch."""

    number: int
    """1 for the first; 0 stands for the network before training."""
    metrics: dict[str, float]
    """`loss`, `acc` (means over the epoch, in training mode), `val_loss`, `val_acc`; epoch 0 has
    only the latter two."""
    batch_metrics: Metrics | None
    """Means over the examples of each batch, arrays of shape (steps,); None for epoch 0."""
    params: Any
    """The parameters; valid until the next epoch is asked for, which reuses their buffers."""
    seconds: float
    """Wall time with evaluation; the first time a program is used, with its compilation."""


def fit(
    apply: Callable[[Any, jax.typing.ArrayLike], jax.Array],
    optimizer: optax.GradientTransformation,
    params: Any,
    key: jax.Array,
    train_set: tuple[np.ndarray, np.ndarray],
    test_set: tuple[np.ndarray, np.ndarray],
    *,
    epochs: int,
    batch_size: int,
    watch: Callable[[int, int, int, dict[str, float]], None] | None = None,
) -> Iterator[Epoch]:
    """Trains a model, epoch by epoch; every example counts, the last, partial batch included.

    Args:
      apply: the model, (params, images) -> logits.
      optimizer: from `optimizer`.
      params: the parameters to start from; their buffers are used up.
      key: determines the order of the examples; each epoch's is folded from it.
      train_set: images uint8 (n, height, width, channels) and their classes int32 (n,).
      test_set: the same, to evaluate on after every epoch.
      epochs: how many.
      batch_size: examples a batch.
      watch: called with (epoch, steps done, steps, metrics so far) some ten times an epoch, which
        is then run in as many parts; without it an epoch is one program from end to end.

    Yields:
      Epoch 0, the network before training, then every epoch.
    """
    state = State(params, jax.jit(optimizer.init)(params))
    train_set, test_set = jax.device_put((train_set, test_set))
    examples = len(train_set[0])
    batch_size = min(batch_size, examples)
    steps = -(-examples // batch_size)
    # Real examples in each batch: only the last may hold fewer.
    sizes = np.minimum(batch_size, examples - batch_size * np.arange(steps))

    def test() -> dict[str, float]:
        sums = jax.device_get(evaluate(state.params, *test_set, apply=apply))
        return {f"val_{name}": value for name, value in _means(sums, len(test_set[0])).items()}

    started = time.perf_counter()
    yield Epoch(0, test(), None, state.params, time.perf_counter() - started)
    for epoch in range(1, epochs + 1):
        started = time.perf_counter()
        batches = shuffled_batches(jax.random.fold_in(key, epoch), examples, batch_size)
        sums = Metrics(np.zeros(0), np.zeros(0))
        for part in _parts(batches) if watch else [batches]:
            if watch:
                done = len(sums.loss)
                watch(epoch, done, steps, _means(sums, sizes[:done].sum()) if done else {})
            state, more = train(state, *train_set, part, apply=apply, optimizer=optimizer)
            sums = Metrics(*map(np.append, sums, jax.device_get(more)))
        metrics = _means(sums, examples) | test()
        batch_metrics = Metrics(sums.loss / sizes, sums.correct / sizes)
        yield Epoch(epoch, metrics, batch_metrics, state.params, time.perf_counter() - started)


def _parts(batches: jax.Array) -> list[jax.Array]:
    """Cuts an epoch into some ten parts, of the same length where that can be.

    Each length is a program of its own to compile, so a number of parts that divides is sought.
    """
    count = min(range(6, 13), key=lambda count: len(batches) % count)
    size = -(-len(batches) // count)
    return [batches[at : at + size] for at in range(0, len(batches), size)]


def _means(sums: Metrics, examples: int) -> dict[str, float]:
    """The mean loss and accuracy over the examples, summed in float64, under Keras's names."""
    loss, correct = (float(np.sum(column, dtype=np.float64)) for column in sums)
    return {"loss": loss / examples, "acc": correct / examples}


@functools.partial(jax.jit, static_argnames=("examples", "batch_size"))
def shuffled_batches(key: jax.Array, examples: int, batch_size: int) -> jax.Array:
    """Draws the order of an epoch.

    Args:
      key: the epoch's own key.
      examples: the number of examples; each is in the order exactly once.
      batch_size: examples a batch; the last batch may hold fewer.

    Returns:
      Indices int32 (batches, batch_size). The last batch is filled up with the index `examples`,
      which stands for no example.
    """
    # A permutation comes of sorting by random words. XLA's CPU sorts single words five times as
    # fast as pairs of word and index, so one word holds both: below the index, above it randomness.
    # What room is left for that is little (16 bits for 60,000 examples), and equal bits keep their
    # order; so it is done again until 32 bits have been spent. jax.random.permutation sorts pairs,
    # twice, and takes a sixth of the whole epoch's time.
    index_bits = max(1, (examples - 1).bit_length())
    mask = jnp.uint32(2**index_bits - 1)
    positions = jnp.arange(examples, dtype=jnp.uint32)
    order = positions
    for round_key in jax.random.split(key, -(-32 // (32 - index_bits))):
        words = jax.random.bits(round_key, (examples,), jnp.uint32)
        order = order[jnp.sort((words & ~mask) | positions) & mask]
    return _in_batches(order, batch_size)


def _in_batches(order: jax.Array, batch_size: int) -> jax.Array:
    padding = -len(order) % batch_size
    order = jnp.pad(order.astype(jnp.int32), (0, padding), constant_values=len(order))
    return order.reshape(-1, batch_size)


@functools.partial(jax.jit, static_argnames=("apply", "optimizer"), donate_argnames=("state",))
def train(
    state: State,
    images: jax.Array,
    labels: jax.Array,
    batches: jax.Array,
    *,
    apply: Callable[[Any, jax.typing.ArrayLike], jax.Array],
    optimizer: optax.GradientTransformation,
) -> tuple[State, Metrics]:
    """Trains on batches, one after another: on those of an epoch, or on any part of them.

    Args:
      state: the state to go on from; its buffers are donated.
      images: all training images, uint8 (n, height, width, channels).
      labels: their classes, int32 (n,).
      batches: indices int32 (batches, batch_size); n stands for no example.
      apply: the model, (params, images) -> logits.
      optimizer: from `optimizer`.

    Returns:
      The new state, and each batch's metrics in training mode, before its update.
    """

    def step(state: State, batch: jax.Array) -> tuple[State, Metrics]:
        def mean_loss(params: Any) -> tuple[jax.Array, Metrics]:
            metrics = _metrics(apply, params, images, labels, batch)
            return metrics.loss / jnp.sum(batch < len(images), dtype=metrics.loss.dtype), metrics

        grads, metrics = jax.grad(mean_loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        return State(optax.apply_updates(state.params, updates), opt_state), metrics

    return jax.lax.scan(step, state, batches)


@functools.partial(jax.jit, static_argnames=("apply",))
def evaluate(
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    apply: Callable[[Any, jax.typing.ArrayLike], jax.Array],
) -> Metrics:
    """Scores every image once.

    Args:
      params: the model's parameters.
      images: uint8 (n, height, width, channels).
      labels: int32 (n,).
      apply: the model, (params, images) -> logits.

    Returns:
      Each batch's metrics, whose sums over n are loss and accuracy.
    """
    batches = _in_batches(jnp.arange(len(images)), _EVALUATION_BATCH)
    return jax.lax.map(lambda batch: _metrics(apply, params, images, labels, batch), batches)


def _metrics(
    apply: Callable, params: Any, images: jax.Array, labels: jax.Array, batch: jax.Array
) -> Metrics:
    """The sums of loss and of correct guesses over the real examples of a batch."""
    # Rows are gathered as uint8 inside the loop: for MNIST that is as fast as an epoch shuffled
    # beforehand, and needs no second copy of the data. Padding reads the last row, and counts zero.
    real = batch < len(images)
    logits = apply(params, images.at[batch].get(mode="clip")).astype(
        jnp.promote_types(jnp.float32, _dtype(params))
    )
    targets = labels.at[batch].get(mode="clip")
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    correct = real & (jnp.argmax(logits, axis=-1) == targets)
    return Metrics(jnp.sum(jnp.where(real, losses, 0)), jnp.sum(correct))


def _dtype(params: Any) -> np.dtype:
    return jax.tree.leaves(params)[0].dtype
