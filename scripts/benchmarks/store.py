"""How a directory of a million runs is read: a load test of the store of results, and of reports.

The runs are made up: they have the real columns, plausible losses and accuracies, and as many steps
as an epoch of MNIST has, but nothing was trained. A thousand shards have written a file each. They
are compacted, reported on, and looked through by a shard that starts again. About 10 minutes and
10 GB of disk for a million runs.
"""

import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

import _results
import numpy as np
import pyarrow as pa

from experiments.common import run_files

_STEPS = 469
_INITS = (
    "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform", "lecun_normal",
    "orthogonal", "random_normal", "random_uniform", "truncated_normal",
)  # fmt: skip
_ACTIVATIONS = ("relu", "tanh", "gelu", "silu", "elu")
_WIDTHS = (32, 64, 128, 256)
_SIZES = ((1000, 10, 1000), (200, 5, 5000))
_PACKAGES = ("initjax", "pyarrow", "numpy", "scipy", "altair", "vl-convert-python")


class Grid(NamedTuple):
    """Made-up runs: all combinations of these."""

    inits: int
    networks: int
    seeds: int

    @property
    def runs(self) -> int:
        return self.inits * self.networks * self.seeds


def rows(grid: Grid, places: np.ndarray) -> pa.Table:
    """Some runs of a grid, by their places in it."""
    init, network, seed = np.unravel_index(places, grid)
    rng = np.random.default_rng(places[0])
    # What a seed, a network and an initializer are worth, the same in all runs that have them.
    luck = np.random.default_rng(1).normal(0, 0.001, grid.seeds)[seed]
    worth = np.random.default_rng(2).gamma(2, 0.01, grid[:2])[init, network]
    loss = 0.3 + worth + luck + rng.normal(0, 0.002, len(places))
    acc = np.clip(0.97 - worth / 4 + luck + rng.normal(0, 0.0005, len(places)), 0, 1).round(4)
    noise = rng.standard_normal((len(places), _STEPS), dtype=np.float32)
    curve = 2 * np.exp(-np.arange(_STEPS) / 60)
    losses = (loss[:, None] + curve).astype(np.float32) * (1 + 0.05 * noise)
    values: dict[str, Any] = {
        "key": [hashlib.sha256(b"%d" % place).hexdigest() for place in places],
        "status": "finished", "init": np.array(_INITS)[init], "output_init": "glorot_uniform",
        "bias_init": "zeros", "seed": seed, "model": "mlp", "residual": False,
        "hidden": _lists(np.repeat(np.array(_WIDTHS)[network % 4], 2).reshape(-1, 2)),
        "normalization": "none", "activation": np.array(_ACTIVATIONS)[network // 4 % 5],
        "inputs": "unit", "dtype": "float32", "optimizer": "adam", "epochs": 1, "batch_size": 128,
        "learning_rate": 0.001 * 2.0 ** -(network // 20), "dataset": "mnist", "digest": "0" * 64,
        "loss": _lists(loss[:, None]), "acc": _lists(acc[:, None] - 0.05),
        "val_loss": _lists(np.stack([np.full(len(loss), 2.3), loss * 0.6], 1)),
        "val_acc": _lists(np.stack([np.full(len(loss), 0.1), acc], 1)),
        "step_loss": _lists(losses), "step_acc": _lists(np.clip(1 - losses / 3, 0, 1)),
        "features": 784, "classes": 10, "test_images": 10_000, "guess_acc": 0.1135,
        "seconds": 1.0, "finished": 1_800_000_000, "host": "made-up", "device": "none",
        "versions": "none",
    }  # fmt: skip
    columns = []
    for field in run_files.SCHEMA:
        value = values.get(field.name)
        one = value is None or isinstance(value, str | int | float)
        array = pa.array([value] * len(places) if one else value)
        columns.append(array.cast(field.type))
    return pa.table(columns, run_files.SCHEMA)


def _lists(values: np.ndarray) -> pa.ListArray:
    """The rows of an array."""
    ends = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(ends, values.ravel())


def fill(directory: pathlib.Path, grid: Grid, shards: int) -> None:
    """Writes the files that shards leave, each with a random sample of the grid."""
    order = np.random.default_rng(0).permutation(grid.runs)
    for index, places in enumerate(np.array_split(order, shards)):
        label = f"00000000-{index:04}of{shards}"
        run_files.write(run_files.folder(directory, label), rows(grid, places))


def measure(*command: str) -> list[str]:
    """Seconds, seconds of CPU and peak memory of a command, as text."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    seconds = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
    return [*(f"{number:.0f}" for number in seconds), f"{usage.ru_maxrss / 2**20:.1f} GB"]


_START = """
import sys
from experiments.common import sweep_directory
print(len(sweep_directory.SweepDirectory(sys.argv[1], sys.argv[2]).finished()))
"""


def main() -> None:
    parser = _results.parser(__doc__)
    parser.add_argument("--shards", type=int, default=1000, help="number of files to begin with")
    parser.add_argument("--divide", type=int, default=1, help="the number of seeds by this")
    parser.add_argument("--keep", type=pathlib.Path, help="a directory for the runs, to keep them")
    options = parser.parse_args()
    lines = []
    for settings, inits, seeds in _SIZES:
        grid = Grid(inits, settings // inits, seeds // options.divide)
        with tempfile.TemporaryDirectory() as scratch:
            directory = (options.keep or pathlib.Path(scratch)) / f"{settings}x{grid.seeds}"
            if not directory.exists():
                fill(directory, grid, options.shards)
            name = f"{settings:,} settings x {grid.seeds:,} seeds"
            own = f"00000000-0000of{options.shards}"
            commands = {
                "start of a shard": ["-c", _START, str(directory), own],
                "compaction": ["-m", "experiments.compact", str(directory)],
                "start of a shard, compacted": ["-c", _START, str(directory), own],
                "report": ["-m", "experiments.report", str(directory)],
            }
            for what, command in commands.items():
                count, size = _extent(directory)
                lines.append([name, what, f"{count:,}", f"{size / 1e9:.1f} GB", *measure(*command)])
                print(", ".join(lines[-1]), flush=True)
            page = directory / "report.html"
            print(f"{page.stat().st_size / 1e6:.1f} MB {page}", flush=True)
    head = ["runs", "what", "files", "on disk", "s", "s of CPU", "peak memory"]
    body = (
        f"Made-up runs of {_STEPS} steps; nothing was trained. The start of a shard is that of its"
        f" view of the finished runs, without JAX.\n\n{_results.table(head, lines)}"
    )
    _results.write("store", "A million runs", body, _PACKAGES, options.results)


def _extent(directory: pathlib.Path) -> tuple[int, int]:
    """The number of files of runs, and their bytes."""
    sizes = [path.stat().st_size for path in directory.rglob("*.parquet")]
    return len(sizes), sum(sizes)


if __name__ == "__main__":
    main()
