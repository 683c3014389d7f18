"""The layers of a program in the order of execution, and which layer's output each one reads."""

from __future__ import annotations

import collections
import itertools
from typing import NamedTuple

from initjax.auditing._judging.names import Parameter
from initjax.auditing._reading.expressions import Expression, Path
from initjax.auditing._reading.reasons import Reason
from initjax.auditing._reading.sites import Site
from initjax.auditing._reading.trace import Traced


class Place(NamedTuple):
    """Where one layer is: at a site, in one turn of the loops that stack it."""

    site: Site
    turns: tuple[int, ...]
    """The turns of these loops, outermost first."""
    parameters: tuple[Parameter, ...]
    """What its weight is made of."""
    source: int | None
    """The layer whose output it reads."""
    reason: Reason | str
    """Why there is none."""


def places(traced: Traced) -> list[Place]:
    """All layers: one for each site, and for each turn of a loop that has its own weights."""
    sites = traced.anatomy.sites
    turns: list[tuple[Site, tuple[int, ...]]] = []
    for group in _nests(list(sites.values())):
        lengths = [range(length) for _, length in stacks(group[0])]
        turns += [(site, index) for index in itertools.product(*lengths) for site in group]
    rows: dict[Path, dict[tuple[int, ...], int]] = {path: {} for path in sites}
    for row, (site, index) in enumerate(turns):
        rows[site.path][index] = row
    uses: collections.Counter[tuple] = collections.Counter()
    found = []
    for row, (site, index) in enumerate(turns):
        leaves = tuple(sorted({source.leaf for source in site.sources}))
        uses[leaves, index] += 1
        use = uses[leaves, index]
        source, reason = _source(site, index, rows, sites)
        if source is not None and source >= row:
            source, reason = None, "loop"
        parameters = tuple(Parameter(leaf, traced.names[leaf], index, use) for leaf in leaves)
        found.append(Place(site, index, parameters, source, reason))
    return found


def stacks(site: Site) -> tuple[tuple[Path, int], ...]:
    """The loops that give a site its own weight in every turn, with their lengths."""
    return tuple(
        (path, length) for path, length in site.loops if path in site.stacked and length is not None
    )


def _nests(sites: list[Site]) -> list[list[Site]]:
    """Sites that are stacked by the same loops and follow each other."""
    groups: list[list[Site]] = []
    for site in sites:
        if groups and stacks(site) and stacks(site) == stacks(groups[-1][0]):
            groups[-1].append(site)
        else:
            groups.append([site])
    return groups


def _source(
    site: Site,
    index: tuple[int, ...],
    rows: dict[Path, dict[tuple[int, ...], int]],
    sites: dict[Path, Site],
) -> tuple[int | None, Reason | str]:
    """The layer whose output this one reads, or why there is none."""
    tag = site.inputs[0]
    if index:
        loop, length = stacks(site)[-1]
        first = length - 1 if loop in site.backward else 0
        tag = tag if index[-1] == first else site.inputs[-1]
    if site.kind == "embedding":
        return None, "embedding"
    if len(site.loops) > len(index):
        tag = site.inputs[-1]
        if len(site.inputs) > 1:
            return None, "shared loop"
    signal = tag.signal
    if signal is None or signal.site is None or not isinstance(signal.expression, Expression):
        return None, tag.lost or "loop"
    turns = rows.get(signal.site, {})
    back = 1 if signal.earlier else 0
    wanted = (*index[:-1], index[-1] - back) if index else ()
    if wanted in turns:
        return turns[wanted], ""
    depth = len(next(iter(turns), index))
    if depth > len(index):
        loops = [path for path, _ in stacks(sites[signal.site])]
        if set(loops) & set(signal.layout):
            return None, "all turns"
        same = [turn for turn in turns if turn[: len(index)] == index]
        if same:  # what a loop leaves is its last turn's
            steps = [-1 if path in sites[signal.site].backward else 1 for path in loops]
            last = max(same, key=lambda turn: [a * b for a, b in zip(turn, steps, strict=True)])
            return turns[last], ""
    elif depth < len(index):
        return next(iter(turns.values())), ""
    return None, tag.lost or "loop"
