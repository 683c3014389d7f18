"""Trains a grid of initializers, seeds and settings, many runs in one program, and compares them.

Question: which initializer is better, by how much, and how sure is that?
Command:  python -m experiments.sweep --init=zeros,glorot_uniform,he_normal --seeds=30
Time:     about 1.5 min on 2 cores of a CPU
Score:    after 5 epochs Glorot's and He's differ by less than one seed does from the next

Each run is the one that `experiments.mnist` trains from the same flags, on a CPU to the bit. What
is there already is not trained again, so that a sweep can be stopped and given again at any time,
and several processes can fill one directory.
"""

import contextlib
import functools
import itertools
import os
import re
import shlex
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

import numpy as np
from absl import flags

from experiments.common import choices, console, data, runs

# JAX, and what imports it, is imported in the functions: a mistake in a flag is told before.
COMMAND = "python -m experiments.sweep"

_BATCH_SECONDS = 5.0  # that a batch should take: so much is lost if a process is killed
_MOST_SEEDS = 10**6  # more are taken for a slip


def run(
    configs: Sequence[runs.Config],
    dataset: data.Dataset,
    workdir: str,
    stream: TextIO | None = None,
) -> tuple[int, int]:
    """Trains what is not there yet, and adds it to a directory.

    Args:
      configs: what to train; at least one.
      dataset: on which.
      workdir: the directory, see `experiments.common.results`; absent, or with any runs in it.
      stream: where to show the progress; None shows none.

    Returns:
      How many runs were trained, and how many are in the hands of other processes.

    Raises:
      ValueError: an initializer does not fit a parameter, a network does not fit into the memory,
        or the directory cannot be written to.
      KeyboardInterrupt: Ctrl-C was pressed; all that was trained is in the directory.
    """
    from experiments.common import batches, results

    wanted = {runs.identity(config, dataset.digest): config for config in configs}
    trained = 0
    stored = results.Results(workdir)
    missing = wanted.keys() - stored.finished()
    batches.check(wanted, dataset)
    with stored if missing else contextlib.nullcontext():  # there may be nothing to write
        console.say(stream, *_header(wanted, dataset, len(missing)))
        with (
            console.interrupt_later(stream) as interrupted,
            console.runs_progress(len(wanted) - len(missing), len(wanted), stream) as show,
        ):
            for group in batches.groups({key: wanted[key] for key in wanted if key in missing}):
                trainer = batches.trainer(group, dataset)
                size = trainer.least
                while batch := stored.claim(group, size):
                    started = time.perf_counter()
                    stored.add(trainer.train({key: group[key] for key in batch}))
                    # From here on nothing is lost, whatever becomes of those who read this.
                    trained += len(batch)
                    missing = wanted.keys() - stored.finished()
                    if interrupted():
                        with contextlib.suppress(OSError):
                            kept = len(stored.finished())
                            console.say(stream, f"kept    {kept} runs in {workdir}")
                        raise KeyboardInterrupt
                    show(len(wanted) - len(missing))
                    group = {key: group[key] for key in group if key in missing}
                    pace = _BATCH_SECONDS / (time.perf_counter() - started)
                    # As many for each device, so that none waits for another.
                    most = min(trainer.most, 2 * size, round(pace * size))
                    size = trainer.least * max(1, most // trainer.least)
        missing = wanted.keys() - stored.finished()
    return trained, len(missing)


def _header(wanted: dict[str, runs.Config], dataset: data.Dataset, missing: int) -> list[str]:
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


def _summary(configs: Sequence[runs.Config], dataset: data.Dataset, workdir: str) -> list[str]:
    """What is printed at the end: the comparison of what was asked for."""
    from experiments.common import comparison, results, verdicts

    wanted = {runs.identity(config, dataset.digest) for config in configs}
    found = comparison.settings(results.read(workdir, wanted, steps=False))
    return [line for setting in found for line in ["", *verdicts.lines(setting)]]


_FLAGS = flags.FlagValues()  # the program's own, so that programs can be imported side by side
_string = functools.partial(flags.DEFINE_string, flag_values=_FLAGS)
_integer = functools.partial(flags.DEFINE_integer, flag_values=_FLAGS)

_string(
    "init",
    "zeros, random_uniform, glorot_uniform, glorot_normal, he_uniform, he_normal, orthogonal",
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
    "Sizes of the hidden layers, separated by commas; empty for logistic regression. Given several"
    " times, each is one network.",
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
    "i/n trains one of n parts of the grid, i from 0 to n-1. A fixed shuffle deals the runs out, so"
    " that each part is a fair sample. For n processes or machines that fill one directory.",
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
    if re.fullmatch(r"\d+", text.strip()):
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
        if last >= 2**32:
            raise ValueError(f"--seeds={text}: a seed must be below 2**32")
        seeds.update(dict.fromkeys(range(first, last + 1)))
    return list(seeds)


def parse_shard(text: str) -> tuple[int, int]:
    """The two numbers of `--shard=i/n`."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise ValueError(f"--shard={text}: must be i/n with i from 0 to n-1, such as 0/4")
    return int(match[1]), int(match[2])


def part(configs: Sequence[runs.Config], index: int, number: int) -> list[runs.Config]:
    """One of so many parts of a grid, which are disjoint and make up the whole.

    They are dealt out by a shuffle: every n-th run of a grid may well be that of one initializer.
    """
    # The one generator whose numbers NumPy does not change, so that machines agree on the parts.
    order = np.random.RandomState(0).permutation(len(configs))
    return [configs[place] for place in sorted(order[index::number])]


def _items(flag: str, text: str) -> list[str]:
    """What the list that is a flag's value names, each once."""
    items = split(text)
    if "" in items:
        raise ValueError(f"--{flag}={text}: must be names separated by commas, none of them empty")
    return list(dict.fromkeys(items))


def _hidden(texts: Iterable[str]) -> list[tuple[int, ...]]:
    """The networks that `--hidden` names, each once."""
    networks: dict[tuple[int, ...], None] = {}
    for text in texts:
        try:
            networks[tuple(map(int, text.split(","))) if text else ()] = None
        except ValueError:
            raise ValueError(f"--hidden={text}: must be integers separated by commas") from None
    return list(networks)


def _rates(text: str | None) -> list[float | None]:
    """The learning rates that a flag names, each once; None stands for the optimizer's own."""
    if text is None:
        return [None]
    try:
        return list(dict.fromkeys(map(float, text.split(","))))
    except ValueError:
        raise ValueError(f"--learning_rate={text}: must be numbers separated by commas") from None


def grid() -> list[runs.Config]:
    """The configurations that the flags name, each once, or the part of them that `--shard` names.

    They come seed by seed: what a sweep has trained before it is stopped is a fair sample.
    """
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
    # Names for one initializer are one; that of none is told by `Config`, with its flag.
    inits = dict.fromkeys(
        runs.canonical(runs.Config(init=init).init) for init in _items("init", _FLAGS.init)
    )
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
            _hidden(_FLAGS.hidden),
            _items("activation", _FLAGS.activation),
            _items("optimizer", _FLAGS.optimizer),
            _rates(_FLAGS.learning_rate),
            inits,
        )
    ]
    mine = part(configs, *parse_shard(_FLAGS.shard))
    if not mine:
        raise ValueError(f"--shard={_FLAGS.shard}: there are but {len(configs)} runs")
    return mine


def main() -> None:
    configs = grid()
    workdir = _FLAGS.workdir
    if not workdir:
        raise ValueError("--workdir= names no directory")
    data.check(configs[0].dataset, configs[0].data_dir)
    # Each core trains runs of its own; set before JAX starts, and only if nobody else has done so.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(cores))
    dataset = data.load(configs[0].dataset, configs[0].data_dir)
    _, others = run(configs, dataset, workdir, sys.stdout)
    if others:
        left = "1 run is" if others == 1 else f"{others} runs are"
        console.say(
            sys.stdout,
            f"{left} in the hands of other processes: give the command again to compare",
        )
    elif parse_shard(_FLAGS.shard)[1] == 1:  # of a part there is nothing to be said yet
        console.say(sys.stdout, *_summary(configs, dataset, workdir), "")
    console.say(
        sys.stdout,
        f"results {workdir}",
        f"report  {shlex.join(['python', '-m', 'experiments.report', workdir])}",
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
