"""What a parameter is in its model: which of its axes grow with the width, and where it stands."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from initjax._flattening import classes, flatten, inside, is_parameter, no_parameters
from initjax._values import checked_choice
from initjax.parametrization._counterparts import counterparts, in_blocks
from initjax.parametrization._leaves import ROLES, Axes, Grown, Role
from initjax.parametrization._program import Program
from initjax.parametrization._rescaling import size_of
from initjax.parametrization._uses import REASONS, how_read, read_role
from initjax.trees import fits

TOLD = "told by roles"
# Also with several axes, as in attention: (heads, features).
_VECTORS = ("bias", "beta", "scale", "gain", "gamma")
_EMBEDDINGS = ("embedding", "embeddings")
_GROWING = {  # whether the inputs of a kernel of this role grow, and its outputs
    "input": (False, True),
    "embedding": (False, True),
    "tied": (False, True),
    "hidden": (True, True),
    "output": (True, False),
}


class Parameter(NamedTuple):
    """A parameter of one of the two models."""

    shape: tuple[int, ...]
    axes: Axes | None
    """Those of a kernel whose layer is known."""
    embedding: bool
    """Whether its rows are looked up."""
    foreign: bool
    """Whether it may have any layout: it is called `weight`, or a module of Equinox holds it."""
    array: Any


def grown(
    params: Any,
    base_params: Any,
    roles: Mapping[str, Role],
    depth: tuple[int, int],
    program: Program | None = None,
) -> list[Grown]:
    """The parameters of a model beside those of its base model.

    Args:
      params: a tree of arrays or shapes.
      base_params: the same of the base model.
      roles: roles by pattern.
      depth: how many blocks the base model has, and how many the model.
      program: what the model's program says of its parameters, which goes before shapes.

    Raises:
      TypeError, ValueError: a tree has no parameters, the two don't fit together, a pattern matches
        no parameter, or the role of a parameter can't be told.
    """
    given = parameters(params)
    shapes = {path: leaf.shape for path, leaf in given.items()}
    base_leaves = parameters(base_params)
    bases = {path: leaf.shape for path, leaf in base_leaves.items()}
    check_patterns("roles", roles, shapes, "roles, as in {'head/kernel': 'output'}")
    for pattern, role in roles.items():
        checked_choice("parametrize", f"the role of {pattern!r}", role, ROLES)
    found = counterparts(shapes, bases, depth)
    deeper = depth[0] != depth[1]
    _check_order(shapes, bases, found, depth)
    blocks = in_blocks(shapes, bases, found) if deeper else set()
    leaves = []
    for path, leaf in given.items():
        shape, base = leaf.shape, bases[found[path]]
        # A stack has one path for all blocks.
        stacked = deeper and path not in blocks and shape[:1] == (depth[1],)
        stack = int(stacked and base[:1] == (depth[0],))
        if not stack:
            _check_stack(path, shape, base)
        told: Role | None = next(
            (role for pattern, role in roles.items() if fits(path, pattern)), None
        )
        axes, role, reason = _role(path, leaf, base, stack, told, program)
        in_block = bool(stack) or path in blocks
        size = size_of(base_leaves[found[path]].array)
        leaves.append(
            Grown(path, shape, base, role, reason, axes, stack, in_block, size, leaf.embedding)
        )
    return leaves


def _check_order(
    shapes: Mapping[str, tuple[int, ...]],
    bases: Mapping[str, tuple[int, ...]],
    found: Mapping[str, str],
    depth: tuple[int, int],
) -> None:
    """Raises a ValueError if the numbers of blocks are those of the other model each."""
    base, own = depth
    growth = len(shapes) - len(bases)
    stacked = any(
        shape[:1] == (base,) and bases[found[path]][:1] == (own,) for path, shape in shapes.items()
    )
    if (own - base) * growth < 0 or (base != own and not growth and stacked):
        raise ValueError(
            f"parametrize: depth={depth} must be (blocks of the base model, of this one), and the"
            f" shapes grow the other way; pass depth={(own, base)}"
        )


def _check_stack(path: str, shape: tuple[int, ...], base: tuple[int, ...]) -> None:
    """Raises a ValueError for a kernel that looks like a stack of another depth."""
    if len(shape) < 3 or not all(base):
        return
    first, *others = (size / before for size, before in zip(shape, base, strict=True))
    # The inputs of a kernel of attention, (in, heads, features), grow as the others together.
    explained = (1.0, others[0], math.prod(others))
    if len(set(others)) == 1 and others[0] != 1 and first not in explained:
        raise ValueError(
            f"parametrize: {path} has the shape {shape}, and in base_params {base}: if its first"
            f" axis numbers blocks, pass depth={(base[0], shape[0])}"
        )


def check_patterns(name: str, given: Any, paths: Iterable[str], like: str) -> None:
    """Raises an error unless an argument is a dictionary whose patterns match parameters.

    Args:
      name: the argument.
      given: its value.
      paths: those of the parameters.
      like: what it maps patterns to, with an example.
    """
    if not isinstance(given, Mapping) or not all(isinstance(pattern, str) for pattern in given):
        raise TypeError(f"parametrize: {name} must map patterns to {like}, got {given!r}")
    paths = list(paths)
    for pattern in given:
        if not any(fits(path, pattern) for path in paths):
            raise ValueError(
                f"parametrize: no parameter matches {pattern!r} in {name}; the paths are"
                f" {', '.join(paths[:20])}{', ...' if len(paths) > 20 else ''}"
            )


def parameters(tree: Any) -> dict[str, Parameter]:
    """The floating and complex arrays of a tree, by path.

    Raises:
      TypeError, ValueError: there are none.
    """
    arrays, structure = flatten(tree)
    layers = _equinox_layers(tree)
    in_module = any(inside(tree, classes(("equinox", "Module"))))
    found = {}
    for path, array in zip(structure.names, arrays, strict=True):
        if is_parameter(array):
            node, _, name = path.rpartition("/")
            shape = tuple(array.shape)
            layer = layers.get(node) if name.startswith("weight") else None
            axes = None if layer is None else _equinox_axes(layer, len(shape))
            embedding = name in _EMBEDDINGS or type(layer).__name__ == "Embedding"
            foreign = in_module or name == "weight"
            found[path or "params"] = Parameter(shape, axes, embedding, foreign, array)
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
    path: str,
    leaf: Parameter,
    base: tuple[int, ...],
    stack: int,
    told: Role | None,
    program: Program | None,
) -> tuple[Axes | None, Role, str]:
    """The axes of a parameter, its role, and why."""
    shape = leaf.shape
    if 0 in (*shape, *base):
        return None, "scalar", "has no entries"
    growing = [axis for axis in range(stack, len(shape)) if shape[axis] != base[axis]]
    if told in ("vector", "scalar"):
        return None, told, TOLD
    name = path.rpartition("/")[2]
    axes, role = _by_shape(name, leaf, base, stack, growing)
    told = None if name in _VECTORS else told  # a pattern for kernels matched its bias, too
    uses = () if program is None else program.uses.get(path, ())
    if told is not None:
        known = [*(Axes(*use.axes) for use in uses), *([axes] if axes else [])]
        fitting = [
            each for each in known if not growing or _grown_sides(each, growing) == _GROWING[told]
        ]
        own = fitting[0] if fitting else _told_axes(told, stack, len(shape), growing)
        return own, told, TOLD
    read = read_role(path, uses, growing)
    if read is not None:
        own = None if read.role == "vector" or read.use.factor else Axes(*read.use.axes)
        as_shaped = (role, axes and axes[:2]) == (read.role, own and own[:2])
        how = "" if as_shaped else f"read from the program: {how_read(read.use)}; "
        return own, read.role, how + read.reason
    if uses and axes is not None:  # kernels that are looked up, as of experts
        axes = axes._replace(members=tuple({*uses[0].inputs} - {*axes.inputs, *axes.outputs}))
    alone = program is not None and not uses and path not in program.undecided
    if alone and role in (None, "hidden", "output"):
        return None, "vector", "enters no product of the program"
    if role is None:
        hint = f"roles={{{path!r}: 'input'}}, or 'hidden' or 'output'"
        if program is None:
            hint = f"loss_fn and batch, so that the program tells, or {hint}"
        raise ValueError(
            f"parametrize: the shapes of {path}, {base} and {shape}, don't tell which axes are its"
            f" inputs and which its outputs; pass {hint}"
        )
    return axes, role, REASONS[role]


def _by_shape(
    name: str, leaf: Parameter, base: tuple[int, ...], stack: int, growing: Sequence[int]
) -> tuple[Axes | None, Role | None]:
    """The axes and the role that the layouts of libraries tell; no role if they don't."""
    if name in _VECTORS or len(leaf.shape) - stack < 2:
        return None, "vector" if growing else "scalar"
    axes = leaf.axes or _axes(leaf.foreign, stack, leaf.shape, base, growing)
    inputs, outputs = _grown_sides(axes, growing)
    if not growing or (leaf.embedding and not outputs):
        return axes, "scalar"
    if axes is None:
        return None, None
    if leaf.embedding:
        return axes, "embedding"
    return axes, "hidden" if inputs and outputs else "output" if inputs else "input"


def _grown_sides(axes: Axes | None, growing: Sequence[int]) -> tuple[bool, bool]:
    """Whether the inputs of a kernel grow, and its outputs."""
    if axes is None:
        return False, False
    outputs = {*axes.outputs, *axes.members}
    return not {*axes.inputs}.isdisjoint(growing), not outputs.isdisjoint(growing)


def _axes(
    foreign: bool,
    first: int,
    shape: Sequence[int],
    base: Sequence[int],
    growing: Sequence[int],
) -> Axes | None:
    """The axes of a kernel in Flax's layouts; None if they can't be told.

    Kernels are (*window, in, out), those of attention (in, *heads, features) and (heads, features,
    out). Those of PyTorch are (out, in, *window).
    """
    last = len(shape) - 1
    if last - first < 1:
        return None
    if foreign:
        ratios = {shape[axis] / base[axis] for axis in (first, first + 1)}
        return Axes((first + 1,), (first,)) if len(ratios) == 1 else None
    if not growing and last - first == 2 and shape[first] > shape[last]:
        return Axes((first,), (last - 1, last))  # heads have fewer features than the model
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
