"""The layers of an audit: what was measured at every site, beside what theory predicts of it.

A chain of layers is predicted from the first one's input on, by the variance and correlation maps
of `initjax.theory`, with each layer's own fan-in, weights and activation. Where a layer's input is
no function of one other layer, a new chain begins there, and the layer says why.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Any

import numpy as np

from initjax.auditing.measure import FLAT, Measurements, steepest
from initjax.auditing.signals import IDENTITY, Expression, Path, Tag, name_of
from initjax.auditing.sites import Site
from initjax.auditing.trace import Traced
from initjax.theory._integrals import pair, single
from initjax.theory.finite_width import dead_fraction

_SLACK = 0.02  # of a log variance: what no theory of random weights is asked to explain


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
    samples: int
    """The examples and positions that each unit was seen at."""
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
    """Squared norm of that gradient as a part of the next layer's: a partial Jacobian norm."""
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
    """Of the pre-activations, in root mean squares from -4 to 4; the parts in 41 bins."""
    gradient_histogram: tuple[float, ...]

    # For the judgement; not shown.
    path: Path = dataclasses.field(repr=False)
    index: tuple[int, ...] = dataclasses.field(repr=False)
    source: int | None = dataclasses.field(repr=False)
    """The layer whose output, through its activation, is this one's input."""
    logits: bool = dataclasses.field(repr=False)
    """Whether its output enters a softmax and a logarithm."""
    saturating: bool = dataclasses.field(repr=False)
    """Whether its activation is flat on both sides."""
    whole: bool = dataclasses.field(repr=False)
    """Whether its weight is one parameter, as it stands."""
    weight_zeros: float = dataclasses.field(repr=False)
    weight_square: float = dataclasses.field(repr=False)
    log_gradient: float = dataclasses.field(repr=False)
    """Logarithm of the squared norm of the gradient with respect to the pre-activations."""
    silent: float = dataclasses.field(repr=False)
    input_largest: float = dataclasses.field(repr=False)
    expression: Expression | None = dataclasses.field(repr=False)
    parameters: tuple[int, ...] = dataclasses.field(repr=False)
    depth: int = dataclasses.field(repr=False)
    """The number of layers in its chain before it."""


@dataclasses.dataclass
class _Forecast:
    """What theory says of one layer's pre-activations."""

    square: float
    correlation: float
    variance_of_log: float
    """Of the logarithm of `square` in networks of this width, and its mean below."""
    mean_of_log: float
    own_variance: float
    """What a mean square over this many units adds when it is measured."""
    depth: int


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
    forecasts: list[_Forecast] = []
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
        forecast = _forecast(
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
    shared = sum(isinstance(part, slice) for part in where)
    taken = {}
    for name, array in record.items():
        part = array[where].astype(np.float64)
        taken[name] = part.mean(axis=tuple(range(shared))) if shared else part
    return taken


def _name(traced: Traced, site: Site, index: tuple[int, ...]) -> str:
    names = [traced.names[source.leaf] or "params" for source in sorted(site.sources)]
    number = "".join(f"[{turn}]" for turn in index)
    return " @ ".join(dict.fromkeys(names)) + number


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


def _forecast(
    site: Site, forward: dict[str, Any], source: Layer | None, before: _Forecast | None
) -> _Forecast:
    gain = site.scale**2 * site.fan_in * float(forward["weight_square"])
    bias = float(forward["bias_square"])
    units = max(1.0, float(forward["units"]))
    given = _Forecast(
        gain * float(forward["input_square"]) + bias,
        float(forward["correlation"]),
        0.0,
        0.0,
        2 / units * _together(float(forward["correlation"]), forward, 0),
        0,
    )
    if source is None or before is None or source.expression is None:
        return given
    if not (math.isfinite(before.square) and 0 < before.square < 1e30):
        return given
    try:
        one = single(source.expression, before.square)
        second, fourth = float(one.second), float(one.fourth)
        if not second > 0:
            return given
        square = gain * second + bias
        correlation = math.nan
        if math.isfinite(before.correlation):
            c = min(1.0, max(-1.0, before.correlation))
            gap = pair(source.expression, before.square, c).gap
            correlation = (gain * (second - gap) + bias) / square if square else math.nan
    except (TypeError, ValueError):
        return given
    # Of the mean of phi^2 over a finite number of units, and of what their own variance does to it.
    spread = max(0.0, fourth / second**2 - 1) / max(1, source.units)
    spread *= _together(before.correlation, forward, before.depth)
    slope = float(one.slope) * before.square / second
    bend = slope - slope**2 + float(one.curvature) * before.square**2 / second
    part = gain * second / square if square else 0.0  # what a bias adds does not fluctuate
    return _Forecast(
        square,
        correlation,
        part**2 * (slope**2 * before.variance_of_log + spread),
        part * (slope * before.mean_of_log + bend / 2 * before.variance_of_log - spread / 2),
        2 / units * _together(correlation, forward, before.depth + 1),
        before.depth + 1,
    )


def _together(correlation: float, forward: dict[str, Any], depth: int) -> float:
    """The variance of a mean over examples of squares, as a part of that of one example.

    Two squares of normal numbers with correlation c have correlation c^2: examples that are alike
    scatter together, others average out. Every layer of a finite width adds chance to c.
    """
    if not math.isfinite(correlation):
        return 1.0
    chance = (depth + 1) / max(1.0, float(forward["units"]))
    square = min(1.0, correlation**2 + chance)
    return square + (1 - square) / max(1.0, float(forward["samples"]))


def _layer(
    traced: Traced,
    measured: Measurements,
    site: Site,
    index: tuple[int, ...],
    name: str,
    forward: dict[str, Any],
    backward: dict[str, Any],
    forecast: _Forecast,
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
    samples = int(forward["samples"])
    return Layer(
        name=name,
        kind=site.kind,
        shape=tuple(shape),
        fan_in=site.fan_in,
        fan_out=site.fan_out,
        units=int(forward["units"]),
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
        gradient=math.exp(min(700.0, log_gradient - math.log(max(1.0, count))) / 2)
        if not math.isnan(log_gradient)
        else math.nan,
        gradient_ratio=math.nan,
        gradient_rank=float(backward.get("rank", math.nan)),
        update_ratio=found["update"] / stddev if "update" in found and stddev > 0 else math.nan,
        weight_rank=float(forward["weight_rank"]),
        predicted_rms=math.sqrt(forecast.square) if forecast.square < math.inf else math.inf,
        predicted_range=_range(forecast),
        rms_z=_z(square, forecast),
        predicted_gradient_ratio=math.nan,
        predicted_correlation=forecast.correlation if forecast.depth else math.nan,
        predicted_dead=_predicted_dead(activation, forward),
        predicted_saturated=_normal_flat(activation) if flat and activation else math.nan,
        unpredicted=reason,
        histogram=tuple(np.atleast_1d(forward["histogram"]).tolist()),
        gradient_histogram=tuple(np.atleast_1d(backward["histogram"]).tolist())
        if "histogram" in backward
        else (),
        path=site.path,
        index=index,
        source=source if forecast.depth else None,
        logits=site.softmax,
        saturating=activation is not None and _flat_sides(activation) == (True, True),
        whole=len(site.sources) == 1 and all(source.how == "whole" for source in site.sources),
        weight_zeros=float(forward["weight_zeros"]),
        weight_square=float(forward["weight_square"]),
        log_gradient=log_gradient,
        silent=float(backward.get("silent", math.nan)),
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


def _range(forecast: _Forecast) -> tuple[float, float]:
    if not 0 < forecast.square < math.inf:
        return forecast.square**0.5, forecast.square**0.5
    middle = math.log(forecast.square) + forecast.mean_of_log - forecast.own_variance / 2
    # Half of the log, and twice its deviation.
    half, deviation = middle / 2, math.sqrt(forecast.variance_of_log + forecast.own_variance)
    return math.exp(half - deviation), math.exp(half + deviation)


def _z(square: float, forecast: _Forecast) -> float:
    if not (0 < square < math.inf and 0 < forecast.square < math.inf):
        return math.nan if square == forecast.square else math.inf
    error = math.log(square / forecast.square)
    error -= forecast.mean_of_log - forecast.own_variance / 2
    return error / math.sqrt(forecast.variance_of_log + forecast.own_variance + _SLACK**2)


@functools.lru_cache(maxsize=256)
def _flat_sides(expression: Expression) -> tuple[bool, bool]:
    """Whether an activation is flat at -6, and at 6."""
    slope = np.abs(_slopes(expression, np.array([-6, 6], np.float32)))
    left, right = (slope < FLAT * steepest(expression)).tolist()
    return left, right


def _slopes(expression: Expression, z: np.ndarray) -> np.ndarray:
    import jax

    with jax.ensure_compile_time_eval():
        return np.asarray(jax.jvp(expression, (z,), (np.ones_like(z),))[1])


@functools.lru_cache(maxsize=256)
def _rectifies(expression: Expression) -> bool:
    """Whether it is exactly flat on one side of zero and not on the other."""
    flat = (_slopes(expression, np.array([-4, -1, -0.01, 0.01, 1, 4], np.float32)) == 0).tolist()
    return flat in ([True] * 3 + [False] * 3, [False] * 3 + [True] * 3)


def _predicted_dead(expression: Expression | None, forward: dict[str, Any]) -> float:
    """The part of a rectifier's units that are flat on a whole batch, if biases were zero.

    It follows from the measured correlation, less what the biases add to it: chance makes a narrow
    layer's inputs more alike than those of an infinite one.
    """
    square, bias = float(forward["square"]), float(forward["bias_square"])
    samples, correlation = int(forward["samples"]), float(forward["correlation"])
    if expression is None or samples < 2 or not _rectifies(expression):
        return math.nan
    if not (math.isfinite(correlation) and square - bias > 1e-6 * square):
        return math.nan
    alike = (correlation * square - bias) / (square - bias)
    return float(dead_fraction(min(1.0, max(0.0, alike)), samples))


@functools.lru_cache(maxsize=256)
def _normal_flat(expression: Expression) -> float:
    """The part of unit normal inputs at which an activation is flat."""
    z = np.linspace(-6, 6, 4001, dtype=np.float32)
    flat = np.abs(_slopes(expression, z)) < FLAT * steepest(expression)
    density = np.exp(-(z.astype(np.float64) ** 2) / 2)
    return float((density * flat).sum() / density.sum())


def _with_ratios(found: list[Layer], sites: dict[Path, Site]) -> list[Layer]:
    """The layers with the ratio of each one's gradient to its reader's, measured and predicted."""
    readers: dict[int, list[int]] = {}
    for row, layer in enumerate(found):
        if layer.source is not None:
            readers.setdefault(layer.source, []).append(row)
    known = {(layer.path, found[layer.source].path) for layer in found if layer.source is not None}
    done = []
    for row, layer in enumerate(found):
        mine = readers.get(row, [])
        next_row = mine[0] if mine else row + 1
        ratio = predicted = math.nan
        if next_row < len(found):
            difference = layer.log_gradient - found[next_row].log_gradient
            if math.isfinite(difference):
                ratio = math.exp(max(-700.0, min(700.0, difference)))
            elif layer.log_gradient == -math.inf and math.isfinite(found[next_row].log_gradient):
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
