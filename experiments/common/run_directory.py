"""The directory of a run: what is in it, and how it is written so that nothing is ever lost.

    config.json          the configuration, versions, device and data of the run; written first
    metrics.jsonl        a line an epoch: loss, acc, val_loss, val_acc; epoch 0 is before training
    steps.jsonl          a line a training step: loss and acc of its batch
    params.safetensors   the parameters after the last finished epoch
    learning_curve.png   the picture of the above
    audit.json           what an audit of the network before training found, if there was one
    summary.json         how the run ended, and its last metrics
    events.out.tfevents* the metrics of every epoch, for TensorBoard

Whole files appear by renaming, complete or not at all; lines are appended whole and flushed to the
disk, so that a run stopped at any moment keeps every finished epoch.
"""

import contextlib
import itertools
import math
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.common import files

if TYPE_CHECKING:
    import tensorboardX

    from experiments.common import training


def check_free(workdir: str | None) -> None:
    """Checks that a directory can be that of a new run: it is absent, or empty, or None.

    Raises:
      ValueError: it is not.
    """
    if workdir == "":
        raise ValueError("--workdir= names no directory")
    if workdir is None or not os.path.lexists(workdir):
        return
    if not os.path.isdir(workdir):
        raise ValueError(f"--workdir={workdir} is not a directory")
    if os.listdir(workdir):
        raise ValueError(f"--workdir={workdir} is not empty: a run needs a directory of its own")


def create(workdir: str | None, name: str) -> pathlib.Path:
    """Makes the directory of a new run, and never takes one that holds anything already.

    Args:
      workdir: the directory; None makes a new one under `runs`, called after the run.
      name: what distinguishes the run, any text; from the second run of a name on, numbered.

    Returns:
      The path of the directory, which exists and is empty.

    Raises:
      ValueError: the directory is not free, or cannot be made.
    """
    if workdir is not None:
        check_free(workdir)
        return _made(pathlib.Path(workdir), exist_ok=True)
    try:
        pathlib.Path("runs").mkdir(exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make runs ({error.strerror}): name a --workdir") from None
    slug = re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")[:120]
    for number in itertools.count(1):
        with contextlib.suppress(FileExistsError):
            return _made(pathlib.Path("runs", slug if number == 1 else f"{slug}-{number}"))
    raise AssertionError("unreachable")


def _made(path: pathlib.Path, exist_ok: bool = False) -> pathlib.Path:
    try:
        path.mkdir(parents=True, exist_ok=exist_ok)
    except FileExistsError:
        raise
    except OSError as error:
        raise ValueError(f"cannot make {path} ({error.strerror}): name another --workdir") from None
    return path


def add_epoch(
    run: pathlib.Path, events: "tensorboardX.SummaryWriter", epoch: "training.Epoch"
) -> None:
    """Stores a finished epoch, at once and for good.

    Args:
      run: the directory of the run.
      events: its event file, from `events`.
      epoch: the epoch.
    """
    save_params(run / "params.safetensors", epoch.params, epoch.number)
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
        if math.isfinite(value):  # TensorBoard has no place for others
            events.add_scalar(f"{split or 'train'}/{metric}", value, epoch.number)
    events.flush()


def events(run: pathlib.Path) -> "tensorboardX.SummaryWriter":
    """Opens the TensorBoard event file of a run, which needs no TensorFlow."""
    # Where PyTorch is installed tensorboardX imports it, only to know its tensors by type: that
    # takes longer than the training does. None makes that import fail, which it is prepared for.
    hidden = sys.modules.setdefault("torch", None)  # pyright: ignore[reportArgumentType]
    try:
        import tensorboardX
    finally:
        if hidden is None:
            del sys.modules["torch"]
    return tensorboardX.SummaryWriter(str(run))


def save_params(path: pathlib.Path, params: Mapping[str, Any], epoch: int) -> None:
    """Saves a tree of parameters as safetensors, named by their paths joined with "/"."""
    import safetensors.numpy

    flat = {name: np.asarray(value) for name, value in _flatten(params)}
    files.write(path, safetensors.numpy.save(flat, metadata={"epoch": str(epoch)}))


def load_params(path: pathlib.Path) -> dict[Any, Any]:
    """Loads what `save_params` saved: nested dicts of arrays."""
    import safetensors.numpy

    params: dict[Any, Any] = {}
    for name, value in safetensors.numpy.load_file(path).items():
        *folders, leaf = (int(part) if part.isdigit() else part for part in name.split("/"))
        place = params
        for folder in folders:
            place = place.setdefault(folder, {})
        place[leaf] = value
    return params


def _flatten(tree: Mapping[Any, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value
