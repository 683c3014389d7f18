"""Finds how the tokens of each attention are made from those of the attention before.

The nodes of a program are read once, in their order. What is understood becomes a step: sums,
norms, layers with an elementwise activation, products of two layers, and attention itself. Anything
else is a step of which nothing is known, where predictions restart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from initjax.auditing._reading.attention import Found
from initjax.auditing._reading.expressions import Expression, Path
from initjax.auditing._reading.inlined import Graph, Node, Value, body
from initjax.auditing._reading.primitives import primitive_of, scan_counts
from initjax.auditing._reading.sites import Blocks, Site, Step
from initjax.auditing._reading.values import all_axes, even


class _Known(NamedTuple):
    """What is known about a value."""

    step: int
    form: Literal["whole", "function", "statistic"] = "whole"
    """Whether it is the result of that step, some elementwise function of it, or a number for each
    token made from it."""
    factor: float = 1.0
    """What multiplies the whole."""


class Tokens(NamedTuple):
    """How the tokens of attentions are made."""

    blocks: tuple[Blocks, ...]
    streams: dict[Path, Value]
    """By attention: what its tokens are the normalized values of, if they are normalized."""


def tokens_of(graph: Graph, sites: Mapping[Path, Site], found: Sequence[Found]) -> Tokens:
    """Finds how the tokens of attentions are made.

    Args:
      graph: the program.
      sites: its layers.
      found: its attentions.
    """
    blocks, streams = [], {}
    for inner, loop in _programs(graph, found):
        reader = _Reader(sites, found)
        for node in inner.nodes:
            reader.read(node)
        carried: list[tuple[int, int]] = []
        if loop is not None:
            constants, count = scan_counts(loop.eqn.params)
            arguments = inner.arguments[constants : constants + count]
            for before, after in zip(arguments, inner.results, strict=False):
                if before in reader.known and after in reader.known:
                    carried.append((reader.known[before].step, reader.whole(after)))
        if reader.tokens:
            steps = tuple(reader.steps)
            blocks.append(Blocks(steps, tuple(reader.tokens), tuple(carried)))
            streams |= reader.streams
    return Tokens(tuple(blocks), streams)


def _programs(graph: Graph, found: Sequence[Found]) -> Iterator[tuple[Graph, Node | None]]:
    """The program, if it has two attentions, and the bodies of scans that have one."""
    if sum(not each.site.loops for each in found) > 1:
        yield graph, None
    scans = {each.site.loops[0][0] for each in found if len(each.site.loops) == 1}
    for node in graph.nodes:
        if node.name == "scan" and node.path in scans and not node.eqn.params["reverse"]:
            yield body(node), node


class _Reader:
    """The steps of a program, while it is read."""

    def __init__(self, sites: Mapping[Path, Site], found: Sequence[Found]) -> None:
        self.sites = sites
        self.results = {each.result.value: each for each in found}
        self.steps: list[Step] = []
        self.terms: list[frozenset[int]] = []
        """Of each step: the steps that it is a sum of."""
        self.known: dict[Value, _Known] = {}
        self.used: set[Value] = set()
        self.tokens: list[tuple[Path, int]] = []
        self.streams: dict[Path, Value] = {}
        self.made: dict[int, Value] = {}

    def whole(self, value: Value) -> int:
        """The step that makes a value: a new one, if nothing is known about it."""
        known = self.known.get(value)
        if known is None or known.form != "whole":
            return self.step(value, Step("unknown"))
        if known.factor != 1:
            return self.step(value, Step("scale", (known.step,), number=known.factor))
        return known.step

    def step(self, value: Value, step: Step) -> int:
        number = self._add(step)
        self.known[value] = _Known(number)
        self.made[number] = value
        return number

    def _add(self, step: Step) -> int:
        number = len(self.steps)
        terms = frozenset([number])
        if step.kind in ("sum", "scale", "norm"):
            before = [self.terms[each] for each in step.inputs]
            terms = frozenset[int]().union(*before)
            if len(terms) < sum(map(len, before)):  # theory is for terms that are independent
                step, terms = Step("unknown"), frozenset([number])
        self.steps.append(step)
        self.terms.append(terms)
        return number

    def read(self, node: Node) -> None:
        data = [operand for operand in node.operands if operand.data]
        if not data or not node.results:
            return
        self.used.update(node.operands)
        (result, *_), row = node.results, primitive_of(node.eqn)
        found = self.results.get(result)
        if found is not None:
            self._attention(found, result)
        elif node.path in self.sites:
            self._layer(node, result)
        elif row.kind == "layout" or row.linear:
            if data[0] is node.operands[0] and not self._turned(node):
                known = self._of(data[0])
                self.known.update((each, known) for each in node.results)
        elif row.kind == "reduction":
            if tuple(node.eqn.params.get("axes", ())) == (len(data[0].shape) - 1,):
                self.known[result] = _Known(self._of(data[0]).step, "statistic")
        elif row.kind == "elementwise" and result.shape:
            self._elementwise(node, row.arithmetic, data, result)

    def _turned(self, node: Node) -> bool:
        """Whether the numbers of a token are no longer along the last axis."""
        order = node.eqn.params.get("permutation", (0,))
        known = self.known.get(node.operands[0])
        made = "" if known is None else self.steps[known.step].kind
        return order[-1] != len(order) - 1 and made not in ("attention", "layer")

    def _of(self, value: Value) -> _Known:
        return self.known[value] if value in self.known else _Known(self.whole(value))

    def _elementwise(self, node: Node, operation: str, data: list[Value], result: Value) -> None:
        known = [self._of(value) for value in data]
        if len(known) == 1 and len(node.operands) == 2:
            other = next(operand for operand in node.operands if not operand.data)
            if operation and known[0].form == "whole":
                self._with_parameter(node, operation, known[0], other, result)
                return
        steps = {each.step for each in known}
        forms = [each.form for each in known]
        if len(steps) == 1:
            if "whole" in forms and "statistic" in forms and operation:
                if operation in ("sum", "difference"):
                    self.known[result] = known[0]._replace(form="whole")
                else:
                    self.step(result, Step("norm", (known[0].step,)))
            else:
                form = "statistic" if set(forms) == {"statistic"} else "function"
                self.known[result] = _Known(known[0].step, form)
        elif operation in ("sum", "difference") and forms == ["whole", "whole"]:
            self.step(result, Step("sum", tuple(map(self.whole, data))))
        elif operation == "product" and "statistic" not in forms and len(known) == 2:
            self.step(result, Step("product", tuple(map(self._gated, data))))

    def _with_parameter(
        self, node: Node, operation: str, known: _Known, other: Value, result: Value
    ) -> None:
        """A sum or product with what does not depend on the batch."""
        step, number = self.steps[known.step], _number(other)
        site = self.sites.get(step.path)
        of_layer = step.kind == "layer" and site is not None and node.path <= site.output
        if of_layer or (step.kind == "norm" and even(other, all_axes(other)[:-1])):
            self.known[result] = known  # measured with the layer, or with the one that reads it
        elif number is not None and operation == "product":
            self.known[result] = known._replace(factor=known.factor * number)
        elif number and operation == "quotient" and node.operands[1] is other:
            self.known[result] = known._replace(factor=known.factor / number)
        elif number is not None:
            self.known[result] = known._replace(form="function") if number else known

    def _gated(self, value: Value) -> int:
        """The step of a gate, or of what it multiplies."""
        known = self.known[value]
        if known.form == "whole":
            return self.whole(value)
        site = self.sites.get(self.steps[known.step].path)
        return self._activated(known.step, None if site is None else site.gate)

    def _activated(self, step: int, activation: Expression | None) -> int:
        return self._add(Step("activated", (step,), activation=activation))

    def _layer(self, node: Node, result: Value) -> None:
        site = self.sites[node.path]
        value = node.operands[1 - site.weight]
        if site.kind != "dense" or len(value.shape) - 1 not in site.features:
            return
        known, signal = self._of(value), site.inputs[0].signal
        if known.form == "whole":
            number = self.whole(value)
        elif signal is not None and signal.site == self.steps[known.step].path:
            expression = signal.expression
            activation = expression if isinstance(expression, Expression) else None
            number = self._activated(known.step, activation)
        else:
            number = self.step(value, Step("unknown"))
        self.step(result, Step("layer", (number,), node.path))

    def _attention(self, found: Found, result: Value) -> None:
        if found.tokens is None:
            return
        tokens, values = found.tokens.value, found.values
        if not self.used.issuperset([tokens, values]):  # from outside of this program
            return
        read = self.whole(tokens)
        self.tokens.append((found.site.path, read))
        if self.steps[read].kind == "norm":
            self.streams[found.site.path] = self.made[self.steps[read].inputs[0]]
        self.step(result, Step("attention", (self.whole(values),), found.site.path))


def _number(value: Value) -> float | None:
    """The number that fills an array."""
    while value.node is not None and value.node.name in (
        "broadcast_in_dim",
        "convert_element_type",
    ):
        value = value.node.operands[0]
    number = value.number
    return None if number is None else float(number)
