"""Predicts how alike tokens are at each attention, from the first block's measured input on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

from initjax.auditing._judging.attention import JudgedAttention
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._judging.sources import stacks
from initjax.auditing._reading.expressions import Path
from initjax.auditing._reading.sites import Blocks, Step
from initjax.theory._integrals import pair, single


class _Tokens(NamedTuple):
    """What theory knows of an array of tokens."""

    square: float
    """The mean square of their numbers."""
    cosine: float
    """Of two tokens of a sequence."""

    @property
    def product(self) -> float:
        """The mean product of the same numbers of two tokens."""
        return self.square * self.cosine


_Place = tuple[Path, int | None]
"""A layer or an attention, and the turn of the loop around it."""


def through_blocks(
    blocks: Sequence[Blocks],
    attentions: Sequence[JudgedAttention],
    layers: Sequence[JudgedLayer],
) -> tuple[JudgedAttention, ...]:
    """Predicts the cosine of two tokens before each attention.

    Args:
      blocks: what comes between attentions.
      attentions: what was measured of them.
      layers: the layers between them.

    Returns:
      The attentions, with the cosines of those that follow from another one.
    """
    measured = {
        (each.site.path, each.turn): (number, each)
        for number, each in enumerate(attentions)
        if len(each.site.loops) == (each.turn is not None)
    }
    by_place: dict[_Place, JudgedLayer] = {}
    for layer in layers:
        turn = layer.parameters[0].slice[0] if stacks(layer.site) else None
        by_place.setdefault((layer.path, turn), layer)
    found: dict[int, float] = {}
    for each in blocks:
        paths = {path for path, _ in each.tokens}
        turns = [turn for path, turn in measured if path in paths]
        carried: dict[int, _Tokens] = {}
        for turn in dict.fromkeys(turns):
            theory = _Theory(each, turn, measured, by_place, carried)
            theory.follow(found)
            carried = {
                before: tokens
                for before, after in each.carried
                if (tokens := theory.known[after]) is not None
            }
    return tuple(
        dataclasses.replace(each, predicted_token_correlation=found.get(number, math.nan))
        for number, each in enumerate(attentions)
    )


class _Theory:
    """Follows the steps of one program, or of one turn of a loop."""

    def __init__(
        self,
        blocks: Blocks,
        turn: int | None,
        measured: dict[_Place, tuple[int, JudgedAttention]],
        layers: dict[_Place, JudgedLayer],
        start: dict[int, _Tokens],
    ) -> None:
        self.steps, self.tokens, self.turn = blocks.steps, blocks.tokens, turn
        self.measured, self.layers, self.start = measured, layers, start
        self.known: list[_Tokens | None] = [None] * len(blocks.steps)
        self.squares: dict[int, float] = {}
        """Of normalized tokens, as layers read them."""
        for step in self.steps:
            layer = self._layer(step) if step.kind == "layer" else None
            if layer is not None and self.steps[step.inputs[0]].kind == "norm":
                self.squares.setdefault(step.inputs[0], layer.input_square)

    def _layer(self, step: Step) -> JudgedLayer | None:
        whole = self.layers.get((step.path, None))
        return self.layers.get((step.path, self.turn), whole)

    def follow(self, found: dict[int, float]) -> None:
        """Goes through all steps, and starts again at attentions that don't follow from others."""
        attended: dict[int, list[tuple[int, JudgedAttention]]] = {}
        for path, number in self.tokens:
            if (path, self.turn) in self.measured:
                attended.setdefault(number, []).append(self.measured[path, self.turn])
        number = 0
        while number < len(self.steps):
            step = self.steps[number]
            self.known[number] = self.start.get(number) or self._after(step, number)
            reached, measured = self.known[number], attended.get(number, [])
            if measured and reached is not None:
                found.update((each, reached.cosine) for each, _ in measured)
            elif measured:
                first = step.inputs[0] if step.kind == "norm" else number
                start = self._measured(measured[0][1], normalized=step.kind == "norm")
                if start is not None:
                    self.start[first], number = start, first
                    attended[max(first, self.steps.index(step))] = []
                    continue
            number += 1

    def _measured(self, attention: JudgedAttention, normalized: bool) -> _Tokens | None:
        squares = [layer.input_square for layer in attention.queries]
        square = attention.stream if normalized else max(squares, default=math.nan)
        if not (0 < square < math.inf and -1 <= attention.token_correlation <= 1):
            return None
        return _Tokens(square, attention.token_correlation)

    def _after(self, step: Step, number: int) -> _Tokens | None:
        """What a step makes of what comes before; None if that is not known."""
        inputs = [tokens for tokens in (self.known[each] for each in step.inputs) if tokens]
        if not inputs or len(inputs) < len(step.inputs):
            return None
        first = inputs[0]
        if step.kind == "norm":
            return first._replace(square=self.squares.get(number, 1.0))
        if step.kind == "scale":
            return first._replace(square=step.number**2 * first.square)
        if step.kind == "sum":
            return _tokens(
                sum(each.square for each in inputs), sum(each.product for each in inputs)
            )
        if step.kind == "product":
            return _tokens(
                math.prod(each.square for each in inputs),
                math.prod(each.product for each in inputs),
            )
        if step.kind == "layer":
            layer = self._layer(step)
            if layer is None:
                return None
            gain, bias = layer.weight_variance, layer.bias_variance
            return _tokens(gain * first.square + bias, gain * first.product + bias)
        if step.kind == "activated" and step.activation is not None:
            try:
                second = float(single(step.activation, first.square).second)
                gap = pair(step.activation, first.square, first.cosine).gap
            except ValueError:  # it grows too fast to have a mean square
                return None
            return _tokens(second, second - gap)
        if step.kind == "attention":
            return self._attended(step, first)
        return None

    def _attended(self, step: Step, values: _Tokens) -> _Tokens | None:
        from initjax.theory.attention import attention_map

        _, attention = self.measured.get((step.path, self.turn), (0, None))
        number = dict(self.tokens)[step.path]
        tokens = self.known[number]
        if attention is None or tokens is None or math.isnan(attention.predicted_correlation):
            return None
        if not 0 < values.square < math.inf:
            return values
        different = max(1 - attention.token_correlation, 1e-4)
        square = max((layer.input_square for layer in attention.queries), default=math.nan)
        scores = attention.score_stddev / math.sqrt(different)  # of tokens at right angles
        scores *= tokens.square / square
        after = attention_map(
            values.cosine,
            attention.count,
            scores / values.square,
            variance=values.square,
            causal=attention.causal,
        )
        return _tokens(after.variance, after.variance * after.correlation)


def _tokens(square: float, product: float) -> _Tokens | None:
    if not (0 <= square < math.inf and math.isfinite(product)):
        return None
    cosine = product / square if square > 0 else 0.0
    return _Tokens(square, min(1.0, max(-1.0, cosine)))
