"""Statistics of many arrays: by NumPy on a CPU, by one small program per shape elsewhere.

NumPy reads the arrays of a CPU without a copy, and compiles nothing.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from initjax.auditing._measuring.explicit_sharding import automatic
from initjax.auditing._measuring.flatness import flat_in_blocks, flatness

_FEW = 2**20  # numbers, for which threads would take longer to start


class Job(NamedTuple):
    """One call of a function of static arguments and arrays."""

    function: Callable
    static: Any
    arrays: dict[str, Any]


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Where JAX's debugging modes don't apply.

    NaN and infinity are results here: they mark what did not run or can't be measured, and what is
    broken is reported. A key of the batch is used again, since the loss is run several times.
    """
    import jax

    with jax.debug_nans(False), jax.debug_infs(False), jax.debug_key_reuse(False):
        yield


def run_jobs(jobs: list[Job], host: bool) -> list[Any]:
    """The results of jobs, as NumPy arrays, in their order.

    Args:
      jobs: what to do.
      host: whether NumPy can read all their arrays.
    """
    import jax

    if host:
        if sum(map(np.size, jax.tree.leaves([job.arrays for job in jobs]))) < _FEW:
            return [_with_numpy(job) for job in jobs]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy frees the GIL
            return list(pool.map(_with_numpy, jobs))
    with jax.default_matmul_precision("highest"):
        programs = [_packed(job) for job in jobs]
        vectors = [program.run(job.arrays) for program, job in zip(programs, jobs, strict=True)]
    vectors = jax.device_get(vectors)  # one transfer for each job
    return [program.unpacked(vector) for program, vector in zip(programs, vectors, strict=True)]


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


class _Packed(NamedTuple):
    """A compiled job, whose results come as one vector."""

    run: Callable[[dict[str, Any]], Any]
    structure: Any
    shapes: tuple[tuple[int, ...], ...]

    def unpacked(self, vector: np.ndarray) -> Any:
        """The results, from their vector."""
        import jax

        arrays, start = [], 0
        for shape in self.shapes:
            end = start + math.prod(shape)
            arrays.append(vector[start:end].reshape(shape))
            start = end
        return jax.tree.unflatten(self.structure, arrays)


def _packed(job: Job) -> _Packed:
    import jax

    leaves, structure = jax.tree.flatten(job.arrays)
    types = tuple(
        (leaf.shape, leaf.dtype) if isinstance(leaf, jax.Array) else _type_of(leaf)
        for leaf in leaves
    )
    return _compiled(job.function, job.static, structure, types)


def _type_of(leaf: Any) -> tuple[tuple[int, ...], Any]:
    """The shape and dtype that JAX gives an array of NumPy's or a number."""
    import jax.numpy as jnp

    return np.shape(leaf), jnp.result_type(leaf)


@functools.lru_cache(maxsize=512)
def _compiled(function: Callable, static: Any, structure: Any, types: Any) -> _Packed:
    import jax
    import jax.numpy as jnp

    def results(arrays: dict[str, Any]) -> Any:
        # What the user has as NumPy arrays or Python numbers is converted here.
        return function(static, jax.tree.map(jnp.asarray, arrays), flatness)

    def packed(arrays: dict[str, Any]) -> Any:
        def vector(*leaves: Any) -> Any:
            parts = jax.tree.leaves(results(jax.tree.unflatten(structure, leaves)))
            return jnp.concatenate([jnp.ravel(part).astype(jnp.float32) for part in parts])

        return automatic(vector)(*jax.tree.leaves(arrays))

    given = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*each) for each in types])
    shapes, found = jax.tree.flatten(jax.eval_shape(results, given))
    return _Packed(jax.jit(packed), found, tuple(each.shape for each in shapes))
