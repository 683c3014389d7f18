"""Finds the layers of any JAX function by reading its jaxpr.

Nothing is computed: an abstract value, a `Tag`, follows each value through the equations, into
nested programs and around loops. `primitives.py` says how each primitive is read.
"""

from __future__ import annotations

import collections
from collections.abc import Collection, Sequence
from typing import Any

from initjax.auditing._reading import control_flow
from initjax.auditing._reading.expressions import IDENTITY, Path
from initjax.auditing._reading.primitives import primitive_of
from initjax.auditing._reading.products import Product
from initjax.auditing._reading.results import result
from initjax.auditing._reading.signals import activation_at_ends, note_ends, note_reader
from initjax.auditing._reading.sites import Anatomy, Site
from initjax.auditing._reading.softmax import note_logits, softmax_after
from initjax.auditing._reading.state import Reading
from initjax.auditing._reading.tags import Signal, Source, Tag, join, union

_ARRAY = Tag(lost="array")
_CLOSED_OVER = Tag(data=True, batch=frozenset([-1]), near=frozenset([None]), lost="batch")


def find(jaxpr: Any, num_parameters: int, fixed: Collection[int] = ()) -> Anatomy:
    """Finds the sites of a program.

    Args:
      jaxpr: a closed jaxpr.
      num_parameters: how many of its first inputs are parameters; the others are data.
      fixed: the parameters that are data nevertheless, such as running statistics and counts.

    Returns:
      The anatomy.
    """
    tags = [
        Tag(leaves=frozenset([index]), sources=frozenset([Source(index)]), lost="parameter")
        if index < num_parameters and index not in fixed
        else Tag(data=True, batch=frozenset([index]), near=frozenset([None]), lost="batch")
        for index in range(len(jaxpr.jaxpr.invars))
    ]

    def read(matrix: Tag, array: Tag) -> tuple[Reading, frozenset[int]]:
        reading = Reading(matrix, array, [var.aval.size for var in jaxpr.jaxpr.invars])
        results = _run(reading, jaxpr, tags, ())
        for path in reading.inside:
            reading.sites.pop(path, None)
        return reading, union([tag.leaves for tag in results])

    # Arrays that a function closes over or makes are data too if no others meet the parameters.
    if num_parameters == len(jaxpr.jaxpr.invars):
        reading, leaves = read(_CLOSED_OVER, _CLOSED_OVER)
    else:
        reading, leaves = read(_ARRAY, _ARRAY)
        if reading.constant_products:
            other, other_leaves = read(_CLOSED_OVER, _ARRAY)
            if len(other.sites) > len(reading.sites):
                reading, leaves = other, other_leaves
        if not reading.sites:
            reading, leaves = read(_CLOSED_OVER, _CLOSED_OVER)
    sites = dict(sorted(reading.sites.items()))
    _finish(sites, reading.ruled)
    return Anatomy(sites, reading.unread, leaves, factors=frozenset(reading.factors))


def _finish(sites: dict[Path, Site], ruled: Collection[Path]) -> None:
    """Settles what only the whole program shows."""
    entering = [tag for site in sites.values() for tag in site.inputs]
    upstream = union([*(tag.sites for tag in entering), *(tag.near for tag in entering)])
    for path, site in sites.items():
        site.ruled = any(site.output[: len(outer)] == outer for outer in ruled)
        if path not in upstream and not site.streams:  # it is added to a target
            site.added = site.residual = False
        if path in upstream and site.activation is None:
            site.activation = activation_at_ends(site)


def _run(reading: Reading, program: Any, arguments: Sequence[Tag], path: Path) -> list[Tag]:
    """Reads a closed jaxpr.

    Args:
      reading: the state of the reading.
      program: the jaxpr.
      arguments: the tags of its inputs.
      path: the position of the program.

    Returns:
      The tags of its results.
    """
    from jax.extend.core import Literal

    jaxpr = program.jaxpr
    uses = collections.Counter(
        [var for eqn in jaxpr.eqns for var in eqn.invars if not isinstance(var, Literal)]
    )
    uses.update([var for var in jaxpr.outvars if not isinstance(var, Literal)])
    tags: dict[Any, Tag] = {}

    def read(var: Any) -> Tag:
        return reading.constant(var.val) if isinstance(var, Literal) else tags[var]

    constants = map(reading.constant, program.consts)
    for var, tag in zip(
        [*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True
    ):  # what the caller uses more than once stays so
        tags[var] = tag if not tag.once or uses[var] <= 1 else tag._replace(once=False)
    for index, eqn in enumerate(jaxpr.eqns):
        results = _equation(reading, eqn, list(map(read, eqn.invars)), (*path, index))
        for var, tag in zip(eqn.outvars, results, strict=True):
            once = uses[var] <= 1
            tags[var] = tag if tag.once == once else tag._replace(once=once)
    return list(map(read, jaxpr.outvars))


def _equation(reading: Reading, eqn: Any, tags: list[Tag], path: Path) -> list[Tag]:
    """The tags of an equation's results."""
    row = primitive_of(eqn)
    nested = control_flow.RULES.get(row.kind)
    if nested is not None:

        def run(program: Any, arguments: Sequence[Tag], path: Path) -> list[Tag]:
            return _run(reading, program, arguments, path)

        return nested(reading, eqn, tags, path, run)
    product = row.product and row.product(eqn, tags)
    if product is not None:
        return [_site(reading, eqn, tags, path, product)]
    if row.kind == "same":
        return tags
    if row.logarithm:
        note_logits(reading, tags[0])
    tag = result(reading, eqn, row, tags, path)
    softmax = softmax_after(row.softmax, eqn, tags)
    if softmax is not None:
        tag = tag._replace(softmax=softmax)
    if tag.signal is None:
        note_ends(reading, eqn, row, tags)
    if len(eqn.outvars) == 1:
        return [tag]
    return [_one_of_several(tag, (*path, number)) for number in range(len(eqn.outvars))]


def _one_of_several(tag: Tag, path: Path) -> Tag:
    """The tag of one of several results: each holds other elements than the others."""
    if tag.signal is None or tag.signal.site is None:
        return tag
    return tag._replace(signal=tag.signal._replace(layout=(*tag.signal.layout, path)))


def _site(reading: Reading, eqn: Any, tags: list[Tag], path: Path, product: Product) -> Tag:
    """Notes a site, and returns the tag of its output."""
    weight = product.weight
    data = tags[1 - weight] if len(tags) == 2 else join(tags[1:])
    site = reading.sites.get(path)
    entering, leaving = eqn.invars[1 - weight].aval.size, eqn.outvars[0].aval.size
    if site is None:
        reading.sites[path] = site = Site(
            path=path,
            **product._asdict(),
            sources=tags[weight].sources,
            fan_out=product.fan_in * leaving / max(1, entering),
            loops=tuple(reading.loops),
            backward=frozenset(loop for loop, _ in reading.loops if loop in reading.backward),
            scopes=tuple(reading.scopes),
            inputs=[],
            size=leaving,
            output=path,
        )
    # Another turn of a loop reads the same equations again.
    site.output, site.output_axes = path, product.unit_axes
    site.scale, site.bias = 1.0, None
    known = data._replace(leaves=frozenset(), once=True)
    if known not in site.inputs:
        site.inputs.append(known)
    reading.inside |= tags[weight].sites
    note_reader(reading, data, path)
    return Tag(
        leaves=tags[weight].leaves | data.leaves,
        data=True,
        batch=data.batch,
        signal=Signal(path, IDENTITY, axes=product.unit_axes),
        sites=data.sites | {path},
        near=frozenset([path]),
    )
