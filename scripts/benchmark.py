"""Measures speed as ratios: against PyTorch, Keras on JAX, and the matrix products alone.

    pip install -e '.[benchmark]' && python scripts/benchmark.py [--rounds=5]

Whole commands are timed from the outside, with their imports, one after another within a round so
that a busy machine troubles all alike; medians over the rounds are compared. "Cold" has an empty
compilation cache. The peers train the same network on the same files in memory, and write nothing.
Training alone is an epoch of the main job, compiled, shuffle included, against the matrix products
of an epoch in NumPy's BLAS on the same cores. About 3 minutes on 2 cores of a CPU.
"""

import importlib.util
import itertools
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
    "rounds", 5, "How often everything is measured.", lower_bound=1, flag_values=_FLAGS
)

_PEERS = pathlib.Path(__file__).with_name("peers")
_EPOCHS = 15  # timed within one process, after one that is not


def whole_command(command: list[str], **environment: str) -> float:
    """The wall time of a command in seconds, in an empty directory of its own."""
    # This program has set JAX's variables for itself: the commands start without them.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, env=kept | environment, check=True, capture_output=True)
        return time.perf_counter() - started


def peer(name: str) -> list[str]:
    """The command of a peer."""
    return [sys.executable, str(_PEERS / f"{name}_mnist.py")]


def training_alone() -> float:
    """The median time of an epoch of the main job, in seconds."""
    import jax

    from experiments.common import data, starting, training
    from experiments.common.config import Config

    config = Config()
    digits = data.load()
    model, key, params = starting.start(config, digits)
    state = training.initial_state(config.optimizer, config.learning_rate, params)
    images, labels = jax.device_put((digits.train_images, digits.train_labels))

    def epoch(state: training.State, number: int) -> training.State:
        order_key = jax.random.fold_in(starting.order_key(key), number)
        batches = training.shuffled_batches(order_key, len(labels), config.batch_size)
        state, metrics = training.train(
            state,
            config.learning_rate,
            images,
            labels,
            batches,
            apply=model.apply,
            optimizer=config.optimizer,
        )
        jax.block_until_ready(metrics)
        return state

    state = epoch(state, 0)
    times = []
    for number in range(1, _EPOCHS + 1):
        started = time.perf_counter()
        state = epoch(state, number)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def products_alone(evaluation: bool = False) -> float:
    """The median time of an epoch's matrix products in NumPy, in seconds.

    Args:
      evaluation: whether those of scoring the test set once are among them.
    """
    import numpy as np

    rng = np.random.default_rng(0)

    def matrix(*shape: int) -> np.ndarray:
        return rng.random(shape, dtype=np.float32)

    sizes = (784, 128, 64, 10)
    images = matrix(60_000, 784)
    # Everything is allocated beforehand, results too: what remains is the products.
    layers = [
        {
            "input": matrix(128, inputs),
            "kernel": matrix(inputs, outputs),
            "error": matrix(128, outputs),
            "output": matrix(128, outputs),
            "kernel_gradient": matrix(inputs, outputs),
            "input_gradient": matrix(128, inputs),
        }
        for inputs, outputs in itertools.pairwise(sizes)
    ]

    scored_layers = [
        {"kernel": layer["kernel"], "output": matrix(1000, layer["kernel"].shape[1])}
        for layer in layers
    ]

    def epoch() -> None:
        for start in range(0, 60_000, 128):
            n = min(128, 60_000 - start)
            for i, layer in enumerate(layers):
                x = images[start : start + n] if i == 0 else layer["input"][:n]
                error = layer["error"][:n]
                np.matmul(x, layer["kernel"], out=layer["output"][:n])
                np.matmul(x.T, error, out=layer["kernel_gradient"])
                if i > 0:  # the images need no gradient
                    np.matmul(error, layer["kernel"].T, out=layer["input_gradient"][:n])
        for start in range(0, 10_000 if evaluation else 0, 1000):
            x = images[start : start + 1000]
            for scored in scored_layers:
                x = np.matmul(x, scored["kernel"], out=scored["output"])

    epoch()
    times = []
    for _ in range(_EPOCHS):
        started = time.perf_counter()
        epoch()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def in_process(function: str, **environment: str) -> float:
    """Calls a function above in a process of its own, and returns what it returns."""
    # What holds back NumPy's BLAS, for machines that need it, would flatter us: it is taken away.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    code = f"import benchmark; print(benchmark.{function}())"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=pathlib.Path(__file__).parent,
        env=kept | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return float(result.stdout.split()[-1])


def main() -> None:
    missing = [name for name in ("torch", "keras") if not importlib.util.find_spec(name)]
    if missing:
        raise ValueError(f"not installed: {', '.join(missing)}; pip install -e '.[benchmark]'")
    ours = [sys.executable, "-m", "experiments.mnist", "--init=glorot_uniform"]
    times: dict[str, list[float]] = {
        name: []
        for name in ("warm", "cold", "PyTorch", "Keras", "Keras, cached", "training", "products")
    }
    with tempfile.TemporaryDirectory() as cache:
        whole_command(ours, JAX_COMPILATION_CACHE_DIR=cache)  # fills the cache
        keras_cache = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        whole_command(peer("keras"), **keras_cache)
        for number in range(_FLAGS.rounds):
            times["warm"].append(whole_command(ours, JAX_COMPILATION_CACHE_DIR=cache))
            with tempfile.TemporaryDirectory() as empty:
                times["cold"].append(whole_command(ours, JAX_COMPILATION_CACHE_DIR=empty))
            times["PyTorch"].append(whole_command(peer("pytorch")))
            times["Keras"].append(whole_command(peer("keras")))
            # Keras leaves JAX's cache off; its users can switch it on by hand.
            times["Keras, cached"].append(whole_command(peer("keras"), **keras_cache))
            times["training"].append(in_process("training_alone", JAX_COMPILATION_CACHE_DIR=cache))
            times["products"].append(in_process("products_alone"))
            shown = ", ".join(f"{name} {column[-1]:.2f}" for name, column in times.items())
            print(f"round {number + 1}/{_FLAGS.rounds}: {shown} s", flush=True)

    median = {name: statistics.median(column) for name, column in times.items()}
    print("\n| what | time | against | time | ratio |\n|---|---|---|---|---|")
    for mine, label, other, other_label in (
        ("warm", "whole command, warm", "PyTorch", "PyTorch"),
        ("cold", "whole command, cold", "PyTorch", "PyTorch"),
        ("warm", "whole command, warm", "Keras", "Keras on JAX"),
        ("cold", "whole command, cold", "Keras", "Keras on JAX"),
        ("warm", "whole command, warm", "Keras, cached", "Keras on JAX, cache switched on"),
        ("training", "an epoch of training", "products", "its matrix products in NumPy"),
    ):
        print(
            f"| {label} | {median[mine]:.2f} s | {other_label} | {median[other]:.2f} s |"
            f" {median[mine] / median[other]:.2f} |"
        )


if __name__ == "__main__":
    console.run_program(
        "python scripts/benchmark.py",
        "Measures speed as ratios: against PyTorch, Keras on JAX, and the matrix products alone.",
        _FLAGS,
        {"Flags": ("rounds", "help")},
        main,
    )
