"""A program as a graph of values: who makes each value, and who uses it.

Calls (`jit`, `remat`, functions with their own derivative) are inlined; a loop, a branch or any
other nested program is one node, and `body` gives the graph of what is inside. A pattern of
equations, such as a softmax or a loss, is matched by going from value to value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from initjax.auditing._reading.expressions import Path, number
from initjax.auditing._reading.primitives import inner_programs, primitive_of, scan_counts
from initjax.auditing._reading.watches import Place


@dataclasses.dataclass(eq=False, repr=False)  # a text would hold the whole program
class Value:
    """One value of a program. Equal only to itself."""

    aval: Any
    """Its shape and dtype."""
    node: Node | None = None
    """What makes it; None for an argument or a constant."""
    position: int = 0
    """Its place among the results of that node, or among the constants and arguments."""
    parametric: bool = False
    """Whether it depends on parameters."""
    data: bool = False
    """Whether it depends on the batch."""
    constant: Any = None
    """Its value, if the program knows it."""
    argument: bool = False
    """Whether it is an argument or a constant of the whole program."""
    users: list[tuple[Node, int]] = dataclasses.field(default_factory=list)
    """The nodes that it enters, and as which operand."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.aval.shape

    @property
    def number(self) -> np.generic | None:
        """The number that it is; None if it is no constant of one element."""
        if self.constant is None or np.size(self.constant) != 1:
            return None
        return number(self.constant)


@dataclasses.dataclass(eq=False, repr=False)
class Node:
    """An equation that calls no other program once, or the whole of a loop or a branch."""

    path: Path
    eqn: Any
    operands: tuple[Value, ...]
    results: tuple[Value, ...] = ()
    bodies: dict[int, Graph] = dataclasses.field(default_factory=dict)
    """The graphs of nested programs that `body` has made."""

    @property
    def name(self) -> str:
        """The name of its primitive."""
        return self.eqn.primitive.name


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A program with its calls inlined."""

    arguments: tuple[Value, ...]
    results: tuple[Value, ...]
    nodes: tuple[Node, ...]
    """In the order of execution."""


def inlined(jaxpr: Any, num_parameters: int, fixed: Collection[int] = ()) -> Graph:
    """Makes the graph of a whole program.

    Args:
      jaxpr: a closed jaxpr.
      num_parameters: how many of its first inputs are parameters; the others are data.
      fixed: the parameters that are data nevertheless.
    """
    first = len(jaxpr.jaxpr.constvars)
    arguments = [
        Value(
            var.aval,
            position=first + index,
            argument=True,
            parametric=index < num_parameters and index not in fixed,
            data=index >= num_parameters or index in fixed,
        )
        for index, var in enumerate(jaxpr.jaxpr.invars)
    ]
    return _graph(jaxpr, arguments, ())


def body(node: Node, which: int = 0) -> Graph:
    """The graph of a program nested in a loop or a branch, made once.

    Args:
      node: the loop or branch.
      which: the number of the program: of a branch, or 0 and 1 for test and body of a while loop.

    Returns:
      The graph. What a loop may carry counts as depending on what any operand of the node depends
      on; constants and slices of a scan depend on what the operand itself does.
    """
    if which not in node.bodies:
        node.bodies[which] = _body(node, which)
    return node.bodies[which]


def _body(node: Node, which: int) -> Graph:
    program = inner_programs(node.eqn)[which]
    counts = scan_counts(node.eqn.params) if node.name == "scan" else (0, len(node.operands))
    arguments = []
    for index, var in enumerate(program.jaxpr.invars):
        carried = 0 <= index - counts[0] < counts[1]
        makers = node.operands if carried else node.operands[index : index + 1]
        parametric = any(operand.parametric for operand in makers)
        data = any(operand.data for operand in makers)
        arguments.append(Value(var.aval, position=index, parametric=parametric, data=data))
    return _graph(program, arguments, (*node.path, which))


def reaching(graph: Graph) -> set[Value]:
    """The values that the results depend on."""
    seen, waiting = set(graph.results), list(graph.results)
    while waiting:
        node = waiting.pop().node
        fresh = [operand for operand in node.operands if operand not in seen] if node else []
        seen.update(fresh)
        waiting += fresh
    return seen


def place_of(value: Value) -> Place | None:
    """Where a pass finds a value; None if it can't, as with a number in the program."""
    if value.node is not None:
        return Place(value.node.path, value.position)
    if value.argument:
        return Place((), value.position)
    if value.constant is None and value.users:  # what a loop passes to its body
        node, operand = value.users[0]
        return Place(node.path, operand, True)
    return None


def _graph(program: Any, arguments: Sequence[Value], path: Path) -> Graph:
    nodes: list[Node] = []
    results = _inline(program, arguments, path, nodes)
    return Graph(tuple(arguments), tuple(results), tuple(nodes))


def _inline(program: Any, arguments: Sequence[Value], path: Path, nodes: list[Node]) -> list[Value]:
    """Adds the nodes of a closed jaxpr, and returns its results."""
    from jax.extend.core import Literal

    jaxpr = program.jaxpr
    known: dict[Any, Value] = dict(zip(jaxpr.invars, arguments, strict=True))
    for position, (var, constant) in enumerate(zip(jaxpr.constvars, program.consts, strict=True)):
        known[var] = Value(var.aval, position=position, constant=constant, argument=not path)

    def read(var: Any) -> Value:
        return Value(var.aval, constant=var.val) if isinstance(var, Literal) else known[var]

    for index, eqn in enumerate(jaxpr.eqns):
        operands, here, kind = list(map(read, eqn.invars)), (*path, index), primitive_of(eqn).kind
        if kind == "call":
            (inner,) = inner_programs(eqn)
            results = _inline(inner, operands, (*here, 0), nodes)
        elif kind == "same":
            results = operands
        else:
            node = Node(here, eqn, tuple(operands))
            node.results = tuple(
                Value(
                    var.aval,
                    node,
                    position,
                    parametric=any([operand.parametric for operand in operands]),
                    data=any([operand.data for operand in operands]),
                )
                for position, var in enumerate(eqn.outvars)
            )
            for position, operand in enumerate(operands):
                operand.users.append((node, position))
            nodes.append(node)
            results = node.results
        known.update(zip(eqn.outvars, results, strict=True))
    return list(map(read, jaxpr.outvars))
