"""How a run is described: in lines for people, and in its config.json."""

import importlib.metadata
import itertools
import math
import os
import platform
from typing import TYPE_CHECKING, Any

import initjax
from experiments.common import data
from experiments.common.config import INITIALIZERS, Config

if TYPE_CHECKING:
    from experiments.common import models

_MOST_WRITTEN_OUT = 3  # equal sizes in a row; more are written as 50x128


def count(number: int, noun: str) -> str:
    """Such as "1 epoch" or "5 epochs".

    Example:
      >>> count(1, "epoch"), count(5, "epoch")
      ('1 epoch', '5 epochs')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def sizes(features: tuple[int, ...]) -> str:
    """The sizes of an MLP's layers.

    Example:
      >>> sizes((784, 128, 64, 10)), sizes((784, *[128] * 50, 10))
      ('784-128-64-10', '784-50x128-10')
    """
    parts = []
    for size, alike in itertools.groupby(features):
        repeated = len(list(alike))
        parts += [f"{repeated}x{size}"] if repeated > _MOST_WRITTEN_OUT else [str(size)] * repeated
    return "-".join(parts)


def network(config: Config, model: "models.Model") -> str:
    """The model of a run."""
    return f"MLP {sizes(model.features)}, {config.activation}, {config.dtype}"


def initialization(config: Config) -> str:
    """The initializers and the seed of a run."""
    return (
        f"{config.init}; output {config.output_init}; bias {config.bias_init}; seed {config.seed}"
    )


def training(config: Config) -> str:
    """The training of a run."""
    epochs = count(config.epochs, "epoch")
    return f"{config.optimizer} {config.learning_rate:g}, batch {config.batch_size}, {epochs}"


def images(dataset: data.Dataset) -> str:
    """How many images a dataset holds."""
    return f"{len(dataset.train_labels):,} training and {len(dataset.test_labels):,} test images"


def image_shape(dataset: data.Dataset) -> str:
    """Such as 28x28x1."""
    return "x".join(map(str, dataset.train_images.shape[1:]))


def parameters(model: "models.Model") -> int:
    """The number of parameters of a model."""
    import jax

    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model.shapes))


def origin(config: Config, dataset: data.Dataset, command: str) -> dict[str, Any]:
    """What every config.json holds besides the configuration: enough to repeat the command."""
    return {
        "initializers": {name: repr(initjax.get(getattr(config, name))) for name in INITIALIZERS},
        "command": command,
        "data": {"name": dataset.name, "source": dataset.source, "digest": dataset.digest},
        **environment(),
    }


def versions() -> dict[str, str]:
    """The versions of Python and of every package that the bits of a run depend on."""
    packages = "initjax jax jaxlib flax optax numpy".split()
    return {
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
    }


def environment() -> dict[str, dict[str, Any]]:
    """The device and the versions."""
    import jax

    return {
        "device": {
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "count": jax.device_count(),
            "host": platform.node(),
            "cores": os.cpu_count(),
        },
        "versions": versions(),
    }
