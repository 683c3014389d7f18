"""Trains a grid of initializers, seeds and settings, many runs in one program, and compares them.

Question: which initializer is better, by how much, and how sure is that?
Command:  python -m experiments.sweep --init=zeros,glorot_uniform,he_normal --seeds=30
Time:     about 1.5 min on 2 cores of a CPU
Score:    after 5 epochs Glorot's and He's differ by less than one seed does from the next

Each run is the one that `experiments.mnist` trains from the same flags, on a CPU to the bit. What
is there already is not trained again, so that a sweep can be stopped and given again at any time,
and several processes can fill one directory.
"""

import collections
import dataclasses
import datetime
import functools
import itertools
import math
import operator
import os
import re
import shlex
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from absl import flags

from experiments.common import choices, console, data, runs

if TYPE_CHECKING:
    from experiments.common import models

COMMAND = "python -m experiments.sweep"

Group = dict[str, runs.Config]  # runs that one program trains, by their identities

_BATCH_SECONDS = 5.0  # that a batch should take: so much is lost if a process is killed
_MOST_RUNS = 16  # of a device in a batch on a CPU, where more would gain nothing
_MOST_RUNS_TOGETHER = 256  # the same where the runs of a device advance together
_MOST_SEEDS = 10**6  # more are taken for a slip
_CPU_BYTES = 2**28  # for the parameters of a device's batch


def run(configs: Sequence[runs.Config], workdir: str, stream: TextIO | None = None) -> int:
    """Trains what is not there yet, and adds it to a directory.

    Args:
      configs: what to train; at least one, all from one data set.
      workdir: the directory, see `experiments.common.results`; absent, or with any runs in it.
      stream: where to show the progress; None shows none.

    Returns:
      How many runs were trained.

    Raises:
      ValueError: the data cannot be had, an initializer does not fit a parameter, or the directory
        cannot be written to.
      KeyboardInterrupt: Ctrl-C was pressed; all that was trained is in the directory.
    """
    from experiments.common import results

    dataset = data.load(configs[0].dataset, configs[0].data_dir)
    wanted = {runs.identity(config, dataset.digest): config for config in configs}
    trained = 0
    with results.Results(workdir) as stored:
        missing = wanted.keys() - stored.finished()
        _check(wanted, dataset)
        console.say(stream, *_header(wanted, dataset, len(missing)))
        with (
            console.interrupt_later(stream) as interrupted,
            console.runs_progress(len(missing), stream) as advance,
        ):
            for group in _groups({key: wanted[key] for key in wanted if key in missing}):
                train, least, most = _trainer(next(iter(group.values())), dataset, len(group))
                size = least
                while batch := stored.claim(group, size):
                    started = time.perf_counter()
                    stored.add(train({key: group[key] for key in batch}))
                    trained += len(batch)
                    advance(len(batch))
                    if interrupted():
                        console.say(stream, f"kept    {len(stored.finished())} runs in {workdir}")
                        raise KeyboardInterrupt
                    pace = _BATCH_SECONDS / (time.perf_counter() - started)
                    # As many for each device, so that none waits for another.
                    size = least * max(1, min(most, 2 * size, round(pace * size)) // least)
        others = len(wanted.keys() - stored.finished())
    if others:
        console.say(stream, f"{others} runs are in the hands of other processes")
    return trained


def _check(wanted: Group, dataset: data.Dataset) -> None:
    """Finds initializers that do not fit a parameter before anything is trained."""
    import jax

    names = ("init", "output_init", "bias_init", "hidden", "activation", "dtype")
    tried = {tuple(getattr(config, name) for name in names): config for config in wanted.values()}
    for config in tried.values():
        with jax.enable_x64(config.dtype == "float64"):
            model = _model(config, dataset)
            jax.eval_shape(
                lambda key, c=config, m=model: runs.draw_params(c, key, m), jax.random.key(0)
            )


def _model(config: runs.Config, dataset: data.Dataset) -> "models.Model":
    from experiments.common import models

    features = (dataset.train_images[0].size, *config.hidden, dataset.num_classes)
    return models.mlp(features, config.activation, config.dtype)


def _groups(missing: Group) -> list[Group]:
    """The runs, divided into those that one compiled program trains."""
    groups: dict[Any, Group] = collections.defaultdict(dict)
    for key, config in missing.items():
        program = (
            config.hidden,
            config.activation,
            config.dtype,
            config.optimizer,
            config.epochs,
            config.batch_size,
        )
        groups[program][key] = config
    return list(groups.values())


def _trainer(
    config: runs.Config, dataset: data.Dataset, wanted: int
) -> tuple[Callable[[Group], list[dict[str, Any]]], int, int]:
    """Makes what trains a batch, from any of a group's configurations.

    Returns:
      The function from a batch to its rows; how many runs a batch should hold at the least, and how
      many it can.
    """
    import jax
    import jax.numpy as jnp

    from experiments.common import training

    devices = jax.local_devices()
    mesh = jax.make_mesh((len(devices),), ("runs",), devices=devices)
    sharded, whole = (jax.NamedSharding(mesh, spec) for spec in (jax.P("runs"), jax.P()))
    features = (dataset.train_images[0].size, *config.hidden, dataset.num_classes)
    with jax.enable_x64(config.dtype == "float64"):
        model = _model(config, dataset)
        # All runs share one copy of the data on each device.
        train_set, test_set = jax.device_put(
            (
                (dataset.train_images, dataset.train_labels),
                (dataset.test_images, dataset.test_labels),
            ),
            whole,
        )
    commonest = np.bincount(dataset.train_labels).argmax()
    environment = runs.environment()
    where = {
        "host": environment["device"]["host"],
        "device": environment["device"]["kind"],
        "versions": ", ".join(" ".join(pair) for pair in environment["versions"].items()),
    }
    shapes = jax.tree.leaves(model.shapes)
    bytes_of_one = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in shapes)
    if devices[0].platform == "cpu":
        slots = max(1, min(_MOST_RUNS, _CPU_BYTES // bytes_of_one))
        least = len(devices)
    else:
        # Parameters, gradients, the optimizer's state and updates, and what a step needs besides.
        bytes_of_one = 8 * bytes_of_one + 16 * config.batch_size * sum(features)
        limit = (devices[0].memory_stats() or {}).get("bytes_limit", 2**32)
        slots = max(1, min(_MOST_RUNS_TOGETHER, limit // 2 // bytes_of_one))
        slots = min(slots, -(-wanted // len(devices)))
        least = slots * len(devices)  # they advance together: fewer take as long

    def train(batch: Group) -> list[dict[str, Any]]:
        started = time.perf_counter()
        # The runs are dealt to the devices in turn; a device's lie one after another.
        places = [slots * (i % len(devices)) + i // len(devices) for i in range(len(batch))]
        counts = np.array([len(places[device :: len(devices)]) for device in range(len(devices))])
        with jax.enable_x64(config.dtype == "float64"):
            params = jax.tree.map(
                lambda leaf: np.zeros((slots * len(devices), *leaf.shape), leaf.dtype), model.shapes
            )
            rates = np.ones(slots * len(devices), shapes[0].dtype)
            keys = np.zeros((slots * len(devices), 2), np.uint32)
            for place, one in zip(places, batch.values(), strict=True):
                key = runs.root_key(one.seed)
                drawn = runs.draw_params(one, key, model)
                for stack, leaf in zip(
                    jax.tree.leaves(params), jax.tree.leaves(drawn), strict=True
                ):
                    stack[place] = leaf
                rates[place] = one.learning_rate
                keys[place] = jax.random.key_data(runs.order_key(key))
            history = training.train_runs(
                *jax.device_put((counts.astype(np.int32), params, rates), sharded),
                jax.device_put(
                    jax.random.wrap_key_data(jnp.asarray(keys), impl="threefry2x32"), sharded
                ),
                train_set,
                test_set,
                apply=model.apply,
                optimizer=config.optimizer,
                epochs=config.epochs,
                batch_size=config.batch_size,
                mesh=mesh,
            )
            history = jax.device_get(history)
        common = {
            "dataset": dataset.name,
            "digest": dataset.digest,
            "features": features[0],
            "classes": features[-1],
            "test_images": len(dataset.test_labels),
            "guess_acc": float(np.mean(dataset.test_labels == commonest)),
            "seconds": (time.perf_counter() - started) / len(batch),
            "finished": datetime.datetime.now(datetime.UTC),
            **where,
        }
        rows = []
        for place, (key, one) in zip(places, batch.items(), strict=True):
            mine = jax.tree.map(operator.itemgetter(place), history)
            rows.append({"key": key, **_outcome(mine, one, dataset), **common})
        return rows

    return train, least, slots * len(devices)


def _outcome(history: Any, config: runs.Config, dataset: data.Dataset) -> dict[str, Any]:
    """What a row says of the run itself."""
    from experiments.common import training

    examples, tests = len(dataset.train_labels), len(dataset.test_labels)
    epochs = [
        training.means(training.Metrics(*sums), examples)
        for sums in zip(*history.batches, strict=True)
    ]
    after = [
        training.means(training.Metrics(*sums), tests) for sums in zip(*history.tests, strict=True)
    ]
    sizes = training.batch_sizes(examples, config.batch_size)
    diverged = not all(math.isfinite(metrics["loss"]) for metrics in epochs + after)
    fields = dataclasses.asdict(config)
    del fields["data_dir"]
    return {
        **fields,
        **{name: runs.canonical(fields[name]) for name in ("init", "output_init", "bias_init")},
        "status": "diverged" if diverged else "finished",
        **{name: [metrics[name] for metrics in epochs] for name in ("loss", "acc")},
        **{f"val_{name}": [metrics[name] for metrics in after] for name in ("loss", "acc")},
        "step_loss": np.ravel(history.batches.loss / sizes).astype(np.float32),
        "step_acc": np.ravel(history.batches.correct / sizes).astype(np.float32),
    }


def _header(wanted: Group, dataset: data.Dataset, missing: int) -> list[str]:
    import jax

    one = next(iter(wanted.values()))
    shared = f"batch {one.batch_size}, {one.epochs} epoch{'s' * (one.epochs > 1)}"
    values = {
        name: list(dict.fromkeys(getattr(config, name) for config in wanted.values()))
        for name in ("init", "hidden", "activation", "optimizer", "learning_rate", "seed")
    }
    values["hidden"] = ["-".join(map(str, sizes)) or "none" for sizes in values["hidden"]]
    lines = [
        f"data    {dataset.name}: {len(dataset.train_labels):,} training and"
        f" {len(dataset.test_labels):,} test images",
        f"init    {', '.join(values['init'])}; {len(values['seed'])} seeds",
        f"model   MLP, hidden layers {', '.join(values['hidden'])};"
        f" {', '.join(values['activation'])}; {one.dtype}",
        f"train   {', '.join(values['optimizer'])};"
        f" learning rate {', '.join(f'{rate:g}' for rate in values['learning_rate'])}; {shared}",
        f"runs    {len(wanted)}, {len(wanted) - missing} of them there already;"
        f" on {jax.local_device_count()} x {jax.devices()[0].device_kind}",
    ]
    return [piece for line in lines for piece in textwrap.wrap(line, 80, subsequent_indent=" " * 8)]


def _summary(configs: Sequence[runs.Config], workdir: str) -> list[str]:
    """What is printed at the end: the comparison of what was asked for."""
    from experiments.common import comparison, results

    lines = []
    dataset = data.load(configs[0].dataset, configs[0].data_dir)
    wanted = {runs.identity(config, dataset.digest) for config in configs}
    for setting in comparison.settings(results.read(workdir, wanted)):
        lines += ["", *textwrap.wrap(comparison.describe(setting.fields), 80)]
        width = max(len(init) for init in setting.inits)
        lines.append(f"{'':{width}}  runs  test accuracy    test loss        epoch 1 loss")
        for line in comparison.table(setting):
            cells = [
                f"{value.value:.4f} ±{(value.high - value.low) / 2:.4f}" if value else "-"
                for value in (line["final_acc"], line["final_loss"], line["first_loss"])
            ]
            columns = "  ".join(f"{cell:15}" for cell in cells)
            lines.append(f"{line['init']:{width}}  {line['runs']:4}  {columns}".rstrip())
        lines.append("(means with 95 % intervals of Student's t)")
        for sentence in comparison.summary(setting):
            lines += textwrap.wrap(f"- {sentence}", 80, subsequent_indent="  ")
    return lines


_FLAGS = flags.FlagValues()  # the program's own, so that programs can be imported side by side
_string = functools.partial(flags.DEFINE_string, flag_values=_FLAGS)
_integer = functools.partial(flags.DEFINE_integer, flag_values=_FLAGS)

_string(
    "init",
    "zeros,random_uniform,glorot_uniform,glorot_normal,he_uniform,he_normal,orthogonal",
    "Initializers of the hidden layers' kernels, separated by commas; each as for"
    " experiments.mnist: a name, or a call with literal arguments.",
)
_string("output_init", runs.Config.output_init, "Initializer of the output layer's kernel.")
_string("bias_init", runs.Config.bias_init, "Initializer of all biases.")
_string(
    "seeds",
    "30",
    "How many seeds, from 0 on; or which: 5-9, or 3,5,8-12. Every initializer is trained"
    " from all of them. Differences of .1 point need about 30.",
)
flags.DEFINE_multi_string(
    "hidden",
    [",".join(map(str, runs.Config.hidden))],
    "Sizes of the hidden layers, separated by commas. Given several times, each is one network.",
    flag_values=_FLAGS,
)
_string("activation", runs.Config.activation, "Activations of the hidden layers, from jax.nn.")
_string("dtype", runs.Config.dtype, f"Dtype to compute in: {', '.join(choices.DTYPES)}.")
_string("optimizer", runs.Config.optimizer, "Optimizers: adam, sgd, momentum.")
_string(
    "learning_rate",
    None,
    "Learning rates (default: the optimizer's own). With several, initializers are compared at"
    " each, and each at the one that suits it best.",
)
_integer("epochs", runs.Config.epochs, "Passes over the training images.")
_integer("batch_size", runs.Config.batch_size, "Images a step.")
_string("dataset", None, "The data set, as for experiments.mnist.")
_string("data_dir", None, "Where the data set is, as for experiments.mnist.")
_string(
    "shard",
    "0/1",
    "i/n trains every n-th run of the grid, from the i-th on; i is 0 to n-1. For n processes or"
    " machines that fill one directory.",
)
_string("workdir", "runs/sweep", "Where the results are, and are added; see the README.")

_GROUPS = {
    "Initialization": ("init", "output_init", "bias_init", "seeds"),
    "Model": ("hidden", "activation", "dtype"),
    "Training": ("optimizer", "learning_rate", "epochs", "batch_size"),
    "Data": ("dataset", "data_dir"),
    "Output": ("workdir", "shard", "help"),
}


def split(text: str) -> list[str]:
    """Splits a list at its commas, but not at those in parentheses or brackets.

    Example:
      >>> split("zeros, random_uniform(-0.1, 0.1)")
      ['zeros', 'random_uniform(-0.1, 0.1)']
    """
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def parse_seeds(text: str) -> list[int]:
    """The seeds that a flag names: so many from 0 on, or ranges and single ones.

    Example:
      >>> parse_seeds("3"), parse_seeds("5-7"), parse_seeds("1,8-9")
      ([0, 1, 2], [5, 6, 7], [1, 8, 9])
    """
    wrong = ValueError(f"--seeds={text}: must be a number, or a list such as 3,5,8-12")
    if re.fullmatch(r"\d+", text):
        if not 1 <= int(text) <= _MOST_SEEDS:
            raise wrong
        return list(range(int(text)))
    seeds: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match:
            raise wrong
        first, last = int(match[1]), int(match[2] or match[1])
        if not 0 <= last - first < _MOST_SEEDS:
            raise wrong
        seeds.update(dict.fromkeys(range(first, last + 1)))
    return list(seeds)


def parse_shard(text: str) -> tuple[int, int]:
    """The two numbers of `--shard=i/n`."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise ValueError(f"--shard={text}: must be i/n with i from 0 to n-1, such as 0/4")
    return int(match[1]), int(match[2])


def grid() -> list[runs.Config]:
    """The configurations that the flags name, seed by seed, so that any part is a fair sample."""
    one: dict[str, Any] = {
        name: _FLAGS[name].value
        for name in (
            "output_init",
            "bias_init",
            "dtype",
            "epochs",
            "batch_size",
            "dataset",
            "data_dir",
        )
    }
    hidden = []
    for sizes in _FLAGS.hidden:
        try:
            hidden.append(tuple(int(size) for size in sizes.split(",") if size))
        except ValueError:
            raise ValueError(f"--hidden={sizes}: must be integers separated by commas") from None
    rates: list[float | None] = [None]
    if _FLAGS.learning_rate is not None:
        try:
            rates = [float(rate) for rate in _FLAGS.learning_rate.split(",")]
        except ValueError:
            raise ValueError(
                f"--learning_rate={_FLAGS.learning_rate}: must be numbers separated by commas"
            ) from None
    configs = [
        runs.Config(
            init=init,
            seed=seed,
            hidden=sizes,
            activation=activation,
            optimizer=optimizer,
            learning_rate=rate,
            **one,
        )
        for seed, sizes, activation, optimizer, rate, init in itertools.product(
            parse_seeds(_FLAGS.seeds),
            hidden,
            split(_FLAGS.activation),
            split(_FLAGS.optimizer),
            rates,
            split(_FLAGS.init),
        )
    ]
    index, number = parse_shard(_FLAGS.shard)
    mine = configs[index::number]
    if not mine:
        raise ValueError(f"--shard={_FLAGS.shard}: there are but {len(configs)} runs")
    return mine


def main() -> None:
    configs = grid()
    if not _FLAGS.workdir:
        raise ValueError("--workdir= names no directory")
    data.check(configs[0].dataset, configs[0].data_dir)
    # Each core trains runs of its own; set before JAX starts, and only if nobody else has done so.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(cores))
    run(configs, _FLAGS.workdir, sys.stdout)
    if parse_shard(_FLAGS.shard)[1] == 1:  # of a part there is nothing to be said yet
        console.say(sys.stdout, *_summary(configs, _FLAGS.workdir), "")
    console.say(
        sys.stdout,
        f"results {_FLAGS.workdir}",
        f"report  {shlex.join(['python', '-m', 'experiments.report', _FLAGS.workdir])}",
    )


if __name__ == "__main__":
    console.run_program(
        COMMAND,
        "Trains a grid of initializers, seeds and settings, many runs in one program, and compares"
        " them by paired statistics. What is there already is not trained again.",
        _FLAGS,
        _GROUPS,
        main,
    )
