"""Verdicts: the results of comparisons in words, which follow only from statistical tests."""

import math
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.common import comparison, description, formatting, statistics
from experiments.common.config import Config

Finding = Literal["ahead", "equivalent", "not settled", "unknown"]

_WIDTH = 80  # of a terminal
_NAMED = 6  # initializers in a headline; more are counted


def verdict(pair: comparison.Pair, endpoint: comparison.Endpoint, length: str) -> str:
    """The result of a pair's tests, as a sentence.

    Args:
      pair: from `comparison.pairs`.
      endpoint: by which it was compared.
      length: of training, for the sentence, such as "5 epochs".
    """
    kind, first, second = finding(pair, endpoint)
    return _sentence(kind, first, [(second, pair)], endpoint, length)


def finding(pair: comparison.Pair, endpoint: comparison.Endpoint) -> tuple[Finding, str, str]:
    """What the tests of a pair have found; the better initializer comes first.

    A difference needs the t test, adjusted for all pairs, and the sign-flip test, which doesn't
    assume a distribution. Where only one of the two finds it, it is not settled. Neither is
    anything with so few seeds that the sign-flip test can't find it.
    """
    first, second = pair.first, pair.second
    if endpoint.sign * pair.comparison.difference.value < 0:
        first, second = second, first
    alpha, found = 1 - statistics.LEVEL, pair.comparison
    by_t, by_signs = pair.p <= alpha, found.p_sign_flip <= alpha
    if by_t and by_signs:
        return "ahead", first, second
    if equivalent(pair):
        return "equivalent", first, second
    if by_t or (by_signs and found.p > alpha):
        return "not settled", first, second
    return "unknown", first, second


def equivalent(pair: comparison.Pair) -> bool:
    """Whether the difference is shown to be within the margin, if there is one at all."""
    enough = pair.comparison.n >= statistics.FEWEST_TO_SETTLE
    return enough and pair.p_equivalence <= 1 - statistics.LEVEL


def _sentence(
    kind: Finding,
    first: str,
    others: list[tuple[str, comparison.Pair]],
    point: comparison.Endpoint,
    length: str,
) -> str:
    """One sentence for all pairs of an initializer that have the same kind of result."""
    when = point.when.format(length=length)

    def amount(value: float) -> str:
        shown = formatting.number(abs(value) * point.scale, digits=point.digits)
        return f"{shown} {point.unit}".strip()

    names = [name for name, _ in others]
    margin = f"within {(point.margin or 0) * point.scale:g} {point.unit}"
    if kind == "ahead":
        parts = []
        for name, pair in others:
            difference = amount(pair.comparison.difference.value)
            words = f"by {difference} ({formatting.p_equals(pair.p)})"
            parts.append((name, words + f", but equivalent {margin}" * equivalent(pair)))
        if len(parts) == 1:
            ((name, words),) = parts
            return f"{first} is ahead of {name} {when} {words}"
        joined = "; ".join(f"of {name} {words}" for name, words in parts)
        return f"{first} is ahead {when}: {joined}"
    if kind == "equivalent":
        if len(names) == 1:
            return f"{first} and {names[0]} are equivalent {when} {margin}"
        return f"{first} is equivalent to {listed(names, 'and')} {when} {margin}"
    if kind == "not settled":
        parts = [
            f"by {amount(pair.comparison.difference.value)} ({formatting.p_equals(pair.p)} by the"
            f" t test, {formatting.p(pair.comparison.p_sign_flip)} by sign flips)"
            for _, pair in others
        ]
        needed = formatting.seeds(max(map(_seeds_to_settle, (pair for _, pair in others))))
        would = f"about {needed} seeds would settle it"
        if len(parts) == 1:
            return f"not settled: whether {first} is ahead of {names[0]} {when} {parts[0]}; {would}"
        joined = "; ".join(f"of {name} {words}" for name, words in zip(names, parts, strict=True))
        return f"not settled: whether {first} is ahead {when}: {joined}; {would}"
    sentence = f"no difference between {first} and {listed(names, 'or')} was found {when}"
    largest = max(pair.comparison.detectable for _, pair in others)
    # Equal differences tell nothing about their variance, and few seeds settle nothing.
    if largest == 0 or any(pair.comparison.n < statistics.FEWEST_TO_SETTLE for _, pair in others):
        return sentence
    power = f"the tests had {statistics.POWER:.0%} power to detect a difference of"
    return f"{sentence}; {power} {amount(largest)}"


def _seeds_to_settle(pair: comparison.Pair) -> float:
    """More than there are, since those have not settled it."""
    return max(pair.comparison.seeds_to_settle, pair.comparison.n + 1)


def listed(names: list[str], word: str) -> str:
    """Such as "a, b and c".

    Example:
      >>> listed(["a", "b", "c"], "and"), listed(["a"], "and")
      ('a, b and c', 'a')
    """
    *most, last = names
    return f"{', '.join(most)} {word} {last}" if most else last


def summary(setting: comparison.Setting) -> list[str]:
    """The main results of a setting, in a few sentences."""
    sentences = []
    if len(setting.inits) > 1 and 1 < len(setting.seeds) < statistics.FEWEST_TO_SETTLE:
        sentences.append(
            f"{len(setting.seeds)} seeds settle nothing, since the sign-flip test needs"
            f" {statistics.FEWEST_TO_SETTLE}"
        )
    for init, learned in zip(setting.inits, setting.trained, strict=True):
        count, n = int(np.nansum(learned)), int(np.isfinite(learned).sum())
        if count < n:
            share = statistics.share_interval(count, n)
            sentences.append(
                f"{init}: {count} of {n} runs learned anything"
                f" (95% interval {share.low:.0%} to {share.high:.0%})"
            )
    if not np.nansum(setting.trained):  # which of them fails better means nothing
        return sentences
    early = "first_loss" if "first_loss" in setting.endpoints else "area"
    for endpoint in [name for name in (early, setting.main) if name in setting.endpoints]:
        point, ranked = setting.endpoints[endpoint], comparison.ranking(setting, endpoint)
        named = {frozenset(pair[:2]): pair for pair in comparison.pairs(setting, endpoint)}
        found: dict[tuple[Finding, str], list[tuple[str, comparison.Pair]]] = {}
        for init in ranked[1:]:
            pair = named.get(frozenset((ranked[0], init)))
            if pair is None and endpoint == setting.main and len(setting.seeds) > 1:
                sentences.append(
                    f"{ranked[0]} and {init} are not compared, since they share fewer than two"
                    " seeds"
                )
            if pair:
                # Means are over all seeds, but a pair is compared on the seeds that it shares.
                kind, first, second = finding(pair, point)
                found.setdefault((kind, first), []).append((second, pair))
        for (kind, first), others in found.items():
            sentences.append(_sentence(kind, first, others, point, setting.length))
    return sentences


class Groups(NamedTuple):
    """What the tests say of all initializers but the best, by the main endpoint."""

    ahead: dict[str, comparison.Pair]
    """Those that the best is ahead of, with the pair of both."""
    equivalent: dict[str, comparison.Pair]
    open: dict[str, comparison.Pair]
    """Those that are not shown to differ from it."""
    apart: list[str]
    """Those that share too few seeds with it to be compared."""
    failed: list[str]
    """Those of which no run learned anything."""


def against_best(setting: comparison.Setting) -> Groups:
    """Compares the initializer with the best mean of the main endpoint with all others."""
    point, best = setting.endpoints[setting.main], comparison.ranking(setting, setting.main)[0]
    learned = dict(zip(setting.inits, np.nansum(setting.trained, axis=1), strict=True))
    failed = [init for init in setting.inits if not learned[init]]
    groups = Groups({}, {}, {}, [], failed)
    for pair in comparison.pairs(setting, setting.main):
        kind, first, second = finding(pair, point)
        other = second if best == first else first
        if best in (first, second) and other not in failed:
            settled = best == first and kind in ("ahead", "equivalent")
            getattr(groups, kind if settled else "open")[other] = pair
    compared = {best, *failed, *groups.ahead, *groups.equivalent, *groups.open}
    groups.apart.extend(init for init in setting.inits if init not in compared)
    return groups


class Main(NamedTuple):
    """The words for the main endpoint."""

    noun: str
    best: str
    """What the best mean is."""
    text: Callable[[float], str]
    """A mean as text."""


def main(setting: comparison.Setting) -> Main:
    """The words for the main endpoint of a setting."""
    if setting.main == "final_acc":
        return Main("test accuracy", "highest", "{:.2%}".format)
    return Main("test loss", "lowest", formatting.number)


def headline(setting: comparison.Setting) -> str:
    """The main result in one sentence: which initializer has the best main endpoint."""
    point, words = setting.endpoints[setting.main], main(setting)
    when = f"after {setting.length}"
    best = comparison.ranking(setting, setting.main)[0]
    mean = words.text(float(np.nanmean(setting.values[setting.main][setting.inits.index(best)])))
    accuracy = f"{best} has the {words.best} mean {words.noun} {when}, {mean}"
    if len(setting.inits) == 1:
        return f"{best} has a mean {words.noun} of {mean} {when}"
    if not np.nansum(setting.trained):
        return f"No run learned anything {when}"
    if len(setting.seeds) < 2:
        return f"{accuracy}; one seed can't tell whether that is luck"
    groups = against_best(setting)
    parts = []
    behind, failed = list(groups.ahead), groups.failed
    if behind:
        parts.append(f"is ahead of {_counted(behind, 'and')}")
    if alike := list(groups.equivalent):
        margin = f"{(point.margin or 0) * point.scale:g} {point.unit}"
        parts.append(f"is equivalent to {_counted(alike, 'and')} (within {margin})")
    if groups.apart:
        parts.append(f"shares too few seeds with {_counted(groups.apart, 'or')} to be compared")
    if unsettled := list(groups.open):
        parts.append(f"is not shown to differ from {_counted(unsettled, 'or')}")
    sentence = f"{accuracy}; it {', and '.join(parts)}" if parts else accuracy
    if behind and len(behind) + len(failed) == len(setting.inits) - 1:
        sentence = f"{best} is the best of {len(setting.inits)}: it has a mean {words.noun} of"
        sentence += f" {mean} {when}, and {parts[0]}"
    return f"{sentence}; {_counted(failed, 'and')} learned nothing" if failed else sentence


def _counted(names: list[str], word: str) -> str:
    return listed(names, word) if len(names) <= _NAMED else f"{len(names)} initializers"


def lines(setting: comparison.Setting) -> list[str]:
    """The table and the summary of a setting for a terminal, 80 columns wide."""
    table = comparison.table(setting)
    columns = [
        ["runs", *(str(line["runs"]) for line in table)],
        *(
            [title, *(formatting.plus_minus(line[name]) for line in table)]
            for name, title in (
                ("final_acc", "test accuracy"),
                ("final_loss", "test loss"),
                ("first_loss", "epoch 1 loss"),
                *([("area", "training loss")] if setting.own else []),
            )
            if name in setting.endpoints
        ),
    ]
    widths = [max(map(len, column)) for column in columns]
    rows = [
        f"{runs:>{widths[0]}}  "
        + "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        for runs, *cells in zip(*columns, strict=True)
    ]
    labels = ["", *(line["init"] for line in table)]
    if setting.fields["learning_rate"] is None:
        labels[1:] = [f"{line['init']} @ {line['learning_rate']:g}" for line in table]
    # Longer labels get a line of their own.
    room = _WIDTH - 2 - max(map(len, rows))
    width = max((len(label) for label in labels if len(label) <= room), default=0)
    shown = textwrap.wrap(describe(setting.fields), _WIDTH)
    for label, row in zip(labels, rows, strict=True):
        if len(label) > width:
            shown += textwrap.wrap(label, _WIDTH)
            label = ""
        shown.append(f"{label:{width}}  {row}".rstrip())
    if len(setting.seeds) > 1:
        shown.append("(means with 95% confidence intervals, Student's t)")
    for sentence in summary(setting):
        shown += textwrap.wrap(f"- {sentence}", _WIDTH, subsequent_indent="  ")
    return shown


def describe(fields: Mapping[str, Any]) -> str:
    """One line about what the runs of a setting have in common."""
    length = description.duration(fields["epochs"], fields["steps"])
    if fields["hidden"] is None:  # a network of the user's own
        rate = fields["learning_rate"]
        optimizer = fields["optimizer"]
        if rate is None:
            optimizer += ", each at its own learning rate"
        elif not math.isnan(rate):
            optimizer += f" {rate:g}"
        return (
            f"{fields['dataset']}, {fields['model']}, {fields['dtype']}; {optimizer}, batch"
            f" {fields['batch_size']}, {length}"
        )
    rate = fields["learning_rate"]
    rate = "each at its own learning rate" if rate is None else f"{rate:g}"
    others = "".join(
        f"; {name.replace('_init', '')} {fields[name]}"
        for name in ("output_init", "bias_init")
        if fields[name] != getattr(Config, name)
    )
    return (
        f"{fields['dataset']}, {description.hidden(fields)}, {fields['activation']},"
        f" {fields['dtype']}; {fields['optimizer']} {rate}, batch {fields['batch_size']},"
        f" {length}{others}"
    )
