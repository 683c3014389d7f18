"""Statistics of what a model gives, and of what it is compared with."""

from __future__ import annotations

from typing import Any

_MOST = 2**20  # numbers of an array that are looked at


def first_rows(name: str, array: Any) -> Any:
    """The first rows of a large array."""
    del name
    if array.ndim == 0 or array.size <= _MOST:
        return array
    rows = max(16, _MOST * array.shape[0] // array.size)
    return array[:rows]


def of_outputs(limits: tuple[float, float], arrays: dict[str, Any], flat: Any) -> dict[str, Any]:
    """Statistics of outputs, and of targets if there are any.

    Args:
      limits: the range that the outputs can have.
      arrays: 'outputs' and, of the same shape if at all, 'targets'.
      flat: not used.
    """
    del flat
    outputs = arrays["outputs"]
    xp = outputs.__array_namespace__()
    outputs = outputs.astype(xp.float32)
    low, high = limits
    least = outputs <= low
    found = {
        "stddev": outputs.std(),
        "rms": xp.sqrt(xp.square(outputs).mean()),
        "least": least.mean(),
        "dead": least.reshape(-1, outputs.shape[-1] if outputs.ndim > 1 else 1).all(0).mean(),
    }
    targets = arrays.get("targets")
    if targets is None:
        return found
    targets = xp.broadcast_to(targets.astype(xp.float32), outputs.shape)
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


def invalid(name: str, arrays: dict[str, Any], flat: Any) -> dict[str, Any]:
    """Where an operation is not defined.

    Args:
      name: of the operation's primitive.
      arrays: its 'operand'.
      flat: not used.
    """
    del flat
    operand = arrays["operand"]
    undefined = {
        "log": operand <= 0,
        "log1p": operand <= -1,
        "sqrt": operand < 0,
        "rsqrt": operand <= 0,
        "div": operand == 0,
    }[name]
    return {"undefined": undefined.mean(), "zero": (operand == 0).mean()}
