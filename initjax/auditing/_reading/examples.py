"""Which axes of each value number the examples of the batch.

The batch has N examples if that is the size of the first axis of most arrays in it that have more
than one axis. From there the axes are followed through the program. What happens to the examples
in the loss is matched against patterns of faults; each asks for more than would come about by
chance or on purpose.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from initjax.auditing._reading.inlined import Graph, Node, Value, body
from initjax.auditing._reading.layout import regrouped
from initjax.auditing._reading.primitives import primitive_of, scan_counts
from initjax.auditing._reading.sequences import along_examples, weighs_within_examples

Axes = frozenset[int]
_NONE: Axes = frozenset()
_FEW = 8  # examples, which another axis may number by chance
_REDUCTIONS = frozenset("reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or".split())
_MANY = 1000  # terms of a loss; more come from sums of sums, which double at every step
_SORTS = frozenset("sort top_k approx_top_k".split())


class Examples(NamedTuple):
    """What is known about the examples of a batch."""

    examples: int
    """How many there are."""
    axes: dict[Value, Axes | None]
    """The axes of a value that number them; None if that is not known."""


class Coupling(NamedTuple):
    """Examples that enter each other's loss."""

    kind: Literal["softmax", "broadcast", "weights", "scan", "attention", "reshape", "cumulative"]
    """'softmax' over the examples, 'broadcast' of predictions against all targets, 'weights' that a
    softmax over the examples makes, a 'scan' or 'attention' along the examples, a 'reshape' that
    makes rows of parts of several examples, or a 'cumulative' sum over them."""
    examples: int
    prediction: tuple[int, ...]
    """The shape of the prediction, of the softmax, of the sequences, or before the reshape."""
    target: tuple[int, ...]
    """The shape of the target, or after the reshape; empty for others."""


class Ends(NamedTuple):
    """What the end of a program does with the examples."""

    coupling: Coupling | None
    summed: int
    """Over how many examples the loss is a sum that nothing divides; 0 if it is none."""


_NOTHING = Ends(None, 0)


def ends_of(graph: Graph, num_parameters: int) -> Ends:
    """Reads what a loss does with the examples of the batch.

    Args:
      graph: the program.
      num_parameters: how many of its first arguments are parameters.
    """
    found = _examples(graph, num_parameters)
    if found is None:
        return _NOTHING
    coupling = (
        _softmax_over_examples(graph, found)
        or _broadcast_in_the_loss(graph, found)
        or _sequence_over_examples(graph, found, num_parameters)
        or _reshaped_across_examples(graph, found)
        or _accumulated_over_examples(graph, found)
    )
    return Ends(coupling, _summed_over_examples(graph, found))


def _examples(graph: Graph, num_parameters: int) -> Examples | None:
    arrays = [value for value in graph.arguments[num_parameters:] if value.shape]
    wide = [value for value in arrays if len(value.shape) > 1] or arrays
    sizes = collections.Counter(value.shape[0] for value in wide if value.shape[0] > 1)
    if not sizes:
        return None
    ((count, _),) = sizes.most_common(1)  # others are keys and statistics
    if count < _FEW:
        return None
    axes: dict[Value, Axes | None] = {
        value: frozenset([0]) for value in arrays if value.shape[0] == count
    }
    _follow(graph, axes, count)
    return Examples(count, axes)


def _follow(graph: Graph, axes: dict[Value, Axes | None], count: int) -> None:
    for node in graph.nodes:
        given = [axes.get(operand, _NONE) for operand in node.operands]
        for value, found in zip(node.results, _after(node, given, count), strict=True):
            if found is None or found:
                axes[value] = found


# Where the axes go


def _after(node: Node, given: Sequence[Axes | None], count: int) -> list[Axes | None]:
    """The axes of examples of a node's results."""
    number = len(node.results)
    if node.name == "iota":
        axis = node.eqn.params["dimension"]
        rows = node.results[0].shape[axis] == count
        return [frozenset([axis]) if rows else _NONE]
    if node.name == "scan" and any(axes is None or axes for axes in given):
        return _after_scan(node, given, count)
    if not any(axes is None or axes for axes in given):
        return [_NONE] * number
    if any(axes is None for axes in given):
        return [None] * number
    known = [axes for axes in given if axes is not None]
    kind = primitive_of(node.eqn).kind
    if kind == "elementwise" or node.name in _SORTS or node.name in ("pad", "concatenate"):
        return [_aligned(node, known)] * number
    if kind == "reduction":
        return [_reduced(node, known[0])] * number
    if node.name in ("dot_general", "conv_general_dilated", "gather"):
        rule = {"dot_general": _product, "gather": _gathered}.get(node.name, _convolved)
        return [rule(node, known)]
    if kind == "layout":
        return [_moved(node, known, count)] * number
    if node.name.startswith("reduce_window"):
        return [_aligned(node, known)] * number
    return [None] * number


def _aligned(node: Node, known: Sequence[Axes]) -> Axes | None:
    """Of a result whose axes are those of its operands, as long as they keep their sizes."""
    shape, found = node.results[0].shape, _NONE
    for operand, axes in zip(node.operands, known, strict=True):
        if any(axis >= len(shape) or operand.shape[axis] != shape[axis] for axis in axes):
            return None
        found |= axes
    return found


def _reduced(node: Node, axes: Axes) -> Axes:
    gone = (
        node.eqn.params.get("axes", ())
        if len(node.results[0].shape) < len(node.operands[0].shape)
        else ()
    )
    return frozenset(axis - sum(other < axis for other in gone) for axis in axes - set(gone))


def _product(node: Node, known: Sequence[Axes]) -> Axes:
    contracting, batch = node.eqn.params["dimension_numbers"]
    found, start = set(), len(batch[0])
    for side, axes in enumerate(known):
        taken = (*contracting[side], *batch[side])
        free = [axis for axis in range(len(node.operands[side].shape)) if axis not in taken]
        found |= {start + place for place, axis in enumerate(free) if axis in axes}
        found |= {place for place, axis in enumerate(batch[side]) if axis in axes}
        start += len(free)
    return frozenset(found)


def _convolved(node: Node, known: Sequence[Axes]) -> Axes | None:
    numbers, (image, kernel) = node.eqn.params["dimension_numbers"], known
    if kernel or image != {numbers.lhs_spec[0]}:
        return None
    return frozenset([numbers.out_spec[0]])


def _gathered(node: Node, known: Sequence[Axes]) -> Axes | None:
    numbers, (table, indices) = node.eqn.params["dimension_numbers"], known
    shape, rows = node.operands[0].shape, len(node.operands[1].shape) - 1
    if rows in indices:
        return None
    taken = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = [axis for axis in range(len(shape)) if axis not in taken]
    rest = [axis for axis in range(len(node.results[0].shape)) if axis not in numbers.offset_dims]
    found = {rest[axis] for axis in indices}
    for axis in table:
        if axis in kept and node.eqn.params["slice_sizes"][axis] == shape[axis]:
            found.add(numbers.offset_dims[kept.index(axis)])
        elif axis in kept or not indices:
            return None
    return frozenset(found)


def _moved(node: Node, known: Sequence[Axes], count: int) -> Axes | None:
    axes, others = known[0], known[1:]
    before, after = node.operands[0].shape, node.results[0].shape
    if any(others):
        return None
    if node.name in ("reshape", "squeeze", "expand_dims"):
        return _reshaped(before, after, axes, count)
    moved = primitive_of(node.eqn).move_axes(node.eqn, tuple(axes))
    if moved is None or sorted(after[axis] for axis in moved) != sorted(
        before[axis] for axis in axes
    ):
        return None
    return frozenset(moved)


def _reshaped(
    before: tuple[int, ...], after: tuple[int, ...], axes: Axes, count: int
) -> Axes | None:
    """Examples stay together if their axis comes first in what it is merged with."""
    found: set[int] = set()
    for olds, news in regrouped(before, after) or [([*range(len(before))], [])]:
        olds, news = ([o for o in olds if before[o] != 1], [n for n in news if after[n] != 1])
        mine = [axis for axis in olds if axis in axes]
        if not mine:
            continue
        if mine != olds[:1] or not news:
            return None
        whole = [axis for axis in news[:1] if after[axis] == count]
        found |= set(whole or news[: 1 if len(olds) > 1 else len(news)])
    return frozenset(found)


def _after_scan(node: Node, given: Sequence[Axes | None], count: int) -> list[Axes | None]:
    """Of a loop that hands the examples on from turn to turn."""
    constants, carried = scan_counts(node.eqn.params)
    unknown: list[Axes | None] = [None] * len(node.results)
    if any(axes is None or 0 in axes for axes in given[constants + carried :]):
        return unknown
    start = [None if axes is None else axes for axes in given]
    start[constants + carried :] = [
        frozenset(axis - 1 for axis in axes or ()) for axes in given[constants + carried :]
    ]
    inner = body(node)
    for _ in range(2):
        axes = dict(zip(inner.arguments, start, strict=True))
        _follow(inner, axes, count)
        after = [axes.get(value, _NONE) for value in inner.results]
        before = start[constants : constants + carried]
        if after[:carried] == before:
            break
        start[constants : constants + carried] = after[:carried]
    else:
        return unknown
    stacked = [
        None if axes is None else frozenset(axis + 1 for axis in axes) for axes in after[carried:]
    ]
    return [*after[:carried], *stacked]


# Patterns of faults


def _softmax_over_examples(graph: Graph, found: Examples) -> Coupling | None:
    """The outputs of a layer, normalized over the examples for each class, as the loss reads them.

    Other softmaxes over examples are meant: of a product of embeddings (contrastive losses), of one
    score for each example (ranking, weighting, pooling), or what is averaged by it afterwards.
    """
    for node in graph.nodes:
        if node.name != "reduce_sum":
            continue
        value = node.operands[0]
        axes = found.axes.get(value)
        if axes is None or len(axes) != 1:
            continue
        (axis,), reduced = axes, set(node.eqn.params["axes"])
        classes = math.prod(value.shape) // value.shape[axis]
        if axis not in reduced or value.shape[axis] != found.examples or classes < 2:
            continue
        if any(value.shape[other] > 1 for other in reduced - {axis}) or not value.parametric:
            continue
        power = _maker(value, ("exp", "exp2"))
        if power is None or not _of_a_layer(power.operands[0], found):
            continue
        normalized = _normalized(node, value, power.operands[0])
        if normalized is None:
            continue
        if _goes_elementwise_to(normalized, graph.results[0]):
            return Coupling("softmax", found.examples, value.shape, ())
        if weighs_within_examples(normalized, axis):
            return Coupling("weights", found.examples, value.shape, ())
    return None


def _sequence_over_examples(graph: Graph, found: Examples, num_parameters: int) -> Coupling | None:
    batch = graph.arguments[num_parameters:]
    along = along_examples(graph, batch, found.axes, found.examples)
    return None if along is None else Coupling(along[0], found.examples, along[1], ())


def _reshaped_across_examples(graph: Graph, found: Examples) -> Coupling | None:
    """A reshape of what has the examples along a later axis, to as many rows as there are examples:
    where a transposition was meant."""
    reaching = _reaching(graph)
    for node in graph.nodes:
        if node.name != "reshape" or node.results[0] not in reaching:
            continue
        axes, before, after = found.axes.get(node.operands[0]), *_shapes(node)
        if axes is None or len(axes) != 1 or not node.operands[0].data:
            continue
        for olds, news in regrouped(before, after) or [([*range(len(before))], [])]:
            olds, news = ([o for o in olds if before[o] != 1], [n for n in news if after[n] != 1])
            mine = [axis for axis in olds if axis in axes]
            rows = bool(news) and news[0] == 0 and after[0] == found.examples
            if mine and mine != olds[:1] and rows and before[olds[0]] != found.examples:
                return Coupling("reshape", found.examples, before, after)
    return None


def _shapes(node: Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return node.operands[0].shape, node.results[0].shape


def _reaching(graph: Graph) -> set[Value]:
    """The values that the result depends on."""
    seen, waiting = set(graph.results), list(graph.results)
    while waiting:
        node = waiting.pop().node
        fresh = [operand for operand in node.operands if operand not in seen] if node else []
        seen.update(fresh)
        waiting += fresh
    return seen


def _accumulated_over_examples(graph: Graph, found: Examples) -> Coupling | None:
    """Outputs for several classes that are summed up from example to example.

    A sum of one number for each example may be meant, as in the likelihood of a survival time.
    """
    for node in graph.nodes:
        if node.name not in ("cumsum", "cumlogsumexp", "cumprod", "cummax"):
            continue
        value = node.operands[0]
        along = {node.eqn.params["axis"]} == found.axes.get(value)
        several = value.aval.size > 2 * found.examples and len(value.shape) == 2
        if not (along and several and value.parametric and _of_a_layer(value, found)):
            continue
        if _goes_to_a_cross_entropy(node.results[0], graph.results[0]):
            return Coupling("cumulative", found.examples, value.shape, ())
    return None


def _goes_to_a_cross_entropy(value: Value, loss: Value) -> bool:
    """Whether a value enters the loss without another layer, and a softmax over its columns."""
    reached, seen, waiting, softmax = False, {value}, [value], False
    while waiting:
        value = waiting.pop()
        reached |= value is loss
        for node, _ in value.users:
            softmax |= node.name == "exp" and len(node.results[0].shape) == 2
            if primitive_of(node.eqn).kind not in ("elementwise", "layout", "reduction", "other"):
                return False
            fresh = [result for result in node.results if result not in seen]
            seen.update(fresh)
            waiting += fresh
    return reached and softmax


def _maker(value: Value, names: Sequence[str]) -> Node | None:
    """The node of one of these names that makes a value, up to its layout and type."""
    while value.node is not None:
        node = value.node
        if node.name in names:
            return node
        if primitive_of(node.eqn).kind != "layout" and node.name != "convert_element_type":
            return None
        value = node.operands[0]
    return None


def _of_a_layer(value: Value, found: Examples) -> bool:
    """Whether a value is an elementwise function of a product of parameters with data."""
    while value.node is not None:
        node = value.node
        if primitive_of(node.eqn).kind == "product":
            return sum(operand.data for operand in node.operands) == 1
        if primitive_of(node.eqn).kind not in ("elementwise", "layout"):
            return False
        inner = [o for o in node.operands if found.axes.get(o) and o.parametric]
        if len(inner) != 1:
            return False
        value = inner[0]
    return False


def _normalized(node: Node, powers: Value, logits: Value) -> Value | None:
    """The softmax or its logarithm, given the node that sums the exponentials."""
    value = node.results[0]
    for _ in range(8):
        steps = [user for user, _ in value.users if user.results]
        for user in steps:
            if user.name == "div" and user.operands[0] is powers:
                return user.results[0]
            if user.name == "sub" and user.operands[1] is value and user.operands[0].data:
                first = user.operands[0]
                if first is logits or _shares(first, logits):
                    return user.results[0]
        passing = [u for u in steps if u.name in _TO_NORMALIZE]
        if len(passing) != 1:
            return None
        value = passing[0].results[0]
    return None


_TO_NORMALIZE = frozenset(
    "log add broadcast_in_dim reshape squeeze expand_dims convert_element_type".split()
)


def _shares(value: Value, logits: Value) -> bool:
    """Whether logits are a value minus its maximum."""
    node = logits.node
    return node is not None and node.name == "sub" and node.operands[0] is value


def _goes_elementwise_to(value: Value, loss: Value) -> bool:
    """Whether all that becomes of a value are elementwise steps, picks and sums, up to the loss."""
    reached, seen, waiting = False, {value}, [value]
    while waiting:
        value = waiting.pop()
        reached |= value is loss
        for node, _ in value.users:
            kind = primitive_of(node.eqn).kind
            passes = kind in ("elementwise", "layout") or node.name in ("reduce_sum", "gather")
            inside = sum(operand in seen for operand in node.operands)
            if not passes or node.name == "stop_gradient" or (node.name == "div" and inside > 1):
                return False
            fresh = [result for result in node.results if result not in seen]
            seen.update(fresh)
            waiting += fresh
    return reached


def _broadcast_in_the_loss(graph: Graph, found: Examples) -> Coupling | None:
    """Predictions of shape (N, 1) that meet targets of shape (N,), or the other way round.

    Pairs are meant where both are of one kind (distances, ranks), where they are made by products,
    or where kernels or extremes of them are taken.
    """
    made = [node for node in graph.nodes if _makes_pairs(node, found)]
    if not made:
        return None
    for node in made:
        sides = [operand for operand in node.operands if found.axes.get(operand)]
        roots = [_before_broadcast(side) for side in sides]
        if len(roots) != 2:
            return None
        predictions = [root for root in roots if root.parametric]
        targets = [root for root in roots if not root.parametric and root.data]
        if len(predictions) != 1 or len(targets) != 1:
            return None
        shapes = sorted((root.shape for root in roots), key=len)
        if shapes != [(found.examples,), (found.examples, 1)]:
            return None
        if any(_axis_was_added(root) for root in roots):
            return None
    reaching = [
        node for node in made if _goes_elementwise_to(node.results[0], graph.results[0])
    ]  # others are in what gets no gradient, as advantages are
    if not reaching or any(_bends(node.results[0]) for node in made):
        return None
    roots = [_before_broadcast(side) for side in reaching[0].operands]
    prediction, target = sorted(
        (root for root in roots if root.data), key=lambda root: not root.parametric
    )
    return Coupling("broadcast", found.examples, prediction.shape, target.shape)


def _makes_pairs(node: Node, found: Examples) -> bool:
    """Whether the elements of a result number pairs of examples, and those of no operand do."""
    if not node.results or len(node.results[0].shape) != 2:
        return False
    axes = found.axes.get(node.results[0])
    pairs = axes is not None and len(axes) == 2 and node.results[0].shape == (found.examples,) * 2
    return pairs and not any(len(found.axes.get(o) or ()) == 2 for o in node.operands)


def _before_broadcast(value: Value) -> Value:
    while value.node is not None and value.node.name == "broadcast_in_dim":
        value = value.node.operands[0]
    return value


def _axis_was_added(value: Value) -> bool:
    """Whether an (N, 1) was made from an (N,), as `[:, None]` does."""
    while value.node is not None and len(value.shape) == 2:
        node = value.node
        if primitive_of(node.eqn).kind not in ("elementwise", "layout"):
            return False
        data = [operand for operand in node.operands if operand.data]
        if not data:
            return False
        if len(data[0].shape) == 1:
            return True
        value = data[0]
    return False


def _bends(value: Value) -> bool:
    """Whether an exponential of pairs is taken, as in a kernel."""
    seen, waiting = {value}, [value]
    while waiting:
        for node, _ in waiting.pop().users:
            if node.name in ("exp", "exp2") and node.results[0].shape == value.shape:
                return True
            fresh = [result for result in node.results if result not in seen]
            seen.update(fresh)
            waiting += fresh
    return False


def _summed_over_examples(graph: Graph, found: Examples) -> int:
    """Over how many examples the loss is a plain sum; 0 if it is averaged, or that isn't known.

    A term of parameters alone, as a prior has, says that the sum is meant; so do terms of different
    sizes, such as reconstruction and divergence of a bound.
    """
    if any(len(axes or ()) > 1 for axes in found.axes.values()):
        return 0  # examples meet each other
    terms, summed = [(graph.results[0], 1.0)], []
    while terms:
        if len(summed) > _MANY:
            return 0
        value, factor = terms.pop()
        if not value.data:
            if value.parametric:
                return 0
            continue
        if value.node is None:
            return 0
        node = value.node
        scaled = _scaled(node)
        if scaled is not None:
            terms.append((scaled[0], factor * scaled[1]))
        elif node.name in ("add", "add_any", "sub"):
            terms += [(operand, factor) for operand in node.operands]
        elif node.name == "reduce_sum":
            inner = node.operands[0]
            axes = found.axes.get(inner)
            if axes is None:
                return 0
            if axes & set(node.eqn.params["axes"]):
                factor, inner = _factor_inside(inner, factor)
                summed.append((factor, inner))
            else:
                terms.append((inner, factor))
        else:
            return 0
    if not summed or any(_averaged(factor, found.examples) for factor, _ in summed):
        return 0
    terms_of_layers = [value for _, value in summed if value.parametric]
    if len({value.aval.size for value in terms_of_layers}) > 1:
        return 0
    plain = _of_single_examples(terms_of_layers, found)
    return found.examples if terms_of_layers and plain else 0


def _of_single_examples(values: Sequence[Value], found: Examples) -> bool:
    """Whether no statistic of the batch enters values behind their last products."""
    seen, waiting = set(values), list(values)
    while waiting:
        value = waiting.pop()
        if value.data and not found.axes.get(value):
            return False
        node = value.node
        if node is None or primitive_of(node.eqn).kind in ("product", "scan"):
            continue
        fresh = [operand for operand in node.operands if operand not in seen]
        seen.update(fresh)
        waiting += fresh
    return True


def _scaled(node: Node) -> tuple[Value, float] | None:
    """What a node multiplies by a number, and the number."""
    if node.name in ("convert_element_type", "reshape", "squeeze", "broadcast_in_dim"):
        return node.operands[0], 1.0
    if node.name == "neg":
        return node.operands[0], 1.0
    if node.name not in ("mul", "div"):
        return None
    left, right = node.operands
    if right.number is not None and float(right.number):
        number = float(right.number)
        return left, 1 / number if node.name == "div" else number
    if left.number is not None and node.name == "mul":
        return right, float(left.number)
    return None


def _factor_inside(value: Value, factor: float) -> tuple[float, Value]:
    """The factor of a sum, with numbers that multiply every term before it."""
    while value.node is not None and (scaled := _scaled(value.node)) is not None:
        value, factor = scaled[0], factor * scaled[1]
        if value.node is not None and value.node.name == "reduce_sum":
            value = value.node.operands[0]
    return factor, value


def _averaged(factor: float, count: int) -> bool:
    """Whether a sum is divided by the number of examples or more."""
    factor = abs(factor)
    if factor == 0 or factor * count < 2:
        return True
    multiple = 1 / (factor * count)
    return abs(multiple - round(multiple)) < 1e-4 and round(multiple) > 0
