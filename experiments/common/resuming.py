"""Resuming a run of `experiments.mnist` in its directory, from its last checkpoint.

A checkpoint says which lines of the run's files were written before it. On resuming, the lines
after them are cut off, and training writes them again, bit for bit.
"""

import dataclasses
import functools
import json
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.common import data, description, files, processes, run_directory
from experiments.common.config import INITIALIZERS, Config, UsageError, canonical, grouped

# JAX, and what imports it, is imported in the functions, so that wrong flags are reported first.
if TYPE_CHECKING:
    from experiments.common import checkpoints, fitting, meshes, starting

ELSEWHERE = ("dataset", "data_dir")
"""The fields of `Config` that may differ between machines: the digest of the data tells."""


class Place(NamedTuple):
    """Where a run begins, which may be in its middle."""

    lines: dict[str, bytes]
    """What is kept of its files of lines."""
    run: str
    """What identifies it: its configuration, however many epochs it is trained for."""
    per_epoch: int
    """The steps of an epoch."""
    all_epochs: int
    """How many it is trained for."""
    point: "fitting.Point | None" = None
    """None is before the first step."""
    steps: int = 0
    """How many are done, over all epochs."""
    epochs: "Sequence[fitting.Epoch]" = ()
    """The finished ones, without parameters."""
    seconds: float = 0.0
    """How long it took."""
    path: pathlib.Path | None = None
    """The checkpoint."""
    unusable: Mapping[pathlib.Path, str] = {}
    """The checkpoints after that which can't be used, and why."""


def record(
    workdir: str | None, config: Config, flags: Mapping[str, Any], digest: str | None = None
) -> dict[str, Any] | None:
    """The content of config.json of the run to resume; None if the directory has none yet.

    Args:
      workdir: the directory.
      config: what the flags say.
      flags: others that must be what they were, as config.json has them.
      digest: of the data, once they are loaded.

    Raises:
      UsageError: the directory holds something else, or flags differ from those of its run.
    """
    if workdir is None:
        raise UsageError("--resume needs --workdir, the directory of the run")
    directory = pathlib.Path(workdir)
    if not directory.is_dir() or run_directory.is_empty(directory):
        run_directory.check_free(workdir)  # it may be a file
        return None
    if not run_directory.is_resumable(directory):
        raise UsageError(
            f"--workdir={workdir} holds no run with checkpoints, so there is nothing to resume;"
            " name a new directory"
        )
    if not run_directory.has_results(directory):  # so nothing is lost, whatever it was
        return None
    try:
        found = json.loads((directory / "config.json").read_text())
        before, trained_on = dict(found["config"], **found["flags"]), found["data"]["digest"]
        different = [
            f"{_text(name, value)} (it has {_text(name, before.get(name))})"
            for name, value in {**dataclasses.asdict(config), **flags}.items()
            if not _agree(name, before.get(name), value)
        ]
        for start in found["starts"]:
            _environment(start)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{directory / 'config.json'} cannot be read ({error}), so the run can't be resumed;"
            " name a new --workdir"
        ) from None
    if different:
        raise UsageError(
            f"cannot resume the run in {workdir} with {', '.join(different)}; give the flags that"
            " it has (only --epochs may grow), or name a new --workdir"
        )
    if digest not in (None, trained_on):
        raise UsageError(
            f"cannot resume the run in {workdir}: it was trained on other data, with another"
            " checksum; name its --dataset or --data_dir, or a new --workdir"
        )
    return found


def _agree(name: str, before: Any, now: Any) -> bool:
    """Whether a run with one value of a flag can go on with another."""
    if name in ELSEWHERE:
        return True
    if name == "epochs":
        return now >= before
    if name in INITIALIZERS:
        return canonical(now) == canonical(before)
    if name == "model":  # before its content is looked at, it has no digest
        return now == before or now == before.partition("@")[0]
    return (list(now) if isinstance(now, tuple) else now) == before


def _text(name: str, value: Any) -> str:
    """The flag that gives a value."""
    if value is None or value is False:
        return f"no --{name}"
    if value is True:
        return f"--{name}"
    return f"--{name}={','.join(grouped(value)) if isinstance(value, list | tuple) else value}"


def finished(workdir: str, epochs: int) -> dict[str, Any] | None:
    """The content of summary.json of a run that has finished so many epochs, else None.

    A run is finished when its pictures are there, too: they are drawn last.
    """
    directory = pathlib.Path(workdir)
    try:
        found = json.loads((directory / "summary.json").read_text())
        ended = found["status"] == "finished" and found["epochs"] >= epochs
    except (OSError, ValueError, KeyError, TypeError):
        return None
    pictures = [run_directory.PICTURE]
    if (directory / run_directory.AUDITS).exists():
        pictures.append(run_directory.AUDITS_PICTURE)
    drawn = all((directory / name).exists() for name in pictures)
    if not drawn or not ended:
        return None
    return {name: math.nan if value is None else value for name, value in found.items()}


def begin(
    directory: pathlib.Path,
    config: Config,
    dataset: data.Dataset,
    start: "starting.Start",
    audit_every: int | None,
    resume: bool,
    placement: "meshes.Placement | None" = None,
) -> Place:
    """Finds the last good checkpoint of a run and the lines that were written before it.

    Args:
      directory: of the run.
      config: of the run.
      dataset: what it is trained on.
      start: its starting point.
      audit_every: as for `mnist.run`.
      resume: whether there may be a checkpoint.
      placement: the mesh of devices that train it.

    Raises:
      UsageError: there are checkpoints, but no good one.
    """
    from experiments.common import batching, checkpoints, starting, training

    examples = len(dataset.train_labels)
    sizes = batching.batch_sizes(examples, min(config.batch_size, examples), config.steps)
    names = [run_directory.METRICS, run_directory.STEPS]
    if audit_every:
        names.append(run_directory.AUDITS)
    place = Place(
        dict.fromkeys(names, b""),
        dataclasses.replace(config, epochs=1).identity(dataset.digest),
        len(sizes),
        config.epochs,
    )
    folder = directory / run_directory.CHECKPOINTS
    # The first process looks for the last good one, so that all take the same.
    names = processes.from_main(
        "checkpoints", lambda: [path.name for path in checkpoints.names(folder)] if resume else []
    )
    if not names:
        return place
    rate: Any = config.learning_rate  # no longer None
    like = checkpoints.described(
        training.initial_state(
            starting.optimizer(config, start.model), rate, start.packed, placement=placement
        )
    )
    unusable: dict[pathlib.Path, str] = {}
    for path in (folder / name for name in names):
        seen: list[Place] = []

        def look(path: pathlib.Path = path, seen: list[Place] = seen, checked: bool = True) -> None:
            saved = checkpoints.read(path, place.run, checked)
            seen.append(_at(saved, place, directory, audit_every))

        problem = processes.from_main(path.name, functools.partial(_problem, look))
        if problem is None:
            state = None
            try:
                if not seen:  # in the other processes
                    look(checked=False)
                state = checkpoints.state(path, like)
            except (checkpoints.Unusable, OSError) as error:
                problem = str(error)
            if processes.least(problem is None):
                (found,) = seen
                assert found.point and state
                point = found.point._replace(state=state)
                return found._replace(point=point, path=path, unusable=unusable)
        unusable[path] = problem or "another process can't read it"
    listed = "; ".join(f"{path.name}: {why}" for path, why in unusable.items())
    raise UsageError(
        f"no checkpoint in {folder} can be used ({listed}); delete all that is in {folder} to"
        " train from the start, or name a new --workdir"
    )


def _problem(look: Callable[[], Any]) -> str | None:
    """Why a checkpoint can't be used, if looking at it shows that."""
    from experiments.common import checkpoints

    try:
        look()
    except checkpoints.Unusable as error:
        return str(error)


def _at(
    saved: "checkpoints.Checkpoint", place: Place, directory: pathlib.Path, audit_every: int | None
) -> Place:
    """The place of a checkpoint, with the lines that were written before it.

    Raises:
      Unusable: some of them are missing.
    """
    from experiments.common import checkpoints
    from experiments.common.tasks import Metrics

    finished, per_epoch = saved.point.epoch - 1, place.per_epoch
    wanted: dict[str, tuple[int, Callable[[files.Record], bool]]] = {
        run_directory.METRICS: (finished + 1, lambda line: line["epoch"] <= finished),
        run_directory.STEPS: (finished * per_epoch, lambda line: line["epoch"] <= finished),
    }
    if audit_every:
        count = saved.steps // audit_every + 1
        wanted[run_directory.AUDITS] = count, lambda line: line["step"] <= saved.steps
    lines, steps = {}, []
    for name, (count, before) in wanted.items():
        lines[name], records = _beginning(directory / name, before)
        if len(records) != count:
            raise checkpoints.Unusable(
                f"{name} has {len(records):,} of the {count:,} lines from before it"
            )
        if name == run_directory.STEPS:
            steps = records
    columns = [np.array([line[name] for line in steps], np.float64) for name in ("loss", "acc")]
    epochs = [saved.epochs[0]] + [
        epoch._replace(batch_metrics=Metrics(*metrics))
        for epoch, *metrics in zip(
            saved.epochs[1:],
            *(column.reshape(finished, per_epoch) for column in columns),
            strict=True,
        )
    ]
    return place._replace(
        lines=lines, point=saved.point, steps=saved.steps, epochs=epochs, seconds=saved.seconds
    )


def _beginning(
    path: pathlib.Path, wanted: Callable[[files.Record], bool]
) -> tuple[bytes, list[files.Record]]:
    """The lines of a file before the first that isn't wanted, is damaged or cut short."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError:
        return b"", []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
            if not (line.endswith(b"\n") and wanted(record)):
                break
        except (ValueError, KeyError, TypeError):
            break
        records.append(record)
    return b"".join(lines[: len(records)]), records


def saver(
    directory: pathlib.Path,
    began: Place,
    every: int | None,
    epochs: "Sequence[fitting.Epoch]",
    asked: Callable[[], type[KeyboardInterrupt] | None],
    replaced: Callable[[], bool] = lambda: False,
) -> "Callable[[fitting.Point], None]":
    """Makes the function that `fitting.fit` calls at its pauses, which saves checkpoints.

    It saves one after every so many steps, at the end, and when the program is asked to stop, which
    it then does.

    Args:
      directory: of the run.
      began: where training begins.
      every: steps from one checkpoint to the next; None saves none in between.
      epochs: those that are finished; more are added to it.
      asked: returns what to raise if the program is asked to stop, see `console.interrupt_later`.
      replaced: whether another process has taken the run over, see `run_directory.Output`.
    """
    from experiments.common import checkpoints

    started, path, unusable = time.perf_counter(), began.path, began.unusable
    folder = directory / run_directory.CHECKPOINTS

    def pause(point: "fitting.Point") -> None:
        nonlocal path, unusable
        if replaced():
            raise run_directory.taken_over(directory)
        done, stop = (point.epoch - 1) * began.per_epoch + point.step, asked()
        finished = point.epoch > began.all_epochs
        if stop or finished or (every and done % every == 0):
            seconds = began.seconds + time.perf_counter() - started
            saved = checkpoints.Checkpoint(point, done, epochs, seconds)
            try:
                path, unusable = checkpoints.save(folder, saved, began.run, [path], unusable), {}
            except Exception:
                if replaced():  # whoever has taken over tidies up
                    raise run_directory.taken_over(directory) from None
                raise
        if stop and not finished:
            raise stop

    return pause


def starts(
    began: Place, before: Mapping[str, Any] | None, now: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """On what a run was trained, from which step on: `starts` of its config.json.

    Args:
      began: where it begins this time.
      before: the content of config.json; None if there is none.
      now: as it would be if the run started now.

    Returns:
      The starts that trained the steps before this one, and this one.
    """
    kept = [start for start in (before or {}).get("starts", []) if start["step"] < began.steps]
    return [*kept, {"step": began.steps, **{name: now[name] for name in _TRAINED_ON}}]


_TRAINED_ON = ("mesh", "device", "versions")


def lines(began: Place, directory: pathlib.Path, starts: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to print about the place where a run begins.

    Args:
      began: the place.
      directory: of the run.
      starts: as the function of that name returns them.
    """
    found = [
        line
        for path, why in began.unusable.items()
        for line in description.entry("warning", f"checkpoint {path.name} can't be used: {why}")
    ]
    if began.path is None:
        text = f"no checkpoint in {directory} yet: training starts"
    else:
        age = max(0.0, files.now(directory) - began.path.stat().st_mtime)
        where = f"step {began.steps:,} of {began.all_epochs * began.per_epoch:,}"
        text = f"from {where}, saved {description.ago(age)}"
        if began.unusable:
            text = f"from the previous good one, of {where}, saved {description.ago(age)}"
    found += description.entry("resume", text)
    *before, now = map(_environment, starts)
    if others := [name for name in now if any(start[name] != now[name] for start in before)]:
        text = f"other {' and '.join(others)} than at an earlier start of this run"
        found += description.entry("note", f"{text}: its numbers may differ by rounding")
    return found


def _environment(start: Mapping[str, Any]) -> dict[str, Any]:
    """What the last digits of a run depend on."""
    device = start["device"]
    return {
        "mesh": start["mesh"],
        "device": (device["kind"], device["platform"] == "cpu" and device["processor"]),
        "versions": start["versions"],
    }
