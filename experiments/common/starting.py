"""What a run starts from: its model, its keys and its freshly drawn parameters.

All programs start here, so the same flags give the same network in each of them.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

import initjax
from experiments.common import data, memory, models, params_file
from experiments.common.config import Config, UsageError


class Start(NamedTuple):
    """The starting point of a run."""

    model: models.Model
    key: jax.Array
    """The root key, from which every random number of the run is derived by name."""
    params: Any


def start_devices() -> None:
    """Starts the devices, which takes seconds for a GPU; else their first use does."""
    jax.local_devices()


def start(config: Config, dataset: data.Dataset) -> Start:
    """Draws or loads the parameters of a run.

    Call it, and use its result, inside `precision(config)`.

    Raises:
      UsageError: an initializer does not fit a parameter, or a file does not fit the network.
    """
    network, key = model(config, dataset), root_key(config.seed)
    if config.params is not None:
        return Start(network, key, jax.device_put(params_file.load(config, network.shapes)))
    return Start(network, key, draw_params(config, key, network))


@contextlib.contextmanager
def enough_memory(config: Config, dataset: data.Dataset, optimizer: bool = True) -> Iterator[None]:
    """The context for a run or an audit, which starts JAX.

    Args:
      config: of the run.
      dataset: of the run.
      optimizer: whether there is the state of its optimizer.

    Raises:
      UsageError: there is not enough memory, which is known at once or turns out later.
    """
    memory.check_devices(config, features(config, dataset), optimizer=optimizer)
    with memory.enough(config):
        yield


def precision(config: Config) -> contextlib.AbstractContextManager[None]:
    """The context for everything that computes in a run's dtype: float64 needs to be enabled."""
    return jax.enable_x64(config.dtype == "float64")


def model(config: Config, dataset: data.Dataset) -> models.Model:
    """The model of a run, without parameters."""
    return models.mlp(features(config, dataset), config.activation, config.dtype)


def features(config: Config, dataset: data.Dataset) -> tuple[int, ...]:
    """The sizes of the input, of every hidden layer, and of the output."""
    return (dataset.train_images[0].size, *config.hidden, dataset.num_classes)


def root_key(seed: int) -> jax.Array:
    """The root key of a run."""
    # The implementation is named, so that no environment variable changes the run.
    return jax.random.key(seed, impl="threefry2x32")


def order_key(key: jax.Array) -> jax.Array:
    """The key that determines the order of the training examples.

    Args:
      key: the root key.
    """
    return initjax.named_key(key, "batch order")


def draw_params(config: Config, key: jax.Array, model: models.Model) -> Any:
    """Draws the parameters of a model, each from its own key, folded from the parameter's path.

    Args:
      config: names the initializers.
      key: the root key.
      model: the model to draw for.

    Raises:
      UsageError: an initializer does not fit a parameter.
    """
    draw = _drawer(config.init, config.output_init, config.bias_init, model)
    try:
        return draw(initjax.named_key(key, "weights"))
    except ValueError:
        if misfit := _misfit(config, model):
            raise UsageError(misfit) from None
        raise


@functools.lru_cache
def _drawer(init: str, output_init: str, bias_init: str, model: models.Model) -> Callable:
    """The program that draws all parameters: compiled once for any number of seeds."""
    rules = {"*bias": bias_init, "output/*": output_init, "*": init}
    rules = {pattern: initjax.get(spec) for pattern, spec in rules.items()}
    return jax.jit(lambda key: initjax.initialize(model.shapes, key, rules))


def _misfit(config: Config, model: models.Model) -> str | None:
    """Which initializer does not fit which parameter, and why; None if all fit."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.shapes):
        name = "/".join(str(part.key) for part in path)
        flag = "init" if name.startswith("hidden/") else "output_init"
        flag = "bias_init" if name.endswith("bias") else flag
        initializer = initjax.get(getattr(config, flag))
        if error := _error(initializer, leaf.shape):
            if _error(initializer, (8, 8)) and not _error(initializer, (3, 8, 8)):
                error = f"{error}; it is for convolution kernels, and an MLP has none"
            return f"--{flag}: {name}: {error}"
    return None


def _error(initializer: Callable, shape: tuple[int, ...]) -> str | None:
    """Why an initializer does not fit a shape; None if it does."""
    try:
        jax.eval_shape(lambda: initializer(root_key(0), shape))
    except ValueError as error:
        return str(error)
    return None
