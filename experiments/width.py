"""Checks whether a network trains alike at every width, for several parametrizations.

Question: does the learning rate of a narrow network fit a wide one, and if not, which layer is why?
Command:  python -m experiments.width
Time:     about 20 s on 2 CPU cores
Score:    mup is stable from width 64 to 512; standard isn't, by its hidden and output layers

The narrowest network is the base network: the flags name its initializers and its learning rate.
Each wider one is drawn and trained as the parametrization says, for a few steps, and measured.
"""

import dataclasses
import pathlib
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

import initjax
from experiments.common import (
    command_line,
    console,
    data,
    description,
    files,
    flag_lists,
    flags,
    memory,
    progress,
    run_audit,
    run_directory,
)
from experiments.common.config import (
    HEADS,
    MODELS,
    MOST_LAYERS,
    Config,
    UsageError,
    model_defaults,
)

# JAX, and what imports it, is imported in the functions, so that wrong flags are reported first.
if TYPE_CHECKING:
    import jax

COMMAND = "python -m experiments.width"

_NAMED = 3  # layers in a verdict; more are counted
_MOST_SEEDS = 1000  # more are taken for a typing error

Networks = dict[str, dict[int, Config]]
"""Configurations by scheme and width."""


def run(
    networks: Networks, seeds: int, workdir: str | None = None, stream: TextIO | None = None
) -> "tuple[pathlib.Path, dict[str, initjax.CoordinateCheck]]":
    """Checks networks of several widths, and writes what was found to a directory.

        config.json          the configuration, versions, device and data
        coordinates.json     by scheme, the verdict and all numbers
        coordinates.png      a plot of them, a row for each scheme

    Args:
      networks: at least one scheme, and two widths of each; they differ in nothing else.
      seeds: how many draws of weights and images.
      workdir: the directory, empty or absent; None makes a new one under `runs`.
      stream: where to print the findings; None prints nothing.

    Returns:
      The directory, and the checks by scheme.

    Raises:
      UsageError: the data can't be loaded, an initializer does not fit a parameter, or workdir is
        not empty.
      KeyboardInterrupt: Ctrl-C was pressed.
    """
    started = time.perf_counter()
    widest = [of_width[max(of_width)] for of_width in networks.values()]
    one = widest[0]
    with progress.stage(stream, "start   loading the data and JAX") as watch:
        dataset = data.load(one.dataset, one.data_dir, watch)
        with console.uninterrupted():  # which would abort while C++ is loaded
            from experiments.common import starting
        starting.start_devices()
    name = f"width-{dataset.name}-{one.model}"
    with (
        run_directory.created(workdir, name) as directory,
        starting.enough_memory(one, dataset),
        starting.precision(one),
    ):
        for config in widest:
            starting.check(config, dataset)
        console.say(stream, *_header(networks, seeds, dataset))
        found = {}
        for scheme, of_width in networks.items():
            plan = starting.model(of_width[max(of_width)], dataset).plan
            assert plan is not None
            console.say(stream, "", *description.entry("scheme", f"{scheme}: {plan().source}"))
            with progress.stage(stream, "check   training at every width"):
                found[scheme] = check(of_width, seeds, dataset)
            console.say(stream, *str(found[scheme]).splitlines())
        files.write_json(directory / "config.json", _record(networks, seeds, dataset))
        results = {scheme: result.to_dict() for scheme, result in found.items()}
        files.write_json(directory / "coordinates.json", {"schemes": results})
        with progress.stage(stream, "plot    drawing"):
            from experiments.common import width_picture

            about = f"{_network(one)}; {one.optimizer} {one.learning_rate:g} on {dataset.name}"
            width_picture.draw(directory / "coordinates.png", found, about)
    console.say(
        stream,
        "",
        *(line for scheme, result in found.items() for line in _verdict(scheme, result)),
        f"time    {time.perf_counter() - started:.1f} s",
        f"results {directory}",
        f"repeat  {command(networks, seeds)}",
    )
    return directory, found


def check(
    of_width: dict[int, Config], seeds: int, dataset: data.Dataset
) -> "initjax.CoordinateCheck":
    """Checks the networks of one scheme.

    Args:
      of_width: their configurations by width, the narrowest first.
      seeds: how many draws of weights and images.
      dataset: the images.
    """
    from experiments.common import starting, training

    models = {width: starting.model(config, dataset) for width, config in of_width.items()}

    def make(width: int, key: "jax.Array") -> tuple[Any, Any, tuple[Any, ...]]:
        config, model = of_width[width], models[width]
        # As a run with this root key does.
        params = initjax.initialize(
            model.shapes, initjax.named_key(key, "weights"), starting.rules(config, model)
        )
        batch = run_audit.first_batch(config, key, dataset)
        return run_audit.mean_loss(model), params, batch

    def optimizer(width: int) -> Any:
        config = of_width[width]
        assert config.learning_rate is not None
        chosen = starting.optimizer(config, models[width])
        return training.transform(chosen, config.learning_rate)

    steps = next(iter(of_width.values())).steps
    assert steps is not None
    return initjax.coordinate_check(
        make, list(of_width), optimizer, steps=steps, seeds=seeds, key=starting.root_key(0)
    )


def command(networks: Networks, seeds: int) -> str:
    """The command that repeats a check."""
    of_width = next(iter(networks.values()))
    base = next(iter(of_width.values()))
    others = ("--seed=", "--hidden=", "--scheme=", "--base=")
    given = [flag for flag in base.arguments() if not flag.startswith(others)]
    if len(base.hidden) != len(model_defaults(base.model)["hidden"]):
        given.append(f"--depth={len(base.hidden)}")
    given += [f"--widths={','.join(map(str, of_width))}", f"--scheme={','.join(networks)}"]
    return f"{COMMAND} {description.quoted([*given, f'--seeds={seeds}'])}"


def _network(config: Config) -> str:
    """The network, without its width."""
    name, norm = description.kind(config.model, config.residual, config.normalization)
    parts = "block" if config.alike else "hidden layer"
    return f"{name}, {description.count(len(config.hidden), parts)}{norm}, {config.activation}"


def _header(networks: Networks, seeds: int, dataset: data.Dataset) -> list[str]:
    of_width = next(iter(networks.values()))
    base = next(iter(of_width.values()))
    images = len(dataset.train_labels)
    initializers = f"{base.init}; output {base.output_init}; bias {base.bias_init}"
    training = f"{base.optimizer} {base.learning_rate:g}; {description.duration(1, base.steps)}"
    widths = list(of_width)
    return [
        f"data    {dataset.name}: {min(base.batch_size, images):,} of {images:,} training images",
        *description.entry("model", f"{_network(base)}, {base.dtype}"),
        *description.entry("init", f"{initializers}; {description.count(seeds, 'seed')}"),
        *description.entry("train", training),
        *description.entry(
            "widths", f"{', '.join(map(str, widths))}; base network: width {widths[0]}"
        ),
        *description.batch_note(base, dataset),
    ]


def _record(networks: Networks, seeds: int, dataset: data.Dataset) -> dict[str, Any]:
    """The content of config.json."""
    of_width = next(iter(networks.values()))
    base = next(iter(of_width.values()))
    fields = dataclasses.asdict(base)
    for name in ("hidden", "base", "scheme", "seed", "epochs", "params"):
        del fields[name]
    own = {"depth": len(base.hidden), "widths": list(of_width), "schemes": list(networks)}
    return {
        "config": {**fields, **own, "seeds": seeds},
        **description.origin(base, dataset, command(networks, seeds)),
    }


def _verdict(scheme: str, result: "initjax.CoordinateCheck") -> list[str]:
    """What was found of a scheme: which layers are at fault, if any."""
    if result.stable:
        return [f"verdict {scheme}: stable"]
    guilty = [one.name for one in result.coordinates if one.faults]
    names = guilty or [one.name for one in result.coordinates if not one.stable]
    text = ", ".join(names[:_NAMED]) + f" and {len(names) - _NAMED} more" * (len(names) > _NAMED)
    text = f"at fault: {text}" if guilty else text or "a loss is not finite"
    return description.entry("verdict", f"{scheme}: not stable; {text}")


_GROUPS = {
    "Initialization": ("init", "output_init", "bias_init", "seeds"),
    "Model": (
        *("model", "widths", "depth", "residual", "normalization"),
        *("activation", "inputs", "dtype"),
    ),
    "Parametrization": ("scheme",),
    "Training": ("optimizer", "learning_rate", "steps", "batch_size"),
    "Data": ("dataset", "data_dir"),
    "Output": ("workdir", "help"),
}
_DEPTHS = ", ".join(f"{len(sizes)} for {name}" for name, sizes in MODELS.items())
_FLAGS = flags.define(
    _GROUPS,
    seeds=flags.integer(3, "Number of draws of weights and images, for intervals."),
    widths=flags.string(
        "64,128,256,512",
        "Sizes of the hidden layers or blocks, separated by commas. The flags name the initializers"
        " and the learning rate of the narrowest network, the base network.",
    ),
    depth=flags.integer(None, f"Number of hidden layers or blocks (default: {_DEPTHS})."),
    scheme=flags.several("scheme", "standard,mup"),
    steps=flags.integer(4, "Number of training steps, all on the same images."),
    workdir=flags.path(
        None,
        "Directory for the results, which must be empty or absent (default: a new one under"
        " runs/).",
    ),
)


def grid() -> Networks:
    """The configurations that the flags name."""
    widths = sorted(flag_lists.values(_FLAGS, "widths", int))
    text = f"--widths={_FLAGS.widths}"
    if len(widths) < 2:
        raise UsageError(f"{text}: must be at least two sizes, such as 64,128,256,512")
    if widths[0] < 1:
        raise UsageError(f"{text}: every size must be at least 1")
    if _FLAGS.model == "transformer" and (wrong := [size for size in widths if size % HEADS]):
        raise UsageError(
            f"{text}: {wrong[0]} can't be divided among the transformer's {HEADS} heads"
        )
    usual = model_defaults(_FLAGS.model)["hidden"]
    depth = len(usual) if _FLAGS.depth is None else _FLAGS.depth
    if not 1 <= depth <= MOST_LAYERS:
        raise UsageError(f"--depth={depth}: must be at least 1 and at most {MOST_LAYERS:,}")
    if not 1 <= _FLAGS.seeds <= _MOST_SEEDS:
        raise UsageError(f"--seeds={_FLAGS.seeds}: must be at least 1 and at most {_MOST_SEEDS}")
    fields = {**flags.config_fields(_FLAGS), "base": (widths[0],) * depth}
    return {
        scheme: {
            width: Config(**{**fields, "hidden": (width,) * depth, "scheme": scheme})
            for width in widths
        }
        for scheme in flag_lists.values(_FLAGS, "scheme")
    }


def main() -> None:
    networks = grid()
    *_, one = next(iter(networks.values())).values()
    run_directory.check_free(_FLAGS.workdir)
    data.check(one.dataset, one.data_dir)
    memory.check(one)
    try:
        run(networks, _FLAGS.seeds, _FLAGS.workdir, sys.stdout)
    except KeyboardInterrupt:
        console.say_instead(sys.stdout, "interrupted")
        raise


_PROGRAM = command_line.Program(
    COMMAND,
    "Checks whether a network trains alike at every width, for several parametrizations: draws and"
    " trains networks of several widths for a few steps, measures every layer, says which are at"
    " fault, and writes the numbers and a plot to a directory.",
    _FLAGS,
    _GROUPS,
    examples=(
        "",
        "--model=transformer --widths=32,64,128",
        "--scheme=ntk,mup --optimizer=sgd --learning_rate=0.1",
    ),
)


if __name__ == "__main__":
    console.run_program(_PROGRAM, main)
