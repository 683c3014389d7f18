"""Audits the initialization of a network on MNIST before training, and repairs it if asked to.

Question: will a network train from these weights, and if not, what is wrong with them?
Command:  python -m experiments.audit --init=zeros --depth=50 --activation=tanh
Time:     3 s on one CPU core, and 10 s the first time; with 50 layers 6 s, and 12 s
"""

import dataclasses
import io
import json
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
    flags,
    memory,
    params_file,
    progress,
    run_audit,
    run_directory,
)
from experiments.common.config import (
    INITIALIZERS,
    LARGEST_LAYER,
    MODELS,
    MOST_LAYERS,
    NORMALIZED,
    OPTIMIZERS,
    Config,
    UsageError,
)

# JAX, and what imports it, is imported in the functions, so that wrong flags are reported first.
if TYPE_CHECKING:
    from experiments.common import models, starting

_PARAMS = "params.safetensors"


@dataclasses.dataclass(frozen=True)
class Audit:
    """What is audited, and how."""

    network: Config
    """The run that would start from the network; its dataset is measured on."""
    optimizer: bool = False
    """Whether to measure the first step of the run's optimizer."""
    fix: bool = False
    """Whether to repair the network and audit it again, if anything is wrong with it."""
    check: bool = False
    """Whether the program fails if the network does."""


def run(
    audit: Audit, workdir: str | None = None, stream: TextIO | None = None
) -> tuple[pathlib.Path, "initjax.Report"]:
    """Audits a network and writes what was found to a directory.

        config.json          the configuration, versions, device and data
        audit.json           the verdict, and all numbers
        audit.png            a plot of them, before and after a repair
        fixed.json           after a repair: the numbers of the repaired network, and the changes
        params.safetensors   the repaired parameters, which `experiments.mnist --params` trains

    Each is written as soon as it is known, so a program that is stopped loses nothing else.

    Args:
      audit: what to audit.
      workdir: the directory, empty or absent; None makes a new one under `runs`.
      stream: where to print the findings; None prints nothing.

    Returns:
      The directory, and the last audit: that of the repaired network if it was repaired.

    Raises:
      UsageError: the data or the parameters can't be loaded, an initializer does not fit a
        parameter, or workdir is not empty.
      KeyboardInterrupt: Ctrl-C was pressed; what was finished is in the directory.
    """
    started = time.perf_counter()
    network = params_file.pinned(audit.network)
    audit = dataclasses.replace(audit, network=network)
    directory = None
    try:
        with progress.stage(stream, "start   loading the data and JAX") as watch:
            dataset = data.load(network.dataset, network.data_dir, watch)
            with console.uninterrupted():  # which would abort while C++ is loaded
                from experiments.common import starting
            starting.start_devices()
            network = starting.pinned(network, dataset)
            audit = dataclasses.replace(audit, network=network)

        name = f"audit-{description.run_name(network, dataset)}"
        with (
            run_directory.created(workdir, name) as directory,
            starting.enough_memory(network, dataset, audit.optimizer),
            starting.precision(network),
        ):
            with progress.stage(stream, "init    drawing the weights"):
                start = starting.start(network, dataset)
            console.say(stream, *_header(audit, dataset, start.model))
            with progress.stage(stream, "        compiling"):
                auditor = run_audit.auditor(network, start, dataset, audit.optimizer)
            with progress.stage(stream, "        measuring"):
                report = auditor(start.params)
            files.write_json(directory / "config.json", _record(audit, dataset))
            files.write_json(directory / "audit.json", report.to_dict())
            last = drawn = report
            console.say(stream, "", run_audit.text(report), "")
            if audit.fix and (reason := run_audit.unrepairable(report)):
                console.say(stream, reason, "")
            elif audit.fix:
                repair = _fix(audit, start, dataset, directory, stream)
                last = repair.after
                drawn = repair if repair.changes else report
            if report.layers:
                title = (
                    f"{description.network(network, start.model)}; {description.weights(network)}"
                )
                title = title.replace("$", r"\$")  # such as that of a file's name: no formula
                with progress.stage(stream, "plot    drawing audit.png"):
                    picture = io.BytesIO()
                    drawn = run_audit.in_flags(drawn)
                    drawn.plot(title=f"{title}, seed {network.seed}").savefig(picture, format="png")
                    files.write(directory / "audit.png", picture.getvalue())
    except KeyboardInterrupt:
        finished = directory is not None and directory.exists()
        kept = ["interrupted; the audit is finished", f"results {directory}"]
        console.say_instead(stream, *(kept if finished else ["interrupted; nothing was written"]))
        raise
    console.say(
        stream,
        f"verdict {_verdict(last)}; {time.perf_counter() - started:.1f} s",
        *_next_step(audit, directory, last),
        f"results {directory}",
        f"repeat  {command(audit)}",
    )
    return directory, last


def _fix(
    audit: Audit,
    start: "starting.Start",
    dataset: data.Dataset,
    directory: pathlib.Path,
    stream: TextIO | None,
) -> "initjax.Repair":
    """Repairs a network, writes and prints the result, and returns it."""
    with progress.stage(stream, "fix     repairing, and measuring again"):
        params, repair = run_audit.fix(audit.network, start, dataset, audit.optimizer)
    if repair.changes:
        made_for = {"config": json.dumps(dataclasses.asdict(audit.network))}
        run_directory.save_params(directory / _PARAMS, params, made_for)
        record = {**repair.after.to_dict(), **_changes(repair)}
        files.write_json(directory / "fixed.json", record)
    console.say(stream, run_audit.text(repair), "")
    return repair


def command(audit: Audit) -> str:
    """The command that repeats an audit."""
    more = [f"--{name}" for name in ("fix", "check") if getattr(audit, name)]
    return run_audit.command(audit.network, *more, optimizer=audit.optimizer)


def _header(audit: Audit, dataset: data.Dataset, model: "models.Model") -> list[str]:
    network = audit.network
    images = len(dataset.train_labels)
    lines = [
        f"data    {dataset.name}: {min(network.batch_size, images):,} of {images:,} training"
        f" images, {description.image_shape(dataset)}",
        *description.entry("model", description.network(network, model)),
        *description.entry("init", description.initialization(network)),
    ]
    if audit.optimizer:
        lines.append(f"step    {network.optimizer} {network.learning_rate:g}")
    # Said before a deep network is compiled, which takes a while.
    blocks = description.count(len(model.features) - 1, "layer")
    if network.model in NORMALIZED:
        blocks = description.count(len(network.hidden), "block")
    work = f"audit   compiling and measuring {blocks}"
    return [*lines, *description.batch_note(network, dataset), work]


def _record(audit: Audit, dataset: data.Dataset) -> dict[str, Any]:
    """The content of config.json."""
    fields = dataclasses.asdict(audit.network)
    unused = ["epochs", "steps"]
    unused += [] if audit.optimizer else ["optimizer", "learning_rate"]
    for name in unused:
        del fields[name]
    return {
        "config": {**fields, "fix": audit.fix},
        **description.origin(audit.network, dataset, command(audit)),
    }


def _changes(repair: "initjax.Repair") -> dict[str, Any]:
    """The content of fixed.json besides the audit."""
    return {
        "target": repair.target,
        "changes": [dataclasses.asdict(change) for change in repair.changes],
        "left": [{"name": name, "why": reason} for name, reason in repair.left],
    }


def _verdict(report: "initjax.Report") -> str:
    causes = dict.fromkeys(finding.cause for finding in report.findings)
    return f"{report.verdict}: {', '.join(causes)}" if causes else report.verdict


def _next_step(audit: Audit, directory: pathlib.Path, last: "initjax.Report") -> list[str]:
    """The line that says what to do next."""
    network = audit.network
    repaired = directory / _PARAMS
    if repaired.exists() and last.verdict != "failure":
        drawn = {name: getattr(Config, name) for name in INITIALIZERS}
        network = params_file.pinned(dataclasses.replace(network, **drawn, params=str(repaired)))
    elif audit.fix and not run_audit.unrepairable(last):
        return run_audit.another(network, last, audit.optimizer)
    elif last.verdict != "ok":
        return run_audit.next_step(network, last, audit.optimizer)
    # The batch size was chosen for the audit, not for training.
    trained = dataclasses.replace(network, batch_size=Config.batch_size)
    trained = run_audit.slower(trained, last)
    return [f"train   python -m experiments.mnist {description.quoted(trained.arguments())}"]


_GROUPS = {
    "Initialization": ("init", "output_init", "bias_init", "seed", "params"),
    "Model": (
        *("model", "depth", "width", "hidden", "residual", "normalization"),
        *("activation", "inputs", "dtype"),
    ),
    "Parametrization": ("scheme", "base"),
    "Training": ("optimizer", "learning_rate"),
    "Data": ("batch_size", "dataset", "data_dir"),
    "Verdict": ("fix", "check"),
    "Output": ("workdir", "help"),
}
_WIDTHS = ", ".join(f"{sizes[0]} for {name}" for name, sizes in MODELS.items())
_FLAGS = flags.define(
    _GROUPS,
    depth=flags.integer(None, "Number of hidden layers or blocks, all of the same size."),
    width=flags.integer(
        None,
        f"Size of those layers (default: {_WIDTHS}); needs --depth.",
    ),
    hidden=flags.instead("hidden", "--depth"),
    optimizer=flags.string(
        None,
        f"Also measure the first step of this optimizer, relative to the weights:"
        f" {', '.join(OPTIMIZERS)} (default: none).",
    ),
    learning_rate=flags.number(
        None, f"Its learning rate (default: {flags.DEFAULT_RATES}); needs --optimizer."
    ),
    batch_size=flags.integer(
        run_audit.BATCH_SIZE, "Images to measure with. At least 64 are recommended."
    ),
    fix=flags.boolean(
        False,
        "Repair the network, unless it is healthy, and audit it again: redraw kernels that are zero"
        " or constant, rescale kernels on the batch so that signals and gradients keep their size,"
        " and save the parameters for `experiments.mnist --params`.",
    ),
    check=flags.boolean(
        False,
        "Exit with code 1 if the verdict is 'failure' (with --fix: after the repair). Warnings"
        " pass.",
    ),
    workdir=flags.path(
        None,
        "Directory for the results, which must be empty or absent (default: a new one under"
        " runs/).",
    ),
)


def hidden_sizes(
    hidden: str | None, depth: int | None, width: int | None, model: str = Config.model
) -> tuple[int, ...] | None:
    """The sizes of the hidden layers, from the flags of these names; None if they say nothing.

    Raises:
      UsageError: the flags contradict each other, or can't be read.
    """
    if hidden is not None:
        if depth is not None or width is not None:
            raise UsageError("give either --hidden or --depth and --width, not both")
        return flags.sizes(hidden)
    for name, value, least, most in (
        ("depth", depth, 0, MOST_LAYERS),
        ("width", width, 1, LARGEST_LAYER),
    ):
        if value is not None and not least <= value <= most:
            raise UsageError(f"--{name}={value}: must be at least {least} and at most {most:,}")
    if depth is None and width is not None:
        raise UsageError(f"--width={width} needs --depth, the number of layers of that size")
    if depth is None:
        return None
    # `Config` refuses a wrong model.
    return (width or MODELS.get(model, MODELS[Config.model])[0],) * depth


def main() -> None:
    fields = flags.config_fields(_FLAGS)
    if _FLAGS.optimizer is None and _FLAGS.learning_rate is not None:
        raise UsageError(f"--learning_rate={_FLAGS.learning_rate:g} needs --optimizer")
    fields["hidden"] = hidden_sizes(_FLAGS.hidden, _FLAGS.depth, _FLAGS.width, _FLAGS.model)
    fields["optimizer"] = _FLAGS.optimizer or Config.optimizer
    network = Config(**fields)
    run_directory.check_free(_FLAGS.workdir)
    data.check(network.dataset, network.data_dir)
    memory.check(network)
    audit = Audit(network, _FLAGS.optimizer is not None, _FLAGS.fix, _FLAGS.check)
    _, report = run(audit, _FLAGS.workdir, sys.stdout)
    if audit.check and report.verdict == "failure":
        sys.exit(1)


_PROGRAM = command_line.Program(
    run_audit.COMMAND,
    "Audits the initialization of a network on a batch of MNIST, or of another image dataset:"
    " measures what every layer does to signals and gradients, says what is wrong and how to"
    " repair it, and writes the numbers and a plot to a directory.",
    _FLAGS,
    _GROUPS,
    examples=(
        "--init=lecun_normal --depth=12",
        "--init=zeros --activation=tanh --depth=50 --fix",
        "--optimizer=sgd --learning_rate=0.5 --check",
        "--model=transformer --depth=24",
    ),
)


if __name__ == "__main__":
    console.run_program(_PROGRAM, main)
