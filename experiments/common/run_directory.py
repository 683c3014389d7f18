"""The directory of a run: its files, written so that no finished epoch is lost.

    config.json          the configuration, versions, device and data; written first. `starts` has
                         what trained the run from which step on
    metrics.jsonl        one line per epoch: loss, acc, val_loss, val_acc; 0 is before training
    steps.jsonl          one line per training step: loss and acc of its batch
    params.safetensors   the parameters after the last finished epoch
    learning_curve.png   a plot of the metrics
    audit.json           the audit of the network before training, with --audit
    audits.jsonl         one line per audit during training, with --audit_every
    audits.png           a plot of the layers' signals in them
    summary.json         how the run ended, and its last metrics
    events.out.tfevents* the metrics of every epoch, for TensorBoard
    checkpoints          with --checkpoint_every or --resume, see `checkpoints`

Whole files are written under a temporary name and renamed; lines are appended in one write and
flushed to disk. A run that is stopped at any moment keeps every finished epoch.

A process that resumes a run takes it over: it puts new files of lines in place of those that are
there, as far as they are valid. Should another process still train that run, as the one that a
cluster is about to stop, it goes on to append to files without a name, and ends at its next pause.
That asks no more of the file system than that renaming is atomic.
"""

import contextlib
import itertools
import json
import math
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from experiments.common import files
from experiments.common.config import UsageError

if TYPE_CHECKING:
    import tensorboardX

    from experiments.common import fitting

CHECKPOINTS = "checkpoints"
"""The folder of a run that can be resumed, also before it has a checkpoint."""

_REMEDY = "name another --workdir"

PICTURE, AUDITS_PICTURE = "learning_curve.png", "audits.png"
"""What is drawn in the end."""

METRICS, STEPS, AUDITS = "metrics.jsonl", "steps.jsonl", "audits.jsonl"
"""The files that grow, line by line."""


class Output(NamedTuple):
    """What a run writes to while it is trained."""

    directory: pathlib.Path
    lines: Mapping[str, BinaryIO]
    """The files that grow, by their names."""
    events: "tensorboardX.SummaryWriter"

    def replaced(self) -> bool:
        """Whether another process has taken over the run."""
        mine = os.fstat(self.lines[METRICS].fileno())
        try:
            return not os.path.samestat(mine, os.stat(self.directory / METRICS))
        except OSError:  # it was removed
            return True


def check_free(workdir: str | None) -> None:
    """Checks that a directory can hold a new run: it is absent, empty, or None.

    Raises:
      UsageError: it can't.
    """
    if workdir is None or not os.path.lexists(workdir):
        return
    if not os.path.isdir(workdir):
        raise UsageError(f"--workdir={workdir} is not a directory")
    if is_resumable(pathlib.Path(workdir)):
        raise UsageError(
            f"--workdir={workdir} is not empty; add --resume to resume its run, or name a new"
            " directory"
        )
    if not is_empty(pathlib.Path(workdir)):
        raise UsageError(f"--workdir={workdir} is not empty; name a new directory")


def is_empty(directory: pathlib.Path) -> bool:
    """Whether a directory is absent or empty, but for what a killed process left of `write`."""
    return not os.path.lexists(directory) or all(
        re.fullmatch(r"\..*\.tmp", name) for name in os.listdir(directory)
    )


def is_resumable(directory: pathlib.Path) -> bool:
    """Whether a directory is that of a run with checkpoints, or to have some."""
    return (directory / CHECKPOINTS).is_dir()


@contextlib.contextmanager
def created(workdir: str | None, name: str, resumable: bool = False) -> Iterator[pathlib.Path]:
    """Makes the directory of a new run for the work in this context, before the work.

    Nothing is left behind if the work fails before it has a result, such as a trained epoch.

    Args:
      workdir: as for `create`.
      name: as for `create`.
      resumable: whether the run is to have checkpoints. Its directory may be one that
        `is_resumable`, and stays once training begins, since another process may resume it.

    Yields:
      The path of the directory, which is empty and writable.

    Raises:
      UsageError: as `create`.
    """
    resumed = resumable and workdir is not None and is_resumable(pathlib.Path(workdir))
    missing = files.absent(pathlib.Path(workdir or "runs"))
    if resumed and workdir is not None:
        directory = files.prepare(pathlib.Path(workdir), _REMEDY)
    else:
        directory = create(workdir, name)
    try:
        if resumable:
            folder = directory / CHECKPOINTS
            folder.mkdir(exist_ok=True)
            # What is younger may be of a process that is about to be stopped.
            for place in (directory, folder):
                files.remove_abandoned(place, ".*.tmp")
        yield directory
    except BaseException:
        started = resumed or (resumable and (directory / "config.json").exists())
        if directory.is_dir() and not started and not has_results(directory):
            for path in directory.iterdir():
                files.remove(path)
            files.remove_empty(missing if workdir else [directory, *missing])
        raise


def has_results(directory: pathlib.Path) -> bool:
    """Whether a run has written more than what it starts with: an epoch, an audit, a checkpoint."""
    metrics = directory / METRICS
    if metrics.exists() and metrics.read_bytes().count(b"\n") > 1:
        return True
    if any((directory / CHECKPOINTS).glob("[!.]*")):
        return True
    # There before anything is trained; the other files of lines are empty then.
    before = {"config.json", CHECKPOINTS, METRICS, "params.safetensors"}
    others = (path for path in directory.glob("[!.]*") if path.name not in before)
    return any(path.stat().st_size for path in others if not path.name.startswith("events."))


def create(workdir: str | None, name: str) -> pathlib.Path:
    """Makes the directory of a new run; never uses one that holds any files.

    Args:
      workdir: the directory; None makes a new one under `runs`, named after the run.
      name: of the run, any text; a number is added from the second run of that name on.

    Returns:
      The path of the directory, which exists and is empty.

    Raises:
      UsageError: the directory is not empty, or can't be made.
    """
    if workdir is not None:
        check_free(workdir)
        return files.prepare(pathlib.Path(workdir), _REMEDY)
    slug = re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")[:120]
    for number in itertools.count(1):
        with contextlib.suppress(FileExistsError):
            directory = pathlib.Path("runs", slug if number == 1 else f"{slug}-{number}")
            return files.prepare(directory, _REMEDY, new=True)
    raise AssertionError("unreachable")


@contextlib.contextmanager
def opened(run: pathlib.Path, lines: Mapping[str, bytes]) -> Iterator[Output]:
    """Opens the files that a run writes to while it is trained, as new ones.

    Args:
      run: its directory.
      lines: what its files of lines begin with, by their names.

    Raises:
      UsageError: another process has taken over the run at the same moment.
    """
    with contextlib.ExitStack() as contexts:
        output = {}
        for name, content in lines.items():
            written = files.write(run / name, content)
            output[name] = contexts.enter_context(open(run / name, "ab", buffering=0))
            if not os.path.samestat(written, os.fstat(output[name].fileno())):
                raise taken_over(run)
        before = [*run.glob("events.out.tfevents.*")]
        for path in before:
            path.unlink(missing_ok=True)
        # A TensorBoard that has read the old file forgets its steps.
        events = _events(run, purge_step=0 if before else None)
        contexts.callback(events.close)
        for line in map(json.loads, lines[METRICS].splitlines()):
            metrics = {name: value for name, value in line.items() if name not in _NO_METRICS}
            _add_events(events, line["epoch"], metrics)
        yield Output(run, output, events)


def taken_over(run: pathlib.Path) -> UsageError:
    """The error of a process that trains a run which another process has resumed."""
    return UsageError(f"another process has resumed the run in {run}; this one stops")


def add_epoch(output: Output, epoch: "fitting.Epoch") -> None:
    """Stores a finished epoch on disk.

    Args:
      output: the files of the run.
      epoch: the epoch.

    Raises:
      UsageError: another process has taken over the run.
    """
    if output.replaced():  # its parameters would stand under the name of the other's
        raise taken_over(output.directory)
    save_params(output.directory / "params.safetensors", epoch.params, {"epoch": str(epoch.number)})
    if epoch.batch_metrics is not None:
        steps = len(epoch.batch_metrics.loss)
        files.append_lines(
            output.lines[STEPS],
            (
                {
                    "step": (epoch.number - 1) * steps + step,
                    "epoch": epoch.number,
                    "loss": loss,
                    "acc": acc,
                }
                for step, (loss, acc) in enumerate(
                    zip(*(column.tolist() for column in epoch.batch_metrics), strict=True), start=1
                )
            ),
        )
    line = {"epoch": epoch.number, **epoch.metrics, "seconds": round(epoch.seconds, 4)}
    files.append_lines(output.lines[METRICS], [line])
    _add_events(output.events, epoch.number, epoch.metrics)


_NO_METRICS = ("epoch", "seconds")  # in a line of metrics.jsonl


def _add_events(
    events: "tensorboardX.SummaryWriter", epoch: int, metrics: Mapping[str, float | None]
) -> None:
    for name, value in metrics.items():
        split, _, metric = name.rpartition("_")
        if value is not None and math.isfinite(value):  # TensorBoard can't show others
            events.add_scalar(f"{split or 'train'}/{metric}", value, epoch)
    events.flush()


def _events(run: pathlib.Path, purge_step: int | None) -> "tensorboardX.SummaryWriter":
    """Opens the TensorBoard event file of a run, which needs no TensorFlow."""
    # If PyTorch is installed, tensorboardX imports it just to recognize its tensors, which takes
    # longer than training. With None the import fails, which tensorboardX handles.
    hidden = sys.modules.setdefault("torch", None)  # pyright: ignore[reportArgumentType]
    try:
        import tensorboardX
    finally:
        if hidden is None:
            del sys.modules["torch"]
    return tensorboardX.SummaryWriter(str(run), purge_step=purge_step)


def save_params(path: pathlib.Path, params: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Saves a tree of parameters as safetensors, named by their paths joined with "/"."""
    import safetensors.numpy

    flat = {name: np.asarray(value) for name, value in flatten(params)}
    files.write(path, safetensors.numpy.save(flat, metadata=dict(metadata)))


def load_params(path: pathlib.Path) -> dict[Any, Any]:
    """Loads what `save_params` saved: nested dicts of arrays."""
    import safetensors.numpy

    return nested(safetensors.numpy.load_file(path))


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """The leaves of nested dicts, each with its path."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def nested(leaves: Mapping[str, Any]) -> dict[Any, Any]:
    """The nested dicts that have these leaves at these paths."""
    tree: dict[Any, Any] = {}
    for name, value in leaves.items():
        *folders, leaf = (int(part) if part.isdigit() else part for part in name.split("/"))
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[leaf] = value
    return tree
