"""The compiled program: the user's own value and gradient, with a tap at every site.

It returns pre-activations, their cotangents and inputs as they are. Returning an array that exists
anyway costs almost nothing, while statistics inside the program would make XLA compile several
times as long. Weights are read from the arguments wherever they are arguments.

The cotangent of a site comes out as the gradient of a slot: a dummy argument of an identity
function whose differentiation rule passes it on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from initjax.auditing._measuring.arrays import Geometry, geometry_of, weight_statistics
from initjax.auditing._measuring.explicit_sharding import automatic
from initjax.auditing._measuring.optimizers import first_update
from initjax.auditing._measuring.origins import Origin, origin
from initjax.auditing._measuring.rerun import rerun
from initjax.auditing._measuring.watched import KINDS
from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.primitives import program_at
from initjax.auditing._reading.sites import Loops, Site
from initjax.auditing._reading.trace import Traced, output_aval
from initjax.auditing._reading.watches import Place, Watch


class Taps(NamedTuple):
    """What the compiled program gives, as arrays on the device."""

    loss: Any
    forward: dict[Path, dict[str, Any]]
    """By site and by the equation of its output."""
    backward: dict[Path, dict[str, Any]]
    """By the equation of a site's output."""
    watched: dict[tuple[int, str], Any]
    """Values of equations, by the number of the watch and their names in it."""
    gradients: dict[int, Any]
    """By parameter."""
    updates: dict[int, Any]
    pulled: Any
    """Directions that were pulled back through the Jacobian; None where that is not measured."""


def tapped_program(
    traced: Traced,
    optimizer: Any,
    sources: dict[Path, Sources],
    pulled: Callable[[list[Any], list[Any], list[Any]], Any] | None,
) -> Callable[[list[Any], list[Any], list[Any]], Taps]:
    """Makes the program that measures, to be compiled.

    Args:
      traced: the program of the loss.
      optimizer: an Optax transformation whose first update is measured too, or None.
      sources: where the arrays of each site are read from.
      pulled: what `JacobianProbe.pulled` is; None where no Jacobian is measured.

    Returns:
      A function of parameters, the batch, and the constants of the program.
    """
    import jax
    import jax.numpy as jnp

    sites = traced.anatomy.sites
    hooks = _hooks(sites, sources)
    for path, values in _watched_values(traced).items():
        hooks[path] = functools.partial(_watched, hooks.get(path), values)

    def taps(leaves: list[Any], batch: list[Any], constants: list[Any]) -> Taps:
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
            # An optimizer can't calculate with keys and counts.
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
        watched = [record.pop("watched") for record in records.values() if "watched" in record]
        watched = {key: array for found in watched for key, array in found.items()}
        return Taps(loss, records, backward, watched, gradients, updates, back)

    return taps


class Sources(NamedTuple):
    """Where the arrays of a site are read from, besides its output and what goes with it."""

    geometry: Geometry
    weight: Origin | None
    """None for a weight that the program has to tap."""
    input: Origin | None
    tapped_by: Path | None
    """The first site with the same input, which taps it; None if the input needn't be tapped."""


def sources_of(traced: Traced) -> dict[Path, Sources]:
    """Where the arrays of each site are read from."""
    first: dict[tuple[Path, Any], Path] = {}
    found: dict[Path, Sources] = {}
    for path, site in traced.anatomy.sites.items():
        turns = sum(length is not None for _, length in site.loops)
        weight, entering = (
            found_at if found_at is not None and found_at.layout.turns in (0, turns) else None
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
        found[path] = Sources(geometry_of(site), weight, entering, shared)
    return found


def _hooks(sites: dict[Path, Site], sources: dict[Path, Sources]) -> dict[Path, Callable]:
    hooks: dict[Path, Callable] = {}
    for path, site in sites.items():
        if site.output == path:
            hooks[path] = functools.partial(_product_and_output, site, sources[path])
        else:
            hooks[path] = functools.partial(_product, site, sources[path])
            hooks[site.output] = functools.partial(_output, site)
    return hooks


class _WatchedValue(NamedTuple):
    """A value of an equation that a watch asks for."""

    key: tuple[int, str]
    place: Place
    watch: Watch


def _watched_values(traced: Traced) -> dict[Path, list[_WatchedValue]]:
    """What watches ask for, by equation; arguments of the program are there already."""
    found: dict[Path, list[_WatchedValue]] = {}
    for number, watch in enumerate(traced.anatomy.watches.values()):
        for name, place in watch.places.items():
            if place.path:
                value = _WatchedValue((number, name), place, watch)
                found.setdefault(place.path, []).append(value)
    return found


def _watched(
    hook: Callable | None, values: list[_WatchedValue], operands: list, results: list, slot: Any
) -> tuple[list, Any]:
    """Does what another hook does, if there is one, and takes the watched values."""
    import jax

    found = {}
    for key, place, watch in values:
        array = (operands if place.operand else results)[place.position]
        found[key] = KINDS[watch.kind].sample(watch.static, key[1], array)
    record: dict[str, Any] = {}
    if hook is not None:
        results, record = hook(operands, results, slot)
    return results, {**record, "watched": jax.lax.stop_gradient(found)}


def _product_and_output(
    site: Site, sources: Sources, operands: list, results: list, slot: Any
) -> tuple[list, Any]:
    _, record = _product(site, sources, operands, results, None)
    results, more = _output(site, operands, results, slot)
    return results, {**record, **more}


def _product(
    site: Site, sources: Sources, operands: list, results: list, slot: Any
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
    import jax.numpy as jnp

    lengths = tuple(length or 0 for _, length in site.loops)
    zeros = zeros_by_turn(site.loops, output_aval(traced, site))
    return {"called": jnp.zeros(lengths, jnp.float32), "cotangent": zeros}


def zeros_by_turn(loops: Loops, aval: Any) -> Any:
    """Zeros of the shape of an array, for every turn of the loops around it."""
    import jax
    import jax.numpy as jnp

    lengths = tuple(length or 0 for _, length in loops)
    sharding = getattr(aval, "sharding", None)
    zeros = jnp.zeros((*lengths, *aval.shape), aval.dtype)
    if sharding is not None and jax.sharding.AxisType.Explicit in sharding.mesh.axis_types:
        spec = jax.sharding.PartitionSpec(*(None,) * len(lengths), *sharding.spec)
        zeros = jax.sharding.reshard(zeros, jax.sharding.NamedSharding(sharding.mesh, spec))
    return zeros
