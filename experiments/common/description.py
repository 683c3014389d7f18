"""How a run is described: in lines for people, and in its config.json."""

import importlib.metadata
import math
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import initjax
from experiments.common import data
from experiments.common.config import INITIALIZERS, NORMALIZED, Config, grouped

if TYPE_CHECKING:
    from experiments.common import models


def count(number: int, noun: str) -> str:
    """Such as "1 epoch" or "5 epochs".

    Example:
      >>> count(1, "epoch"), count(5, "epoch")
      ('1 epoch', '5 epochs')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def ago(seconds: float) -> str:
    """How long ago something was.

    Example:
      >>> ago(45), ago(200), ago(7300), ago(200_000)
      ('45 seconds ago', '3 minutes ago', '2 hours ago', '2 days ago')
    """
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            return f"{count(int(seconds // size), unit)} ago"
    return f"{count(round(seconds), 'second')} ago"


def quoted(arguments: Iterable[str]) -> str:
    """Arguments of a command as they are written in the shell of this system.

    On Windows that means double quotes.
    """
    return subprocess.list2cmdline(arguments) if os.name == "nt" else shlex.join(arguments)


def entry(name: str, text: str) -> list[str]:
    """The lines of an entry of a program's output, within the terminal and 80 columns.

    Example:
      >>> entry("init", "zeros; seed 0")
      ['init    zeros; seed 0']
    """
    return textwrap.wrap(
        f"{name:8}{text}",
        min(80, shutil.get_terminal_size().columns),
        subsequent_indent=" " * 8,
        break_long_words=False,
        break_on_hyphens=False,
    )


def batch_note(config: Config, dataset: data.Dataset) -> list[str]:
    """Says so if a batch can't be as large as asked for."""
    images = len(dataset.train_labels)
    if config.batch_size <= images:
        return []
    text = f"--batch_size={config.batch_size} is more than there are training images ({images:,})"
    return entry("note", f"{text}: each batch holds all of them")


def sizes(features: tuple[int, ...]) -> str:
    """The sizes of an MLP's layers.

    Example:
      >>> sizes((784, 128, 64, 10)), sizes((784, *[128] * 50, 10))
      ('784-128-64-10', '784-50x128-10')
    """
    return "-".join(grouped(features))


def kind(model: str, residual: bool, normalization: str) -> tuple[str, str]:
    """What a network is called, and what is said of its normalization after its sizes.

    Example:
      >>> kind("mlp", True, "layer"), kind("resnet", False, "layer"), kind("cnn", False, "none")
      (('residual MLP', ', layer normalization'), ('ResNet', ''), ('CNN', ''))
    """
    if ":" in model:  # the user's own
        return model, ""
    names = {"mlp": "MLP", "cnn": "CNN", "resnet": "ResNet", "transformer": "transformer"}
    name = f"residual {names[model]}" if residual else names[model]
    if (normalization == "layer") == (model in NORMALIZED):
        return name, ""
    return name, ", layer normalization" if normalization == "layer" else ", no normalization"


def scheme(name: str | None, base: Iterable[int] | None) -> str:
    """What is said of a parametrization and its base network, after the sizes of a network.

    Example:
      >>> scheme("mup", (64, 64)), scheme(None, None)
      (', mup from base 64-64', '')
    """
    return f", {name} from base {sizes(tuple(base))}" if name and base is not None else ""


def network(config: Config, model: "models.Model") -> str:
    """The model of a run."""
    if config.own:
        return f"{config.model}, {config.activation}, {config.dtype}"
    name, norm = kind(config.model, config.residual, config.normalization)
    layers = sizes(model.features if config.model == "mlp" else config.hidden)
    scaled = scheme(config.scheme, config.base)
    return f"{name} {layers}{norm}{scaled}, {config.activation}, {config.dtype}"


def hidden(fields: Mapping[str, Any]) -> str:
    """The model of a setting, whose fields are those of `Config`.

    Example:
      >>> fields = {"residual": False, "normalization": "layer"}
      >>> hidden({"model": "mlp", "hidden": (), **fields})
      'MLP without hidden layers, layer normalization'
      >>> hidden({"model": "transformer", "hidden": (64,) * 12, **fields})
      'transformer with hidden blocks 12x64'
    """
    name, norm = kind(fields["model"], fields["residual"], fields["normalization"])
    parts = "blocks" if fields["model"] in NORMALIZED else "layers"
    layers = sizes(tuple(fields["hidden"]))
    of = f"with hidden {parts} {layers}" if layers else f"without hidden {parts}"
    return f"{name} {of}{norm}{scheme(fields.get('scheme'), fields.get('base'))}"


def initialization(config: Config) -> str:
    """The initializers, or the file of parameters, and the seed of a run."""
    if config.params is not None:
        return f"{config.params}; seed {config.seed}"
    return (
        f"{config.init}; output {config.output_init}; bias {config.bias_init}; seed {config.seed}"
    )


def weights(config: Config) -> str:
    """What a run starts from: its initializer, or the file of its parameters and their folder."""
    if config.params is None:
        return config.init
    path, _, _ = config.params.partition("@")
    return "/".join(pathlib.Path(path).parts[-2:])


def run_name(config: Config, dataset: data.Dataset) -> str:
    """The name of a run, from which that of its directory is made."""
    return f"{dataset.name}-{config.init if config.params is None else 'params'}-seed{config.seed}"


def training(config: Config) -> str:
    """The training of a run."""
    length = duration(config.epochs, config.steps)
    return f"{config.optimizer} {config.learning_rate:g}, batch {config.batch_size}, {length}"


def duration(epochs: int, steps: int | None) -> str:
    """How long a run is trained.

    Example:
      >>> duration(5, None), duration(1, 600)
      ('5 epochs', '600 steps')
    """
    return count(epochs, "epoch") if steps is None else count(steps, "step")


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
    drawn = INITIALIZERS if config.params is None else ()
    return {
        "initializers": {name: repr(initjax.get(getattr(config, name))) for name in drawn},
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


def processor() -> str:
    """The model of this host's CPU, on which the bits of what a CPU computes depend.

    Such as "AMD EPYC 26 2 avx2 avx512f": virtual machines may call different models by one name.
    """
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    found: dict[str, str] = {}
    for name, _, value in (line.partition(":") for line in lines):
        found.setdefault(name.strip(), value.strip())
    names = ("model name", "cpu family", "model", "CPU implementer", "CPU part")  # the last: ARM
    features = [name for name in ("avx2", "avx512f") if name in found.get("flags", "").split()]
    parts = [*(found[name] for name in names if name in found), *features]
    return " ".join(parts) or platform.machine()


def environment() -> dict[str, dict[str, Any]]:
    """The device and the versions."""
    import jax

    return {
        "device": {
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "processor": processor(),
            "count": jax.device_count(),
            "host": platform.node(),
            "cores": os.cpu_count(),
        },
        "versions": versions(),
    }
