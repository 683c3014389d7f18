"""The remedy of a finding as a line of Python that can be pasted, written as the model is."""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
import glob
import math
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from initjax.auditing._activations import recommended
from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._reporting.kernel_axes import kernel_axes, with_axes
from initjax.auditing._reporting.written import Written

_MOST_RULES = 5  # patterns in one call
_SCALED = 3.0  # the mean square of a weight, by that of some numbers of its parameter
_RIGHT = 0.1  # a gain this close to what would be drawn needs no draw
_ANY_NUMBER = re.compile(r"\d+")
_KEY = "jax.random.key(0)"
# Causes that new draws remove, and those of which only layers with an unsuitable gain are drawn.
_REDRAWN = frozenset(["zero", "symmetry", "duplicate", "not_centered", "wrong_fan", "not_finite"])
_REDRAWN_IF_UNSUITABLE = frozenset(
    ["saturated", "vanishing", "exploding", "dead", "collapse", "depth"]
)
_OF_CHAINS = frozenset(["vanishing", "exploding", "depth"])
# Remedies that are the same line in every model, by how they begin.
LINES = {
    "Subtract from each feature its mean": "x = (x - x.mean(0)) / (x.std(0) + 1e-6)",
    "Subtract the targets' mean": "y = (y - y.mean(0)) / y.std(0)",
}
# Functions that every library has by these names, and the modules that have them.
_FUNCTIONS = "relu|sigmoid|softmax|softplus|tanh"
_TAKEN_OUT = re.compile(rf"(?:Remove|Pass the outputs to the loss without the) ({_FUNCTIONS})\b")
_MODULES = {"linen": "nn", "nnx": "nnx"}


def with_code(
    findings: Iterable[Finding], evidence: Evidence, model: Written
) -> tuple[Finding, ...]:
    """The findings, with code where a line of it helps and the check gave none."""
    return tuple(
        each if each.code else dataclasses.replace(each, code=_code(each, evidence, model))
        for each in findings
    )


def _code(finding: Finding, evidence: Evidence, model: Written) -> str:
    leaves = {parameter.index for parameter in finding.parameters}
    named = set(finding.layers)
    layers = [
        layer
        for layer in evidence.layers
        if layer.name in named or (leaves and leaves.issuperset(layer.leaves))
    ]
    for start, line in LINES.items():
        if finding.remedy.startswith(start):
            return line
    if finding.remedy.startswith("Replace the softmax by a sigmoid"):
        return _instead("sigmoid", "softmax", model)
    if taken_out := _TAKEN_OUT.match(finding.remedy):
        return f"z  # in place of {_MODULES.get(model.style, 'jax.nn')}.{taken_out[1]}(z)"
    if divided := re.match(r"Divide the input by ([\d.e+-]*\d)", finding.remedy):
        return f"x = x / {divided[1]}"
    if constant := re.fullmatch(r"Start .* at (zero|one)\.", finding.remedy):
        if finding.cause == "dead":
            leaves = {source.leaf for layer in layers for source in layer.site.bias_sources}
        ones = {"zero": "initjax.zeros", "one": "initjax.ones"}[constant[1]]
        return _initialized([(name, ones) for name in patterns_of(leaves, evidence)], model)
    draws = re.search(r"\b([Dd]raw|[Rr]edraw) the", finding.remedy)
    fixed = f"{model.name}, repair = initjax.fix(loss_fn, {model.name}, *batch, key={_KEY})"
    if finding.cause in _REDRAWN:
        covered = {leaf for layer in layers for leaf in layer.leaves}
        return _redrawn(layers, evidence, model) or fixed if covered >= leaves else ""
    if finding.cause.startswith("attention") and draws:
        return _redrawn(layers, evidence, model)
    if finding.cause in _REDRAWN_IF_UNSUITABLE and draws:
        depth = len(layers) if finding.cause in _OF_CHAINS else 0
        return _suited(layers, depth, evidence, model, fixed)
    if finding.cause == "branch_scale":
        outputs = patterns_of({leaf for layer in layers for leaf in layer.leaves}, evidence)
        listed = outputs[0] if len(outputs) == 1 else outputs
        call = f"initjax.residual_scaling({model.name}, {len(layers)}, outputs={_quoted(listed)})"
        return f"{model.name} = {call}" if len(outputs) <= _MOST_RULES else ""
    smaller = re.match(r"Divide the last kernel by ([\d.e+]*\d)", finding.remedy)
    if smaller and layers and len(layers[-1].leaves) == 1:
        last, factor = layers[-1], float(f"{1 / float(smaller[1]):.2g}")
        (pattern,) = patterns_of(set(last.leaves), evidence)
        call = f"initjax.rescale({model.name}, {{{_quoted(pattern)}: {factor:g}}})"
        return f"{model.name} = {call}"
    if finding.cause == "update":
        ratios = [layer.update_ratio for layer in layers if layer.update_ratio > 0]
        tenths = max(1, math.ceil(math.log10(2 * max(ratios, default=1.0))))
        return f"learning_rate = learning_rate / {10**tenths}"
    if finding.cause == "unused" and model.style == "plain" and model.assignable:
        items = [_item(model, leaf) for leaf in sorted(leaves, reverse=True)]  # of lists, too
        return f"del {', '.join(items)}" if len(items) <= _MOST_RULES else ""
    return ""


def _suited(
    layers: Sequence[JudgedLayer], depth: int, evidence: Evidence, model: Written, otherwise: str
) -> str:
    """Code that gives layers an initializer that suits their activations, if they have another.

    Args:
      layers: those of a finding.
      depth: how many of them follow each other.
      evidence: what they are judged by.
      model: how it is written.
      otherwise: code for layers that only many patterns would name.

    Returns:
      The code; empty if all have a suitable one.
    """
    hidden = [layer for layer in layers if layer.activation] or list(layers)
    unsuitable = [layer for layer in hidden if not _has_right_gain(layer, depth)]
    if not unsuitable:
        return ""
    advice = re.search(r"use (\w+) or \w+, since", recommended(unsuitable[0].activation))
    if advice:
        return _instead(advice[1], unsuitable[0].activation, model)
    chosen = (_redrawn(few, evidence, model, depth) for few in (unsuitable, hidden, layers))
    return next(filter(None, chosen), otherwise)


def _instead(function: str, other: str, model: Written) -> str:
    """A function to write in place of another one."""
    module = _MODULES.get(model.style, "jax.nn")
    return f"{module}.{function}  # in place of {module}.{other}"


def _has_right_gain(layer: JudgedLayer, depth: int) -> bool:
    """Whether new draws would have the same scale, as far as that is known."""
    from initjax.theory import gain

    drawn = _initializer(layer.activation, depth)
    name = re.search(r"gain='(.*)'", drawn)
    if drawn.startswith("he_"):
        expected = 2.0
    elif drawn.startswith("lecun_"):
        expected = float(gain(name[1])) ** 2 if name else 1.0
    else:
        return False
    return abs(layer.weight_variance / expected - 1) < _RIGHT


def _initializer(activation: str, depth: int) -> str:
    """The call of the initializer that suits an activation, without further advice."""
    return recommended(activation, depth).partition(")")[0] + ")"


def _redrawn(
    layers: Sequence[JudgedLayer], evidence: Evidence, model: Written, depth: int = 0
) -> str:
    """Code that draws the kernels of layers with what suits their activations."""
    drawn: dict[int, str] = {}
    modules: set[str] = set()
    for layer in layers:
        if not layer.whole or _is_scaled(layer, evidence):
            return ""
        for parameter in layer.parameters:
            shape = evidence.traced.shapes[parameter.index].shape
            (source,) = layer.site.sources
            axes = kernel_axes(layer, shape, layer.site.slices(source), model.style)
            if layer.kind == "embedding":
                initializer = "initjax.normal(0.02)"
            elif axes is None:
                return ""
            else:
                call = _initializer(layer.activation, depth)
                initializer = f"initjax.{with_axes(call, axes)}"
            drawn[parameter.index] = initializer
            modules.add(_module(layer, parameter.index, initializer, evidence, model))
    if len(modules) == 1 and "" not in modules:
        return modules.pop()
    if len(drawn) == 1 and model.style == "plain" and model.assignable:
        ((leaf, initializer),) = drawn.items()
        item = _item(model, leaf)
        dtype = "" if evidence.traced.shapes[leaf].dtype == "float32" else f", {item}.dtype"
        return f"{item} = {initializer}({_KEY}, {item}.shape{dtype})"
    groups: dict[str, set[int]] = collections.defaultdict(set)
    for leaf, initializer in drawn.items():
        groups[initializer].add(leaf)
    rules: list[tuple[str, str]] = []
    before: set[int] = set()  # a parameter is drawn by the first rule that matches it
    for initializer, leaves in sorted(groups.items(), key=lambda group: len(group[1])):
        rules += [(pattern, initializer) for pattern in patterns_of(leaves, evidence, before)]
        before |= leaves
    return _initialized(rules, model)


def _is_scaled(layer: JudgedLayer, evidence: Evidence) -> bool:
    """Whether the model multiplies the parameter by a number before it is used."""
    some = np.concatenate([np.ravel(part) for part in evidence.measured.prints[layer.leaves[0]]])
    drawn = float(np.square(some, dtype=np.float64).mean())
    used = layer.weight_square * layer.site.scale**2
    return drawn > 0 and used > 0 and not 1 / _SCALED < used / drawn < _SCALED


def _initialized(rules: Sequence[tuple[str, str]], model: Written) -> str:
    if not 0 < len(rules) <= _MOST_RULES:
        return ""
    listed = ", ".join(f"{_quoted(pattern)}: {initializer}" for pattern, initializer in rules)
    return f"{model.name} = initjax.initialize({model.name}, {_KEY}, {{{listed}}})"


def _module(
    layer: JudgedLayer, leaf: int, initializer: str, evidence: Evidence, model: Written
) -> str:
    """The line of a model's definition that draws a dense layer; empty if it isn't known."""
    names, name = evidence.traced.names, evidence.traced.names[leaf]
    shape = evidence.traced.shapes[leaf].shape
    dense = name.endswith("/kernel") and layer.kind == "dense" and layer.whole and len(shape) == 2
    if not dense or layer.fan_in != shape[0] or "axis" in initializer:
        return ""
    bias = "" if f"{name.removesuffix('kernel')}bias" in names else "use_bias=False, "
    if model.style == "linen":
        return f"nn.Dense({shape[1]}, {bias}kernel_init={initializer})"
    if model.style == "nnx":
        return f"nnx.Linear({shape[0]}, {shape[1]}, {bias}kernel_init={initializer}, rngs=rngs)"
    return ""


def patterns_of(leaves: set[int], evidence: Evidence, others: Collection[int] = ()) -> list[str]:
    """Patterns that match the paths of these parameters, and only these and perhaps others."""
    names = evidence.traced.names
    wanted = {names[leaf] for leaf in leaves}
    allowed = wanted | {names[leaf] for leaf in others}
    alike: dict[str, list[str]] = collections.defaultdict(list)
    for name in sorted(wanted):
        alike[_ANY_NUMBER.sub("#", name)].append(name)
    ending = f"*/{glob.escape(min(wanted).rpartition('/')[2])}" if wanted else ""
    if len(alike) > 1 and wanted <= set(fnmatch.filter(names, ending)) <= allowed:
        return [ending]
    found = []
    for those in alike.values():
        pattern = _pattern(those)
        fits = len(those) > 1 and set(fnmatch.filter(names, pattern)) <= allowed
        found += [pattern] if fits else map(glob.escape, those)
    return found


def _pattern(names: Sequence[str]) -> str:
    """A pattern for names that differ in numbers only."""
    parts = [re.split(r"(\d+)", name) for name in names]
    shared = (set(column) for column in zip(*parts, strict=True))
    return "".join(glob.escape(part.pop()) if len(part) == 1 else "*" for part in shared)


def _item(model: Written, leaf: int) -> str:
    place = model.places[leaf]
    return model.name + (place if '"' in place else place.replace("'", '"'))


def _quoted(text: Any) -> str:
    quoted = repr(text)
    return quoted if '"' in quoted else quoted.replace("'", '"')
