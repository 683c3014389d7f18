"""Measures the speed of training deep networks, compared with PyTorch and matrix products.

    pip install -e '.[benchmark]' && python scripts/benchmarks/depth.py

Networks of one width and several depths are trained with momentum in batches of 64, by
`experiments.depth`, and scored on the test set after their last step. PyTorch trains the same
networks one after another. What counts is the cost of additional networks: the time of a command
with many minus that of one with few, so that imports do not count, nor what is compiled once. The
limit is the matrix products of the same training in NumPy, computed by one process on each core at
the same time. A second table shows how time and memory grow with the number of networks, a third
how long networks of each depth are compiled. About 12 minutes on 2 cores of a CPU.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable

import _commands
import _results

_WIDTH, _BATCH, _STEPS = 128, 64, 400
_PART = 10  # the products are measured on a tenth of the training
_LAYERS = 600  # about how many the additional networks of a command have for each core
_GROWTH_DEPTH = 30
_PYTORCH: dict[str, dict[str, str]] = {
    "PyTorch on all cores": {},
    "PyTorch on one core": {"OMP_NUM_THREADS": "1"},
}


def ours(depth: int, networks: int, cache: str, steps: int = _STEPS) -> tuple[float, float]:
    """The seconds and the peak memory in MB of `experiments.depth` for networks of one depth.

    `cache` is the directory of compiled programs.
    """
    flags = {
        "weight_variance": 1.76,
        "bias_variance": 0.05,
        "learning_rate": "0.1/depth",
        "depth": depth,
        "width": _WIDTH,
        "batch_size": _BATCH,
        "steps": steps,
        "seeds": networks,
    }
    command = [sys.executable, "-m", "experiments.depth"]
    command += [f"--{name}={value}" for name, value in flags.items()]
    return _commands.measure(command, JAX_COMPILATION_CACHE_DIR=cache)


def pytorch(depth: int, networks: int, *flags: str, **environment: str) -> float:
    """The seconds of the peer for that many networks."""
    sizes = map(str, (depth, _WIDTH, _STEPS, networks))
    return _commands.measure(_commands.peer("pytorch_depth", *sizes, *flags), **environment)[0]


def products(depth: int, cores: int) -> float:
    """The seconds that the matrix products of one network take."""
    features = (784, *[_WIDTH] * depth, 10)
    trained, scored = _BATCH * _STEPS // _PART, 10_000 // _PART
    return _PART * _commands.products(cores, features, _BATCH, trained, scored)


def additional(seconds: Callable[[int], float], depth: int, at_once: int = 1) -> float:
    """The seconds that one more network of a depth takes, given those of a number of them."""
    more = max(2, _LAYERS // depth)
    return (seconds((1 + more) * at_once) - seconds(at_once)) / more / at_once


def one_round(depth: int, cores: int, cache: str) -> dict[str, float]:
    """The seconds that each takes for one network of a depth."""
    return {
        "initjax": additional(lambda count: ours(depth, count, cache)[0], depth, cores),
        "products": products(depth, cores),
        **{
            name: additional(lambda count, kept=kept: pytorch(depth, count, **kept), depth)
            for name, kept in _PYTORCH.items()
        },
    }


def compiled(depth: int) -> tuple[float, float]:
    """The seconds of PyTorch, compiled, for one network of a depth, and for compiling it."""
    first = pytorch(depth, 1, "--compile")  # keeps what is compiled on disk
    once = pytorch(depth, 1)
    return additional(lambda count: pytorch(depth, count, "--compile"), depth), first - once


def main() -> None:
    parser = _results.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often speed is measured")
    parser.add_argument("--depths", default="10,100,300", help="depths, for the first table")
    parser.add_argument("--growth", default="1,2,4,8,16,32,64", help="networks, for the second")
    parser.add_argument("--compiled", default="3,30,300", help="depths, for the third")
    options = parser.parse_args()
    _commands.require_peers(parser)
    cores = _results.cores()
    depths = [int(depth) for depth in options.depths.split(",")]
    speed, growth, compilation = [], [], []
    with tempfile.TemporaryDirectory() as cache:
        for depth in depths:
            ours(depth, 1, cache)  # fills the cache
            rounds = []
            for number in range(1, options.rounds + 1):
                rounds.append(one_round(depth, cores, cache))
                shown = ", ".join(f"{name} {value:.2f}" for name, value in rounds[-1].items())
                print(f"depth {depth}, round {number}/{options.rounds}: {shown} s", flush=True)
            median = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
            mine = median["initjax"]
            speed.append(
                (
                    str(depth),
                    f"{mine:.2f}",
                    f"{mine / depth / _STEPS * 1e6:.0f}",
                    f"{median['products']:.2f}",
                    f"{median['products'] / mine:.0%}",
                    *(f"{median[name]:.2f} ({median[name] / mine:.1f}x)" for name in _PYTORCH),
                )
            )
        ours(_GROWTH_DEPTH, 1, cache)
        for networks in map(int, options.growth.split(",")):
            seconds, memory = ours(_GROWTH_DEPTH, networks, cache)
            per_network = f"{seconds / networks:.2f}"
            growth.append((str(networks), f"{seconds:.1f}", per_network, f"{memory:.0f} MB"))
            print(", ".join(growth[-1]), flush=True)
    for depth in map(int, options.compiled.split(",")):
        with tempfile.TemporaryDirectory() as cache:
            cold, warm = (ours(depth, 1, cache, steps=1)[0] for _ in range(2))
        compilation.append((str(depth), f"{cold:.1f}", f"{warm:.1f}", f"{cold - warm:.1f}"))
        print(", ".join(compilation[-1]), flush=True)
    seconds, once = compiled(depths[0])

    products_head = ["matrix products in NumPy, s", "products / initjax"]
    head = ["depth", "initjax, s", "µs per network, layer and step", *products_head, *_PYTORCH]
    body = (
        f"Seconds for one more network of width {_WIDTH} and for its {_STEPS} steps of {_BATCH}"
        " examples, drawn, shuffled and scored once on 10,000 images; medians of"
        f" {options.rounds} rounds. The column of layers counts hidden ones, so the input layer,"
        " six times as large, weighs more in shallow networks.\n\n"
        f"{_results.table(head, speed)}\n\n"
        f"With `torch.compile`, PyTorch takes {seconds:.2f} s for a network of depth {depths[0]},"
        f" after {once:.0f} s for compiling it.\n\n"
        f"Whole commands for networks of depth {_GROWTH_DEPTH}, startup included:\n\n"
    )
    body += _results.table(["networks", "seconds", "seconds per network", "peak memory"], growth)
    body += "\n\nWhole commands for one network and one step, without and with JAX's cache:\n\n"
    body += _results.table(["depth", "cold, s", "warm, s", "compilation, s"], compilation)
    _results.write("depth_speed", "Deep networks: speed", body, _commands.PACKAGES, options.results)


if __name__ == "__main__":
    main()
