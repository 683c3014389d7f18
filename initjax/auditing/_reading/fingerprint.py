"""What makes two programs the same, so that what was compiled for one serves the other."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from initjax.auditing._reading.expressions import number


def fingerprint(jaxpr: Any, constants: Sequence[Any]) -> Hashable:
    """A value that is equal for two jaxprs of the same equations.

    Arrays that the program closes over count by their types alone: they are arguments. Only those
    of one element count by their values, since the reading takes them for numbers. Rules of
    differentiation, which are Python functions, don't count: they do in a program of derivatives.

    Args:
      jaxpr: the program.
      constants: the arrays that it closes over.
    """
    numbers = [number(array) if np.size(array) == 1 else None for array in constants]
    values = tuple(None if value is None else value.tobytes() for value in numbers)
    return _of_jaxpr(jaxpr, {}), values


def compiled_fingerprint(closed: Any) -> Hashable:
    """The same for a program that is compiled with the arrays it closes over.

    They count by their identities, or by their values if they are NumPy's, which can change. It is
    valid as long as the arrays live.
    """
    return _of_value(closed, {})


def _of_jaxpr(jaxpr: Any, known: dict[int, Hashable]) -> Hashable:
    if id(jaxpr) not in known:
        numbers: dict[Any, int] = {}

        def name(var: Any) -> Hashable:
            if hasattr(var, "val"):
                return ("literal", str(var.aval), np.asarray(var.val).tobytes())
            return numbers.setdefault(var, len(numbers))

        inputs = tuple((name(var), str(var.aval)) for var in (*jaxpr.constvars, *jaxpr.invars))
        equations = tuple(
            (
                eqn.primitive.name,
                tuple(map(name, eqn.invars)),
                tuple((name(var), str(var.aval)) for var in eqn.outvars),
                tuple(
                    # A callback is run as it is, so only the same function will do.
                    (key, value if key == "callback" else _of_value(value, known))
                    for key, value in sorted(eqn.params.items())
                ),
            )
            for eqn in jaxpr.eqns
        )
        known[id(jaxpr)] = (inputs, equations, tuple(map(name, jaxpr.outvars)))
    return known[id(jaxpr)]


def _of_value(value: Any, known: dict[int, Hashable]) -> Hashable:
    if hasattr(value, "jaxpr"):
        # Constants of nested programs stay alive with the program that was compiled.
        return (_of_jaxpr(value.jaxpr, known), tuple(map(_of_constant, value.consts)))
    if hasattr(value, "eqns"):
        return _of_jaxpr(value, known)
    if isinstance(value, tuple | list):
        return tuple(_of_value(part, known) for part in value)
    if callable(value) or hasattr(value, "call_wrapped"):
        return type(value).__name__
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value


def _of_constant(array: Any) -> Hashable:
    if isinstance(array, np.ndarray | np.generic):
        return hashlib.sha256(array.tobytes()).digest()
    return id(array)
