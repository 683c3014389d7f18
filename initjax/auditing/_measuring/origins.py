"""Where an operand of a nested equation comes from, if it is an argument of the program.

A weight is nearly always an argument of the whole program, perhaps reshaped or transposed on the
way. Then it is read from the argument: if the compiled program returned it, it would be copied.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from initjax.auditing._reading.expressions import Path, floating
from initjax.auditing._reading.primitives import inner_programs, primitive_of, scan_counts

_RESHAPES = frozenset("reshape squeeze expand_dims".split())


class _Transposition(NamedTuple):
    permutation: tuple[int, ...]


class Layout(NamedTuple):
    """How an operand is laid out from an argument."""

    turns: int
    """How many loops take a slice of it in every turn, along its leading axes."""
    views: tuple[tuple[int, ...] | _Transposition, ...]
    """One after another: a shape to reshape to, or a transposition; not counting those axes."""

    def of(self, argument: Any) -> Any:
        """The operand, with one leading axis of turns."""
        turns = math.prod(argument.shape[: self.turns])
        array = argument.reshape(turns, *argument.shape[self.turns :])
        for view in self.views:
            if isinstance(view, _Transposition):
                xp = array.__array_namespace__()
                array = xp.permute_dims(array, (0, *(1 + axis for axis in view.permutation)))
            else:
                array = array.reshape(turns, *view)
        return array


class Origin(NamedTuple):
    """An argument of a program that an operand comes from."""

    argument: int
    """Its index among the constants and inputs."""
    layout: Layout


def origin(jaxpr: Any, path: Path, operand: int) -> Origin | None:
    """Finds where an operand comes from.

    Args:
      jaxpr: the program.
      path: of the equation.
      operand: which of the equation's operands.

    Returns:
      The origin; None if it is computed, or carried by a loop.
    """
    from jax.extend.core import Literal

    programs, calls = [jaxpr], []
    for index, number in zip(path[:-1:2], path[1::2], strict=True):
        eqn = programs[-1].eqns[index]
        inner = inner_programs(eqn)[number]
        programs.append(inner.jaxpr)
        calls.append((eqn, number))
    var, views, turns = programs[-1].eqns[path[-1]].invars[operand], [], 0
    while True:
        program, before = programs.pop(), len(views)
        var = _before_views(program, var, views)
        if var is None or isinstance(var, Literal):
            return None
        if turns and len(views) > before:  # laid out with the axes of turns among others
            return None
        if not calls:
            arguments = [*program.constvars, *program.invars]
            return Origin(arguments.index(var), Layout(turns, tuple(reversed(views))))
        eqn, number = calls.pop()
        outer = _outer(eqn, number, program.invars.index(var)) if var in program.invars else None
        if outer is None:
            return None
        sliced, position = outer
        turns += sliced
        var = eqn.invars[position]


def _before_views(program: Any, var: Any, views: list[Any]) -> Any:
    """The variable that a variable is a view of, itself at least; None if it was computed."""
    made = {id(out): eqn for eqn in program.eqns for out in eqn.outvars}
    while id(var) in made:
        eqn = made[id(var)]
        name = eqn.primitive.name
        if name in _RESHAPES:
            views.append(tuple(map(int, var.aval.shape)))
        elif name == "transpose":
            views.append(_Transposition(tuple(map(int, eqn.params["permutation"]))))
        elif name == "convert_element_type":
            before, after = eqn.invars[0].aval.dtype, var.aval.dtype
            if not (floating(before) and floating(after) and before.itemsize <= after.itemsize):
                return None
            if before.itemsize == after.itemsize and before != after:
                return None
        elif primitive_of(eqn).kind != "same":
            return None
        # One that returns its operands may have several.
        var = eqn.invars[next(n for n, out in enumerate(eqn.outvars) if out is var)]
    return var


def _outer(eqn: Any, number: int, index: int) -> tuple[bool, int] | None:
    """Which operand of an equation is an input of a program nested in it, and whether the program
    gets a slice of it; None for what a loop carries."""
    name = eqn.primitive.name
    if name == "scan":
        constants, carry = scan_counts(eqn.params)
        if index < constants:
            return False, index
        return None if index < constants + carry else (True, index)
    if name == "while":
        tests, constants = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        start = 0 if number == 0 else tests
        count = tests if number == 0 else constants
        return (False, start + index) if index < count else None
    return False, index + (name == "cond")
