"""Statistics of many arrays: by NumPy on a CPU, by one small program per shape elsewhere.

NumPy reads the arrays of a CPU without a copy, and compiles nothing.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from initjax.auditing._measuring.flatness import flat_in_blocks, flatness

_FEW = 2**20  # numbers, for which threads would take longer to start


class Job(NamedTuple):
    """One call of a function of static arguments and arrays."""

    function: Callable
    static: Any
    arrays: dict[str, Any]


def run_jobs(jobs: list[Job]) -> list[Any]:
    """The results of jobs, as NumPy arrays, in their order."""
    import jax

    arrays = jax.tree.leaves([job.arrays for job in jobs])
    if all(map(on_host, arrays)):
        if sum(map(np.size, arrays)) < _FEW:
            return [_with_numpy(job) for job in jobs]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy frees the GIL
            return list(pool.map(_with_numpy, jobs))
    with jax.default_matmul_precision("highest"):
        found = [_compiled(job.function, job.static)(job.arrays) for job in jobs]
    return jax.device_get(found)


def on_host(array: Any) -> bool:
    """Whether NumPy can read an array without a transfer."""
    if isinstance(array, np.ndarray | np.generic | int | float | complex):
        return True
    return array.is_fully_addressable and all(d.platform == "cpu" for d in array.devices())


def _with_numpy(job: Job) -> Any:
    import jax

    arrays = jax.tree.map(np.asarray, job.arrays)
    with np.errstate(all="ignore"):
        return job.function(job.static, arrays, flat_in_blocks)


@functools.lru_cache(maxsize=512)
def _compiled(function: Callable, static: Any) -> Callable:
    import jax

    return jax.jit(lambda arrays: function(static, arrays, flatness))
