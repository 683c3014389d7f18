"""Measures the time and the peak memory of drawing one array, against JAX, PyTorch and Keras.

Every measurement is a process of its own: what is drawn first is small, so that libraries are
loaded, and compiled programs of that kind; then the array is drawn --rounds times, small ones for a
second at least. Time is the median of those, without the first, which compiles. Memory is by how
much the peak of the process grew, in bytes for each number of a large array. Peers that are not
installed are left out: they come with `pip install -e '.[benchmark]'`.

    python scripts/benchmark_initializers.py --sizes=10_000,1_000_000,100_000_000 --dtypes=float32
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]


def initjax_draw(law: str, dtype: str) -> Callable:
    import jax

    import initjax

    initializer, key = initjax.parse(law), jax.random.key(0)
    return lambda shape: initializer(key, shape, dtype).block_until_ready()


def jax_draw(law: str, dtype: str) -> Callable:
    import jax

    initializer, key = getattr(jax.nn.initializers, law)(), jax.random.key(0)
    return lambda shape: initializer(key, shape, dtype).block_until_ready()


def torch_draw(law: str, dtype: str) -> Callable:
    import torch  # pyright: ignore[reportMissingImports]

    fill = {
        "normal": lambda array: torch.nn.init.normal_(array, std=0.01),
        "glorot_uniform": torch.nn.init.xavier_uniform_,
        "he_normal": lambda array: torch.nn.init.trunc_normal_(array, std=0.02, a=-0.04, b=0.04),
    }[law]
    return lambda shape: fill(torch.empty(shape, dtype=getattr(torch, dtype)))


def keras_draw(law: str, dtype: str) -> Callable:
    import os

    os.environ["KERAS_BACKEND"] = "jax"
    import keras  # pyright: ignore[reportMissingImports]

    name = {"normal": "random_normal"}.get(law, law)
    initializer: Any = keras.initializers.get(name)
    return lambda shape: initializer(shape, dtype).block_until_ready()


PEERS = {"initjax": initjax_draw, "jax": jax_draw, "torch": torch_draw, "keras": keras_draw}


def measure(peer: str, law: str, dtype: str, size: int, rounds: int) -> dict[str, float]:
    """The median time in seconds, and the growth of the peak memory in bytes for each number."""
    draw = PEERS[peer](law, dtype)
    draw((8, 1000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times: list[float] = []
    while len(times) <= rounds or sum(times) < 1:
        started = time.perf_counter()
        draw((size // 1000, 1000))
        times.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": statistics.median(times[1:]), "bytes": peak * 1024 / size}


def main() -> None:
    parser = argparse.ArgumentParser(
        usage="python scripts/benchmark_initializers.py [options]", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commas = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--sizes", type=commas, default=["10_000", "1_000_000", "100_000_000"])
    parser.add_argument("--dtypes", type=commas, default=["float32", "bfloat16"])
    parser.add_argument("--laws", type=commas, default=["normal", "glorot_uniform", "he_normal"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        peer, law, dtype, size = options.one
        print(json.dumps(measure(peer, law, dtype, int(size), options.rounds)))
        return
    print("| law | dtype | numbers | " + " | ".join(f"{p} ms | B/number" for p in PEERS) + " |")
    print("|---" * (3 + 2 * len(PEERS)) + "|")
    for law in options.laws:
        for dtype in options.dtypes:
            for size in map(int, options.sizes):
                row = [law, dtype, f"{size:,}"]
                for peer in PEERS:
                    one = [peer, law, dtype, str(size)]
                    command = [sys.executable, __file__, "--rounds", str(options.rounds), "--one"]
                    done = subprocess.run(
                        [*command, *one], capture_output=True, text=True, cwd=ROOT
                    )
                    if f"No module named '{peer}'" in done.stderr:
                        row += ["-", "-"]
                        continue
                    if done.returncode:
                        raise SystemExit(done.stderr)
                    result = json.loads(done.stdout.splitlines()[-1])
                    memory = f"{result['bytes']:.1f}" if size >= 10**7 else "-"
                    row += [f"{result['seconds'] * 1000:.3g}", memory]
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
