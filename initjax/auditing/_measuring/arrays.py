"""Statistics of the arrays that a pass has tapped at one layer.

All functions are written against the array API: NumPy runs them as they are, which compiles
nothing, and `jax.jit` compiles them once for all layers of a shape. Every array has a leading axis
of turns: those of the loops around its layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from initjax.auditing._reading.expressions import IDENTITY, Expression
from initjax.auditing._reading.sites import Site

_MOST = 64  # rows, and columns, of the samples that ranks and histograms are taken of


class Geometry(NamedTuple):
    """What the statistics of a layer depend on besides its arrays."""

    weight_units: tuple[int, ...]
    """The axes of the weight along which the units are."""
    weight_members: int
    """How many of these axes, the first, are those of members."""
    output_axes: tuple[int, ...]
    """The axes of the output along which the units are."""
    output_members: int
    activation: Expression | None
    """What follows, unless it is the identity."""
    features: tuple[int, ...]
    """The axes of the input along which the features of the batch are; none behind other layers."""


Flat = Callable[[Expression, Any], Any]
"""Tells where an activation is flat: maps it and pre-activations to booleans of the same shape."""


def geometry_of(site: Site) -> Geometry:
    """The geometry of a site's layer."""
    # An output that was laid out differently since no longer has the axes of members first.
    members = site.members if len(site.output_axes) == len(site.unit_axes) else 0
    activation = None if site.activation == IDENTITY else site.activation
    features = site.features if site.reads_batch else ()
    return Geometry(
        site.weight_units, site.members, site.output_axes, members, activation, features
    )


def layer_statistics(
    geometry: Geometry, taps: dict[str, Any], flat: Flat
) -> tuple[dict[str, Any], dict[str, Any]]:
    """All statistics of one layer.

    Args:
      geometry: of the layer.
      taps: 'weight' (absent where its statistics were taken already), 'input' (absent for an
        embedding), 'output', 'bias' (if there is one) and 'cotangent' (if a gradient can be taken),
        each with a leading axis of turns, of one where it is the same in all turns.
      flat: tells where an activation is flat.

    Returns:
      What the pass forward shows, and what the pass back shows: by name, arrays with the axis of
      turns.
    """
    forward = _of_output(geometry, taps["output"], flat)
    xp = forward["square"].__array_namespace__()
    if "weight" in taps:
        forward |= weight_statistics(geometry, taps["weight"])
    if "input" in taps:
        forward["input_scale"], forward["input_square"] = _scale_and_square(taps["input"])
        if geometry.features:
            forward |= _of_features(taps["input"], geometry.features)
    else:  # an embedding's rows are picked by ones
        forward["input_scale"] = forward["input_square"] = xp.ones_like(forward["square"])
    if "bias" in taps:
        forward["bias_square"] = _square(_float32(taps["bias"]))
    else:
        forward["bias_square"] = xp.zeros_like(forward["square"])
    backward = _of_cotangent(geometry, taps["cotangent"]) if "cotangent" in taps else {}
    return forward, backward


def weight_statistics(geometry: Geometry, weight: Any) -> dict[str, Any]:
    """Statistics of a weight, (turns, ...)."""
    weight = _float32(weight)
    xp = weight.__array_namespace__()
    members = _by_member(weight, geometry.weight_units, geometry.weight_members)
    squares = _square(members, 2)
    return {
        "weight_square": squares.mean(1),
        "weight_least": squares.min(1),
        "members": xp.full(len(weight), np.float32(members.shape[1])),
        "weight_mean": weight.mean(tuple(range(1, weight.ndim))),
        "weight_zeros": 1 - _share(weight),
        "weight_sample": _sketch(members),
    }


def _of_output(geometry: Geometry, output: Any, flat: Flat) -> dict[str, Any]:
    z = _float32(output)
    scale = _scale(z)
    # Squares of scaled numbers stay within float32.
    matrix = _examples_first(z / _along(scale, z), geometry.output_axes)
    units = matrix.mean(2).mean(1)
    centered = matrix - units[:, None, None, :]
    xp = matrix.__array_namespace__()
    turns, first, others, count = matrix.shape
    squares = _dot(matrix, matrix)
    record = {
        "scale": scale,
        "mean": units.mean(1),
        "square": squares.mean((1, 2)) / count,
        "unit_variance": _square(centered),
        "correlation": _correlation(matrix, squares),
        "sample": _strided(_split(matrix.reshape(turns, first * others, count),
                                  geometry.output_members, z.shape, geometry.output_axes)),
        "samples": xp.full(turns, np.float32(first * others)),
        "units": xp.full(turns, np.float32(count)),
    }  # fmt: skip
    if geometry.activation is not None:
        mask = flat(geometry.activation, z)
        mask = _examples_first(mask, geometry.output_axes).reshape(turns, -1, count)
        record["flat"] = _share(mask)
        record["dead"] = _share(mask.all(1))
    return record


def _of_cotangent(geometry: Geometry, cotangent: Any) -> dict[str, Any]:
    gradient = _float32(cotangent)
    xp = gradient.__array_namespace__()
    # A gradient of a mean over many examples may have squares that float32 can't hold.
    scale = _scale(gradient)
    scaled = gradient / _along(scale, gradient)
    size = np.float32(math.log(math.prod(gradient.shape[1:]) or 1))
    with np.errstate(divide="ignore"):
        logarithm = xp.log(_square(scaled)) + size
        typical = xp.log(_median(_of_examples(scaled, geometry.output_axes))) + size
    members = _by_member(scaled, geometry.output_axes, geometry.output_members)
    return {
        "log_square": logarithm + 2 * xp.log(scale),
        "log_typical": typical + 2 * xp.log(scale),
        "sample": _strided(members),
    }


def _of_features(array: Any, axes: tuple[int, ...]) -> dict[str, Any]:
    """The mean and the variance of every feature over examples and positions."""
    features, _ = _units_last(_float32(array), axes)
    features = features.reshape(len(array), -1, _count(array.shape, axes))
    means = features.mean(1)
    centered = features - means[:, None, :]
    return {"feature_means": means, "feature_variances": (centered * centered).mean(1)}


def _float32(array: Any) -> Any:
    return array if array.dtype == np.float32 else array.astype(np.float32)


def _scale(array: Any) -> Any:
    """The largest absolute number of every turn; 1 where all are zero."""
    rows = array.reshape(len(array), -1)
    xp = array.__array_namespace__()
    if not rows.shape[1]:
        return xp.ones(len(rows), dtype=np.float32)
    largest = xp.maximum(rows.max(1), -rows.min(1))
    return xp.where(largest == 0, np.float32(1), largest)


def _scale_and_square(array: Any) -> tuple[Any, Any]:
    wide = _float32(array)
    scale = _scale(wide)
    return scale, _square(wide / _along(scale, wide))


def _along(numbers: Any, array: Any) -> Any:
    """One number for each turn, shaped to be combined with an array."""
    return numbers.reshape(-1, *(1,) * (array.ndim - 1))


def _square(array: Any, axes: int = 1) -> Any:
    """The mean square over all but the first axes."""
    return (array * array).mean(tuple(range(axes, array.ndim)))


def _dot(one: Any, other: Any) -> Any:
    return (one * other).sum(-1)


def _share(array: Any) -> Any:
    """The part of each turn's numbers that are not zero, or not false."""
    xp = array.__array_namespace__()
    count = xp.count_nonzero(array, axis=tuple(range(1, array.ndim)))
    return count.astype(np.float32) / np.float32(math.prod(array.shape[1:]) or 1)


def _of_examples(array: Any, axes: tuple[int, ...]) -> Any:
    """The mean square of each example, (turns, examples)."""
    rows = _examples_first(array, axes)
    return _dot(rows, rows).mean(2) / np.float32(rows.shape[3] or 1)


def _median(rows: Any) -> Any:
    """Of each turn; the upper of two."""
    xp = rows.__array_namespace__()
    return xp.sort(rows, axis=1)[:, rows.shape[1] // 2]


def _examples_first(array: Any, axes: tuple[int, ...]) -> Any:
    """An array as (turns, examples, places, units).

    Examples are along the first axis of more than one number that is none of the units', which
    are along `axes` (not counting the axis of turns).
    """
    moved, first = _units_last(array, axes)
    units = math.prod(array.shape[1 + axis] for axis in axes)
    return moved.reshape(len(array), first, -1, units)


def _units_last(array: Any, axes: tuple[int, ...]) -> tuple[Any, int]:
    """An array with the axes of units last, and how many examples it has."""
    others = [axis for axis in range(array.ndim - 1) if axis not in axes]
    first = next((array.shape[1 + axis] for axis in others if array.shape[1 + axis] > 1), 1)
    order = (0, *(1 + axis for axis in (*others, *axes)))
    xp = array.__array_namespace__()
    return xp.permute_dims(array, order), first


def _by_member(array: Any, axes: tuple[int, ...], members: int) -> Any:
    """An array as (turns, members, samples, units); the first of the axes are those of members."""
    moved, _ = _units_last(array, axes)
    return _split(moved.reshape(len(array), -1, _count(array.shape, axes)), members,
                  array.shape, axes)  # fmt: skip


def _split(matrix: Any, members: int, shape: tuple[int, ...], axes: tuple[int, ...]) -> Any:
    count = _count(shape, axes[:members])
    turns, samples, units = matrix.shape
    parts = matrix.reshape(turns, samples, count, units // max(1, count))
    xp = matrix.__array_namespace__()
    return xp.permute_dims(parts, (0, 2, 1, 3))


def _count(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    return math.prod(shape[1 + axis] for axis in axes)


def _strided(matrices: Any) -> Any:
    """At most 64 along each axis except that of turns, evenly spread."""
    members, rows, columns = map(_stride, matrices.shape[1:])
    return matrices[:, ::members, ::rows, ::columns]


def _stride(size: int) -> int:
    return max(1, -(-size // _MOST))


def _sketch(matrices: Any) -> Any:
    """All rows in 64 sums with random signs, which keep the rank. If only a few rows of a kernel
    are nonzero, a sample would miss them."""
    xp = matrices.__array_namespace__()
    turns, members, rows, columns = matrices.shape
    taken = matrices[:, :: _stride(members), :, :: _stride(columns)]
    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), (1, 1, rows, 1))
    padding = xp.zeros((*taken.shape[:2], -rows % _MOST, taken.shape[3]), dtype=np.float32)
    signed = xp.concat([taken * signs, padding], axis=2)
    return signed.reshape(turns, taken.shape[1], -1, _MOST, taken.shape[3]).sum(2)


def _correlation(matrix: Any, squares: Any) -> Any:
    """The mean cosine of one example and the next, at the same place."""
    xp = matrix.__array_namespace__()
    turns, examples = matrix.shape[:2]
    if examples < 2:
        return xp.full(turns, np.float32(np.nan))
    norms = xp.sqrt(squares[:, :-1] * squares[:, 1:])
    products = _dot(matrix[:, :-1], matrix[:, 1:])
    counted = norms > 0
    cosines = xp.where(counted, products / xp.where(counted, norms, np.float32(1)), np.float32(0))
    count = xp.count_nonzero(counted.reshape(turns, -1), axis=1).astype(np.float32)
    mean = cosines.reshape(turns, -1).sum(1) / xp.where(count > 0, count, np.float32(1))
    return xp.where(count > 0, mean, np.float32(np.nan))
