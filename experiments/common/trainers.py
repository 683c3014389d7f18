"""Trains runs in batches: one compiled program for all that differ only in where they start."""

import contextlib
import datetime
import math
import operator
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import (
    array_trees,
    batching,
    description,
    many_runs,
    tasks,
    training,
    unfinished,
)

_MOST_RUNS = 16  # per device in a batch on a CPU, where more gain nothing
_MOST_RUNS_TOGETHER = 256  # the same on other devices, which train all runs together
_CPU_BYTES = 2**28  # for the batch of one device
COPIES = 4
"""About how many copies of a run are in memory. Of its parameters: on the host, on the device, and
two in the state of Adam, which is the largest. Of its history: on the device, on the host, in its
row, and in the file of the batch."""

_WHOLE_SECONDS = 5.0  # that a batch may take without a pause
_PAUSE_SECONDS = 2.0  # from one pause to the next in longer ones

Points = Mapping[str, unfinished.Point]
"""The state of runs, by their keys."""

Runs = Mapping[str, Any]
"""What tells runs apart, of any type, by the key of the run."""


class Start(NamedTuple):
    """Where a run starts."""

    params: Any
    learning_rate: float
    key: jax.Array
    """Determines the order of the examples."""


class Plan(NamedTuple):
    """What a program trains."""

    task: tasks.Task
    shapes: Any
    """The parameters, as shapes."""
    optimizer: training.Optimizer
    train_set: tuple[Any, ...]
    test_set: tuple[Any, ...]
    epochs: int
    steps: int | None
    batch_size: int
    activations: int
    """Bytes that one step of a run needs besides parameters and data, about."""
    context: Callable[[], contextlib.AbstractContextManager[None]]
    """In which everything that computes takes place."""
    start: Callable[[Any], Start]
    """Draws or loads the parameters of a run."""
    columns: Callable[[Any], dict[str, Any]]
    """The columns of a run's row that are known before it is trained."""


class Trainer(NamedTuple):
    """Trains the runs of a group."""

    train: Callable[[Runs, Points, Callable[[Callable[[], Points]], None]], list[dict[str, Any]]]
    """Trains a batch of at most `most` runs and returns the rows for `sweep_directory`.

    Its arguments are the runs; their state, empty if they are new, or all at the same step;
    and what to do about every two seconds, which may raise an exception to stop. That is called
    with a function that returns the state of the runs, to go on from there.
    """
    least: int
    """The size of a batch should be a multiple of this."""
    most: int
    origin: str
    """What computes, see `Unfinished.load`."""
    like: Mapping[str, Any]
    """The shapes and dtypes of `Point.arrays`."""


def trainer(plan: Plan, runs: int) -> Trainer:
    """Makes the trainer of a plan.

    Args:
      plan: what is trained.
      runs: how many there are.
    """
    devices = jax.local_devices()
    mesh = jax.make_mesh((len(devices),), ("runs",), devices=devices)
    sharded, whole = (jax.NamedSharding(mesh, spec) for spec in (jax.P("runs"), jax.P()))
    with plan.context():  # all runs share one copy of the data on each device
        train_set, test_set = jax.device_put((plan.train_set, plan.test_set), whole)
    slots = _slots(plan)
    one_by_one = devices[0].platform == "cpu"
    if one_by_one:
        least = len(devices)
    else:  # runs are trained together, and fewer take as long
        slots = min(slots, -(-runs // len(devices)))
        least = slots * len(devices)
    environment = description.environment()
    common = {
        "host": environment["device"]["host"],
        "device": environment["device"]["kind"],
        "versions": ", ".join(" ".join(pair) for pair in environment["versions"].items()),
    }
    shapes = jax.tree.leaves(plan.shapes)
    examples = tasks.examples(plan.train_set)
    settings = {
        "task": plan.task,
        "optimizer": plan.optimizer,
        "epochs": plan.epochs,
        "batch_size": plan.batch_size,
        "steps": plan.steps,
    }
    of_epoch = len(
        batching.batch_sizes(
            examples, min(plan.batch_size, examples), plan.steps, full=not plan.task.padded
        )
    )
    pace = _Pace(many_runs.span_steps(of_epoch), plan.epochs * of_epoch)

    with plan.context():
        one_run = many_runs.run_shapes(plan.shapes, plan.train_set, plan.test_set, **settings)

    def train(
        batch: Runs, points: Points, pause: Callable[[Callable[[], Points]], None]
    ) -> list[dict[str, Any]]:
        started = time.perf_counter()
        # Runs are assigned to devices in turn; those of one device are adjacent.
        places = [slots * (i % len(devices)) + i // len(devices) for i in range(len(batch))]
        counts = np.array([len(places[device :: len(devices)]) for device in range(len(devices))])
        turns = max(counts) if one_by_one else 1
        with plan.context():
            progress = jax.tree.map(
                lambda leaf: np.zeros((slots * len(devices), *leaf.shape), leaf.dtype), one_run
            )
            rates = np.ones(slots * len(devices), jnp.promote_types(shapes[0].dtype, np.float32))
            keys = np.zeros((slots * len(devices), 2), np.uint32)
            for place, (name, one) in zip(places, batch.items(), strict=True):
                start = plan.start(one)
                drawn = jax.tree.leaves(start.params)
                for stack, leaf in zip(jax.tree.leaves(progress.state.params), drawn, strict=True):
                    stack[place] = leaf
                if points:
                    arrays = points[name].arrays
                    for path, stack in array_trees.named(progress).items():
                        stack[place] = arrays[path]
                rates[place] = start.learning_rate
                keys[place] = jax.random.key_data(start.key)
            done = next(iter(points.values())).steps if points else 0
            arguments = [
                *jax.device_put((counts.astype(np.int32), rates), sharded),
                jax.device_put(
                    jax.random.wrap_key_data(jnp.asarray(keys), impl="threefry2x32"), sharded
                ),
                *(train_set, test_set),
            ]
            # Not shared with NumPy, since training donates it.
            progress = jax.device_put(progress, sharded, may_alias=False)

            def seconds() -> dict[str, float]:
                mine = (time.perf_counter() - started) / len(batch)
                return {key: points[key].seconds + mine if points else mine for key in batch}

            def state() -> Points:
                arrays, took = array_trees.named(jax.device_get(progress)), seconds()
                return {
                    key: unfinished.Point(
                        done, took[key], {name: arrays[name][place] for name in arrays}
                    )
                    for place, key in zip(places, batch, strict=True)
                }

            while done < pace.total:
                last = pace.next(done, turns)
                with pace.measured((last - done) * turns):
                    progress = jax.block_until_ready(
                        many_runs.train_runs(
                            *(arguments[0], progress, *arguments[1:], done, last),
                            **settings,
                            mesh=mesh,
                        )
                    )
                done = last
                if done < pace.total:
                    pause(state)
            history = jax.device_get(progress.history)
        took, finished = seconds(), datetime.datetime.now(datetime.UTC)
        rows = []
        for place, (key, one) in zip(places, batch.items(), strict=True):
            mine = jax.tree.map(operator.itemgetter(place), history)
            when = {"seconds": took[key], "finished": finished}
            rows.append({"key": key, **plan.columns(one), **_outcome(mine, plan), **common, **when})
        return rows

    # Processors differ in the order in which they add numbers.
    device = environment["device"]["processor"] if one_by_one else common["device"]
    origin = f"{device}, {common['versions']}"
    return Trainer(train, least, slots * len(devices), origin, array_trees.named(one_run))


class _Pace:
    """How many steps to train without a pause."""

    def __init__(self, span: int, total: int):
        self.total = total
        self._span = span  # all numbers of steps are multiples of this
        self._calls = 0
        self._seconds = None  # that a step of a run takes

    def next(self, done: int, turns: int) -> int:
        """The steps that should be done at the next pause.

        Args:
          done: those that are done.
          turns: how many runs a device trains one after another.
        """
        if self._seconds is None:
            return min(self.total, done + self._span)
        step = self._seconds * turns
        if step * (self.total - done) <= _WHOLE_SECONDS:
            return self.total
        spans = max(1, round(_PAUSE_SECONDS / step / self._span))
        return min(self.total, done + spans * self._span)

    @contextlib.contextmanager
    def measured(self, steps: int) -> Iterator[None]:
        """The context for so many steps, counted over all turns."""
        started = time.perf_counter()
        yield
        self._calls += 1
        if self._calls > 1:  # the first one includes compilation
            self._seconds = (time.perf_counter() - started) / steps


def _slots(plan: Plan) -> int:
    """The maximum number of runs per device in a batch."""
    device = jax.local_devices()[0]
    leaves = jax.tree.leaves(plan.shapes)
    params = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    history = history_bytes(plan)
    if device.platform == "cpu":
        return max(1, min(_MOST_RUNS, _CPU_BYTES // (COPIES * (params + history))))
    # All runs are trained at once: each needs parameters, gradients, the state and the updates of
    # the optimizer, and activations.
    bytes_of_one = 8 * params + COPIES * history + plan.activations
    limit = (device.memory_stats() or {}).get("bytes_limit", 2**32)
    return max(1, min(_MOST_RUNS_TOGETHER, limit // 2 // bytes_of_one))


def history_bytes(plan: Plan) -> int:
    """The size of the metrics of a run: a loss and a count for each batch."""
    steps = plan.steps or -(-tasks.examples(plan.train_set) // plan.batch_size)
    tests = -(-tasks.examples(plan.test_set) // plan.task.test_batch)
    wide = any(leaf.dtype == np.float64 for leaf in jax.tree.leaves(plan.shapes))
    return 2 * (plan.epochs * steps + (plan.epochs + 1) * tests) * (8 if wide else 4)


def _outcome(history: many_runs.History, plan: Plan) -> dict[str, Any]:
    """The columns of a row that training gives."""
    examples = tasks.examples(plan.train_set)
    sizes = batching.batch_sizes(
        examples, min(plan.batch_size, examples), plan.steps, full=not plan.task.padded
    )
    epochs = [
        training.means(tasks.Metrics(loss, correct), int(sizes.sum()))
        for loss, correct in _rows(history.batches)
    ]
    after = [
        training.means(tasks.Metrics(loss, correct), tasks.examples(plan.test_set))
        for loss, correct in _rows(history.tests)
    ]
    diverged = not all(math.isfinite(metrics["loss"]) for metrics in epochs + after)
    steps = {"step_loss": history.batches.loss, "step_acc": history.batches.correct}
    return {
        "status": "diverged" if diverged else "finished",
        **{name: [metrics[name] for metrics in epochs] for name in epochs[0]},
        **{f"val_{name}": [metrics[name] for metrics in after] for name in after[0]},
        **{
            name: np.ravel(sums / sizes).astype(np.float32)
            for name, sums in steps.items()
            if sums is not None
        },
    }


def _rows(metrics: tasks.Metrics) -> list[tuple[Any, Any]]:
    """The metrics of each epoch."""
    correct = [None] * len(metrics.loss) if metrics.correct is None else metrics.correct
    return list(zip(metrics.loss, correct, strict=True))
