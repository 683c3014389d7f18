"""Measures the speed of sweeps, compared with Keras on JAX, PyTorch, and matrix products.

    pip install -e '.[benchmark]' && python scripts/benchmarks/sweep.py

All train the network of the main job on MNIST for five epochs and score the test set after each.
The peers train one network after another, as their users do. What counts is the cost of additional
runs: the time of a command with many runs minus that of one with few, so that imports do not count,
nor what is compiled once. Keras compiles every new model. The limit is an epoch's matrix products
in NumPy, scoring included, computed by one process on each core at the same time. A second table
shows how time and memory grow with the number of seeds. About 8 minutes on 2 cores of a CPU.
"""

import statistics
import sys
import tempfile

import _commands
import _results

_FEW, _MANY = 1, 5  # runs; for each core, in our own command
_EPOCHS = 5


def sweep(seeds: int, epochs: int, **environment: str) -> tuple[float, float]:
    """The seconds and the peak memory in MB of a sweep over one initializer."""
    flags = ["--init=he_normal", f"--seeds={seeds}", f"--epochs={epochs}"]
    command = [sys.executable, "-m", "experiments.sweep", *flags]
    return _commands.measure(command, **environment)


def peer(name: str) -> float:
    """The seconds that a peer takes for one epoch of one model."""
    times = [
        _commands.measure(_commands.peer(name, str(_EPOCHS), str(runs)))[0]
        for runs in (_FEW, _MANY)
    ]
    return (times[1] - times[0]) / (_MANY - _FEW) / _EPOCHS


def ours(cores: int, **environment: str) -> float:
    """The seconds that a sweep takes for one epoch of one model."""
    times = [sweep(seeds * cores, _EPOCHS, **environment)[0] for seeds in (_FEW, _MANY)]
    return (times[1] - times[0]) / (_MANY - _FEW) / cores / _EPOCHS


def main() -> None:
    parser = _results.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often speed is measured")
    parser.add_argument(
        "--growth", default="2,8,32,128,256", help="numbers of seeds, for the second table"
    )
    options = parser.parse_args()
    _commands.require_peers(parser)
    cores = _results.cores()
    times: dict[str, list[float]] = {
        name: [] for name in ("initjax", "PyTorch", "Keras on JAX", "matrix products")
    }
    growth = []
    with tempfile.TemporaryDirectory() as cache:
        kept = {"JAX_COMPILATION_CACHE_DIR": cache}
        sweep(cores, _EPOCHS, **kept)  # fills the cache
        for number in range(1, options.rounds + 1):
            times["initjax"].append(ours(cores, **kept))
            times["PyTorch"].append(peer("pytorch_mnist"))
            times["Keras on JAX"].append(peer("keras_mnist"))
            times["matrix products"].append(_commands.products(cores, scored=10_000))
            shown = ", ".join(f"{name} {column[-1]:.3f}" for name, column in times.items())
            print(f"round {number}/{options.rounds}: {shown} s per model-epoch", flush=True)
        sweep(cores, 1, **kept)
        for seeds in map(int, options.growth.split(",")):
            seconds, memory = sweep(seeds, 1, **kept)
            growth.append(
                (str(seeds), f"{seconds:.1f}", f"{seconds / seeds:.2f}", f"{memory:.0f} MB")
            )
            print(", ".join(growth[-1]), flush=True)

    median = {name: statistics.median(column) for name, column in times.items()}
    rows = [
        (name, f"{seconds:.3f}", f"{1 / seconds:.2f}", f"{seconds / median['initjax']:.2f}x")
        for name, seconds in median.items()
    ]
    head = ["", "seconds per model-epoch", "model-epochs per second", "speed of initjax"]
    body = (
        f"Medians of {options.rounds} rounds. Each run trains for five epochs and is scored after"
        " each; the peers train one run after another. Imports and what is compiled once are not"
        " counted; Keras compiles every new model. The last line is the limit: an epoch's matrix"
        " products alone in NumPy, in one process on each core.\n\n"
        f"{_results.table(head, rows)}\n\n"
        "Whole commands with one epoch, startup included:\n\n"
    )
    body += _results.table(["seeds", "seconds", "seconds per run", "peak memory"], growth)
    _results.write("sweep", "Sweeps: speed", body, _commands.PACKAGES, options.results)


if __name__ == "__main__":
    main()
