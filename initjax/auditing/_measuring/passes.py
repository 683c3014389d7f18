"""One pass forward and one back: what an audit measures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np

from initjax._values import is_traced
from initjax.auditing._measuring.arrays import Geometry, layer_statistics
from initjax.auditing._measuring.explicit_sharding import as_taken
from initjax.auditing._measuring.jacobian import jacobian_probe, spectrum
from initjax.auditing._measuring.jobs import Job, on_host, run_jobs
from initjax.auditing._measuring.origins import Layout
from initjax.auditing._measuring.parameters import depths_of, described_parameter, parameter_job
from initjax.auditing._measuring.statistics import described
from initjax.auditing._measuring.taps import Sources, Taps, sources_of, tapped_program
from initjax.auditing._measuring.watched import KINDS
from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.sites import Site
from initjax.auditing._reading.trace import Traced
from initjax.auditing._reading.watches import Watch


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
    watched: dict[Hashable, dict[str, np.ndarray]]
    """By watch."""
    jacobian: tuple[float, float] | None
    """The mean square of the singular values of the last site's output by the first's, and the
    condition of their Gram matrix in random directions; None where it was not taken."""


class Measurer(NamedTuple):
    """Functions of parameters, the batch, and the constants of the program."""

    measure: Callable[[Any, Any, list[Any]], Measurements]
    """Compiled at its first call."""
    program: Callable[[Any, Any, list[Any]], Any]
    """The closed jaxpr of what is compiled, with rules of differentiation and the optimizer."""


def measurer(traced: Traced, optimizer: Any = None) -> Measurer:
    """Makes the function that measures.

    Args:
      traced: the program.
      optimizer: an Optax transformation whose first update is measured too.
    """
    import jax

    sites = traced.anatomy.sites
    probe = jacobian_probe(traced)
    sources = sources_of(traced)
    tapped = jax.jit(tapped_program(traced, optimizer, sources, probe and probe.pulled))
    depths = depths_of(traced)

    def measure(params: Any, batch: Any, constants: list[Any]) -> Measurements:
        leaves, inputs, constants = as_taken(
            traced, (jax.tree.leaves(params), jax.tree.leaves(batch), constants)
        )
        taps: Taps = tapped(leaves, inputs, constants)
        if is_traced(taps.loss):
            raise TypeError(
                "an audit needs numbers: call it outside jax.jit, jax.grad and jax.vmap"
            )
        arguments = [*constants, *leaves, *inputs]
        layers = [_layer_job(site, sources[path], taps, arguments) for path, site in sites.items()]
        watches = traced.anatomy.watches
        watched = [
            _watch_job(watch, n, taps, arguments) for n, watch in enumerate(watches.values())
        ]
        *of_all, of_parameters = run_jobs(
            [*layers, *watched, parameter_job(leaves, depths, taps)],
            all(map(on_host, (taps.loss, *leaves))),
        )
        of_layers, of_watches = of_all[: len(layers)], of_all[len(layers) :]
        numbers = described([record for pair in of_layers for record in pair])
        forward, backward = {}, {}
        for (path, site), ahead, back in zip(
            sites.items(), numbers[::2], numbers[1::2], strict=True
        ):
            forward[path] = _by_loop(site, ahead)
            if back:
                backward[path] = _by_loop(site, back)
        parameters, prints = [], []
        for index, (found, first) in enumerate(of_parameters):
            gradient = taps.gradients.get(index)
            parameters.append(described_parameter(found, leaves[index], gradient))
            prints.append(first)
        jacobian = None if probe is None else spectrum(probe, np.asarray(taps.pulled))
        return Measurements(
            loss=float(taps.loss),
            forward=forward,
            backward=backward,
            parameters=parameters,
            prints=prints,
            watched=dict(zip(watches, of_watches, strict=True)),
            jacobian=jacobian,
        )

    def program(params: Any, batch: Any, constants: list[Any]) -> Any:
        given = as_taken(traced, (jax.tree.leaves(params), jax.tree.leaves(batch), constants))
        return tapped.trace(*given).jaxpr

    return Measurer(measure, program)


def _layer_job(site: Site, sources: Sources, taps: Taps, arguments: list[Any]) -> Job:
    record = {**taps.forward.get(site.path, {}), **taps.forward.get(site.output, {})}
    if sources.weight is not None:
        record["weight"] = arguments[sources.weight.argument]
    if sources.input is not None:
        record["input"] = arguments[sources.input.argument]
    elif sources.tapped_by is not None:
        record["input"] = taps.forward[sources.tapped_by]["input"]
    if site.output in taps.backward:
        record |= taps.backward[site.output]
    layouts = {
        name: origin and origin.layout
        for name, origin in (("weight", sources.weight), ("input", sources.input))
    }
    turns = sum(length is not None for _, length in site.loops)
    return Job(_site_statistics, _Static(sources.geometry, turns, **layouts), record)


def _watch_job(watch: Watch, number: int, taps: Taps, arguments: list[Any]) -> Job:
    arrays, kind = {}, KINDS[watch.kind]
    for name, place in watch.places.items():
        if place.path:
            arrays[name] = taps.watched[number, name]
        else:
            array = arguments[place.position]
            arrays[name] = kind.sample(watch.static, name, array)
    return Job(kind.statistics, watch.static, arrays)


class _Static(NamedTuple):
    """What the statistics of a site depend on besides its arrays: alike for layers of a kind."""

    geometry: Geometry
    turns: int
    """How many leading axes number turns of loops."""
    weight: Layout | None
    """How the weight and the input are laid out from arguments; None for tapped ones."""
    input: Layout | None


def _site_statistics(static: _Static, arrays: dict[str, Any], flat: Any) -> Any:
    arrays, turns = dict(arrays), static.turns
    known = arrays.pop("weight_statistics", {})
    layouts = {"weight": static.weight, "input": static.input}

    def by_turn(name: str, array: Any) -> Any:
        layout = layouts.get(name)
        if layout is not None:
            return layout.of(array)
        return array.reshape(math.prod(array.shape[:turns]), *array.shape[turns:])

    taps = {name: by_turn(name, array) for name, array in arrays.items()}
    ran, called = taps.pop("ran"), taps.pop("called", None)
    forward, backward = layer_statistics(static.geometry, taps, flat)
    forward |= {name: array.reshape(-1, *array.shape[turns + 1 :]) for name, array in known.items()}
    forward["ran"] = ran
    if backward:
        backward["called"] = called
    return forward, backward


def _by_loop(site: Site, numbers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A record with one leading axis for each loop around a site, in place of one for all turns."""
    lengths = tuple(length for _, length in site.loops if length is not None)
    if not lengths:
        return {name: array[0] for name, array in numbers.items()}
    turns = math.prod(lengths)
    return {  # a weight or an input may be the same in all turns
        name: np.broadcast_to(array, (turns, *array.shape[1:])).reshape(*lengths, *array.shape[1:])
        for name, array in numbers.items()
    }
