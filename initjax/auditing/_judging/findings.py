"""What can be wrong with an initialization, and how a finding is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from initjax.auditing._judging.layers import Layer

Level = Literal["warning", "failure"]

CAUSES = {
    "not_finite": "a number is infinite or NaN",
    "no_layers": "no layer was found",
    "unused": "a parameter never enters the loss",
    "batch": "the batch is too small to measure with",
    "zero": "a kernel is zero and lets no gradient through",
    "symmetry": "all units of a layer compute the same function",
    "duplicate": "two layers have the same weights",
    "input_scale": "the input is far from unit scale",
    "not_centred": "the weights of a layer have a mean, which adds up over its inputs",
    "wrong_fan": "the initializer has counted another fan-in or fan-out than the layer has",
    "branch_scale": "residual branches add up",
    "saturated": "pre-activations lie where the activation is flat",
    "vanishing": "gradients shrink from layer to layer",
    "exploding": "gradients or signals grow from layer to layer",
    "dead": "units are flat on the whole batch",
    "collapse": "all inputs look alike to a layer",
    "depth": "the network is deeper than its signal reaches",
    "output_scale": "the logits are too large",
    "update": "the optimizer's first step is as large as the weights",
}
"""What each cause of a finding means."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    level: Level
    cause: str
    """A key of `CAUSES`."""
    layers: tuple[str, ...]
    """The layers or parameters that it concerns."""
    message: str
    remedy: str


def finding(
    level: Level, cause: str, layers: Sequence[Layer] | Sequence[str], message: str, remedy: str
) -> list[Finding]:
    names = tuple(layer if isinstance(layer, str) else layer.name for layer in layers)
    return [Finding(level, cause, tuple(dict.fromkeys(names)), message, remedy)]


def some(names: Sequence[str], most: int = 3) -> str:
    """Names for a sentence: the first ones, and how many more there are."""
    names = list(dict.fromkeys(names))
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


_DEEP = 20  # layers from which on normal kernels spread singular values too far


def recommended(layer: Layer, depth: int = 0) -> str:
    """The initializer that keeps a signal's scale through this layer's activation."""
    name = layer.activation
    if name in ("relu", "leaky_relu", "relu6"):
        return "he_normal()"
    if name in ("tanh", "identity", "erf", "soft_sign", "hard_tanh"):
        return "orthogonal()" if depth > _DEEP else "lecun_normal()"
    if name in ("gelu", "silu", "elu", "mish", "celu"):
        return f"lecun_normal(gain={name!r})"
    if name in ("sigmoid", "softplus", "hard_sigmoid", "squareplus"):
        return f"lecun_normal(), and use tanh or relu: no scale keeps {name}'s gradient"
    return "siren()" if name.startswith("sin(") else "lecun_normal()"
