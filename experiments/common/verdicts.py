"""Verdicts: the results of comparisons in words, which follow only from statistical tests."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.common import comparison, description, statistics
from experiments.common.config import Config

_FEW = 6  # seeds: with fewer, the p value of a sign-flip test can't be below 0.05
_LABEL = 24  # characters: longer names of initializers get a line of their own


def verdict(pair: comparison.Pair, endpoint: comparison.Endpoint, epochs: int) -> str:
    """The result of a pair's tests, as a sentence.

    Args:
      pair: from `comparison.pairs`.
      endpoint: by which it was compared.
      epochs: of training, for the sentence.
    """
    kind, first, second = _finding(pair, endpoint)
    return _sentence(kind, first, [(second, pair)], endpoint, epochs)


def _finding(pair: comparison.Pair, endpoint: comparison.Endpoint) -> tuple[str, str, str]:
    """Whether a pair differs, is equivalent or neither; the better initializer comes first."""
    first, second = pair.first, pair.second
    if endpoint.sign * pair.comparison.difference.value < 0:
        first, second = second, first
    if pair.p <= 1 - statistics.LEVEL:
        return "ahead", first, second
    if pair.p_equivalence <= 1 - statistics.LEVEL:
        return "equivalent", first, second
    return "unknown", first, second


def _sentence(
    kind: str,
    first: str,
    others: list[tuple[str, comparison.Pair]],
    point: comparison.Endpoint,
    epochs: int,
) -> str:
    """One sentence for all pairs of an initializer that have the same kind of result."""
    when = point.when.format(epochs=description.count(epochs, "epoch"))

    def amount(value: float) -> str:
        return f"{abs(value) * point.scale:.{point.digits}f} {point.unit}".strip()

    names = [name for name, _ in others]
    margin = f"within {(point.margin or 0) * point.scale:g} {point.unit}"
    if kind == "ahead":
        parts = []
        for name, pair in others:
            also = pair.p_equivalence <= 1 - statistics.LEVEL
            difference = amount(pair.comparison.difference.value)
            words = f"by {difference} ({p_text(pair.p)})" + f", but equivalent {margin}" * also
            parts.append((name, words))
        if len(parts) == 1:
            ((name, words),) = parts
            return f"{first} is ahead of {name} {when} {words}"
        listed = "; ".join(f"of {name} {words}" for name, words in parts)
        return f"{first} is ahead {when}: {listed}"
    if kind == "equivalent":
        if len(names) == 1:
            return f"{first} and {names[0]} are equivalent {when} {margin}"
        return f"{first} is equivalent to {_listed(names, 'and')} {when} {margin}"
    largest = amount(max(pair.comparison.detectable for _, pair in others))
    return (
        f"no difference between {first} and {_listed(names, 'or')} was found {when}; the tests"
        f" had {statistics.POWER:.0%} power to detect a difference of {largest}"
    )


def _listed(names: list[str], word: str) -> str:
    *most, last = names
    return f"{', '.join(most)} {word} {last}" if most else last


def p_text(p: float) -> str:
    """A p value as text."""
    return "p < 1e-9" if p < 1e-9 else f"p = {p:.2g}"


def summary(setting: comparison.Setting) -> list[str]:
    """The main results of a setting, in a few sentences."""
    sentences = []
    if 1 < len(setting.seeds) < _FEW:
        sentences.append(
            f"with only {len(setting.seeds)} seeds, tests detect little, and rely on normally"
            " distributed differences"
        )
    learners = []
    for init, learned in zip(setting.inits, setting.trained, strict=True):
        count, n = int(np.nansum(learned)), int(np.isfinite(learned).sum())
        if count:
            learners.append(init)
        if count < n:
            share = statistics.share_interval(count, n)
            sentences.append(
                f"{init}: {count} of {n} runs learned anything"
                f" (95% interval {share.low:.0%} to {share.high:.0%})"
            )
    for endpoint in ("first_loss", "final_acc"):
        means = dict(zip(setting.inits, _means(setting, endpoint), strict=True))
        point = setting.endpoints[endpoint]
        ranked = sorted(learners, key=lambda init: -point.sign * means[init])
        named = {frozenset(pair[:2]): pair for pair in comparison.pairs(setting, endpoint)}
        found: dict[tuple[str, str], list[tuple[str, comparison.Pair]]] = {}
        for init in ranked[1:]:
            if pair := named.get(frozenset((ranked[0], init))):
                # Means are over all seeds, but a pair is compared on the seeds that it shares.
                kind, first, second = _finding(pair, point)
                found.setdefault((kind, first), []).append((second, pair))
        for (kind, first), others in found.items():
            sentences.append(_sentence(kind, first, others, point, setting.fields["epochs"]))
    return sentences


def _means(setting: comparison.Setting, endpoint: str) -> list[float]:
    return [float(np.nanmean(row)) for row in setting.finite(endpoint)]


def lines(setting: comparison.Setting) -> list[str]:
    """The table and the summary of a setting for a terminal, 80 columns wide."""
    table = comparison.table(setting)
    labels = {line["init"]: line["init"] for line in table}
    if setting.fields["learning_rate"] is None:
        labels = {line["init"]: f"{line['init']} @ {line['learning_rate']:g}" for line in table}
    width = max((len(label) for label in labels.values() if len(label) <= _LABEL), default=0)
    shown = textwrap.wrap(describe(setting.fields), 80)
    shown.append(f"{'':{width}}  runs  test accuracy    test loss        epoch 1 loss")
    for line in table:
        label = labels[line["init"]]
        if len(label) > width:
            shown += textwrap.wrap(label, 80)
            label = ""
        cells = "  ".join(
            f"{_plus_minus(line[name]):15}" for name in ("final_acc", "final_loss", "first_loss")
        )
        shown.append(f"{label:{width}}  {line['runs']:4}  {cells}".rstrip())
    if len(setting.seeds) > 1:
        shown.append("(means with 95% confidence intervals, Student's t)")
    for sentence in summary(setting):
        shown += textwrap.wrap(f"- {sentence}", 80, subsequent_indent="  ")
    return shown


def _plus_minus(interval: statistics.Interval) -> str:
    half = (interval.high - interval.low) / 2
    return f"{interval.value:.4f} ±{half:.4f}" if np.isfinite(half) else f"{interval.value:.4f}"


def describe(fields: Mapping[str, Any]) -> str:
    """One line about what the runs of a setting have in common."""
    network = "-".join(map(str, fields["hidden"])) or "none"
    rate = fields["learning_rate"]
    rate = "each at its own learning rate" if rate is None else f"{rate:g}"
    others = "".join(
        f"; {name.replace('_init', '')} {fields[name]}"
        for name in ("output_init", "bias_init")
        if fields[name] != getattr(Config, name)
    )
    return (
        f"{fields['dataset']}, MLP with hidden layers {network}, {fields['activation']},"
        f" {fields['dtype']}; {fields['optimizer']} {rate}, batch {fields['batch_size']},"
        f" {description.count(fields['epochs'], 'epoch')}{others}"
    )
