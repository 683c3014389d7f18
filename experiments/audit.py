"""Audits the initialization of an MLP on MNIST, before it is trained, and repairs it if asked to.

Question: will a network train from these weights, and if not, what is wrong with them?
Command:  python -m experiments.audit --init=zeros --depth=50 --activation=tanh
Time:     of a core 3 s, and 10 s the first time; with 50 layers 6 s, and 12 s
"""

import dataclasses
import functools
import io
import itertools
import pathlib
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from absl import flags

import initjax
from experiments.common import audits, choices, console, data, runs, store

# JAX, and what imports it, is imported in the functions: a mistake in a flag is told before.
if TYPE_CHECKING:
    from initjax import Repair, Report

_MOST_SIZES = 3  # of equal hidden layers, that are written out


@dataclasses.dataclass(frozen=True)
class Config:
    """What is audited."""

    network: runs.Config
    """The run that would start from it, which names the data, too."""
    optimizer: bool = False
    """Whether the first step of the run's optimizer is measured."""
    fix: bool = False
    """Whether to repair the network, and to audit it again."""


def run(
    config: Config, workdir: str | None = None, stream: TextIO | None = None
) -> tuple[pathlib.Path, "Report"]:
    """Audits a network, and leaves a directory with what was found.

        config.json   the configuration, versions, device and data
        audit.json    the verdict, and all numbers
        audit.png     their picture
        fixed.json    the same of the repaired network, and what was changed, if it was repaired
        fixed.png

    Args:
      config: what to audit.
      workdir: the directory, empty or absent; None makes a new one under `runs`.
      stream: where to show what was found; None shows nothing.

    Returns:
      The directory, and the last audit: that of the repaired network if it was repaired.

    Raises:
      ValueError: the data cannot be had, an initializer does not fit a parameter, or workdir is
        not free.
    """
    started = time.perf_counter()
    network = config.network
    dataset = data.load(network.dataset, network.data_dir)
    import jax

    from experiments.common import models

    with jax.enable_x64(network.dtype == "float64"):
        features = (dataset.train_images[0].size, *network.hidden, dataset.num_classes)
        model = models.mlp(features, network.activation, network.dtype)
        key = runs.root_key(network.seed)
        params = runs.draw_params(network, key, model)
        console.say(stream, *_header(config, dataset, features), "")
        start = (network, model, params, key, dataset, config.optimizer)
        if config.fix:
            _, repair = audits.fix(*start)
            found = {"audit": repair.before, "fixed": repair.after}
            console.say(stream, str(repair.before), "", str(repair), "")
        else:
            repair = None
            found = {"audit": audits.audit(*start)}
            console.say(stream, str(found["audit"]), "")

    directory = store.create(workdir, f"audit-{dataset.name}-{network.init}-seed{network.seed}")
    store.write_json(directory / "config.json", _description(config, dataset))
    for name, report in found.items():
        changes = _changes(repair) if repair and name == "fixed" else {}
        store.write_json(directory / f"{name}.json", {**report.to_dict(), **changes})
        if report.layers:
            picture = io.BytesIO()
            report.plot().savefig(picture, format="png")
            store.write(directory / f"{name}.png", picture.getvalue())
    last = found.get("fixed", found["audit"])
    console.say(
        stream,
        f"verdict {_verdict(last)}; {time.perf_counter() - started:.1f} s",
        *_next_step(config, found["audit"], last),
        f"results {directory}",
        f"repeat  {command(config)}",
    )
    return directory, last


def command(config: Config) -> str:
    """The command that repeats an audit."""
    more = ["--fix"] if config.fix else []
    return audits.command(config.network, *more, optimizer=config.optimizer)


def _header(config: Config, dataset: data.Dataset, features: tuple[int, ...]) -> list[str]:
    network = config.network
    size = "x".join(map(str, dataset.train_images.shape[1:]))
    images = len(dataset.train_labels)
    lines = [
        f"data    {dataset.name}: {min(network.batch_size, images):,} of {images:,} training"
        f" images, {size}",
        f"model   MLP {_sizes(features)}, {network.activation}, {network.dtype}",
        f"init    {network.init}; output {network.output_init}; bias {network.bias_init};"
        f" seed {network.seed}",
    ]
    if config.optimizer:
        lines.append(f"step    {network.optimizer} {network.learning_rate:g}")
    layers = len(features) - 1  # a word before a deep network is compiled, which takes a while
    return [*lines, f"audit   compiles and measures {layers} layer{'' if layers == 1 else 's'}"]


def _sizes(features: tuple[int, ...]) -> str:
    """Such as 784-128-64-10, or 784-50x128-10."""
    parts = []
    for size, alike in itertools.groupby(features):
        count = len(list(alike))
        parts += [f"{count}x{size}"] if count > _MOST_SIZES else [str(size)] * count
    return "-".join(parts)


def _description(config: Config, dataset: data.Dataset) -> dict[str, Any]:
    """What config.json holds."""
    network = config.network
    names = ["init", "output_init", "bias_init", "seed", "hidden", "activation", "dtype"]
    names += ["batch_size", "dataset", "data_dir"]
    names += ["optimizer", "learning_rate"] if config.optimizer else []
    return {
        "config": {**{name: getattr(network, name) for name in names}, "fix": config.fix},
        "initializers": {
            name: repr(initjax.parse(getattr(network, name)))
            for name in ("init", "output_init", "bias_init")
        },
        "command": command(config),
        "data": {"name": dataset.name, "source": dataset.source, "digest": dataset.digest},
        **runs.environment(),
    }


def _changes(repair: "Repair") -> dict[str, Any]:
    """What fixed.json holds besides the audit."""
    return {
        "target": repair.target,
        "changes": [dataclasses.asdict(change) for change in repair.changes],
        "left": [{"name": name, "why": why} for name, why in repair.left],
    }


def _verdict(report: "Report") -> str:
    causes = dict.fromkeys(finding.cause for finding in report.findings)
    return f"{report.verdict}: {', '.join(causes)}" if causes else report.verdict


def _next_step(config: Config, before: "Report", last: "Report") -> list[str]:
    """The line that leads on from the verdict."""
    if not config.fix and last.verdict == "ok":
        # What it was measured on is no advice to train on batches of that size.
        trained = dataclasses.replace(config.network, batch_size=runs.Config.batch_size)
        return [f"train   python -m experiments.mnist {shlex.join(runs.arguments(trained))}"]
    if not config.fix:
        return audits.next_step(config.network, last, config.optimizer)
    if last.verdict == "failure":
        return ["next    take another --init: rescaling does not mend this network"]
    if before.verdict == "ok":
        return ["next    nothing to mend: train it as it is"]
    return ["use     params, repair = initjax.fix(loss_fn, params, *batch, key=key)"]


_FLAGS = flags.FlagValues()  # the program's own, so that programs can be imported side by side
_string = functools.partial(flags.DEFINE_string, flag_values=_FLAGS)
_integer = functools.partial(flags.DEFINE_integer, flag_values=_FLAGS)
_bool = functools.partial(flags.DEFINE_bool, flag_values=_FLAGS)
_RATES = ", ".join(f"{rate:g} for {name}" for name, rate in choices.OPTIMIZERS.items())

_string(
    "init",
    runs.Config.init,
    "Initializer of the hidden layers' kernels: a name, or a call with literal arguments such as"
    " 'random_uniform(-0.1, 0.1)' or 'lecun_normal(gain=\"tanh\")'."
    f" Names: {', '.join(initjax.NAMES)}.",
)
_string("output_init", runs.Config.output_init, "Initializer of the output layer's kernel.")
_string("bias_init", runs.Config.bias_init, "Initializer of all biases.")
_integer(
    "seed",
    runs.Config.seed,
    "Determines the weights and the batch: those that experiments.mnist starts from with the same"
    " flags.",
)
_integer("depth", None, "The number of hidden layers, all of one width.", lower_bound=0)
_integer(
    "width",
    None,
    f"The size of those layers (default: {audits.WIDTH}); needs --depth.",
    lower_bound=1,
)
_string(
    "hidden",
    None,
    "Instead of --depth: the sizes of the hidden layers, separated by commas; empty for logistic"
    f" regression (default: {','.join(map(str, runs.Config.hidden))}).",
)
_string(
    "activation",
    runs.Config.activation,
    f"Activation of the hidden layers, from jax.nn: {', '.join(choices.ACTIVATIONS)}.",
)
_string(
    "dtype",
    runs.Config.dtype,
    f"Dtype to compute in: {', '.join(choices.DTYPES)}. Parameters are float32, or float64.",
)
_string(
    "optimizer",
    None,
    f"One of {', '.join(choices.OPTIMIZERS)}: measures its first step, beside the size of the"
    " weights (default: none).",
)
flags.DEFINE_float(
    "learning_rate",
    None,
    f"Its learning rate (default: {_RATES}); needs --optimizer.",
    flag_values=_FLAGS,
)
_integer("batch_size", audits.BATCH_SIZE, "Images to measure with; 64 or more tell most.")
_string(
    "dataset",
    None,
    "mnist, which is bundled, or the name of an image classification set that TensorFlow Datasets"
    " has prepared (default: mnist, or what --data_dir holds).",
)
_string(
    "data_dir",
    None,
    "A directory of IDX files, or the directory of TensorFlow Datasets (default: the bundled files,"
    " or ~/tensorflow_datasets).",
)
_bool(
    "fix",
    False,
    "Repair the network: scale its kernels, from one pass over the batch, so that signals and"
    " gradients keep their size, and draw anew what is zero or constant; then audit it again.",
)
_bool(
    "check",
    False,
    "Exit with code 1 if the verdict is 'failure', with --fix that after the repair. Warnings"
    " pass.",
)
_string(
    "workdir",
    None,
    "The directory for the numbers and their picture, which must be empty or absent (default: a new"
    " one under runs/).",
)

_GROUPS = {
    "Initialization": ("init", "output_init", "bias_init", "seed"),
    "Model": ("depth", "width", "hidden", "activation", "dtype"),
    "Training": ("optimizer", "learning_rate"),
    "Data": ("batch_size", "dataset", "data_dir"),
    "Verdict": ("fix", "check"),
    "Output": ("workdir", "help"),
}


def hidden_sizes(hidden: str | None, depth: int | None, width: int | None) -> tuple[int, ...]:
    """The sizes of the hidden layers that the flags of these names give.

    Raises:
      ValueError: the flags contradict each other, or cannot be read.
    """
    if hidden is None:
        if depth is None and width is not None:
            raise ValueError(f"--width={width} needs --depth, the number of layers of that size")
        return runs.Config.hidden if depth is None else (width or audits.WIDTH,) * depth
    if depth is not None or width is not None:
        raise ValueError("--hidden says what --depth and --width say: give one or the other")
    try:
        return tuple(map(int, hidden.split(","))) if hidden else ()
    except ValueError:
        raise ValueError(f"--hidden={hidden}: must be integers separated by commas") from None


def main() -> None:
    given: dict[str, Any] = {
        name: _FLAGS[name].value
        for group in ("Initialization", "Model", "Data")
        for name in _GROUPS[group]
        if name not in ("depth", "width", "hidden")
    }
    if _FLAGS.optimizer is None and _FLAGS.learning_rate is not None:
        raise ValueError(f"--learning_rate={_FLAGS.learning_rate:g} needs --optimizer")
    network = runs.Config(
        **given,
        hidden=hidden_sizes(_FLAGS.hidden, _FLAGS.depth, _FLAGS.width),
        optimizer=_FLAGS.optimizer or runs.Config.optimizer,
        learning_rate=_FLAGS.learning_rate,
    )
    store.check_free(_FLAGS.workdir)
    data.check(network.dataset, network.data_dir)
    config = Config(network, optimizer=_FLAGS.optimizer is not None, fix=_FLAGS.fix)
    _, report = run(config, _FLAGS.workdir, sys.stdout)
    if _FLAGS.check and report.verdict == "failure":
        sys.exit(1)


if __name__ == "__main__":
    console.run_program(
        audits.COMMAND,
        "Audits the initialization of an MLP on a batch of MNIST, or of another image set: measures"
        " what every layer does to signals and gradients, says what is wrong and what helps, and"
        " leaves the numbers and their picture in a directory of their own.",
        _FLAGS,
        _GROUPS,
        main,
    )
