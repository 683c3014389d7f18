"""The check of fans that an initializer counted wrongly from a kernel's shape.

A scale that fits a wrong count may do so by chance: a standard deviation of 0.02, or the root of a
head's size in a query, fits some count in some shape. So a kernel is reported only if three things
hold: chance is an unlikely explanation, no other kernel says that the scale has another origin, and
the signal suffers from it.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from initjax.auditing._judging import output_scales, propagation, signals
from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding, finding, names_of
from initjax.auditing._judging.graph import layers_after
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._judging.names import some
from initjax.fans import compute_fans

_FANS = 1.9  # a fan off by less is no fault: lecun and he differ by 2, and 10% is left for chance
_STRUCTURED = 0.4  # part of zeros in a kernel that was not simply drawn; no dense law draws zeros
_SHOWN_GROUPS = 3
_SCALES = (1, 2)  # of initializers, times 1 / fan
# That scales of another origin fit the wrong counts. The layer harms the signal in any case: only
# what is said of its origin may then be wrong, once in four times at worst.
_CHANCE = 0.25
_DECADES = math.log(1e3)  # the range of mean squares in which such scales lie
_HARM = 1e3  # times a mean square: where `vanishing` and `exploding` begin


class _Count(NamedTuple):
    """A fan that an initializer may have counted."""

    mode: str
    theirs: float
    right: float
    scale: int

    @property
    def square(self) -> float:
        """The mean square of weights that are drawn so."""
        return self.scale / self.theirs


def wrong_fan(evidence: Evidence) -> list[Finding]:
    """Kernels whose scale fits fans that were counted wrongly from their shape."""
    drawn = [layer for layer in evidence.layers if _drawn(layer)]
    uses = collections.Counter(leaf for layer in _by_use(drawn) for leaf in layer.leaves)
    # An embedding that is the readout too was drawn for its rows.
    drawn = [layer for layer in drawn if uses[layer.leaves[0]] == 1 and layer.kind != "embedding"]
    counts = {layer.row: count for layer in drawn if (count := _fitting(layer)) is not None}
    counts = {
        layer.row: counts[layer.row]
        for layer in drawn
        if layer.row in counts and not _contradicted(layer, counts, drawn)
    }
    found = [layer for layer in drawn if layer.row in counts and layer.role != "normalized"]
    if not found or _by_chance(found, counts) > _CHANCE or not _harmful(found, evidence):
        return []
    groups: dict[str, list[JudgedLayer]] = {}
    for layer in found:
        mode, theirs, right, _ = counts[layer.row]
        groups.setdefault(f"{mode} {theirs:g} instead of {right:.4g}", []).append(layer)
    message = "; ".join(
        f"The initializer of {some(names_of(layers))} used {count}; the gain is"
        f" {layers[0].weight_variance:.2g}"
        for count, layers in list(groups.items())[:_SHOWN_GROUPS]
    ).replace("; The initializer", "; that")
    if (more := len(groups) - _SHOWN_GROUPS) > 0:
        message += f"; and {more} more wrong count{'' if more == 1 else 's'}"
    (remedy, _), *_ = collections.Counter(
        _remedy(layer, counts[layer.row], found) for layer in found
    ).most_common()
    return finding("warning", "wrong_fan", found, message, remedy)


def _drawn(layer: JudgedLayer) -> bool:
    """Whether its weight is a parameter that was drawn, and not scaled for its place."""
    return (
        layer.whole
        and len(layer.shape) > 1
        and layer.weight_square > 0
        and layer.weight_zeros < _STRUCTURED
        and layer.role != "branch end"  # scaled by the depth as well
    )


def _by_use(layers: Sequence[JudgedLayer]) -> list[JudgedLayer]:
    """Each site once, of the turns of a loop."""
    return list({layer.path: layer for layer in layers}.values())


def _counts(layer: JudgedLayer) -> list[_Count]:
    """The counts that are wrong for a layer, among those that a shape suggests."""
    fan_in, fan_out = compute_fans(layer.shape)
    options = [
        ("fan_in", fan_in, layer.fan_in),
        ("fan_out", fan_out, layer.fan_out),
        ("fan_avg", (fan_in + fan_out) / 2, (layer.fan_in + layer.fan_out) / 2),
    ]
    return [
        _Count(mode, theirs, right, scale)
        for mode, theirs, right in options
        if not 1 / _FANS < theirs / right < _FANS
        for scale in _SCALES
    ]


def _fitting(layer: JudgedLayer) -> _Count | None:
    """The wrong count that its weights fit, if its gain is far from what a right one gives."""
    square = layer.weight_square  # of the weights as they were drawn, without factors such as 1/√d
    for gain in (layer.weight_variance, layer.fan_in * square):
        if 1 / _FANS < gain < 2 * _FANS or _near(gain, 1 / 3):
            return None
    tolerance = _tolerance(layer)
    for count in _counts(layer):
        right = any(_near(count.right * square, scale) for scale in _SCALES)
        if abs(square / count.square - 1) < tolerance and not right:
            return count
    return None


def _tolerance(layer: JudgedLayer, kernels: int = 1) -> float:
    """Three standard deviations of the mean square of so many normal numbers."""
    return 0.01 + 3 * math.sqrt(2 / (kernels * math.prod(layer.shape)))


def _contradicted(
    layer: JudgedLayer, counts: dict[int, _Count], drawn: Sequence[JudgedLayer]
) -> bool:
    """Whether another kernel says that the scale of this one has another origin.

    A kernel of another shape that was drawn at the same scale says that no fan is behind it. One of
    the same shape at a scale that no wrong count gives says that the initializer counts right.
    """
    mine = counts[layer.row]
    for other in drawn:
        if other.row == layer.row or other.kind != layer.kind:
            continue
        if other.shape == layer.shape:
            if other.row not in counts:
                return True
            continue
        tolerance = _tolerance(layer) + _tolerance(other)
        theirs = [count.theirs for count in _counts(other) if count.mode == mine.mode]
        alike = abs(other.weight_square / layer.weight_square - 1) < tolerance
        if alike and not any(abs(fan / mine.theirs - 1) < 0.01 for fan in theirs):
            return True
    return False


def _by_chance(found: Sequence[JudgedLayer], counts: dict[int, _Count]) -> float:
    """How likely scales of any other origin fit wrong counts in all these shapes.

    Kernels of one shape come from one initializer, so together they say something once.
    """
    alike: dict[tuple, list[JudgedLayer]] = {}
    for layer in found:
        mode, *_, scale = counts[layer.row]
        alike.setdefault((layer.shape, mode, scale), []).append(layer)
    chance = 1.0
    for layers in alike.values():
        square = float(np.mean([layer.weight_square for layer in layers]))
        tolerance = _tolerance(layers[0], len(layers))
        if abs(square / counts[layers[0].row].square - 1) < tolerance:
            chance *= min(1.0, 2 * tolerance * len(_counts(layers[0])) / _DECADES)
    return chance


def _harmful(found: Sequence[JudgedLayer], evidence: Evidence) -> bool:
    """Whether the wrong counts add up to a large factor in a signal, or something follows."""
    own = {layer.row: _log_error(layer) for layer in found}
    carried: dict[tuple, float] = {}
    for layer in evidence.layers:
        before = 0.0
        if layer.unpredicted not in ("normalization", "embedding"):
            near = {path for tag in layer.site.inputs for path in tag.near if path is not None}
            before = max((carried.get(path, 0.0) for path in near), key=abs, default=0.0)
        carried[layer.path] = before + own.get(layer.row, 0.0)
        if abs(carried[layer.path]) > math.log(_HARM):
            return True
    behind = set(names_of(found))
    for layer in found:
        behind.update(names_of(layers_after(layer, evidence.layers)))
    checks = [propagation.vanishing] if any(error < 0 for error in own.values()) else []
    if any(error > 0 for error in own.values()):
        checks += [propagation.exploding, output_scales.output_scale, signals.saturated]
    return any(
        not behind.isdisjoint(consequence.layers)
        for check in checks
        for consequence in check(evidence)
    )


def _log_error(layer: JudgedLayer) -> float:
    """By how much its gain is outside of what right counts give, as a logarithm."""
    gain = math.log(layer.weight_variance)
    return gain - min(max(gain, 0.0), math.log(2))


def _remedy(layer: JudgedLayer, count: _Count, found: Sequence[JudgedLayer]) -> str:
    """The one argument or function that makes an initializer count right."""
    pass_ = "Pass the layout to the initializer: "
    if all(map(_out_first, found)):
        return "Pass the layout of a kernel (out, in) to the initializer: in_axis=1, out_axis=0"
    if layer.kind == "convolution":
        if count.mode == "fan_in" or compute_fans(layer.shape)[0] > _FANS * layer.fan_in:
            return pass_ + "**conv_transpose_fans(strides) with the strides of the layer"
        return pass_ + "**conv_fans(groups, strides) with the groups and strides of the layer"
    if layer.members > 1 and layer.shape[0] == layer.members and len(layer.shape) == 3:
        return pass_ + f"**stacked_fans({layer.members})"
    return pass_ + "**einsum_fans(equation) with the equation of the layer"


def _out_first(layer: JudgedLayer) -> bool:
    """Whether the kernel is stored as (out, in, *window), as in Equinox and PyTorch."""
    if len(layer.shape) > 2 and layer.kind != "convolution":
        return False
    # Padding makes the fan-in that is measured smaller than the window.
    return 1 / _FANS < compute_fans(layer.shape, in_axis=1, out_axis=0)[0] / layer.fan_in < _FANS


def _near(value: float, target: float) -> bool:
    return abs(value / target - 1) < 0.15
