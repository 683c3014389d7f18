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

EVALUATION_BATCH = 1000  # examples at a time: few enough for a processor's cache, enough for speed


class State(NamedTuple):
    """What training changes, and what it draws: parameters and the optimizer's state."""

    params: Any
    opt_state: Any


class Metrics(NamedTuple):
    """Sums over the examples of each batch: arrays of shape (batches,)."""

    loss: Any
    correct: Any


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "sgd": optax.sgd,
}
"""Those of `config.OPTIMIZERS`, as functions of the learning rate."""


class History(NamedTuple):
    """What many runs did."""

    batches: Metrics
    """Arrays of shape (runs, epochs, steps): each training batch, before its update."""
    tests: Metrics
    """Arrays of shape (runs, epochs + 1, batches): the test set, before training and then on."""


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
    optimizer: str,
    learning_rate: float,
    params: Any,
    key: jax.Array,
    train_set: tuple[np.ndarray, np.ndarray],
    test_set: tuple[np.ndarray, np.ndarray],
    *,
    epochs: int,
    batch_size: int,
    watch: Callable[[int, int, int, dict[str, float]], None] | None = None,
    inspect: Callable[[int, Any], None] | None = None,
    inspect_every: int | None = None,
) -> Iterator[Epoch]:
    """Trains a model, epoch by epoch; every example counts, including the last, partial batch.

    An epoch is one program from end to end; with `watch` or `inspect` it is run in several parts,
    and the training is bit-for-bit the same.

    Args:
      apply: the model, (params, images) -> logits.
      optimizer: one of `config.OPTIMIZERS`.
      learning_rate: a number > 0.
      params: the parameters to start from.
      key: determines the order of the examples; the key of each epoch is folded from it.
      train_set: images uint8 (n, height, width, channels) and their classes int32 (n,).
      test_set: the same, to evaluate on after every epoch.
      epochs: how many.
      batch_size: examples per batch.
      watch: called with (epoch, steps done, steps, metrics so far) about ten times per epoch.
      inspect: called with (steps so far, parameters) before training and after every
        `inspect_every` steps, counted over all epochs. The parameters are valid during the call
        only. `Epoch.seconds` does not include its time.
      inspect_every: see `inspect`, which needs it.

    Yields:
      Epoch 0, which is the network before training, then every epoch.
    """
    state = initial_state(optimizer, learning_rate, params)
    train_set, test_set = jax.device_put((train_set, test_set))
    examples = len(train_set[0])
    batch_size = min(batch_size, examples)
    sizes = batch_sizes(examples, batch_size)
    steps = len(sizes)

    def test() -> dict[str, float]:
        sums = jax.device_get(evaluate(state.params, *test_set, apply=apply))
        return {f"val_{name}": value for name, value in means(sums, len(test_set[0])).items()}

    started = time.perf_counter()
    yield Epoch(0, test(), None, state.params, time.perf_counter() - started)
    if inspect:
        inspect(0, state.params)
    for epoch in range(1, epochs + 1):
        started = time.perf_counter()
        batches = shuffled_batches(jax.random.fold_in(key, epoch), examples, batch_size)
        before = (epoch - 1) * steps
        lengths = _part_lengths(steps, before, watch is not None, inspect and inspect_every)
        sums = Metrics(np.zeros(0), np.zeros(0))
        done = 0
        for length in lengths:
            if watch:
                watch(epoch, done, steps, means(sums, sizes[:done].sum()) if done else {})
            part = batches if length == steps else batches[done : done + length]
            state, more = train(
                state, learning_rate, *train_set, part, apply=apply, optimizer=optimizer
            )
            sums = Metrics(*map(np.append, sums, jax.device_get(more)))
            done += length
            if inspect and inspect_every and (before + done) % inspect_every == 0:
                paused = time.perf_counter()
                inspect(before + done, state.params)
                started += time.perf_counter() - paused
        metrics = means(sums, examples) | test()
        batch_metrics = Metrics(sums.loss / sizes, sums.correct / sizes)
        yield Epoch(epoch, metrics, batch_metrics, state.params, time.perf_counter() - started)


def _part_lengths(steps: int, before: int, watched: bool, stop_every: int | None) -> list[int]:
    """Cuts an epoch into parts.

    Each length is compiled separately, so only a few are used: one for most parts, and powers of
    two for the rest before a stop or the end of the epoch.

    Args:
      steps: number of steps in the epoch.
      before: number of steps in all epochs before it.
      watched: whether to cut it into about ten parts.
      stop_every: end a part at every multiple of this number, counted over all epochs.
    """
    cuts, longest = [0, steps], steps
    if watched:  # the number of parts with the smallest remainder
        longest = max(1, steps // min(range(6, 13), key=lambda parts: steps % parts))
    if stop_every:
        longest = min(longest, stop_every)
        cuts[1:1] = range(stop_every - before % stop_every, steps, stop_every)
    lengths = []
    for gap in np.diff(cuts).tolist():
        whole, rest = divmod(gap, longest)
        lengths += [longest] * whole
        lengths += [2**power for power in range(rest.bit_length()) if rest >> power & 1]
    return lengths


def batch_sizes(examples: int, batch_size: int) -> np.ndarray:
    """The number of examples in each batch of an epoch: only the last may hold fewer."""
    return np.diff(np.append(np.arange(0, examples, batch_size), examples))


def means(sums: Metrics, examples: int) -> dict[str, float]:
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


@functools.partial(jax.jit, static_argnames="optimizer")
def initial_state(optimizer: str, learning_rate: jax.typing.ArrayLike, params: Any) -> State:
    """The state to start training in from given parameters, which are kept."""
    return State(params, OPTIMIZERS[optimizer](learning_rate).init(params))


@functools.partial(jax.jit, static_argnames=("apply", "optimizer"), donate_argnames=("state",))
def train(
    state: State,
    learning_rate: jax.typing.ArrayLike,
    images: jax.Array,
    labels: jax.Array,
    batches: jax.Array,
    *,
    apply: Callable[[Any, jax.typing.ArrayLike], jax.Array],
    optimizer: str,
) -> tuple[State, Metrics]:
    """Trains on batches, one after another: on those of an epoch, or on any part of them.

    Args:
      state: the state to go on from; its buffers are donated.
      learning_rate: an argument, so that one program serves all of them.
      images: all training images, uint8 (n, height, width, channels).
      labels: their classes, int32 (n,).
      batches: indices int32 (batches, batch_size); n stands for no example.
      apply: the model, (params, images) -> logits.
      optimizer: one of `config.OPTIMIZERS`.

    Returns:
      The new state, and each batch's metrics in training mode, before its update.
    """
    transform = OPTIMIZERS[optimizer](learning_rate)

    def step(state: State, batch: jax.Array) -> tuple[State, Metrics]:
        def mean_loss(params: Any) -> tuple[jax.Array, Metrics]:
            metrics = _metrics(apply, params, images, labels, batch)
            return metrics.loss / jnp.sum(batch < len(images), dtype=metrics.loss.dtype), metrics

        grads, metrics = jax.grad(mean_loss, has_aux=True)(state.params)
        updates, opt_state = transform.update(grads, state.opt_state, state.params)
        return State(optax.apply_updates(state.params, updates), opt_state), metrics

    return jax.lax.scan(step, state, batches)


@functools.partial(jax.jit, static_argnames=("apply", "optimizer", "epochs", "batch_size", "mesh"))
def train_runs(
    counts: jax.Array,
    params: Any,
    learning_rates: jax.Array,
    keys: jax.Array,
    train_set: tuple[jax.Array, jax.Array],
    test_set: tuple[jax.Array, jax.Array],
    *,
    apply: Callable[[Any, jax.typing.ArrayLike], jax.Array],
    optimizer: str,
    epochs: int,
    batch_size: int,
    mesh: jax.sharding.Mesh,
) -> History:
    """Trains many runs in one program, each from end to end as `fit` does.

    On a CPU the runs of a device follow one another, so that each computes what it would alone, to
    the bit. Elsewhere they advance together, which is far faster there.

    Args:
      counts: how many of a device's runs are to be trained, (devices,); the others are there so
        that one program serves any number.
      params: the parameters of every run, with a leading axis (runs,), the same number a device.
      learning_rates: (runs,).
      keys: those that determine the orders of the examples, (runs,).
      train_set: images uint8 (n, height, width, channels) and their classes int32 (n,).
      test_set: the same.
      apply: the model, (params, images) -> logits.
      optimizer: one of `config.OPTIMIZERS`.
      epochs: how many.
      batch_size: examples a batch.
      mesh: the devices, along one axis `runs`.
    """
    examples = len(train_set[0])
    batch_size = min(batch_size, examples)

    def train_one(params, learning_rate, key, train_set, test_set):
        def test(params):
            return evaluate(params, *test_set, apply=apply)

        def train_epoch(state, epoch):
            batches = shuffled_batches(jax.random.fold_in(key, epoch), examples, batch_size)
            state, metrics = train(
                state, learning_rate, *train_set, batches, apply=apply, optimizer=optimizer
            )
            return state, (metrics, test(state.params))

        before = test(params)
        state = initial_state(optimizer, learning_rate, params)
        _, (batches, after) = jax.lax.scan(train_epoch, state, jnp.arange(1, epochs + 1))
        tests = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), before, after)
        return History(batches, tests)

    def train_shard(counts, runs, *data):
        if jax.default_backend() != "cpu":
            return jax.vmap(lambda run: train_one(*run, *data))(runs)

        def train_next(index, histories):
            history = train_one(*jax.tree.map(lambda leaf: leaf[index], runs), *data)
            return jax.tree.map(lambda all, one: all.at[index].set(one), histories, history)

        shapes = jax.eval_shape(jax.vmap(lambda run: train_one(*run, *data)), runs)
        histories = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        return jax.lax.fori_loop(0, counts[0], train_next, histories)

    shard, whole = jax.P("runs"), jax.P()
    return jax.shard_map(
        train_shard,
        mesh=mesh,
        in_specs=(shard, shard, whole, whole),
        out_specs=shard,
        check_vma=False,  # the loop's first histories are the same on all devices, its last are not
    )(counts, (params, learning_rates, keys), train_set, test_set)


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
    batches = _in_batches(jnp.arange(len(images)), EVALUATION_BATCH)
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
