"""The reference program: trains a network on MNIST from the initializer named by a flag.

Question: how much does the initializer matter to a network of three layers?
Command:  python -m experiments.mnist --init=glorot_uniform
Time:     about 3 s on 2 CPU cores
Score:    val_acc 0.975 with Glorot's and He's initializers; standard deviation over seeds 0.0016

Reads from top to bottom: how a network is trained, what is printed, the flags.
"""

import contextlib
import dataclasses
import datetime
import functools
import importlib
import math
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from experiments.common import (
    command_line,
    console,
    data,
    description,
    diagnosis,
    files,
    flags,
    memory,
    meshes,
    params_file,
    processes,
    progress,
    resuming,
    run_audit,
    run_directory,
)
from experiments.common.config import Config, UsageError

# JAX, and what imports it, is imported in the functions, so that wrong flags are reported first.
if TYPE_CHECKING:
    from experiments.common import fitting, following, models, starting

COMMAND = "python -m experiments.mnist"

_CURVES = "experiments.common.layer_curves"  # imports Matplotlib, so only if there are audits


def run(
    config: Config,
    workdir: str | None = None,
    stream: TextIO | None = None,
    audit: bool = False,
    audit_every: int | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    mesh: meshes.Sizes | None = None,
) -> tuple[pathlib.Path, dict[str, Any]]:
    """Trains one network and writes its directory (see `experiments.common.run_directory`).

    Args:
      config: what to train.
      workdir: the directory of the run, empty or absent; None makes a new one under `runs`.
        With `resume`, it may hold an unfinished run.
      stream: where to show progress; None shows nothing.
      audit: whether to audit the network before training, which writes `audit.json`.
      audit_every: how many training steps there are from one audit to the next, which write
        `audits.jsonl` and `audits.png`; None audits none.
      checkpoint_every: how many training steps there are from one checkpoint to the next.
      resume: whether to go on from the last checkpoint in the directory, if there is one. With it
        or `checkpoint_every`, a checkpoint is saved at the end, too, and on Ctrl-C and the like.
      mesh: the devices that train it together; see `meshes.placement` for None. All processes of a
        job (see `processes.joined`) call this, and one of them writes.

    Returns:
      The directory, and the content of its summary.json.

    Raises:
      UsageError: the data can't be loaded, an initializer does not fit a parameter, or workdir is
        not empty, or holds no run that can be resumed with these flags.
      KeyboardInterrupt: Ctrl-C was pressed; the finished epochs are in the directory, and without
        any there is none.
    """
    started = time.perf_counter()
    config = params_file.pinned(config)
    resumable = resume or checkpoint_every is not None
    flags_kept = {"audit_every": audit_every}
    stream = stream if processes.is_main() else None

    def earlier(digest: str | None = None) -> dict[str, Any] | None:
        return resuming.record(workdir, config, flags_kept, digest) if resume else None

    before = processes.from_main("before", earlier)
    done = None
    if before and workdir:
        done = processes.from_main("done", lambda: resuming.finished(workdir, config.epochs))
    if workdir and done:
        nothing = "resume  this run is finished: nothing to do"
        console.say(stream, nothing, *_footer(config, done), f"results {workdir}")
        return pathlib.Path(workdir), done
    with contextlib.ExitStack() as contexts:
        try:
            with progress.stage(stream, "start   loading the data and JAX") as watch:
                pool = futures.ThreadPoolExecutor(1)
                # While JAX is imported.
                loading = pool.submit(data.load, config.dataset, config.data_dir, watch)
                if data.needs_tfds(config.dataset, config.data_dir):
                    futures.wait([loading])
                with console.uninterrupted():  # which would abort while C++ is loaded
                    from experiments.common import fitting, following, starting, tasks

                starting.start_devices()
                placement = meshes.placement(mesh)
                dataset = loading.result()
                config = starting.pinned(config, dataset)
                fields = dataclasses.asdict(config)
                for name in resuming.ELSEWHERE:
                    del fields[name]
                processes.check_alike(
                    {
                        **{f"--{name}": value for name, value in fields.items()},
                        "--mesh": str(mesh),
                        "--audit": audit,
                        "--audit_every": audit_every,
                        "--checkpoint_every": checkpoint_every,
                        "--resume": resume,
                        "--workdir": workdir,
                        "checksum of the data": dataset.digest,
                        "set of versions": description.versions(),
                    }
                )
                if before:
                    earlier(dataset.digest)
            # Matplotlib is imported while the first epochs are compiled and trained.
            drawing = pool.submit(importlib.import_module, "experiments.common.learning_curve")
            pool.shutdown(wait=False)
            name = description.run_name(config, dataset)
            new = run_directory.created(workdir, name, resumable)
            directory = pathlib.Path(
                processes.from_main("directory", lambda: str(contexts.enter_context(new)))
            )
            contexts.enter_context(starting.enough_memory(config, dataset, placement=placement))
            contexts.enter_context(starting.precision(config))
            with progress.stage(stream, "init    drawing the weights"):
                start = starting.start(config, dataset, placement)
            repeat = command(config, audit, audit_every, placement and placement.sizes)
            began = resuming.begin(
                directory, config, dataset, start, audit_every, bool(before), placement
            )
            train = functools.partial(
                fitting.fit,
                tasks.classification(start.model.apply),
                starting.optimizer(config, start.model),
                config.learning_rate,  # pyright: ignore[reportArgumentType]  # no longer None
                start.packed,
                starting.order_key(start.key),
                (dataset.train_images, dataset.train_labels),
                (dataset.test_images, dataset.test_labels),
                epochs=config.epochs,
                batch_size=config.batch_size,
                steps=config.steps,
                inspect_every=audit_every,
                resume=began.point,
                pause_every=checkpoint_every,
                placement=placement,
            )
            save = None
            if resumable:
                files.prepare(directory / run_directory.CHECKPOINTS, "name another --workdir")
                save = functools.partial(resuming.saver, directory, began, checkpoint_every)
            if before:
                processes.least(0)  # all have read what is changed from here on
            finished: list[fitting.Epoch] = [*began.epochs]
            if placement and not processes.is_main():
                inspected = audit_every is not None
                audited = audit or inspected
                following.follow(train, start, placement, audited, inspected, save, finished)
                diagnosis.diagnose(config, dataset, start.params, finished)
                return directory, {}
            record = _record(config, dataset, start.model, repeat)
            record |= {"mesh": placement and placement.sizes._asdict()}
            starts = resuming.starts(began, before, record)
            notes = resuming.lines(began, directory, starts) if resume else []
            if before and began.path:
                record = before | {name: record[name] for name in ("config", "command")}
            record |= {"starts": starts}
            for old in ("summary.json", run_directory.PICTURE, run_directory.AUDITS_PICTURE):
                (directory / old).unlink(missing_ok=True)  # until it is finished
            files.write_json(directory / "config.json", record | {"flags": flags_kept})
        except KeyboardInterrupt:
            console.say_instead(stream, "interrupted; nothing was written")
            raise
        run = _Run(config, dataset, directory, start, placement, began, notes, finished)
        display = progress.EpochProgress(config.epochs, stream)
        display.say(*_header(config, dataset, start.model, placement))
        interrupted = _train(run, train, save, audit, audit_every, display)

    seconds = began.seconds + time.perf_counter() - started
    summary, found = _summary(run, interrupted, seconds)
    try:  # the pictures come last, so that an error here loses nothing
        with console.uninterrupted():
            files.write_json(directory / "summary.json", summary)
        if not (interrupted and processes.is_joined()):  # the others wait
            _draw(run, drawing, audit_every, display)
    finally:
        display.say(
            *_footer(config, summary),
            *_advice(config, found),
            f"results {directory}",
            f"repeat  {repeat}",
            *_resume(repeat, directory, checkpoint_every) * bool(resumable and interrupted),
        )
    if interrupted:
        raise interrupted
    return directory, summary


class _Run(NamedTuple):
    """A run that has begun."""

    config: Config
    dataset: data.Dataset
    directory: pathlib.Path
    start: "starting.Start"
    placement: "meshes.Placement | None"
    began: resuming.Place
    notes: list[str]
    """What to say about resuming, once a signal doesn't lose anything any more."""
    finished: "list[fitting.Epoch]"
    """The epochs so far, without parameters."""


def _train(
    run: _Run,
    train: "Callable[..., Iterator[fitting.Epoch]]",
    save: "following.Save | None",
    audit: bool,
    audit_every: int | None,
    display: progress.EpochProgress,
) -> KeyboardInterrupt | None:
    """Trains, and writes each epoch to the directory; returns what interrupted it, if anything.

    Args:
      run: what to train; its finished epochs are added to.
      train: `fitting.fit` of the run, as a function of `watch`, `inspect` and `pause`.
      save: saves checkpoints; None if there are none.
      audit: as for `run`.
      audit_every: as for `run`.
      display: where to show progress.
    """
    start, directory, finished = run.start, run.directory, run.finished
    inspect = pause = None
    host = run.placement.host if run.placement else _unchanged
    live = processes.from_main("live", lambda: display.live)
    with contextlib.ExitStack() as opened:
        output = opened.enter_context(run_directory.opened(directory, run.began.lines))
        if save:
            later = console.interrupt_later(display.stream, "saving a checkpoint")
            asked = processes.first_asked(opened.enter_context(later))
            pause = save(finished, asked, output.replaced)
        display.say(*run.notes)
        try:
            whole = start
            if audit or audit_every:  # by this process alone
                whole = start._replace(packed=host(start.packed))
            if audit and not (directory / "audit.json").exists():
                display.say(*_audit(run, whole, display.stream))
            if audit_every:
                curves = importlib.import_module(_CURVES)
                auditor = run_audit.auditor(run.config, whole, run.dataset)
                inspect = curves.inspector(
                    output.lines[run_directory.AUDITS],
                    lambda packed: auditor(start.model.unpack(host(packed))),
                )
            epochs = train(watch=display.steps if live else None, inspect=inspect, pause=pause)
            for epoch in display.compiled(epochs, len(finished)):
                # Where there are pauses, a signal waits for the next.
                with contextlib.nullcontext() if pause else console.uninterrupted():
                    params = start.model.unpack(host(epoch.params))
                    run_directory.add_epoch(output, epoch._replace(params=params))
                    finished.append(epoch._replace(params=None))  # their buffers are reused
                display.epoch(epoch.number, epoch.seconds, epoch.metrics)
        except KeyboardInterrupt as error:
            if not run_directory.has_results(directory):
                console.say_instead(display.stream, "interrupted; nothing was written")
                raise
            return error
    return None


def _summary(
    run: _Run, interrupted: KeyboardInterrupt | None, seconds: float
) -> tuple[dict[str, Any], diagnosis.Diagnosis | None]:
    """The content of summary.json, and why the run learned nothing, if so."""
    finished = run.finished
    summary: dict[str, Any] = {
        "status": "interrupted" if interrupted else "finished",
        "epochs": max(0, len(finished) - 1),
        **(finished[-1].metrics if finished else {}),
    }
    if len(finished) > 1:
        # The first epoch includes compilation; the median of several is not affected by it.
        summary["seconds_per_epoch"] = statistics.median(epoch.seconds for epoch in finished[1:])
    summary["seconds"] = seconds
    found = None
    if not (interrupted and processes.is_joined()):  # the others take part
        found = diagnosis.diagnose(run.config, run.dataset, run.start.params, finished)
    if found:
        summary["problem"], summary["likely_cause"] = found.problem, found.cause
    return summary, found


def _draw(
    run: _Run,
    drawing: "futures.Future[Any]",
    audit_every: int | None,
    display: progress.EpochProgress,
) -> None:
    """Draws the pictures, and says what the audits found."""
    weights = description.weights(run.config)
    title = f"{run.dataset.name}, {weights}, seed {run.config.seed}"
    network = description.network(run.config, run.start.model)
    subtitle = f"{network}; {description.training(run.config)}"
    if len(run.finished) > 1:
        chance_loss = math.log(run.dataset.num_classes)
        drawing.result().draw(run.directory, title, subtitle, chance_loss)
    if audit_every:
        curves = importlib.import_module(_CURVES)
        if curves.has_audits(run.directory):
            curves.draw(run.directory, title, subtitle)
            display.say(f"audits  {curves.summary(run.directory)}")


def _unchanged(arrays: Any) -> Any:
    return arrays


def _audit(run: _Run, start: "starting.Start", stream: TextIO | None) -> list[str]:
    """Audits the network before training, writes audit.json, and returns what to print."""
    with progress.stage(stream, "audit   compiling and measuring"):
        report = run_audit.auditor(run.config, start, run.dataset)(start.params)
    files.write_json(run.directory / "audit.json", report.to_dict())
    return ["", run_audit.text(report), "", *run_audit.next_step(_audited(run.config), report)]


def _audited(config: Config) -> Config:
    """The run to suggest to the audit program, whose own batch size is the better one for it."""
    return dataclasses.replace(config, batch_size=run_audit.BATCH_SIZE)


def command(
    config: Config,
    audit: bool = False,
    audit_every: int | None = None,
    mesh: meshes.Sizes | None = None,
) -> str:
    """The command that repeats a run."""
    others = ["--audit"] * audit
    if audit_every:
        others.append(f"--audit_every={audit_every}")
    if mesh:
        others.append(f"--mesh={mesh}")
    return f"{COMMAND} {description.quoted([*config.arguments(), *others])}"


def _resume(repeat: str, directory: pathlib.Path, checkpoint_every: int | None) -> list[str]:
    """The line with the command that resumes a run."""
    every = [] if checkpoint_every is None else [f"--checkpoint_every={checkpoint_every}"]
    return [
        f"resume  {repeat} {description.quoted([f'--workdir={directory}', *every, '--resume'])}"
    ]


def _record(
    config: Config, dataset: data.Dataset, model: "models.Model", repeat: str
) -> dict[str, Any]:
    """The content of config.json: enough to understand the run and to repeat it."""
    origin = description.origin(config, dataset, repeat)
    origin["data"] |= {
        "training_images": len(dataset.train_labels),
        "test_images": len(dataset.test_labels),
        "image_shape": dataset.train_images.shape[1:],
        "classes": dataset.num_classes,
    }
    return {
        "config": dataclasses.asdict(config),
        **origin,
        "parameters": description.parameters(model),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _header(
    config: Config,
    dataset: data.Dataset,
    model: "models.Model",
    placement: meshes.Placement | None,
) -> list[str]:
    import jax

    packed = model.pack(model.shapes)

    return [
        f"data    {dataset.name}: {description.images(dataset)},"
        f" {description.image_shape(dataset)}",
        *description.entry(
            "model",
            f"{description.network(config, model)}, {description.parameters(model):,} parameters",
        ),
        *description.entry("init", description.initialization(config)),
        *description.entry(
            "train", f"{description.training(config)}, on {jax.devices()[0].device_kind}"
        ),
        *(description.entry("mesh", placement.describe(packed)) if placement else []),
        *description.batch_note(config, dataset),
    ]


def _footer(config: Config, summary: dict[str, Any]) -> list[str]:
    lines = []
    epochs = description.count(summary["epochs"], "epoch")
    if config.steps is not None and summary["epochs"]:
        epochs = description.duration(1, config.steps)
    if summary["status"] == "interrupted":
        lines.append(f"interrupted; {epochs} finished")
    if "val_acc" in summary:
        loss = progress.number(summary["val_loss"])
        scores = f"val_acc {summary['val_acc']:.4f}, val_loss {loss}"
        times = f"{summary['seconds']:.1f} s"
        if summary["epochs"] and config.steps is None:
            times += f", {summary['seconds_per_epoch']:.2f} s per epoch"
        lines.append(f"{scores} after {epochs}; {times}")
    return lines


def _advice(config: Config, found: diagnosis.Diagnosis | None) -> list[str]:
    """What to do about a run that learned nothing."""
    if found is None:
        return []
    return [
        *description.entry("warning", f"{found}."),
        f"next    {run_audit.command(_audited(config), optimizer=found.rate)}",
    ]


_GROUPS = {
    "Initialization": ("init", "output_init", "bias_init", "seed", "params"),
    "Model": ("model", "hidden", "residual", "normalization", "activation", "inputs", "dtype"),
    "Parametrization": ("scheme", "base"),
    "Training": ("optimizer", "learning_rate", "epochs", "steps", "batch_size"),
    "Data": ("dataset", "data_dir"),
    "Audit": ("audit", "audit_every"),
    "Checkpoints": ("checkpoint_every", "resume"),
    "Devices": ("mesh", "distributed"),
    "Output": ("workdir", "help"),
}
_FLAGS = flags.define(
    _GROUPS,
    audit=flags.boolean(
        False,
        "Audit the initialization before training, layer by layer, on the first batch. Training is"
        " the same with and without it.",
    ),
    audit_every=flags.integer(
        None,
        "Audit the network every N training steps, on the first batch, and write the signals and"
        " gradients of its layers to audits.jsonl and audits.png. This does not change training.",
    ),
    checkpoint_every=flags.integer(
        None,
        "Save a checkpoint every N training steps, at the end, and when the program is stopped, as"
        " by Ctrl-C or SIGTERM. This does not change training.",
    ),
    mesh=flags.string(
        None,
        "Train on all devices together, as data:8 or data:2,model:4. Each batch is divided over the"
        " devices along data. Kernels, and what the optimizer keeps of them, are divided over those"
        " along model; each device draws its own part. The results are those of one device up to"
        " the rounding of sums (default: one device, or data for all devices with --distributed).",
    ),
    distributed=flags.string(
        None,
        "Train in several processes, on one host or many, each started with the same flags: auto"
        " under Slurm's srun, Open MPI, Kubernetes or on TPU pods; else HOST:PORT,i/n, the address"
        " of process 0, and i from 0 to n-1 for each of n processes. Process 0 prints and writes.",
    ),
    resume=flags.boolean(
        False,
        "Go on from the last checkpoint in --workdir, or start if there is none. The other flags"
        " must be the same, but --epochs may grow. Without --checkpoint_every, checkpoints are"
        " saved only at the end and when the program is stopped.",
    ),
    workdir=flags.path(
        None,
        "Directory of this run, which must be empty or absent without --resume (default: a new one"
        " under runs/).",
    ),
)


def main() -> None:
    fields = flags.config_fields(_FLAGS)
    fields["hidden"] = flags.sizes(_FLAGS.hidden)
    config = Config(**fields)
    for name in ("audit_every", "checkpoint_every"):
        every: int | None = _FLAGS[name].value
        if every is not None and every < 1:
            raise UsageError(f"--{name}={every}: must be at least 1")
    mesh = None if _FLAGS.mesh is None else meshes.parse(_FLAGS.mesh)
    if _FLAGS.distributed is not None:
        processes.parse(_FLAGS.distributed)
    elif not _FLAGS.resume:
        run_directory.check_free(_FLAGS.workdir)
    data.check(config.dataset, config.data_dir)
    memory.check(config)
    with processes.joined(_FLAGS.distributed):
        run(
            config,
            _FLAGS.workdir,
            sys.stdout,  # another one in a job
            _FLAGS.audit,
            _FLAGS.audit_every,
            _FLAGS.checkpoint_every,
            _FLAGS.resume,
            mesh,
        )


_PROGRAM = command_line.Program(
    COMMAND,
    "Trains a network on MNIST, or on another image dataset, from the initializer named by --init,"
    " and writes the metrics, a learning curve and the parameters to a directory.",
    _FLAGS,
    _GROUPS,
    examples=(
        "--init=he_normal --hidden=256,256 --epochs=10",
        '--init="random_uniform(-0.1, 0.1)" --seed=7',
        "--init=zeros --audit",
        "--model=cnn --init=delta_orthogonal --hidden=20x16",
        "--data_dir=/usr/share/datasets/fashion-mnist",
    ),
)


if __name__ == "__main__":
    console.run_program(_PROGRAM, main)
