"""Audits the initialization of an MLP on MNIST before training, and repairs it if asked to.

Question: will a network train from these weights, and if not, what is wrong with them?
Command:  python -m experiments.audit --init=zeros --depth=50 --activation=tanh
Time:     3 s on one CPU core, and 10 s the first time; with 50 layers 6 s, and 12 s
"""

import dataclasses
import io
import pathlib
import shlex
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
    run_audit,
    run_directory,
)
from experiments.common.config import OPTIMIZERS, Config, UsageError

# JAX, and what imports it, is imported in the functions, so that wrong flags are reported first.
if TYPE_CHECKING:
    from experiments.common import models


@dataclasses.dataclass(frozen=True)
class Audit:
    """What is audited, and how."""

    network: Config
    """The run that would start from the network; its dataset is measured on."""
    optimizer: bool = False
    """Whether to measure the first step of the run's optimizer."""
    fix: bool = False
    """Whether to repair the network and audit it again."""


def run(
    audit: Audit, workdir: str | None = None, stream: TextIO | None = None
) -> tuple[pathlib.Path, "initjax.Report"]:
    """Audits a network and writes what was found to a directory.

        config.json   the configuration, versions, device and data
        audit.json    the verdict, and all numbers
        audit.png     a plot of them
        fixed.json    with fix: the same for the repaired network, and what was changed
        fixed.png

    Args:
      audit: what to audit.
      workdir: the directory, empty or absent; None makes a new one under `runs`.
      stream: where to print the findings; None prints nothing.

    Returns:
      The directory, and the last audit: that of the repaired network if it was repaired.

    Raises:
      UsageError: the data can't be loaded, an initializer does not fit a parameter, or workdir is
        not empty.
    """
    started = time.perf_counter()
    network = audit.network
    dataset = data.load(network.dataset, network.data_dir)
    from experiments.common import starting

    name = f"audit-{dataset.name}-{network.init}-seed{network.seed}"
    with run_directory.created(workdir, name) as directory, starting.precision(network):
        start = starting.start(network, dataset)
        console.say(stream, *_header(audit, dataset, start.model), "")
        found = network, start, dataset, audit.optimizer
        if audit.fix:
            repair = run_audit.fix(*found)
            reports = {"audit": repair.before, "fixed": repair.after}
            console.say(stream, str(repair.before), "", str(repair), "")
        else:
            repair = None
            reports = {"audit": run_audit.audit(*found)}
            console.say(stream, str(reports["audit"]), "")

    files.write_json(directory / "config.json", _record(audit, dataset))
    for name, report in reports.items():
        changes = _changes(repair) if repair and name == "fixed" else {}
        files.write_json(directory / f"{name}.json", {**report.to_dict(), **changes})
        if report.layers:
            picture = io.BytesIO()
            report.plot().savefig(picture, format="png")
            files.write(directory / f"{name}.png", picture.getvalue())
    last = reports.get("fixed", reports["audit"])
    console.say(
        stream,
        f"verdict {_verdict(last)}; {time.perf_counter() - started:.1f} s",
        *_next_step(audit, reports["audit"], last),
        f"results {directory}",
        f"repeat  {command(audit)}",
    )
    return directory, last


def command(audit: Audit) -> str:
    """The command that repeats an audit."""
    more = ["--fix"] if audit.fix else []
    return run_audit.command(audit.network, *more, optimizer=audit.optimizer)


def _header(audit: Audit, dataset: data.Dataset, model: "models.Model") -> list[str]:
    network = audit.network
    images = len(dataset.train_labels)
    lines = [
        f"data    {dataset.name}: {min(network.batch_size, images):,} of {images:,} training"
        f" images, {description.image_shape(dataset)}",
        f"model   {description.network(network, model)}",
        f"init    {description.initialization(network)}",
    ]
    if audit.optimizer:
        lines.append(f"step    {network.optimizer} {network.learning_rate:g}")
    # Said before a deep network is compiled, which takes a while.
    layers = description.count(len(model.features) - 1, "layer")
    return [*lines, f"audit   compiling and measuring {layers}"]


def _record(audit: Audit, dataset: data.Dataset) -> dict[str, Any]:
    """The content of config.json."""
    fields = dataclasses.asdict(audit.network)
    unused = ["epochs"] if audit.optimizer else ["epochs", "optimizer", "learning_rate"]
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


def _next_step(audit: Audit, before: "initjax.Report", last: "initjax.Report") -> list[str]:
    """The line that says what to do next."""
    if not audit.fix and last.verdict == "ok":
        # The batch size was chosen for the audit, not for training.
        trained = dataclasses.replace(audit.network, batch_size=Config.batch_size)
        return [f"train   python -m experiments.mnist {shlex.join(trained.arguments())}"]
    if not audit.fix:
        return run_audit.next_step(audit.network, last, audit.optimizer)
    if last.verdict == "failure":
        return ["next    choose another --init: rescaling doesn't repair this network"]
    if before.verdict == "ok":
        return ["next    no repair needed"]
    return ["use     params, repair = initjax.fix(loss_fn, params, *batch, key=key)"]


_GROUPS = {
    "Initialization": ("init", "output_init", "bias_init", "seed"),
    "Model": ("depth", "width", "hidden", "activation", "dtype"),
    "Training": ("optimizer", "learning_rate"),
    "Data": ("batch_size", "dataset", "data_dir"),
    "Verdict": ("fix", "check"),
    "Output": ("workdir", "help"),
}
_FLAGS = flags.define(
    _GROUPS,
    depth=flags.integer(None, "Number of hidden layers, all of the same size."),
    width=flags.integer(None, f"Size of those layers (default: {run_audit.WIDTH}); needs --depth."),
    hidden=flags.string(
        None,
        "Instead of --depth: sizes of the hidden layers, separated by commas; empty for logistic"
        f" regression (default: {','.join(map(str, Config.hidden))}).",
    ),
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
        "Repair the network and audit it again: redraw kernels that are zero or constant, and"
        " rescale kernels on the batch so that signals and gradients keep their size.",
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


def hidden_sizes(hidden: str | None, depth: int | None, width: int | None) -> tuple[int, ...]:
    """The sizes of the hidden layers, from the flags of these names.

    Raises:
      UsageError: the flags contradict each other, or can't be read.
    """
    if hidden is not None:
        if depth is not None or width is not None:
            raise UsageError("give either --hidden or --depth and --width, not both")
        return flags.sizes(hidden)
    for name, value, least in (("depth", depth, 0), ("width", width, 1)):
        if value is not None and value < least:
            raise UsageError(f"--{name}={value}: must be at least {least}")
    if depth is None and width is not None:
        raise UsageError(f"--width={width} needs --depth, the number of layers of that size")
    return Config.hidden if depth is None else (width or run_audit.WIDTH,) * depth


def main() -> None:
    fields = flags.config_fields(_FLAGS)
    if _FLAGS.optimizer is None and _FLAGS.learning_rate is not None:
        raise UsageError(f"--learning_rate={_FLAGS.learning_rate:g} needs --optimizer")
    fields["hidden"] = hidden_sizes(_FLAGS.hidden, _FLAGS.depth, _FLAGS.width)
    fields["optimizer"] = _FLAGS.optimizer or Config.optimizer
    network = Config(**fields)
    run_directory.check_free(_FLAGS.workdir)
    data.check(network.dataset, network.data_dir)
    audit = Audit(network, optimizer=_FLAGS.optimizer is not None, fix=_FLAGS.fix)
    _, report = run(audit, _FLAGS.workdir, sys.stdout)
    if _FLAGS.check and report.verdict == "failure":
        sys.exit(1)


_PROGRAM = command_line.Program(
    run_audit.COMMAND,
    "Audits the initialization of an MLP on a batch of MNIST, or of another image dataset:"
    " measures what every layer does to signals and gradients, says what is wrong and how to"
    " repair it, and writes the numbers and a plot to a directory.",
    _FLAGS,
    _GROUPS,
    examples=(
        "--init=lecun_normal --depth=12",
        "--init=zeros --activation=tanh --depth=50 --fix",
        "--optimizer=sgd --learning_rate=0.5 --check",
    ),
)


if __name__ == "__main__":
    console.run_program(_PROGRAM, main)
