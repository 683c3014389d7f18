"""Checks `initjax.recommend` by training, on configurations that its table doesn't have.

    python scripts/advice_check.py runs/advice_check

Trains the 30 networks of `scripts/advice/held_out.py`, which were fixed before the table was made,
from the recommended initializer and from all candidates, in about 15 minutes on 2 cores of a CPU.
The rule by which advice passes or fails is there, too. Finished runs are skipped.
"""

import pathlib
from typing import NamedTuple

from advice import grid, held_out, outcomes
from benchmarks import _results

from experiments.common.config import Config, canonical

_ENOUGH = 0.75  # of the seeds


class Checked(NamedTuple):
    """What became of one configuration."""

    trains: bool
    """Whether the advice trains, or no candidate does."""
    worse_than: list[str]
    """The candidates than which the advice is worse."""
    best: outcomes.Outcome
    """The best candidate, by mean accuracy."""
    difference: outcomes.Difference
    """The advice minus the best candidate."""


def initializations(network: held_out.HeldOut) -> dict[tuple[str, str], str]:
    """Names of what a network is trained from; the advice comes first."""
    found = {grid.drawn(grid.advice(network).choice): "advice"}
    for one in held_out.candidates(network.kind, network.activation, network.depth):
        found.setdefault((canonical(one.init), canonical(one.bias_init)), one.name)
    return found


def configs() -> list[Config]:
    """All runs."""
    return [
        grid.config(network, *specs, rate, seed)
        for network in held_out.HELD_OUT
        for seed in held_out.SEEDS
        for specs in initializations(network)
        for rate in held_out.learning_rates(network.optimizer, network.depth)
    ]


def check(advice: outcomes.Outcome, others: list[outcomes.Outcome]) -> Checked:
    """Applies the rule to one configuration.

    Args:
      advice: the runs from the recommended initializer.
      others: those from all candidates that differ from it.
    """
    seeds = outcomes.shared([advice, *others])

    def mean(outcome: outcomes.Outcome) -> float:
        return sum(outcome.accuracies[seed] for seed in seeds) / len(seeds)

    def trains(outcome: outcomes.Outcome) -> bool:
        return sum(outcome.trained[seed] for seed in seeds) >= _ENOUGH * len(seeds)

    differences = {
        other.init: outcomes.difference(advice, other, seeds, len(others)) for other in others
    }
    best = max(others, key=mean)
    return Checked(
        trains=trains(advice) or not any(map(trains, others)),
        worse_than=[init for init, found in differences.items() if found.high < 0],
        best=best,
        difference=differences[best.init],
    )


def report(runs: outcomes.Runs) -> str:
    """Tables and text, in Markdown."""
    lines, passed, trained = [], 0, 0
    for network in held_out.HELD_OUT:
        advice = grid.advice(network)
        mine = grid.drawn(advice.choice)
        names = initializations(network)
        found = {(one.init, one.bias_init): one for one in runs.outcomes[network]}
        others = [found[specs] for specs in names if specs != mine]
        result = check(found[mine], others)
        good = result.trains and not result.worse_than
        passed, trained = passed + good, trained + result.trains
        worse = f"worse than {', '.join(result.worse_than)}" if result.worse_than else ""
        failed = "; ".join(filter(None, ["" if result.trains else "doesn't train", worse]))
        low, high = 100 * result.difference.low, 100 * result.difference.high
        lines.append(
            [
                network.kind,
                network.activation,
                f"{network.depth} x {network.width}",
                network.optimizer,
                f"`{found[mine].init}`",
                "runs" if advice.evidence else "theory",
                _shown(found[mine]),
                f"`{result.best.init}`",
                _shown(result.best),
                f"{100 * result.difference.mean:+.2f} ({low:+.2f} to {high:+.2f})",
                failed or "passed",
            ]
        )
    head = (
        "kind activation depth&nbsp;x&nbsp;width optimizer advice from accuracy best&nbsp;other"
        " accuracy difference result"
    )
    rule = (held_out.__doc__ or "").partition("The rule")[2]
    return (
        f"The advice passed {passed} of {len(lines)} configurations. It trains in {trained}, or no"
        " candidate does there.\n\n"
        f"{_results.table([name.replace('&nbsp;', ' ') for name in head.split()], lines)}\n\n"
        f"Accuracy: the mean over {len(held_out.SEEDS)} seeds of the final test accuracy, with the"
        " number of runs that are better than guessing. Difference: in percentage points, with the"
        f" interval of the rule.\n\nThe rule{rule}"
    )


def _shown(outcome: outcomes.Outcome) -> str:
    mean = sum(outcome.accuracies.values()) / len(outcome.accuracies)
    return f"{mean:.3f} ({sum(outcome.trained.values())}/{len(outcome.trained)})"


def main() -> None:
    parser = _results.parser(__doc__)
    parser.add_argument("runs", type=pathlib.Path, help="directory of the runs")
    options = parser.parse_args()
    grid.train(configs(), options.runs)
    found = outcomes.read([options.runs])
    _results.write(
        "recommend",
        "Advice, checked by training",
        report(found),
        ("initjax", "jax", "flax", "optax"),
        options.results,
    )


if __name__ == "__main__":
    main()
