"""Checkpoints of a training: all it needs to go on bit for bit, checked when they are read.

    checkpoints/STEP-DIGEST.safetensors   a state on one device
    checkpoints/STEP-DIGEST.orbax/        a state on several, see `sharded_checkpoints`

STEP counts over all epochs, and DIGEST is that of the content, so a checkpoint that was damaged,
cut short or replaced is noticed. It appears under its name when it is complete. It holds the
parameters and the state of the optimizer, leaf by leaf, and the metrics of all epochs so far.
"""

import hashlib
import json
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.common import (
    array_files,
    array_trees,
    files,
    fitting,
    sharded_checkpoints,
    training,
)
from experiments.common.tasks import Metrics

FORMAT = "initjax checkpoint 1"
"""Changes with what a checkpoint holds."""

_NAME = re.compile(r"(\d+)-([0-9a-f]{16})\.(safetensors|orbax)")
_SUMS = "sums of the epoch: "  # before the names of its metrics, among those of the leaves


class Unusable(ValueError):
    """A checkpoint can't be used; the message says why."""


class Checkpoint(NamedTuple):
    """A training that can go on."""

    point: fitting.Point
    steps: int
    """How many are done, over all epochs."""
    epochs: Sequence[fitting.Epoch]
    """The finished ones, from epoch 0 on; only number, metrics and seconds are kept."""
    seconds: float
    """How long the run took until here."""


def described(state: training.State) -> training.State:
    """The shapes, the dtypes and the shardings of a state, as `state` takes them."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


def names(folder: pathlib.Path) -> list[pathlib.Path]:
    """What may be a checkpoint in a folder, the one of the last step first; what isn't comes last.

    Hidden files are left out: they are of a process that is still writing, or was killed then.
    """

    def step(path: pathlib.Path) -> int:
        match = _NAME.fullmatch(path.name)
        return int(match[1]) if match else -1

    return sorted((path for path in folder.glob("[!.]*")), key=step, reverse=True)


def save(
    folder: pathlib.Path,
    checkpoint: Checkpoint,
    run: str,
    keep: Collection[pathlib.Path | None] = (),
    bad: Collection[pathlib.Path] = (),
) -> pathlib.Path:
    """Writes a checkpoint, and then removes those of earlier steps.

    Those of later steps stay: they may be of a process that has taken over this run.

    Args:
      folder: where to.
      checkpoint: what to write. All processes call this if its state is spread over them.
      run: what identifies the run, and is asked for by `read`.
      keep: earlier checkpoints that stay.
      bad: others that are removed.

    Returns:
      The path of the new checkpoint.
    """
    state = checkpoint.point.state
    if sharded_checkpoints.spread(state):
        record = _encoded(checkpoint, run, {})
        path = sharded_checkpoints.save(folder, f"{checkpoint.steps:09d}", state, record)
    else:
        content = _encoded(
            checkpoint, run, array_trees.named(jax.device_get(array_trees.words(state)))
        )
        path = folder / f"{checkpoint.steps:09d}-{_digest(content)}.safetensors"
        files.write(path, content)
    if jax.process_index() == 0:
        before = {
            path
            for path in names(folder)
            if (match := _NAME.fullmatch(path.name)) and int(match[1]) < checkpoint.steps
        }
        for other in (before | set(bad)) - {*keep, path}:
            files.remove(other)
    return path


def read(path: pathlib.Path, run: str, checked: bool = True) -> Checkpoint:
    """Reads and checks a checkpoint, all but its state.

    Args:
      path: as `names` lists it.
      run: as for `save`.
      checked: whether to look for damage; else it was done by another process.

    Returns:
      The checkpoint, whose state is None.

    Raises:
      Unusable: it is damaged, or of another run.
    """
    match = _NAME.fullmatch(path.name)
    if not match:
        raise Unusable("it isn't named as a checkpoint is")
    try:
        if match[3] == "orbax":
            content = (path / sharded_checkpoints.RECORD).read_bytes()
            digest = sharded_checkpoints.digest(path) if checked else match[2]
        else:
            content = path.read_bytes()
            digest = _digest(content)
    except OSError as error:
        raise Unusable(f"it can't be read ({error.strerror})") from None
    if digest != match[2]:
        raise Unusable("it is damaged: its content doesn't have the digest in its name")
    try:
        about, arrays = array_files.decoded(content)
    except array_files.Damaged as error:
        raise Unusable(f"it isn't a checkpoint ({error})") from None
    if about.get("format") != FORMAT:
        raise Unusable(f"its format is {about.get('format', 'unknown')}, not {FORMAT}")
    if about["run"] != run:
        raise Unusable("it is of another run")
    sums = Metrics(*(arrays.get(_SUMS + name) for name in Metrics._fields))
    record = json.loads(about["record"])
    epochs = [
        fitting.Epoch(number, metrics, None, None, seconds)
        for number, (metrics, seconds) in enumerate(record["epochs"])
    ]
    point = fitting.Point(None, record["epoch"], record["step"], sums)  # pyright: ignore[reportArgumentType]
    return Checkpoint(point, int(match[1]), epochs, record["seconds"])


def state(path: pathlib.Path, like: training.State) -> training.State:
    """Reads the state of a checkpoint that `read` has found to be good.

    Args:
      path: as `names` lists it.
      like: the state to expect, see `described`.

    Raises:
      Unusable: it is of another network, or can't be read. Other processes may have no error.
    """
    if path.suffix == ".orbax":
        try:
            return sharded_checkpoints.load(path, like)
        except Exception as error:  # Orbax raises many kinds
            reason = " ".join(str(error).split())[:200]
            raise Unusable(f"Orbax can't read it ({type(error).__name__}: {reason})") from None
    _, arrays = array_files.decoded(path.read_bytes())
    return _restored({name: arrays[name] for name in arrays if not name.startswith(_SUMS)}, like)


def _encoded(checkpoint: Checkpoint, run: str, leaves: Mapping[str, np.ndarray]) -> bytes:
    """A checkpoint with these leaves of its state as the content of a safetensors file."""
    point = checkpoint.point
    record = {
        "epoch": point.epoch,
        "step": point.step,
        "epochs": [(epoch.metrics, epoch.seconds) for epoch in checkpoint.epochs],
        "seconds": checkpoint.seconds,
    }
    sums = {
        _SUMS + name: np.asarray(column, np.float64)
        for name, column in point.sums._asdict().items()
        if column is not None
    }
    # Python writes and reads the exact values, also NaN and infinities.
    about = {"format": FORMAT, "run": run, "record": json.dumps(record)}
    return array_files.encoded({**leaves, **sums}, about)


def _restored(arrays: Mapping[str, np.ndarray], like: training.State) -> training.State:
    """The state that has these arrays, on the devices of `like`."""
    expected = array_trees.named(jax.eval_shape(array_trees.words, like))
    for name in dict.fromkeys([*expected, *arrays]):
        found, wanted = (
            f"{leaf.dtype}{list(leaf.shape)}" if (leaf := of.get(name)) is not None else "absent"
            for of in (arrays, expected)
        )
        if found != wanted:
            raise Unusable(f"it is of another network: {name} is {found}, not {wanted}")

    def placed(path: Any, leaf: Any) -> jax.Array:
        # Not shared with NumPy, since training donates it.
        found = jax.device_put(arrays[jax.tree_util.keystr(path)], may_alias=False)
        if array_trees.is_key(leaf):
            impl: list[Any] = []  # which only arrays tell
            jax.eval_shape(lambda key: impl.append(jax.random.key_impl(key)), leaf)
            found = jax.random.wrap_key_data(found, impl=impl[0])
        return jax.device_put(found, leaf.sharding)

    return jax.tree_util.tree_map_with_path(placed, like)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
