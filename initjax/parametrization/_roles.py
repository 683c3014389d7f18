"""What a parameter is in its model: which of its axes grow with the width, and where it stands."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from initjax._flattening import flatten, is_parameter, no_parameters
from initjax._values import checked_choice
from initjax.trees import fits

Role = Literal["input", "embedding", "hidden", "output", "tied", "vector", "scalar"]
ROLES: tuple[Role, ...] = get_args(Role)

_NUMBER = re.compile(r"\d+")
_VECTORS = ("bias", "scale")  # also with several axes, as in attention: (heads, features)


class Axes(NamedTuple):
    """The axes of a kernel, counted from the first one."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Grown:
    """A parameter of the model, beside its counterpart in the base model."""

    path: str
    shape: tuple[int, ...]
    base_shape: tuple[int, ...]
    role: Role
    reason: str
    """Why it has this role."""
    axes: Axes | None
    """None if it has no inputs."""
    stack: int
    """How many leading axes number the blocks."""
    in_block: bool
    """Whether the model has more such parameters than the base model: one for each block."""

    @property
    def growth(self) -> tuple[float, float]:
        """By which factors fan_in and fan_out have grown."""
        ratios = [size / base for size, base in zip(self.shape, self.base_shape, strict=True)]
        if self.axes is None:
            return 1.0, math.prod(ratios[self.stack :])
        spread = [math.prod(ratios[axis] for axis in axes) for axes in self.axes]
        return spread[0], spread[1]

    @property
    def fans(self) -> tuple[float, float]:
        """fan_in and fan_out."""
        return self._fans(self.shape)

    @property
    def base_fans(self) -> tuple[float, float]:
        """Those of the base model."""
        return self._fans(self.base_shape)

    def _fans(self, shape: tuple[int, ...]) -> tuple[float, float]:
        whole = math.prod(shape[self.stack :])
        if self.axes is None:
            return 1.0, float(whole)
        inputs, outputs = (math.prod(shape[axis] for axis in axes) for axes in self.axes)
        return whole / outputs, whole / inputs


def grown(
    params: Any, base_params: Any, roles: Mapping[str, Role], depth: tuple[int, int]
) -> list[Grown]:
    """The parameters of a model beside those of its base model.

    Args:
      params: a tree of arrays or shapes.
      base_params: the same of the base model.
      roles: roles by pattern.
      depth: how many blocks the base model has, and how many the model.

    Raises:
      TypeError, ValueError: a tree has no parameters, the two don't fit together, a pattern matches
        no parameter, or the role of a parameter can't be told.
    """
    shapes, bases = _shapes(params), _shapes(base_params)
    for pattern, role in roles.items():
        checked_choice("parametrize", f"the role of {pattern!r}", role, ROLES)
        if not any(fits(path, pattern) for path in shapes):
            raise ValueError(
                f"parametrize: no parameter matches {pattern!r} in roles; the paths are"
                f" {', '.join(itertools.islice(shapes, 20))}{', ...' if len(shapes) > 20 else ''}"
            )
    counterparts = {path: _counterpart(path, shape, bases, depth) for path, shape in shapes.items()}
    blocks = collections.Counter(
        (kind(path), bases[counterpart]) for path, counterpart in counterparts.items()
    )
    base_blocks = collections.Counter((kind(path), shape) for path, shape in bases.items())
    found = []
    for path, shape in shapes.items():
        base = bases[counterparts[path]]
        stack = int(depth[0] != depth[1] and (base[:1], shape[:1]) == ((depth[0],), (depth[1],)))
        told: Role | None = next(
            (role for pattern, role in roles.items() if fits(path, pattern)), None
        )
        axes, role, reason = _role(path, shape, base, stack, told)
        number = blocks[kind(path), base] - base_blocks[kind(path), base]
        in_block = bool(stack) or number != 0
        found.append(Grown(path, shape, base, role, reason, axes, stack, in_block))
    missing = {kind(path) for path in bases} - {kind(path) for path in shapes}
    if missing:
        path = next(path for path in bases if kind(path) in missing)
        raise ValueError(f"parametrize: base_params has {path!r}, which params lacks")
    return found


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    arrays, structure = flatten(tree)
    shapes = {
        name or "params": tuple(getattr(array, "shape", ()))
        for name, array in zip(structure.names, arrays, strict=True)
        if is_parameter(array)
    }
    if not shapes:
        raise no_parameters("parametrize", tree)
    return shapes


def kind(path: str) -> str:
    """The path without its numbers, which tell blocks apart."""
    return _NUMBER.sub("*", path)


def _counterpart(
    path: str, shape: tuple[int, ...], bases: Mapping[str, tuple[int, ...]], depth: tuple[int, int]
) -> str:
    """The path of a parameter's counterpart in the base model."""
    deeper = depth[0] != depth[1]
    alike = [name for name in bases if name == path or (deeper and kind(name) == kind(path))]
    if not alike:
        hint = "; if the model is deeper, pass depth=(blocks of the base model, blocks of this one)"
        known = any(kind(name) == kind(path) for name in bases)
        raise ValueError(
            f"parametrize: params has {path!r}, which base_params lacks{hint if known else ''}"
        )
    if len(alike) == 1 and len(bases[alike[0]]) != len(shape):
        raise ValueError(
            f"parametrize: {path} has the shape {shape}, and in base_params {bases[alike[0]]}: they"
            " need the same number of axes"
        )
    if len(alike) == 1:
        return alike[0]
    # In a deeper model, layers of one name may have other numbers: those of the same shape, but for
    # one factor, are meant.
    scaled = [name for name in alike if _is_scaled(shape, bases[name], depth)]
    if len({bases[name] for name in scaled}) != 1:
        raise ValueError(
            f"parametrize: the counterpart of {path!r} {shape} in base_params can't be told among"
            f" {', '.join(f'{name} {bases[name]}' for name in alike)}"
        )
    return path if path in scaled else scaled[-1]


def _is_scaled(shape: tuple[int, ...], base: tuple[int, ...], depth: tuple[int, int]) -> bool:
    """Whether all axes that differ have grown by one factor; a stack by that of the depth."""
    if len(shape) != len(base):
        return False
    if (base[:1], shape[:1]) == ((depth[0],), (depth[1],)):
        shape, base = shape[1:], base[1:]
    factors = {size / before for size, before in zip(shape, base, strict=True)} - {1.0}
    return len(factors) < 2


def _role(
    path: str, shape: tuple[int, ...], base: tuple[int, ...], stack: int, told: Role | None
) -> tuple[Axes | None, Role, str]:
    """The axes of a parameter, its role, and why."""
    growing = [axis for axis in range(stack, len(shape)) if shape[axis] != base[axis]]
    name = path.rpartition("/")[2]
    vector = len(shape) - stack < 2 or name in _VECTORS
    axes = None if vector else _axes(stack, shape, growing)
    if told is not None:
        if told in ("vector", "scalar"):
            return None, told, "told by roles"
        if axes is None or not _agree(axes, told, growing):
            axes = Axes(*_told_axes(told, stack, len(shape), growing))
        return axes, told, "told by roles"
    if not growing:
        return axes, "scalar", "doesn't grow"
    if vector:
        return None, "vector", "a vector that grows"
    if axes is None:
        raise ValueError(
            f"parametrize: the shapes of {path}, {base} and {shape}, don't tell which axes are its"
            f" inputs and which its outputs; pass roles={{{path!r}: 'input'}}, or 'hidden' or"
            " 'output'"
        )
    inputs, outputs = (any(axis in growing for axis in side) for side in axes)
    if inputs and outputs:
        return axes, "hidden", "fan_in and fan_out grow"
    if inputs:
        return axes, "output", "only fan_in grows"
    if name == "embedding":
        return axes, "embedding", "an embedding whose features grow"
    return axes, "input", "only fan_out grows"


def _axes(first: int, shape: Sequence[int], growing: Sequence[int]) -> Axes | None:
    """The axes of a kernel in Flax's layouts; None if they can't be told.

    Kernels are (*spatial, in, out), those of attention (in, heads, features) and (heads, features,
    out).
    """
    last = len(shape) - 1
    three = last - first == 2
    if three and list(growing) == [last - 1]:
        return None  # (spatial, in, out) or (in, heads, features)
    if all(axis >= last - 1 for axis in growing):
        return Axes((last - 1,), (last,))
    if not three:
        return None
    # Heads have fewer features than the model.
    if last in growing and shape[first] < shape[last]:
        return Axes((first, last - 1), (last,))
    return Axes((first,), (last - 1, last))


def _agree(axes: Axes, told: Role, growing: Sequence[int]) -> bool:
    """Whether axes of Flax's layouts grow as a role says; those of a transposed kernel don't."""
    inputs, outputs = (any(axis in growing for axis in side) for side in axes)
    if told in ("input", "embedding", "output"):
        return (told == "output") == inputs and (told != "output") == outputs
    return told == "tied" or not growing or (inputs and outputs)


def _told_axes(
    role: Role, first: int, count: int, growing: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Axes that fit a role that was told."""
    axes = tuple(range(first, count))
    others = tuple(axis for axis in axes if axis not in growing)
    if role == "output":
        return tuple(growing), others
    if role == "hidden" and len(growing) > 1:
        return tuple(growing[:1]), tuple(growing[1:])
    return others, tuple(growing)
