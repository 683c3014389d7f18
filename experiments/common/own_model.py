"""The network that `--model=package.module:function` names: imported, made, checked and pinned.

Its code may change under the same name, so the runs of such a network are identified by the program
that JAX makes of it, see `experiments.common.own_loss`.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.common import data, models, own_loss
from experiments.common.config import Config, UsageError, choices

ARGUMENTS = ("image_shape", "classes", "hidden", "activation", "dtype", "rngs")
"""What a function may take, by keyword."""

_PIN = "@sha256:"
_DIGITS = 12  # of the digest: enough to notice a change, few enough for a line
_BLOCKS = 8  # of the program that identifies a network with hidden blocks of one size
_BATCH = 2  # images, of the program that is checked and identified


def pinned(config: Config, dataset: data.Dataset) -> Config:
    """The configuration with the digest of the network in `model`, if it is the user's own.

    With hidden blocks of one size, the digest is that of the network with eight of them, so that it
    is the same at all depths. A change of its code that shows only further on goes unnoticed.

    Raises:
      UsageError: the function can't be imported, doesn't give a network, or gives another one than
        the digest says.
    """
    if not config.own:
        return config
    spec, _, wanted = config.model.partition(_PIN)
    made(config, dataset, (0.0, 1.0))
    shape = dataset.train_images.shape[1:]
    alike = config.hidden[:1] * _BLOCKS if len(set(config.hidden)) == 1 else config.hidden
    rest = config.activation, config.dtype
    try:
        digest = _digest(spec, shape, dataset.num_classes, alike, *rest)
    except UsageError:  # of a network that can't have as many
        digest = _digest(spec, shape, dataset.num_classes, config.hidden, *rest)
    if not digest.startswith(wanted):
        raise UsageError(
            f"--model={spec} has changed, or the version of JAX: the sha256 of its program is"
            f" {digest[: len(wanted)]}, expected {wanted}; leave out {_PIN}{wanted} to use it as it"
            " is"
        )
    return dataclasses.replace(config, model=f"{spec}{_PIN}{digest[:_DIGITS]}")


@functools.lru_cache  # the same for all runs of a grid
def _digest(spec: str, image_shape: tuple[int, ...], *others: Any) -> str:
    """SHA-256 (hex) of the programs of a network; takes the arguments of `_made`."""
    network = _made(spec, image_shape, *others, (0.0, 1.0))
    images = jax.ShapeDtypeStruct((_BATCH, *image_shape), jnp.uint8)

    def gradients(params: Any, images: jax.Array, cotangents: jax.Array) -> Any:
        logits, gradient = jax.vjp(lambda params: network.apply(params, images), params)
        return logits, gradient(cotangents)

    logits = jax.eval_shape(network.apply, network.shapes, images)
    assert network.initial is not None
    programs = [
        own_loss.program_of(f"--model={spec}", gradients, network.shapes, images, logits),
        own_loss.program_of(f"--model={spec}", network.initial, jax.random.key(0)),
    ]
    text = " ".join(program.digest for program in programs)
    return hashlib.sha256(text.encode()).hexdigest()


def made(config: Config, dataset: data.Dataset, pixels: tuple[float, float]) -> models.Model:
    """The network of a configuration, without parameters; see `models.network` for the pixels."""
    network = _made(
        config.model.partition(_PIN)[0],
        dataset.train_images.shape[1:],
        dataset.num_classes,
        config.hidden,
        config.activation,
        config.dtype,
        pixels,
    )
    if config.output_init != Config.output_init and "kernel" not in network.shapes.get(
        "output", {}
    ):
        raise UsageError(
            f"--output_init={config.output_init}: the module has no layer called output, so --init"
            " is for all kernels"
        )
    return network


@functools.lru_cache
def _made(
    spec: str,
    image_shape: tuple[int, ...],
    classes: int,
    hidden: tuple[int, ...],
    activation: str,
    dtype: str,
    pixels: tuple[float, float],
) -> models.Model:
    function = load(spec)
    given: dict[str, Any] = {
        "image_shape": image_shape,
        "classes": classes,
        "hidden": hidden,
        "activation": getattr(jax.nn, activation),
        "dtype": jnp.dtype(dtype),
        "rngs": None,
    }
    given = arguments(spec, function, given)
    fixed = {"hidden": hidden, "activation": activation, "dtype": dtype}
    for name, value in fixed.items():
        usual = getattr(Config(), name)
        if name not in given and value != usual:
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            raise UsageError(f"--{name}={shown}: {spec} has no argument {name}")

    def module(key: jax.Array) -> Any:
        rngs = {"rngs": nnx.Rngs(key)} if "rngs" in given else {}
        return function(**{**given, **rngs})

    def split(key: jax.Array) -> Any:
        return nnx.to_pure_dict(checked_state(spec, module(key)))

    # The graph has no arrays, so that it can leave the trace.
    graph: list[Any] = []

    def shapes(key: jax.Array) -> Any:
        made = module(key)
        state = nnx.to_pure_dict(checked_state(spec, made))
        graph.append(nnx.graphdef(made))
        return state

    with _reported(spec, "making the module"):
        params = jax.eval_shape(shapes, jax.random.key(0))
    if not jax.tree.leaves(params):
        raise UsageError(f"--model={spec}: the module has no parameters to train")

    def apply(params: Any, images: jax.typing.ArrayLike) -> jax.Array:
        x = jnp.asarray(images).astype(dtype) / 255
        mean, stddev = pixels
        x = x if pixels == (0, 1) else (x - mean) / stddev
        return nnx.merge(graph[0], nnx.State(params))(x)

    with _reported(spec, "applying the module"):
        images = jax.ShapeDtypeStruct((_BATCH, *image_shape), jnp.uint8)
        logits = jax.eval_shape(apply, params, images)
    check_logits(spec, logits, _BATCH, classes)
    kernels = [leaf.shape[-1] for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    if classes in kernels:  # that of the output
        kernels.remove(classes)
    features = (math.prod(image_shape), *kernels, classes)
    return models.Model(apply, apply, params, features, (), split)


@contextlib.contextmanager
def _reported(spec: str, what: str) -> Iterator[None]:
    """Turns an error of the user's code into a `UsageError` that says where it is."""
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        file = getattr(sys.modules[spec.partition(":")[0]], "__file__", None)
        frames = [one for one in traceback.extract_tb(error.__traceback__) if one.filename == file]
        where = f" in line {frames[-1].lineno} of {file}" if frames else ""
        raise UsageError(
            f"--model={spec}: {what} failed{where}: {type(error).__name__}: {error}"
        ) from error


def load(spec: str) -> Callable[..., Any]:
    """Imports the function that "package.module:function" names.

    Raises:
      UsageError: there is no such module or function, or importing it fails.
    """
    module_name, _, name = spec.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if (
            isinstance(error, ModuleNotFoundError)
            and error.name
            and (module_name == error.name or module_name.startswith(f"{error.name}."))
        ):
            raise UsageError(
                f"--model={spec}: there is no module {error.name}; modules are looked for in the"
                " current directory and among the installed packages"
            ) from None
        raise UsageError(
            f"--model={spec}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    if not hasattr(found, name):
        own = [key for key, value in vars(found).items() if key[:1] != "_" and callable(value)]
        listed = choices(name, own, "it has ") if own else "it has no functions"
        raise UsageError(f"--model={spec}: {module_name} has no {name}; {listed}")
    function = getattr(found, name)
    if not callable(function):
        raise UsageError(
            f"--model={spec}: {name} is {type(function).__name__}, not a function that returns an"
            " nnx.Module"
        )
    return function


def arguments(spec: str, function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the given arguments that a function names in its signature.

    Raises:
      UsageError: it needs another one.
    """
    # The metaclass of NNX hides the arguments of a class.
    called: Any = (
        functools.partial(function.__init__, None) if inspect.isclass(function) else function
    )
    if called is not function and function.__init__ is object.__init__:
        return {}  # it takes none, which its signature doesn't say
    named = inspect.signature(called).parameters.values()
    if any(one.kind is one.VAR_KEYWORD for one in named):
        return dict(given)
    for one in named:
        optional = one.default is not one.empty or one.kind is one.VAR_POSITIONAL
        if not optional and (one.name not in given or one.kind is one.POSITIONAL_ONLY):
            raise UsageError(
                f"--model={spec}: its argument {one.name} has no default; a function can take"
                f" {', '.join(ARGUMENTS)}, by keyword"
            )
    return {one.name: given[one.name] for one in named if one.name in given}


def checked_state(spec: str, module: Any) -> nnx.State:
    """The parameters of a module, which must be all of its state.

    Raises:
      UsageError: it is no module, or has other state.
    """
    if not isinstance(module, nnx.Module):
        raise UsageError(
            f"--model={spec} returned {type(module).__name__}, expected an nnx.Module of Flax"
        )
    _, params, others = nnx.split(module, nnx.Param, ...)
    for _, variable in nnx.to_flat_state(others):
        kind = type(variable).__name__
        advice = "leave dropout out, since training passes no random numbers"
        if issubclass(type(variable), nnx.BatchStat):
            advice = "use nnx.LayerNorm or nnx.GroupNorm, which keep no statistics"
        raise UsageError(
            f"--model={spec}: the module holds state other than parameters ({kind}), which training"
            f" doesn't update; {advice}"
        )
    return params


def check_logits(spec: str, logits: Any, batch: int, classes: int) -> None:
    """Checks what a module returned for a batch of images.

    Raises:
      UsageError: it isn't an array of logits, (batch, classes).
    """
    shape, dtype = getattr(logits, "shape", None), getattr(logits, "dtype", bool)
    if shape != (batch, classes) or not jnp.issubdtype(dtype, jnp.floating):
        got = type(logits).__name__ if shape is None else f"{dtype} {shape}"
        raise UsageError(
            f"--model={spec}: for {batch} images the module returned {got}, expected logits of"
            f" shape ({batch}, {classes}), one column per class"
        )
