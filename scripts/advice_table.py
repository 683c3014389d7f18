"""Makes the table of training runs that `initjax.recommend` rests on.

    python scripts/advice_table.py runs/advice

Trains the networks of `scripts/advice/grid.py` that are missing in the directory, in about 25
minutes on 2 cores of a CPU, and writes `initjax/advice/table.json`. Finished runs are skipped, so
it can be stopped and rerun. More directories of `experiments.depth` or `experiments.sweep` may be
given; of their runs, those count that were trained like the others (300 steps of 64 images).
"""

import datetime
import pathlib
import statistics

from advice import grid, outcomes
from advice.held_out import HeldOut
from benchmarks import _results

from initjax.advice import table as tables

_FILE = _results.ROOT / "initjax/advice" / tables.FILE
_DIGITS = 5


def rows(network: HeldOut, found: list[outcomes.Outcome]) -> list[tables.Row]:
    """The rows of a setting, the best one first."""
    seeds = outcomes.shared(found)
    advice = grid.advice(network)
    known = {
        grid.drawn(choice): (choice.name, *grid.specs(choice))
        for choice in (*advice.alternatives, advice.choice)
    }

    def mean(outcome: outcomes.Outcome) -> float:
        return sum(outcome.accuracies[seed] for seed in seeds) / len(seeds)

    ordered = sorted(found, key=mean, reverse=True)
    result = []
    for outcome in ordered:
        accuracies = [outcome.accuracies[seed] for seed in seeds]
        stddev = statistics.stdev(accuracies)
        difference = outcomes.difference(outcome, ordered[0], seeds, len(found) - 1)
        mine = outcome.init, outcome.bias_init
        name, init, bias_init = known.get(mine, (outcome.init, *mine))
        result.append(
            tables.Row(
                kind=network.kind,
                activation=network.activation,
                optimizer=network.optimizer,
                width=network.width,
                depth=network.depth,
                name=name,
                init=init,
                bias_init=bias_init,
                learning_rate=outcome.learning_rate,
                runs=len(seeds),
                trained=sum(outcome.trained[seed] for seed in seeds),
                accuracy=round(mean(outcome), _DIGITS),
                stddev=round(stddev, _DIGITS),
                difference=round(difference.mean, _DIGITS),
                low=round(difference.low, _DIGITS),
                high=round(difference.high, _DIGITS),
            )
        )
    return result


def table(runs: outcomes.Runs) -> tables.Table:
    """The table of all settings with two initializers or more, and five seeds or more."""
    order = sorted(runs.outcomes, key=lambda network: (network[0], network[4], network))
    found = [
        row
        for network in order
        if len(runs.outcomes[network]) > 1 and len(outcomes.shared(runs.outcomes[network])) >= 5
        for row in rows(network, runs.outcomes[network])
    ]
    common = runs.common
    return tables.Table(
        rows=tuple(found),
        steps=int(str(common["steps"])),
        batch_size=int(str(common["batch_size"])),
        data=f"{common['inputs']} {common['dataset']}",
        rates=runs.rates,
    )


def main() -> None:
    parser = _results.parser(__doc__)
    parser.add_argument("runs", type=pathlib.Path, nargs="+", help="directories of runs")
    parser.add_argument("--file", type=pathlib.Path, default=_FILE, help="what to write")
    parser.add_argument("--no-training", action="store_true", help="use the runs that are there")
    kinds = tuple(grid.KINDS)
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds, help="train only these")
    options = parser.parse_args()
    if not options.no_training:
        grid.train(grid.configs(options.kinds), options.runs[0])
    made = table(outcomes.read(options.runs))
    text = tables.written(made, made=str(datetime.date.today()), command=_results.command())
    options.file.write_text(text)
    settings = len({row[:5] for row in made.rows})
    runs = sum(row.runs for row in made.rows)
    print(f"{len(made.rows)} rows, {settings} settings, {runs} runs: written to {options.file}")


if __name__ == "__main__":
    main()
