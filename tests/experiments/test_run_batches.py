"""Batches of runs: as many as fit in memory, and a one-line error if none does."""

import jax
import numpy as np
import pytest

from experiments.common import data, many_runs, run_batches, trainers
from experiments.common.config import Config


def digits(examples=100):
    images = np.zeros((examples, 28, 28, 1), np.uint8)
    labels = (np.arange(examples) % 10).astype(np.int32)
    return data.Dataset("digits", "here", "d", 10, images, labels, images[:50], labels[:50])


def most(dataset, config):
    """The maximum number of runs per device."""
    trainer = run_batches.trainer({"a": config}, dataset)
    return trainer.most / len(jax.local_devices())


def test_a_batch_holds_fewer_runs_if_each_needs_more_memory():
    mnist = digits(60_000)
    assert most(mnist, Config()) == trainers._MOST_RUNS
    assert 1 < most(mnist, Config(hidden=(1024, 1024))) < trainers._MOST_RUNS  # parameters
    assert most(mnist, Config(hidden=(4096, 4096))) == 1
    assert 1 < most(mnist, Config(batch_size=1, epochs=20)) < trainers._MOST_RUNS  # history
    assert most(mnist, Config(batch_size=1, epochs=1000)) == 1
    assert most(digits(), Config(epochs=10**6)) < trainers._MOST_RUNS


def test_the_activations_of_a_network_of_patches_are_those_of_all_its_patches():
    plan = run_batches._plan(Config(model="cnn", hidden=(8, 8), batch_size=2), digits())
    assert plan.activations == 16 * 2 * 7 * 7 * (16 + 8 + 8 + 10)


def test_a_batch_stays_within_its_memory():
    """Four copies are assumed, of the parameters and of the history."""
    for config in (Config(hidden=(1024, 1024)), Config(batch_size=1, epochs=20)):
        sizes = np.array([784, *config.hidden, 10])
        parameters = np.sum((sizes[:-1] + 1) * sizes[1:])
        steps = config.epochs * -(-60_000 // config.batch_size)
        bytes_of_one = 4 * parameters + 8 * steps
        held = most(digits(60_000), config)
        assert held * 4 * bytes_of_one <= trainers._CPU_BYTES < (held + 1.1) * 4 * bytes_of_one


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7.28 TiB for an array"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes"),
    ],
)
def test_too_little_memory_is_reported_in_one_line(monkeypatch, error):
    config = Config(hidden=(16, 8), batch_size=32)
    trainer = run_batches.trainer({"a": config}, digits())

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(many_runs, "train_runs", fails)
    with pytest.raises(
        ValueError, match=r"^a network with hidden layers 16-8 and --batch_size=32 needs"
    ):
        trainer.train({"a": config}, {}, lambda stand: None)
    error = jax.errors.JaxRuntimeError("INTERNAL: something else")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        trainer.train({"a": config}, {}, lambda stand: None)
