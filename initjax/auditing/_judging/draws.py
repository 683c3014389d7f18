"""What the weights of layers look drawn from, for messages."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._judging.names import Parameter
from initjax.leaves.draws import origin

_TESTED = 8  # layers of a finding
_BY_DRAWS = frozenset("wrong_fan saturated vanishing exploding output_scale".split())
"""The causes that follow from the scale of draws."""


def origin_of(evidence: Evidence, parameter: Parameter) -> str:
    """The initializer that a parameter looks drawn from, by its first few thousand numbers; "" if
    none is sure."""
    prints = evidence.measured.prints[parameter.index]
    if not prints.size:
        return ""
    shape = evidence.traced.shapes[parameter.index].shape
    stack = shape[: len(parameter.slice)]
    row = int(np.ravel_multi_index(parameter.slice, stack)) if stack else 0
    return origin(prints[row], shape[len(stack) :]) if row < len(prints) else ""


def with_origins(findings: Sequence[Finding], evidence: Evidence) -> list[Finding]:
    """The findings, with what their kernels look drawn from where the scale of draws is at fault.

    That tells which line of a program to look for.
    """
    return [
        dataclasses.replace(each, message=f"{each.message[:-1]}; {text}.")
        if each.cause in _BY_DRAWS and (text := _origins(each, evidence))
        else each
        for each in findings
    ]


def _origins(finding: Finding, evidence: Evidence) -> str:
    """The initializer of most layers of a finding, and one of these layers."""
    named = set(finding.layers)
    layers = [layer for layer in evidence.layers if layer.name in named and layer.whole]
    few = layers[:: -(-len(layers) // _TESTED) or 1]
    found: dict[str, list[JudgedLayer]] = collections.defaultdict(list)
    for layer in few:
        found[origin_of(evidence, layer.parameters[0])].append(layer)
    found.pop("", None)
    if not found:
        return ""
    text, alike = max(found.items(), key=lambda pair: len(pair[1]))
    if len(alike) == 1:
        return f"{alike[0].name} looks drawn from {text}"
    return f"kernels such as {alike[0].name} look drawn from {text}"
