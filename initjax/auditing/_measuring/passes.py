"""One pass forward and one back: what an audit measures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from initjax.auditing._measuring.arrays import layer_statistics
from initjax.auditing._measuring.jacobian import jacobian_probe, spectrum
from initjax.auditing._measuring.jobs import Job, run_jobs
from initjax.auditing._measuring.parameters import depths_of, described_parameter, parameter_job
from initjax.auditing._measuring.statistics import described
from initjax.auditing._measuring.taps import Sources, Taps, sources_of, tapped_program
from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.sites import Site
from initjax.auditing._reading.trace import Traced


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
    sources = sources_of(traced)
    tapped = jax.jit(tapped_program(traced, optimizer, sources, probe and probe.pulled))
    depths = depths_of(traced)

    def measure(params: Any, batch: tuple[Any, ...], constants: list[Any]) -> Measurements:
        leaves = jax.tree.leaves(params)
        inputs = jax.tree.leaves(batch)
        taps: Taps = tapped(leaves, inputs, constants)
        arguments = [*constants, *leaves, *inputs]
        layers = [_layer_job(site, sources[path], taps, arguments) for path, site in sites.items()]
        parameters = [
            parameter_job(index, leaf, depth, taps)
            for index, (leaf, depth) in enumerate(zip(leaves, depths, strict=True))
        ]
        found = run_jobs([*layers, *parameters])
        forward, backward = {}, {}
        for (path, site), (ahead, back) in zip(sites.items(), found, strict=False):
            forward[path] = _by_turn(site, ahead)
            if back:
                backward[path] = _by_turn(site, back)
        parameter_numbers, prints = [], []
        for index, (numbers, first) in enumerate(found[len(sites) :]):
            gradient = taps.gradients.get(index)
            parameter_numbers.append(described_parameter(numbers, leaves[index], gradient))
            prints.append(first)
        jacobian = None if probe is None else spectrum(probe, np.asarray(taps.pulled))
        return Measurements(
            float(taps.loss), forward, backward, parameter_numbers, prints, jacobian
        )

    return measure


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
    turns = sum(length is not None for _, length in site.loops)
    return Job(_site_statistics, (sources, turns), record)


def _site_statistics(static: tuple[Sources, int], arrays: dict[str, Any], flat: Any) -> Any:
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
