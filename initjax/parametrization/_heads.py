"""The features of attention's heads, in a model and in its base model, from its program."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from initjax._flattening import classes, inside
from initjax.parametrization._counterparts import kind
from initjax.parametrization._leaves import Grown
from initjax.parametrization._program import Heads, Program, read_program


class HeadSizes(NamedTuple):
    """What a program shows of the sizes of heads."""

    growth: float
    """By which factor they have grown; 1 if that isn't known."""
    scaled: bool
    """Whether scores still have to be multiplied for it."""
    notes: tuple[str, ...]


def head_sizes(
    program: Program,
    told: tuple[int, int] | None,
    leaves: Sequence[Grown],
    loss_fn: Callable[..., Any],
    base_params: Any,
    batch: tuple[Any, ...],
) -> HeadSizes:
    """The growth of heads: what is told, or else what can be read.

    Args:
      program: the model's.
      told: the sizes in the base model and in this one; None if they aren't told.
      leaves: the parameters of the model.
      loss_fn, base_params, batch: the base model.
    """
    sizes = sorted({each.size for each in program.heads})
    if not sizes:
        return HeadSizes(1.0 if told is None else told[1] / told[0], True, ())
    here = " or ".join(map(str, sizes))
    where = ", ".join(dict.fromkeys(kind(path) for each in program.heads for path in each.queries))
    notes = []
    if told is not None:
        growth = told[1] / told[0]
        if told[1] not in sizes:
            notes.append(
                f"head_size says {told[1]}, but a score of the program sums {here} products."
            )
    else:
        base = _base_sizes(program, leaves, loss_fn, base_params, batch)
        found = {each.size / base[each] for each in program.heads if each in base}
        if len(found) != 1:
            return HeadSizes(
                1.0,
                True,
                (
                    f"Attention's heads have {here} features here, and those of the base model"
                    f" can't be told: pass head_size=(base, {sizes[-1]}).",
                ),
            )
        (growth,) = found
        bases = " or ".join(map(str, sorted(set(base.values()))))
        notes.append(
            f"Attention's heads have {here} features, {bases} in the base model (read from the"
            " program)."
        )
    scaled = not all(
        each.size > 1 and math.isclose(each.factor, 1 / each.size, rel_tol=1e-3)
        for each in program.heads
    )
    if not scaled:
        notes.append("The program divides scores by the size of a head: they need nothing else.")
    elif growth != 1 and where:
        notes.append(f"The scores to be multiplied are those of the queries of {where}.")
    return HeadSizes(growth, scaled, tuple(notes))


def _base_sizes(
    program: Program,
    leaves: Sequence[Grown],
    loss_fn: Callable[..., Any],
    base_params: Any,
    batch: tuple[Any, ...],
) -> Mapping[Heads, int]:
    """The sizes of heads in the base model, as far as they are known."""
    if any(inside(base_params, classes(("equinox", "Module"), ("flax.nnx", "Module")))):
        # A module knows how many heads it has. A function may know it of the wide model alone.
        try:
            base = read_program(loss_fn, base_params, batch)
        except Exception:  # whatever it raises for arrays of another shape
            return {}
        others = {each.queries: each.size for each in base.heads}
        return {each: others[each.queries] for each in program.heads if each.queries in others}
    found = {}
    known = {leaf.path: leaf for leaf in leaves}
    for each in program.heads:
        for leaf in (known[path] for path in each.queries if path in known):
            # Kernels (in, heads, features)
            last = leaf.axes.outputs[-1] if leaf.axes and len(leaf.axes.outputs) > 1 else None
            if last is not None and leaf.shape[last] == each.size:
                found[each] = leaf.base_shape[last]
    return found
