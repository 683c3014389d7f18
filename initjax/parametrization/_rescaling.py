"""Which factor a draw of the model's own initializers needs, when these aren't known.

What a parameter's standard deviation would be in the base model follows from how that of its law
changes with the shape. A draw of the base model shows that, whatever the law is. Without one, the
law must be told by its numbers.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from initjax._values import is_traced
from initjax.leaves import identify
from initjax.leaves._arrays import as_array, constant, parts
from initjax.parametrization._counterparts import kind
from initjax.parametrization._draws import scaling, size_in, snapped
from initjax.parametrization._leaves import PlannedLeaf
from initjax.pytorch import torch_bias
from initjax.specs import parse

_USUAL = (0.001, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
"""Standard deviations and bounds that are chosen whatever the shape is. Any other may be a gain
over a fan."""
_TRIES = 5  # layers of one name that are looked at
_ERRORS = 3.5  # standard errors of a measured ratio


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
    groups: dict[Any, list[PlannedLeaf]] = {}
    ratios: dict[str, dict[str, float]] = {}
    near = _beside(leaves)
    for leaf in leaves:
        if leaf.path not in arrays or (leaf.shape == leaf.base_shape and leaf.stddev == 1):
            continue
        if 0 in (*leaf.shape, *leaf.base_shape):
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
        if leaf.base_size == 0 or constant(np.asarray(arrays[leaf.path])):
            continue
        if leaf.base_size is None:  # told below, once for all layers of one name
            alike = kind(leaf.path), leaf.shape, leaf.base_shape, *near.get(leaf.path, ())
            groups.setdefault(alike, []).append(leaf)
        else:
            beside = near.get(leaf.path, {})
            ratios[leaf.path] = _measured(leaf, leaf.base_size / size, beside)
    for group in groups.values():
        beside = near.get(group[0].path, {})
        ratios |= dict.fromkeys((leaf.path for leaf in group), _identified(group, beside, arrays))
    # A model usually draws most of its kernels by one law.
    votes = collections.Counter(law for laws in ratios.values() for law in laws)
    for leaf in leaves:
        if laws := ratios.get(leaf.path):
            beside = near.get(leaf.path, {})
            law = max(laws, key=lambda law, beside=beside: (law in beside, votes[law]))
            found[leaf.path] = leaf.stddev * laws[law]
    return {path: factor for path, factor in found.items() if factor != 1}


def _measured(leaf: PlannedLeaf, ratio: float, beside: Mapping[str, float]) -> dict[str, float]:
    """How much larger the numbers of the base model are, by what that may depend on: the nearest
    first, and only what fits; as measured if nothing does.

    Args:
      leaf: the parameter.
      ratio: as measured.
      beside: ratios by the kernels of its layer.
    """
    sizes = (math.prod(shape) for shape in (leaf.shape, leaf.base_shape))
    error = _ERRORS * math.hypot(*((2 * size) ** -0.5 for size in sizes))  # of normal numbers
    usual = {**leaf.usual, **beside}
    off = {law: abs(math.log(ratio / each)) for law, each in usual.items()}
    fitting = sorted((law for law in usual if off[law] < error), key=off.__getitem__)
    return {law: usual[law] for law in fitting} or {"": ratio}


def _beside(leaves: Iterable[PlannedLeaf]) -> dict[str, dict[str, float]]:
    """By vector, how much larger the numbers of the base model are that are scaled by the root of
    the fan_in of a kernel of its layer, by this fan_in."""
    layers: dict[str, dict[str, float]] = {}
    vectors = []
    for leaf in leaves:
        layer = leaf.path.rpartition("/")[0]
        if leaf.role == "vector":
            vectors.append((leaf.path, layer))
        elif leaf.role != "scalar":
            ratio = (leaf.fan_in / leaf.base_fans[0]) ** 0.5
            layers.setdefault(layer, {})[f"fan_in of {leaf.fan_in:g}"] = ratio
    return {path: layers.get(layer, {}) for path, layer in vectors}


def _identified(
    group: Sequence[PlannedLeaf], beside: Mapping[str, float], arrays: Mapping[str, Any]
) -> dict[str, float]:
    """The same by the laws that the array of a layer looks drawn from.

    Args:
      group: this parameter, in layers of one name.
      beside: ratios by the kernels of its layer.
      arrays: all arrays, by path.
    """
    text = ""
    for leaf in group[:_TRIES]:  # one in a thousand looks otherwise by chance
        layer = _layer(leaf)
        near = {path: each for path, each in arrays.items() if path.startswith(layer)}
        (look,) = (each for each in identify(near).leaves if each.path == leaf.path)
        text = look.text
        ratios = [_ratios(leaf, rule, beside) for rule in look.rules]
        if ratios and all(ratios):
            return {law: ratio for each in ratios for law, ratio in each.items()}
    raise ValueError(
        f"rescale: it can't be told what {group[0].path} is drawn from: {text}. Give parametrize"
        " the base model's arrays in place of their shapes, or this parameter's initializer,"
        f" init={{{group[0].path!r}: ...}}"
    )


def _ratios(leaf: PlannedLeaf, rule: str, beside: Mapping[str, float]) -> dict[str, float]:
    """How much larger an initializer draws in the base model, by what that depends on; nothing if
    that is unknown."""
    drawing = parse(rule)
    if isinstance(drawing, torch_bias):
        law = f"fan_in of {drawing.fan_in:g}"
        return {law: beside[law]} if law in beside else {}
    number = getattr(drawing, "stddev", getattr(drawing, "maxval", None))
    if number is not None and number not in _USUAL:
        return {}  # identify names the number that it measured
    before, now = (size_in(drawing, shape) for shape in (leaf.base_shape, leaf.shape))
    ratio = snapped(before / now, leaf.usual.values())
    laws = {law: each for law, each in leaf.usual.items() if each == ratio}
    return laws or {rule: ratio}


def _layer(leaf: PlannedLeaf) -> str:
    """What the paths of the parameters of its layer begin with; the scale of a bias is told by its
    kernel. Others are told alone."""
    return leaf.path.rpartition("/")[0] if leaf.role == "vector" else leaf.path
