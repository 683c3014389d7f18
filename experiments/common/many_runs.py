"""Many runs in one compiled program, divided over the devices: what a sweep trains."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.common import array_trees, batching, tasks, training
from experiments.common.tasks import Metrics, Task

_SPAN_STEPS = 32  # on an accelerator, about, between two questions to the host


class History(NamedTuple):
    """The metrics of many runs."""

    batches: Metrics
    """Arrays of shape (runs, epochs, steps): for each training batch, before its update."""
    tests: Metrics
    """Arrays of shape (runs, epochs + 1, batches): for the test set, before training and after
    every epoch. If a number of steps is trained: (runs, 1, batches), after them, since scoring a
    network takes as long as training it for dozens of steps; both if guessing isn't `known`."""


class Progress(NamedTuple):
    """Where many runs stand, all at the same step: arrays with a leading axis of runs."""

    state: Any
    """Of training, with the words of keys in place of keys. Before the first step, only the
    parameters count."""
    history: History
    """Zero for what is to come."""


def run_shapes(
    params: Any,
    train_set: tuple[Any, ...],
    test_set: tuple[Any, ...],
    *,
    task: Task,
    optimizer: training.Optimizer,
    epochs: int,
    batch_size: int,
    steps: int | None = None,
) -> Progress:
    """The shapes and dtypes of what is kept of one run, without an axis of runs.

    Args:
      params: the shapes of its parameters.
      train_set: as for `train_runs`, like all others.
    """
    state = jax.eval_shape(
        lambda params: array_trees.words(training.initial_state(optimizer, 0.0, params)), params
    )
    tested = jax.eval_shape(functools.partial(training.evaluate, task=task), params, test_set)
    examples = tasks.examples(train_set)
    count = len(batching.batch_sizes(examples, min(batch_size, examples), steps, not task.padded))
    tests = epochs if _only_after(task, steps) else epochs + 1

    def shapes(*axes: int) -> Metrics:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(axes, leaf.dtype), tested)

    return Progress(state, History(shapes(epochs, count), shapes(tests, tested.loss.shape[0])))


@functools.partial(
    jax.jit,
    static_argnames=("task", "optimizer", "epochs", "batch_size", "steps", "mesh"),
    donate_argnames=("progress",),
)
def train_runs(
    counts: jax.Array,
    progress: Progress,
    learning_rates: jax.Array,
    keys: jax.Array,
    train_set: tuple[Any, ...],
    test_set: tuple[Any, ...],
    first: jax.typing.ArrayLike,
    last: jax.typing.ArrayLike,
    *,
    task: Task,
    optimizer: training.Optimizer,
    epochs: int,
    batch_size: int,
    steps: int | None = None,
    mesh: jax.sharding.Mesh,
) -> Progress:
    """Trains many runs in one program, each as `fitting.fit` does: in full, or some of its steps.

    On a CPU the runs of a device are trained one after another, so each is bit-for-bit equal to a
    run on its own, in however many calls. On other devices they are trained together (`vmap`),
    which is much faster there.

    Args:
      counts: how many runs of each device to train, (devices,). The others are padding, so that
        one program serves any number of runs.
      progress: where the runs stand, the same number per device; its buffers are donated.
      learning_rates: (runs,).
      keys: determine the order of the examples of each run, (runs,).
      train_set: trees of arrays with a leading axis of examples, as the task takes them.
      test_set: the same.
      first: the steps that are done, counted over all epochs.
      last: the steps that will be done; both are multiples of `span_steps`.
      task: what is trained.
      optimizer: one of `config.OPTIMIZERS`, or a function of the learning rate.
      epochs: how many.
      batch_size: examples per batch.
      steps: as for `fitting.fit`.
      mesh: the devices, along one axis `runs`.

    Returns:
      Where they stand then.
    """
    examples = tasks.examples(train_set)
    batch_size = min(batch_size, examples)
    only_after = _only_after(task, steps)
    steps = len(batching.batch_sizes(examples, batch_size, steps, not task.padded))
    # A loop whose length is an argument has an accelerator ask the host at each turn.
    span = span_steps(steps)

    def train_one(progress, learning_rate, key, first, last, train_set, test_set):
        step = training.step_of(task, optimizer, learning_rate, train_set)
        (state, (sums, tests)), begins = progress, first == 0
        fresh = training.initial_state(optimizer, learning_rate, state.params)
        state = jax.tree.map(functools.partial(jnp.where, begins), array_trees.words(fresh), state)

        def train_epoch(epoch, carry):
            state, sums, tests = carry
            batches = batching.batch_order(
                key, epoch, examples, batch_size, steps, full=not task.padded
            )
            spans = batches.reshape(-1, span, batch_size)

            def train_span(index, carry):
                state, mine = carry
                state, more = jax.lax.scan(step, state, spans[index])
                return state, _with_row(mine, index, more)

            before = (epoch - 1) * steps
            start, end = jnp.maximum(first - before, 0), jnp.minimum(last - before, steps)
            mine = jax.tree.map(lambda leaf: leaf[epoch - 1].reshape(-1, span), sums)
            state, mine = jax.lax.fori_loop(
                start // span, end // span, train_span, (array_trees.keys(state, fresh), mine)
            )
            sums = _with_row(sums, epoch - 1, jax.tree.map(jnp.ravel, mine))

            def tested():
                row = epoch - 1 if only_after else epoch
                return _with_row(tests, row, training.evaluate(state.params, test_set, task=task))

            return array_trees.words(state), sums, jax.lax.cond(end == steps, tested, lambda: tests)

        # Epoch 0 has no steps, only a test.
        begin = first // steps + 1 if only_after else jnp.where(begins, 0, first // steps + 1)
        epochs_of_span = begin, (last + steps - 1) // steps + 1
        state, sums, tests = jax.lax.fori_loop(*epochs_of_span, train_epoch, (state, sums, tests))
        return Progress(state, History(sums, tests))

    def train_shard(counts, runs, *others):
        if jax.default_backend() != "cpu":
            return jax.vmap(lambda run: train_one(*run, *others))(runs)

        def train_next(index, progress):
            mine = jax.tree.map(lambda leaf: leaf[index], (progress, *runs[1:]))
            return _with_row(progress, index, train_one(*mine, *others))

        return jax.lax.fori_loop(0, counts[0], train_next, runs[0])

    shard, whole = jax.P("runs"), jax.P()
    return jax.shard_map(
        train_shard,
        mesh=mesh,
        in_specs=(shard, shard, whole, whole, whole, whole),
        out_specs=shard,
        check_vma=False,  # the loop's counts differ between devices
    )(
        counts,
        (progress, learning_rates, keys),
        jnp.asarray(first, jnp.int32),
        jnp.asarray(last, jnp.int32),
        train_set,
        test_set,
    )


def span_steps(steps: int) -> int:
    """The steps that `train_runs` always trains together, given how many there are in an epoch."""
    if jax.default_backend() == "cpu":
        return 1
    divisors = [number for number in range(1, steps + 1) if steps % number == 0]
    return min(divisors, key=lambda number: abs(math.log(number / _SPAN_STEPS)))


def _only_after(task: Task, steps: int | None) -> bool:
    """Whether the network is tested only after training, see `History`."""
    return steps is not None and task.known


def _with_row(tree: Any, index: jax.typing.ArrayLike, row: Any) -> Any:
    """The arrays with others in place of one row of each."""
    return jax.tree.map(lambda all, one: all.at[index].set(one), tree, row)
