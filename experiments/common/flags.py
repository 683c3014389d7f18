"""The flags that programs share, each defined once, and how their values are read.

A program lists the names of all its flags by group, and defines those that are not shared:

    _GROUPS = {"Initialization": ("init", "seed"), "Output": ("workdir", "help")}
    _FLAGS = flags.define(_GROUPS, workdir=flags.string(None, "Directory of the results."))
"""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from absl import flags as absl

import initjax
from experiments.common.config import (
    ACTIVATIONS,
    DTYPES,
    MODELS,
    MOST_LAYERS,
    NORMALIZATIONS,
    OPTIMIZERS,
    SCHEMES,
    Config,
    UsageError,
    grouped,
)

DIGITS = r"\d{1,1000}"
"""The pattern of a number in a list; Python reads no integers of many thousand digits."""

Groups = Mapping[str, Iterable[str]]
"""The names of a program's flags under the headings of --help."""


class Flag(NamedTuple):
    """A flag that has no name yet."""

    define: Callable[..., Any]
    """Of absl, such as DEFINE_string."""
    default: Any
    help: str


string = functools.partial(Flag, absl.DEFINE_string)
strings = functools.partial(Flag, absl.DEFINE_multi_string)
integer = functools.partial(Flag, absl.DEFINE_integer)
number = functools.partial(Flag, absl.DEFINE_float)
boolean = functools.partial(Flag, absl.DEFINE_bool)


class _Path(absl.ArgumentParser[str]):
    """A directory or file; all programs expand it in the same way."""

    def parse(self, argument: str) -> str:
        return expanded(argument)


def expanded(path: str) -> str:
    """The path with a home directory in place of `~`, which no shell expands after `--NAME=`.

    Raises:
      UsageError: the path is empty or no text, or there is no such home directory.
    """
    if not path:
        raise UsageError("the path is empty")
    if "\0" in path:  # from a file of flags
        raise UsageError("the path holds a null character")
    try:
        path.encode()
    except UnicodeEncodeError:  # many libraries take no such names
        raise UsageError("the path is not valid UTF-8; rename it") from None
    found = os.path.expanduser(path)
    if found.startswith("~"):
        raise UsageError(
            f"there is no such home directory; for a name that starts with ~: ./{path}"
        )
    return found


def _define_path(name: str, *arguments: Any, **options: Any) -> Any:
    return absl.DEFINE(_Path(), name, *arguments, **options)


path = functools.partial(Flag, _define_path)

DEFAULT_RATES = ", ".join(f"{rate:g} for {name}" for name, rate in OPTIMIZERS.items())

_DEFAULT_SIZES = ", ".join(
    f"{','.join(grouped(sizes))} for {name}" for name, sizes in MODELS.items()
)

_SHARED = {
    "init": string(
        Config.init,
        "Initializer for the kernels of the hidden layers: a name, or a call with literal arguments"
        " such as 'random_uniform(-0.1, 0.1)' or 'variance_scaling(2.0, \"fan_in\", \"normal\")'."
        f" Names: {', '.join(initjax.NAMES)}.",
    ),
    "output_init": string(Config.output_init, "Initializer for the kernel of the output layer."),
    "bias_init": string(Config.bias_init, "Initializer for all biases."),
    "params": path(
        None,
        "Instead of the initializers: a file of parameters to start from, such as the"
        " params.safetensors of a run or of `experiments.audit --fix`. The other flags name the"
        " network, and --seed then determines only the order of the batches.",
    ),
    "seed": integer(
        Config.seed,
        "Random seed of the initial weights and of the order of the batches. Runs with the same"
        " seed give the same bits, and all initializers see the same batches.",
    ),
    "model": string(
        Config.model,
        "The network: mlp, cnn (convolutions of 3x3), resnet (residual blocks of two convolutions)"
        " or transformer (of patches). Or package.module:function, a function of your own that"
        " returns an nnx.Module from images (float, batch x height x width x channels) to logits."
        " It gets, by keyword, what its signature names of image_shape, classes, hidden,"
        " activation, dtype and rngs. --init draws its kernels, --output_init that of a layer"
        " called output, --bias_init its biases; all else starts as in the module.",
    ),
    "hidden": string(
        None,
        "Sizes of the hidden layers, separated by commas, such as 128,64 or 12x128 (12 layers of"
        " 128 units); empty for logistic regression. For other networks than an MLP: the channels"
        f" of each hidden layer, or the width of each block (default: {_DEFAULT_SIZES}).",
    ),
    "residual": boolean(
        Config.residual,
        "Add every hidden layer of an MLP to its input, instead of replacing it; the activation"
        " comes before the layer.",
    ),
    "normalization": string(
        None,
        f"Layer normalization of the features: {' or '.join(NORMALIZATIONS)}; in an MLP or a CNN"
        " between each hidden layer and its activation, with residual blocks at their start"
        " (default: layer for resnet and transformer, none for mlp and cnn).",
    ),
    "activation": string(
        Config.activation,
        f"Activation of the hidden layers, from jax.nn: {', '.join(ACTIVATIONS)}.",
    ),
    "inputs": string(
        Config.inputs,
        "What the network takes for a pixel: unit, a number between 0 and 1; or standardized, with"
        " the mean of all training pixels taken out, divided by their standard deviation.",
    ),
    "dtype": string(
        Config.dtype,
        f"Dtype of the computation: {', '.join(DTYPES)}. Parameters are float32, or"
        " float64 with --dtype=float64.",
    ),
    "scheme": string(
        None,
        f"Parametrization for another size, see initjax.parametrize: {', '.join(SCHEMES)}. The"
        " initializers and the learning rate are then those of the network that --base names, and"
        " each parameter of this one starts and learns as the scheme scales it (default: none).",
    ),
    "base": string(
        None,
        "Hidden sizes of the base network of --scheme, written as for --hidden. At these sizes, a"
        " run is the same as without a scheme. The number of residual blocks may differ, too.",
    ),
    "optimizer": string(Config.optimizer, "adam, sgd, or momentum (sgd with momentum 0.9)."),
    "learning_rate": number(None, f"Learning rate (default: {DEFAULT_RATES})."),
    "epochs": integer(Config.epochs, "Number of passes over the training images."),
    "steps": integer(
        None,
        "Instead of --epochs: number of training steps. The network is then scored on the test"
        " images only before and after training.",
    ),
    "batch_size": integer(
        Config.batch_size, "Images per step. The last batch of an epoch may be smaller."
    ),
    "dataset": string(
        None,
        "mnist, which is bundled, or the name of an image classification dataset that TensorFlow"
        " Datasets has prepared (default: mnist, or the dataset in --data_dir).",
    ),
    "data_dir": path(
        None,
        "Directory with IDX files, the format of MNIST, Fashion-MNIST, KMNIST and EMNIST, or the"
        " directory of TensorFlow Datasets (default: the bundled files, or ~/tensorflow_datasets).",
    ),
    "shard": string(
        "0/1",
        "i/n trains one of n parts of the grid, with i from 0 to n-1, so that n processes or"
        " machines can share the work. A fixed shuffle makes every part a fair sample.",
    ),
}


def define(groups: Groups, **own: Flag) -> absl.FlagValues:
    """Defines the flags of a program, apart from those of all others.

    Args:
      groups: the names of all its flags; `help` is defined by `console.run_program`.
      **own: the flags that are the program's own, or differ from the shared one of that name.
    """
    values = absl.FlagValues()
    for name in (name for names in groups.values() for name in names if name != "help"):
        flag = own.get(name) or _SHARED[name]
        flag.define(name, flag.default, flag.help, flag_values=values)
    return values


def shared(name: str, default: Any) -> Flag:
    """The shared flag of that name, for a program in which it has another default."""
    return _SHARED[name]._replace(default=default)


def several(name: str, default: str | None = None) -> Flag:
    """The shared flag of that name, for a program that takes a list of its values.

    Args:
      name: of the flag.
      default: instead of the shared one.
    """
    shared = _SHARED[name]
    text = f"{shared.help} To compare several, separate them with commas."
    return string(default or shared.default, text)


def instead(name: str, other: str) -> Flag:
    """The shared flag of that name, for a program that has another one for the same."""
    shared = _SHARED[name]
    text = f"Instead of {other}: {shared.help[0].lower()}{shared.help[1:]}"
    return shared._replace(help=text)


def repeated(name: str) -> Flag:
    """The shared flag of that name, for a program that takes it several times."""
    shared = _SHARED[name]
    default = None if shared.default is None else [shared.default]
    return strings(default, f"{shared.help} To compare several, repeat the flag.")


def config_fields(values: absl.FlagValues) -> dict[str, Any]:
    """The values of those flags that are fields of `Config`, as they were given."""
    names = (field.name for field in dataclasses.fields(Config))
    found = {name: values[name].value for name in names if name in values}
    return found | {"base": sizes(found["base"], "base")} if "base" in found else found


def sizes(text: str | None, flag: str = "hidden") -> tuple[int, ...] | None:
    """The sizes of the hidden layers that a flag gives; None if it isn't given.

    Example:
      >>> sizes("128,64"), sizes("3x32,16"), sizes("")
      ((128, 64), (32, 32, 32, 16), ())
    """
    if text is None:
        return None
    wrong = UsageError(
        f"--{flag}={text}: must be integers separated by commas, such as 128,64 or 12x128"
    )
    found: list[int] = []
    for part in text.split(",") if text else []:
        match = re.fullmatch(rf"(?:({DIGITS})x)?([+-]?{DIGITS})", part.strip())
        if not match or match[1] == "0":
            raise wrong
        # No more than a configuration refuses with a better message.
        found += [int(match[2])] * min(int(match[1] or 1), MOST_LAYERS + 1)
    return tuple(found)
