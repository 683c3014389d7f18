"""Scales learned by gradient: the loss after the optimizer's first step is to be least."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax.auditing._measuring.optimizers import first_update
from initjax.auditing._measuring.rerun import rerun
from initjax.auditing._reading.trace import Traced
from initjax.auditing._repairing.repair import Change, scaled

if TYPE_CHECKING:
    import jax

_STEPS = 100  # of the search for scales by gradient


def by_gradient(
    traced: Traced,
    leaves: list[Any],
    batch: tuple[Any, ...],
    optimizer: Any,
    changes: list[Change],
    left: list[tuple[str, str]],
) -> None:
    """Learns one scale for each kernel: the loss after the optimizer's first step is to be least.

    The step itself is taken as given, as GradInit does for Adam: no third derivative is needed.
    """
    import jax
    import jax.numpy as jnp

    kernels = sorted({s.leaf for site in traced.anatomy.sites.values() for s in site.sources})
    kernels = [index for index in kernels if index in traced.inexact]

    def loss(floats: dict[int, Any], given: Any) -> Any:
        leaves, inputs, constants = given
        arguments = [floats.get(index, leaf) for index, leaf in enumerate(leaves)]
        ((value,), _) = rerun(traced.jaxpr, constants, [*arguments, *inputs], {})
        return value.astype(jnp.float32)

    def after_step(logs: jax.Array, given: Any) -> Any:
        leaves = given[0]
        scale = dict(zip(kernels, jnp.exp(logs), strict=True))
        floats = {
            index: (leaves[index].astype(jnp.float32) * scale.get(index, 1)).astype(
                leaves[index].dtype
            )
            for index in traced.inexact
        }
        value, gradients = jax.value_and_grad(loss)(floats, given)
        full = [floats.get(index, leaf) for index, leaf in enumerate(leaves)]
        slopes = [gradients.get(index, jnp.zeros_like(leaf)) for index, leaf in enumerate(leaves)]
        params = jax.tree.unflatten(traced.structure, full)

        def loss_of(tree: Any) -> Any:
            leaves = jax.tree.leaves(tree)
            return loss({index: leaves[index] for index in floats}, given)

        steps = first_update(
            optimizer, jax.tree.unflatten(traced.structure, slopes), params, value, loss_of
        )
        steps = jax.lax.stop_gradient(jax.tree.leaves(steps))
        return loss({index: floats[index] + steps[index] for index in floats}, given)

    @jax.jit
    def search(given: Any) -> tuple[Any, Any, Any]:
        def turn(state: Any, number: Any) -> Any:
            logs, best, least = state
            value, slope = jax.value_and_grad(after_step)(logs, given)
            better = value < least
            best, least = jnp.where(better, logs, best), jnp.where(better, value, least)
            rate = 0.1 * (1 - number / _STEPS)
            moved = logs - rate * jnp.sign(jnp.where(jnp.isfinite(slope), slope, 0))
            return (jnp.clip(moved, math.log(0.01), math.log(100.0)), best, least), value

        start = jnp.zeros(len(kernels))
        (_, best, least), values = jax.lax.scan(turn, (start, start, jnp.inf), jnp.arange(_STEPS))
        return best, values[0], least

    logs, first, least = search((leaves, jax.tree.leaves(batch), traced.constants))
    for index, scale in zip(kernels, np.exp(np.asarray(logs, np.float64)), strict=True):
        name = traced.names[index] or "params"
        if abs(scale - 1) < 1e-6:
            left.append((name, "right as it is"))
            continue
        leaves[index] = scaled(leaves[index], np.array(scale))
        what = f"loss after the first step {float(first):.4g} to {float(least):.4g}, all together"
        changes.append(Change(name, what, (float(scale),)))
