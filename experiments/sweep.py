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
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from experiments.common import (
    command_line,
    console,
    data,
    description,
    flag_lists,
    flags,
    grid_runs,
    grids,
    shards,
)
from experiments.common.config import NORMALIZED, Config

# JAX, and what imports it, is imported in the functions, so that wrong flags are reported first.
COMMAND = "python -m experiments.sweep"


def run(
    configs: Sequence[Config],
    dataset: data.Dataset,
    workdir: str,
    stream: TextIO | None = None,
    label: str = "",
) -> tuple[int, int]:
    """Trains the runs of a sweep that are missing; see `experiments.common.grid_runs.train`."""
    top = functools.partial(_header, configs, dataset)
    return grid_runs.train(configs, dataset, workdir, stream, top, label)


def _header(configs: Sequence[Config], dataset: data.Dataset, missing: int) -> list[str]:
    import jax

    one = configs[0]
    values = {
        name: list(dict.fromkeys(getattr(config, name) for config in configs))
        for name in ("init", "hidden", "activation", "scheme", "optimizer", "learning_rate", "seed")
    }
    hidden = [description.sizes(sizes) or "none" for sizes in values["hidden"]]
    rates = [f"{rate:g}" for rate in values["learning_rate"]]
    name, norm = description.kind(one.model, one.residual, one.normalization)
    scheme = description.scheme(", ".join(filter(None, values["scheme"])), one.base)
    parts = "blocks" if one.model in NORMALIZED else "layers"
    lines = [
        f"data    {dataset.name}: {description.images(dataset)}",
        f"init    {', '.join(values['init'])}; {description.count(len(values['seed']), 'seed')}",
        f"model   {name}, hidden {parts} {', '.join(hidden)}{norm}{scheme};"
        f" {', '.join(values['activation'])}; {one.dtype}",
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
    "Model": ("model", "hidden", "residual", "normalization", "activation", "inputs", "dtype"),
    "Parametrization": ("scheme", "base"),
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
    scheme=flags.several("scheme"),
    optimizer=flags.several("optimizer"),
    learning_rate=flags.several("learning_rate"),
    workdir=flags.path("runs/sweep", "Directory of the results. Finished runs in it are skipped."),
)


def grid() -> grids.Grid:
    """The configurations that the flags name, each once, ordered by seed."""
    axes: dict[str, list[Any]] = {
        "seed": flag_lists.seeds(_FLAGS.seeds),
        "hidden": list(dict.fromkeys(map(flags.sizes, _FLAGS.hidden or [None]))),
        "activation": flag_lists.values(_FLAGS, "activation"),
        "scheme": [None],
        "optimizer": flag_lists.values(_FLAGS, "optimizer"),
        "learning_rate": [None],
        "init": flag_lists.initializers(_FLAGS, "init"),
    }
    if _FLAGS.scheme is not None:
        axes["scheme"] = flag_lists.values(_FLAGS, "scheme")
    if _FLAGS.learning_rate is not None:
        axes["learning_rate"] = flag_lists.values(_FLAGS, "learning_rate", float)
    found = [grids.axis(name, values) for name, values in axes.items()]
    return grids.Grid(flags.config_fields(_FLAGS), found)


def main() -> None:
    shard, whole = shards.parse(_FLAGS.shard), grid()
    configs, dataset = grid_runs.opened(shard.part(whole), sys.stdout)
    label = shard.label(whole.digest)
    _, others = run(configs, dataset, _FLAGS.workdir, sys.stdout, label)
    # Only all of the grid is compared.
    what_next = grid_runs.what_next(others, shard, "to compare")
    console.say(sys.stdout, *(what_next or [*_summary(configs, dataset, _FLAGS.workdir), ""]))
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
