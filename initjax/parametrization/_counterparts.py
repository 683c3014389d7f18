"""Which parameter of the base model is the counterpart of which parameter of the model.

With equal depth, paths are equal. In a deeper model, layers of one name may have other numbers: the
last layer of a network of three is `Dense_2`, and that of a network of nine is `Dense_8`. So the
parameters of a layer are looked at together, and that layer of the base model is meant that has the
same shapes, or shapes that differ by one factor.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Mapping, Sequence

Shapes = Mapping[str, tuple[int, ...]]

_NUMBER = re.compile(r"\d+")


def kind(path: str) -> str:
    """The path without its numbers, which tell blocks apart."""
    return _NUMBER.sub("*", path)


def counterparts(shapes: Shapes, bases: Shapes, depth: tuple[int, int]) -> dict[str, str]:
    """The path of each parameter's counterpart in the base model.

    Args:
      shapes: of the model's parameters, by path.
      bases: of those of the base model.
      depth: how many blocks the base model has, and how many the model.

    Raises:
      ValueError: the two don't fit together, or a counterpart can't be told from other layers.
    """
    if depth[0] == depth[1] or shapes.keys() == bases.keys():
        found = {path: path for path in shapes if path in bases}
        unused = [path for path in bases if path not in shapes]
    else:
        found = _across_depths(shapes, bases)
        kinds = set(map(kind, shapes))
        unused = [path for path in bases if kind(path) not in kinds]
    for one, other, paths in (
        ("params", "base_params", [path for path in shapes if path not in found]),
        ("base_params", "params", unused),
    ):
        if paths:
            deeper = any(kind(path) in map(kind, found) for path in paths)
            hint = "; if the depth differs, pass depth=(blocks of the base model, of this one)"
            raise ValueError(
                f"parametrize: {one} has {paths[0]!r}, which {other} lacks{hint if deeper else ''}"
            )
    for path, base in found.items():
        if len(shapes[path]) != len(bases[base]):
            raise ValueError(
                f"parametrize: {path} has the shape {shapes[path]}, and in base_params"
                f" {bases[base]}: they need the same number of axes"
            )
    return found


def _across_depths(shapes: Shapes, bases: Shapes) -> dict[str, str]:
    groups: dict[tuple[str, ...], list[list[str]]] = {}
    for paths in _layers(bases):
        groups.setdefault(tuple(map(kind, paths)), []).append(paths)
    found = {}
    for paths in _layers(shapes):
        alike = groups.get(tuple(map(kind, paths)), [])
        if alike:
            found |= zip(paths, _chosen(paths, alike, shapes, bases), strict=True)
    return found


def _chosen(
    paths: list[str], alike: list[list[str]], shapes: Shapes, bases: Shapes
) -> Sequence[str]:
    """Which of several layers of the base model is the counterpart of a layer.

    One with the same shapes is preferred, then one that differs by one factor, then the one whose
    path has the most numbers in common.
    """

    def rank(layer: list[str]) -> tuple[bool, bool, int]:
        pairs = [(shapes[path], bases[base]) for path, base in zip(paths, layer, strict=True)]
        factors = {
            size / before
            for own, base in pairs
            for size, before in zip(own, base, strict=False)
            if size != before
        }
        unlike = any(len(own) != len(base) for own, base in pairs)
        numbers = zip(_NUMBER.findall(paths[0]), _NUMBER.findall(layer[0]), strict=True)
        others = sum(own != base for own, base in numbers)
        return unlike or len(factors) > 0, unlike or len(factors) > 1, others

    best = min(map(rank, alike))
    nearest = [layer for layer in alike if rank(layer) == best]
    if len({tuple(bases[base] for base in layer) for layer in nearest}) == 1:
        return nearest[-1]
    some = ", ".join(f"{layer[0]} {bases[layer[0]]}" for layer in nearest[:5])
    raise ValueError(
        f"parametrize: the counterpart of {paths[0]!r} {shapes[paths[0]]} in base_params can't be"
        f" told among {some}; build base_params with as many layers as params, and keep"
        " depth=(blocks of the base model, of this one)"
    )


def in_blocks(shapes: Shapes, bases: Shapes, found: Mapping[str, str]) -> set[str]:
    """The parameters in blocks: those of layers of which the model has another number.

    In a base model that was built with as many layers as the model, blocks show by repetition.

    Args:
      shapes: of the model's parameters, by path.
      bases: of those of a base model of another depth.
      found: the counterparts.
    """

    def looks(paths: Iterable[str]) -> tuple[tuple[str, tuple[int, ...]], ...]:
        return tuple((kind(path), bases[path]) for path in paths)

    layers = [(paths, looks(found[path] for path in paths)) for paths in _layers(shapes)]
    counts = collections.Counter(look for _, look in layers)
    base_counts = collections.Counter(map(looks, _layers(bases)))
    once = shapes.keys() == bases.keys()
    return {
        path
        for paths, look in layers
        if (counts[look] > 1 if once else counts[look] != base_counts[look])
        for path in paths
    }


def _layers(paths: Iterable[str]) -> list[list[str]]:
    """The parameters by layer: those with one parent and with the same numbers."""
    layers: dict[tuple[str, ...], list[str]] = {}
    for path in paths:
        layer = kind(path.rpartition("/")[0]), *_NUMBER.findall(path)
        layers.setdefault(layer, []).append(path)
    return [sorted(paths, key=kind) for paths in layers.values()]
