"""Batches of runs: which runs one compiled program trains at once, and how many fit in memory."""

import collections
import dataclasses
import datetime
import math
import operator
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import data, description, memory, models, starting, training
from experiments.common.config import INITIALIZERS, Config, canonical

Group = dict[str, Config]  # configurations by the identity of the run

_MOST_RUNS = 16  # per device in a batch on a CPU, where more gain nothing
_MOST_RUNS_TOGETHER = 256  # the same on other devices, which train all runs together
_CPU_BYTES = 2**28  # for the batch of one device
# About how many copies of a run are in memory. Of its parameters: on the host, on the device, and
# two in the state of Adam, which is the largest. Of its history: on the device, on the host, in its
# row, and in the file of the batch.
_COPIES = 4


class Trainer(NamedTuple):
    """Trains the runs of a group."""

    train: Callable[[Group], list[dict[str, Any]]]
    """Trains a batch of at most `most` runs and returns the rows for `sweep_directory`. Raises a
    UsageError if it does not fit in memory."""
    least: int
    """The size of a batch should be a multiple of this."""
    most: int


def check(wanted: Group, dataset: data.Dataset) -> None:
    """Checks that every network fits in memory, and every initializer its parameters.

    Raises:
      UsageError: one does not.
    """

    networks = {
        (config.hidden, config.dtype, config.optimizer, config.steps): config
        for config in wanted.values()
    }
    for config in networks.values():
        features = starting.features(config, dataset)
        memory.check_devices(config, features, runs=jax.local_device_count())
        memory.check_metrics(config, _COPIES * _history_bytes(config, dataset))
    names = (*INITIALIZERS, "model", "hidden", "activation", "dtype")
    tried = {tuple(getattr(config, name) for name in names): config for config in wanted.values()}
    for config in tried.values():
        with starting.precision(config):
            starting.check(config, dataset)


def groups(wanted: Group) -> list[Group]:
    """Divides runs into groups that one compiled program can train."""
    found: dict[Any, Group] = collections.defaultdict(dict)
    for key, config in wanted.items():
        program = (
            config.model,
            config.hidden,
            config.activation,
            config.inputs,
            config.dtype,
            config.optimizer,
            config.epochs,
            config.steps,
            config.batch_size,
        )
        found[program][key] = config
    return list(found.values())


def trainer(group: Group, dataset: data.Dataset) -> Trainer:
    """Makes the trainer for one of `groups`."""
    config = next(iter(group.values()))  # they agree in every field used here
    devices = jax.local_devices()
    mesh = jax.make_mesh((len(devices),), ("runs",), devices=devices)
    sharded, whole = (jax.NamedSharding(mesh, spec) for spec in (jax.P("runs"), jax.P()))
    with starting.precision(config):
        model = starting.model(config, dataset)
        # All runs share one copy of the data on each device.
        train_set, test_set = jax.device_put(
            (
                (dataset.train_images, dataset.train_labels),
                (dataset.test_images, dataset.test_labels),
            ),
            whole,
        )
    shapes = jax.tree.leaves(model.shapes)
    slots = _slots(config, dataset, model)
    if devices[0].platform == "cpu":
        least = len(devices)
    else:  # runs are trained together, and fewer take as long
        slots = min(slots, -(-len(group) // len(devices)))
        least = slots * len(devices)
    most_common = np.bincount(dataset.train_labels).argmax()
    environment = description.environment()
    common = {
        "dataset": dataset.name,
        "digest": dataset.digest,
        "features": model.features[0],
        "classes": model.features[-1],
        "test_images": len(dataset.test_labels),
        "guess_acc": float(np.mean(dataset.test_labels == most_common)),
        "host": environment["device"]["host"],
        "device": environment["device"]["kind"],
        "versions": ", ".join(" ".join(pair) for pair in environment["versions"].items()),
    }

    def train(batch: Group) -> list[dict[str, Any]]:
        started = time.perf_counter()
        # Runs are assigned to devices in turn; those of one device are adjacent.
        places = [slots * (i % len(devices)) + i // len(devices) for i in range(len(batch))]
        counts = np.array([len(places[device :: len(devices)]) for device in range(len(devices))])
        with starting.precision(config), memory.enough(config):
            params = jax.tree.map(
                lambda leaf: np.zeros((slots * len(devices), *leaf.shape), leaf.dtype),
                model.pack(model.shapes),
            )
            rates = np.ones(slots * len(devices), shapes[0].dtype)
            keys = np.zeros((slots * len(devices), 2), np.uint32)
            for place, one in zip(places, batch.values(), strict=True):
                _, key, drawn = starting.start(one, dataset)
                for stack, leaf in zip(
                    jax.tree.leaves(params), jax.tree.leaves(drawn), strict=True
                ):
                    stack[place] = leaf
                rates[place] = one.learning_rate
                keys[place] = jax.random.key_data(starting.order_key(key))
            history = training.train_runs(
                *jax.device_put((counts.astype(np.int32), params, rates), sharded),
                jax.device_put(
                    jax.random.wrap_key_data(jnp.asarray(keys), impl="threefry2x32"), sharded
                ),
                train_set,
                test_set,
                apply=model.apply,
                optimizer=config.optimizer,
                epochs=config.epochs,
                batch_size=config.batch_size,
                steps=config.steps,
                mesh=mesh,
            )
            history = jax.device_get(history)
        when = {
            "seconds": (time.perf_counter() - started) / len(batch),
            "finished": datetime.datetime.now(datetime.UTC),
        }
        rows = []
        for place, (key, one) in zip(places, batch.items(), strict=True):
            mine = jax.tree.map(operator.itemgetter(place), history)
            rows.append({"key": key, **_outcome(mine, one, dataset), **common, **when})
        return rows

    return Trainer(train, least, slots * len(devices))


def _slots(config: Config, dataset: data.Dataset, model: models.Model) -> int:
    """The maximum number of runs per device in a batch."""
    device = jax.local_devices()[0]
    itemsize = jax.tree.leaves(model.shapes)[0].dtype.itemsize
    params = description.parameters(model) * itemsize
    history = _history_bytes(config, dataset)
    if device.platform == "cpu":
        return max(1, min(_MOST_RUNS, _CPU_BYTES // (_COPIES * (params + history))))
    # All runs are trained at once: each needs parameters, gradients, the state and the updates of
    # the optimizer, and activations.
    activations = config.batch_size * sum(model.features)
    bytes_of_one = 8 * params + _COPIES * history + 16 * activations
    limit = (device.memory_stats() or {}).get("bytes_limit", 2**32)
    return max(1, min(_MOST_RUNS_TOGETHER, limit // 2 // bytes_of_one))


def _history_bytes(config: Config, dataset: data.Dataset) -> int:
    """The size of the metrics of a run: a loss and a count for each batch."""
    steps = config.steps or -(-len(dataset.train_labels) // config.batch_size)
    tests = -(-len(dataset.test_labels) // training.EVALUATION_BATCH)
    batches = config.epochs * steps + (config.epochs + 1) * tests
    return 2 * batches * (8 if config.dtype == "float64" else 4)


def _outcome(history: Any, config: Config, dataset: data.Dataset) -> dict[str, Any]:
    """The columns of a row that depend only on the run."""
    examples, tests = len(dataset.train_labels), len(dataset.test_labels)
    sizes = training.batch_sizes(examples, min(config.batch_size, examples), config.steps)
    epochs = [
        training.means(training.Metrics(*sums), int(sizes.sum()))
        for sums in zip(*history.batches, strict=True)
    ]
    after = [
        training.means(training.Metrics(*sums), tests) for sums in zip(*history.tests, strict=True)
    ]
    diverged = not all(math.isfinite(metrics["loss"]) for metrics in epochs + after)
    fields = dataclasses.asdict(config)
    del fields["data_dir"]
    return {
        **fields,
        **{name: canonical(fields[name]) for name in INITIALIZERS},
        "status": "diverged" if diverged else "finished",
        **{name: [metrics[name] for metrics in epochs] for name in ("loss", "acc")},
        **{f"val_{name}": [metrics[name] for metrics in after] for name in ("loss", "acc")},
        "step_loss": np.ravel(history.batches.loss / sizes).astype(np.float32),
        "step_acc": np.ravel(history.batches.correct / sizes).astype(np.float32),
    }
