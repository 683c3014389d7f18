"""Roles of parameters from their uses in the model's own program."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from initjax.parametrization._leaves import Role
from initjax.parametrization._program import Use

REASONS: dict[Role, str] = {
    "hidden": "fan_in and fan_out grow",
    "output": "only fan_in grows",
    "embedding": "an embedding whose features grow",
    "input": "only fan_out grows",
    "vector": "a vector that grows",
    "scalar": "doesn't grow",
}
"""Why a parameter has a role."""


class ReadRole(NamedTuple):
    """The role of a parameter in a program."""

    use: Use
    """The use that gives it this role."""
    role: Role
    reason: str


def read_role(path: str, uses: Sequence[Use], growing: Collection[int]) -> ReadRole | None:
    """The role of a parameter; None if its uses don't tell.

    Args:
      path: of the parameter.
      uses: how it enters the products of the program.
      growing: its axes that grow.

    Raises:
      ValueError: kernels can't be told apart in it, or a stack of them grows.
    """
    # Where rows with two axes that grow are looked up, they are kernels, as of experts.
    uses = [
        use
        for use in uses
        if not (use.looked_up and sum(axis in growing for axis in use.outputs) > 1)
    ]
    for use in uses:
        mixed = [axis for axis in use.inputs if axis in use.outputs and axis in growing]
        if mixed:
            raise ValueError(
                f"parametrize: one part of axis {mixed[0]} of {path} is summed over, and another"
                " numbers units; make separate parameters of its kernels, or tell its role by roles"
            )
        if any(axis in growing for axis in use.slices):
            raise ValueError(
                f"parametrize: axis {use.slices[0]} of {path} numbers separate kernels, and grows;"
                " if they are blocks, pass depth=(blocks of the base model, blocks of this one)"
            )
    found = {_role(use, growing): use for use in reversed(uses)}
    entering = found.get("embedding") or found.get("input")
    if entering is not None and "output" in found:
        return ReadRole(entering, "tied", "an input in one place, an output kernel in another")
    for role in REASONS:
        if role in found:
            return ReadRole(found[role], role, REASONS[role])
    return None


def _role(use: Use, growing: Collection[int]) -> Role:
    units = any(axis in growing for axis in (*use.outputs, *use.members))
    if use.factor:
        return "vector" if units or any(axis in growing for axis in use.inputs) else "scalar"
    if use.looked_up:
        return "embedding" if units else "scalar"
    if any(axis in growing for axis in use.inputs):
        return "hidden" if units else "output"
    return "input" if units else "scalar"


def how_read(use: Use) -> str:
    """What the program does with the axes of a kernel, in words."""
    if use.factor or not use.inputs:
        return "multiplies a kernel"
    axes = f"ax{'es' if len(use.inputs) > 1 else 'is'} {' and '.join(map(str, use.inputs))}"
    return f"looked up along {axes}" if use.looked_up else f"sums over {axes}"
