"""Trains networks of many depths from many initializations, and finds out which depths train.

Question: how deep can a plain network be and still train, and does theory predict it?
Command:  python -m experiments.depth
Time:     about 7 min on 2 CPU cores
Score:    tanh trains up to 8.4 xi_c in the ordered phase and 5.8 xi_c in the chaotic one

The runs are those of a sweep, in the same kind of directory: finished ones are skipped. The depths
that train are then compared with xi_c, the depth over which theory says that inputs become alike.
"""

import itertools
import math
import pathlib
from collections.abc import Callable

from experiments.common import (
    command_line,
    console,
    data,
    description,
    files,
    flag_lists,
    flags,
    grid_runs,
    grids,
    shards,
)
from experiments.common.config import MOST_LAYERS, Config, UsageError

# JAX, and what imports it, is imported in the functions, so that wrong flags are reported first.
COMMAND = "python -m experiments.depth"

_WEIGHT_VARIANCES = "1,1.1,1.25,1.4,1.55,1.76,2,2.3,2.6,3,3.5,4"
_BIAS_VARIANCE = "0.05"

_GROUPS = {
    "Initialization": ("weight_variance", "bias_variance", "init", "output_init", "seeds"),
    "Model": (
        *("depth", "width", "activation", "model", "residual", "normalization"),
        *("inputs", "dtype"),
    ),
    "Training": ("optimizer", "learning_rate", "steps", "batch_size"),
    "Data": ("dataset", "data_dir"),
    "Output": ("workdir", "shard", "help"),
}
_FLAGS = flags.define(
    _GROUPS,
    weight_variance=flags.string(
        None,
        "Variances of the weights times fan_in, separated by commas. The kernels are normal, and"
        f" three or more variances make a trainability diagram (default: {_WEIGHT_VARIANCES},"
        " unless --init is given).",
    ),
    bias_variance=flags.string(
        None,
        "Variances of the biases, separated by commas (default:"
        f" {_BIAS_VARIANCE}, or 0 with --init).",
    ),
    init=flags.string(
        None,
        "Instead of --weight_variance: initializers for the kernels of the hidden layers, separated"
        " by commas, to compare at each depth.",
    ),
    output_init=flags.string(
        "lecun_normal",
        "Initializer for the kernel of the output layer. It is the same for all, so that networks"
        " differ only in their hidden layers.",
    ),
    seeds=flags.string("3", "Number of seeds, counting from 0, or a list such as 5-9 or 3,5,8-12."),
    depth=flags.string("6,10,14,20,28,40,56,80", "Numbers of hidden layers, separated by commas."),
    width=flags.string("128", "Sizes of the hidden layers, separated by commas."),
    activation=flags.several("activation", "tanh"),
    inputs=flags.shared("inputs", "standardized"),
    optimizer=flags.shared("optimizer", "momentum"),
    learning_rate=flags.string(
        "0.03/depth,0.1/depth,0.3/depth",
        "Learning rates, separated by commas: numbers, or NUMBER/depth. The best one is chosen for"
        " each initializer and network by training loss.",
    ),
    steps=flags.integer(300, "Number of training steps."),
    batch_size=flags.shared("batch_size", 64),
    workdir=flags.path("runs/depth", "Directory of the results. Finished runs in it are skipped."),
)


def grid() -> grids.Grid:
    """The configurations that the flags name, each once, ordered by seed."""
    if _FLAGS.init is not None and _FLAGS.weight_variance is not None:
        raise UsageError("give either --init or --weight_variance, not both")
    if _FLAGS.init is None and _FLAGS.weight_variance is None:
        _FLAGS.weight_variance = _WEIGHT_VARIANCES
    if _FLAGS.bias_variance is None:
        _FLAGS.bias_variance = _BIAS_VARIANCE if _FLAGS.init is None else "0"
    if _FLAGS.init is None:
        inits = [_kernels(variance) for variance in _variances("weight_variance")]
    else:
        inits = flag_lists.initializers(_FLAGS, "init")
    rates = [_rate(text) for text in flag_lists.values(_FLAGS, "learning_rate")]
    # One axis, since at some depth NUMBER/depth may be a rate that is named, too.
    networks = dict.fromkeys(
        ((width,) * min(depth, MOST_LAYERS + 1), rate(depth))
        for depth, width, rate in itertools.product(_sizes("depth"), _sizes("width"), rates)
    )
    biases = dict.fromkeys(map(_biases, _variances("bias_variance")))
    axes = [
        grids.axis("seed", flag_lists.seeds(_FLAGS.seeds)),
        [{"hidden": hidden, "learning_rate": rate} for hidden, rate in networks],
        grids.axis("activation", flag_lists.values(_FLAGS, "activation")),
        grids.axis("bias_init", list(biases)),
        grids.axis("init", inits),
    ]
    return grids.Grid(flags.config_fields(_FLAGS), axes)


def _kernels(variance: float) -> str:
    return f'variance_scaling({variance!r}, "fan_in", "normal")'


def _biases(variance: float) -> str:
    return f"random_normal(stddev={variance**0.5:.6g})" if variance else "zeros"


def _variances(flag: str) -> list[float]:
    found = flag_lists.values(_FLAGS, flag, float)
    if wrong := [value for value in found if not 0 <= value < math.inf]:
        raise UsageError(f"--{flag}={wrong[0]:g}: must be a finite number of at least 0")
    return found


def _sizes(flag: str) -> list[int]:
    found = flag_lists.values(_FLAGS, flag, int)
    if wrong := [value for value in found if value < 1]:
        raise UsageError(f"--{flag}={wrong[0]}: must be at least 1")
    return found


def _rate(text: str) -> Callable[[int], float]:
    """The learning rate by depth that is written as a number, or as NUMBER/depth."""
    number = text.removesuffix("/depth")
    try:
        rate = float(number)
    except ValueError:
        raise UsageError(
            f"--learning_rate={text}: must be numbers, or NUMBER/depth such as 0.1/depth"
        ) from None
    if number == text:
        return lambda depth: rate
    # Six digits, so that a rate that is printed can be given again.
    return lambda depth: float(f"{rate / depth:.6g}")


def _header(configs: list[Config], dataset: data.Dataset, missing: int) -> list[str]:
    import jax

    one = configs[0]
    kernels = _FLAGS.init or f"weight variance {_FLAGS.weight_variance}"
    name, norm = description.kind(one.model, one.residual, one.normalization)
    seeds = description.count(len({config.seed for config in configs}), "seed")
    return [
        f"data    {dataset.name}: {description.images(dataset)}, {one.inputs}",
        f"init    {kernels}; bias variance {_FLAGS.bias_variance}; output {one.output_init};"
        f" {seeds}",
        f"model   {name}{norm}, depth {_FLAGS.depth}; width {_FLAGS.width}; {_FLAGS.activation};"
        f" {one.dtype}",
        f"train   {one.optimizer}; learning rate {_FLAGS.learning_rate}; batch {one.batch_size},"
        f" {description.duration(one.epochs, one.steps)}",
        f"runs    {len(configs)}, of which {len(configs) - missing} are finished;"
        f" on {jax.local_device_count()} x {jax.devices()[0].device_kind}",
        *description.batch_note(one, dataset),
    ]


def analyze(configs: list[Config], dataset: data.Dataset, workdir: str) -> list[str]:
    """Writes what the runs show to a directory that has them all, and returns it as text.

    The files are `depth.json`, `cells.csv`, a `diagram-*.png` for each diagram, and an
    `initializers-*.png` for each activation and width of other initializers.
    """
    from experiments.common import (
        depth_results,
        initializers_picture,
        published,
        sweep_directory,
        tables,
        trainability,
        trainability_picture,
    )

    wanted = {config.identity(dataset.digest) for config in configs}
    grids = trainability.grids(*sweep_directory.scan(workdir, wanted))
    directory = pathlib.Path(workdir)
    cells = [row for one in grids for row in depth_results.cell_rows(one, one.cells)]
    files.write(directory / "cells.csv", tables.to_csv(cells))
    files.write_json(directory / "depth.json", depth_results.record(grids))
    for one in grids:
        for diagram in one.diagrams:
            path = directory / f"{diagram.name}.png"
            trainability_picture.draw(path, diagram, published.like(diagram))
        if one.others:
            initializers_picture.draw(directory / f"{one.name}.png", one)
    return [line for one in grids for line in depth_results.lines(one)]


def main() -> None:
    shard = shards.parse(_FLAGS.shard)
    grid_runs.analyzed(grid(), shard, _FLAGS.workdir, _header, analyze, "boundaries")


_PROGRAM = command_line.Program(
    COMMAND,
    "Trains networks of many depths from many initializations, finds out which depths train, and"
    " compares that with theory. Finished runs are skipped.",
    _FLAGS,
    _GROUPS,
    examples=(
        "",
        "--weight_variance=1,2,3,4 --depth=10,20,40,80",
        "--init=he_normal,orthogonal --depth=3,30",
    ),
)


if __name__ == "__main__":
    console.run_program(_PROGRAM, main)
