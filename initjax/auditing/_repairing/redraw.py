"""What scaling cannot repair: kernels drawn anew or centred, biases that are set to zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax.auditing._judging.copies import copies
from initjax.auditing._judging.layers import Layer
from initjax.auditing._judging.names import Parameter
from initjax.auditing._reading.sites import Site
from initjax.auditing._reading.trace import Traced
from initjax.auditing._repairing.repair import Change, like
from initjax.auditing._reporting.report import Report
from initjax.trees import named_key

if TYPE_CHECKING:
    import jax

_KILLING = 0.5  # variance of biases that is too much beside pre-activations of variance one


def redraw(
    traced: Traced,
    before: Report,
    leaves: list[Any],
    key: jax.Array | None,
    changes: list[Change],
    left: list[tuple[str, str]],
) -> None:
    sites = _kernels(traced)
    for finding in before.findings:
        if finding.cause not in ("zero", "symmetry", "duplicate"):
            continue
        involved = list(dict.fromkeys(parameter.index for parameter in finding.parameters))
        if finding.cause == "duplicate":
            involved = _all_but_the_first(finding.parameters, leaves, sites)
        for index in involved:
            name = traced.names[index]
            if index not in sites or any(change.name == name for change in changes):
                continue
            if key is None:
                reason = "scaling cannot repair it; give key= to draw it anew"
                left.append((name, f"{finding.cause}: {reason}"))
                continue
            leaves[index] = _orthogonal(
                sites[index], named_key(key, name), leaves[index], _spread(leaves[index])
            )
            changes.append(Change(name, f"drawn anew, orthogonal ({finding.cause})", ()))
    _centre(traced, before, leaves, changes)


def _all_but_the_first(
    copied: Sequence[Parameter], leaves: list[Any], sites: dict[int, Site]
) -> list[int]:
    """The parameters to draw anew so that one of each group of copies is left."""
    kernels = [parameter for parameter in copied if parameter.index in sites]
    prints = [
        np.asarray(leaves[parameter.index])[parameter.slice].astype(np.float32).ravel()
        for parameter in kernels
    ]
    redrawn = [kernels[row].index for group in copies(prints) for row in group[1:]]
    return list(dict.fromkeys(redrawn))


def _centre(traced: Traced, before: Report, leaves: list[Any], changes: list[Change]) -> None:
    """Takes away the mean of kernels that are at fault for having one."""
    sites = _kernels(traced)
    involved = [p.index for f in before.findings if f.cause == "not_centered" for p in f.parameters]
    for index in dict.fromkeys(involved):
        name = traced.names[index]
        if index not in sites or any(change.name == name for change in changes):
            continue
        (source,) = sites[index].sources
        leaf = leaves[index]
        mean = leaf.mean(tuple(range(len(source.stacked), leaf.ndim)), keepdims=True)
        leaves[index] = like(leaf, leaf - mean)
        changes.append(Change(name, "centered: its mean is subtracted (not_centered)", ()))


def _kernels(traced: Traced) -> dict[int, Site]:
    """The sites, by the parameter that is their kernel as it stands."""
    return {
        source.leaf: site
        for site in traced.anatomy.sites.values()
        for source in site.sources
        if len(site.sources) == 1 and source.how == "whole" and site.kind != "embedding"
    }


def _spread(leaf: Any) -> float:
    """The standard deviation of a random kernel, which a new draw keeps; 0 for a constant one."""
    import jax.numpy as jnp

    wide = leaf.astype(jnp.float32)
    stddev, largest = float(wide.std()), float(jnp.abs(wide).max(initial=0))
    return stddev if stddev > 1e-3 * largest else 0.0


def _orthogonal(site: Site, key: jax.Array, leaf: Any, stddev: float) -> Any:
    """A leaf drawn anew with orthogonal units, of unit gain or of the standard deviation it had."""
    import jax

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
    flat = [orthogonal()(k, (rows, columns), "float32") for k in jax.random.split(key, count)]
    others = [axis for axis in range(len(shape)) if axis not in unit_axes]
    drawn = []
    for matrix in flat:
        gain = matrix * (stddev / float(matrix.std()) if stddev > 0 else 1.0)
        if units:
            order = [*others, *unit_axes]
            array = gain.reshape([shape[axis] for axis in order])
            gain = array.transpose([order.index(axis) for axis in range(len(shape))])
        drawn.append(gain.reshape(shape))
    import jax.numpy as jnp

    return like(leaf, jnp.stack(drawn).reshape(leaf.shape))


def _site(traced: Traced, layer: Layer) -> Site:
    """The site of a layer: of those that use its parameters, the one that its use counts."""
    leaves = {parameter.index for parameter in layer.parameters}
    sites = traced.anatomy.sites.values()
    users = [site for site in sites if {source.leaf for source in site.sources} == leaves]
    return users[layer.parameters[0].use - 1]


def clear_biases(traced: Traced, before: Report, leaves: list[Any], changes: list[Change]) -> None:
    """Sets biases to zero that outweigh their inputs in layers with dead units."""

    dead = {name for f in before.findings if f.cause == "dead" for name in f.layers}
    for layer in before.layers:
        site = _site(traced, layer)
        whole = [source for source in site.bias_sources if source.how == "whole"]
        if layer.name not in dead or len(whole) != 1 or len(site.bias_sources) != 1:
            continue
        name = traced.names[whole[0].leaf]
        large = layer.bias_variance > _KILLING  # kernels are going to be scaled to variance one
        if large and not any(change.name == name for change in changes):
            leaf = leaves[whole[0].leaf]
            leaves[whole[0].leaf] = like(leaf, np.zeros(leaf.shape, np.float32))
            changes.append(Change(name, "set to zero: it has killed units", ()))
