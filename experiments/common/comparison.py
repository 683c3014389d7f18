"""The results of a sweep: endpoints of runs, and initializers compared in pairs.

A *setting* is the set of all runs that differ only in initializer and seed. Its initializers are
compared over the seeds that they share. The p values are adjusted for all pairs of the setting
(Holm), separately for each endpoint; those of equivalence, too.

No run is left out, since dropping failed runs would favor initializers that fail. After a run has
diverged, it counts as guessing: the accuracy of the most common class, and the loss of equal
probabilities. A run that never reaches the target accuracy counts with all of its steps.

Of a network of the user's own, nobody knows what guessing is: there an untrained network counts
for one that diverged, with the median loss and accuracy of all before training. Such a run learned
if its test loss fell.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experiments.common import description, grouping, run_files, statistics

MARGIN = 0.001  # of accuracy: initializers whose means differ by less are equivalent
TARGET = 0.95  # accuracy up to which steps are counted
_WINDOW = 100  # batches, whose mean accuracy has to reach the target
_SUMS = ("area", "reached", "length")  # columns: mean loss, steps to the target, steps in all
_ROUNDING = 1e-6  # relative, of losses: sums of float32 numbers, in an order that may differ


class Endpoint(NamedTuple):
    """A number by which runs are compared."""

    title: str
    when: str
    """The words for it in a sentence: "is ahead ..."."""
    unit: str
    sign: int
    """1 if more is better, -1 if less is better."""
    margin: float | None = None
    scale: float = 1.0
    """Factor from its values to the unit."""
    digits: int = 4


def endpoints(margin: float = MARGIN, target: float = TARGET) -> dict[str, Endpoint]:
    """The endpoints by their short names, the most important first.

    Args:
      margin: initializers whose mean accuracies differ by less are equivalent.
      target: the accuracy up to which steps are counted.
    """
    steps = f"steps to {target:.4g} accuracy"
    area = "mean loss of all steps"
    return {
        "final_acc": Endpoint("final test accuracy", "after {length}", "points", 1, margin, 100, 2),
        "final_loss": Endpoint("final test loss", "in final test loss", "", -1),
        "first_loss": Endpoint("first epoch's loss", "in the first epoch", "loss", -1),
        "steps": Endpoint(steps, f"in {steps}", "steps", -1, digits=0),
        "area": Endpoint(area, f"in the {area}", "", -1),
    }


@dataclasses.dataclass(frozen=True, eq=False)  # equal if identical, so that it can be hashed
class Setting:
    """Runs that differ only in initializer and seed."""

    fields: dict[str, Any]
    """What they have in common: the columns of `sweep_directory.SCHEMA` that say what was run."""
    inits: list[str]
    """The initializers, the one with the best median of the main endpoint first."""
    seeds: list[int]
    runs: pa.Table
    """The rows, as in `experiments.common.sweep_directory`; it may lack the columns of steps."""
    values: dict[str, np.ndarray]
    """Each endpoint as an array (inits, seeds): NaN where there is no run, infinite steps where the
    accuracy is never reached."""
    endpoints: dict[str, Endpoint]
    """The endpoints of `values`."""
    trained: np.ndarray
    """(inits, seeds): 1 for a run that learned, 0 for one that did not, NaN where there is none."""
    steps: int
    """Number of steps in a run."""
    complete: Callable[[], pa.Table]
    """Returns the rows with the columns of steps, if there are any."""

    @property
    def main(self) -> str:
        """The endpoint that decides: final accuracy, or final loss if there is no accuracy."""
        return next(iter(self.endpoints))

    @property
    def own(self) -> bool:
        """Whether the network is the user's own, see `experiments.compare`."""
        return self.fields["hidden"] is None

    @property
    def length(self) -> str:
        """How long its runs were trained, such as "5 epochs"."""
        return description.duration(self.fields["epochs"], self.fields["steps"])

    def finite(self, endpoint: str) -> np.ndarray:
        """The values that are compared: "never reached" counts as all steps of a run."""
        return np.minimum(self.values[endpoint], self.steps if endpoint == "steps" else np.inf)

    def resolution(self, endpoint: str, *values: np.ndarray) -> np.ndarray | float:
        """The largest differences of these values that are no evidence: one image, or rounding."""
        if endpoint == "final_acc":
            return 1.001 / self.runs["test_images"][0].as_py()  # also if it was rounded up
        largest = np.max(np.abs(values), axis=0)
        return 0.0 if endpoint == "steps" else _ROUNDING * largest


class Pair(NamedTuple):
    """Two initializers compared by one endpoint."""

    first: str
    second: str
    comparison: statistics.Comparison
    p: float
    """p value of the paired t test, adjusted for all pairs of the setting (Holm)."""
    p_equivalence: float
    """p value of the test of equivalence, adjusted in the same way; NaN without a margin."""


def settings(
    table: pa.Table,
    margin: float = MARGIN,
    target: float = TARGET,
    complete: Callable[[pa.Table], pa.Table] = lambda rows: rows,
) -> list[Setting]:
    """Divides the runs of a sweep into settings.

    If several learning rates were tried, one more setting takes the runs of each initializer at its
    best rate. The best rate is chosen by training loss, not on the test set.

    Args:
      table: rows as in `experiments.common.sweep_directory`, with or without the columns of steps.
      margin: see `endpoints`.
      target: see `endpoints`.
      complete: adds the columns of steps to some of the rows, if the table lacks them.
    """
    table = _unambiguous(table)
    groups = grouping.places(grouping.groups(table, run_files.SETTING))
    firsts = table.select(run_files.SETTING).take([places[0] for places in groups]).to_pylist()
    named = zip((tuple(map(str, row.values())) for row in firsts), groups, strict=True)
    make = functools.partial(_setting, margin=margin, target=target, complete=complete)
    found = [make(table.take(places)) for _, places in sorted(named, key=lambda one: one[0])]
    for field in ("dataset", "model", "optimizer"):
        full = {setting: _named(setting.fields, field) for setting in found}
        names = collections.Counter(name for name, _ in set(full.values()))
        for setting, (name, digest) in full.items():  # digests tell those of one name apart
            setting.fields[field] = f"{name} ({digest[:8]})" if names[name] > 1 else name
    return found + _at_best_rates(found, make)


def _named(fields: dict[str, Any], field: str) -> tuple[str, str]:
    """The name of data or programs, and their digest, which is empty for those of this package."""
    if field == "dataset":
        return fields["dataset"], fields["digest"]
    name, _, digest = fields[field].partition("@")
    return name, digest.removeprefix("sha256:")


def _unambiguous(table: pa.Table) -> pa.Table:
    """The runs, with other names for initializers that stand for different rules under one name."""
    numbers = grouping.groups(table, ["init", "rules"])
    firsts = np.unique(numbers, return_index=True)[1]
    kinds = table.select(["init", "rules"]).take(firsts).to_pylist()
    meanings = collections.Counter(kind["init"] for kind in kinds)
    labels = [
        f"{kind['init']} ({hashlib.sha256(kind['rules'].encode()).hexdigest()[:8]})"
        if kind["rules"] is not None and meanings[kind["init"]] > 1
        else kind["init"]
        for kind in kinds
    ]
    names = pa.array(labels, pa.string()).take(pa.array(numbers))
    return table.set_column(table.schema.get_field_index("init"), "init", names)


def _at_best_rates(found: list[Setting], make: Callable[..., Setting]) -> list[Setting]:
    alike: dict[str, list[Setting]] = {}
    for setting in found:
        alike.setdefault(str({**setting.fields, "learning_rate": None}), []).append(setting)
    best = []
    for group in alike.values():
        if len(group) == 1:
            continue
        taken = []
        for init in dict.fromkeys(init for setting in group for init in setting.inits):
            tables = {
                setting.fields["learning_rate"]: setting.runs.filter(pc.field("init") == init)
                for setting in group
            }
            losses = {rate: column(one, "loss")[:, -1] for rate, one in tables.items() if len(one)}
            taken.append(tables[best_rate(losses)[0]])
        shown = ("dataset", "model", "optimizer")
        fields = {"learning_rate": None, **{name: group[0].fields[name] for name in shown}}
        best.append(make(pa.concat_tables(taken), fields))
    return best


def _setting(
    rows: pa.Table,
    changes: Mapping[str, Any] = MappingProxyType({}),
    *,
    margin: float,
    target: float,
    complete: Callable[[pa.Table], pa.Table],
) -> Setting:
    fields = {**rows.select(["dataset", *run_files.SETTING]).slice(0, 1).to_pylist()[0], **changes}
    own = fields["hidden"] is None
    values = {}
    if rows["val_acc"].null_count == 0:
        values["final_acc"] = column(rows, "val_acc")[:, -1]
    values["final_loss"] = column(rows, "val_loss")[:, -1]
    best = -values["final_acc"] if "final_acc" in values else values["final_loss"]
    firsts, of_init = _distinct(rows["init"])
    medians = [np.median(best[of_init == number]) for number in range(len(firsts))]
    order = sorted(range(len(firsts)), key=lambda number: medians[number])
    inits = [rows["init"][int(firsts[number])].as_py() for number in order]
    seeds, of_seed = np.unique(rows["seed"].to_numpy(), return_inverse=True)
    place = np.argsort(order)[of_init], of_seed

    def matrix(values: np.ndarray) -> np.ndarray:
        whole = np.full((len(inits), len(seeds)), np.nan)
        whole[place] = values
        return whole

    if own:
        before, *_, after = lists(rows["val_loss"]).T
        learned = np.isfinite(after) & ~(after >= before)
    else:
        learned = better_than_guessing(rows)
    if fields["steps"] is None:
        values["first_loss"] = column(rows, "loss")[:, 0]
    again = functools.partial(complete, rows)
    if own or "area" not in rows.column_names:
        rows = _summed(rows, complete(rows), target)
    steps = 0
    if rows["area"].null_count == 0:
        steps = rows["length"][0].as_py()
        if "final_acc" in values:
            values["steps"] = rows["reached"].to_numpy()
        values["area"] = rows["area"].to_numpy()
    values = {name: matrix(row) for name, row in values.items()}
    points = {name: point for name, point in endpoints(margin, target).items() if name in values}
    trained = matrix(learned.astype(float))
    return Setting(fields, inits, seeds.tolist(), rows, values, points, trained, steps, again)


def _summed(rows: pa.Table, whole: pa.Table, target: float) -> pa.Table:
    """Rows with what is compared of their columns of steps, so that those are read once.

    Args:
      rows: perhaps without these columns.
      whole: the same with them, if there are any.
      target: see `endpoints`.
    """
    found: dict[str, Any] = dict.fromkeys(_SUMS, pa.nulls(len(rows), pa.float64()))
    if "step_acc" in whole.column_names:
        losses = column(whole, "step_loss")
        found["area"] = losses.mean(axis=1, dtype=np.float64)
        found["length"] = np.full(len(rows), losses.shape[1])
        if whole["step_acc"].null_count == 0:
            found["reached"] = _steps_to(target, column(whole, "step_acc"))
    rows = rows.select([name for name in rows.column_names if name not in found])
    for name, values in found.items():
        rows = rows.append_column(name, pa.array(values))
    return rows


def _distinct(names: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The first place of each name, and for each place the number of its name."""
    numbers = grouping.groups(pa.table({"name": names}), ["name"])
    return np.unique(numbers, return_index=True)[1], numbers


def best_rate(losses: Mapping[float, np.ndarray]) -> tuple[float, list[float]]:
    """The learning rate with the lowest mean loss, and all that it was chosen from, ascending.

    These are the rates with the most seeds: one with fewer could win or lose by chance.

    Args:
      losses: (seeds,) by learning rate.
    """
    most = max(map(len, losses.values()))
    # Divided first, so that no sum overflows.
    means = {rate: np.mean(one / most) for rate, one in losses.items() if len(one) == most}
    return min(means, key=lambda rate: means[rate]), sorted(means)


def better_than_guessing(rows: pa.Table) -> np.ndarray:
    """(runs,): whether the final test accuracy of runs on images is better than guessing.

    It has to be five standard errors above the accuracy of the most common class.
    """
    guess, images = (rows[name].to_numpy() for name in ("guess_acc", "test_images"))
    return column(rows, "val_acc")[:, -1] > guess + 5 * np.sqrt(guess * (1 - guess) / images)


def column(rows: pa.Table, name: str) -> np.ndarray:
    """Losses or accuracies of runs: (runs, epochs or steps), without NaN.

    Args:
      rows: runs as in `experiments.common.sweep_directory`.
      name: "loss" or "acc", perhaps with the prefix "val_" or "step_".
    """
    kind = name.removesuffix("loss").removesuffix("acc")
    losses = lists(rows[f"{kind}loss"])
    finite = np.isfinite(losses)
    loss = name.endswith("loss")
    values = losses if loss else lists(rows[name])
    if rows["classes"].null_count:
        guess = _untrained(rows, "val_loss" if loss else "val_acc")
    else:
        guess = np.log(rows["classes"].to_numpy()) if loss else rows["guess_acc"].to_numpy()
    return np.where(finite, values, guess[:, None].astype(values.dtype))


def lists(column: pa.ChunkedArray) -> np.ndarray:
    """(rows, length): a column of lists of one length, without nulls."""
    lengths = {length for chunk in column.chunks for length in np.unique(chunk.value_lengths())}
    if len(lengths) > 1:
        raise AssertionError(f"lists: of lengths {sorted(lengths)}, must be of one")
    values = np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks])
    return values.reshape(len(column), -1)


def _untrained(rows: pa.Table, name: str) -> np.ndarray:
    """The median of all runs before training, for each run."""
    before = lists(rows[name])[:, 0]
    finite = before[np.isfinite(before)]
    return np.full(len(rows), np.median(finite) if finite.size else 0.0)


def _steps_to(target: float, accuracies: np.ndarray) -> np.ndarray:
    """(runs,): the first step at which the mean of a window reaches the target, or infinity."""
    window = min(_WINDOW, accuracies.shape[1])
    found = np.full(len(accuracies), np.inf)
    able = np.flatnonzero(accuracies.max(axis=1) >= target)  # a mean is at most the largest value
    sums = np.zeros((len(able), accuracies.shape[1] + 1))
    np.cumsum(accuracies[able], axis=1, dtype=np.float64, out=sums[:, 1:])
    reached = sums[:, window:] - sums[:, :-window] >= window * target
    found[able] = np.where(reached.any(axis=1), reached.argmax(axis=1) + float(window), np.inf)
    return found


@functools.lru_cache(maxsize=4096)  # a report shows them in several places
def pairs(setting: Setting, endpoint: str) -> list[Pair]:
    """Compares every two initializers of a setting that share at least two seeds.

    Args:
      setting: from `settings`.
      endpoint: a name in `setting.endpoints`. Steps are not compared if neither initializer ever
        reaches the accuracy.
    """
    values, reached = setting.finite(endpoint), np.isfinite(setting.values[endpoint])
    rng = np.random.default_rng(0)  # for sign flips, if there are too many to try all of them
    both = {
        (i, j): np.isfinite(values[i]) & np.isfinite(values[j])
        for i, j in itertools.combinations(range(len(setting.inits)), 2)
    }
    both = {
        (i, j): seeds
        for (i, j), seeds in both.items()
        if seeds.sum() >= 2 and (reached[i] | reached[j])[seeds].any()
    }
    alpha = (1 - statistics.LEVEL) / max(len(both), 1)  # the level of Holm's first step
    margin = setting.endpoints[endpoint].margin
    compared = []
    for (i, j), seeds in both.items():
        two = values[i][seeds], values[j][seeds]
        resolution = setting.resolution(endpoint, *two)
        compared.append(statistics.compare(*two, rng, margin, alpha, resolution))
    adjusted = statistics.holm([result.p for result in compared])
    equivalent = [np.nan] * len(compared)
    if margin is not None:
        equivalent = statistics.holm([result.p_equivalence for result in compared])
    return [
        Pair(setting.inits[i], setting.inits[j], result, p, p_equivalence)
        for (i, j), result, p, p_equivalence in zip(
            both, compared, adjusted, equivalent, strict=True
        )
    ]


def ranking(setting: Setting, endpoint: str) -> list[str]:
    """The initializers of which some run learned, or all, by their means: the best first."""
    values = setting.finite(endpoint)
    means = np.nanmean(values / values.shape[1], axis=1)  # so that no sum overflows
    ordered = np.argsort(-setting.endpoints[endpoint].sign * means, kind="stable")
    learned = np.nansum(setting.trained, axis=1) > 0
    return [setting.inits[i] for i in ordered if learned[i] or not learned.any()]


def table(setting: Setting) -> list[dict[str, Any]]:
    """A row for each initializer: number of runs, runs that learned, endpoints with intervals.

    `reached` is the number of runs that reached the target accuracy.
    """
    kinds = setting.runs.select(["init", "learning_rate"])
    kinds = kinds.group_by(["init", "learning_rate"]).aggregate([]).to_pylist()
    rates = {kind["init"]: kind["learning_rate"] for kind in kinds}
    lines = []
    for row, init in enumerate(setting.inits):
        line: dict[str, Any] = {
            "init": init,
            "learning_rate": rates[init],
            "runs": int(np.isfinite(setting.trained[row]).sum()),
            "learned": int(np.nansum(setting.trained[row])),
        }
        for name in setting.values:
            values = setting.finite(name)[row]
            line[name] = statistics.mean_interval(values[np.isfinite(values)])
        if "steps" in setting.values:
            line["reached"] = int(np.isfinite(setting.values["steps"][row]).sum())
        lines.append(line)
    return lines
