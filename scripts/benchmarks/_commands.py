"""What the benchmarks of training share: whole commands, the peers, and the products alone."""

import argparse
import importlib.util
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

PEERS = pathlib.Path(__file__).with_name("peers")
PACKAGES = ("initjax", "jax", "flax", "optax", "numpy", "torch", "keras")
EPOCHS = 15  # timed within one process, after one that is not


def require_peers(parser: argparse.ArgumentParser) -> None:
    """Ends the script if PyTorch or Keras is not installed."""
    missing = [name for name in ("torch", "keras") if not importlib.util.find_spec(name)]
    if missing:
        parser.error(f"not installed: {', '.join(missing)}; pip install -e '.[benchmark]'")


def peer(name: str, *arguments: str) -> list[str]:
    """The command of a peer."""
    return [sys.executable, str(PEERS / f"{name}.py"), *arguments]


def measure(command: list[str], **environment: str) -> tuple[float, float]:
    """Runs a command in an empty directory: its wall time in seconds, its peak memory in MB."""
    # A cache in use here would speed up the peers that are measured without one.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMP")}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=kept | environment, stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        elapsed = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return elapsed, usage.ru_maxrss / 1024


def products(
    processes: int = 1,
    features: Sequence[int] = (784, 128, 64, 10),
    batch_size: int = 128,
    trained: int = 60_000,
    scored: int = 0,
) -> float:
    """The seconds that the matrix products of a training take in NumPy, per training.

    Args:
      processes: how many compute at the same time. One may use all cores, several have one each.
      features: the sizes of the input, of every hidden layer, and of the output.
      batch_size: examples per batch.
      trained: examples that are trained on.
      scored: examples that are scored.
    """
    # Variables that slow down NumPy's BLAS, which some machines need, would flatter us.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    if processes > 1:
        kept |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    arguments = json.dumps([features, batch_size, trained, scored])
    started = [
        subprocess.Popen(
            [sys.executable, __file__, arguments], env=kept, stdout=subprocess.PIPE, text=True
        )
        for _ in range(processes)
    ]
    outputs = [process.communicate()[0] for process in started]
    return statistics.mean(map(float, outputs)) / processes


def _products_here(sizes: Sequence[int], batch_size: int, trained: int, scored: int) -> float:
    """The median time of the matrix products of a training in this process, in seconds."""
    import numpy as np

    rng = np.random.default_rng(0)

    def matrix(*shape: int) -> np.ndarray:
        return rng.random(shape, dtype=np.float32)

    images = matrix(max(trained, scored), sizes[0])
    # Everything is allocated beforehand, results too: only the products are timed.
    layers = [
        {
            "input": matrix(batch_size, inputs),
            "kernel": matrix(inputs, outputs) * (2 / inputs),  # keeps the scale of deep networks
            "error": matrix(batch_size, outputs),
            "output": matrix(batch_size, outputs),
            "kernel_gradient": matrix(inputs, outputs),
            "input_gradient": matrix(batch_size, inputs),
        }
        for inputs, outputs in itertools.pairwise(sizes)
    ]

    scored_layers = [
        {"kernel": layer["kernel"], "output": matrix(1000, layer["kernel"].shape[1])}
        for layer in layers
    ]

    def epoch() -> None:
        for start in range(0, trained, batch_size):
            n = min(batch_size, trained - start)
            for i, layer in enumerate(layers):
                x = images[start : start + n] if i == 0 else layer["input"][:n]
                error = layer["error"][:n]
                np.matmul(x, layer["kernel"], out=layer["output"][:n])
                np.matmul(x.T, error, out=layer["kernel_gradient"])
                if i > 0:  # the images need no gradient
                    np.matmul(error, layer["kernel"].T, out=layer["input_gradient"][:n])
        for start in range(0, scored, 1000):
            x = images[start : start + 1000]
            for layer in scored_layers:
                x = np.matmul(x, layer["kernel"], out=layer["output"])

    epoch()
    times = []
    for _ in range(EPOCHS):
        started = time.perf_counter()
        epoch()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == "__main__":
    print(_products_here(*json.loads(sys.argv[1])))
