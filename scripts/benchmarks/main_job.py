"""Measures the speed of the main job, as ratios to PyTorch, Keras on JAX, and matrix products.

    pip install -e '.[benchmark]' && python scripts/benchmarks/main_job.py

Whole commands are timed from outside, imports included. Within a round they run one after another,
so that a busy machine slows all alike; medians over the rounds are compared. "Cold" starts with an
empty compilation cache. The peers train the same network on the same files in memory, and write
nothing. An epoch of training, compiled and shuffle included, is compared with the matrix products
of an epoch in NumPy on the same cores. About 4 minutes on 2 cores of a CPU.
"""

import statistics
import subprocess
import sys
import tempfile
import time

import _commands
import _results

_NAMES = ("warm", "cold", "PyTorch", "Keras", "Keras, cached", "training", "products")
_ROWS = (
    ("whole command, warm", "warm", "PyTorch", "PyTorch"),
    ("whole command, cold", "cold", "PyTorch", "PyTorch"),
    ("whole command, warm", "warm", "Keras on JAX", "Keras"),
    ("whole command, cold", "cold", "Keras on JAX", "Keras"),
    ("whole command, warm", "warm", "Keras on JAX with JAX's cache on", "Keras, cached"),
    ("an epoch of training", "training", "its matrix products in NumPy", "products"),
)


def measure_training() -> float:
    """The median time of an epoch of the main job in this process, in seconds."""
    import jax

    from experiments.common import batching, data, starting, tasks, training
    from experiments.common.config import Config

    config = Config()
    digits = data.load()
    model, key, params = starting.start(config, digits)
    state = training.initial_state(config.optimizer, config.learning_rate, params)
    train_set = jax.device_put((digits.train_images, digits.train_labels))

    def epoch(state: training.State, number: int) -> training.State:
        order_key = jax.random.fold_in(starting.order_key(key), number)
        batches = batching.shuffled_batches(order_key, len(digits.train_labels), config.batch_size)
        state, metrics = training.train(
            state,
            config.learning_rate,
            train_set,
            batches,
            task=tasks.classification(model.apply),
            optimizer=config.optimizer,
        )
        jax.block_until_ready(metrics)
        return state

    state = epoch(state, 0)
    times = []
    for number in range(1, _commands.EPOCHS + 1):
        started = time.perf_counter()
        state = epoch(state, number)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def training_alone() -> float:
    """The same, in a process of its own."""
    command = [sys.executable, __file__, "--training_alone"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def one_round(cache: str) -> dict[str, float]:
    """Measures everything once, in seconds."""
    ours = [sys.executable, "-m", "experiments.mnist", "--init=glorot_uniform"]
    # Keras leaves JAX's cache off; its users can turn it on.
    keras_cache = {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def seconds(command: list[str], **environment: str) -> float:
        return _commands.measure(command, **environment)[0]

    with tempfile.TemporaryDirectory() as empty:
        return {
            "warm": seconds(ours, JAX_COMPILATION_CACHE_DIR=cache),
            "cold": seconds(ours, JAX_COMPILATION_CACHE_DIR=empty),
            "PyTorch": seconds(_commands.peer("pytorch_mnist")),
            "Keras": seconds(_commands.peer("keras_mnist")),
            "Keras, cached": seconds(_commands.peer("keras_mnist"), **keras_cache),
            "training": training_alone(),
            "products": _commands.products(),
        }


def main() -> None:
    parser = _results.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="how often everything is measured")
    parser.add_argument("--training_alone", action="store_true", help="print one measurement")
    options = parser.parse_args()
    if options.training_alone:
        print(measure_training())
        return
    _commands.require_peers(parser)
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as cache:
        one_round(cache)  # fills the cache
        for number in range(1, options.rounds + 1):
            rounds.append(one_round(cache))
            shown = ", ".join(f"{name} {rounds[-1][name]:.2f}" for name in _NAMES)
            print(f"round {number}/{options.rounds}: {shown} s", flush=True)

    median = {name: statistics.median(one[name] for one in rounds) for name in _NAMES}
    rows = [
        (
            label,
            f"{median[mine]:.2f} s",
            peer,
            f"{median[theirs]:.2f} s",
            f"{median[mine] / median[theirs]:.2f}",
        )
        for label, mine, peer, theirs in _ROWS
    ]
    body = (
        f"Medians of {options.rounds} rounds. Whole commands are timed from outside, imports"
        ' included; "cold" starts with an empty compilation cache. The peers train the same'
        " network on the same data in memory, and write nothing.\n\n"
    )
    body += _results.table(["initjax", "time", "compared with", "time", "ratio"], rows)
    title = "The main job: speed"
    _results.write("main_job", title, body, _commands.PACKAGES, options.results)


if __name__ == "__main__":
    main()
