"""Finds the same layers in programs of different widths, and what grows in each."""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.primitives import program_at
from initjax.auditing._reading.trace import Traced
from initjax.coordinates._program import Program

Role = Literal["input", "embedding", "hidden", "output", "vector", "scalar", "scores"]


class Place(NamedTuple):
    """One layer, attention or parameter, at every width."""

    name: str
    kind: str
    """'dense', 'convolution', 'embedding', 'attention' or 'parameter'."""
    role: Role
    fan_in: tuple[float, ...]
    """By width; the size of a head for scores, 0 for a parameter."""
    paths: tuple[Path, ...]
    """By width; empty for a parameter."""
    leaf: int | None
    """The parameter, if it is one."""
    logits: bool = False
    tied: bool = False
    """Whether another layer has the same weights."""
    before: frozenset[str] = frozenset()
    """Of scores, the layers of queries and keys."""


def matched(widths: Sequence[int], programs: Sequence[Program]) -> tuple[Place, ...]:
    """All that is measured, in the order of execution; parameters come last.

    Layers are the same if parameters of the same paths are used by them, in the same order.

    Raises:
      ValueError: a program has other layers or parameters than the first, or nothing grows.
    """
    for width, program in zip(widths[1:], programs[1:], strict=True):
        _check_parameters(widths[0], programs[0].traced, width, program.traced)
    first, *others = (dict(_layers(program)) for program in programs)
    for width, found in zip(widths[1:], others, strict=True):
        _check_same(widths[0], list(first), width, list(found))
    layers = [first, *others]
    places = [_layer(name, programs, [each[name] for each in layers]) for name in first]
    if all(place.role == "scalar" for place in places):
        raise ValueError(
            f"coordinate_check: no layer is wider at width {widths[-1]} than at width {widths[0]};"
            " let make use its width"
        )
    names = {path: name for name, path in first.items()}
    places += _attentions(widths, programs, names)
    places += _parameters(programs)
    return tuple(places)


def unread(programs: Sequence[Program]) -> tuple[str, ...]:
    """The parameters that grow along several axes and aren't the weights of a layer."""
    return tuple(
        programs[0].traced.names[leaf]
        for leaf in programs[0].others
        if _growing(programs, leaf) > 1
    )


def _layers(program: Program) -> Iterator[tuple[str, Path]]:
    uses: collections.Counter[str] = collections.Counter()
    for path, site in program.sites.items():
        leaves = dict.fromkeys(program.traced.names[source.leaf] for source in sorted(site.sources))
        name = " and ".join(leaves)
        uses[name] += 1
        yield (name if uses[name] == 1 else f"{name} (use {uses[name]})"), path


def _check_parameters(width: int, first: Traced, other: int, found: Traced) -> None:
    """Raises a ValueError unless two widths have the same parameters, with as many axes."""
    text = f"coordinate_check: make gives other parameters at width {other} than at width {width}:"
    different = {*first.names} ^ {*found.names}
    if different:
        name = min(different)
        only = width if name in first.names else other
        raise ValueError(f"{text} only width {only} has {name}; change only widths, not the depth")
    for name, own, wide in zip(first.names, first.shapes, found.shapes, strict=True):
        if len(own.shape) != len(wide.shape):
            raise ValueError(f"{text} {name} has the shapes {own.shape} and {wide.shape}")


def _check_same(width: int, first: list[str], other: int, found: list[str]) -> None:
    """Raises a ValueError unless two widths have the same layers in the same order."""
    missing = [name for name in first if name not in found]
    more = [name for name in found if name not in first]
    if missing or more or first != found:
        text = "uses its layers in another order"
        if missing or more:
            text = f"has no layer of {missing[0]}" if missing else f"has a layer of {more[0]}"
        raise ValueError(
            f"coordinate_check: make gives other layers at width {other} than at width {width}: it"
            f" {text}; change only widths, not the depth"
        )


def _layer(name: str, programs: Sequence[Program], paths: Sequence[Path]) -> Place:
    sites = [program.sites[path] for program, path in zip(programs, paths, strict=True)]
    fan_in = tuple(float(site.fan_in) for site in sites)
    units = [_units(program.traced, path) for program, path in zip(programs, paths, strict=True)]
    enters, leaves = fan_in[-1] > fan_in[0], units[-1] > units[0]
    role: Role = "scalar"
    if enters:
        role = "hidden" if leaves else "output"
    elif leaves:
        role = "embedding" if sites[0].kind == "embedding" else "input"
    used = [source.leaf for each in programs[0].sites.values() for source in each.sources]
    tied = any(used.count(source.leaf) > 1 for source in sites[0].sources)
    return Place(name, sites[0].kind, role, fan_in, tuple(paths), None, sites[0].softmax, tied)


def _units(traced: Traced, path: Path) -> int:
    site = traced.anatomy.sites[path]
    shape = program_at(traced.jaxpr, path).eqns[path[-1]].outvars[0].aval.shape
    return math.prod(shape[axis] for axis in site.unit_axes)


def _attentions(
    widths: Sequence[int], programs: Sequence[Program], names: dict[Path, str]
) -> list[Place]:
    counts = [len(program.attentions) for program in programs]
    for width, count in zip(widths, counts, strict=True):
        if count != counts[0]:
            raise ValueError(
                f"coordinate_check: make gives {counts[0]} attentions at width {widths[0]} and"
                f" {count} at width {width}; change only widths, not the depth"
            )
    found = []
    for number in range(counts[0]):
        sites = [program.attentions[number] for program in programs]
        before = [
            names[path] for path in names if path in sites[0].query_sites | sites[0].key_sites
        ]
        sizes = tuple(float(site.head_size) for site in sites)
        name = f"{_common(before) or number + 1} scores"
        paths = tuple(site.path for site in sites)
        place = Place(name, "attention", "scores", sizes, paths, None, before=frozenset(before))
        found.append(place)
    return found


def _common(names: Sequence[str]) -> str:
    """The folders that paths have in common; the whole path of a single one."""
    levels = zip(*(name.split("/") for name in names), strict=False)
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, levels)
    return "/".join(parts[0] for parts in shared)


def _parameters(programs: Sequence[Program]) -> list[Place]:
    traced = programs[0].traced
    found = []
    for leaf in programs[0].others:
        growing = _growing(programs, leaf)
        if growing < 2 and leaf in traced.anatomy.leaves:
            role: Role = "vector" if growing else "scalar"
            found.append(
                Place(traced.names[leaf], "parameter", role, (0.0,) * len(programs), (), leaf)
            )
    return found


def _growing(programs: Sequence[Program], leaf: int) -> int:
    """How many axes of a parameter grow."""
    narrow, wide = (program.traced.shapes[leaf].shape for program in (programs[0], programs[-1]))
    return sum(large > small for small, large in zip(narrow, wide, strict=True))
