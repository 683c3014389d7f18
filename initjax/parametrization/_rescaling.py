"""Which factor a draw of the model's own initializers needs, when these aren't known.

What a parameter's standard deviation would be in the base model follows from how that of its law
changes with the shape. A draw of the base model shows that, whatever the law is. Without one, the
law must be told by its numbers.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax._values import is_traced
from initjax.leaves import IdentifiedLeaf, identify
from initjax.leaves._arrays import as_array, constant, parts
from initjax.parametrization._counterparts import kind
from initjax.parametrization._draws import scaling, size_in, snapped
from initjax.pytorch import torch_bias
from initjax.specs import parse

if TYPE_CHECKING:
    from initjax.parametrization._leaves import PlannedLeaf

_USUAL = (0.001, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
"""Standard deviations and bounds that are chosen whatever the shape is. Any other may be a gain
over a fan."""
_ALIKE = 1.1
"""Ratios so near are taken for one: those of He's and Glorot's law of a head with few outputs."""


def size_of(array: Any) -> float | None:
    """The root mean square of an array; None if it can't be read: a shape, or traced by JAX."""
    numbers, _ = (None, "") if is_traced(array) else as_array(array)
    if numbers is None or not numbers.size:
        return None
    wide = np.complex128 if numbers.dtype.kind == "c" else np.float64
    total = sum(float(np.square(np.abs(part.astype(wide))).sum()) for part in parts(numbers))
    return math.sqrt(total / numbers.size)


def rescalings(leaves: Sequence[PlannedLeaf], arrays: Mapping[str, Any]) -> dict[str, float]:
    """The factor of each array's draw, by path; those that need none are left out.

    Args:
      leaves: what is planned.
      arrays: draws of the model's own initializers, by path.

    Raises:
      ValueError: it can't be told which law drew an array.
    """
    found: dict[str, float] = {}
    unknown = []
    for leaf in leaves:
        if leaf.path not in arrays or (leaf.shape == leaf.base_shape and leaf.stddev == 1):
            continue
        if leaf.given and leaf.base_initializer is not None:
            found[leaf.path] = scaling(leaf.base_initializer, leaf, leaf.stddev)
            continue
        size = size_of(arrays[leaf.path])
        if size is None:
            raise ValueError(
                f"rescale: {leaf.path} has no numbers to look at; say what the model draws it"
                f" from: parametrize(..., init={{{leaf.path!r}: ...}})"
            )
        if not math.isfinite(size):
            raise ValueError(f"rescale: {leaf.path} isn't finite")
        if constant(np.asarray(arrays[leaf.path])):
            continue
        if leaf.base_size is None:
            unknown.append(leaf)
        elif leaf.base_size > 0:
            error = math.hypot(*((2 * math.prod(s)) ** -0.5 for s in (leaf.shape, leaf.base_shape)))
            usual = [*leaf.usual, *_beside(leaf, leaves).values()]
            found[leaf.path] = leaf.stddev * snapped(leaf.base_size / size, usual, error)
    if unknown:
        found |= _identified(unknown, leaves, arrays)
    return {path: factor for path, factor in found.items() if factor != 1}


def _beside(leaf: PlannedLeaf, leaves: Iterable[PlannedLeaf]) -> dict[float, float]:
    """For a vector, the fan_in of each kernel of its layer, and how much larger the numbers of the
    base model are that are scaled by its root."""
    if leaf.role != "vector":
        return {}
    layer = leaf.path.rpartition("/")[0]
    return {
        other.fan_in: (other.fan_in / other.base_fans[0]) ** 0.5
        for other in leaves
        if other.path.rpartition("/")[0] == layer and other.role not in ("vector", "scalar")
    }


def _identified(
    unknown: Sequence[PlannedLeaf], leaves: Sequence[PlannedLeaf], arrays: Mapping[str, Any]
) -> dict[str, float]:
    """Factors by the laws that the arrays look drawn from. Layers of one name share them: chance
    makes one in a thousand look otherwise."""
    # Whole layers, since the scale of a bias is told by its kernel.
    nodes = {leaf.path.rpartition("/")[0] for leaf in unknown}
    looks = identify({path: a for path, a in arrays.items() if path.rpartition("/")[0] in nodes})
    texts = {look.path: look for look in looks.leaves}
    groups: dict[Any, list[PlannedLeaf]] = {}
    for leaf in unknown:
        groups.setdefault((kind(leaf.path), leaf.shape, leaf.base_shape), []).append(leaf)
    found = {}
    for group in groups.values():
        ratios = [_ratio(leaf, texts[leaf.path], _beside(leaf, leaves)) for leaf in group]
        known = collections.Counter(ratio for ratio in ratios if ratio is not None)
        if not known:
            leaf = group[0]
            raise ValueError(
                f"rescale: it can't be told what {leaf.path} is drawn from: {texts[leaf.path].text}"
                ". Give parametrize the arrays of the base model, as it draws them, in place of"
                f" their shapes, or this parameter's initializer, init={{{leaf.path!r}: ...}}"
            )
        ((ratio, _),) = known.most_common(1)
        found |= {leaf.path: leaf.stddev * ratio for leaf in group}
    return found


def _ratio(leaf: PlannedLeaf, look: IdentifiedLeaf, beside: Mapping[float, float]) -> float | None:
    """How much larger the numbers of the base model are; None if the laws that fit disagree."""
    ratios = []
    for rule in look.rules:
        drawing = parse(rule)
        if isinstance(drawing, torch_bias):
            if drawing.fan_in not in beside:
                return None
            ratios.append(beside[drawing.fan_in])
            continue
        before, now = (size_in(drawing, shape) for shape in (leaf.base_shape, leaf.shape))
        number = getattr(drawing, "stddev", getattr(drawing, "maxval", None))
        if number is not None and number not in _USUAL:
            return None  # identify names the number that it measured
        ratios.append(snapped(before / now, leaf.usual))
    same = ratios and max(ratios) < _ALIKE * min(ratios)
    return round(ratios[0], 9) if same else None
