"""Trains a network at several sizes and learning rates: does the best rate of the small one hold?

Question: can the learning rate be searched at a small width or depth, and used at a large one?
Command:  python -m experiments.transfer
Time:     about 1 min on 2 CPU cores
Score:    the best rate moves as width^-0.44 (-0.53 to -0.34) in standard, and by less than a
          factor of 2 in muP, as width^0.22 (0.13 to 0.32)

The runs are those of a sweep, in the same kind of directory: finished ones are skipped.
"""

import itertools
import pathlib
from typing import Any

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
from experiments.common.config import MOST_LAYERS, NORMALIZED, Config, UsageError

# JAX, and what imports it, is imported in the functions, so that wrong flags are reported first.
COMMAND = "python -m experiments.transfer"

_RATES = {"adam": "0.000125:0.032", "momentum": "0.0005:0.128", "sgd": "0.004:1"}
_MOST_RATES = 100  # more are taken for a typing error

_GROUPS = {
    "Initialization": ("init", "output_init", "bias_init", "seeds"),
    "Model": (
        *("width", "depth", "activation", "model", "residual", "normalization"),
        *("inputs", "dtype"),
    ),
    "Parametrization": ("scheme",),
    "Training": ("optimizer", "learning_rate", "steps", "batch_size"),
    "Data": ("dataset", "data_dir"),
    "Output": ("workdir", "shard", "help"),
}
_FLAGS = flags.define(
    _GROUPS,
    init=flags.shared("init", "lecun_normal"),
    output_init=flags.shared("output_init", "lecun_normal"),
    seeds=flags.string("4", "Number of seeds, counting from 0, or a list such as 5-9 or 3,5,8-12."),
    width=flags.string("32,64,128,256", "Sizes of the hidden layers, separated by commas."),
    depth=flags.string(
        "3",
        "Numbers of hidden layers or blocks, separated by commas. Either several widths or several"
        " depths; the smallest is the base network.",
    ),
    inputs=flags.shared("inputs", "standardized"),
    scheme=flags.string(
        "standard,mup",
        "Parametrizations to compare, separated by commas; see initjax.parametrize. At the base"
        " network's size, all are the same.",
    ),
    learning_rate=flags.string(
        None,
        "Learning rates of the base network: LOW:HIGH, in factors of 2; or a list separated by"
        f" commas (default: {', '.join(f'{rates} for {name}' for name, rates in _RATES.items())}).",
    ),
    steps=flags.integer(300, "Number of training steps."),
    batch_size=flags.shared("batch_size", 32),
    workdir=flags.path(
        "runs/transfer", "Directory of the results. Finished runs in it are skipped."
    ),
)


def grid() -> grids.Grid:
    """The configurations that the flags name, each once, ordered by seed."""
    widths, depths = _sizes("width"), _sizes("depth")
    if (len(widths) > 1) == (len(depths) > 1):
        raise UsageError(
            f"--width={_FLAGS.width} --depth={_FLAGS.depth}: give several widths and one depth, or"
            " one width and several depths"
        )
    if len(depths) > 1 and not (_FLAGS.residual or _FLAGS.model in NORMALIZED):
        raise UsageError(
            f"--depth={_FLAGS.depth}: --model={_FLAGS.model} can't grow in depth, only networks"
            f" with residual blocks can: --residual, --model={' or --model='.join(NORMALIZED)}"
        )
    fields: dict[str, Any] = flags.config_fields(_FLAGS)
    fields["base"] = (widths[0],) * depths[0]
    sizes = [(width,) * depth for width, depth in itertools.product(widths, depths)]
    axes = [
        grids.axis("seed", flag_lists.seeds(_FLAGS.seeds)),
        grids.axis("scheme", flag_lists.values(_FLAGS, "scheme")),
        grids.axis("hidden", sizes),
        grids.axis("learning_rate", list(dict.fromkeys(_rates()))),
    ]
    return grids.Grid(fields, axes)


def _sizes(flag: str) -> list[int]:
    found = sorted(flag_lists.values(_FLAGS, flag, int))
    if wrong := [value for value in found if not 1 <= value]:
        raise UsageError(f"--{flag}={wrong[0]}: must be at least 1")
    return [min(value, MOST_LAYERS + 1) for value in found] if flag == "depth" else found


def _rates() -> list[float]:
    """The learning rates that the flag names, ascending."""
    if _FLAGS.learning_rate is None:
        if _FLAGS.optimizer not in _RATES:
            Config(optimizer=_FLAGS.optimizer)  # which says what is valid
        _FLAGS.learning_rate = _RATES[_FLAGS.optimizer]
    text = str(_FLAGS.learning_rate)
    low, colon, high = text.partition(":")
    if not colon:
        return sorted(flag_lists.values(_FLAGS, "learning_rate", float))
    wrong = UsageError(
        f"--learning_rate={text}: must be numbers separated by commas, or LOW:HIGH such as"
        f" {_RATES['adam']}"
    )
    try:
        first, last = float(low), float(high)
    except ValueError:
        raise wrong from None
    found = [first * 2**power for power in range(_MOST_RATES) if first * 2**power <= last * 1.001]
    if not 0 < first <= last or len(found) == _MOST_RATES:
        raise wrong
    return [float(f"{rate:.6g}") for rate in found]  # so that a rate that is printed can be given


def _header(configs: list[Config], dataset: data.Dataset, missing: int) -> list[str]:
    import jax

    one = configs[0]
    rates = sorted({config.learning_rate for config in configs if config.learning_rate})
    name, norm = description.kind(one.model, one.residual, one.normalization)
    seeds = description.count(len({config.seed for config in configs}), "seed")
    tried = f"{rates[0]:g} to {rates[-1]:g} ({description.count(len(rates), 'rate')})"
    return [
        f"data    {dataset.name}: {description.images(dataset)}, {one.inputs}",
        f"init    {one.init}; output {one.output_init}; bias {one.bias_init}; {seeds}",
        f"model   {name}{norm}, width {_FLAGS.width}, depth {_FLAGS.depth}; {one.activation};"
        f" {one.dtype}",
        f"scheme  {_FLAGS.scheme}; base {description.sizes(one.base or ())}",
        f"train   {one.optimizer}; learning rate {tried}; batch {one.batch_size},"
        f" {description.duration(one.epochs, one.steps)}",
        f"runs    {len(configs)}, of which {len(configs) - missing} are finished;"
        f" on {jax.local_device_count()} x {jax.devices()[0].device_kind}",
        *description.batch_note(one, dataset),
    ]


def analyze(configs: list[Config], dataset: data.Dataset, workdir: str) -> list[str]:
    """Writes what the runs show to a directory that has them all, and returns it as text.

    The files are `transfer.json`, `best_rates.csv` and `transfer.png`.
    """
    from experiments.common import (
        best_rates,
        sweep_directory,
        tables,
        transfer_picture,
        transfer_verdicts,
    )

    wanted = {config.identity(dataset.digest) for config in configs}
    family = best_rates.family(*sweep_directory.scan(workdir, wanted))
    directory = pathlib.Path(workdir)
    table = tables.to_csv(transfer_verdicts.table(family))
    files.write(directory / "best_rates.csv", table)
    files.write_json(directory / "transfer.json", transfer_verdicts.record(family))
    transfer_picture.draw(directory / "transfer.png", family)
    return transfer_verdicts.lines(family)


def main() -> None:
    shard = shards.parse(_FLAGS.shard)
    grid_runs.analyzed(grid(), shard, _FLAGS.workdir, _header, analyze, "the best rates")


_PROGRAM = command_line.Program(
    COMMAND,
    "Trains a network at several widths or depths and many learning rates, and finds out whether"
    " the best rate of the smallest is also the best of the largest. Finished runs are skipped.",
    _FLAGS,
    _GROUPS,
    examples=(
        "",
        "--width=64 --depth=2,4,8,16 --residual --scheme=standard,depth_mup,completep",
        "--model=transformer --depth=1 --width=32,64 --learning_rate=0.001,0.002,0.004",
    ),
)


if __name__ == "__main__":
    console.run_program(_PROGRAM, main)
