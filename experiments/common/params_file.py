"""The file of parameters that `--params` names: read, checked, and pinned to its content.

It is a safetensors file as `run_directory.save_params` writes it. NumPy alone reads it, so that a
wrong file is reported before JAX is imported.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.common import run_directory
from experiments.common.config import Config, UsageError, grouped

_PIN = "@sha256:"
_DIGITS = 12  # of the digest that are shown: enough to notice a change, few enough for a line


class ParamsFile(NamedTuple):
    """What a file of parameters holds."""

    path: str
    digest: str
    """SHA-256 (hex) of the file."""
    arrays: dict[str, np.ndarray]
    """The parameters by their paths, such as "hidden/0/kernel"."""
    config: dict[str, Any]
    """The configuration of the network that they were made for, as far as the file says so."""


def pinned(config: Config) -> Config:
    """The configuration with the digest of the file of parameters in `params`, if there is one.

    Raises:
      UsageError: as for `read`.
    """
    if config.params is None:
        return config
    file = read(config.params)
    return dataclasses.replace(config, params=f"{file.path}{_PIN}{file.digest[:_DIGITS]}")


def read(spec: str) -> ParamsFile:
    """Reads and checks a file of parameters.

    Args:
      spec: the value of --params: a path, optionally with the first digits of the file's digest, as
        in "FILE@sha256:1f3a5c7d9e0b".

    Raises:
      UsageError: the file can't be read, is not what the digest says, or holds anything but finite
        floating-point numbers.
    """
    import safetensors
    import safetensors.numpy

    path, pin, wanted = spec.rpartition(_PIN) if _PIN in spec else (spec, "", "")
    if pin and not re.fullmatch("[0-9a-f]{6,64}", wanted):
        raise UsageError(f"--params={spec}: expected 6 to 64 hexadecimal digits after {_PIN}")
    file = pathlib.Path(path).expanduser()
    if os.path.isdir(file):
        raise UsageError(f"--params={path} is a directory; name a file: {file}/params.safetensors")
    # Such as a pipe, which can be read only once.
    if os.path.exists(file) and not os.path.isfile(file):
        raise UsageError(f"--params={path} is not a regular file; save it to one first")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"--params={path} cannot be read: {error.strerror}") from None
    digest = hashlib.sha256(content).hexdigest()
    if not digest.startswith(wanted):
        raise UsageError(
            f"--params={path} has changed: its sha256 is {digest[: len(wanted)]}, expected"
            f" {wanted}; leave out {pin}{wanted} to use it as it is"
        )
    try:
        arrays = safetensors.numpy.load(content)
        size = int.from_bytes(content[:8], "little")
        about = json.loads(content[8 : 8 + size]).get("__metadata__", {})
        made_for = json.loads(about.get("config", "{}"))
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--params={path} is not a file of parameters ({error}); expected a .safetensors file,"
            " as experiments.mnist and experiments.audit --fix write it"
        ) from None
    for name, array in arrays.items():
        if array.dtype not in (np.float32, np.float64):
            raise UsageError(f"--params={path}: {name} is {array.dtype}, expected float32")
        if bad := int(np.sum(~np.isfinite(array))):
            raise UsageError(
                f"--params={path}: {bad:,} of the {array.size:,} numbers in {name} are not finite"
            )
    return ParamsFile(path, digest, arrays, made_for)


def load(config: Config, shapes: Mapping[Any, Any]) -> dict[Any, Any]:
    """The parameters in the file that `config.params` names, as nested dicts.

    Args:
      config: names the file and the network.
      shapes: the network's parameters as nested dicts of leaves with a shape and a dtype.

    Raises:
      UsageError: as for `read`, and if the file does not fit the network.
    """
    assert config.params is not None
    file, leaves = read(config.params), dict(run_directory.flatten(shapes))
    found = {name: array.shape for name, array in file.arrays.items()}
    shape = ("--model=", "--residual", "--normalization=")
    network = " ".join(
        [flag for flag in config.arguments() if flag.startswith(shape)]
        + [f"--hidden={','.join(grouped(config.hidden))}"]
    )
    for name in dict.fromkeys([*leaves, *found]):
        if name not in found:
            problem = f"it has no {name}, which {network} needs"
        elif name not in leaves:
            problem = f"it has {name}, which {network} does not"
        elif found[name] != leaves[name].shape:
            problem = f"{name} is {found[name]}, but {network} needs {leaves[name].shape}"
        else:
            continue
        raise UsageError(f"--params={file.path} does not fit: {problem}{_made_for(found)}")
    for name, array in file.arrays.items():
        if array.dtype != leaves[name].dtype:
            raise UsageError(
                f"--params={file.path}: {name} is {array.dtype}, but --dtype={config.dtype} needs"
                f" {leaves[name].dtype}; {'give' if array.dtype == np.float64 else 'leave out'}"
                " --dtype=float64"
            )
    return run_directory.nested(file.arrays)


def _made_for(found: Mapping[str, tuple[int, ...]]) -> str:
    """The flag that names the network which the parameters of an MLP are for."""
    sizes = []
    while len(shape := found.get(f"hidden/{len(sizes)}/kernel", ())) == 2:
        sizes.append(shape[1])
    layers = {name.removesuffix("/kernel") for name in found if name.endswith("/kernel")}
    if layers != {*(f"hidden/{number}" for number in range(len(sizes))), "output"}:
        return ""
    return f"; the file is for --hidden={','.join(grouped(sizes))}"
