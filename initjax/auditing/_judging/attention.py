"""Attentions: what was measured of them, what theory predicts, and what is wrong with them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._judging.names import Parameter, suffix
from initjax.auditing._judging.sources import stacks
from initjax.auditing._measuring.passes import Measurements
from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.sites import AttentionSite
from initjax.auditing._reading.trace import Traced


@dataclasses.dataclass(frozen=True)
class Attention:
    """One softmax attention. NaN means not measured, or not predicted.

    All are means over heads, over a sample of sequences, and over queries that may read several
    keys. Predictions hold for normal scores of the measured standard deviation.
    """

    name: str
    """What the paths of its layers have in common."""
    keys: float
    """How many keys a query would read at equal scores: all but those that a mask or a position
    bias hides."""
    score_stddev: float
    """The standard deviation of the scores of one query, masks and position biases left out."""
    critical_stddev: float
    """sqrt(2 ln keys): with larger scores, a query reads only a few keys."""
    effective_keys: float
    """How many keys a query reads: 1 / (sum of squared weights)."""
    predicted_effective_keys: float
    """What theory predicts for `effective_keys`, from `score_stddev`."""
    entropy: float
    """Of the weights, relative to that of equal scores: ln keys without masks and biases."""
    predicted_entropy: float
    """What theory predicts for `entropy`, from `score_stddev`."""
    token_correlation: float
    """The mean cosine of two tokens, as the layer of the keys reads them."""
    predicted_token_correlation: float
    """What theory predicts for `token_correlation`, from the tokens that the first block reads; NaN
    for the first block, and where something that the audit can't follow comes between."""
    correlation: float
    """The mean cosine of two tokens of what the attention gives, in one head."""
    predicted_correlation: float
    """What theory predicts for `correlation`, from `token_correlation`; NaN where tokens attend to
    others than themselves, or each to its own window."""
    gradient_ratio: float
    """How much the loss changes with the queries and keys, relative to the values: the product of
    a signal's root mean square and its gradient's, for changes of the same relative size."""
    parameters: tuple[Parameter, ...]
    """The kernels of queries and keys."""

    def __repr__(self) -> str:
        return (
            f"<Attention {self.name}: score stddev {self.score_stddev:.3g}, reads"
            f" {self.effective_keys:.3g} of {self.keys:.3g} keys>"
        )


@dataclasses.dataclass(frozen=True)
class JudgedAttention(Attention):
    """An attention with what only the judgment needs."""

    site: AttentionSite
    queries: tuple[JudgedLayer, ...]
    """The layers behind queries and keys."""
    before: tuple[int, ...]
    """The numbers of the attentions upstream."""
    turn: int | None
    """Of the innermost loop that stacks its layers."""
    count: int
    """How many keys the last query may read, for theory."""
    causal: bool
    """Whether queries read more keys one by one."""
    stream: float
    """The mean square of what is normalized to give its tokens."""


_PUBLIC = tuple(field.name for field in dataclasses.fields(Attention))


def public_attention(attention: JudgedAttention) -> Attention:
    """The attention as users see it."""
    return Attention(**{name: getattr(attention, name) for name in _PUBLIC})


def attentions_of(
    traced: Traced, measured: Measurements, layers: Sequence[JudgedLayer]
) -> tuple[JudgedAttention, ...]:
    """Puts measurements and predictions together: one row for each attention that ran, and for each
    turn of a loop that has its own weights in every turn."""
    by_path: dict[Path, list[JudgedLayer]] = {}
    for layer in layers:
        by_path.setdefault(layer.path, []).append(layer)
    found: list[JudgedAttention] = []
    for site in traced.anatomy.attentions:
        for turns, numbers in _turns(site, by_path, measured.watched[site.path]):
            queries = _layers(site.query_sites | site.key_sites, by_path, turns)
            values = _layers(site.value_sites, by_path, turns)
            if numbers["keys"] > 1.5:
                turn = next(reversed(turns.values()), None)
                found.append(_attention(site, numbers, queries, values, found, turn))
    return tuple(found)


def _turns(
    site: AttentionSite,
    by_path: dict[Path, list[JudgedLayer]],
    record: dict[str, np.ndarray],
) -> Iterator[tuple[dict[Path, int], dict[str, float]]]:
    """The numbers of each turn of the loops that stack an attention's layers: means over others."""
    loops = [(path, length) for path, length in site.loops if length is not None]
    stacked: set[Path] = set()
    for path in site.query_sites | site.key_sites | site.value_sites:
        stacked |= {loop for layer in by_path.get(path, [])[:1] for loop in layer.site.stacked}
    for index in itertools.product(
        *(range(length) if path in stacked else (slice(None),) for path, length in loops)
    ):
        numbers = {}
        for name, array in record.items():
            taken = np.asarray(array, np.float64).reshape([length for _, length in loops])[index]
            known = taken[np.isfinite(taken)]
            numbers[name] = float(known.mean()) if known.size else math.nan
        paths = (path for path, _ in loops)
        pairs = zip(paths, index, strict=True)
        yield {path: turn for path, turn in pairs if isinstance(turn, int)}, numbers


def _layers(
    paths: frozenset[Path], by_path: dict[Path, list[JudgedLayer]], turns: dict[Path, int]
) -> tuple[JudgedLayer, ...]:
    return tuple(
        layer
        for path in sorted(paths)
        for layer in by_path.get(path, [])
        if all(
            turns.get(loop, turn) == turn
            for (loop, _), turn in zip(stacks(layer.site), layer.parameters[0].slice, strict=False)
        )
    )


def _attention(
    site: AttentionSite,
    numbers: dict[str, float],
    queries: tuple[JudgedLayer, ...],
    values: tuple[JudgedLayer, ...],
    earlier: Sequence[JudgedAttention],
    turn: int | None,
) -> JudgedAttention:
    stddev, most = math.sqrt(numbers["variance"]), numbers["most_keys"]
    # Rows of one key are not counted.
    causal = most > 4 and abs(numbers["keys"] - (most + 2) / 2) < 0.1 * most
    # Where each query has its own window of keys, the results of two are less alike.
    same = causal or numbers["keys"] > 0.99 * most
    count = round(most if causal else numbers["keys"])
    effective, entropy, alike = _predicted(
        count,
        causal,
        stddev,
        numbers.get("tokens", math.nan) if same and _reads_itself(queries) else math.nan,
    )
    upstream = {path for layer in queries for tag in layer.site.inputs for path in tag.sites}
    return JudgedAttention(
        name=_name([*queries, *values]),
        keys=1 / numbers["even"],
        score_stddev=stddev,
        critical_stddev=math.sqrt(2 * math.log(numbers["keys"])),
        effective_keys=1 / numbers["squares"],
        predicted_effective_keys=effective,
        entropy=numbers["entropy"],
        predicted_entropy=entropy,
        token_correlation=numbers.get("tokens", math.nan),
        predicted_token_correlation=math.nan,  # `through_blocks` knows it
        correlation=numbers["result"],
        predicted_correlation=alike,
        gradient_ratio=_gradient_ratio(queries, values),
        parameters=tuple(each for layer in queries for each in layer.parameters),
        site=site,
        queries=queries,
        before=tuple(
            number
            for number, other in enumerate(earlier)
            if other.site.path == site.path
            or any(layer.path in upstream for layer in other.queries)
        ),
        turn=turn,
        count=count,
        causal=causal,
        stream=numbers.get("stream", math.nan),
    )


def _reads_itself(queries: Sequence[JudgedLayer]) -> bool:
    """Whether queries and keys come from the same tokens."""
    read = [tuple((tag.sites, tag.batch) for tag in layer.site.inputs) for layer in queries]
    return len(set(read)) == 1


@functools.lru_cache(maxsize=1024)
def _predicted(keys: int, causal: bool, stddev: float, alike: float) -> tuple[float, float, float]:
    """The effective keys, the relative entropy, and the cosine of the results."""
    from initjax.theory.attention import attention_map, attention_weights

    if keys < 2 or not math.isfinite(stddev):
        return math.nan, math.nan, math.nan
    weights = attention_weights(stddev, keys, causal=causal)
    squares, entropy = weights.squares, weights.entropy / math.log(keys)
    if causal:  # without the row of one key
        squares = (keys * squares - 1) / (keys - 1)
        entropy = weights.entropy * keys / sum(map(math.log, range(2, keys + 1)))
    different = 1 - alike
    if not different > 1e-4:
        return 1 / squares, entropy, alike
    scale = stddev / math.sqrt(different)
    after = attention_map(max(alike, 0.0), keys, scale, causal=causal)
    return 1 / squares, entropy, after.correlation


def _gradient_ratio(queries: Sequence[JudgedLayer], values: Sequence[JudgedLayer]) -> float:
    if not {layer.path for layer in queries}.isdisjoint(layer.path for layer in values):
        return math.nan
    ours, theirs = (
        [layer.log_gradient / 2 + math.log(layer.rms) for layer in side if layer.rms > 0]
        for side in (queries, values)
    )
    difference = max(ours, default=math.nan) - max(theirs, default=math.nan)
    if math.isnan(difference):  # neither side has layers, or neither a gradient
        return math.nan
    return math.exp(max(-300.0, min(300.0, difference)))


def _name(layers: Sequence[JudgedLayer]) -> str:
    """What the paths of layers have in common."""
    parameters = [parameter for layer in layers for parameter in layer.parameters]
    paths = list(dict.fromkeys(parameter.path for parameter in parameters))
    if not paths:
        return "attention"
    parts = [path.split("/") for path in paths]
    common = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    if len(paths) == 1 and len(common) > 1:
        common.pop()
    return ("/".join(common) or " and ".join(paths[:2])) + suffix(parameters[:1])
