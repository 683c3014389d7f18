"""Trains a grid of initializers, seeds and settings in one program, and compares them.

Question: which initializer is better, by how much, and how sure is that?
Command:  python -m experiments.sweep --init=zeros,glorot_uniform,he_normal --seeds=30
Time:     about 1.5 min on 2 CPU cores
Score:    after 5 epochs Glorot's and He's initializers differ by less than two seeds of either do

Each run is the one that `experiments.mnist` trains from the same flags; on a CPU it is bit-for-bit
equal. Finished runs are skipped, so a sweep can be stopped and restarted at any time, and several
processes can fill one directory.
"""

import functools
import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import numpy as np

from experiments.common import (
    command_line,
    console,
    data,
    description,
    flags,
    grid_runs,
    memory,
    progress,
)
from experiments.common.config import Config, UsageError, canonical

# JAX, and what imports it, is imported in the functions, so that wrong flags are reported first.
COMMAND = "python -m experiments.sweep"

_MOST_SEEDS = 100_000  # more are taken for a typing error


def run(
    configs: Sequence[Config],
    dataset: data.Dataset,
    workdir: str,
    stream: TextIO | None = None,
) -> tuple[int, int]:
    """Trains the runs of a sweep that are missing; see `experiments.common.grid_runs.train`."""
    return grid_runs.train(
        configs, dataset, workdir, stream, functools.partial(_header, configs, dataset)
    )


def _header(configs: Sequence[Config], dataset: data.Dataset, missing: int) -> list[str]:
    import jax

    one = configs[0]
    values = {
        name: list(dict.fromkeys(getattr(config, name) for config in configs))
        for name in ("init", "hidden", "activation", "optimizer", "learning_rate", "seed")
    }
    hidden = [description.sizes(sizes) or "none" for sizes in values["hidden"]]
    rates = [f"{rate:g}" for rate in values["learning_rate"]]
    lines = [
        f"data    {dataset.name}: {description.images(dataset)}",
        f"init    {', '.join(values['init'])}; {description.count(len(values['seed']), 'seed')}",
        f"model   MLP, hidden layers {', '.join(hidden)}; {', '.join(values['activation'])};"
        f" {one.dtype}",
        f"train   {', '.join(values['optimizer'])}; learning rate {', '.join(rates)};"
        f" batch {one.batch_size}, {description.duration(one.epochs, one.steps)}",
        f"runs    {len(configs)}, of which {len(configs) - missing} are finished;"
        f" on {jax.local_device_count()} x {jax.devices()[0].device_kind}",
    ]
    return [*lines, *description.batch_note(one, dataset)]


def _summary(configs: Sequence[Config], dataset: data.Dataset, workdir: str) -> list[str]:
    """The comparison of the runs that the flags name, printed at the end."""
    from experiments.common import comparison, sweep_directory, verdicts

    wanted = {config.identity(dataset.digest) for config in configs}
    found = comparison.settings(sweep_directory.read(workdir, wanted, steps=False))
    return [line for setting in found for line in ["", *verdicts.lines(setting)]]


_GROUPS = {
    "Initialization": ("init", "output_init", "bias_init", "seeds"),
    "Model": ("model", "hidden", "activation", "inputs", "dtype"),
    "Training": ("optimizer", "learning_rate", "epochs", "steps", "batch_size"),
    "Data": ("dataset", "data_dir"),
    "Output": ("workdir", "shard", "help"),
}
_FLAGS = flags.define(
    _GROUPS,
    init=flags.several(
        "init",
        "zeros, random_uniform, glorot_uniform, glorot_normal, he_uniform, he_normal, orthogonal",
    ),
    seeds=flags.string(
        "30",
        "Number of seeds, counting from 0, or a list such as 5-9 or 3,5,8-12. Every initializer is"
        " trained with each seed. Detecting a difference of 0.1 percentage points takes about 30.",
    ),
    hidden=flags.repeated("hidden"),
    activation=flags.several("activation"),
    optimizer=flags.several("optimizer"),
    learning_rate=flags.several("learning_rate"),
    shard=flags.string(
        "0/1",
        "i/n trains one of n parts of the grid, with i from 0 to n-1, so that n processes or"
        " machines can share the work. A fixed shuffle makes every part a fair sample.",
    ),
    workdir=flags.path("runs/sweep", "Directory of the results. Finished runs in it are skipped."),
)


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
    """The seeds that `--seeds` names: a number of them from 0 on, or single seeds and ranges.

    Example:
      >>> parse_seeds("3"), parse_seeds("5-7"), parse_seeds("1,8-9")
      ([0, 1, 2], [5, 6, 7], [1, 8, 9])
    """
    wrong = UsageError(f"--seeds={text}: must be a number or a list such as 3,5,8-12")
    too_many = UsageError(f"--seeds={text}: at most {_MOST_SEEDS:,} seeds are possible")
    if re.fullmatch(flags.DIGITS, text.strip()):
        if int(text) < 1:
            raise UsageError(f"--seeds={text}: must be at least 1")
        if int(text) > _MOST_SEEDS:
            raise too_many
        return list(range(int(text)))
    seeds: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(rf"\s*({flags.DIGITS})(?:-({flags.DIGITS}))?\s*", part)
        if not match:
            raise wrong
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise wrong
        if last >= 2**32:
            raise UsageError(f"--seeds={text}: a seed must be below 2**32")
        if last - first + len(seeds) >= _MOST_SEEDS:
            raise too_many
        seeds.update(dict.fromkeys(range(first, last + 1)))
    return list(seeds)


def parse_shard(text: str) -> tuple[int, int]:
    """The two numbers of `--shard=i/n`."""
    match = re.fullmatch(rf"({flags.DIGITS})/({flags.DIGITS})", text)
    if not match or int(match[1]) >= int(match[2]):
        raise UsageError(f"--shard={text}: must be i/n with i from 0 to n-1, such as 0/4")
    return int(match[1]), int(match[2])


def part(configs: Sequence[Config], index: int, number: int) -> list[Config]:
    """One of a number of disjoint parts that make up the grid.

    Runs are shuffled first, since every n-th run of the grid may belong to the same initializer.
    """
    # The one generator whose stream NumPy keeps across versions, so that machines agree.
    order = np.random.RandomState(0).permutation(len(configs))
    return [configs[place] for place in sorted(order[index::number])]


def _values(flag: str, convert: Callable[[str], Any] = str) -> list[Any]:
    """The values that a flag lists, separated by commas, each once."""
    text = str(_FLAGS[flag].value)
    kind = "names" if convert is str else "numbers"
    wrong = UsageError(f"--{flag}={text}: must be {kind} separated by commas")
    parts = split(text)
    if "" in parts:
        raise wrong
    try:
        return list(dict.fromkeys(map(convert, parts)))
    except ValueError:
        raise wrong from None


def grid() -> list[Config]:
    """The configurations that the flags name, each once, or the part of them that `--shard` names.

    They are ordered by seed, so that the runs of a sweep that was stopped are a fair sample.
    """
    fields = flags.config_fields(_FLAGS)
    # Different names of one initializer are one run. `Config` reports an unknown name.
    inits = dict.fromkeys(canonical(Config(init=init).init) for init in _values("init"))
    axes: dict[str, Any] = {
        "seed": parse_seeds(_FLAGS.seeds),
        "hidden": dict.fromkeys(map(flags.sizes, _FLAGS.hidden)),
        "activation": _values("activation"),
        "optimizer": _values("optimizer"),
        "learning_rate": [None],
        "init": inits,
    }
    if _FLAGS.learning_rate is not None:
        axes["learning_rate"] = _values("learning_rate", float)
    configs = [
        Config(**fields | dict(zip(axes, values, strict=True)))
        for values in itertools.product(*axes.values())
    ]
    mine = part(configs, *parse_shard(_FLAGS.shard))
    if not mine:
        runs = description.count(len(configs), "run")
        raise UsageError(f"--shard={_FLAGS.shard}: the grid has only {runs}")
    return mine


def main() -> None:
    configs = grid()
    data.check(configs[0].dataset, configs[0].data_dir)
    for config in {config.hidden: config for config in configs}.values():
        memory.check(config)
    console.use_all_cores()
    with progress.stage(sys.stdout, "start   loading the data") as watch:
        dataset = data.load(configs[0].dataset, configs[0].data_dir, watch)
    _, others = run(configs, dataset, _FLAGS.workdir, sys.stdout)
    if others:
        left = "1 run is" if others == 1 else f"{others} runs are"
        console.say(
            sys.stdout,
            f"{left} running in other processes; rerun this command to compare",
        )
    elif parse_shard(_FLAGS.shard)[1] == 1:  # one part alone is not compared
        console.say(sys.stdout, *_summary(configs, dataset, _FLAGS.workdir), "")
    console.say(
        sys.stdout,
        f"results {_FLAGS.workdir}",
        f"report  {description.quoted(['python', '-m', 'experiments.report', _FLAGS.workdir])}",
        f"        writes {os.path.join(_FLAGS.workdir, 'report.html')}",
    )


_PROGRAM = command_line.Program(
    COMMAND,
    "Trains a grid of initializers, seeds and settings in one program, and compares them with"
    " paired statistics. Finished runs are skipped.",
    _FLAGS,
    _GROUPS,
    examples=(
        "--init=zeros,glorot_uniform,he_normal --seeds=30",
        "--hidden=64 --hidden=64,64 --seeds=5-9",
        "--learning_rate=0.001,0.01 --workdir=runs/rates",
    ),
)


if __name__ == "__main__":
    console.run_program(_PROGRAM, main)
