"""Reproduces the published table: six initializers, twelve seeds each, beside what was published.

    python scripts/published_table.py [--seeds=12] [--workdir=runs/published]

Trains what `python -m experiments.mnist --init=INIT --seed=SEED` trains, about 2 minutes on 2 cores
of a CPU, and prints the table of the README. Runs that are finished already are not repeated, so
that the command can be stopped and given again at any time.

Published: "Weight Initialization in Deep Learning", a tutorial with Keras, one run each; optimizer
and batch size are not stated there. Independent: the same model in another implementation, 12
seeds, Adam 1e-3 with epsilon 1e-7, batches of 128 without the last, partial one.
"""

import dataclasses
import json
import pathlib
import shutil
import statistics

from absl import flags

from experiments import mnist
from experiments.common import console, runs, store

_FLAGS = flags.FlagValues()
flags.DEFINE_integer("seeds", 12, "How many seeds, from 0 on.", lower_bound=2, flag_values=_FLAGS)
flags.DEFINE_string("workdir", "runs/published", "Where the runs are kept.", flag_values=_FLAGS)

_METRICS = ("loss", "acc", "val_loss", "val_acc")

# Epoch 1, then epoch 5; each loss, acc, val_loss, val_acc.
PUBLISHED = {
    "zeros": (2.3016, 0.1119, 2.3011, 0.1135, 2.3013, 0.1124, 2.3010, 0.1135),
    "random_uniform": (0.3929, 0.8887, 0.1889, 0.9432, 0.0629, 0.9804, 0.0877, 0.9755),
    "glorot_uniform": (0.3317, 0.9072, 0.1534, 0.9545, 0.0529, 0.9840, 0.0755, 0.9771),
    "glorot_normal": (0.3296, 0.9064, 0.1628, 0.9492, 0.0576, 0.9824, 0.0707, 0.9783),
    "he_uniform": (0.3252, 0.9050, 0.1524, 0.9546, 0.0546, 0.9828, 0.0860, 0.9740),
    "he_normal": (0.3163, 0.9087, 0.1596, 0.9508, 0.0537, 0.9836, 0.0764, 0.9769),
}
INDEPENDENT = {
    "zeros": (2.3017, 0.1118, 2.3011, 0.1135, 2.3013, 0.1124, 2.3010, 0.1135),
    "random_uniform": (0.3815, 0.8950, 0.1862, 0.9447, 0.0660, 0.9799, 0.0849, 0.9741),
    "glorot_uniform": (0.3318, 0.9066, 0.1638, 0.9515, 0.0572, 0.9825, 0.0805, 0.9750),
    "glorot_normal": (0.3315, 0.9067, 0.1622, 0.9523, 0.0567, 0.9827, 0.0805, 0.9751),
    "he_uniform": (0.3240, 0.9078, 0.1595, 0.9526, 0.0555, 0.9830, 0.0814, 0.9748),
    "he_normal": (0.3230, 0.9083, 0.1587, 0.9532, 0.0548, 0.9833, 0.0796, 0.9753),
}


def measure(init: str, seed: int, root: pathlib.Path) -> list[float]:
    """Trains one network, unless that is done already, and returns its eight figures."""
    config = runs.Config(init=init, seed=seed)
    directory = root / init / f"seed_{seed}"
    if directory.exists() and not _is_finished(directory, config):
        shutil.rmtree(directory)  # it was interrupted; the same seed gives the same bits again
    if not directory.exists():
        mnist.run(config, str(directory))
    epochs = store.read(directory / "metrics.jsonl")
    return [epochs[number][metric] for number in (1, 5) for metric in _METRICS]


def _is_finished(directory: pathlib.Path, config: runs.Config) -> bool:
    try:
        summary = json.loads((directory / "summary.json").read_text())
        stored = json.loads((directory / "config.json").read_text())["config"]
    except FileNotFoundError as error:
        if not (directory / "config.json").exists():
            raise ValueError(f"{directory} is no run: name another --workdir") from error
        return False
    if stored != json.loads(json.dumps(dataclasses.asdict(config))):
        raise ValueError(f"{directory} holds another run: name another --workdir")
    return summary["status"] == "finished"


def main() -> None:
    seeds = range(_FLAGS.seeds)
    root = pathlib.Path(_FLAGS.workdir)
    columns = [f"epoch {number} {metric}" for number in (1, 5) for metric in _METRICS]
    print(f"| initializer | | {' | '.join(columns)} |")
    print("|---" * (2 + len(columns)) + "|")
    farthest = 0.0
    for init, published in PUBLISHED.items():
        figures = list(zip(*(measure(init, seed, root) for seed in seeds), strict=True))
        means = [statistics.mean(column) for column in figures]
        deviations = [statistics.stdev(column) for column in figures]
        rows = {
            "published": [f"{value:.4f}" for value in published],
            "independent": [f"{value:.4f}" for value in INDEPENDENT[init]],
            f"ours, n = {len(seeds)}": [
                f"{mean:.4f} ± {deviation:.4f}"
                for mean, deviation in zip(means, deviations, strict=True)
            ],
        }
        for i, (name, cells) in enumerate(rows.items()):
            print(f"| {init if i == 0 else ''} | {name} | {' | '.join(cells)} |", flush=True)
        if init != "zeros":
            distances = [
                abs(mean - other) / deviation
                for mean, other, deviation in zip(means, INDEPENDENT[init], deviations, strict=True)
            ]
            farthest = max(farthest, *distances)
    print(
        f"\n± is the standard deviation over {len(seeds)} seeds. The means lie at most"
        f" {farthest:.1f} standard deviations from the independent run's (zeros apart)."
    )


if __name__ == "__main__":
    console.run_program(
        "python scripts/published_table.py",
        "Reproduces the published table: six initializers, many seeds, beside what was published.",
        _FLAGS,
        {"Flags": ("seeds", "workdir", "help")},
        main,
    )
