"""Three sentences on what a report found: what was compared, what won, and what follows."""

import math
from collections.abc import Sequence

import numpy as np

from experiments.common import comparison, description, formatting, statistics, verdicts

_NAMED = 4  # initializers in a sentence; more are counted
_USUAL = 30  # seeds, which find differences of 0.1 percentage points


def of_settings(found: Sequence[comparison.Setting]) -> list[str]:
    """The three sentences of a sweep; none without settings."""
    if not found:
        return []
    if len(found) == 1:
        return [_compared(found), *_of_one(found[0])]
    return [_compared(found), *_of_several(found)]


def _compared(found: Sequence[comparison.Setting]) -> str:
    runs = sum(len(setting.runs) for setting in found if not _at_best_rates(setting))
    inits = {init for setting in found for init in setting.inits}
    counts = np.concatenate([np.isfinite(setting.trained).sum(axis=1) for setting in found])
    fewest, most = int(counts.min()), int(counts.max())
    numbers = str(most) if fewest == most else f"{fewest} to {most}"
    seeds = f"{numbers} {'seed' if most == 1 else 'seeds'}"
    settings = sum(not _at_best_rates(setting) for setting in found)
    where = f" in {settings} settings" if settings > 1 else ""
    text = f"{description.count(runs, 'network')} {'was' if runs == 1 else 'were'} trained:"
    text += f" {description.count(len(inits), 'initializer')}{where}, {seeds} each"
    if len(inits) == 1 or most == 1:
        return f"{text}."
    return (
        f"{text}; with the same seed, all see the same batches, so they are compared seed by seed."
    )


def _at_best_rates(setting: comparison.Setting) -> bool:
    return setting.fields["learning_rate"] is None


def _of_one(setting: comparison.Setting) -> list[str]:
    """What won by how much, and what follows."""
    epochs, words = setting.length, verdicts.main(setting)
    if not np.nansum(setting.trained):
        return [
            f"None of them learned anything after {epochs}.",
            "Before changing the initializer, find the cause:"
            f" {'initjax.audit' if setting.own else 'python -m experiments.audit'} shows where"
            " signals or gradients are lost.",
        ]
    point, best = setting.endpoints[setting.main], comparison.ranking(setting, setting.main)[0]
    values = setting.values[setting.main][setting.inits.index(best)]
    value, low, high = statistics.mean_interval(values[np.isfinite(values)])
    mean, bounds = words.text(value), f"{words.text(low)} to {words.text(high)}"
    certain = f" (95% interval {bounds})" if math.isfinite(low) else ""
    if len(setting.inits) == 1:
        return [
            f"{best} has a mean {words.noun} of {mean}{certain} after {epochs}.",
            "Whether that is good takes another initializer to compare it with: list several in"
            f" {'inits' if setting.own else '--init'}.",
        ]
    rates = ", each at its best learning rate" if _at_best_rates(setting) else ""
    text = f"{best} has the {words.best} mean {words.noun} after {epochs}{rates}, {mean}{certain}"
    if len(setting.seeds) < 2:
        return [
            f"{text}.",
            f"One seed can't tell whether that is luck: {_more_seeds(setting)}.",
        ]
    groups = verdicts.against_best(setting)
    parts = []
    if behind := groups.ahead:
        parts.append(f"ahead of {_listed(list(behind), 'and')} {_by(list(behind.values()), point)}")
    if alike := groups.equivalent:
        margin = f"within {(point.margin or 0) * point.scale:g} {point.unit}"
        parts.append(f"equivalent to {_listed(list(alike), 'and')} {margin}")
    if open_ := groups.open:
        parts.append(f"not shown to differ from {_listed(list(open_), 'or')}")
        detectable = max(pair.comparison.detectable for pair in open_.values()) * point.scale
        if len(setting.seeds) >= statistics.FEWEST_TO_SETTLE and detectable:
            shown = formatting.number(detectable, digits=point.digits)
            parts[-1] += f", where {shown} {point.unit} would have been found (80% power)"
    failed = groups.failed
    sentence = text + (f"; it is {', and '.join(parts)}" if parts else "")
    sentence += f"; {_listed(list(failed), 'and')} learned nothing" if failed else ""
    return [f"{sentence}.", _advice(setting, best, groups)]


def _more_seeds(setting: comparison.Setting) -> str:
    text = f"train at least {statistics.FEWEST_TO_SETTLE}"
    usual = f" (--seeds={_USUAL} finds differences of 0.1 points)"
    return text if setting.own else text + usual


def _by(pairs: Sequence[comparison.Pair], point: comparison.Endpoint) -> str:
    """By how much the first of these pairs are ahead, and the largest of the p values."""
    amounts = sorted(abs(pair.comparison.difference.value) * point.scale for pair in pairs)
    span = formatting.number(amounts[0], digits=point.digits)
    p = formatting.p_equals(max(pair.p for pair in pairs))
    if len(pairs) > 1:
        span += f" to {formatting.number(amounts[-1], digits=point.digits)}"
        p = p.replace("=", "≤")
    return f"by {span} {point.unit}".rstrip() + f" ({p})"


def _advice(setting: comparison.Setting, best: str, groups: verdicts.Groups) -> str:
    if len(setting.seeds) < statistics.FEWEST_TO_SETTLE:
        return f"{len(setting.seeds)} seeds settle nothing: {_more_seeds(setting)}."
    equal, unsettled = list(groups.equivalent), groups.open
    good = [best, *equal, *unsettled]
    if len(good) == 1:
        return (
            f"For this network and this training, use {best}; other depths, activations and"
            " learning rates are other questions, which more runs can answer."
        )
    worse = [init for init in setting.inits if init not in good and init not in groups.apart]
    text = f"Any of {_listed(good, 'and')} will do here"
    if worse and len(good) > len(worse):
        text = f"Any but {_listed(worse, 'and')} will do here"
    elif len(good) == 2:
        text = f"Either of {' and '.join(good)} will do here"
    if faster := _faster_at_first(setting, good):
        text += f", but they start differently: {faster}"
    if unsettled:
        nearest = min(unsettled, key=lambda init: unsettled[init].comparison.seeds_to_settle)
        needed = unsettled[nearest].comparison.seeds_to_settle
        seeds = formatting.seeds(max(needed, len(setting.seeds) + 1))
        text += f"; to tell {best} from {nearest} at the end would take about {seeds} seeds"
    return f"{text}."


def _faster_at_first(setting: comparison.Setting, good: list[str]) -> str:
    """Which of initializers that end alike has the lower loss in the first epoch."""
    early = next((name for name in ("first_loss", "area") if name in setting.endpoints), None)
    if early is None:
        return ""
    point = setting.endpoints[early]
    first = next(init for init in comparison.ranking(setting, early) if init in good)
    behind = [
        second
        for pair in comparison.pairs(setting, early)
        for kind, ahead, second in [verdicts.finding(pair, point)]
        if kind == "ahead" and ahead == first and second in good
    ]
    if not behind:
        return ""
    when = "in the first epoch" if early == "first_loss" else "over all steps"
    return f"{when}, {first} has a lower loss than {_listed(behind, 'and')}"


def _of_several(found: Sequence[comparison.Setting]) -> list[str]:
    best = [setting for setting in found if _at_best_rates(setting)]
    compared = [
        setting
        for setting in best or found
        if len(setting.inits) > 1 and len(setting.seeds) > 1 and np.nansum(setting.trained)
    ]
    if not compared:
        return [
            "No setting has two initializers with two seeds of which any learned.",
            "List several initializers in --init, and train them with several seeds.",
        ]
    if len(compared) == 1:
        return _of_one(compared[0])
    kept: dict[str, int] = {}
    present: dict[str, int] = {}
    failed: dict[str, int] = {}
    for setting in compared:
        groups = verdicts.against_best(setting)
        for init in setting.inits:
            present[init] = present.get(init, 0) + 1
            lost = init in groups.failed
            failed[init] = failed.get(init, 0) + lost
            kept[init] = kept.get(init, 0) + (init not in groups.ahead and not lost)
    n = len(compared)
    ordered = sorted(kept, key=lambda init: (-kept[init], failed[init], init))
    first = ordered[0]
    alike = [init for init in ordered if kept[init] == kept[first]]
    where = f"of {n} settings" + (", each at its best learning rate" if best else "")
    subject = f"{_listed(alike, 'and')} {'is' if len(alike) == 1 else 'are'}"
    text = f"{subject} the best, or not shown to be behind the best, in {kept[first]} {where}"
    if others := ordered[len(alike) :]:
        listed = ", ".join(f"{init} in {kept[init]}" for init in others[:_NAMED])
        text += f", more than any other ({listed}{', ...' * (len(others) > _NAMED)})"
    if nothing := [init for init in ordered if failed[init] == present[init]]:
        text += f"; {_listed(nothing, 'and')} learned nothing in any"
    few = min(len(setting.seeds) for setting in compared)
    if few < statistics.FEWEST_TO_SETTLE:
        advice = (
            f"But {few} seeds settle nothing: train at least {statistics.FEWEST_TO_SETTLE}"
            f" (--seeds={_USUAL} finds differences of 0.1 points)."
        )
    elif not others:
        advice = "No setting tells them apart: take any, and spend the time on something else."
    elif kept[first] == n:
        advice = f"{alike[0]} is a safe choice in all of these settings."
    else:
        advice = f"There is no choice for all: the verdicts below show where {first} is behind."
    return [f"{text}.", advice]


def _listed(names: list[str], word: str) -> str:
    if len(names) > _NAMED:
        return f"{len(names)} others" if word == "or" else f"{len(names)} initializers"
    *most, last = names
    return f"{', '.join(most)} {word} {last}" if most else last
