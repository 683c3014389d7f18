"""What a run starts from: its model, its keys and its freshly drawn parameters.

All programs start here, so the same flags give the same network in each of them.
"""

import contextlib
import fnmatch
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import initjax
from experiments.common import (
    data,
    memory,
    meshes,
    models,
    networks,
    own_model,
    parametrized,
    params_file,
    run_directory,
    training,
)
from experiments.common.config import PATCH, Config, UsageError

# Parameters that no flag initializes, by the ends of their paths.
_FIXED = {"norm/scale": "ones", "norm/bias": "zeros", "positions": "normal(0.02)"}
# What determines the initializer of a parameter, by pattern; the first that matches counts.
_RULES = {
    **{f"*{end}": end for end in _FIXED},
    "*bias": "bias_init",
    "output/*": "output_init",
    "*": "init",
}


class Start(NamedTuple):
    """The starting point of a run."""

    model: models.Model
    key: jax.Array
    """The root key, from which every random number of the run is derived by name."""
    packed: Any
    """The parameters, packed: what `model.apply` takes."""

    @property
    def params(self) -> Any:
        """The parameters, one leaf for each layer."""
        return self.model.unpack(self.packed)


def start_devices() -> None:
    """Starts the devices, which takes seconds for a GPU; else their first use does."""
    jax.local_devices()


def start(
    config: Config, dataset: data.Dataset, placement: meshes.Placement | None = None
) -> Start:
    """Draws or loads the parameters of a run.

    Call it, and use its result, inside `precision(config)`.

    Args:
      config: of the run.
      dataset: what it is trained on.
      placement: the mesh of devices on which the parameters are to be; None is the default device.

    Raises:
      UsageError: an initializer does not fit a parameter, or a file does not fit the network.
    """
    network, key = model(config, dataset), root_key(config.seed)
    if config.params is not None:
        packed = network.pack(params_file.load(config, network.shapes))
        return Start(network, key, placement.put(packed) if placement else jax.device_put(packed))
    return Start(network, key, draw_params(config, network, placement))


@contextlib.contextmanager
def enough_memory(
    config: Config,
    dataset: data.Dataset,
    optimizer: bool = True,
    placement: meshes.Placement | None = None,
) -> Iterator[None]:
    """The context for a run or an audit, which starts JAX.

    Args:
      config: of the run.
      dataset: of the run.
      optimizer: whether there is the state of its optimizer.
      placement: as for `start`.

    Raises:
      UsageError: there is not enough memory, which is known at once or turns out later.
    """
    copies = jax.local_device_count() / placement.sizes.model if placement else 1
    memory.check_devices(config, features(config, dataset), copies, optimizer)
    with memory.enough(config):
        yield


@contextlib.contextmanager
def precision(config: Config) -> Iterator[None]:
    """The context for everything that computes in a run's dtype: float64 needs to be enabled.

    All else is as JAX has it by default, whatever the environment says: one option gives other
    random numbers, which a run's key doesn't tell, and others refuse what Optax does.
    """
    with (
        jax.enable_x64(config.dtype == "float64"),
        jax.threefry_partitionable(True),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


def model(config: Config, dataset: data.Dataset) -> models.Model:
    """The model of a run, without parameters."""
    if config.own:
        return own_model.made(config, dataset, _pixels(config, dataset))
    height, width, _ = dataset.train_images.shape[1:]
    tokens = math.prod(networks.grid(height, width)) if config.model == "transformer" else 0
    return network(config, features(config, dataset), _pixels(config, dataset), tokens)


def network(
    config: Config,
    features: tuple[int, ...],
    pixels: tuple[float, float] = (0.0, 1.0),
    tokens: int = 0,
) -> models.Model:
    """The network of a run on given inputs, without parameters.

    Args:
      config: of the run; its model is one of `config.MODELS`.
      features: as in `models.Model`.
      pixels: as for `models.network`.
      tokens: as for `models.network`.
    """
    make = models.network
    if config.scheme is not None:
        assert config.base is not None
        make = functools.partial(parametrized.network, config.scheme, config.optimizer, config.base)
    return make(
        features,
        activation=config.activation,
        dtype=config.dtype,
        pixels=pixels,
        model=config.model,
        residual=config.residual,
        normalization=config.normalization,
        tokens=tokens,
    )


def optimizer(config: Config, model: models.Model) -> training.Optimizer:
    """The optimizer of a run, as `training` takes it."""
    return config.optimizer if model.plan is None else parametrized.optimizer(model)


def _pixels(config: Config, dataset: data.Dataset) -> tuple[float, float]:
    """The mean and standard deviation to take out of the pixels, as `config.inputs` says."""
    return (0.0, 1.0) if config.inputs == "unit" else _pixel_statistics(dataset)


@functools.lru_cache(maxsize=1)  # takes as long as training a shallow network for hundreds of steps
def _pixel_statistics(dataset: data.Dataset) -> tuple[float, float]:
    """The mean and standard deviation of all training pixels, as numbers between 0 and 1."""
    counts = np.bincount(dataset.train_images.ravel(), minlength=256)
    levels = np.arange(256) / 255
    mean = np.average(levels, weights=counts)
    variance = np.average((levels - mean) ** 2, weights=counts)
    return float(mean), float(np.sqrt(variance)) or 1.0


def features(config: Config, dataset: data.Dataset) -> tuple[int, ...]:
    """The sizes of the input, which is an image or a patch of it, of every hidden block, and of the
    output."""
    if config.own:
        return model(config, dataset).features
    shape = dataset.train_images.shape[1:]
    inputs = math.prod(shape) if config.model == "mlp" else PATCH * PATCH * shape[-1]
    return (inputs, *config.hidden, dataset.num_classes)


def root_key(seed: int) -> jax.Array:
    """The root key of a run."""
    # The implementation is named, so that no environment variable changes the run.
    return jax.random.key(seed, impl="threefry2x32")


def pinned(config: Config, dataset: data.Dataset) -> Config:
    """The configuration with a digest of the user's own network, see `own_model.pinned`."""
    with precision(config):
        return own_model.pinned(config, dataset)


def order_key(key: jax.Array) -> jax.Array:
    """The key that determines the order of the training examples.

    Args:
      key: the root key.
    """
    return initjax.named_key(key, "batch order")


def draw_params(
    config: Config, model: models.Model, placement: meshes.Placement | None = None
) -> Any:
    """Draws the packed parameters of a model, each from its own key, folded from its path.

    On a mesh, each device draws only what it holds: the random bits of a number depend on its key
    and its place alone, so they are the same as on one device. What isn't drawn number by number,
    such as `orthogonal`, is computed whole on each device, one kernel after another, and then cut.

    Args:
      config: names the initializers and the seed.
      model: the model to draw for.
      placement: as for `start`.

    Raises:
      UsageError: an initializer does not fit a parameter.
    """
    with _fitting(config, model):
        return drawer(config, model, placement)(*_weight_keys(config.seed, model))


def drawer(
    config: Config, model: models.Model, placement: meshes.Placement | None = None
) -> Callable[..., Any]:
    """The function that `draw_params` calls; takes its arguments."""
    draw = _drawer(config.init, config.output_init, config.bias_init, model)
    if placement is None:
        return draw
    return jax.jit(draw, out_shardings=placement.state(model.pack(model.shapes)))


def check(config: Config, dataset: data.Dataset) -> None:
    """Checks that the initializers of a run fit its parameters, without drawing any.

    Raises:
      UsageError: one does not.
    """
    network = model(config, dataset)
    with _fitting(config, network):
        draw = _drawer(config.init, config.output_init, config.bias_init, network)
        jax.eval_shape(draw, *_weight_keys(config.seed, network))


@contextlib.contextmanager
def _fitting(config: Config, model: models.Model) -> Iterator[None]:
    """The context for drawing, in which an initializer may not fit a parameter."""
    try:
        yield
    except ValueError:
        if misfit := _misfit(config, model):
            raise UsageError(misfit) from None
        raise


@functools.lru_cache(maxsize=64)  # a sweep draws from many initializers with the same keys
def _weight_keys(seed: int, model: models.Model) -> tuple[jax.Array, Any]:
    """The key for all parameters, and for each parameter of a stack its keys: one per block.

    They are what `initialize` folds from the paths of the blocks. It isn't used for stacks, since a
    program that draws hundreds of kernels one by one takes minutes to compile.
    """
    key = initjax.named_key(root_key(seed), "weights")

    def keys(stack: models.Stack, name: str) -> jax.Array:
        return jnp.stack([initjax.named_key(key, f"hidden/{i}/{name}") for i in stack.blocks])

    return key, {
        stack.first: {
            name: keys(stack, name)
            for name, _ in run_directory.flatten(model.shapes["hidden"][stack.first])
        }
        for stack in model.stacks
    }


@functools.lru_cache
def _drawer(init: str, output_init: str, bias_init: str, model: models.Model) -> Callable:
    """The function that draws all parameters from the keys of any seed."""
    initializers = _rules(init, output_init, bias_init, model)

    def draw(key: jax.Array, stack_keys: dict[int, dict[str, jax.Array]]) -> Any:
        if model.initial is not None:
            params = model.initial(initjax.named_key(key, "its own initialization"))
            return initjax.initialize(params, key, initializers)
        hidden = model.shapes.get("hidden", {})
        stacks = {}
        for stack in model.stacks:
            hidden = {i: block for i, block in hidden.items() if i not in stack.blocks}
            leaves = run_directory.flatten(model.shapes["hidden"][stack.first])
            drawn = {
                name: jax.vmap(
                    lambda key, name=name, leaf=leaf, first=stack.first: initializers[
                        f"hidden/{first}/{name}"
                    ](key, leaf.shape, leaf.dtype)
                )(stack_keys[stack.first][name])
                for name, leaf in leaves
            }
            stacks[stack.first] = run_directory.nested(drawn)
        others = {**model.shapes, "hidden": hidden}
        if not hidden:
            others.pop("hidden")
        rules = {name: initializers[name] for name, _ in run_directory.flatten(others)}
        params = initjax.initialize(others, key, rules)
        return {**params, "hidden": params.get("hidden", {}) | stacks} if stacks else params

    # Compiling takes seconds, which pay off over many seeds. Grids of deep networks have many
    # initializers and depths instead, and drawing stacks takes few operations.
    return draw if model.stacks else jax.jit(draw)


def rules(config: Config, model: models.Model) -> dict[str, initjax.Initializer]:
    """The initializers of a run by path, without those that the user's own module has itself."""
    return _rules(config.init, config.output_init, config.bias_init, model)


@functools.lru_cache
def _rules(
    init: str, output_init: str, bias_init: str, model: models.Model
) -> dict[str, initjax.Initializer]:
    names = [name for name, _ in run_directory.flatten(model.shapes)]
    specs = {**_FIXED, "init": init, "output_init": output_init, "bias_init": bias_init}
    initializers = {rule: initjax.get(spec) for rule, spec in specs.items()}
    if model.initial is not None:
        return {name: initializers[_rule(name)] for name in names if _has_flag(name)}
    if model.plan is not None:
        # A plan takes patterns, and asks for a match of each.
        matching = [pattern for pattern in _RULES if fnmatch.filter(names, pattern)]
        return model.plan(tuple((one, initializers[_RULES[one]]) for one in matching)).rules
    return {name: initializers[_rule(name)] for name in names}


def _has_flag(name: str) -> bool:
    """Whether a flag names the initializer of a parameter of the user's own network."""
    return name.endswith(("kernel", "bias"))


def _rule(name: str) -> str:
    """What determines the initializer of a parameter: a field of `Config`, or a key of `_FIXED`."""
    return next(rule for pattern, rule in _RULES.items() if fnmatch.fnmatchcase(name, pattern))


def _misfit(config: Config, model: models.Model) -> str | None:
    """Which initializer does not fit which parameter, and why; None if all fit."""
    for name, leaf in run_directory.flatten(model.shapes):
        flag = _rule(name)
        if flag in _FIXED or not (model.initial is None or _has_flag(name)):
            continue
        initializer = initjax.get(getattr(config, flag))
        if error := _error(initializer, leaf.shape):
            matrix = len(leaf.shape) == 2
            if matrix and _error(initializer, (8, 8)) and not _error(initializer, (3, 8, 8)):
                error = f"{error}; it is for convolution kernels, and {_without(config, name)}"
            return f"--{flag}: {name}: {error}"
    return None


def _without(config: Config, name: str) -> str:
    """Says that a parameter is no kernel of a convolution."""
    if config.own or config.model in ("cnn", "resnet"):
        return f"{name} is a matrix"
    return f"{'an MLP' if config.model == 'mlp' else 'a transformer'} has none"


def _error(initializer: Callable, shape: tuple[int, ...]) -> str | None:
    """Why an initializer does not fit a shape; None if it does."""
    try:
        jax.eval_shape(lambda: initializer(root_key(0), shape))
    except ValueError as error:
        return str(error)
    return None
