"""The reference program: trains an MLP on MNIST from the initializer that a flag names.

Question: how much does the initializer matter to a network of three layers?
Command:  python -m experiments.mnist --init=glorot_uniform
Time:     about 3 s on 2 cores of a CPU
Score:    val_acc .975 from Glorot's and He's alike, with a standard deviation of .0016 over seeds

Reads from top to bottom: what determines a run, what a run is, the flags.
"""

import dataclasses
import datetime
import functools
import importlib
import math
import pathlib
import shlex
import statistics
import sys
import time
from concurrent import futures
from typing import Any, TextIO

from absl import flags

import initjax
from experiments.common import audits, choices, console, data, runs, store

# JAX, and what imports it, is imported in the functions: a mistake in a flag is told before.
COMMAND = "python -m experiments.mnist"


def run(
    config: runs.Config,
    workdir: str | None = None,
    stream: TextIO | None = None,
    audit: bool = False,
) -> tuple[pathlib.Path, dict[str, Any]]:
    """Trains one network and leaves the directory of the run (see `experiments.common.store`).

    Args:
      config: what to train.
      workdir: the directory of the run, empty or absent; None makes a new one under `runs`.
      stream: where to show the progress; None shows none.
      audit: whether to audit the network on its first batch before it is trained, to `audit.json`.

    Returns:
      The directory, and the summary that is in it.

    Raises:
      ValueError: the data cannot be had, an initializer does not fit a parameter, or workdir is
        not free.
      KeyboardInterrupt: Ctrl-C was pressed; the finished epochs are in the directory.
    """
    started = time.perf_counter()
    pool = futures.ThreadPoolExecutor(1)
    loading = pool.submit(data.load, config.dataset, config.data_dir)  # while JAX is imported
    if data.needs_tfds(config.dataset, config.data_dir):
        futures.wait([loading])
    import jax

    from experiments.common import models, training

    dataset = loading.result()
    # Matplotlib is imported while the first epochs are compiled and trained.
    drawing = pool.submit(importlib.import_module, "experiments.common.pictures")
    pool.shutdown(wait=False)

    with jax.enable_x64(config.dtype == "float64"):
        features = (dataset.train_images[0].size, *config.hidden, dataset.num_classes)
        model = models.mlp(features, config.activation, config.dtype)
        key = runs.root_key(config.seed)
        params = runs.draw_params(config, key, model)

        directory = store.create(workdir, _run_name(config, dataset))
        store.write_json(directory / "config.json", _description(config, dataset, model.shapes))
        display = console.Progress(config.epochs, stream)
        display.say(*_header(config, dataset, features, model.shapes))
        if audit:
            report = audits.audit(config, model, params, key, dataset)
            store.write_json(directory / "audit.json", report.to_dict())
            # With the batch that experiments.audit takes: its size counts for training alone.
            audited = dataclasses.replace(config, batch_size=audits.BATCH_SIZE)
            display.say("", str(report), "", *audits.next_step(audited, report))
        epochs = training.fit(
            model.apply,
            config.optimizer,
            config.learning_rate,  # pyright: ignore[reportArgumentType]  # no longer None
            params,
            runs.order_key(key),
            (dataset.train_images, dataset.train_labels),
            (dataset.test_images, dataset.test_labels),
            epochs=config.epochs,
            batch_size=config.batch_size,
            watch=display.steps if display.live else None,
        )
        finished: list[training.Epoch] = []
        interrupted = False
        with store.events(directory) as events:
            try:
                for epoch in epochs:
                    store.add_epoch(directory, events, epoch)
                    finished.append(epoch._replace(params=None))  # its buffers are used again
                    display.epoch(epoch.number, epoch.seconds, epoch.metrics)
            except KeyboardInterrupt:
                interrupted = True

    summary: dict[str, Any] = {
        "status": "interrupted" if interrupted else "finished",
        "epochs": max(0, len(finished) - 1),
        **(finished[-1].metrics if finished else {}),
    }
    if len(finished) > 1:
        # The first epoch's time holds that of compiling; the median of several does not.
        summary["seconds_per_epoch"] = statistics.median(epoch.seconds for epoch in finished[1:])
    summary["seconds"] = time.perf_counter() - started
    store.write_json(directory / "summary.json", summary)
    try:  # the picture comes last: nothing is lost with it
        if len(finished) > 1:
            title = f"{dataset.name}, {config.init}, seed {config.seed}"
            subtitle = f"{_network(config, features)}; {_training(config)}"
            chance_loss = math.log(dataset.num_classes)
            drawing.result().learning_curve(directory, title, subtitle, chance_loss)
    finally:
        display.say(*_footer(config, directory, summary))
    if interrupted:
        raise KeyboardInterrupt
    return directory, summary


def command(config: runs.Config) -> str:
    """The command that repeats a run."""
    return f"{COMMAND} {shlex.join(runs.arguments(config))}"


def _run_name(config: runs.Config, dataset: data.Dataset) -> str:
    return f"{dataset.name}-{config.init}-seed{config.seed}"


def _network(config: runs.Config, features: tuple[int, ...]) -> str:
    return f"MLP {'-'.join(map(str, features))}, {config.activation}, {config.dtype}"


def _training(config: runs.Config) -> str:
    return (
        f"{config.optimizer} {config.learning_rate:g}, batch {config.batch_size},"
        f" {_epochs(config.epochs)}"
    )


def _epochs(number: int) -> str:
    return f"{number} epoch" if number == 1 else f"{number} epochs"


def _description(config: runs.Config, dataset: data.Dataset, shapes: Any) -> dict[str, Any]:
    """What config.json holds: all that a reader needs to understand the run, or to repeat it."""
    return {
        "config": dataclasses.asdict(config),
        "initializers": {
            name: repr(initjax.parse(getattr(config, name)))
            for name in ("init", "output_init", "bias_init")
        },
        "command": command(config),
        "parameters": _parameters(shapes),
        "data": {
            "name": dataset.name,
            "source": dataset.source,
            "digest": dataset.digest,
            "training_images": len(dataset.train_labels),
            "test_images": len(dataset.test_labels),
            "image_shape": dataset.train_images.shape[1:],
            "classes": dataset.num_classes,
        },
        **runs.environment(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _parameters(shapes: Any) -> int:
    import jax

    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def _header(
    config: runs.Config, dataset: data.Dataset, features: tuple[int, ...], shapes: Any
) -> list[str]:
    import jax

    size = "x".join(map(str, dataset.train_images.shape[1:]))
    return [
        f"data    {dataset.name}: {len(dataset.train_labels):,} training and"
        f" {len(dataset.test_labels):,} test images, {size}",
        f"model   {_network(config, features)}, {_parameters(shapes):,} parameters",
        f"init    {config.init}; output {config.output_init}; bias {config.bias_init};"
        f" seed {config.seed}",
        f"train   {_training(config)}, on {jax.devices()[0].device_kind}",
    ]


def _footer(config: runs.Config, directory: pathlib.Path, summary: dict[str, Any]) -> list[str]:
    lines = []
    if summary["status"] == "interrupted":
        lines.append(f"interrupted; finished before: {_epochs(summary['epochs'])}")
    if "val_acc" in summary:
        scores = f"val_acc {summary['val_acc']:.4f}, val_loss {summary['val_loss']:.4f}"
        times = f"{summary['seconds']:.1f} s"
        if summary["epochs"]:
            times += f", {summary['seconds_per_epoch']:.2f} s an epoch"
        lines.append(f"{scores} after {_epochs(summary['epochs'])}; {times}")
        if not math.isfinite(summary["val_loss"]):
            lines.append("training diverged: a smaller --learning_rate, or --init, may help")
    return [
        *lines,
        f"results {directory}",
        f"repeat  {command(config)}",
    ]


_FLAGS = flags.FlagValues()  # the program's own, so that programs can be imported side by side
_string = functools.partial(flags.DEFINE_string, flag_values=_FLAGS)
_integer = functools.partial(flags.DEFINE_integer, flag_values=_FLAGS)
_RATES = ", ".join(f"{rate:g} for {name}" for name, rate in choices.OPTIMIZERS.items())

_string(
    "init",
    runs.Config.init,
    "Initializer of the hidden layers' kernels: a name, or a call with literal arguments such as"
    " 'random_uniform(-0.1, 0.1)' or 'variance_scaling(2.0, \"fan_in\", \"normal\")'."
    f" Names: {', '.join(initjax.NAMES)}.",
)
_string("output_init", runs.Config.output_init, "Initializer of the output layer's kernel.")
_string("bias_init", runs.Config.bias_init, "Initializer of all biases.")
_integer(
    "seed",
    runs.Config.seed,
    "Determines the weights and the order of the batches. The same seed gives the same bits; two"
    " initializers under one seed see the same batches.",
)
flags.DEFINE_list(
    "hidden",
    list(map(str, runs.Config.hidden)),
    "Sizes of the hidden layers, separated by commas; empty for logistic regression.",
    flag_values=_FLAGS,
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
    "optimizer", runs.Config.optimizer, "adam, sgd, or momentum, which is sgd with momentum .9."
)
flags.DEFINE_float("learning_rate", None, f"Learning rate (default: {_RATES}).", flag_values=_FLAGS)
_integer("epochs", runs.Config.epochs, "Passes over the training images.")
_integer(
    "batch_size",
    runs.Config.batch_size,
    "Images a step; the last step of an epoch takes those that are left.",
)
_string(
    "dataset",
    None,
    "mnist, which is bundled, or the name of an image classification set that TensorFlow Datasets"
    " has prepared (default: mnist, or what --data_dir holds).",
)
_string(
    "data_dir",
    None,
    "A directory of IDX files, as MNIST, Fashion-MNIST, KMNIST and EMNIST are distributed, or the"
    " directory of TensorFlow Datasets (default: the bundled files, or ~/tensorflow_datasets).",
)
flags.DEFINE_bool(
    "audit",
    False,
    "Audit the initialization before training, layer by layer, on the first batch; training is the"
    " same without it.",
    flag_values=_FLAGS,
)
_string(
    "workdir",
    None,
    "The directory of this run, which must be empty or absent (default: a new one under runs/).",
)

_GROUPS = {
    "Initialization": ("init", "output_init", "bias_init", "seed", "audit"),
    "Model": ("hidden", "activation", "dtype"),
    "Training": ("optimizer", "learning_rate", "epochs", "batch_size"),
    "Data": ("dataset", "data_dir"),
    "Output": ("workdir", "help"),
}


def main() -> None:
    arguments: dict[str, Any] = {
        field.name: _FLAGS[field.name].value for field in dataclasses.fields(runs.Config)
    }
    try:
        sizes = arguments["hidden"]
        arguments["hidden"] = () if sizes in ([], [""]) else tuple(map(int, sizes))
    except ValueError:
        sizes = ",".join(arguments["hidden"])
        raise ValueError(f"--hidden={sizes}: must be integers separated by commas") from None
    config = runs.Config(**arguments)
    store.check_free(_FLAGS.workdir)
    data.check(config.dataset, config.data_dir)
    run(config, _FLAGS.workdir, sys.stdout, _FLAGS.audit)


if __name__ == "__main__":
    console.run_program(
        COMMAND,
        "Trains an MLP on MNIST, or another image set, from the initializer that a flag names, and"
        " leaves the metrics, a learning curve and the parameters in a directory of their own.",
        _FLAGS,
        _GROUPS,
        main,
    )
