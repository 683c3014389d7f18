"""Memory: a network that can't fit is refused before it is made."""

import types

import jax
import psutil
import pytest

from experiments.common import memory
from experiments.common.config import Config, UsageError


@pytest.fixture
def available(monkeypatch):
    """Sets the memory of the machine, in bytes."""

    def available(number):
        found = types.SimpleNamespace(available=number)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: found)

    return available


FEATURES = (784, 128, 64, 10)
BYTES = 4 * 109_386


@pytest.mark.parametrize(
    ("changes", "copies"),
    [
        ({"optimizer": "adam"}, 6),
        ({"optimizer": "momentum"}, 5),
        ({"optimizer": "sgd"}, 4),
        ({"optimizer": "sgd", "dtype": "float64"}, 8),
        ({"optimizer": "sgd", "dtype": "bfloat16"}, 4),
    ],
)
def test_training_needs_the_parameters_their_gradients_and_the_optimizers_state(
    changes, copies, available
):
    config = Config(**changes)
    available(copies * BYTES)
    memory.check_devices(config, FEATURES)
    available(copies * BYTES - 1)
    with pytest.raises(UsageError, match=r"784-128-64-10 has 109,386 parameters and needs 0.0 GB"):
        memory.check_devices(config, FEATURES)


def test_runs_that_are_trained_at_once_need_memory_each_and_an_audit_less(available):
    available(12 * BYTES)
    memory.check_devices(Config(), FEATURES, runs=2)
    with pytest.raises(UsageError):
        memory.check_devices(Config(), FEATURES, runs=3)
    memory.check_devices(Config(), FEATURES, runs=3, optimizer=False)


def test_the_memory_of_an_accelerator_counts_where_there_is_one(available, monkeypatch):
    available(0)
    device = types.SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": 4 * BYTES})
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    memory.check_devices(Config(), FEATURES)
    with pytest.raises(UsageError):
        memory.check_devices(Config(dtype="float64"), FEATURES)
    device.memory_stats = lambda: None  # some devices don't say
    memory.check_devices(Config(dtype="float64"), FEATURES)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Failed to allocate 5 bytes"),
        jax.errors.JaxRuntimeError("INTERNAL: Out of memory allocating 4000000000000 bytes."),
    ],
    ids=str,
)
def test_running_out_of_memory_is_a_usage_error(error):
    with pytest.raises(UsageError, match="128-64 and --batch_size=128 needs more memory"):
        with memory.enough(Config()):
            raise error


def test_other_errors_of_a_device_are_left_alone():
    with pytest.raises(jax.errors.JaxRuntimeError), memory.enough(Config()):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")
