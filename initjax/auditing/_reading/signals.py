"""What is applied to a site's output: where another site reads it, or where its signal ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from initjax.auditing._activations import outgrows_lines
from initjax.auditing._reading.expressions import (
    IDENTITY,
    Expression,
    Path,
    bare,
    floating,
)
from initjax.auditing._reading.primitives import Primitive
from initjax.auditing._reading.sites import Site
from initjax.auditing._reading.state import Reading
from initjax.auditing._reading.tags import Tag


def note_reader(reading: Reading, tag: Tag, path: Path) -> None:
    """Notes that the site at `path` reads a value."""
    signal = tag.signal
    if signal is None or signal.site is None or not isinstance(signal.expression, Expression):
        return
    source = reading.sites[signal.site]
    source.readers.add(path)
    if source.activation is None or source.activation == IDENTITY:
        source.activation = signal.expression


def note_ends(reading: Reading, eqn: Any, row: Primitive, tags: Sequence[Tag]) -> None:
    """Notes what has been applied to sites whose signals end at an equation."""
    for position, (var, tag) in enumerate(zip(eqn.invars, tags, strict=True)):
        signal = tag.signal
        if signal is None or signal.site is None or not floating(var.aval.dtype):
            continue
        if not isinstance(signal.expression, Expression):
            continue
        others = [other for number, other in enumerate(tags) if number != position]
        # A gate may be saturated on purpose.
        gated = row.arithmetic in ("product", "quotient") and any(
            [other.behind_sites and not other.statistic for other in others]
        )
        site = reading.sites[signal.site]
        if gated:
            site.gate = signal.expression
        whole = var.aval.size >= site.size and not gated
        ends = site.reduced if row.kind == "reduction" else site.mixed
        ends.add(signal.expression if whole else None)


def activation_at_ends(site: Site) -> Expression | None:
    """What is applied to a site that no other reads directly, if it is the same at all ends.

    A function that grows faster than linearly, as an exponential scale does, is not an activation.
    """
    ends = {end and bare(end) for end in site.mixed or site.reduced}
    (end,) = ends if len(ends) == 1 else (None,)
    return None if end is None or end == IDENTITY or outgrows_lines(end) else end
