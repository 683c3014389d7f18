"""Scales learned from data, in one pass forward.

A pre-activation is proportional to its kernel but for the bias. So the pass that measures a layer
can rescale its output on the spot, and go on with what the repaired layer gives; no layer is
visited twice. Afterwards the kernels are multiplied by the factors that the pass has used.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from initjax.auditing._activations import critical_table
from initjax.auditing._measuring.rerun import rerun
from initjax.auditing._reading.expressions import IDENTITY, Expression, Path
from initjax.auditing._reading.sites import Site
from initjax.auditing._reading.trace import Traced
from initjax.auditing._repairing.repair import Change, like, scaled

_LOGITS = 0.45  # standard deviation of logits that costs a tenth in the initial loss
_LARGE_LOGITS = 1.0


def by_pass(
    traced: Traced,
    leaves: list[Any],
    batch: tuple[Any, ...],
    method: str,
    critical: bool,
    changes: list[Change],
    left: list[tuple[str, str]],
) -> None:
    import jax

    sites = traced.anatomy.sites
    reasons = _reasons(traced, leaves, method)
    hooks: dict[Path, Any] = {}
    branches = sum(
        math.prod(length or 1 for _, length in site.loops)
        for site in sites.values()
        if site.residual
    )
    stuck = {name for name, _ in left}
    for path, site in sites.items():
        name = _name(traced, site)
        if name in stuck:
            continue
        if reasons[path]:
            left.append((name, reasons[path]))
            continue
        squares: dict[str, Any] = {}
        table = _critical_table(site, sites) if critical else None
        rescale = functools.partial(
            _rescale_units if method == "units" else _rescale, site, branches, table, squares
        )
        if table is not None:
            note = functools.partial(_note, site, squares)
            if site.output == path:
                rescale = functools.partial(_both, note, rescale)
            else:
                hooks[path] = note
        hooks[site.output] = rescale
    if not hooks:
        return

    @jax.jit
    def run(leaves: list[Any], batch: list[Any], constants: list[Any]) -> dict[Path, Any]:
        return rerun(traced.jaxpr, constants, [*leaves, *batch], hooks)[1]

    records = run(leaves, jax.tree.leaves(batch), traced.constants)
    for site in sites.values():
        if site.output in records:
            _apply(traced, site, records[site.output], leaves, changes, left)


def _reasons(traced: Traced, leaves: list[Any], method: str) -> dict[Path, str]:
    """Why sites are left alone; "" for those that are not."""
    sites = traced.anatomy.sites
    uses: dict[int, int] = {}
    for site in sites.values():
        for source in site.sources:
            uses[source.leaf] = uses.get(source.leaf, 0) + 1
    last = next((s.path for s in reversed(sites.values()) if s.softmax), list(sites)[-1])
    reasons = {}
    for path, site in sites.items():
        shared = {loop for loop, _ in site.loops} - site.stacked
        if site.kind == "embedding":
            reason = "an embedding, whose rows are no sums"
        elif len(site.sources) != 1 or any(s.how != "whole" for s in site.sources):
            reason = "made of parameters otherwise than by a product with a number"
        elif shared:
            reason = "a loop uses it in every turn; an orthogonal draw keeps a recurrence stable"
        elif uses[next(iter(site.sources)).leaf] > 1:
            reason = "used in several layers"
        elif site.normalised and not site.added:
            reason = "its output is normalised, so that its scale does not count"
        elif site.added and not site.residual:
            reason = "its output is added to another layer's"
        elif path == last and not (site.softmax or site.residual):
            reason = "the last layer, whose scale is the targets'"
        elif method == "units" and (site.residual or path == last):
            reason = "the end of a branch or of the network"
        elif method == "units" and next(iter(site.sources)).laid_out:
            reason = "its units cannot be told in the parameter's own layout"
        else:
            reason = ""
        reasons[path] = reason
    return reasons


def _both(first: Callable, second: Callable, operands: list, results: list, slot: Any) -> Any:
    first(operands, results, slot)
    return second(operands, results, slot)


def _note(site: Site, squares: dict[str, Any], operands: list, results: list, slot: Any) -> Any:
    """Keeps the mean squares of a site's weight and input for the hook of its output."""
    import jax.numpy as jnp

    squares["input"] = jnp.square(operands[1 - site.weight].astype(jnp.float32)).mean()
    return results, None


def _rescale(
    site: Site,
    branches: int,
    table: Any,
    squares: dict[str, Any],
    operands: list,
    results: list,
    slot: Any,
) -> tuple[list, Any]:
    """Multiplies what a kernel gives, so that the pre-activation has the standard deviation aimed
    at, and records the factor."""
    import jax.numpy as jnp

    (output,) = results
    product = output if site.bias is None else operands[1 - site.bias]
    wide = product.astype(jnp.float32)
    bias = output.astype(jnp.float32) - wide
    size = jnp.abs(wide).max(initial=0)
    unit = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    normal, offset = wide / unit, bias / unit  # squares stay within float32
    variance, covariance = normal.var(), ((normal - normal.mean()) * offset).mean()
    extra = offset.var()
    stddev = jnp.sqrt(jnp.maximum(variance + 2 * covariance + extra, 0)) * unit
    aim = jnp.float32(1)
    if table is not None:
        aim = jnp.exp(jnp.interp(jnp.log(squares["input"]), table[0], table[1])) ** 0.5
    if site.residual:
        aim = jnp.minimum(stddev, 1 / math.sqrt(branches))
    elif site.softmax:
        aim = jnp.where(stddev > _LARGE_LOGITS, _LOGITS, stddev)
    goal = jnp.square(aim / unit)
    # |factor * product + bias|^2 = goal, or without the bias if that is larger by itself.
    alone = jnp.sqrt(goal / jnp.where(variance > 0, variance, 1))
    root = jnp.square(covariance) + variance * (goal - extra)
    solved = (jnp.sqrt(jnp.maximum(root, 0)) - covariance) / jnp.where(variance > 0, variance, 1)
    factor = jnp.where(goal > extra, solved, alone)
    factor = jnp.where((variance > 0) & jnp.isfinite(factor) & (factor > 0), factor, 1)
    rescaled = (factor * wide + bias).astype(output.dtype)
    return [rescaled], {"factor": factor, "before": stddev, "after": aim}


def _rescale_units(
    site: Site,
    branches: int,
    table: Any,
    squares: dict[str, Any],
    operands: list,
    results: list,
    slot: Any,
) -> tuple[list, Any]:
    """The same unit by unit, centred where there is a bias to do it."""
    import jax.numpy as jnp

    (output,) = results
    product = (output if site.bias is None else operands[1 - site.bias]).astype(jnp.float32)
    axes = tuple(axis for axis in range(output.ndim) if axis not in site.output_axes)
    mean = product.mean(axes, keepdims=True)
    stddev = product.std(axes, keepdims=True)
    factor = jnp.where(stddev > 0, 1 / jnp.where(stddev > 0, stddev, 1), 1)
    movable = site.bias is not None and all(source.how == "whole" for source in site.bias_sources)
    offset = -mean * factor if movable else output.astype(jnp.float32) - product
    rescaled = (product * factor + offset).astype(output.dtype)
    order = [site.output_axes.index(axis) for axis in sorted(site.output_axes)]

    def by_unit(array: Any) -> Any:
        """The numbers of the units, along the axes in the order of the weight's."""
        found = array.reshape([array.shape[axis] for axis in sorted(site.output_axes)])
        return jnp.transpose(found, tuple(np.argsort(order).tolist())) if found.ndim > 1 else found

    record = {"factor": by_unit(factor), "before": product.std(), "after": jnp.float32(1)}
    if movable:
        record["bias"] = by_unit(offset)
    return [rescaled], record


def _critical_table(site: Site, sites: dict[Path, Site]) -> Any:
    """For a layer behind an activation: by the logarithm of its input's mean square, that of the
    variance at which chi_1 = 1. None for any other layer."""
    signal = site.inputs[-1].signal
    if signal is None or signal.site is None or not isinstance(signal.expression, Expression):
        return None
    if signal.expression == IDENTITY:
        return None
    return critical_table(signal.expression)


def _apply(
    traced: Traced,
    site: Site,
    record: dict[str, Any],
    leaves: list[Any],
    changes: list[Change],
    left: list[tuple[str, str]],
) -> None:
    """Multiplies a site's parameter by the factors of the pass."""

    (source,) = site.sources
    name = traced.names[source.leaf] or "params"
    factor = np.asarray(record["factor"], np.float64)
    before, after = (np.ravel(record[name]) for name in ("before", "after"))
    ran = np.flatnonzero(~np.isnan(before))
    if ran.size < before.size:
        left.append((name, "did not run on this batch, or not in every turn"))
        factor = np.where(np.isnan(factor), 1, factor)
    if not (before[ran] > 0).all():
        left.append((name, "its output is constant: no factor gives it a variance"))
    if not (before[ran] > 0).any():
        return
    if np.allclose(factor, 1, rtol=1e-6):
        why = "small enough as it is" if site.residual or site.softmax else "right as it is"
        left.append((name, why))
        return
    leaf = leaves[source.leaf]
    stacked = len(source.stacked)
    if factor.ndim > stacked:  # unit by unit
        shape = list(factor.shape[:stacked]) + [
            leaf.shape[stacked + axis] if axis in site.weight_units else 1
            for axis in range(leaf.ndim - stacked)
        ]
        order = np.argsort(site.weight_units)
        whole = np.transpose(factor, (*range(stacked), *(stacked + order)))
        spread = whole.reshape(shape)
        factors: tuple[float, ...] = ()
        what = "every unit to variance one"
        if "bias" in record:
            _set_bias(traced, site, np.asarray(record["bias"]), leaves, changes)
            what += " and mean zero"
    else:
        spread = factor.reshape(factor.shape + (1,) * (leaf.ndim - factor.ndim))
        factors = tuple(float(number) for number in np.ravel(factor))
        what = f"standard deviation {before[ran[0]]:.3g} to {after[ran[0]]:.3g}"
        if site.residual:
            what += ", as the end of a residual branch"
        elif site.softmax:
            what += ", as logits"
    leaves[source.leaf] = scaled(leaf, spread)
    changes.append(Change(name, what, factors))


def _set_bias(
    traced: Traced, site: Site, bias: np.ndarray, leaves: list[Any], changes: list[Change]
) -> None:
    (source,) = site.bias_sources
    leaf = leaves[source.leaf]
    bias = np.where(np.isnan(bias), np.asarray(leaf, bias.dtype).reshape(bias.shape), bias)
    leaves[source.leaf] = like(leaf, bias.reshape(leaf.shape))
    name = traced.names[source.leaf] or "params"
    changes.append(Change(name, "minus the units' means, scaled", ()))


def _name(traced: Traced, site: Site) -> str:
    return " and ".join(sorted({traced.names[source.leaf] or "params" for source in site.sources}))
