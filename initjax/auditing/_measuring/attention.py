"""Statistics of attentions: how much queries read of the keys, and how alike tokens are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from initjax.auditing._measuring.explicit_sharding import automatic
from initjax.auditing._reading.attention_watch import AttentionAxes
from initjax.auditing._reading.layout import Axes

_SAMPLE = 2**17  # numbers of an array that a pass returns, unless one row is longer
_HIDDEN = 80.0  # below the largest score: exp(-80) is 1e-35, nothing beside 1 for any sum of keys
_MASKED = -1e8  # masks write -1e9 or the least number of the dtype; no product comes near
_SEVERAL = 1.5  # open keys, from which on a row has a choice: there are at least two
_TINY = np.float32(1e-30)  # in place of zero, where 0 / 0 would be NaN


def sample_of(static: AttentionAxes, name: str, array: Any) -> Any:
    """The part of one of an attention's arrays that a pass returns."""
    ((shape, kept),) = [each[1:] for each in static.shapes if each[0] == name]
    strides = _strides(shape, kept)
    if all(stride == 1 for stride in strides):
        return array
    steps = tuple(slice(None, None, stride) for stride in strides)
    return automatic(lambda array: array[steps])(array)


def _strides(shape: tuple[int, ...], kept: Axes) -> tuple[int, ...]:
    """Strides that leave a sample of an array, without those along the kept axes."""
    strides = [1] * len(shape)

    def left(axis: int) -> int:
        return -(-shape[axis] // strides[axis])

    others = [axis for axis in range(len(shape)) if axis not in kept]
    while others and math.prod(map(left, range(len(shape)))) > _SAMPLE:
        longest = max(others, key=left)
        if left(longest) == 1:
            break
        strides[longest] *= 2
    return tuple(strides)


def attention_statistics(
    static: AttentionAxes, arrays: dict[str, Any], flat: Any
) -> dict[str, Any]:
    """Statistics of one attention.

    Args:
      static: where its axes are.
      arrays: 'scores', and 'content', 'summed', 'tokens', 'result' and 'stream' where they are
        measured.
      flat: not used.

    Returns:
      Means over rows of scores, by name, for each turn of the loops around it; NaN where there is
      no row with several keys.
    """
    del flat

    def rows(name: str) -> Any:
        return _last(_by_turn(arrays[name], static.turns), static.keys)

    scores = rows("scores")
    xp = scores.__array_namespace__()
    content = scores if "content" not in arrays else rows("content") * np.float32(static.factor)
    if "content" in arrays:
        bias = xp.where(xp.isfinite(scores), scores - content, np.float32(-np.inf))
    else:
        bias = xp.zeros_like(scores)
    if static.mixed:  # masks are told by their size
        hidden = scores < xp.max(scores, axis=-1, keepdims=True) - _HIDDEN
        bias = xp.where(hidden, np.float32(-np.inf), bias)
    if "summed" in arrays:
        masked = rows("summed") == 0
        # A score far below the largest is zero there, too, but no mask hides only what is low.
        bias = xp.where(masked, np.float32(-np.inf), bias)
        scores = xp.where(masked, np.float32(-np.inf), scores)
    weights, open_to = _softmax(scores), _softmax(bias)
    keys = 1 / xp.maximum((open_to * open_to).sum(-1), _TINY)
    squares = (weights * weights).sum(-1)
    content = xp.where(open_to > 0, content, np.float32(0))
    mean = (open_to * content).sum(-1)
    deviation = content - mean[..., None]
    variance = (open_to * deviation * deviation).sum(-1)
    entropy = _entropy(weights) / xp.maximum(_entropy(open_to), np.float32(1e-3))
    counted = (keys > _SEVERAL) & (xp.max(bias, axis=-1) > _MASKED)
    counted &= xp.isfinite(variance) & xp.isfinite(squares)

    def mean_of(numbers: Any) -> Any:
        count = xp.count_nonzero(counted, axis=1).astype(np.float32)
        total = xp.where(counted, numbers, np.float32(0)).sum(1)
        one = np.float32(1)
        return xp.where(count > 0, total / xp.where(count > 0, count, one), np.float32(np.nan))

    found = {
        "keys": mean_of(keys),
        "most_keys": xp.max(xp.where(counted, keys, np.float32(0)), axis=1),
        "variance": mean_of(variance),
        "squares": mean_of(squares),
        "even": mean_of(1 / keys),
        "entropy": mean_of(entropy),
    }
    for name, positions, features in static.axes:
        tokens = _by_turn(arrays[name], static.turns)
        found[name] = _cosine(tokens, positions, features)
    if "stream" in arrays:
        stream = _by_turn(arrays["stream"], static.turns)
        found["stream"] = (stream * stream).reshape(len(stream), -1).mean(-1)
    return found


def _by_turn(array: Any, turns: int) -> Any:
    """An array in float32, with one leading axis of turns."""
    array = array.reshape(math.prod(array.shape[:turns]), *array.shape[turns:])
    return array if array.dtype == np.float32 else array.astype(np.float32)


def _last(array: Any, axes: Axes) -> Any:
    """An array as (turns, rows, numbers along some axes)."""
    xp = array.__array_namespace__()
    others = [axis for axis in range(array.ndim - 1) if axis not in axes]
    moved = xp.permute_dims(array, (0, *(1 + axis for axis in (*others, *axes))))
    return moved.reshape(len(array), -1, math.prod(array.shape[1 + axis] for axis in axes))


def _softmax(scores: Any) -> Any:
    xp = scores.__array_namespace__()
    largest = xp.max(scores, axis=-1, keepdims=True)
    powers = xp.exp(scores - xp.where(xp.isfinite(largest), largest, np.float32(0)))
    return powers / xp.maximum(powers.sum(-1, keepdims=True), _TINY)


def _entropy(weights: Any) -> Any:
    xp = weights.__array_namespace__()
    return -(weights * xp.log(xp.where(weights > 0, weights, np.float32(1)))).sum(-1)


def _cosine(array: Any, positions: Axes, features: Axes) -> Any:
    """The mean cosine of two tokens of a sequence, for each turn."""
    xp = array.__array_namespace__()
    others = [a for a in range(array.ndim - 1) if a not in positions and a not in features]
    count = math.prod(array.shape[1 + axis] for axis in positions)
    if not positions or count < 2 or not features:
        return xp.full(len(array), np.float32(np.nan))
    order = (0, *(1 + axis for axis in (*others, *positions, *features)))
    size = math.prod(array.shape[1 + axis] for axis in features)
    tokens = xp.permute_dims(array, order).reshape(len(array), -1, count, size)
    largest = xp.max(xp.abs(tokens), axis=-1, keepdims=True)
    tokens = tokens / xp.where(largest > 0, largest, np.float32(1))  # squares stay within float32
    norms = xp.sqrt((tokens * tokens).sum(-1, keepdims=True))
    units = tokens / xp.where(norms > 0, norms, np.float32(1))
    number = (norms[..., 0] > 0).sum(-1).astype(np.float32)
    total = units.sum(-2)
    pairs = number * (number - 1)
    cosine = ((total * total).sum(-1) - number) / xp.where(pairs > 0, pairs, np.float32(1))
    kept = pairs > 0
    share = xp.where(kept, cosine, np.float32(0)).sum(-1)
    most = xp.count_nonzero(kept, axis=-1).astype(np.float32)
    one = np.float32(1)
    return xp.where(most > 0, share / xp.where(most > 0, most, one), np.float32(np.nan))
