"""Statistics of the parameters themselves, and the first numbers of each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from initjax.auditing._measuring.jobs import Job
from initjax.auditing._measuring.taps import Taps
from initjax.auditing._reading.trace import Traced

_PRINT = 4096  # numbers of a parameter that are compared with another's
_SAMPLE = 2**18  # numbers of which the first step is looked at


def depths_of(traced: Traced) -> list[int]:
    """How many leading axes of every parameter number weights of their own."""
    depths = [0] * len(traced.names)
    for site in traced.anatomy.sites.values():
        for source in site.sources:
            depths[source.leaf] = max(depths[source.leaf], site.slices(source))
    return depths


def parameter_job(leaves: list[Any], depths: list[int], taps: Taps) -> Job:
    """The job of all parameters: for each its statistics, and its first numbers."""
    arrays = {
        "leaf": {index: leaves[index] for index in taps.gradients},
        "gradient": taps.gradients,
        "update": taps.updates,
    }
    return Job(_statistics_of_all, tuple(depths), arrays)


def _statistics_of_all(depths: tuple[int, ...], arrays: dict[str, Any], flat: Any) -> Any:
    return [
        _statistics(depth, *(arrays[name].get(index) for name in ("leaf", "gradient", "update")))
        for index, depth in enumerate(depths)
    ]


def _statistics(depth: int, leaf: Any, gradient: Any, update: Any) -> tuple[dict[str, Any], Any]:
    """Statistics of a parameter, and its first numbers; nothing where there is no gradient."""
    prints = np.zeros((0, 0), np.float32)
    if leaf is None:
        return {}, prints
    found = {
        "finite": _all_finite(leaf),
        "learning": (gradient != 0).any(),
        "zero": (leaf == 0).all(),
    }
    if update is not None:
        found |= {"stddev": _stddev(leaf), "update": _stddev(update)}
        found |= _first_step(leaf, gradient, update)
    if leaf.ndim - depth >= 2 and not np.issubdtype(leaf.dtype, np.complexfloating):
        slices = leaf.reshape(math.prod(leaf.shape[:depth]), -1)
        prints = slices[:, :_PRINT].astype(np.float32)
    return found, prints


def _first_step(leaf: Any, gradient: Any, update: Any) -> dict[str, Any]:
    """What the first step changes, in a sample of the numbers.

    `compare_leaves` says the same of any two trees.
    """
    size, every = leaf.size, -(-leaf.size // _SAMPLE) or 1
    leaf, gradient, update = (each.reshape(-1)[::every] for each in (leaf, gradient, update))
    moved = (leaf + update).astype(leaf.dtype) != leaf  # as optax.apply_updates rounds
    found = {"steps": (update != 0).sum(), "moved": moved.sum(), "numbers": size}
    if np.issubdtype(leaf.dtype, np.complexfloating):
        return found
    downhill = ((update < 0) & (gradient > 0)) | ((update > 0) & (gradient < 0))
    uphill = ((update > 0) & (gradient > 0)) | ((update < 0) & (gradient < 0))
    bare = (update == gradient).all()
    return {**found, "downhill": downhill.sum(), "uphill": uphill.sum(), "bare": bare}


def _all_finite(array: Any) -> Any:
    return array.__array_namespace__().isfinite(array).all()


def _stddev(array: Any) -> Any:
    """The standard deviation, in float32: exactly zero for a constant or empty array."""
    if not array.size:
        return np.float32(0)
    if not np.issubdtype(array.dtype, np.complexfloating):
        array = array.astype(np.float32)
    numbers = array.reshape(-1)
    return (numbers - numbers[:1].sum()).std()


def described_parameter(found: dict[str, Any], leaf: Any, gradient: Any) -> dict[str, float]:
    """The numbers that a parameter is judged by; none if it has no gradient."""
    if not found:
        return {}
    numbers = {name: float(value) for name, value in found.items() if name != "finite"}
    broken = False
    if not found["finite"]:
        # An infinite number without a gradient may be meant, as in a mask.
        array = np.asarray(leaf)
        broken = bool((np.isnan(array) | (np.isinf(array) & (np.asarray(gradient) != 0))).any())
    return {**numbers, "broken": float(broken)}
