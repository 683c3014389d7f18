"""Runs on a dataset: which of them one compiled program trains, and what that program is."""

import collections
import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments.common import data, memory, networks, starting, tasks, trainers
from experiments.common.config import INITIALIZERS, MODELS, Config, canonical

Group = dict[str, Config]  # configurations by the identity of the run

# The fields of `Config` that name the network.
_NETWORK = (
    *("model", "hidden", "residual", "normalization", "activation", "dtype"),
    *("scheme", "base"),
)


def check(wanted: Group, dataset: data.Dataset) -> None:
    """Checks that every network fits in memory, and every initializer its parameters.

    Raises:
      UsageError: one does not.
    """
    kinds = {
        (config.model, config.hidden, config.dtype, config.optimizer, config.steps): config
        for config in wanted.values()
    }
    for config in kinds.values():
        features = starting.features(config, dataset)
        memory.check_devices(config, features, runs=jax.local_device_count())
        needed = trainers.COPIES * trainers.history_bytes(_plan(config, dataset))
        memory.check_metrics(config, needed)
    names = (*INITIALIZERS, *_NETWORK)
    tried = {tuple(getattr(config, name) for name in names): config for config in wanted.values()}
    for config in tried.values():
        with starting.precision(config):
            starting.check(config, dataset)


def groups(wanted: Group) -> list[Group]:
    """Divides runs into groups that one compiled program can train."""
    found: dict[Any, Group] = collections.defaultdict(dict)
    for key, config in wanted.items():
        program = (
            *(getattr(config, name) for name in _NETWORK),
            config.inputs,
            config.optimizer,
            config.epochs,
            config.steps,
            config.batch_size,
        )
        found[program][key] = config
    return list(found.values())


def trainer(group: Group, dataset: data.Dataset) -> trainers.Trainer:
    """Makes the trainer for one of `groups`.

    Its batches raise a UsageError if they don't fit in memory.
    """
    return trainers.trainer(_plan(next(iter(group.values())), dataset), len(group))


def _plan(config: Config, dataset: data.Dataset) -> trainers.Plan:
    """What the runs of a group train: they agree in every field used here."""
    most_common = np.bincount(dataset.train_labels).argmax()
    with starting.precision(config):
        model = starting.model(config, dataset)
    # Each of which has the features of a block. Nothing is known of a network of the user's own.
    of_patches = config.model in MODELS and config.model != "mlp"
    positions = math.prod(networks.grid(*dataset.train_images.shape[1:3])) if of_patches else 1
    about = {
        "dataset": dataset.name,
        "digest": dataset.digest,
        "features": model.features[0],
        "classes": model.features[-1],
        "test_images": len(dataset.test_labels),
        "guess_acc": float(np.mean(dataset.test_labels == most_common)),
    }

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        with starting.precision(config), memory.enough(config):
            yield

    def start(one: Config) -> trainers.Start:
        _, key, packed = starting.start(one, dataset)
        assert one.learning_rate is not None
        return trainers.Start(packed, one.learning_rate, starting.order_key(key))

    def columns(one: Config) -> dict[str, Any]:
        fields = dataclasses.asdict(one)
        del fields["data_dir"]
        return fields | {name: canonical(fields[name]) for name in INITIALIZERS} | about

    return trainers.Plan(
        task=tasks.classification(model.apply),
        shapes=model.pack(model.shapes),
        optimizer=starting.optimizer(config, model),
        train_set=(dataset.train_images, dataset.train_labels),
        test_set=(dataset.test_images, dataset.test_labels),
        epochs=config.epochs,
        steps=config.steps,
        batch_size=config.batch_size,
        activations=16 * config.batch_size * positions * sum(model.features),
        context=context,
        start=start,
        columns=columns,
    )
