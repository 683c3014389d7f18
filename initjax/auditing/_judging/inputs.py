"""Checks of what the first layers are given."""

from __future__ import annotations

import math

from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding, Level, finding, names_of
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._judging.names import some

_LARGE_INPUT, _VERY_LARGE_INPUT, _SMALL_INPUT = 25.0, 1000.0, 1e-3  # mean squares


def input_scale(evidence: Evidence) -> list[Finding]:
    """Inputs whose mean square is far from one."""
    entering = [
        layer
        for layer in evidence.layers
        if layer.unpredicted == "batch" and layer.kind != "embedding"
    ]
    large = [layer for layer in entering if layer.input_square > _LARGE_INPUT]
    if large:
        square = max(layer.input_square for layer in large)
        level = "failure" if square > _VERY_LARGE_INPUT else "warning"
        return _input_finding(level, large, square, 3)
    small = [
        layer
        for layer in entering
        if 0 < layer.input_square < _SMALL_INPUT and layer.input_largest < 0.5
    ]
    if small:
        return _input_finding("warning", small, min(layer.input_square for layer in small), 2)
    return []


def _input_finding(
    level: Level, layers: list[JudgedLayer], square: float, digits: int
) -> list[Finding]:
    rms = math.sqrt(square)
    message = f"The input of {some(names_of(layers))} has root mean square {rms:.{digits}g};"
    message += " initializers expect about 1"
    return finding(level, "input_scale", layers, message, f"Divide the input by {rms:.3g}")
