"""The directory of a run: its files, written so that no finished epoch is lost.

    config.json          the configuration, versions, device and data; written first
    metrics.jsonl        one line per epoch: loss, acc, val_loss, val_acc; 0 is before training
    steps.jsonl          one line per training step: loss and acc of its batch
    params.safetensors   the parameters after the last finished epoch
    learning_curve.png   a plot of the metrics
    audit.json           the audit of the network before training, with --audit
    audits.jsonl         one line per audit during training, with --audit_every
    audits.png           a plot of the layers' signals in them
    summary.json         how the run ended, and its last metrics
    events.out.tfevents* the metrics of every epoch, for TensorBoard

Whole files are written under a temporary name and renamed; lines are appended in one write and
flushed to disk. A run that is stopped at any moment keeps every finished epoch.
"""

import contextlib
import itertools
import math
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.common import files
from experiments.common.config import UsageError

if TYPE_CHECKING:
    import tensorboardX

    from experiments.common import training


def check_free(workdir: str | None) -> None:
    """Checks that a directory can hold a new run: it is absent, empty, or None.

    Raises:
      UsageError: it can't.
    """
    if workdir is None or not os.path.lexists(workdir):
        return
    if not os.path.isdir(workdir):
        raise UsageError(f"--workdir={workdir} is not a directory")
    if os.listdir(workdir):
        raise UsageError(f"--workdir={workdir} is not empty; name a new directory")


@contextlib.contextmanager
def created(workdir: str | None, name: str) -> Iterator[pathlib.Path]:
    """Makes the directory of a new run for the work in this context, before the work.

    Nothing is left behind if the work fails before it has a result, such as a trained epoch.

    Args:
      workdir: as for `create`.
      name: as for `create`.

    Yields:
      The path of the directory, which is empty and writable.

    Raises:
      UsageError: as `create`.
    """
    missing = files.absent(pathlib.Path(workdir or "runs"))
    directory = create(workdir, name)
    try:
        yield directory
    except BaseException:
        if directory.is_dir() and not has_results(directory):
            for path in directory.iterdir():
                path.unlink()
            files.remove_empty(missing if workdir else [directory, *missing])
        raise


def has_results(directory: pathlib.Path) -> bool:
    """Whether a run has written more than what it starts with: a trained epoch, or an audit."""
    metrics = directory / "metrics.jsonl"
    if metrics.exists() and len(files.read_lines(metrics)) > 1:
        return True
    before = {"config.json", metrics.name, "params.safetensors"}  # there before anything is trained
    names = {path.name for path in directory.iterdir()} - before
    return not all(name.startswith("events.") for name in names)


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
    remedy = "name another --workdir"
    if workdir is not None:
        check_free(workdir)
        return files.prepare(pathlib.Path(workdir), remedy)
    slug = re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")[:120]
    for number in itertools.count(1):
        with contextlib.suppress(FileExistsError):
            directory = pathlib.Path("runs", slug if number == 1 else f"{slug}-{number}")
            return files.prepare(directory, remedy, new=True)
    raise AssertionError("unreachable")


def add_epoch(
    run: pathlib.Path, events: "tensorboardX.SummaryWriter", epoch: "training.Epoch"
) -> None:
    """Stores a finished epoch on disk.

    Args:
      run: the directory of the run.
      events: its event file, from `events`.
      epoch: the epoch.
    """
    save_params(run / "params.safetensors", epoch.params, {"epoch": str(epoch.number)})
    if epoch.batch_metrics is not None:
        steps = len(epoch.batch_metrics.loss)
        files.append_lines(
            run / "steps.jsonl",
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
    files.append_lines(run / "metrics.jsonl", [line])
    for name, value in epoch.metrics.items():
        split, _, metric = name.rpartition("_")
        if math.isfinite(value):  # TensorBoard can't show others
            events.add_scalar(f"{split or 'train'}/{metric}", value, epoch.number)
    events.flush()


def events(run: pathlib.Path) -> "tensorboardX.SummaryWriter":
    """Opens the TensorBoard event file of a run, which needs no TensorFlow."""
    # If PyTorch is installed, tensorboardX imports it just to recognize its tensors, which takes
    # longer than training. With None the import fails, which tensorboardX handles.
    hidden = sys.modules.setdefault("torch", None)  # pyright: ignore[reportArgumentType]
    try:
        import tensorboardX
    finally:
        if hidden is None:
            del sys.modules["torch"]
    return tensorboardX.SummaryWriter(str(run))


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
