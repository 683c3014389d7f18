"""What a parameter is in its model: which of its axes grow with the width, and where it stands."""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from initjax._flattening import flatten, is_parameter, no_parameters
from initjax._values import checked_choice
from initjax.parametrization._counterparts import counterparts, in_blocks
from initjax.trees import fits

Role = Literal["input", "embedding", "hidden", "output", "tied", "vector", "scalar"]
ROLES: tuple[Role, ...] = get_args(Role)

_VECTORS = ("bias", "scale")  # also with several axes, as in attention: (heads, features)
_EMBEDDINGS = ("embedding", "embeddings")
_GROWING = {  # whether the inputs of a kernel of this role grow, and its outputs
    "input": (False, True),
    "embedding": (False, True),
    "tied": (False, True),
    "hidden": (True, True),
    "output": (True, False),
}


class Axes(NamedTuple):
    """The axes of a kernel, counted from the first one."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Parameter(NamedTuple):
    """A parameter of one of the two models."""

    shape: tuple[int, ...]
    axes: Axes | None
    """Those of a kernel whose layer is known."""
    embedding: bool
    """Whether its rows are looked up."""


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
    given = parameters(params)
    shapes = {path: leaf.shape for path, leaf in given.items()}
    bases = {path: leaf.shape for path, leaf in parameters(base_params).items()}
    for pattern, role in roles.items():
        checked_choice("parametrize", f"the role of {pattern!r}", role, ROLES)
        if not any(fits(path, pattern) for path in shapes):
            raise ValueError(
                f"parametrize: no parameter matches {pattern!r} in roles; the paths are"
                f" {', '.join(itertools.islice(shapes, 20))}{', ...' if len(shapes) > 20 else ''}"
            )
    found = counterparts(shapes, bases, depth)
    deeper = depth[0] != depth[1]
    blocks = in_blocks(shapes, bases, found) if deeper else set()
    leaves = []
    for path, leaf in given.items():
        shape, base = leaf.shape, bases[found[path]]
        # A stack has one path for all blocks.
        stacked = deeper and path not in blocks and shape[:1] == (depth[1],)
        stack = int(stacked and base[:1] == (depth[0],))
        told: Role | None = next(
            (role for pattern, role in roles.items() if fits(path, pattern)), None
        )
        axes, role, reason = _role(path, leaf, base, stack, told)
        in_block = bool(stack) or path in blocks
        leaves.append(Grown(path, shape, base, role, reason, axes, stack, in_block))
    return leaves


def parameters(tree: Any) -> dict[str, Parameter]:
    """The floating and complex arrays of a tree, by path.

    Raises:
      TypeError, ValueError: there are none.
    """
    arrays, structure = flatten(tree)
    layers = _equinox_layers(tree)
    found = {}
    for path, array in zip(structure.names, arrays, strict=True):
        if is_parameter(array):
            node, _, name = path.rpartition("/")
            shape = tuple(array.shape)
            layer = layers.get(node) if name.startswith("weight") else None
            axes = None if layer is None else _equinox_axes(layer, len(shape))
            embedding = name in _EMBEDDINGS or type(layer).__name__ == "Embedding"
            found[path or "params"] = Parameter(shape, axes, embedding)
    if not found:
        raise no_parameters("parametrize", tree)
    return found


def _equinox_layers(tree: Any) -> dict[str, Any]:
    """Equinox's layers by path: their kernels are (out, in, *window)."""
    import jax

    equinox = sys.modules.get("equinox")
    if equinox is None:
        return {}
    nn = equinox.nn
    kinds = nn.Linear, nn.Embedding, nn.Conv, nn.ConvTranspose, nn.GRUCell, nn.LSTMCell
    found, _ = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda node: isinstance(node, kinds)
    )
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): node
        for path, node in found
        if isinstance(node, kinds)
    }


def _equinox_axes(layer: Any, count: int) -> Axes:
    """The axes of a kernel of one of these layers, behind those of stacks."""
    if type(layer).__name__ == "Embedding":
        return Axes((count - 2,), (count - 1,))
    last = count - getattr(layer, "num_spatial_dims", 0) - 1
    return Axes((last,), (last - 1,))


def _role(
    path: str, leaf: Parameter, base: tuple[int, ...], stack: int, told: Role | None
) -> tuple[Axes | None, Role, str]:
    """The axes of a parameter, its role, and why."""
    shape, name = leaf.shape, path.rpartition("/")[2]
    growing = [axis for axis in range(stack, len(shape)) if shape[axis] != base[axis]]
    if told in ("vector", "scalar"):
        return None, told, "told by roles"
    if name in _VECTORS or (told is None and len(shape) - stack < 2):
        if growing:
            return None, "vector", "a vector that grows"
        return None, "scalar", "doesn't grow"
    axes = leaf.axes or _axes(name, stack, shape, base, growing)
    inputs, outputs = (bool({*side} & {*growing}) for side in axes or ((), ()))
    if told is not None:
        if axes is None or (inputs, outputs) != _GROWING[told]:
            axes = _told_axes(told, stack, len(shape), growing)
        return axes, told, "told by roles"
    if not growing or (leaf.embedding and not outputs):
        return axes, "scalar", "doesn't grow"
    if axes is None:
        raise ValueError(
            f"parametrize: the shapes of {path}, {base} and {shape}, don't tell which axes are its"
            f" inputs and which its outputs; pass roles={{{path!r}: 'input'}}, or 'hidden' or"
            " 'output'"
        )
    if leaf.embedding:
        return axes, "embedding", "an embedding whose features grow"
    if inputs and outputs:
        return axes, "hidden", "fan_in and fan_out grow"
    if inputs:
        return axes, "output", "only fan_in grows"
    return axes, "input", "only fan_out grows"


def _axes(
    name: str,
    first: int,
    shape: Sequence[int],
    base: Sequence[int],
    growing: Sequence[int],
) -> Axes | None:
    """The axes of a kernel in Flax's layouts; None if they can't be told.

    Kernels are (*window, in, out), those of attention (in, *heads, features) and (heads, features,
    out). What is called `weight` is (out, in, *window) in PyTorch, and anything elsewhere.
    """
    last = len(shape) - 1
    if last - first < 1:
        return None
    if name == "weight":
        ratios = {shape[axis] / base[axis] for axis in (first, first + 1)}
        return Axes((first + 1,), (first,)) if len(ratios) == 1 else None
    start = growing[0] if growing else last
    if start >= last - 1:
        # One of three axes: (window, in, out) or (in, heads, features).
        unclear = last - first == 2 and list(growing) == [last - 1]
        return None if unclear else Axes((last - 1,), (last,))
    if last in growing and shape[start] < shape[last]:  # heads have fewer features than the model
        return Axes(tuple(range(start, last)), (last,))
    return Axes((start,), tuple(range(start + 1, last + 1)))


def _told_axes(role: Role, first: int, count: int, growing: Sequence[int]) -> Axes:
    """Axes that fit a role that was told."""
    axes = range(first, count)
    others = tuple(axis for axis in axes if axis not in growing)
    if role == "output":
        return Axes(tuple(growing), others)
    if role == "hidden" and growing:
        start = growing[0]
        return Axes((start,), tuple(axis for axis in axes if axis > start))
    return Axes(others, tuple(growing))
