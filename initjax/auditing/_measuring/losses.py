"""Statistics of what a model gives, and of what it is compared with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from initjax.auditing._measuring.explicit_sharding import automatic
from initjax.auditing._reading.terms import OutputShape

_MOST = 2**20  # numbers of an array that are looked at
_LEAST = 16  # rows, however long: fewer say little about examples
_FEW = 4  # examples of a class
_BESIDE = 0.5  # the range from 0 to 1; labels that noise was added to are closer


def first_rows(static: OutputShape, name: str, array: Any) -> Any:
    """The first rows of outputs, if they are many.

    The same rows are taken of what they are compared with, which may have fewer columns.
    """
    del name
    size = math.prod(static.shape)
    if not static.shape or size <= _MOST:
        return array
    rows = max(_LEAST, _MOST * static.shape[0] // size)
    if not np.ndim(array) or array.shape[0] <= rows:
        return array
    return automatic(lambda array: array[:rows])(array)


def of_outputs(static: OutputShape, arrays: dict[str, Any], flat: Any) -> dict[str, Any]:
    """Statistics of outputs, and of targets if there are any.

    Args:
      static: the range that the outputs can have, and their shape.
      arrays: 'outputs' and, if known, 'targets' of the same shape; of a cross entropy 'labels',
        one-hot, or the indices of the right classes, last of several for each example; 'classes',
        the numbers of the right classes, last along the last axis; of a binary cross entropy
        'chances', the labels.
      flat: not used.
    """
    del flat
    outputs = arrays["outputs"]
    xp = outputs.__array_namespace__()
    outputs = outputs.astype(xp.float32)
    low, high = static.range
    least = outputs <= low
    found = {
        "stddev": outputs.std(),
        "rms": xp.sqrt(xp.square(outputs).mean()),
        "least": least.mean(),
        "dead": least.reshape(-1, outputs.shape[-1] if outputs.ndim > 1 else 1).all(0).mean(),
    }
    if outputs.ndim > 1:
        found["columns"] = xp.full((), np.float32(outputs.shape[-1]))
        found["across"] = xp.sqrt(outputs.var(axis=-1).mean())
    if "labels" in arrays:
        found["stuck"] = _stuck(xp, least, arrays["labels"])
    if "classes" in arrays:
        found |= _of_classes(xp, arrays["classes"], outputs.shape[-1])
    if "chances" in arrays:
        found |= _of_chances(xp, arrays["chances"].astype(xp.float32))
    targets = arrays.get("targets")
    if targets is None:
        return found
    # A column of outputs may stand against a row of targets, by mistake.
    outputs, targets = xp.broadcast_arrays(outputs, targets.astype(xp.float32))
    beyond = xp.maximum(low - targets, 0) + xp.maximum(targets - high, 0)
    scale = xp.maximum(xp.abs(targets).max(), xp.abs(outputs).max())
    scale = xp.where(scale > 0, scale, 1)  # without it, squares may overflow
    several = targets.ndim and targets.shape[0] > 1
    return {
        **found,
        "target_mean": targets.mean(),
        "target_rms": scale * xp.sqrt(xp.square(targets / scale).mean()),
        "target_least": targets.min(),
        "target_largest": targets.max(),
        "spread": (targets / scale).var(axis=0 if several else None).mean(),
        "error": xp.square((outputs - targets) / scale).mean(),
        "floor": xp.square(beyond / scale).mean(),
        "beyond": (beyond > 0).mean(),
    }


def _stuck(xp: Any, least: Any, labels: Any) -> Any:
    """The largest part, over the classes, of a class's own examples whose logit is the least."""
    classes = least.shape[-1]
    rows = least.reshape(-1, classes)
    if labels.shape == least.shape:
        own = labels.reshape(-1, classes) == 1
    else:
        own = labels[..., -1].reshape(-1, 1) == xp.arange(classes)
    own = own[: rows.shape[0]]
    count = own.sum(0)
    parts = (rows[: own.shape[0]] & own).sum(0) / xp.maximum(count, 1)
    return xp.where(count >= _FEW, parts, 0).max()


def _of_classes(xp: Any, numbers: Any, classes: int) -> dict[str, Any]:
    """Which numbers of classes there are, and which of them are too large."""
    numbers = numbers[..., -1]
    beyond = numbers >= classes
    return {
        "class_least": numbers.min(),
        "class_largest": numbers.max(),
        "beyond_least": xp.where(beyond, numbers, numbers.max()).min(),
        "without_output": beyond.mean(),
    }


def _of_chances(xp: Any, chances: Any) -> dict[str, Any]:
    outside = (chances < -_BESIDE) | (chances > 1 + _BESIDE)
    return {
        "chance_least": chances.min(),
        "chance_largest": chances.max(),
        "outside": outside.mean(),
    }


def whole(static: None, name: str, array: Any) -> Any:
    """All labels, and which formula they choose: one number for each example."""
    del static, name
    return array


def of_choices(static: None, arrays: dict[str, Any], flat: Any) -> dict[str, Any]:
    """What labels there are, the part that has one of two values, and which formula they choose."""
    del static, flat
    labels, chosen = arrays["labels"], arrays["chosen"]
    xp = chosen.__array_namespace__()
    least, largest = labels.min(), labels.max()
    return {
        "least": least.astype(xp.float32),
        "largest": largest.astype(xp.float32),
        "two": ((labels == least) | (labels == largest)).mean(),
        "chosen": chosen.mean(),
    }


def invalid_parts(operation: str, name: str, array: Any) -> Any:
    """Where an operation is not defined, as two numbers in place of an array that may be large.

    Args:
      operation: the name of its primitive.
      name: not used.
      array: its operand.

    Returns:
      The part of the numbers for which it is not defined, and the part that is zero.
    """
    del name
    undefined = {
        "log": array <= 0,
        "log1p": array <= -1,
        "sqrt": array < 0,
        "rsqrt": array <= 0,
        "div": array == 0,
    }[operation]
    xp = array.__array_namespace__()
    return xp.stack([undefined.mean(), (array == 0).mean()])


def invalid(static: str, arrays: dict[str, Any], flat: Any) -> dict[str, Any]:
    """The two numbers of `invalid_parts`, over the turns of loops."""
    del static, flat
    parts = arrays["operand"].reshape(-1, 2)
    xp = parts.__array_namespace__()
    undefined, zero = xp.where(xp.isnan(parts), 0, parts).max(0)  # NaN: it did not run
    return {"undefined": undefined, "zero": zero}
