"""Finds stacks of kernels, whose leading axis numbers layers and not inputs.

`nn.scan`, `nnx.vmap` and `equinox.filter_vmap` make parameters of shape (layers, ...). An
initializer that sees only a kernel of shape (layers, in, out) takes it for a convolution. Its
neighbors in the tree tell: the bias of a convolution has no axis for the taps, while the bias of a
stack has one for the layers.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from initjax._values import Initializer
from initjax.constants import dirac
from initjax.orthogonal import delta_orthogonal, orthogonal, scaled_orthogonal
from initjax.scaling import variance_scaling
from initjax.structured import sparse

Shape = tuple[int, ...]

_BIAS = re.compile(r"b\d*|.*bias.*")
# What depends on the shape, and can't be told which axes number kernels.
_WITHOUT_AXES = (orthogonal, delta_orthogonal, scaled_orthogonal, dirac, sparse)


def stack_warning(
    shapes: Mapping[str, Shape], rules: Iterable[tuple[str, Initializer]]
) -> str | None:
    """The warning for stacks whose initializers take the number of layers for inputs.

    Args:
      shapes: the shapes of all parameters, by their paths.
      rules: the paths of those to draw, and their initializers.
    """
    found = []
    for path, rule, axes, proof in _stacks(shapes, rules):
        if getattr(rule, "fan_in_divisor", 1) != math.prod(shapes[path][:axes]):
            found.append(_message(path, shapes[path], rule, axes, proof, shapes[proof]))
    if not found:
        return None
    more = f" ({len(found) - 1} more parameters are like this.)" if len(found) > 1 else ""
    return f"initialize: {found[0]}{more}"


def stacked_axes(
    shapes: Mapping[str, Shape], rules: Iterable[tuple[str, Initializer]]
) -> dict[str, int]:
    """How many leading axes number kernels, by the paths of stacks; arguments as above."""
    return {path: axes for path, _, axes, _ in _stacks(shapes, rules)}


def _stacks(
    shapes: Mapping[str, Shape], rules: Iterable[tuple[str, Initializer]]
) -> Iterator[tuple[str, Any, int, str]]:
    """Stacks that initializers take for one kernel: path, initializer, how many leading axes number
    kernels, and the path of the parameter that tells so."""
    siblings: dict[str, list[str]] = {}
    for path in shapes:
        if _BIAS.fullmatch(_split(path)[1]):
            siblings.setdefault(_split(path)[0], []).append(path)
    scales = _stacked_scales(shapes)
    for path, rule in rules:
        while hasattr(rule, "initializer"):  # in_blocks, icnr
            rule = rule.initializer  # pyright: ignore
        shape = shapes[path]
        free, outputs = _axes(rule, len(shape))
        if free == 0:
            continue
        sizes = tuple(shape[axis] for axis in outputs)
        stacks = [
            (_stacked_axes(shape, shapes[bias], free, sizes), bias)
            for bias in siblings.get(_split(path)[0], ())
        ]
        stacks += [(1, scales[node]) for node in _ancestors(path) if node in scales]
        stacks = [(axes, proof) for axes, proof in stacks if math.prod(shape[:axes]) > 1]
        if stacks:
            yield path, rule, *stacks[0]


def _message(path: str, shape: Shape, rule: Any, axes: int, proof: str, proof_shape: Shape) -> str:
    count = math.prod(shape[:axes])
    looks = (
        f"{path!r} of shape {shape} looks like a stack of {count} kernels, since {proof!r} has"
        f" shape {proof_shape}."
    )
    if isinstance(rule, _WITHOUT_AXES):
        one = f"lambda key: {rule!r}(key, shape[{axes}:], dtype)"
        mapped = f"{'jax.vmap(' * axes}{one}{')' * axes}"
        keys = f"jax.random.split(key, shape[{0 if axes == 1 else f':{axes}'}])"
        return (
            f"{looks} {rule!r} draws it as one kernel. Draw each by itself: lambda key, shape,"
            f" dtype: {mapped}({keys})"
        )
    batch = rule.batch_axis if isinstance(rule.batch_axis, tuple) else (rule.batch_axis,)
    batch = (*range(axes), *batch)
    right = dataclasses.replace(rule, batch_axis=batch[0] if len(batch) == 1 else batch)
    factor = f"{count**0.5:.3g} times " if isinstance(rule, variance_scaling) else ""
    return (
        f"{looks} {rule!r} counts them as inputs, so its weights are {factor}too small. Write"
        f" {right!r}."
    )


def _axes(rule: Any, ndim: int) -> tuple[int, Shape]:
    """How many leading axes an initializer takes for taps of a convolution, and its axes of
    outputs."""
    if isinstance(rule, _WITHOUT_AXES):
        named, outputs = {ndim - 2, ndim - 1}, (ndim - 1,)
    elif hasattr(rule, "batch_axis"):
        inputs, outputs, batch = (
            tuple(axis % ndim for axis in ([axes] if isinstance(axes, int) else axes))
            if ndim
            else ()
            for axes in (rule.in_axis, rule.out_axis, rule.batch_axis)
        )
        named = {*inputs, *outputs, *batch}
    else:
        return 0, ()
    return next((axis for axis in range(ndim) if axis in named), ndim), outputs


def _stacked_axes(shape: Shape, bias: Shape, free: int, outputs: Shape) -> int:
    """How many leading axes a kernel and its bias share, besides the axes of outputs; else 0."""
    if bias in (outputs, shape[len(shape) - len(bias) :]):  # as without a stack
        return 0
    for axes in range(1, min(free, len(bias) - 1) + 1):
        rest = bias[axes:]
        last = shape[len(shape) - len(rest) :]
        alike = bias[:axes] == shape[:axes] and rest in (outputs, last)
        if alike and math.prod(rest) > 1 and axes + len(rest) < len(shape):
            return axes
    return 0


def _stacked_scales(shapes: Mapping[str, Shape]) -> dict[str, str]:
    """Nodes in which all parameters have the same leading axis, and the scale of a normalization,
    elsewhere a vector, has two axes: the path of that scale."""
    sizes: dict[str, set[int]] = {}
    scales: dict[str, str] = {}
    for path, shape in shapes.items():
        for node in _ancestors(path):
            sizes.setdefault(node, set()).add(shape[0] if len(shape) > 1 else -1)
            if _split(path)[1] == "scale" and len(shape) == 2:
                scales.setdefault(node, path)
    return {node: scale for node, scale in scales.items() if len(sizes[node]) == 1}


def _split(path: str) -> tuple[str, str]:
    """The path of a parameter's node, and its name there."""
    node, _, name = path.rpartition("/")
    return node, name


def _ancestors(path: str) -> list[str]:
    """The paths of the nodes around a parameter, the nearest first."""
    found = []
    while path:
        path = _split(path)[0]
        found.append(path)
    return found
