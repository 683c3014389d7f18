"""Products: equations in which a weight can meet data, which makes them sites.

Each rule maps an equation and the tags of its operands to a `Product`, or to None if the equation
is not a site. `primitives.py` says which primitive has which rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from initjax.auditing._reading.tags import Tag

_GEOMETRY = ("window_strides", "padding", "lhs_dilation", "rhs_dilation")


class Product(NamedTuple):
    """How a weight enters an equation."""

    kind: str
    """'dense', 'convolution' or 'embedding'."""
    weight: int
    """Which operand is the weight."""
    unit_axes: tuple[int, ...]
    """The axes of the output that number the units."""
    weight_units: tuple[int, ...]
    """The axes of the weight that number the units, in the same order."""
    members: int
    """How many of these axes, counted from the first, number parallel layers, as under vmap."""
    fan_in: float
    """How many products a unit sums, averaged over positions."""
    features: tuple[int, ...] = ()
    """The axes of the data that are summed over, without those of a window."""


ProductRule = Callable[[Any, Sequence[Tag]], Product | None]


def dense(eqn: Any, tags: Sequence[Tag]) -> Product | None:
    """The rule for matrix products."""
    made = [bool(tag.sources) for tag in tags]
    pure = [tag.pure and bool(tag.sources) for tag in tags]
    for weights in (pure, made):
        if sum(weights) == 1 and tags[weights.index(False)].data:
            return _dense(eqn, weights.index(True))
    return None


def convolution(eqn: Any, tags: Sequence[Tag]) -> Product | None:
    """The rule for convolutions of data with a kernel."""
    image, kernel = tags
    if image.data and (kernel.pure or kernel.sources) and eqn.params["batch_group_count"] == 1:
        return _convolution(eqn)
    return None


def embedding(eqn: Any, tags: Sequence[Tag]) -> Product | None:
    """The rule for lookups of rows by indices from data."""
    table, indices = tags[:2]
    return _embedding(eqn) if table.pure and indices.data else None


def row(eqn: Any, tags: Sequence[Tag]) -> Product | None:
    """The rule for slices: a lookup of one row."""
    if not (tags[0].pure and any(tag.data for tag in tags)):
        return None
    whole, part = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    rows = tuple(axis for axis in range(len(whole)) if whole[axis] == part[axis])
    return Product("embedding", 0, rows, rows, 0, 1)


def _dense(eqn: Any, weight: int) -> Product:
    contracting, batch = eqn.params["dimension_numbers"]
    shape, rank = eqn.invars[weight].aval.shape, len(eqn.outvars[0].aval.shape)
    taken = (*contracting[weight], *batch[weight])
    free = len(shape) - len(taken)
    first = len(batch[0]) + (0 if weight == 0 else rank - len(batch[0]) - free)
    units = (*range(len(batch[0])), *range(first, first + free))
    weight_units = [*batch[weight], *(axis for axis in range(len(shape)) if axis not in taken)]
    fan_in = math.prod(shape[axis] for axis in contracting[weight])
    # An axis before the summed ones also numbers members, or heads, if other units follow.
    leading = [axis for axis in range(min(contracting[weight], default=0)) if axis not in taken]
    members = len(batch[0]) + (len(leading) if len(leading) < free else 0)
    features = tuple(contracting[1 - weight])
    return Product("dense", weight, units, tuple(weight_units), members, fan_in, features)


def _convolution(eqn: Any) -> Product:
    numbers = eqn.params["dimension_numbers"]
    kernel, image = eqn.invars[1].aval.shape, eqn.invars[0].aval.shape
    fan_in = kernel[numbers.rhs_spec[1]] * math.prod(
        _mean_taps(
            image[numbers.lhs_spec[2 + axis]],
            kernel[numbers.rhs_spec[2 + axis]],
            *(eqn.params[key][axis] for key in _GEOMETRY),
        )
        for axis in range(len(image) - 2)
    )
    units, weight_units = (numbers.out_spec[1],), (numbers.rhs_spec[0],)
    return Product("convolution", 1, units, weight_units, 0, fan_in, (numbers.lhs_spec[1],))


def _embedding(eqn: Any) -> Product:
    numbers = eqn.params["dimension_numbers"]
    rows = [
        axis
        for axis in range(len(eqn.invars[0].aval.shape))
        if axis not in numbers.collapsed_slice_dims
    ]
    offsets = list(map(int, numbers.offset_dims))
    rest = [axis for axis in range(len(eqn.outvars[0].aval.shape)) if axis not in offsets]
    members = [rest[axis] for axis in numbers.start_indices_batching_dims]
    return Product("embedding", 0, (*members, *offsets), tuple(rows), len(members), 1)


def _mean_taps(
    image: int, kernel: int, stride: int, padding: tuple[int, int], spread: int, dilation: int
) -> float:
    """How many taps of a kernel fall on the image and not on padding, averaged over outputs."""
    length = (image - 1) * spread + 1
    outputs = (sum(padding) + length - (kernel - 1) * dilation - 1) // stride + 1
    positions = (
        np.arange(max(outputs, 1))[:, None] * stride
        - padding[0]
        + np.arange(kernel)[None, :] * dilation
    )
    hits = (positions >= 0) & (positions < length) & (positions % spread == 0)
    return float(hits.sum(axis=1).mean())
