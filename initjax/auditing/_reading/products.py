"""Which equations are sites, and how a weight's axes lie in them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from initjax.auditing._reading.layout import mean_taps
from initjax.auditing._reading.tags import Tag

_GEOMETRY = ("window_strides", "padding", "lhs_dilation", "rhs_dilation")


class Product(NamedTuple):
    """How a weight enters an equation."""

    kind: str
    """'dense', 'convolution' or 'embedding'."""
    weight: int
    """Which operand is the weight."""
    unit_axes: tuple[int, ...]
    """The axes of the output along which the units are."""
    weight_units: tuple[int, ...]
    """The axes of the weight along which the units are, in the same order."""
    members: int
    """How many of these axes, the first, are those of layers side by side, as under vmap."""
    fan_in: float
    """How many products a unit sums, on average over positions."""


def product_of(eqn: Any, tags: list[Tag]) -> Product | None:
    """How parameters meet data in an equation; None where they do not, or not in a product.

    Args:
      eqn: an equation.
      tags: what is known of its operands.
    """
    name = eqn.primitive.name
    if name == "dot_general":
        made = [bool(tag.sources) for tag in tags]
        pure = [tag.pure and bool(tag.sources) for tag in tags]
        for weights in (pure, made):
            if sum(weights) == 1 and tags[weights.index(False)].data:
                return _dense(eqn, weights.index(True))
    if name == "conv_general_dilated" and tags[0].data and (tags[1].pure or tags[1].sources):
        if eqn.params["batch_group_count"] == 1:
            return _convolution(eqn)
    if name == "gather" and tags[0].pure and tags[1].data:
        return _embedding(eqn)
    if name == "dynamic_slice" and tags[0].pure and any(tag.data for tag in tags):
        whole, part = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
        rows = tuple(axis for axis in range(len(whole)) if whole[axis] == part[axis])
        return Product("embedding", 0, rows, rows, 0, 1)
    return None


def _dense(eqn: Any, weight: int) -> Product:
    contracting, batch = eqn.params["dimension_numbers"]
    shape, rank = eqn.invars[weight].aval.shape, len(eqn.outvars[0].aval.shape)
    taken = (*contracting[weight], *batch[weight])
    free = len(shape) - len(taken)
    first = len(batch[0]) + (0 if weight == 0 else rank - len(batch[0]) - free)
    units = (*range(len(batch[0])), *range(first, first + free))
    weight_units = [*batch[weight], *(axis for axis in range(len(shape)) if axis not in taken)]
    fan_in = math.prod(shape[axis] for axis in contracting[weight])
    # An axis in front of those that are summed numbers members too, or heads, if units follow.
    leading = [axis for axis in range(min(contracting[weight], default=0)) if axis not in taken]
    members = len(batch[0]) + (len(leading) if len(leading) < free else 0)
    return Product("dense", weight, units, tuple(weight_units), members, fan_in)


def _convolution(eqn: Any) -> Product:
    numbers = eqn.params["dimension_numbers"]
    kernel, image = eqn.invars[1].aval.shape, eqn.invars[0].aval.shape
    fan_in = kernel[numbers.rhs_spec[1]] * math.prod(
        mean_taps(
            image[numbers.lhs_spec[2 + axis]],
            kernel[numbers.rhs_spec[2 + axis]],
            *(eqn.params[key][axis] for key in _GEOMETRY),
        )
        for axis in range(len(image) - 2)
    )
    return Product("convolution", 1, (numbers.out_spec[1],), (numbers.rhs_spec[0],), 0, fan_in)


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
