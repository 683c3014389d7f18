"""The labels of cross entropies, as formulas have them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from initjax.auditing._reading.inlined import Node, Value
from initjax.auditing._reading.values import through_layout


def chances_in(
    logit: Value,
    factors: Sequence[Value],
    all_factors: Sequence[Value],
    weighted: Sequence[tuple[Value, Value]],
) -> Value | None:
    """The labels of a binary cross entropy; None if they aren't found.

    They multiply the logit itself, or one of the logarithms, and one minus them the other.

    Args:
      logit: what a sigmoid would be taken of.
      factors: what multiplies one of the logarithms.
      all_factors: what multiplies any part of the loss.
      weighted: pairs of what depends on parameters and of what multiplies it without depending on
        any.
    """
    label = None
    for output, factor in weighted:
        if through_layout(output) is through_layout(logit) and factor.shape == logit.shape:
            label = factor
    complements = [_one_minus(factor) for factor in all_factors]
    plain = [_without_scale(factor) for factor in all_factors]
    for factor in factors:
        own, other = _without_scale(factor), _one_minus(factor)
        if label is None and any(each is own for each in complements):
            label = own
        elif label is None and other is not None and any(each is other for each in plain):
            label = other
    return label if label is not None and not label.parametric and label.aval.size > 1 else None


def factors_of(node: Node) -> list[tuple[Value, Value]]:
    """What a product has that depends on parameters, and its factor that doesn't."""
    if node.name != "mul" or sum(operand.parametric for operand in node.operands) != 1:
        return []
    left, right = node.operands
    return [(left, right) if left.parametric else (right, left)]


def _without_scale(value: Value) -> Value:
    """A value without a sign and a number that multiplies it."""
    while (node := through_layout(value).node) is not None:
        operands = [operand for operand in node.operands if operand.number is None]
        if node.name not in ("neg", "mul") or len(operands) != 1:
            break
        (value,) = operands
    return through_layout(value)


def _one_minus(value: Value) -> Value | None:
    """What a value is one minus of, up to its sign and scale; None if it isn't."""
    node = _without_scale(value).node
    if node is None or node.name != "sub" or node.operands[0].number != 1:
        return None
    return through_layout(node.operands[1])


def class_numbers(labels: Value) -> Value | None:
    """The numbers of classes, last along the last axis, that labels pick or are one-hot of; None if
    they aren't known."""
    value = labels
    while not np.issubdtype(value.aval.dtype, np.integer):
        node = value.node
        if node is None:
            return None
        operands = [operand for operand in node.operands if operand.number is None]
        if node.name == "eq":
            columns = [operand for operand in operands if operand.shape[-1:] == (1,)]
            if len(operands) != 2 or len(columns) != 1:
                return None
            (value,) = columns
            break
        if node.name not in ("convert_element_type", "mul", "add", "neg") or len(operands) != 1:
            return None
        (value,) = operands
    return value if value.shape and not value.parametric else None
