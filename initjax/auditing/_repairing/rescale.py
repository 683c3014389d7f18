"""Scales kernels by factors from data, in one forward pass.

A pre-activation is its kernel's product plus the bias. So the pass that measures a layer can
rescale its output on the spot and continue with what the repaired layer gives; no layer is visited
twice. Afterwards the kernels are multiplied by the factors that the pass used.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from initjax.auditing._measuring.explicit_sharding import as_taken
from initjax.auditing._measuring.rerun import Hook, rerun
from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.sites import Site
from initjax.auditing._reading.trace import Traced
from initjax.auditing._repairing.critical import Curve, critical_variance
from initjax.auditing._repairing.draft import Draft, like, scaled
from initjax.auditing._repairing.reasons import is_head, reasons, repeats
from initjax.auditing._repairing.repair import Change
from initjax.auditing._reporting.report import Report

_LOGITS = 0.45  # standard deviation of logits that adds 0.1 to the initial loss
_LARGE_LOGITS = 1.0
_RIGHT = 5e-6  # by which a factor may be off for a variance that is right to 1e-5


def rescale(
    draft: Draft,
    traced: Traced,
    inputs: list[Any],
    before: Report,
    by_unit: bool,
    critical: bool,
) -> Draft:
    """Scales kernels so that their pre-activations have the variance that is aimed at.

    Args:
      draft: the parameters.
      traced: the program.
      inputs: the arrays that the forward pass is run on.
      before: the audit of the program.
      by_unit: whether to scale each unit, and center it where it has a bias, and not each kernel.
      critical: whether to aim at chi_1 = 1 and not at unit variance.
    """
    import jax

    sites = traced.anatomy.sites
    excluded, again = reasons(traced, before, by_unit), repeats(sites)
    already_left = {name for name, _ in draft.left}
    branches = sum(
        math.prod(length or 1 for _, length in site.loops)
        for site in sites.values()
        if site.residual
    )
    hooks: dict[Path, Hook] = {}
    feeds: dict[Path, Path] = {}
    chosen: list[Site] = []
    for path, site in sites.items():
        name = _name(traced, site)
        if name in already_left or path in again:
            continue
        if path in excluded:
            draft = draft.without_change(name, excluded[path])
            continue
        chosen.append(site)
        curve = critical_variance(site) if critical else None
        if curve is not None and site.output != path:
            hooks[path] = functools.partial(_keep_input_square, site)
            feeds[path] = site.output
        hooks[site.output] = (
            functools.partial(_rescale_units, site)
            if by_unit
            else functools.partial(_rescale_kernel, site, branches, is_head(site, sites), curve)
        )
    if not chosen:
        return draft

    @jax.jit
    def run(leaves: tuple[Any, ...], batch: list[Any], constants: list[Any]) -> list[Any]:
        arguments = [*leaves, *batch]
        _, records = rerun(traced.jaxpr, constants, arguments, hooks, feeds=feeds)
        return [records[site.output] for site in chosen]

    records = run(*as_taken(traced, (draft.leaves, inputs, traced.constants)))
    for site, record in zip(chosen, records, strict=True):
        draft = _with_factors(draft, traced, site, record)
    return draft


def _name(traced: Traced, site: Site) -> str:
    return " and ".join(sorted({traced.names[source.leaf] for source in site.sources}))


def _keep_input_square(site: Site, operands: list, results: list, slot: Any) -> tuple[list, Any]:
    """Records the mean square of a site's input, for the hook of its output."""
    return results, _input_square(site, operands)


def _input_square(site: Site, operands: list) -> Any:
    import jax.numpy as jnp

    return jnp.square(operands[1 - site.weight].astype(jnp.float32)).mean()


def _product_and_bias(site: Site, operands: list, results: list) -> tuple[Any, Any]:
    """What a site's kernel gives, and the bias that was added to it."""
    import jax.numpy as jnp

    (output,) = results
    product = (output if site.bias is None else operands[1 - site.bias]).astype(jnp.float32)
    return product, output.astype(jnp.float32) - product


def _rescale_kernel(
    site: Site,
    branches: int,
    end: bool,
    curve: Curve | None,
    operands: list,
    results: list,
    slot: Any,
) -> tuple[list, Any]:
    """Multiplies what a kernel gives by the factor at which the pre-activation has the standard
    deviation that is aimed at, and records the factor. The slot holds the mean square of the
    input if the bias is added by an equation of its own."""
    import jax.numpy as jnp

    product, bias = _product_and_bias(site, operands, results)
    size = jnp.abs(product).max(initial=0)
    unit = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    normal, offset = product / unit, bias / unit  # squares stay within float32
    variance, covariance = normal.var(), ((normal - normal.mean()) * offset).mean()
    extra = offset.var()
    stddev = jnp.sqrt(jnp.maximum(variance + 2 * covariance + extra, 0)) * unit
    if site.residual:
        aim = jnp.minimum(stddev, 1 / math.sqrt(branches))
    elif site.softmax:
        aim = jnp.where(stddev > _LARGE_LOGITS, _LOGITS, stddev)
    elif curve is not None:
        square = _input_square(site, operands) if site.output == site.path else slot
        aim = jnp.exp(jnp.interp(jnp.log(square), *curve)) ** 0.5
    else:
        aim = jnp.float32(1)
    if end:  # which may be small on purpose
        aim = jnp.minimum(stddev, aim)
    goal = jnp.square(aim / unit)
    # |factor * product + bias|^2 = goal, or without the bias if that alone is larger.
    alone = jnp.sqrt(goal / jnp.where(variance > 0, variance, 1))
    root = jnp.square(covariance) + variance * (goal - extra)
    solved = (jnp.sqrt(jnp.maximum(root, 0)) - covariance) / jnp.where(variance > 0, variance, 1)
    factor = jnp.where(goal > extra, solved, alone)
    factor = jnp.where((variance > 0) & jnp.isfinite(factor) & (factor > 0), factor, 1)
    rescaled = factor * product + bias
    record = {"factor": factor, "before": stddev, "after": (rescaled / unit).std() * unit}
    return [rescaled.astype(results[0].dtype)], {**record, "aim": aim}


def _rescale_units(site: Site, operands: list, results: list, slot: Any) -> tuple[list, Any]:
    """Does the same unit by unit, and centers units that have a bias to do it with."""
    import jax.numpy as jnp

    product, bias = _product_and_bias(site, operands, results)
    axes = tuple(axis for axis in range(product.ndim) if axis not in site.output_axes)
    stddev = product.std(axes, keepdims=True)
    factor = jnp.where(stddev > 0, 1 / jnp.where(stddev > 0, stddev, 1), 1)
    movable = site.bias is not None and all(source.how == "whole" for source in site.bias_sources)
    if movable:
        bias = -product.mean(axes, keepdims=True) * factor
    rescaled = (factor * product + bias).astype(results[0].dtype)
    order = [site.output_axes.index(axis) for axis in sorted(site.output_axes)]

    def by_unit(array: Any) -> Any:
        """The numbers of the units, along axes in the order of the weight's."""
        found = array.reshape([array.shape[axis] for axis in sorted(site.output_axes)])
        return jnp.transpose(found, tuple(np.argsort(order).tolist())) if found.ndim > 1 else found

    record = {"factor": by_unit(factor), "before": product.std(), "after": jnp.float32(1)}
    return [rescaled], {**record, "bias": by_unit(bias)} if movable else record


def _with_factors(draft: Draft, traced: Traced, site: Site, record: dict[str, Any]) -> Draft:
    """Multiplies a site's kernel by the factors that the pass used."""
    (source,) = site.sources
    name = traced.names[source.leaf]
    factor = np.asarray(record["factor"], np.float64)
    before, after = (np.ravel(record[when]) for when in ("before", "after"))
    ran = np.flatnonzero(~np.isnan(before))
    if ran.size < before.size:
        draft = draft.without_change(name, "not_run")
        factor = np.where(np.isnan(factor), 1, factor)
    if not (before[ran] > 0).all():
        draft = draft.without_change(name, "constant")
    if not (before[ran] > 0).any():
        return draft
    if "aim" in record and (after > 1.01 * np.ravel(record["aim"]))[ran].any():
        draft = draft.without_change(name, "bias")
    if np.abs(factor - 1).max() < _RIGHT:
        small = site.residual or site.softmax or after[ran[0]] < 0.99
        return draft.without_change(name, "small" if small else "right")
    leaf = draft.leaves[source.leaf]
    stacked = len(source.stacked)
    if leaf.shape[:stacked] != factor.shape[:stacked]:  # reshaped on the way to the loops
        return draft.without_change(name, "layout")
    if factor.ndim > stacked:  # unit by unit
        what = "each unit to variance one"
        if "bias" in record:
            draft = _with_bias(draft, traced, site, np.asarray(record["bias"]))
            what += " and mean zero"
        spread = _along_units(factor, site, leaf, stacked)
        return draft.with_change(source.leaf, scaled(leaf, spread), Change(name, what, ()))
    what = f"standard deviation {before[ran[0]]:.3g} to {after[ran[0]]:.3g}"
    if site.residual:
        what += ", as the end of a residual branch"
    elif site.softmax:
        what += ", as logits"
    factors = tuple(float(number) for number in np.ravel(factor))
    spread = factor.reshape(factor.shape + (1,) * (leaf.ndim - factor.ndim))
    return draft.with_change(source.leaf, scaled(leaf, spread), Change(name, what, factors))


def _along_units(factor: np.ndarray, site: Site, leaf: Any, stacked: int) -> np.ndarray:
    """The factors of the units, in a shape that broadcasts over their kernel."""
    shape = list(factor.shape[:stacked]) + [
        leaf.shape[stacked + axis] if axis in site.weight_units else 1
        for axis in range(leaf.ndim - stacked)
    ]
    order = np.argsort(site.weight_units)
    return np.transpose(factor, (*range(stacked), *(stacked + order))).reshape(shape)


def _with_bias(draft: Draft, traced: Traced, site: Site, bias: np.ndarray) -> Draft:
    (source,) = site.bias_sources
    leaf = draft.leaves[source.leaf]
    bias = np.where(np.isnan(bias), np.asarray(leaf, bias.dtype).reshape(bias.shape), bias)
    change = Change(traced.names[source.leaf], "set to minus the mean of each scaled unit", ())
    return draft.with_change(source.leaf, like(leaf, bias.reshape(leaf.shape)), change)
