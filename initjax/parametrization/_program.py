"""What a model's own program says of its parameters: along which axes each kernel is summed over.

The audit's reading finds the products, convolutions and lookups that parameters enter, and
`_origins.py` where the axes of their operands come from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from initjax.auditing._reading.attention import Found, attentions
from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.inlined import Node, inlined
from initjax.auditing._reading.primitives import inner_programs, primitive_of
from initjax.auditing._reading.scores import content_of
from initjax.auditing._reading.sites import Site
from initjax.auditing._reading.trace import Traced, trace
from initjax.auditing._reading.values import factor_of
from initjax.parametrization._origins import Origin, Origins, entered, summed_axes


class Use(NamedTuple):
    """How a parameter enters one product, convolution or lookup."""

    looked_up: bool
    """Whether rows are taken out of it."""
    inputs: tuple[int, ...]
    """Its axes that are summed over, or along which it is looked up."""
    outputs: tuple[int, ...]
    """Those that number units."""
    members: tuple[int, ...]
    """Those that number parallel kernels, as under vmap."""
    slices: tuple[int, ...]
    """Those that the kernel itself lacks: it is a slice along them, as in a scan."""
    factor: bool = False
    """Whether it only multiplies parts of a kernel, as the gain of weight normalization does."""

    @property
    def axes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Those of inputs and outputs, and those that number separate kernels."""
        return self.inputs, self.outputs, tuple(sorted((*self.slices, *self.members)))


class Heads(NamedTuple):
    """The heads of an attention."""

    size: int
    """How many products a score sums."""
    factor: float
    """What the program multiplies a score by, as far as it is a number there."""
    queries: tuple[str, ...]
    """The parameters behind the queries."""


class Program(NamedTuple):
    """What a program says of its parameters, by their paths."""

    uses: Mapping[str, Sequence[Use]]
    """Of those that enter products, in the order of execution."""
    undecided: Collection[str]
    """Those that enter something that can't be read, or nothing at all."""
    heads: tuple[Heads, ...]
    """Of its attentions, each kind once."""


def read_program(loss_fn: Callable, params: Any, batch: Any) -> Program:
    """Reads a program from shapes alone.

    Args:
      loss_fn: maps `(params, *batch)` to a number, or to a tuple that starts with one.
      params: a tree of arrays or shapes.
      batch: a tuple of the same.

    Raises:
      TypeError, ValueError: loss_fn can't be traced with these, or batch isn't a tuple.
    """
    if not callable(loss_fn):
        raise TypeError(f"parametrize: loss_fn must be a function of (params, *batch): {loss_fn!r}")
    if not isinstance(batch, tuple | list):
        raise TypeError(
            "parametrize: batch must be the tuple of loss_fn's other arguments, as in"
            f" batch=(x, y), got a {type(batch).__name__}"
        )

    def loss(params: Any, *batch: Any) -> Any:
        result = loss_fn(params, *batch)
        return result[0] if isinstance(result, tuple) else result

    return _program(trace("parametrize", loss, params, tuple(batch), has_aux=False))


def _program(traced: Traced) -> Program:
    from jax.extend import core

    names, anatomy = traced.names, traced.anatomy
    kernels = set(traced.inexact)
    graph = inlined(
        core.ClosedJaxpr(traced.jaxpr, traced.constants),
        len(names),
        [index for index in range(len(names)) if index not in kernels],
    )
    known: dict[Any, Origins] = {
        argument: {index: Origin(tuple(frozenset([axis]) for axis in range(len(argument.shape))))}
        for index, argument in enumerate(graph.arguments[: len(names)])
        if index in kernels
    }
    found = [each for each in attentions(graph, anatomy.sites) if each.site.head_size]
    scores = {path for each in found for path in _products(each)}
    undecided = (kernels - anatomy.leaves).union(*anatomy.unread.values())
    uses: dict[str, list[Use]] = {}
    for node in entered(graph, anatomy.sites, known):
        site = anatomy.sites.get(node.path)
        weight, sides = _sides(node, site, known)
        origins = known.get(node.operands[weight], {})
        entering = {source.leaf for source in site.sources} if site else {*origins}
        if node.path in scores:  # it is no layer, even if queries or keys are parameters
            undecided |= entering
            continue
        undecided |= entering - {*origins}
        if not _is_backward(traced.jaxpr, node.path):
            for leaf in entering & {*origins}:
                use = _use(leaf, origins, sides, len(traced.shapes[leaf].shape))
                use = use._replace(looked_up=site is not None and site.kind == "embedding")
                mine = uses.setdefault(names[leaf], [])
                mine += [use] if use not in mine else []
    heads = {
        Heads(each.site.head_size, _factor(each), _queries(each, anatomy.sites, names))
        for each in found
    }
    return Program(uses, {names[index] for index in undecided}, tuple(sorted(heads)))


def _products(found: Found) -> list[Path]:
    """The products that give the scores of an attention."""
    content = content_of(found.content, None, {})
    return [node.path for node, _ in content.products] if content else []


def _factor(found: Found) -> float:
    """The numbers that multiply scores, or the queries and keys that they are made of."""
    factor, values, products = found.factor, [found.content], _products(found)
    for value in values:
        node, number = value.node, None
        if node is not None and node.path in products:
            values += node.operands if node.name == "dot_general" else ()
            continue
        made = [operand for operand in node.operands if operand.data] if node is not None else []
        if node is not None and len(made) == 1:
            is_layout = primitive_of(node.eqn).kind == "layout"
            number = 1.0 if is_layout else factor_of(node, made[0])
        if number is not None:
            factor *= number
            values += made
    return factor


def _queries(found: Found, sites: Mapping[Path, Site], names: Sequence[str]) -> tuple[str, ...]:
    layers = [sites[path] for path in found.site.query_sites if path in sites]
    return tuple(sorted({names[source.leaf] for site in layers for source in site.sources}))


def _is_backward(jaxpr: Any, path: Path) -> bool:
    """Whether an equation belongs to a derivative in the program, which transposes kernels."""
    for index, number in zip(path[::2], (*path[1::2], None), strict=True):
        if "transpose(" in str(jaxpr.eqns[index].source_info.name_stack):
            return True
        if number is not None:
            jaxpr = inner_programs(jaxpr.eqns[index])[number].jaxpr
    return False


class _Sides(NamedTuple):
    """The axes of a weight."""

    inputs: Sequence[int]
    outputs: Sequence[int]
    members: Sequence[int] = ()
    window: Sequence[int] = ()


def _sides(node: Node, site: Site | None, known: Mapping[Any, Origins]) -> tuple[int, _Sides]:
    """Which operand of a product is the weight, and what its axes are."""
    if site is None:
        mine = [known.get(operand, {}) for operand in node.operands]
        weight = next(number for number in range(2) if summed_axes(node, number, mine))
        inputs = summed_axes(node, weight, mine)
        axes = range(len(node.operands[weight].shape))
        return weight, _Sides([*inputs], [axis for axis in axes if axis not in inputs])
    members, outputs = site.weight_units[: site.members], site.weight_units[site.members :]
    if node.name == "conv_general_dilated":
        _, inputs, *window = node.eqn.params["dimension_numbers"].rhs_spec
        return site.weight, _Sides([inputs], outputs, (), window)
    shape = node.operands[site.weight].shape
    if node.name != "dot_general":  # a lookup of slices, which are thin along some axes
        sizes = zip(shape, node.eqn.params["slice_sizes"], strict=True)
        thin = [axis for axis, (size, part) in enumerate(sizes) if part < size]
        outputs = [axis for axis in outputs if axis not in thin]
    inputs = [axis for axis in range(len(shape)) if axis not in (*members, *outputs)]
    return site.weight, _Sides(inputs, outputs, members)


def _use(leaf: int, origins: Origins, sides: _Sides, rank: int) -> Use:
    """How a parameter enters a product."""
    origin = origins[leaf]

    def along(axes: Sequence[int]) -> set[int]:
        return {before for axis in axes for before in origin.axes[axis]}

    def lacks(axes: Sequence[int], mine: set[int]) -> bool:
        others = [other.axes[axis] for axis in axes for other in origins.values()]
        return not mine and any(others)

    inputs, outputs, members, window = map(along, sides)
    inner = origin.summed - inputs - outputs
    # Of kernels that are multiplied with each other, each sums what the next one gives.
    if inner and not outputs:
        outputs = {*inner}
    elif inner and not inputs:
        inputs = {*inner}
    members -= inputs | outputs
    return Use(
        looked_up=False,
        inputs=tuple(sorted(inputs)),
        outputs=tuple(sorted(outputs)),
        members=tuple(sorted(members)),
        slices=tuple(sorted({*range(rank)} - inputs - outputs - members - window)),
        factor=lacks(sides.inputs, inputs) or lacks(sides.outputs, outputs),
    )
