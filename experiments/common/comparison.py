"""What a sweep says: runs as endpoints, initializers compared in pairs, verdicts in words.

A *setting* is all that was trained alike but for initializer and seed. Within each the initializers
are compared over the seeds that they share; over the pairs of a setting p values are Holm's.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments.common import statistics

MARGIN = 0.001  # of accuracy: initializers whose means differ by less are called equivalent
TARGET = 0.95  # of accuracy, to which steps are counted
_WINDOW = 100  # batches whose mean accuracy has to reach the target
_SETTING = (
    "hidden activation dtype optimizer learning_rate epochs batch_size output_init bias_init"
    " dataset digest"
).split()


class Endpoint(NamedTuple):
    """A figure by which runs are compared."""

    title: str
    when: str
    """The words for it in a sentence: they are ahead ..."""
    unit: str
    sign: int
    """1 if more is better, -1 if less is."""
    margin: float | None = None
    scale: float = 1.0
    """How many units there are in one of its values."""
    digits: int = 4


ENDPOINTS = {
    "final_acc": Endpoint("final test accuracy", "after {epochs}", "points", 1, MARGIN, 100, 2),
    "final_loss": Endpoint("final test loss", "in final test loss", "", -1),
    "first_loss": Endpoint("first epoch's loss", "in the first epoch", "loss", -1),
    "steps": Endpoint(
        f"steps to {TARGET:.0%} accuracy",
        f"in steps to {TARGET:.0%} accuracy",
        "steps",
        -1,
        digits=0,
    ),
    "area": Endpoint("mean loss of all steps", "in the mean loss of all steps", "", -1),
}
"""The endpoints by their short names, the one that decides first."""


class Setting(NamedTuple):
    """Runs that differ in initializer and seed alone."""

    fields: dict[str, Any]
    """What they have in common: the columns of `results.SCHEMA` that say what was run."""
    inits: list[str]
    """The initializers, that of the best median final accuracy first."""
    seeds: list[int]
    runs: pa.Table
    """The rows, as in `experiments.common.results`."""
    values: dict[str, np.ndarray]
    """Every endpoint: (inits, seeds), NaN where there is no run, or the run has no such value."""
    trained: np.ndarray
    """1 for a run that learned, 0 for one that did not, NaN where there is none: (inits, seeds)."""


class Pair(NamedTuple):
    """Two initializers compared by one endpoint."""

    first: str
    second: str
    comparison: statistics.Comparison
    p: float
    """Of the paired t test, by Holm's adjustment for all pairs of the setting."""


def settings(table: pa.Table) -> list[Setting]:
    """Divides the runs of a sweep into settings, in the order of their first runs.

    Where several learning rates were tried, a last setting for each such group takes the runs of
    every initializer at the rate that suits it best, by training loss: the test set has no say.
    """
    rows = table.select(_SETTING).to_pylist()
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(tuple(map(str, row.values())), []).append(index)
    found = [_setting(table.take(indices), rows[indices[0]]) for indices in groups.values()]
    return found + _at_best_rates(found)


def _at_best_rates(found: list[Setting]) -> list[Setting]:
    alike: dict[str, list[Setting]] = {}
    for setting in found:
        alike.setdefault(str({**setting.fields, "learning_rate": None}), []).append(setting)
    best = []
    for group in alike.values():
        if len(group) == 1:
            continue
        taken = []
        for init in dict.fromkeys(init for setting in group for init in setting.inits):
            tables = [setting.runs.filter(pc.field("init") == init) for setting in group]
            tables = [table for table in tables if len(table)]
            losses = [np.mean([row[-1] for row in table["loss"].to_pylist()]) for table in tables]
            taken.append(tables[int(np.argmin(np.nan_to_num(losses, nan=np.inf)))])
        rates = {**group[0].fields, "learning_rate": None}
        best.append(_setting(pa.concat_tables(taken), rates))
    return best


def _setting(runs: pa.Table, fields: dict[str, Any]) -> Setting:
    names, numbers = runs["init"].to_pylist(), runs["seed"].to_pylist()
    val_acc = np.array([row[-1] for row in runs["val_acc"].to_pylist()])
    inits = sorted(
        dict.fromkeys(names), key=lambda init: -np.median(val_acc[np.array(names) == init])
    )
    seeds = sorted(set(numbers))
    place = [inits.index(name) for name in names], [seeds.index(seed) for seed in numbers]

    def matrix(column: np.ndarray) -> np.ndarray:
        values = np.full((len(inits), len(seeds)), np.nan)
        values[place] = column
        return values

    finished = np.array(runs["status"].to_pylist()) == "finished"
    guess, images = (np.array(runs[name].to_pylist()) for name in ("guess_acc", "test_images"))
    # Five standard errors above what naming always the commonest class gives.
    learned = val_acc > guess + 5 * np.sqrt(guess * (1 - guess) / images)
    losses = np.array([row[0] for row in runs["loss"].to_pylist()])
    columns = {
        "final_acc": val_acc,
        "final_loss": np.array([row[-1] for row in runs["val_loss"].to_pylist()]),
        "first_loss": losses,
        "steps": np.array([_steps_to_target(acc) for acc in step_columns(runs, "step_acc")]),
        "area": step_columns(runs, "step_loss").mean(axis=1, dtype=np.float64),
    }
    values = {name: matrix(np.where(finished, column, np.nan)) for name, column in columns.items()}
    return Setting(fields, inits, seeds, runs, values, matrix((finished & learned).astype(float)))


def step_columns(runs: pa.Table, name: str) -> np.ndarray:
    """A column of every training step as an array (runs, steps)."""
    return np.stack([row.values.to_numpy() for row in runs[name]])


def _steps_to_target(accuracies: np.ndarray) -> float:
    """The first step up to which the mean accuracy of a window's batches reaches the target."""
    window = min(_WINDOW, len(accuracies))
    sums = np.cumsum(np.append(0, accuracies.astype(np.float64)))
    reached = np.flatnonzero(sums[window:] - sums[:-window] >= window * TARGET)
    return float(reached[0] + window) if len(reached) else np.nan


def pairs(setting: Setting, endpoint: str) -> list[Pair]:
    """Compares every two initializers of a setting that share two seeds or more.

    Args:
      setting: from `settings`.
      endpoint: a name in `ENDPOINTS`. Of runs that have no such value the others alone are
        compared, seed by seed; `Setting.trained` says how many there are.
    """
    values = setting.values[endpoint]
    rng = np.random.default_rng(0)  # for sign flips, where there are too many to try them all
    compared = []
    for i, j in itertools.combinations(range(len(setting.inits)), 2):
        both = np.isfinite(values[i]) & np.isfinite(values[j])
        if both.sum() >= 2:
            one, two = values[i][both], values[j][both]
            result = statistics.compare(one, two, rng, ENDPOINTS[endpoint].margin)
            compared.append((setting.inits[i], setting.inits[j], result))
    adjusted = statistics.holm([result.p for *_, result in compared])
    return [
        Pair(first, second, result, p)
        for (first, second, result), p in zip(compared, adjusted, strict=True)
    ]


def verdict(pair: Pair, endpoint: str, epochs: int) -> str:
    """What a pair's tests say, in words that follow from them alone.

    Args:
      pair: from `pairs`.
      endpoint: by which it was compared.
      epochs: of training, for the words.
    """
    point = ENDPOINTS[endpoint]
    first, second, result, p = pair
    when = point.when.format(epochs=f"{epochs} epochs" if epochs > 1 else "1 epoch")
    ahead = point.sign * result.difference.value > 0
    first, second = (first, second) if ahead else (second, first)
    equivalent = result.p_equivalence <= 1 - statistics.LEVEL

    def amount(value: float) -> str:
        number = f"{abs(value) * point.scale:.{point.digits}f}"
        return f"{number} {point.unit}".strip()

    margin = f"{(point.margin or 0) * point.scale:g} {point.unit}"
    if p <= 1 - statistics.LEVEL:
        words = f"{first} is ahead of {second} {when} by {amount(result.difference.value)}"
        return f"{words} ({p_text(p)})" + (f", but equivalent within {margin}" * equivalent)
    if equivalent:
        return f"{first} and {second} are equivalent {when} within {margin}"
    return (
        f"no difference between {first} and {second} is seen {when}; one of"
        f" {amount(result.detectable)} would have been, with a probability of"
        f" {statistics.POWER:.0%}"
    )


def p_text(p: float) -> str:
    """A p value in words."""
    return "p < 1e-9" if p < 1e-9 else f"p = {p:.2g}"


def summary(setting: Setting) -> list[str]:
    """What a setting shows, in a few sentences, all from tests: what a reader wants first."""
    sentences = []
    trained = setting.trained
    for init, runs in zip(setting.inits, trained, strict=True):
        count, n = int(np.nansum(runs)), int(np.isfinite(runs).sum())
        if count < n:
            share = statistics.share_interval(count, n)
            sentences.append(
                f"{init}: {count} of {n} runs learned anything"
                f" (95 % interval {share.low:.0%} to {share.high:.0%})"
            )
    learners = [
        init for init, runs in zip(setting.inits, trained, strict=True) if np.nansum(runs) > 0
    ]
    epochs = setting.fields["epochs"]
    for endpoint in ("first_loss", "final_acc"):
        named = {frozenset(pair[:2]): pair for pair in pairs(setting, endpoint)}
        named = {names: pair for names, pair in named.items() if names <= set(learners)}
        if not named:
            continue
        point = ENDPOINTS[endpoint]
        means = {
            init: point.sign * np.nanmean(setting.values[endpoint][setting.inits.index(init)])
            for init in learners
        }
        best = max(means, key=lambda init: means[init])
        for init in sorted(learners, key=lambda init: -means[init]):
            if frozenset((best, init)) in named:
                sentences.append(verdict(named[frozenset((best, init))], endpoint, epochs))
    return sentences


def table(setting: Setting) -> list[dict[str, Any]]:
    """A line for each initializer: its runs, those that learned, its endpoints with intervals."""
    lines = []
    for row, init in enumerate(setting.inits):
        line: dict[str, Any] = {
            "init": init,
            "runs": int(np.isfinite(setting.trained[row]).sum()),
            "learned": int(np.nansum(setting.trained[row])),
        }
        for name, values in setting.values.items():
            finite = values[row][np.isfinite(values[row])]
            line[name] = statistics.mean_interval(finite) if len(finite) else None
        lines.append(line)
    return lines


def describe(fields: dict[str, Any]) -> str:
    """What the runs of a setting have in common, in a line."""
    network = "-".join(map(str, fields["hidden"])) or "none"
    rate = fields["learning_rate"]
    rate = "each at its own learning rate" if rate is None else f"{rate:g}"
    epochs = fields["epochs"]
    return (
        f"{fields['dataset']}, MLP with hidden layers {network}, {fields['activation']},"
        f" {fields['dtype']}; {fields['optimizer']} {rate}, batch {fields['batch_size']},"
        f" {epochs} epoch{'s' * (epochs > 1)}"
    )
