"""The axes of a kernel, as initializers take them, from how the program uses it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._reporting.written import Style
from initjax.fans import compute_fans

_WINDOW = 1.9  # padding makes the fan-in that is measured smaller than that of the window
_WHOLE = 0.1  # how far from a whole number a ratio of fans may be


def kernel_axes(
    layer: JudgedLayer, shape: tuple[int, ...], stacked: int, style: Style
) -> dict[str, Any] | None:
    """The axes of a kernel, as an initializer takes them; None if they aren't known.

    Args:
      layer: whose fan-in is known from the program.
      shape: of the parameter.
      stacked: how many of its first axes number layers.
      style: Equinox has kernels (out, in).
    """
    batch: dict[str, Any] = {"batch_axis": tuple(range(stacked))} if stacked else {}
    own = range(stacked, len(shape))
    usual: dict[str, Any] = {}
    out_first: dict[str, Any] = {"in_axis": stacked + 1, "out_axis": stacked}
    options = [out_first, usual] if style == "equinox" else [usual, out_first]
    if layer.kind == "dense":
        for cut in range(1, len(own)):
            first, last = tuple(own[:cut]), tuple(own[cut:])
            options += [{"in_axis": a, "out_axis": b} for a, b in ((first, last), (last, first))]
        for middle in own[1:-1]:  # heads before or behind
            others = tuple(axis for axis in own if axis != middle)
            options.append({"in_axis": middle, "out_axis": others})
    slack = _WINDOW if layer.kind == "convolution" else 1.01
    for option in options:
        try:
            fan_in, _ = compute_fans(shape, **option, **batch)
        except ValueError:  # too few axes
            continue
        whole = layer.kind != "dense" or _all_named(option, batch, len(shape))
        if whole and 1 / slack < fan_in / layer.fan_in < slack:
            return {**option, **batch}
    if layer.kind == "convolution" and style != "equinox":  # strides of a transposed one
        divisor = compute_fans(shape, **batch)[0] / layer.fan_in
        if divisor > 1 and abs(divisor / round(divisor) - 1) < _WHOLE:
            return {"fan_in_divisor": round(divisor), **batch}
    return None


def _all_named(option: Mapping[str, Any], batch: Mapping[str, Any], axes: int) -> bool:
    """Whether no axis would be taken for that of a window."""
    named = [option.get("in_axis", -2), option.get("out_axis", -1), *batch.values()]
    return sum(1 if isinstance(axis, int) else len(axis) for axis in named) == axes


def with_axes(call: str, axes: Mapping[str, Any]) -> str:
    """The call of an initializer, with the axes of its kernel if it takes them."""
    if not axes or not re.match(r"(he|lecun|glorot)_", call):
        return call
    single = {
        name: axis[0] if isinstance(axis, tuple) and len(axis) == 1 else axis
        for name, axis in axes.items()
    }
    more = ", ".join(f"{name}={axis}" for name, axis in single.items())
    start, _, given = call.removesuffix(")").partition("(")
    return f"{start}({f'{given}, ' if given else ''}{more})"
