"""Measures the time and the peak memory of drawing one array, in initjax, JAX, PyTorch and Keras.

    python scripts/benchmarks/initializers.py --sizes=10_000,100_000_000 --dtypes=float32

Each measurement has a process of its own: it draws a small array first, so that libraries are
loaded and programs of that kind are compiled, then the array itself --rounds times, and small ones
for at least a second. Time is the median without the first draw, which compiles. Memory is the
growth of the peak of the process, in bytes per number, for large arrays. Peers that are not
installed are left out; `pip install -e '.[benchmark]'` installs them. About 6 minutes on 2 cores.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import _results

_LARGE = 10**7  # numbers, from which on memory is shown


def initjax_draw(name: str, dtype: str) -> Callable:
    import jax

    import initjax

    initializer, key = initjax.parse(name), jax.random.key(0)
    return lambda shape: initializer(key, shape, dtype).block_until_ready()


def jax_draw(name: str, dtype: str) -> Callable:
    import jax

    initializer, key = getattr(jax.nn.initializers, name)(), jax.random.key(0)
    return lambda shape: initializer(key, shape, dtype).block_until_ready()


def torch_draw(name: str, dtype: str) -> Callable:
    import torch  # pyright: ignore[reportMissingImports]

    fill = {
        "normal": lambda array: torch.nn.init.normal_(array, std=0.01),
        "glorot_uniform": torch.nn.init.xavier_uniform_,
        "he_normal": lambda array: torch.nn.init.trunc_normal_(array, std=0.02, a=-0.04, b=0.04),
    }[name]
    return lambda shape: fill(torch.empty(shape, dtype=getattr(torch, dtype)))


def keras_draw(name: str, dtype: str) -> Callable:
    import os

    os.environ["KERAS_BACKEND"] = "jax"
    import keras  # pyright: ignore[reportMissingImports]

    name = {"normal": "random_normal"}.get(name, name)
    initializer: Any = keras.initializers.get(name)
    return lambda shape: initializer(shape, dtype).block_until_ready()


PEERS = {"initjax": initjax_draw, "JAX": jax_draw, "PyTorch": torch_draw, "Keras": keras_draw}
MODULES = {"initjax": "initjax", "JAX": "jax", "PyTorch": "torch", "Keras": "keras"}


def measure(peer: str, initializer: str, dtype: str, size: int, rounds: int) -> dict[str, float]:
    """The median time in seconds, and the growth of the peak memory in bytes per number."""
    draw = PEERS[peer](initializer, dtype)
    draw((8, 1000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times: list[float] = []
    while len(times) <= rounds or sum(times) < 1:
        started = time.perf_counter()
        draw((size // 1000, 1000))
        times.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": statistics.median(times[1:]), "bytes": peak * 1024 / size}


def cell(peer: str, initializer: str, dtype: str, size: int, rounds: int) -> str:
    """The same as text, measured in a process of its own."""
    command = [sys.executable, __file__, f"--rounds={rounds}", "--one"]
    command += [peer, initializer, dtype, str(size)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=_results.ROOT)
    if f"No module named '{MODULES[peer]}'" in done.stderr:
        return "not installed"
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    milliseconds = found["seconds"] * 1000
    text = f"{milliseconds:,.0f} ms" if milliseconds >= 10 else f"{milliseconds:.2g} ms"
    return f"{text}, {found['bytes']:.1f} B" if size >= _LARGE else text


def main() -> None:
    parser = _results.parser(__doc__)

    def commas(text: str) -> list[str]:
        return text.split(",")

    names = "normal,glorot_uniform,he_normal"
    parser.add_argument("--sizes", type=commas, default=commas("10_000,1_000_000,100_000_000"))
    parser.add_argument("--dtypes", type=commas, default=commas("float32,bfloat16,float16"))
    parser.add_argument("--initializers", type=commas, default=commas(names))
    parser.add_argument("--rounds", type=int, default=3, help="draws of which the median is taken")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        peer, initializer, dtype, size = options.one
        print(json.dumps(measure(peer, initializer, dtype, int(size), options.rounds)))
        return
    rows = []
    for size in map(int, options.sizes):
        for dtype in options.dtypes:
            for initializer in options.initializers:
                row = [f"{size:,}", dtype, f"`{initializer}`"]
                row += [cell(peer, initializer, dtype, size, options.rounds) for peer in PEERS]
                rows.append(row)
                print(" | ".join(row), flush=True)
    body = (
        "The time to draw one array outside of `jit`, and the peak memory in bytes per number for"
        f" large arrays. Medians of at least {options.rounds} draws, a process for each"
        " measurement.\n\n"
    )
    body += _results.table(["numbers", "dtype", "initializer", *PEERS], rows)
    packages = ("initjax", "jax", "torch", "keras")
    _results.write("initializers", "Drawing one array", body, packages, options.results)


if __name__ == "__main__":
    main()
