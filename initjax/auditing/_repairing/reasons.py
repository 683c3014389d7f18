"""Why a repair leaves parameters unchanged."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Literal

import numpy as np

from initjax.auditing._activations import bends
from initjax.auditing._judging.layers import Layer
from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.sites import Site
from initjax.auditing._reading.trace import Traced
from initjax.auditing._reporting.report import Report

Reason = Literal[
    "zero",
    "symmetry",
    "duplicate",
    "embedding",
    "computed",
    "recurrent",
    "shared",
    "normalized",
    "added",
    "last",
    "end",
    "layout",
    "not_run",
    "constant",
    "bias",
    "small",
    "right",
]

REASONS: dict[Reason, str] = {
    "zero": "all zeros, which scaling can't repair; pass key= to redraw it",
    "symmetry": "all units are alike, which scaling can't repair; pass key= to redraw it",
    "duplicate": "a copy of another kernel, which scaling can't repair; pass key= to redraw it",
    "embedding": "an embedding, whose rows are looked up, not summed",
    "computed": "the kernel is computed from parameters, and not just by scaling one of them",
    "recurrent": "used in every iteration of a loop; orthogonal() keeps a recurrence stable",
    "shared": "used in several layers",
    "normalized": "its output is normalized, so its scale doesn't matter",
    "added": "its output is added to another layer's output",
    "last": "the last layer, whose scale depends on the targets",
    "end": "the end of a branch or of the network",
    "layout": "its units can't be found in the parameter's own layout",
    "not_run": "did not run on this batch, or not in every iteration of its loop",
    "constant": "its output is constant, so no factor can give it a variance",
    "bias": "its bias alone varies more than the target; start the bias at zero",
    "small": "already small enough",
    "right": "already right",
}
"""What users read. The first three are causes of findings, too."""


_SMALL = 0.05  # of the usual gain, below which a gate is meant to start closed or neutral


def reasons(traced: Traced, before: Report, by_unit: bool) -> dict[Path, Reason]:
    """The sites that can't or needn't be rescaled, and why.

    Args:
      traced: the program.
      before: its audit.
      by_unit: whether each unit would be scaled and centered, and not each kernel scaled.
    """
    sites = traced.anatomy.sites
    again = repeats(sites)
    uses = collections.Counter(
        source.leaf for path, site in sites.items() if path not in again for source in site.sources
    )
    last = next((s.path for s in reversed(sites.values()) if s.softmax), list(sites)[-1])
    ends = {last, *(path for path, site in sites.items() if is_head(site, sites))}
    small = small_on_purpose(traced, before.layers)
    too_large = {
        parameter.index
        for finding in before.findings
        if finding.cause == "output_scale"
        for parameter in finding.parameters
    }
    found: dict[Path, Reason] = {}
    for path, site in sites.items():
        if path in again:
            continue
        large = any(source.leaf in too_large for source in site.sources)
        reason = _reason(site, uses, path == last and not large, by_unit, path in ends)
        beside = site.gates or not _feeds(site, sites)
        if reason is None and beside and any(source.leaf in small for source in site.sources):
            reason = "small"
        if reason is not None:
            found[path] = reason
    return found


def is_output(site: Site, sites: dict[Path, Site]) -> bool:
    """Whether a site's output enters no other, as that of every head of a network."""
    return not site.loops and not any(
        site.path in tag.sites for other in sites.values() for tag in other.inputs
    )


def _feeds(site: Site, sites: dict[Path, Site]) -> bool:
    """Whether other sites read a site's activations, be it through a pool or a mask, as those of
    an ordinary layer."""
    active = site.activation is not None and bends(site.activation)
    return bool(site.readers) or (active and not is_output(site, sites))


_NARROW = 4  # times fewer units than inputs


def is_head(site: Site, sites: dict[Path, Site]) -> bool:
    """Whether a site may be small on purpose: an output, or a few units that no other site reads
    through an activation, as those of a router, a policy or a box."""
    few = not _feeds(site, sites) and site.fan_out * _NARROW <= site.fan_in
    return is_output(site, sites) or few


def repeats(sites: dict[Path, Site]) -> frozenset[Path]:
    """The later uses of shared kernels on which no other layer depends, as where a loss has
    derivatives of the network: the first use alone tells their scale."""
    first: dict[int, Path] = {}
    later: dict[int, set[Path]] = collections.defaultdict(set)
    for path, site in sites.items():
        for source in site.sources:
            if first.setdefault(source.leaf, path) != path:
                later[source.leaf].add(path)
    every = set().union(*later.values()) if later else set()
    fed = set().union(
        *(tag.sites for path, site in sites.items() if path not in every for tag in site.inputs)
    )
    alone = [paths for leaf, paths in later.items() if not paths & fed]
    return frozenset(
        path
        for paths in alone
        for path in paths
        if not any(sites[other].loops for other in paths) and len(sites[path].sources) == 1
    )


def small_on_purpose(traced: Traced, layers: Sequence[Layer]) -> frozenset[int]:
    """The kernels of outputs, gates, ends of branches and others that no layer reads directly, if
    they are far smaller than the rest.

    Args:
      traced: the program.
      layers: what was measured of it.
    """
    sites = traced.anatomy.sites
    ends = {
        source.leaf
        for site in sites.values()
        if site.gates or site.added or not _feeds(site, sites)
        for source in site.sources
    }
    gains = [layer.weight_variance for layer in layers if layer.kind != "embedding"]
    # Most layers of a network may be gates, but not three of four.
    limit = _SMALL * float(np.quantile(gains, 0.75)) if gains else 0.0
    small = {p.index for each in layers if each.weight_variance < limit for p in each.parameters}
    return frozenset(ends & small)


def _reason(
    site: Site, uses: collections.Counter[int], last: bool, by_unit: bool, end: bool
) -> Reason | None:
    if site.kind == "embedding":
        return "embedding"
    if len(site.sources) != 1 or any(source.how != "whole" for source in site.sources):
        return "computed"
    (source,) = site.sources
    if {loop for loop, _ in site.loops} - site.stacked:
        return "recurrent"
    if uses[source.leaf] > 1:
        return "shared"
    if site.normalized and not site.added:
        return "normalized"
    if site.added and not site.residual:
        return "added"
    if last and not (site.softmax or site.residual):
        return "last"
    if by_unit and (site.residual or end):
        return "end"
    if by_unit and source.laid_out:
        return "layout"
    return None
