"""One pass forward and one back, with the arrays of every site tapped on the way.

One program is compiled: the user's own value and gradient, with a tap at each site. It gives out
pre-activations, their cotangents, inputs and weights as they are, since an array that is there
anyway costs next to nothing to give out, while statistics inside the program make XLA compile
several times as long. Statistics are taken outside: by NumPy on a CPU, whose arrays it reads
without a copy; on an accelerator by small programs, one for all layers of a shape.

The cotangent of a site comes out as the gradient of a slot: a dummy argument of an identity
function whose rule of differentiation hands it on.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from initjax.auditing._measuring.arrays import (
    Geometry,
    geometry_of,
    layer_statistics,
    weight_statistics,
)
from initjax.auditing._measuring.explicit_sharding import automatic
from initjax.auditing._measuring.flatness import flat_in_blocks, flatness
from initjax.auditing._measuring.jacobian import jacobian_probe, spectrum
from initjax.auditing._measuring.optimizers import first_update
from initjax.auditing._measuring.origins import Origin, origin, program_at
from initjax.auditing._measuring.rerun import rerun
from initjax.auditing._measuring.statistics import described
from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.sites import Site
from initjax.auditing._reading.trace import Traced, output_aval

_PRINT = 4096  # numbers of a parameter that are compared with another's


@dataclasses.dataclass(frozen=True)
class Measurements:
    """What one forward and one backward pass found, as NumPy arrays."""

    loss: float
    forward: dict[Path, dict[str, np.ndarray]]
    """By site; with the lengths of the loops around it as leading axes."""
    backward: dict[Path, dict[str, np.ndarray]]
    parameters: list[dict[str, float]]
    """By parameter; empty for integers."""
    prints: list[np.ndarray]
    """The first numbers of every parameter, of every slice of a stacked one: (slices, numbers)."""
    jacobian: tuple[float, float] | None
    """The mean square of the singular values of the last site's output by the first's, and the
    condition of their Gram matrix in random directions; None where it was not taken."""


class _Taps(NamedTuple):
    """What the compiled program gives, as arrays on the device."""

    loss: Any
    forward: dict[Path, dict[str, Any]]
    """By site and by the equation of its output."""
    backward: dict[Path, dict[str, Any]]
    """By the equation of a site's output."""
    gradients: dict[int, Any]
    """By parameter."""
    updates: dict[int, Any]
    pulled: Any
    """Directions that were pulled back through the Jacobian; None where that is not measured."""


def measurer(
    traced: Traced, optimizer: Any = None
) -> Callable[[Any, tuple[Any, ...], list[Any]], Measurements]:
    """Makes the function that measures: compiled at its first call.

    Args:
      traced: the program.
      optimizer: an Optax transformation whose first update is measured too.

    Returns:
      A function of parameters, the batch, and the constants of the program.
    """
    import jax

    sites = traced.anatomy.sites
    probe = jacobian_probe(traced)
    sources = _sources(traced)
    tapped = jax.jit(_program(traced, optimizer, sources, probe and probe.pulled))
    depths = _depths(traced)

    def measure(params: Any, batch: tuple[Any, ...], constants: list[Any]) -> Measurements:
        leaves = jax.tree.leaves(params)
        inputs = jax.tree.leaves(batch)
        taps: _Taps = tapped(leaves, inputs, constants)
        arguments = [*constants, *leaves, *inputs]
        layers = [_layer_job(site, sources[path], taps, arguments) for path, site in sites.items()]
        parameters = [
            _Job(_parameter_statistics, depth, _parameter_arrays(index, leaf, taps))
            for index, (leaf, depth) in enumerate(zip(leaves, depths, strict=True))
        ]
        found = _run([*layers, *parameters])
        forward, backward = {}, {}
        for (path, site), (ahead, back) in zip(sites.items(), found, strict=False):
            forward[path] = _by_turn(site, ahead)
            if back:
                backward[path] = _by_turn(site, back)
        parameter_numbers, prints = [], []
        for index, (numbers, first) in enumerate(found[len(sites) :]):
            gradient = taps.gradients.get(index)
            parameter_numbers.append(_described_parameter(numbers, leaves[index], gradient))
            prints.append(first)
        jacobian = None if probe is None else spectrum(probe, np.asarray(taps.pulled))
        return Measurements(
            float(taps.loss), forward, backward, parameter_numbers, prints, jacobian
        )

    return measure


# The program


def _program(
    traced: Traced,
    optimizer: Any,
    sources: dict[Path, _Sources],
    pulled: Callable[[list[Any], list[Any], list[Any]], Any] | None,
) -> Callable[[list[Any], list[Any], list[Any]], _Taps]:
    import jax
    import jax.numpy as jnp

    sites = traced.anatomy.sites
    hooks = _hooks(sites, sources)

    def taps(leaves: list[Any], batch: list[Any], constants: list[Any]) -> _Taps:
        inexact = {index: leaves[index] for index in traced.inexact}
        slots = {site.output: _slot(traced, site) for site in sites.values() if site.differentiable}

        def objective(inexact: dict[int, Any], slots: Any) -> Any:
            arguments = [inexact.get(index, leaf) for index, leaf in enumerate(leaves)]
            (loss,), records = rerun(traced.jaxpr, constants, [*arguments, *batch], hooks, slots)
            return loss, records

        (loss, records), (gradients, backward) = jax.value_and_grad(
            objective, (0, 1), has_aux=True
        )(inexact, slots)
        updates: dict[int, Any] = {}
        if optimizer is not None:
            # Keys and counts are nothing that an optimizer can calculate with.
            params, tree = (
                jax.tree.unflatten(
                    traced.structure,
                    [floats.get(index, jnp.zeros(())) for index in range(len(leaves))],
                )
                for floats in (inexact, gradients)
            )

            def loss_of(tree: Any) -> Any:
                floats = jax.tree.leaves(tree)
                return objective({index: floats[index] for index in inexact}, slots)[0]

            steps = jax.tree.leaves(first_update(optimizer, tree, params, loss, loss_of))
            updates = {index: steps[index] for index in inexact}
        back = None if pulled is None else pulled(leaves, batch, constants)
        return _Taps(loss, records, backward, gradients, updates, back)

    return taps


class _Sources(NamedTuple):
    """Where the arrays of a site are read from, besides its output and what goes with it."""

    geometry: Geometry
    weight: Origin | None
    """None for a weight that the program has to tap."""
    input: Origin | None
    tapped_by: Path | None
    """The first site with the same input, which taps it; None if nobody does."""


def _sources(traced: Traced) -> dict[Path, _Sources]:
    first: dict[tuple[Path, Any], Path] = {}
    found: dict[Path, _Sources] = {}
    for path, site in traced.anatomy.sites.items():
        turns = sum(length is not None for _, length in site.loops)
        weight, entering = (
            found_at if found_at is not None and found_at.turns in (0, turns) else None
            for found_at in (
                origin(traced.jaxpr, path, operand) for operand in (site.weight, 1 - site.weight)
            )
        )
        shared = None
        if site.kind == "embedding":
            entering = None
        elif entering is None:
            # Query, key and value read one array. A branch that is not taken taps nothing.
            jaxpr = program_at(traced.jaxpr, path)
            var = jaxpr.eqns[path[-1]].invars[1 - site.weight]
            shared = first.setdefault((path[:-1], var), path)
        found[path] = _Sources(geometry_of(site), weight, entering, shared)
    return found


def _hooks(sites: dict[Path, Site], sources: dict[Path, _Sources]) -> dict[Path, Callable]:
    hooks: dict[Path, Callable] = {}
    for path, site in sites.items():
        if site.output == path:
            hooks[path] = functools.partial(_product_and_output, site, sources[path])
        else:
            hooks[path] = functools.partial(_product, site, sources[path])
            hooks[site.output] = functools.partial(_output, site)
    return hooks


def _product_and_output(
    site: Site, sources: _Sources, operands: list, results: list, slot: Any
) -> tuple[list, Any]:
    _, record = _product(site, sources, operands, results, None)
    results, more = _output(site, operands, results, slot)
    return results, {**record, **more}


def _product(
    site: Site, sources: _Sources, operands: list, results: list, slot: Any
) -> tuple[list, Any]:
    """Taps a weight and an input, unless they are read from elsewhere."""
    record: dict[str, Any] = {}
    if sources.weight is None:
        weight = operands[site.weight]
        if site.loops:  # as many copies of it as there are turns would have to be kept
            measured = automatic(lambda w: weight_statistics(sources.geometry, w[None]))
            record["weight_statistics"] = measured(weight)
        else:
            record["weight"] = weight
    if sources.tapped_by == site.path:
        record["input"] = operands[1 - site.weight]
    return results, record


def _output(site: Site, operands: list, results: list, slot: Any) -> tuple[list, Any]:
    """Taps a pre-activation, its bias and, in the pass back, its cotangent."""
    import jax
    import jax.numpy as jnp

    output, *others = results
    record = {"output": output, "ran": jnp.float32(1)}  # NaN in a branch that is not taken
    if site.bias is not None:
        record["bias"] = operands[site.bias]
    if slot is not None:
        output = _probed(output, slot)
    return [output, *others], jax.lax.stop_gradient(record)


def _probed(z: Any, slot: Any) -> Any:
    """z itself; in the pass back, its cotangent is the gradient of the slot."""
    import jax
    import jax.numpy as jnp

    @jax.custom_vjp
    def probe(z: Any, slot: Any) -> Any:
        return z

    def forward(z: Any, slot: Any) -> Any:
        return z, None

    def backward(_: None, cotangent: Any) -> Any:
        return cotangent, {"called": jnp.float32(1), "cotangent": cotangent}

    probe.defvjp(forward, backward)
    return probe(z, slot)


def _slot(traced: Traced, site: Site) -> dict[str, Any]:
    """Zeros of the shape of a site's output, for every turn of the loops around it.

    They are what comes out where no gradient comes to a site: then it is not `called`.
    """
    import jax
    import jax.numpy as jnp

    lengths = tuple(length or 0 for _, length in site.loops)
    output = output_aval(traced, site)
    sharding = getattr(output, "sharding", None)
    zeros = jnp.zeros((*lengths, *output.shape), output.dtype)
    if sharding is not None and any(
        kind == jax.sharding.AxisType.Explicit for kind in sharding.mesh.axis_types
    ):
        spec = jax.sharding.PartitionSpec(*(None,) * len(lengths), *sharding.spec)
        zeros = jax.sharding.reshard(zeros, jax.sharding.NamedSharding(sharding.mesh, spec))
    return {"called": jnp.zeros(lengths, jnp.float32), "cotangent": zeros}


# Statistics


class _Job(NamedTuple):
    """One call of a function of static arguments and arrays."""

    function: Callable
    static: Any
    arrays: dict[str, Any]


def _layer_job(site: Site, sources: _Sources, taps: _Taps, arguments: list[Any]) -> _Job:
    record = {**taps.forward.get(site.path, {}), **taps.forward.get(site.output, {})}
    if sources.weight is not None:
        record["weight"] = arguments[sources.weight.argument]
    if sources.input is not None:
        record["input"] = arguments[sources.input.argument]
    elif sources.tapped_by is not None:
        record["input"] = taps.forward[sources.tapped_by]["input"]
    if site.output in taps.backward:
        record |= taps.backward[site.output]
    turns = sum(length is not None for _, length in site.loops)
    return _Job(_site_statistics, (sources, turns), record)


def _site_statistics(static: tuple[_Sources, int], arrays: dict[str, Any], flat: Any) -> Any:
    sources, turns = static
    arrays = dict(arrays)
    known = arrays.pop("weight_statistics", {})
    origins = {"weight": sources.weight, "input": sources.input}

    def by_turn(name: str, array: Any) -> Any:
        origin = origins.get(name)
        if origin is not None:
            return origin.of(array)
        return array.reshape(math.prod(array.shape[:turns]), *array.shape[turns:])

    taps = {name: by_turn(name, array) for name, array in arrays.items()}
    ran, called = taps.pop("ran"), taps.pop("called", None)
    forward, backward = layer_statistics(sources.geometry, taps, flat)
    forward |= {name: array.reshape(-1, *array.shape[turns + 1 :]) for name, array in known.items()}
    forward["ran"] = ran
    if backward:
        backward["called"] = called
    return forward, backward


def _run(jobs: list[_Job]) -> list[Any]:
    """The results of jobs, as NumPy arrays, in their order."""
    import jax

    arrays = jax.tree.leaves([job.arrays for job in jobs])
    if all(map(on_host, arrays)):
        if sum(map(np.size, arrays)) < 2**20:  # threads would take longer to start
            return [_with_numpy(job) for job in jobs]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy frees the GIL
            return list(pool.map(_with_numpy, jobs))
    with jax.default_matmul_precision("highest"):
        found = [_compiled(job.function, job.static)(job.arrays) for job in jobs]
    return jax.device_get(found)


def on_host(array: Any) -> bool:
    """Whether NumPy can read an array without a transfer."""
    if isinstance(array, np.ndarray | np.generic | int | float | complex):
        return True
    return array.is_fully_addressable and all(d.platform == "cpu" for d in array.devices())


def _with_numpy(job: _Job) -> Any:
    import jax

    arrays = jax.tree.map(np.asarray, job.arrays)
    with np.errstate(all="ignore"):
        return job.function(job.static, arrays, flat_in_blocks)


@functools.lru_cache(maxsize=512)
def _compiled(function: Callable, static: Any) -> Callable:
    import jax

    return jax.jit(lambda arrays: function(static, arrays, flatness))


def _by_turn(site: Site, record: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A record with one leading axis for each loop around a site, NaN where it did not run."""
    ran = record.pop("ran", None)
    numbers = described(record)
    turns = max(map(len, numbers.values()))
    numbers = {  # a weight or an input may be the same in all turns
        name: np.broadcast_to(array, (turns, *array.shape[1:])) for name, array in numbers.items()
    }
    if ran is not None and np.isnan(ran).any():
        for name, array in numbers.items():
            gone = np.isnan(ran).reshape(-1, *(1,) * (array.ndim - 1))
            numbers[name] = np.where(gone, 0 if name == "histogram" else math.nan, array)
    lengths = tuple(length for _, length in site.loops if length is not None)
    return {
        name: np.reshape(array, (*lengths, *array.shape[1:])) for name, array in numbers.items()
    }


# Parameters


def _depths(traced: Traced) -> list[int]:
    """How many leading axes of every parameter number weights of their own."""
    depths = [0] * len(traced.names)
    for site in traced.anatomy.sites.values():
        for source in site.sources:
            depths[source.leaf] = max(depths[source.leaf], site.slices(source))
    return depths


def _parameter_arrays(index: int, leaf: Any, taps: _Taps) -> dict[str, Any]:
    if index not in taps.gradients:
        return {}
    arrays = {"leaf": leaf, "gradient": taps.gradients[index]}
    if index in taps.updates:
        arrays["update"] = taps.updates[index]
    return arrays


def _parameter_statistics(depth: int, arrays: dict[str, Any], flat: Any) -> Any:
    """Statistics of a parameter, and its first numbers."""
    prints = np.zeros((0, 0), np.float32)
    if not arrays:
        return {}, prints
    leaf, gradient = arrays["leaf"], arrays["gradient"]
    found = {"finite": _all_finite(leaf), "learning": (gradient != 0).any()}
    if "update" in arrays:
        found |= {"stddev": _stddev(leaf), "update": _stddev(arrays["update"])}
    if leaf.ndim - depth >= 2 and not np.issubdtype(leaf.dtype, np.complexfloating):
        slices = leaf.reshape(math.prod(leaf.shape[:depth]), -1)
        prints = slices[:, :_PRINT].astype(np.float32)
    return found, prints


def _all_finite(array: Any) -> Any:
    return array.__array_namespace__().isfinite(array).all()


def _stddev(array: Any) -> Any:
    """The standard deviation, in float32: exactly zero for a constant array."""
    if not np.issubdtype(array.dtype, np.complexfloating):
        array = array.astype(np.float32)
    numbers = array.reshape(-1)
    return (numbers - numbers[:1].sum()).std()


def _described_parameter(found: dict[str, Any], leaf: Any, gradient: Any) -> dict[str, float]:
    if not found:
        return {}
    numbers = {name: float(value) for name, value in found.items() if name != "finite"}
    broken = False
    if not found["finite"]:
        # An infinite number without a gradient may be meant, as in a mask.
        array = np.asarray(leaf)
        broken = bool((np.isnan(array) | (np.isinf(array) & (np.asarray(gradient) != 0))).any())
    return {**numbers, "broken": float(broken)}
