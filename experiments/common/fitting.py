"""Trains one network, epoch by epoch: on one device or on a mesh, with pauses, from any step on."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import batching, processes, tasks, training
from experiments.common.meshes import Placement
from experiments.common.tasks import Metrics, Task

_PAUSE_SECONDS = 1.0  # that a part of an epoch may take, where training can be paused
_FIRST_STEPS = 8  # of the first part, before it is known how long one takes
_BLOCK_BYTES = 2**28  # of the rows of all devices that are on a mesh at once


class Epoch(NamedTuple):
    """The results of an epoch."""

    number: int
    """1 for the first; 0 is the network before training."""
    metrics: dict[str, float]
    """`loss`, `acc` (means over the epoch, in training mode), `val_loss`, `val_acc`; epoch 0 has
    only the last two."""
    batch_metrics: Metrics | None
    """Means over the examples of each batch, arrays of shape (steps,); None for epoch 0."""
    params: Any
    """The parameters; valid until the next epoch is requested, which reuses their buffers."""
    seconds: float
    """Wall time including evaluation, and including compilation the first time."""


class Point(NamedTuple):
    """Where a training stands, between two steps: all that is needed to go on."""

    state: training.State
    """Valid until the next step, which reuses its buffers."""
    epoch: int
    """The epoch that is being trained, 1 for the first."""
    step: int
    """How many of its steps are done."""
    sums: Metrics
    """The metrics of these steps, NumPy arrays of shape (step,)."""


def fit(
    task: Task,
    optimizer: training.Optimizer,
    learning_rate: float,
    params: Any,
    key: jax.Array,
    train_set: tuple[Any, ...],
    test_set: tuple[Any, ...],
    *,
    epochs: int,
    batch_size: int,
    steps: int | None = None,
    watch: Callable[[int, int, int, dict[str, float]], None] | None = None,
    inspect: Callable[[int, Any], None] | None = None,
    inspect_every: int | None = None,
    resume: Point | None = None,
    pause: Callable[[Point], None] | None = None,
    pause_every: int | None = None,
    placement: Placement | None = None,
) -> Iterator[Epoch]:
    """Trains a model, epoch by epoch; every example counts, including the last, partial batch.

    An epoch is one program from end to end; with `watch`, `inspect` or `pause` it is run in several
    parts, and the training is bit-for-bit the same.

    Args:
      task: what is trained.
      optimizer: one of `config.OPTIMIZERS`, or a function of the learning rate.
      learning_rate: a number > 0.
      params: the parameters to start from.
      key: determines the order of the examples; the key of each epoch is folded from it.
      train_set: trees of arrays with a leading axis of examples, as the task takes them.
      test_set: the same, to evaluate on after every epoch.
      epochs: how many.
      batch_size: examples per batch.
      steps: train that many steps instead, as one epoch, whatever their number.
      watch: called with (epoch, steps done, steps, metrics so far) about ten times per epoch.
      inspect: called with (steps so far, parameters) before training and after every
        `inspect_every` steps, counted over all epochs. The parameters are valid during the call
        only. `Epoch.seconds` does not include its time.
      inspect_every: see `inspect`, which needs it.
      resume: where to go on, instead of starting with `params`; its buffers are donated.
      pause: called about every second with the point that is reached, and after every
        `pause_every` steps, counted over all epochs; at the end of an epoch after that is yielded.
        `Epoch.seconds` does not include its time.
      pause_every: see `pause`.
      placement: the mesh to train on, on which the parameters are; the data stay on the host. If it
        has devices of several processes, all of them train together, and pause at the same steps.

    Yields:
      Epoch 0, which is the network before training, then every epoch; of a training that is resumed
      only those that are not finished at that point.
    """
    nothing = Metrics(np.zeros(0), np.zeros(0))
    begin = resume or Point(
        training.initial_state(optimizer, learning_rate, params, placement=placement), 1, 0, nothing
    )
    state, first, done, sums = begin
    tests = tasks.examples(test_set)
    test_rows = None
    if placement:
        in_order = batching.in_batches(jnp.arange(tests), task.test_batch)
        test_rows = placement.rows(test_set, np.asarray(in_order))
    else:
        train_set, test_set = jax.device_put((train_set, test_set))
    examples = tasks.examples(train_set)
    batch_size = min(batch_size, examples)
    sizes = batching.batch_sizes(examples, batch_size, steps)
    seen, steps = int(sizes.sum()), len(sizes)

    def test() -> dict[str, float]:
        if placement and test_rows:
            sums = training.score(state.params, test_rows, task=task, placement=placement)
        else:
            sums = training.evaluate(state.params, test_set, task=task)
        return {
            f"val_{name}": value for name, value in training.means(_fetched(sums), tests).items()
        }

    started = time.perf_counter()
    if not resume:
        yield Epoch(0, test(), None, state.params, time.perf_counter() - started)
        if inspect:
            inspect(0, state.params)
    pace = _FIRST_STEPS
    for epoch in range(first, epochs + 1):
        started = time.perf_counter()
        order = batching.batch_order(key, epoch, examples, batch_size, steps)
        blocks = _blocks(placement, train_set, np.asarray(order)) if placement else None
        before = (epoch - 1) * steps
        ends = set(_about_ten_ends(steps) if watch else [steps])
        for every in filter(None, (inspect_every, pause_every)):
            ends |= set(range(every - before % every, steps, every))
        while done < steps:
            if watch:
                watch(epoch, done, steps, training.means(sums, sizes[:done].sum()) if done else {})
            last = min(end for end in ends if end > done)
            if pause:
                last = min(last, done + pace)
            began = time.perf_counter()
            batches, start, end = blocks(done) if blocks else (order, 0, steps)
            last = min(last, end)
            span = slice(done - start, last - start)
            if blocks or inspect_every or pause:  # parts of many lengths
                state, more = training.train_span(
                    *(state, learning_rate, None if blocks else train_set),
                    *(batches, span.start, span.stop),
                    task=task,
                    optimizer=optimizer,
                    placement=placement,
                )
                more = Metrics(*(column[span] for column in _fetched(more)))
            else:
                part = order if last - done == steps else order[span]
                state, more = training.train(
                    state, learning_rate, train_set, part, task=task, optimizer=optimizer
                )
            sums = Metrics(*map(np.append, sums, _fetched(more)))
            paused = time.perf_counter()
            if pause:  # the first part includes compilation
                faster = _PAUSE_SECONDS * (last - done) / (paused - began)
                pace = processes.least(max(1, min(2 * pace, round(faster))))
            done = last
            if inspect and inspect_every and (before + done) % inspect_every == 0:
                inspect(before + done, state.params)
            if pause and done < steps:
                pause(Point(state, epoch, done, sums))
            started += time.perf_counter() - paused
        metrics = training.means(sums, seen) | test()
        batch_metrics = Metrics(sums.loss / sizes, sums.correct / sizes)
        yield Epoch(epoch, metrics, batch_metrics, state.params, time.perf_counter() - started)
        done, sums = 0, nothing
        if pause:
            pause(Point(state, epoch + 1, done, sums))


def _fetched(metrics: Metrics) -> Metrics:
    """Metrics as NumPy arrays. Other threads run meanwhile, which `device_get` alone keeps waiting
    for Python's lock: they notice if a process is lost whose part is waited for."""
    return jax.device_get(jax.block_until_ready(metrics))


def _blocks(
    placement: Placement, data: tuple[Any, ...], batches: np.ndarray
) -> Callable[[int], tuple[tuple[Any, jax.Array], int, int]]:
    """Puts the rows of an epoch on a mesh, one block of steps after another.

    All blocks have the same number of steps, so that one program serves all of them; the last one
    is filled up with steps that aren't to be trained.

    Args:
      placement: the mesh.
      data: the training examples, on the host.
      batches: the epoch's batches, as indices.

    Returns:
      A function of a step that returns the block with it, its first step, and the step after it.
    """
    steps, width = batches.shape
    row = sum(np.asarray(leaf[0]).nbytes for leaf in jax.tree.leaves(data))
    count = -(-steps * width * row // _BLOCK_BYTES)
    size = -(-steps // max(1, min(count, steps)))
    missing = tasks.examples(data)

    @functools.lru_cache(maxsize=1)
    def block(number: int) -> tuple[Any, jax.Array]:
        part = batches[number * size : (number + 1) * size]
        filled = np.pad(part, ((0, size - len(part)), (0, 0)), constant_values=missing)
        return placement.rows(data, filled)

    def find(step: int) -> tuple[tuple[Any, jax.Array], int, int]:
        number = step // size
        return block(number), number * size, min(steps, (number + 1) * size)

    return find


def _about_ten_ends(steps: int) -> list[int]:
    """The ends of about ten parts of an epoch, of equal length where that is possible.

    Each length is compiled separately, so the number of parts is one that divides well.
    """
    count = min(range(6, 13), key=lambda count: steps % count)
    size = -(-steps // count)
    return [*range(size, steps, size), steps]
