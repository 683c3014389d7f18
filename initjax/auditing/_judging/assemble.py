"""Puts measurements and predictions together, layer by layer.

A chain of layers is predicted from its first input on, by the variance and correlation maps of
`initjax.theory`, with each layer's own fan-in, weights and activation. Where a layer's input is not
a function of one other layer's output, predictions restart from what was measured.
"""

from __future__ import annotations

import bisect
import math
from typing import Any, NamedTuple

import numpy as np

from initjax.auditing._activations import name_of, normal_flat, saturates
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._judging.names import label
from initjax.auditing._judging.predictions import (
    Forecast,
    forecast_of,
    predicted_dead,
    predicted_gradient_ratio,
    range_of,
    z_score,
)
from initjax.auditing._judging.sources import Place, places, stacks
from initjax.auditing._measuring.passes import Measurements
from initjax.auditing._measuring.statistics import over_turns
from initjax.auditing._reading.expressions import IDENTITY, Path, bare
from initjax.auditing._reading.sites import Site
from initjax.auditing._reading.trace import Traced


class _Row(NamedTuple):
    """All about one layer, before it is described."""

    place: Place
    forward: dict[str, Any]
    backward: dict[str, Any]
    forecast: Forecast
    on_a_line: bool
    """Whether all that it computes follows from one feature without biases: then a layer behind it
    sees at most two directions, those of positive and of negative numbers."""

    @property
    def log_gradient(self) -> float:
        return float(self.backward.get("log_square", math.nan))

    @property
    def source(self) -> int | None:
        """The layer that it is predicted from."""
        return self.place.source if self.forecast.depth else None


def layers(traced: Traced, measured: Measurements) -> list[JudgedLayer]:
    """Puts measurements and predictions together.

    Args:
      traced: the program.
      measured: what one pass found.

    Returns:
      The layers in the order of execution: one for each site, and for each turn of a loop that has
      its own weights in every turn.
    """
    rows: list[_Row] = []
    for place in places(traced):
        forward = _at(measured.forward[place.site.path], place)
        backward = _at(measured.backward.get(place.site.path, {}), place)
        source = None if place.source is None else rows[place.source]
        forecast = forecast_of(place.site, forward, source and source.forecast)
        line = _of_one_feature(place.site) if source is None else source.on_a_line
        line = line and float(forward["bias_square"]) == 0
        rows.append(_Row(place, forward, backward, forecast, line))
    ratios = _gradient_ratios(rows)
    logits = [number for number, row in enumerate(rows) if row.place.site.softmax]
    last = max(logits, default=len(rows) - 1)
    return [
        _described(traced, measured, number, row, ratios[number], number == last)
        for number, row in enumerate(rows)
    ]


def _of_one_feature(site: Site) -> bool:
    return site.kind == "dense" and site.fan_in == 1 and not site.members


def _at(record: dict[str, np.ndarray], place: Place) -> dict[str, Any]:
    """The numbers of one turn; means over the turns of loops that share the weights."""
    loops = [path for path, length in place.site.loops if length is not None]
    turns = dict(zip((path for path, _ in stacks(place.site)), place.turns, strict=True))
    where = tuple(turns.get(path, slice(None)) for path in loops)
    shared = sum(isinstance(part, slice) for part in where)
    taken = {name: array[where] for name, array in record.items()}
    return over_turns(taken, shared)


def _described(
    traced: Traced,
    measured: Measurements,
    number: int,
    row: _Row,
    ratios: tuple[float, float],
    last: bool,
) -> JudgedLayer:
    (site, turns, parameters, _, reason), forward, backward, forecast, line = row
    activation = forecast.expression
    bends = activation is not None and bare(activation) != IDENTITY
    leaf = parameters[0].index
    samples, units, members = (_count(forward[name]) for name in ("samples", "units", "members"))
    several = samples > 1
    square, mean = float(forward["square"]), float(forward["mean"])
    has_gradient = not math.isnan(row.log_gradient)
    count = max(1.0, float(forward["samples"]) * float(forward["units"]))
    return JudgedLayer(
        name=label(parameters),
        kind=site.kind,
        shape=tuple(traced.shapes[leaf].shape[len(turns) :]),
        fan_in=site.fan_in,
        fan_out=site.fan_out,
        units=units,
        members=members,
        samples=samples,
        uses=math.prod(
            length for path, length in site.loops if length and path not in site.stacked
        ),
        activation=name_of(activation),
        role=_role(site, last),
        weight_variance=forecast.gain,
        bias_variance=float(forward["bias_square"]),
        input_square=float(forward["input_square"]),
        mean=mean,
        stddev=_root(float(np.maximum(square - mean**2, 0))),  # which keeps NaN
        rms=_root(square),
        unit_stddev=_root(float(forward["unit_variance"])) if several else math.nan,
        dead=float(forward["dead"]) if bends and several else math.nan,
        saturated=float(forward["flat"]) if bends else math.nan,
        correlation=float(forward["correlation"]),
        rank=float(forward["rank"]) if several else math.nan,
        gradient=float(np.exp((row.log_gradient - math.log(count)) / 2))
        if has_gradient
        else math.nan,
        gradient_ratio=ratios[0],
        gradient_rank=float(backward.get("rank", math.nan)),
        update_ratio=_update_ratio(measured, site),
        weight_rank=float(forward["weight_rank"]),
        predicted_rms=forecast.square**0.5,
        predicted_range=range_of(forecast),
        rms_z=z_score(square, forecast),
        predicted_gradient_ratio=ratios[1],
        predicted_correlation=forecast.correlation if forecast.depth else math.nan,
        predicted_dead=predicted_dead(activation, forward, 2 if line and forecast.depth else None),
        predicted_saturated=normal_flat(activation) if activation and bends else math.nan,
        unpredicted=reason,
        histogram=tuple(forward["histogram"].tolist()) if samples else (),
        gradient_histogram=tuple(backward["histogram"].tolist()) if has_gradient else (),
        parameters=parameters,
        source=row.source,
        logits=site.softmax,
        saturating=activation is not None and saturates(activation),
        row=number,
        site=site,
        expression=activation,
        depth=forecast.depth,
        weight_square=float(forward["weight_square"]),
        weight_least=float(forward["weight_least"]),
        weight_mean=float(forward["weight_mean"]),
        weight_zeros=float(forward["weight_zeros"]),
        input_largest=float(forward["input_largest"]),
        feature_means=forward.get("feature_means", np.zeros(0)),
        feature_variances=forward.get("feature_variances", np.zeros(0)),
        log_gradient=row.log_gradient,
        log_typical=float(backward.get("log_typical", math.nan)),
    )


def _count(number: Any) -> int:
    return 0 if math.isnan(number) else int(number)


def _root(square: float) -> float:
    return math.sqrt(square) if math.isfinite(square) else square


def _update_ratio(measured: Measurements, site: Site) -> float:
    if len(site.sources) != 1:
        return math.nan
    (source,) = site.sources
    found = measured.parameters[source.leaf]
    stddev = found.get("stddev", 0.0)
    return found["update"] / stddev if "update" in found and stddev > 0 else math.nan


def _role(site: Site, last: bool) -> str:
    if site.residual:
        return "branch end"
    if site.normalized and not site.added:
        return "normalized"
    if site.added:
        return "sum"
    return "last" if last else ""


def _gradient_ratios(rows: list[_Row]) -> list[tuple[float, float]]:
    """The ratio of each layer's gradient to its reader's, measured and predicted.

    If no layer reads it through an activation alone, its reader is the next end of a branch for
    what is itself added to a stream, and else the first layer that it enters, as that behind an
    attention.
    """
    readers: list[list[int]] = [[] for _ in rows]
    entered: dict[Path | None, list[int]] = {}
    known: set[tuple[Path, Path]] = set()
    stream = []
    for number, row in enumerate(rows):
        site = row.place.site
        if row.source is not None:
            readers[row.source].append(number)
            known.add((site.path, rows[row.source].place.site.path))
        for path in {path for tag in site.inputs for path in tag.near}:
            entered.setdefault(path, []).append(number)
        if site.added:
            stream.append(number)
    ratios = []
    for number, row in enumerate(rows):
        site, mine = row.place.site, readers[number]
        following = mine[0] if mine else None
        if following is None and site.added:
            following = _next(stream, number)
        if following is None:
            following = _next(entered.get(site.path, []), number)
        measured = predicted = math.nan
        if following is not None:
            measured = _ratio(row.log_gradient, rows[following].log_gradient)
        # In another turn of a loop another site may be the reader.
        alone = all((reader, site.path) in known for reader in site.readers)
        if len(mine) == 1 and alone:
            predicted = predicted_gradient_ratio(row.forecast, rows[mine[0]].forecast)
        ratios.append((measured, predicted))
    return ratios


def _next(numbers: list[int], after: int) -> int | None:
    """The first of increasing numbers that is larger than another."""
    place = bisect.bisect_right(numbers, after)
    return numbers[place] if place < len(numbers) else None


def _ratio(log: float, log_of_reader: float) -> float:
    """The quotient of two squared norms, given by their logarithms."""
    difference = log - log_of_reader
    if math.isfinite(difference):
        return math.exp(max(-700.0, min(700.0, difference)))
    return 0.0 if log == -math.inf and math.isfinite(log_of_reader) else math.nan
