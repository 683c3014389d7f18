"""What scaling can't repair: kernels that are redrawn or centered, biases that are set to zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax._copies import copies
from initjax._keys import named_key
from initjax.auditing._judging.layers import Layer
from initjax.auditing._judging.names import Parameter
from initjax.auditing._reading.sites import Site
from initjax.auditing._reading.trace import Traced
from initjax.auditing._repairing.draft import Draft, like
from initjax.auditing._repairing.repair import Change
from initjax.auditing._reporting.report import Report

if TYPE_CHECKING:
    import jax

_MANY = 0.25  # dead units, which no finding may name where another cause comes first
_KILLING = 0.5  # variance of biases that is too much next to pre-activations of variance one


def redraw(draft: Draft, traced: Traced, report: Report, key: jax.Array | None) -> Draft:
    """Redraws kernels that are zero, have equal units or are copies; without a key leaves them."""
    kernels = _kernels(traced)
    for finding in report.findings:
        cause = finding.cause
        if cause != "zero" and cause != "symmetry" and cause != "duplicate":
            continue
        concerned = [each for each in finding.parameters if each.index in kernels]
        if cause == "duplicate":
            concerned = _all_but_the_first(concerned, draft.leaves)
        for index in dict.fromkeys(each.index for each in concerned):
            name, leaf = traced.names[index], draft.leaves[index]
            if name in draft.changed:
                continue
            if key is None:
                draft = draft.without_change(name, cause)
            else:
                drawn = _orthogonal(kernels[index], named_key(key, name), leaf, _stddev(leaf))
                change = Change(name, f"redrawn, orthogonal (cause: {cause})", ())
                draft = draft.with_change(index, drawn, change)
    return draft


def _all_but_the_first(concerned: Sequence[Parameter], leaves: Sequence[Any]) -> list[Parameter]:
    """What to redraw so that one of each group of copies is kept."""
    prints = [
        np.asarray(leaves[each.index])[each.slice].astype(np.float32).ravel() for each in concerned
    ]
    return [concerned[row] for group in copies(prints) for row in group[1:]]


def center(draft: Draft, traced: Traced, report: Report) -> Draft:
    """Removes the mean of kernels in which it is a fault."""
    kernels = _kernels(traced)
    concerned = [
        each.index
        for finding in report.findings
        if finding.cause == "not_centered"
        for each in finding.parameters
    ]
    for index in concerned:
        name, leaf = traced.names[index], draft.leaves[index]
        if index not in kernels or name in draft.changed:
            continue
        (source,) = kernels[index].sources
        mean = leaf.mean(tuple(range(len(source.stacked), leaf.ndim)), keepdims=True)
        change = Change(name, "centered: its mean was removed", ())
        draft = draft.with_change(index, like(leaf, leaf - mean), change)
    return draft


def clear_biases(draft: Draft, traced: Traced, report: Report) -> Draft:
    """Sets biases to zero that outweigh their inputs in layers with dead units."""
    dead = {name for f in report.findings if f.cause == "dead" for name in f.layers}
    for layer in report.layers:
        if layer.name not in dead and not (layer.dead or 0) > _MANY:
            continue
        sources = _site(traced, layer).bias_sources
        if [source.how for source in sources] != ["whole"]:
            continue
        (source,) = sources
        name, leaf = traced.names[source.leaf], draft.leaves[source.leaf]
        large = layer.bias_variance > _KILLING  # kernels will be scaled to variance one
        if large and name not in draft.changed:
            zeros = like(leaf, np.zeros(leaf.shape, np.float32))
            change = Change(name, "set to zero: it killed units", ())
            draft = draft.with_change(source.leaf, zeros, change)
    return draft


def _site(traced: Traced, layer: Layer) -> Site:
    """The site of a layer: of those that use its parameters, the one that its use counts."""
    leaves = {parameter.index for parameter in layer.parameters}
    sites = traced.anatomy.sites.values()
    users = [site for site in sites if {source.leaf for source in site.sources} == leaves]
    return users[layer.parameters[0].use - 1]


def _kernels(traced: Traced) -> dict[int, Site]:
    """The sites whose kernel is a parameter as it stands, by that parameter."""
    return {
        source.leaf: site
        for site in traced.anatomy.sites.values()
        for source in site.sources
        if len(site.sources) == 1 and source.how == "whole" and site.kind != "embedding"
    }


def _stddev(leaf: Any) -> float:
    """The standard deviation of a random kernel, which a redraw keeps; 0 for a constant one."""
    import jax.numpy as jnp

    wide = leaf.astype(jnp.float32)
    stddev, largest = float(wide.std()), float(jnp.abs(wide).max(initial=0))
    return stddev if stddev > 1e-3 * largest else 0.0


def _orthogonal(site: Site, key: jax.Array, leaf: Any, stddev: float) -> Any:
    """A kernel with orthogonal units, of this standard deviation, or of unit gain if that is 0."""
    import jax
    import jax.numpy as jnp

    from initjax.orthogonal import orthogonal

    (source,) = site.sources
    stacked = site.slices(source)
    members = stacked - len(source.stacked)
    shape = leaf.shape[stacked:]
    unit_axes = [axis - members for axis in site.weight_units[members:]]
    units = math.prod(shape[axis] for axis in unit_axes) if not source.laid_out else 0
    rows = math.prod(shape) // units if units else shape[0]
    columns = units or math.prod(shape[1:])
    count = math.prod(leaf.shape[:stacked])
    order = [*(axis for axis in range(len(shape)) if axis not in unit_axes), *unit_axes]

    def draw(key: jax.Array) -> jax.Array:
        matrix = orthogonal()(key, (rows, columns), "float32")
        matrix = matrix * (stddev / float(matrix.std()) if stddev > 0 else 1.0)
        if units:
            array = matrix.reshape([shape[axis] for axis in order])
            matrix = array.transpose([order.index(axis) for axis in range(len(shape))])
        return matrix.reshape(shape)

    drawn = [draw(member_key) for member_key in jax.random.split(key, count)]
    return like(leaf, jnp.stack(drawn).reshape(leaf.shape))
