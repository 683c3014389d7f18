"""Checkpoints of a state that is spread over several devices or processes, written by Orbax.

    STEP-DIGEST.orbax/record.safetensors   what `checkpoints` writes besides the state
    STEP-DIGEST.orbax/state/               the state, each shard by the process that has it

All processes share the file system and call the functions together. Whatever is written is waited
for: a process that ends earlier loses it. DIGEST is that of the digests of all files, since Orbax
doesn't notice a changed number. Each process reads what it wrote for that; on resuming, the first
one reads all of it once.
"""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import jax

from experiments.common import files, processes

RECORD = "record.safetensors"


def spread(state: Any) -> bool:
    """Whether a state is spread over devices, none of which has all of it, or over processes."""
    whole = (leaf.is_fully_replicated for leaf in jax.tree.leaves(state))
    return jax.process_count() > 1 or not all(whole)


def save(folder: pathlib.Path, step: str, state: Any, record: bytes) -> pathlib.Path:
    """Writes a state, which is complete or absent under its name.

    Args:
      folder: where to.
      step: the beginning of the name.
      state: a tree of arrays; all processes have parts of it.
      record: the content of the record, which the first process writes.

    Returns:
      The path; in other processes than the first it has no digest.
    """
    import orbax.checkpoint as ocp

    first = jax.process_index() == 0
    # A random name, since another job may have taken this run over.
    suffix = processes.from_main(f"checkpoint {step}", lambda: os.urandom(8).hex())
    temporary = folder / f".{step}.{suffix}.tmp"
    if first:
        temporary.mkdir()
        files.write(temporary / RECORD, record)
    _together(f"checkpoint {step} begins")
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:  # which waits
        checkpointer.save((temporary / "state").absolute(), args=ocp.args.StandardSave(state))
    own = temporary / "state" / f"ocdbt.process_{jax.process_index()}"
    parts = processes.from_all(f"digests {step}", _digests(temporary, own, flush=True))
    path = folder / f"{step}.orbax"
    if first:
        # What a process didn't see yet of its own files, on a network file system, is read here.
        known = {name: content for part in parts for name, content in part.items()}
        known |= _digests(temporary, temporary, flush=True, known=known)
        path = folder / f"{step}-{_combined(known)}.orbax"
        if path.exists():  # with the same content
            files.remove(temporary)
        else:
            os.rename(temporary, path)
    _together(f"checkpoint {step} is there")
    return path


def load(path: pathlib.Path, like: Any) -> Any:
    """Reads a state.

    Args:
      path: what `save` returned in the first process.
      like: a tree of shapes, dtypes and shardings, which may differ from those that were saved.

    Raises:
      Exception: of many kinds, in some processes or in all.
    """
    import orbax.checkpoint as ocp
    from etils import epath  # of Orbax

    # A Checkpointer would wait for the other processes, also for one with an error.
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        state = epath.Path(path / "state").absolute()
        return handler.restore(state, args=ocp.args.StandardRestore(like))


def digest(folder: pathlib.Path) -> str:
    """The digest of all files in a folder and of their names."""
    return _combined(_digests(folder, folder))


def _digests(
    folder: pathlib.Path,
    part: pathlib.Path,
    flush: bool = False,
    known: Collection[str] = (),
) -> dict[str, str]:
    """The digest of each file in a part of a folder, by its name in the folder.

    Args:
      folder: with the files.
      part: which of them, a folder in that one, or itself.
      flush: whether to have them flushed to disk, too.
      known: names of files that are left out.
    """
    found = {}
    for file in part.rglob("*"):
        name = file.relative_to(folder).as_posix()
        if name not in known and file.is_file():
            with open(file, "rb") as opened:
                if flush:
                    os.fsync(opened.fileno())
                found[name] = hashlib.file_digest(opened, "sha256").hexdigest()
    return found


def _combined(digests: Mapping[str, str]) -> str:
    lines = (f"{content} {name}\n" for name, content in sorted(digests.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _together(event: str) -> None:
    """Waits until all processes are here."""
    from jax.experimental import multihost_utils

    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(event)
