"""Measures sweeps: model-epochs a second against Keras, PyTorch and the matrix products alone.

    pip install -e '.[benchmark]' && python scripts/benchmark_sweep.py [--rounds=3]

All train the network of the main job on MNIST for five epochs and score the test set after each;
the peers do one run after another, as their users do. Counted is what more runs cost: the time of a
command with many less that of one with few, so that imports count for none, nor what is compiled
once; Keras compiles every new model. The limit is an epoch's matrix
products in NumPy's BLAS, scoring included, by one process on each core at the same time. Then
follows how time and memory grow with the number of seeds. About 8 minutes on 2 cores of a CPU.
"""

import importlib.util
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from absl import flags

from experiments.common import console

_FLAGS = flags.FlagValues()
flags.DEFINE_integer(
    "rounds", 3, "How often everything is measured.", lower_bound=1, flag_values=_FLAGS
)

_SCRIPTS = pathlib.Path(__file__).parent
_FEW, _MANY = 1, 5  # runs; as many for each core of ours
_GROWTH = (2, 8, 32, 128, 256)  # seeds, one epoch each


def measure(command: list[str], **environment: str) -> tuple[float, float]:
    """The wall time of a command in seconds, and the peak of its memory in MB."""
    # This program has set JAX's variables for itself: the commands start without them.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=kept | environment, stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        elapsed = time.perf_counter() - started
    if process.returncode:
        raise ValueError(f"{' '.join(command)} failed")
    return elapsed, usage.ru_maxrss / 1024


def sweep(seeds: int, epochs: int, **environment: str) -> tuple[float, float]:
    """As `measure`, of a sweep over one initializer."""
    flags = ["--init=he_normal", f"--seeds={seeds}", f"--epochs={epochs}"]
    return measure([sys.executable, "-m", "experiments.sweep", *flags], **environment)


def peer(name: str) -> float:
    """The seconds of a model-epoch of a peer."""
    script = str(_SCRIPTS / "peers" / f"{name}_mnist.py")
    times = [measure([sys.executable, script, "5", str(runs)])[0] for runs in (_FEW, _MANY)]
    return (times[1] - times[0]) / (_MANY - _FEW) / 5


def ours(cores: int, **environment: str) -> float:
    """The seconds of a model-epoch of a sweep."""
    times = [sweep(seeds * cores, 5, **environment)[0] for seeds in (_FEW, _MANY)]
    return (times[1] - times[0]) / (_MANY - _FEW) / cores / 5


def limit(cores: int) -> float:
    """The seconds of a model-epoch's matrix products, on all cores at the same time."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    code = "import benchmark; print(benchmark.products_alone(evaluation=True))"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=_SCRIPTS,
            env=kept | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(cores)
    ]
    outputs = [process.communicate()[0] for process in processes]
    return statistics.mean(float(output.split()[-1]) for output in outputs) / cores


def main() -> None:
    missing = [name for name in ("torch", "keras") if not importlib.util.find_spec(name)]
    if missing:
        raise ValueError(f"not installed: {', '.join(missing)}; pip install -e '.[benchmark]'")
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    times: dict[str, list[float]] = {
        name: [] for name in ("initjax", "PyTorch", "Keras on JAX", "matrix products")
    }
    with tempfile.TemporaryDirectory() as cache:
        kept = {"JAX_COMPILATION_CACHE_DIR": cache}
        sweep(cores, 5, **kept)  # fills the cache
        for number in range(_FLAGS.rounds):
            times["initjax"].append(ours(cores, **kept))
            times["PyTorch"].append(peer("pytorch"))
            times["Keras on JAX"].append(peer("keras"))
            times["matrix products"].append(limit(cores))
            shown = ", ".join(f"{name} {column[-1]:.3f}" for name, column in times.items())
            print(f"round {number + 1}/{_FLAGS.rounds}: {shown} s a model-epoch", flush=True)
        median = {name: statistics.median(column) for name, column in times.items()}
        print(
            "\n| | seconds a model-epoch | model-epochs a second | initjax is |\n|---|---|---|---|"
        )
        for name, seconds in median.items():
            ratio = seconds / median["initjax"]
            print(f"| {name} | {seconds:.3f} | {1 / seconds:.2f} | {ratio:.2f} times as fast |")
        print("\n| seeds, 1 epoch | seconds | seconds a run | peak memory |\n|---|---|---|---|")
        sweep(cores, 1, **kept)
        for seeds in _GROWTH:
            seconds, memory = sweep(seeds, 1, **kept)
            print(
                f"| {seeds} | {seconds:.1f} | {seconds / seeds:.2f} | {memory:.0f} MB |", flush=True
            )


if __name__ == "__main__":
    console.run_program(
        "python scripts/benchmark_sweep.py",
        "Measures sweeps: model-epochs a second against Keras, PyTorch and the matrix products"
        " alone, and how time and memory grow with the number of seeds.",
        _FLAGS,
        {"Flags": ("rounds", "help")},
        main,
    )
