"""The Jacobian between the first layer and the last, in a few random directions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax.auditing._measuring.explicit_sharding import automatic
from initjax.auditing._measuring.rerun import rerun
from initjax.auditing._reading.sites import Site
from initjax.auditing._reading.trace import Traced, output_aval

if TYPE_CHECKING:
    import jax

_PROBES = 4  # random directions in which the Jacobian is looked at


def jacobian_measurer(traced: Traced) -> Callable | None:
    """A function that measures the Jacobian between the first site and the last.

    None where the first is not upstream of all others, so that it would be that of a part.
    """
    import jax
    import jax.numpy as jnp

    if len(traced.anatomy.sites) < 2:
        return None
    first, *others = traced.anatomy.sites.values()
    if first.loops or others[-1].loops:
        return None
    last = others[-1]
    upstream = all(any(first.path in tag.sites for tag in site.inputs) for site in others)
    shape = output_aval(traced, first)
    axis, last_axis = _sample_axis(first, shape), _sample_axis(last, output_aval(traced, last))
    if not (upstream and first.differentiable and last.differentiable):
        return None
    if axis is None or last_axis is None:
        return None

    def passes(leaves: list[Any], batch: list[Any], constants: list[Any]) -> Any:
        def add(operands: list, results: list, slot: Any) -> tuple[list, Any]:
            return [results[0] + slot.astype(results[0].dtype), *results[1:]], None

        def keep(operands: list, results: list, slot: Any) -> tuple[list, Any]:
            return results, results[0]

        def between(shift: Any) -> Any:
            hooks = {first.output: add, last.output: keep}
            slots = {first.output: shift}
            _, records = rerun(traced.jaxpr, constants, [*leaves, *batch], hooks, slots)
            return records[last.output].astype(jnp.float32)

        outputs, pullback = jax.vjp(between, jnp.zeros(shape.shape, jnp.float32))
        per_example = outputs.size // outputs.shape[last_axis]
        directions = min(_PROBES, per_example)
        keys = jax.random.split(jax.random.key(0), directions)

        def pull(key: jax.Array) -> jax.Array:
            (back,) = pullback(jax.random.normal(key, outputs.shape, outputs.dtype))
            return back

        # Not in a loop: convolutions inside of one take XLA twenty times as long on a CPU.
        back = jnp.stack([pull(key) for key in keys])
        return automatic(functools.partial(_spectrum, axis, per_example))(back)

    compiled = jax.jit(passes)

    def measure(leaves: list[Any], batch: list[Any]) -> tuple[float, float]:
        log_norm, condition = compiled(leaves, batch, traced.constants)
        return float(np.exp(np.float64(log_norm))), float(condition)

    return measure


def _spectrum(axis: int, per_example: int, back: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The logarithm of the mean squared singular value, and the condition number in the directions
    that were pulled back: (directions, *shape of the first output)."""
    import jax.numpy as jnp

    back = jnp.moveaxis(back, axis + 1, 1)
    back = back.reshape(*back.shape[:2], -1)  # (directions, examples, numbers)
    largest = jnp.abs(back).max(initial=0)
    scale = jnp.where(largest > 0, largest, 1)
    gram = jnp.einsum("ien,jen->eij", back / scale, back / scale, precision="highest")
    norm = jnp.trace(gram, axis1=1, axis2=2).mean() / back.shape[0] / per_example
    spectrum = jnp.linalg.eigvalsh(gram)
    condition = jnp.sqrt(spectrum[:, -1] / jnp.maximum(spectrum[:, 0], 1e-30))
    return jnp.log(norm) + 2 * jnp.log(scale), jnp.median(condition)


def _sample_axis(site: Site, output: Any) -> int | None:
    """The first axis of a site's output that is none of its units'."""
    return next((axis for axis in range(output.ndim) if axis not in site.output_axes), None)
