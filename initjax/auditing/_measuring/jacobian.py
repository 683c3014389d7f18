"""The Jacobian between the first layer and the last, in a few random directions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from initjax.auditing._measuring.explicit_sharding import automatic
from initjax.auditing._measuring.rerun import rerun
from initjax.auditing._reading.sites import Site
from initjax.auditing._reading.trace import Traced, output_aval

_PROBES = 4  # random directions in which the Jacobian is looked at
_BOUND = 3**0.5  # of uniform numbers with unit variance


class JacobianProbe(NamedTuple):
    """How a Jacobian is measured."""

    pulled: Callable[[list[Any], list[Any], list[Any]], Any]
    """Maps parameters, batch and constants to the pulled directions: (directions, *output of the
    first layer)."""
    axis: int
    """Of the first layer's output: along which the examples are."""
    per_example: int
    """How many numbers the last layer has for each of its examples."""


def jacobian_probe(traced: Traced) -> JacobianProbe | None:
    """How to measure the Jacobian between the first site and the last.

    None where the first is not upstream of all others, since it would be that of a part.
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
    first_shape, last_shape = output_aval(traced, first), output_aval(traced, last)
    axis, last_axis = _sample_axis(first, first_shape), _sample_axis(last, last_shape)
    if not (upstream and first.differentiable and last.differentiable):
        return None
    if axis is None or last_axis is None:
        return None
    per_example = last_shape.size // last_shape.shape[last_axis]

    def pulled(leaves: list[Any], batch: list[Any], constants: list[Any]) -> Any:
        def add(operands: list, results: list, slot: Any) -> tuple[list, Any]:
            return [results[0] + slot.astype(results[0].dtype), *results[1:]], None

        def keep(operands: list, results: list, slot: Any) -> tuple[list, Any]:
            return results, results[0]

        def between(shift: Any) -> Any:
            hooks = {first.output: add, last.output: keep}
            slots = {first.output: shift}
            _, records = rerun(traced.jaxpr, constants, [*leaves, *batch], hooks, slots)
            return automatic(lambda output: output.astype(jnp.float32))(records[last.output])

        outputs, pullback = jax.vjp(between, jnp.zeros(first_shape.shape, jnp.float32))
        # Threefry takes XLA longer to compile than a network of three layers.
        key = jax.random.key(0, impl="rbg")
        shape = (min(_PROBES, per_example), *outputs.shape)
        # Normal numbers would take a second for as many logits as GPT-2 has.
        directions = jax.random.uniform(key, shape, outputs.dtype, -_BOUND, _BOUND)
        try:
            (back,) = jax.vmap(pullback)(directions)
        except NotImplementedError:  # by a primitive that has no rule for it
            back = jnp.stack([pullback(direction)[0] for direction in directions])
        return back

    return JacobianProbe(pulled, axis, per_example)


def spectrum(probe: JacobianProbe, back: np.ndarray) -> tuple[float, float]:
    """Estimates the Jacobian's singular values from the pulled directions.

    Args:
      probe: how it was measured.
      back: the pulled directions.

    Returns:
      The mean square of the singular values, and the median over examples of their condition
      number within these directions.
    """
    back = np.moveaxis(back, probe.axis + 1, 0)  # (examples, directions, ...)
    back = back.reshape(*back.shape[:2], -1)
    largest = np.abs(back).max(initial=0)
    scaled = back / np.where(largest > 0, largest, 1)
    gram = scaled @ np.swapaxes(scaled, 1, 2)
    if not np.isfinite(gram).all():
        return math.nan, math.nan
    mean = float(np.trace(gram, axis1=1, axis2=2).mean()) / back.shape[1] / probe.per_example
    eigenvalues = np.linalg.eigvalsh(gram)
    condition = np.sqrt(eigenvalues[:, -1] / np.maximum(eigenvalues[:, 0], 1e-30))
    return mean * float(largest if largest > 0 else 1) ** 2, float(np.median(condition))


def _sample_axis(site: Site, output: Any) -> int | None:
    """The first axis of a site's output that is none of its units'."""
    return next((axis for axis in range(output.ndim) if axis not in site.output_axes), None)
