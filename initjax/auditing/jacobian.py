"""The Jacobian between the first layer and the last, in a few random directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax.auditing.rerun import rerun
from initjax.auditing.sites import Site
from initjax.auditing.trace import Traced, output_aval

if TYPE_CHECKING:
    import jax

_PROBES = 4  # random directions in which the Jacobian is looked at


def jacobian_measurer(traced: Traced) -> Callable | None:
    """A function that measures the Jacobian between the first site and the last."""
    import jax
    import jax.numpy as jnp

    sites = traced.anatomy.sites
    ends = list(sites.values())
    if len(ends) < 2 or ends[0].loops or ends[-1].loops:
        return None
    first, last = ends[0], ends[-1]
    if not (first.differentiable and last.differentiable):
        return None
    if _sample_axis(first) is None or _sample_axis(last) is None:
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

        shape = output_aval(traced, first)
        outputs, pullback = jax.vjp(between, jnp.zeros(shape.shape, jnp.float32))
        examples = outputs.shape[_sample_axis(last) or 0]
        per_example = outputs.size // examples
        directions = min(_PROBES, per_example)
        keys = jax.random.split(jax.random.key(0), directions)

        def pull(key: jax.Array) -> jax.Array:
            (back,) = pullback(jax.random.normal(key, outputs.shape, outputs.dtype))
            return jnp.moveaxis(back, _sample_axis(first) or 0, 0).reshape(
                back.shape[_sample_axis(first) or 0], -1
            )

        back = jax.lax.map(pull, keys)  # (directions, examples, numbers)
        largest = jnp.abs(back).max(initial=0)
        scale = jnp.where(largest > 0, largest, 1)
        gram = jnp.einsum("ien,jen->eij", back / scale, back / scale, precision="highest")
        norm = jnp.trace(gram, axis1=1, axis2=2).mean() / directions / per_example
        spectrum = jnp.linalg.eigvalsh(gram)
        condition = jnp.sqrt(spectrum[:, -1] / jnp.maximum(spectrum[:, 0], 1e-30))
        return jnp.log(norm) + 2 * jnp.log(scale), jnp.median(condition)

    compiled = jax.jit(passes)

    def measure(leaves: list[Any], batch: list[Any]) -> tuple[float, float]:
        log_norm, condition = compiled(leaves, batch, traced.constants)
        return float(np.exp(np.float64(log_norm))), float(condition)

    return measure


def _sample_axis(site: Site) -> int | None:
    """The first axis of a site's output that is none of its units'."""
    axis = 0
    while axis in site.output_axes:
        axis += 1
    return axis if axis <= len(site.output_axes) else None
