"""The compiled program of a coordinate check: one step of training, measured against the start.

The loss is rerun with hooks that read operands and results and change nothing. A layer's own change
is its own equation, bound once more with the difference of its weights: everything else, such as
the stride of a convolution or the layout of heads, is as the user wrote it.

All seeds and steps of a width are calls of one compiled program. A loop inside of it would compile
no faster, and XLA runs convolutions in loops on one thread of a CPU.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from initjax._flattening import flatten
from initjax._statistics import trainable_leaves
from initjax.auditing._measuring.explicit_sharding import as_taken, automatic
from initjax.auditing._measuring.optimizers import update
from initjax.auditing._measuring.rerun import bind, rerun
from initjax.auditing._measuring.taps import zeros_by_turn
from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.primitives import program_at
from initjax.auditing._reading.sites import AttentionSite, Loops, Site
from initjax.auditing._reading.trace import Traced, without_constants

Key = tuple[str, Path]
"""'product' or 'output' with a layer, or 'scores' with an attention."""


class Step(NamedTuple):
    """What was measured before an update. All but the loss are root mean squares."""

    loss: float
    measured: dict[Path, dict[str, float]]
    """Of a layer: 'size' of its pre-activations and their 'change' since the start; its 'weight';
    its 'product' without a bias; the part of the product's change that is its 'own' weights', and
    what that would be if their change were 'aligned' with the 'input'; the part that its first
    weights 'passed' on of the 'input_change'. Of an attention: 'size' and 'change' of its scores,
    masks left out."""
    leaves: dict[int, dict[str, float]]
    """Of a parameter that is no layer's weight, its 'change', and its 'gradient' relative to the
    largest of all parameters."""


class Program(NamedTuple):
    """A traced loss and its optimizer, ready to train."""

    traced: Traced
    sites: dict[Path, Site]
    """The layers that are measured, in the order of execution."""
    attentions: tuple[AttentionSite, ...]
    """Those whose scores are measured."""
    others: tuple[int, ...]
    """The parameters that are trained and are no layer's weights."""
    train: Callable[[Any, Any, list[Any], int], Iterator[Step]]
    """Maps parameters, the batch, the constants of the program and a number of updates to what is
    measured before each of them and after the last. Compiled at its first call."""
    is_linear: Callable[[Any], bool]
    """Whether the optimizer's updates of such parameters are proportional to the gradient."""


class _Reader(NamedTuple):
    """What is read at an equation."""

    arrays: Callable[[list[Any], list[Any]], dict[str, Any]]
    """Maps its operands and results to what is kept from the start."""
    statistics: Callable[[list[Any], list[Any], dict[str, Any]], dict[str, Any]]
    """Maps its operands, its results and what was kept to root mean squares."""
    loops: Loops


def program(traced: Traced, params: Any, optimizer: Any) -> Program:
    """Makes the program of a loss.

    Args:
      traced: the loss.
      params: a tree of parameters, of which only the structure matters.
      optimizer: an Optax transformation.
    """
    import jax
    import jax.numpy as jnp

    bare = without_constants(traced)
    # A while loop has no derivative, so nothing is trained there.
    sites = {
        path: site
        for path, site in traced.anatomy.sites.items()
        if all(length is not None for _, length in site.loops)
    }
    readers = _readers(traced, sites)
    hooks = {path: functools.partial(_read, found) for path, found in readers.items()}
    _, structure = flatten(params)
    trainable = trainable_leaves(structure.arrays.unflatten(range(len(traced.names))))
    trained = [index for index in traced.inexact if trainable[index]]
    weights = {source.leaf for site in traced.anatomy.sites.values() for source in site.sources}
    others = tuple(index for index in trained if index not in weights)

    def tree_of(numbers: dict[int, Any]) -> Any:
        """A tree for an optimizer, which can't calculate with keys and counts."""
        leaves = [numbers.get(index, jnp.zeros(())) for index in range(len(traced.names))]
        return jax.tree.unflatten(traced.structure, leaves)

    @jax.jit
    def step(leaves: list[Any], state: Any, batch: list[Any], constants: list[Any], start: Any):
        def objective(values: dict[int, Any]) -> Any:
            arguments = [values.get(index, leaf) for index, leaf in enumerate(leaves)]
            (loss,), records = rerun(bare.jaxpr, constants, [*arguments, *batch], hooks, start)
            return loss, records

        def loss_of(tree: Any) -> Any:
            floats = jax.tree.leaves(tree)
            return objective({index: floats[index] for index in trained})[0]

        before = {index: leaves[index] for index in trained}
        (loss, records), gradients = jax.value_and_grad(objective, has_aux=True)(before)
        updates, state = update(
            optimizer, tree_of(gradients), state, tree_of(before), loss, loss_of
        )
        steps = jax.tree.leaves(updates)
        after = [
            leaf + steps[index].astype(leaf.dtype) if index in before else leaf
            for index, leaf in enumerate(leaves)
        ]
        sizes = {index: _root(gradients[index]) for index in trained}
        return loss, records, sizes, after, state

    def train(params: Any, batch: Any, constants: list[Any], steps: int) -> Iterator[Step]:
        leaves, inputs, constants = as_taken(
            traced, (flatten(params)[0], flatten(batch)[0], constants)
        )
        leaves = list(map(jnp.asarray, leaves))
        first = {index: _wide(leaves[index]) for index in others}
        state = optimizer.init(tree_of({index: leaves[index] for index in trained}))
        start = _nothing(traced, readers)
        for number in range(steps + 1):
            loss, records, gradients, after, state = step(leaves, state, inputs, constants, start)
            if not number:
                start = {path: record["arrays"] for path, record in records.items()}
            found = [record["statistics"] for record in records.values()]
            largest = max(map(float, gradients.values())) or 1.0
            of_leaves = {
                index: {
                    "change": _rms(_wide(leaves[index]) - first[index]),
                    "gradient": float(gradients[index]) / largest,
                }
                for index in others
            }
            yield Step(float(loss), _by_path(found), of_leaves)
            leaves = after

    def is_linear(params: Any) -> bool:
        leaves = list(map(jnp.asarray, flatten(params)[0]))
        tree = tree_of({index: leaves[index] for index in trained})

        def sizes(scale: float) -> list[float]:
            gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, scale), tree)
            updates, state = None, optimizer.init(tree)
            for _ in range(2):  # a schedule may start at zero
                updates, state = update(optimizer, gradients, state, tree, 1.0, lambda _: 1.0)
            return [_rms(_wide(leaf)) for leaf in jax.tree.leaves(updates)]

        try:
            pairs = zip(sizes(1.0), sizes(2.0), strict=True)
        except Exception:
            return False
        ratios = [large / small for small, large in pairs if small]  # without frozen parameters
        return bool(ratios) and all(1.9 < ratio < 2.1 for ratio in ratios)

    keys = {key for found in readers.values() for key in found}
    attentions = tuple(each for each in traced.anatomy.attentions if ("scores", each.path) in keys)
    return Program(traced, sites, attentions, others, train, is_linear)


def _by_path(found: list[dict[Key, dict[str, Any]]]) -> dict[Path, dict[str, float]]:
    """The statistics of each layer: over all turns of the loops around it."""
    measured: dict[Path, dict[str, float]] = {}
    for statistics in found:
        for (_, path), numbers in statistics.items():
            record = measured.setdefault(path, {})
            for name, by_turn in numbers.items():
                array = np.asarray(by_turn, np.float64)
                ran = array[~np.isnan(array)]  # NaN marks a branch that was not taken
                record[name] = _rms(ran) if ran.size else math.nan
    return measured


def _wide(leaf: Any) -> np.ndarray:
    return np.asarray(leaf).astype(np.complex128 if np.iscomplexobj(leaf) else np.float64)


def _rms(array: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(np.abs(array))))) if array.size else 0.0


# What is read at equations


def _readers(traced: Traced, sites: Mapping[Path, Site]) -> dict[Path, dict[Key, _Reader]]:
    """By the path of the equation."""
    found: dict[Path, dict[Key, _Reader]] = {}

    def put(at: Path, key: Key, reader: _Reader) -> None:
        found.setdefault(at, {})[key] = reader

    for path, site in sites.items():
        eqn = program_at(traced.jaxpr, path).eqns[path[-1]]
        later = traced.multipliers.get(path, 1.0)
        put(path, ("product", path), _product(site, eqn, abs(site.scale) * later))
        output = _values(lambda _, results: results[0], site.loops, later)
        put(site.output, ("output", path), output)
    for attention in traced.anatomy.attentions:
        watch: Any = traced.anatomy.watches[attention.path]
        places, mixed = watch.places, watch.static.mixed
        place = places.get("content", places["scores"])
        if place.path and not mixed and all(length is not None for _, length in attention.loops):

            def scores(operands: list[Any], results: list[Any], place: Any = place) -> Any:
                return (operands if place.operand else results)[place.position]

            put(place.path, ("scores", attention.path), _values(scores, attention.loops))
    return found


def _product(site: Site, eqn: Any, scale: float) -> _Reader:
    """Reads how a product changes, by its weights and by its input; a number scales it."""
    import jax.numpy as jnp

    weight, data = site.weight, 1 - site.weight

    def arrays(operands: list[Any], _: list[Any]) -> dict[str, Any]:
        kept = {"weight": operands[weight]}
        if jnp.issubdtype(operands[data].dtype, jnp.inexact):  # not the indices of an embedding
            kept["input"] = operands[data]
        return kept

    def statistics(operands: list[Any], results: list[Any], start: dict[str, Any]) -> Any:
        def size(weight_operand: Any, data_operand: Any) -> Any:
            given = list(operands)
            given[weight], given[data] = weight_operand, data_operand
            return _root(bind(eqn, given)[0]) * scale

        changed = operands[weight] - start["weight"]
        found = {
            "product": _root(results[0]) * scale,
            "weight": _root(operands[weight]) * scale,
            "own": size(changed, operands[data]),
        }
        if "input" not in start:  # a lookup sums nothing
            return {**found, "aligned": found["own"], "input": jnp.ones_like(found["own"])}
        difference = operands[data] - start["input"]
        entering = _root(operands[data])
        return {
            **found,
            "aligned": _root(changed) * entering * (site.fan_in * scale),
            "passed": size(start["weight"], difference),
            "input": entering,
            "input_change": _root(difference),
        }

    return _Reader(arrays, statistics, site.loops)


def _values(
    pick: Callable[[list[Any], list[Any]], Any], loops: Loops, scale: float = 1.0
) -> _Reader:
    """Reads how values change; a number scales them."""

    def arrays(operands: list[Any], results: list[Any]) -> dict[str, Any]:
        return {"values": pick(operands, results)}

    def statistics(operands: list[Any], results: list[Any], start: dict[str, Any]) -> Any:
        values = pick(operands, results)
        change = _root(values - start["values"])
        return {"size": _root(values) * scale, "change": change * scale}

    return _Reader(arrays, statistics, loops)


def _read(
    readers: Mapping[Key, _Reader], operands: list[Any], results: list[Any], slot: Any
) -> tuple[list[Any], Any]:
    """A hook that calls readers; its slot is what they kept from the start."""
    import jax

    seen, made = jax.lax.stop_gradient((operands, results))
    arrays = {key: reader.arrays(seen, made) for key, reader in readers.items()}
    statistics = {key: reader.statistics(seen, made, slot[key]) for key, reader in readers.items()}
    return results, {"arrays": arrays, "statistics": statistics}


def _nothing(traced: Traced, readers: Mapping[Path, dict[Key, _Reader]]) -> dict[Path, Any]:
    """Zeros in place of what readers keep, for the first step."""
    start: dict[Path, Any] = {}
    for path, found in readers.items():
        eqn = program_at(traced.jaxpr, path).eqns[path[-1]]
        operands, results = ([var.aval for var in each] for each in (eqn.invars, eqn.outvars))
        start[path] = {
            key: {
                name: zeros_by_turn(reader.loops, aval)
                for name, aval in reader.arrays(operands, results).items()
            }
            for key, reader in found.items()
        }
    return start


def _root(array: Any) -> Any:
    """The root mean square, in float32: zero for numbers below 1e-19."""
    import jax.numpy as jnp

    def root(array: Any) -> Any:
        sizes = abs(array).astype(jnp.float32)
        return (sizes * sizes).mean() ** 0.5

    return automatic(root)(array)
