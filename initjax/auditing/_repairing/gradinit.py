"""Scales learned by gradient descent, to minimize the loss after the optimizer's first step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax.auditing._judging.layers import Layer
from initjax.auditing._measuring.explicit_sharding import as_taken
from initjax.auditing._measuring.optimizers import first_update
from initjax.auditing._measuring.rerun import rerun
from initjax.auditing._reading.trace import Traced
from initjax.auditing._repairing.draft import Draft, scaled
from initjax.auditing._repairing.reasons import small_on_purpose
from initjax.auditing._repairing.repair import Change

if TYPE_CHECKING:
    import jax

_STEPS = 100  # of the search
_RATE = 0.1  # of a logarithm per step, at first
_MOST = math.log(100.0)  # scales stay between 1/100 and 100


def gradinit(
    draft: Draft,
    traced: Traced,
    inputs: list[Any],
    layers: Sequence[Layer],
    optimizer: Any,
) -> Draft:
    """Learns one scale per kernel that minimizes the loss after the optimizer's first step.

    The step itself counts as a constant, as in GradInit for Adam: no third derivative is needed.

    Args:
      draft: the parameters.
      traced: the program.
      inputs: the arrays that the loss is taken on.
      layers: what was measured of the program.
      optimizer: an Optax transformation.
    """
    import jax
    import jax.numpy as jnp

    kernels = sorted({s.leaf for site in traced.anatomy.sites.values() for s in site.sources})
    kernels = [index for index in kernels if index in traced.inexact]
    small = small_on_purpose(traced, layers)
    most = np.array([0 if index in small else _MOST for index in kernels], np.float32)

    def loss(floats: dict[int, Any], given: Any) -> Any:
        leaves, inputs, constants = given
        arguments = [floats.get(index, leaf) for index, leaf in enumerate(leaves)]
        ((value,), _) = rerun(traced.jaxpr, constants, [*arguments, *inputs], {})
        return jnp.asarray(value, jnp.float32)

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
        def step(state: Any, number: Any) -> Any:
            logs, best, least = state
            value, slope = jax.value_and_grad(after_step)(logs, given)
            better = value < least
            best, least = jnp.where(better, logs, best), jnp.where(better, value, least)
            rate = _RATE * (1 - number / _STEPS)
            moved = logs - rate * jnp.sign(jnp.where(jnp.isfinite(slope), slope, 0))
            return (jnp.clip(moved, -_MOST, most), best, least), value

        start = jnp.zeros(len(kernels))
        (_, best, least), values = jax.lax.scan(step, (start, start, jnp.inf), jnp.arange(_STEPS))
        return best, values[0], least

    logs, first, least = search(as_taken(traced, (list(draft.leaves), inputs, traced.constants)))
    what = f"loss after the first step {float(first):.4g} to {float(least):.4g}, with all scales"
    for index, scale in zip(kernels, np.exp(np.asarray(logs, np.float64)), strict=True):
        name, leaf = traced.names[index], draft.leaves[index]
        if abs(scale - 1) < 1e-6:
            draft = draft.without_change(name, "small" if index in small else "right")
        else:
            change = Change(name, what, (float(scale),))
            draft = draft.with_change(index, scaled(leaf, np.array(scale)), change)
    return draft
