"""The layers of an audit: what was measured at every site, beside what theory predicts of it.

A chain of layers is predicted from the first one's input on, by the variance and correlation maps
of `initjax.theory`, with each layer's own fan-in, weights and activation. Where a layer's input is
no function of one other layer, a new chain begins there, and the layer says why.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from initjax.auditing._judging.predictions import (
    Forecast,
    flat_sides,
    forecast_of,
    normal_flat,
    predicted_dead,
    range_of,
    z_score,
)
from initjax.auditing._measuring.passes import Measurements
from initjax.auditing._measuring.statistics import over_turns
from initjax.auditing._reading.expressions import IDENTITY, Expression, Path, name_of
from initjax.auditing._reading.sites import Site
from initjax.auditing._reading.tags import Tag
from initjax.auditing._reading.trace import Traced
from initjax.theory._integrals import single


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer: what was measured, and what theory predicts of it. NaN stands for not measured."""

    name: str
    """The path of the parameter, with the number of its slice if loops stack it."""
    kind: str
    """'dense', 'convolution' or 'embedding'."""
    shape: tuple[int, ...]
    """The parameter's."""
    fan_in: float
    """How many products a unit sums, on average over positions."""
    fan_out: float
    """How many products an input enters, on average."""
    units: int
    members: int
    """How many layers stand side by side, as under vmap; ranks are those of the worst of them."""
    samples: int
    """The examples and positions that each unit was seen at; 0 if the layer did not run, as in a
    branch that was not taken."""
    uses: int
    """How often a loop uses it; the numbers are means over them."""
    activation: str
    """What is applied to the pre-activation; "" where that is not one function of it alone."""
    role: str
    """'', 'branch end' (its output is added to what it came from), 'sum' (to something else),
    'normalised' (its output is normalised) or 'last'."""

    weight_variance: float
    """fan_in times the mean square of the weights: the variance of a pre-activation whose inputs
    have mean square one."""
    bias_variance: float
    input_square: float
    mean: float
    stddev: float
    """Of the pre-activations, over units and samples; bias included."""
    rms: float
    """Their root mean square: what theory predicts."""
    unit_stddev: float
    """Root mean square over units of the standard deviation over samples."""
    dead: float
    """The part of the units that are flat on all samples."""
    saturated: float
    """The part of the pre-activations where the activation is flat."""
    correlation: float
    """Mean cosine of the pre-activations of two examples."""
    rank: float
    """Effective number of functions that the units compute."""
    gradient: float
    """Root mean square of the loss's gradient with respect to the pre-activations."""
    gradient_ratio: float
    """Squared norm of that gradient as a part of that of the layer which reads this one: a partial
    Jacobian norm. Along a residual stream, of the next end of a branch."""
    gradient_rank: float
    update_ratio: float
    """Standard deviation of the optimizer's first update as a part of the weights'."""
    weight_rank: float

    predicted_rms: float
    predicted_range: tuple[float, float]
    """Between which root mean squares 95 % of the networks of these widths lie."""
    rms_z: float
    """How many standard deviations of finite width the measured log variance is off."""
    predicted_gradient_ratio: float
    predicted_correlation: float
    predicted_dead: float
    predicted_saturated: float
    unpredicted: str
    """Why theory takes this layer's input as given; "" where it follows from another layer."""

    histogram: tuple[float, ...]
    """Of the pre-activations, in root mean squares from -4 to 4; the parts in 41 bins. Empty for
    what was not measured."""
    gradient_histogram: tuple[float, ...]

    # For the judgement; not shown.
    path: Path = dataclasses.field(repr=False)
    index: tuple[int, ...] = dataclasses.field(repr=False)
    source: int | None = dataclasses.field(repr=False)
    """The layer whose output, through its activation, is this one's input."""
    logits: bool = dataclasses.field(repr=False)
    """Whether its output enters a softmax and a logarithm."""
    classes: int = dataclasses.field(repr=False)
    """How many logits each of these softmaxes has."""
    saturating: bool = dataclasses.field(repr=False)
    """Whether its activation is flat on both sides."""
    whole: bool = dataclasses.field(repr=False)
    """Whether its weight is one parameter, as it stands."""
    weight_zeros: float = dataclasses.field(repr=False)
    weight_square: float = dataclasses.field(repr=False)
    weight_least: float = dataclasses.field(repr=False)
    """The mean square of the weights of the member that has the smallest."""
    weight_mean: float = dataclasses.field(repr=False)
    log_gradient: float = dataclasses.field(repr=False)
    """Logarithm of the squared norm of the gradient with respect to the pre-activations."""
    input_largest: float = dataclasses.field(repr=False)
    expression: Expression | None = dataclasses.field(repr=False)
    parameters: tuple[int, ...] = dataclasses.field(repr=False)
    """The indices of the parameters that its weight is made of."""
    depth: int = dataclasses.field(repr=False)
    """The number of layers in its chain before it."""


def layers(traced: Traced, measured: Measurements) -> list[Layer]:
    """Puts measurements and predictions together.

    Args:
      traced: the program.
      measured: what one pass found.

    Returns:
      The layers in the order of execution: one for every site, and for every turn of a loop that
      has weights of its own in every turn.
    """
    sites = traced.anatomy.sites
    rows: list[tuple[Site, tuple[int, ...]]] = []
    for group in _nests(list(sites.values())):
        stacks = _stacks(group[0])
        for index in itertools.product(*(range(length) for _, length in stacks)):
            rows += [(site, index) for site in group]
    numbers = {(site.path, index): row for row, (site, index) in enumerate(rows)}
    logits = [row for row, (site, _) in enumerate(rows) if site.softmax]
    last = max(logits, default=len(rows) - 1)
    uses: dict[str, int] = {}
    found: list[Layer] = []
    forecasts: list[Forecast] = []
    for row, (site, index) in enumerate(rows):
        forward = _at(measured.forward[site.path], site, index)
        backward = _at(measured.backward.get(site.path, {}), site, index)
        name = _name(traced, site, index)
        uses[name] = uses.get(name, 0) + 1
        if uses[name] > 1:
            name = f"{name} (use {uses[name]})"
        source, reason = _source(site, index, numbers, sites)
        if source is not None and source >= row:
            source, reason = None, "a loop"
        forecast = forecast_of(
            site,
            forward,
            found[source] if source is not None else None,
            forecasts[source] if source is not None else None,
        )
        forecasts.append(forecast)
        found.append(
            _layer(
                traced,
                measured,
                site,
                index,
                name,
                forward,
                backward,
                forecast,
                source,
                reason,
                row == last,
            )
        )
    return _with_ratios(found, sites)


def that_ran(found: Sequence[Layer]) -> list[Layer]:
    """The layers that ran, with their sources numbered among them."""
    numbers = {
        row: number for number, row in enumerate(r for r, f in enumerate(found) if f.samples)
    }
    return [
        dataclasses.replace(layer, source=numbers.get(-1 if layer.source is None else layer.source))
        for layer in found
        if layer.samples
    ]


def _nests(sites: list[Site]) -> list[list[Site]]:
    """Sites that are stacked by the same loops and follow each other."""
    groups: list[list[Site]] = []
    for site in sites:
        if groups and _stacks(site) and _stacks(site) == _stacks(groups[-1][0]):
            groups[-1].append(site)
        else:
            groups.append([site])
    return groups


def _stacks(site: Site) -> tuple[tuple[Path, int], ...]:
    """The loops that give a site a weight of its own in every turn."""
    return tuple(
        (path, length) for path, length in site.loops if path in site.stacked and length is not None
    )


def _at(record: dict[str, np.ndarray], site: Site, index: tuple[int, ...]) -> dict[str, Any]:
    """The numbers of one turn; means over the turns of loops that share the weights."""
    stacks = [path for path, _ in _stacks(site)]
    loops = [path for path, length in site.loops if length is not None]
    where = tuple(index[stacks.index(path)] if path in stacks else slice(None) for path in loops)
    taken = {name: array[where].astype(np.float64) for name, array in record.items()}
    return over_turns(taken, sum(isinstance(part, slice) for part in where))


def _name(traced: Traced, site: Site, index: tuple[int, ...]) -> str:
    names = [traced.names[source.leaf] or "params" for source in sorted(site.sources)]
    number = "".join(f"[{turn}]" for turn in index)
    return " and ".join(dict.fromkeys(names)) + number


def _source(
    site: Site,
    index: tuple[int, ...],
    numbers: dict[tuple[Path, tuple[int, ...]], int],
    sites: dict[Path, Site],
) -> tuple[int | None, str]:
    """The layer whose output this one reads, or why there is none."""
    tag = site.inputs[0]
    if index:
        loop, length = _stacks(site)[-1]
        first = length - 1 if loop in site.backward else 0
        tag = tag if index[-1] == first else site.inputs[-1]
    if site.kind == "embedding":
        return None, "an embedding"
    if len(site.loops) > len(index):
        tag = site.inputs[-1]
        if len(site.inputs) > 1:
            return None, "a loop that shares its weights"
    signal = tag.signal
    if signal is None or signal.site is None or not isinstance(signal.expression, Expression):
        return None, _reason(tag)
    candidates = [(path, turn) for path, turn in numbers if path == signal.site]
    back = 1 if signal.earlier else 0
    wanted = (*index[:-1], index[-1] - back) if index else ()
    for path, turn in candidates:
        if turn == wanted:
            return numbers[path, turn], ""
    if candidates and len(candidates[0][1]) > len(index):
        stacks = [path for path, _ in _stacks(sites[signal.site])]
        if set(stacks) & set(signal.layout):
            return None, "all turns of a loop"
        same = [turn for _, turn in candidates if turn[: len(index)] == index]
        if same:  # what a loop leaves is its last turn's
            steps = [-1 if path in sites[signal.site].backward else 1 for path in stacks]
            last = max(same, key=lambda turn: [a * b for a, b in zip(turn, steps, strict=True)])
            return numbers[signal.site, last], ""
    if candidates and len(candidates[0][1]) < len(index):
        return numbers[candidates[0]], ""
    return None, _reason(tag)


def _reason(tag: Tag) -> str:
    return {"the batch": "the batch", "": "a loop"}.get(tag.lost, tag.lost)


def _layer(
    traced: Traced,
    measured: Measurements,
    site: Site,
    index: tuple[int, ...],
    name: str,
    forward: dict[str, Any],
    backward: dict[str, Any],
    forecast: Forecast,
    source: int | None,
    reason: str,
    last: bool,
) -> Layer:
    square, mean = float(forward["square"]), float(forward["mean"])
    variance = max(0.0, square - mean**2)
    leaf = min(site.sources).leaf if site.sources else 0
    shape = traced.shapes[leaf].shape[len(index) :]
    log_gradient = float(backward.get("log_square", math.nan))
    count = float(forward["samples"]) * float(forward["units"])
    found = measured.parameters[leaf] if len(site.sources) == 1 else {}
    stddev = found.get("stddev", 0.0)
    activation = site.activation if isinstance(site.activation, Expression) else None
    flat = activation is not None and activation != IDENTITY
    samples, units = (int(np.nan_to_num(forward[name])) for name in ("samples", "units"))
    return Layer(
        name=name,
        kind=site.kind,
        shape=tuple(shape),
        fan_in=site.fan_in,
        fan_out=site.fan_out,
        units=units,
        members=int(np.nan_to_num(forward["members"])),
        samples=samples,
        uses=math.prod(
            length for path, length in site.loops if length and path not in site.stacked
        ),
        activation=name_of(activation) if activation is not None else "",
        role=_role(site, last),
        weight_variance=site.scale**2 * site.fan_in * float(forward["weight_square"]),
        bias_variance=float(forward["bias_square"]),
        input_square=float(forward["input_square"]),
        mean=mean,
        stddev=math.sqrt(variance) if math.isfinite(variance) else variance,
        rms=math.sqrt(square) if math.isfinite(square) else square,
        unit_stddev=math.sqrt(max(0.0, float(forward["unit_variance"])))
        if samples > 1
        else math.nan,
        dead=float(forward["dead"]) if flat and samples > 1 else math.nan,
        saturated=float(forward["flat"]) if flat else math.nan,
        correlation=float(forward["correlation"]),
        rank=float(forward["rank"]) if samples > 1 else math.nan,
        gradient=float(np.exp((log_gradient - math.log(max(1.0, count))) / 2))
        if not math.isnan(log_gradient)
        else math.nan,
        gradient_ratio=math.nan,
        gradient_rank=float(backward.get("rank", math.nan)),
        update_ratio=found["update"] / stddev if "update" in found and stddev > 0 else math.nan,
        weight_rank=float(forward["weight_rank"]),
        predicted_rms=forecast.square**0.5,
        predicted_range=range_of(forecast),
        rms_z=z_score(square, forecast),
        predicted_gradient_ratio=math.nan,
        predicted_correlation=forecast.correlation if forecast.depth else math.nan,
        predicted_dead=predicted_dead(activation, forward),
        predicted_saturated=normal_flat(activation) if flat and activation else math.nan,
        unpredicted=reason,
        histogram=tuple(forward["histogram"].tolist()) if samples else (),
        gradient_histogram=()
        if math.isnan(log_gradient)
        else tuple(backward["histogram"].tolist()),
        path=site.path,
        index=index,
        source=source if forecast.depth else None,
        logits=site.softmax,
        classes=site.classes,
        saturating=activation is not None and flat_sides(activation) == (True, True),
        whole=len(site.sources) == 1 and all(source.how == "whole" for source in site.sources),
        weight_zeros=float(forward["weight_zeros"]),
        weight_square=float(forward["weight_square"]),
        weight_least=float(forward["weight_least"]),
        weight_mean=float(forward["weight_mean"]),
        log_gradient=log_gradient,
        input_largest=float(forward["input_largest"]),
        expression=activation,
        parameters=tuple(sorted({source.leaf for source in site.sources})),
        depth=forecast.depth,
    )


def _role(site: Site, last: bool) -> str:
    if site.residual:
        return "branch end"
    if site.normalised and not site.added:
        return "normalised"
    if site.added:
        return "sum"
    return "last" if last else ""


def _with_ratios(found: list[Layer], sites: dict[Path, Site]) -> list[Layer]:
    """The layers with the ratio of each one's gradient to its reader's, measured and predicted.

    Where no layer reads it through an activation alone, it is the next end of a branch for what is
    itself added to a stream, and else the first layer that it enters, as that behind an attention.
    """
    readers: dict[int, list[int]] = {}
    for row, layer in enumerate(found):
        if layer.source is not None:
            readers.setdefault(layer.source, []).append(row)
    known = {(layer.path, found[layer.source].path) for layer in found if layer.source is not None}

    def next_row(row: int) -> int | None:
        layer, later = found[row], range(row + 1, len(found))
        if readers.get(row):
            return readers[row][0]
        entered = (
            other
            for other in later
            if any(layer.path in tag.near for tag in sites[found[other].path].inputs)
        )
        if not sites[layer.path].added:
            return next(entered, None)
        stream = (other for other in later if sites[found[other].path].added)
        return next(stream, next(entered, None))

    done = []
    for row, layer in enumerate(found):
        mine = readers.get(row, [])
        following = next_row(row)
        ratio = predicted = math.nan
        if following is not None:
            difference = layer.log_gradient - found[following].log_gradient
            if math.isfinite(difference):
                ratio = math.exp(max(-700.0, min(700.0, difference)))
            elif layer.log_gradient == -math.inf and math.isfinite(found[following].log_gradient):
                ratio = 0.0
        # In another turn of a loop another site may be the reader.
        alone = all((reader, layer.path) in known for reader in sites[layer.path].readers)
        if len(mine) == 1 and alone and layer.expression is not None:
            square = layer.predicted_rms**2
            if 0 < square < 1e30:
                slope = float(single(layer.expression, square).derivative_second)
                predicted = found[mine[0]].weight_variance * slope
        done.append(
            dataclasses.replace(layer, gradient_ratio=ratio, predicted_gradient_ratio=predicted)
        )
    return done
