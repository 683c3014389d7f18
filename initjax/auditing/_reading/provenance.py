"""Provenance: how a value that can serve as a weight is made from parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from initjax.auditing._reading import layout
from initjax.auditing._reading.primitives import Primitive
from initjax.auditing._reading.tags import Source, Tag, union


def sources_after(
    eqn: Any, row: Primitive, tags: Sequence[Tag], pure: bool, sizes: Sequence[int]
) -> frozenset[Source]:
    """How the result of an equation is made from parameters; nothing if it is not a weight.

    Args:
      eqn: an equation.
      row: the row of its primitive.
      tags: the tags of its operands.
      pure: whether the result depends on parameters alone.
      sizes: how many elements each parameter has.
    """
    sources = union([tag.sources for tag in tags])
    if not sources or not (pure or _stays_weight(eqn, row, tags, sources, sizes)):
        return frozenset()
    if row.linear:
        return sources
    if row.kind == "layout" and not row.cuts:
        if row.move_axes is layout.same_axes:
            return sources
        return frozenset([source._replace(laid_out=True) for source in sources])
    if row.arithmetic in ("product", "quotient"):
        scaled = sum([tag.data or bool(tag.leaves) for tag in tags]) == 1
        inverted = row.arithmetic == "quotient" and bool(tags[1].leaves)
        if scaled and not inverted:
            return sources
    how = "part" if row.cuts else "nonlinear"
    return frozenset([source._replace(how=how) for source in sources])


def _stays_weight(
    eqn: Any,
    row: Primitive,
    tags: Sequence[Tag],
    sources: frozenset[Source],
    sizes: Sequence[int],
) -> bool:
    """Whether a value that depends on parameters and data can be a weight: see `Tag.sources`."""
    leaves = {source.leaf for source in sources}
    if eqn.outvars[0].aval.size > max(sizes[leaf] for leaf in leaves):
        return False
    if row.linear or (row.kind == "layout" and not row.cuts):
        return True
    inverted = row.arithmetic == "quotient" and bool(tags[1].sources)
    return (
        bool(row.arithmetic)
        and not inverted
        and all(tag.sources or tag.leaves <= leaves for tag in tags)
    )
