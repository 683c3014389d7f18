"""Rules for the result of an equation that is no site and runs no nested program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from initjax.auditing._reading import provenance
from initjax.auditing._reading.elementwise import elementwise
from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.primitives import Primitive, is_program
from initjax.auditing._reading.state import Reading
from initjax.auditing._reading.tags import Signal, Tag, join, union


def result(reading: Reading, eqn: Any, row: Primitive, tags: Sequence[Tag], path: Path) -> Tag:
    """The tag of an equation's result.

    Args:
      reading: the state of the reading.
      eqn: the equation.
      row: the row of its primitive.
      tags: the tags of its operands.
      path: the position of the equation.
    """
    if not tags:
        return reading.array
    together = join(tags)
    sources = provenance.sources_after(eqn, row, tags, together.pure, reading.sizes)
    tag = together._replace(signal=None, masked=None, softmax=None, sources=sources, once=True)
    pooled = _is_pooled(eqn, row, tags)
    # Statistics of the batch multiply and shift its examples alike, as constants do.
    varying = [tag.behind_sites and (pooled or not tag.pooled) for tag in tags]
    affine = all([tag.affine for tag, varies in zip(tags, varying, strict=True) if varies])
    affine = affine and _keeps_affine(row, tags, varying)
    waves = together.waves or eqn.primitive.name in ("sin", "cos")
    made = _RULES[row.kind](reading, eqn, row, tags, tag, path)
    return made._replace(affine=affine, waves=waves, pooled=pooled)


def _is_pooled(eqn: Any, row: Primitive, tags: Sequence[Tag]) -> bool:
    """Whether a result is one number for each feature, taken over all examples, the first axis."""
    behind = [tag for tag in tags if tag.behind_sites]
    if behind and all([tag.pooled for tag in behind]):
        return True
    return bool(behind) and row.statistic and _drops_only_examples(eqn)


def _drops_only_examples(eqn: Any) -> bool:
    return 0 in eqn.params["axes"] and eqn.outvars[0].aval.size > 1


def _keeps_affine(row: Primitive, tags: Sequence[Tag], behind: Sequence[bool]) -> bool:
    """Whether an equation's result is a linear function of what its operands are made from.

    Args:
      row: the row of its primitive.
      tags: the tags of its operands.
      behind: which of them are not constant.
    """
    if not any(behind):
        return True
    if row.arithmetic == "quotient":
        return not behind[1]
    if row.arithmetic == "choice" or row.kind == "layout":  # by the condition, or by indices
        chosen_by = behind[:1] if row.arithmetic else behind[1:]
        return not any(chosen_by)
    if row.arithmetic == "product" or row.kind == "product":
        one, other = tags
        apart = one.batch.isdisjoint(other.batch) or one.pooled or other.pooled
        return not all(behind) and apart
    return row.affine


def _laid_out(
    reading: Reading, eqn: Any, row: Primitive, tags: Sequence[Tag], tag: Tag, path: Path
) -> Tag:
    array, *indices = tags
    signal, lost = array.signal, array.lost
    if signal is None or any([index.data for index in indices]):
        signal, lost = None, lost or "choice"
    elif signal.site is not None:
        axes = None if signal.axes is None else row.move_axes(eqn, signal.axes)
        signal = signal._replace(axes=axes, layout=(*signal.layout, path))
    return tag._replace(
        signal=signal,
        lost=lost,
        linear=array.linear,
        statistic=array.statistic,
        root=array.root,
        near=array.near,
        masked=array.masked,
    )


def _reduction(
    reading: Reading, eqn: Any, row: Primitive, tags: Sequence[Tag], tag: Tag, path: Path
) -> Tag:
    return _restart(tag, row.lost)._replace(statistic=row.statistic and tag.data)


def _product(
    reading: Reading, eqn: Any, row: Primitive, tags: Sequence[Tag], tag: Tag, path: Path
) -> Tag:
    """Completes the tag of a product that is not a site: of two layers, of constants, or unread."""
    name = eqn.primitive.name
    if tag.pure and not all([operand.leaves for operand in tags]):
        reading.constant_products = True
    missed = [operand.leaves for operand in tags if operand.leaves and not operand.sites]
    if tag.data and missed:
        reading.note_unread(name, union(missed))
    return _restart(tag, (tag.data and row.lost) or tag.lost or name)


def _other(
    reading: Reading, eqn: Any, row: Primitive, tags: Sequence[Tag], tag: Tag, path: Path
) -> Tag:
    made = _restart(tag, row.lost or tag.lost or eqn.primitive.name)
    if row.lost == "join" and all([part == tags[0] for part in tags]) and tags[0].lost:
        return made._replace(lost=tags[0].lost)  # parts of one value that has no signal
    if row.lost == "join" and (signal := _rejoined(eqn, tags)):
        layout = (*signal.layout, path)
        made = made._replace(signal=signal._replace(layout=layout), lost="", linear=tag.linear)
    return made


def _rejoined(eqn: Any, tags: Sequence[Tag]) -> Signal | None:
    """The signal that all operands are parts of, as where an array is rolled or padded circularly;
    None if they aren't parts of one, or if its units are moved."""
    first, *others = [tag.signal for tag in tags]
    if first is None or first.site is None or first.axes is None:
        return None
    if eqn.primitive.name != "concatenate" or eqn.params["dimension"] in first.axes:
        return None
    alike = [other and other._replace(layout=first.layout) == first for other in others]
    return first if all(alike) else None


def _unknown(
    reading: Reading, eqn: Any, row: Primitive, tags: Sequence[Tag], tag: Tag, path: Path
) -> Tag:
    name = eqn.primitive.name
    entering = union([operand.leaves for operand in tags if operand.pure])
    opaque = any(is_program(value) for value in eqn.params.values())
    if tag.data and (entering or (opaque and tag.leaves)):
        label = str(eqn.params.get("name") or eqn.params.get("name_and_src_info") or "")
        reading.note_unread(f"{name} ({label[:60]})" if label else name, entering)
    return _restart(tag, name)


def _restart(tag: Tag, why: str) -> Tag:
    """The tag of a value from which predictions restart."""
    return tag._replace(lost=why, linear=False, statistic=False, root=False)


_RULES = {
    "elementwise": elementwise,
    "layout": _laid_out,
    "reduction": _reduction,
    "product": _product,
    "other": _other,
    "unknown": _unknown,
}
