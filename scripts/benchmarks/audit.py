"""Measures what an audit costs beside a gradient of the same loss: time and memory.

    python scripts/benchmarks/audit.py --models=mlp,deep,resnet,gpt2,transformer

Three things are compared with `jax.jit(jax.value_and_grad(loss_fn))`:

- the first call, with compilation and empty caches; for the audit also with the import of its
  modules and the first use of the theory. Each first call has a process of its own.
- a later call of an auditor. Both are called in turns in one process.
- memory: the peak of a process minus what it held before its first call.

Times are medians over --rounds. The largest model is GPT-2 small, with 124 million parameters.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import _results


def mlp() -> tuple[Callable, Any, tuple]:
    """784-128-64-10, a batch of 256."""
    return _perceptron([784, 128, 64, 10])


def deep() -> tuple[Callable, Any, tuple]:
    """50 layers of 512, a batch of 256."""
    return _perceptron([784, *[512] * 50, 10])


def _perceptron(sizes: list[int]) -> tuple[Callable, Any, tuple]:
    import jax

    key = jax.random.key(0)
    init = jax.nn.initializers.he_normal()
    params = [
        init(jax.random.fold_in(key, n), shape) for n, shape in enumerate(itertools.pairwise(sizes))
    ]

    def loss_fn(params: list, images: Any, labels: Any) -> Any:
        *hidden, last = params
        for kernel in hidden:
            images = jax.nn.relu(images @ kernel)
        return _cross_entropy(images @ last, labels)

    images = jax.random.normal(key, (256, sizes[0]))
    return loss_fn, params, (images, jax.random.randint(key, (256,), 0, 10))


def _cross_entropy(logits: Any, labels: Any) -> Any:
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def resnet() -> tuple[Callable, Any, tuple]:
    """10 blocks of 32 channels with batch normalization, 64 images of 32 x 32."""
    import flax.linen as nn
    import jax

    class ResNet(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(32, (3, 3))(x)
            for _ in range(10):
                h = nn.BatchNorm(use_running_average=False)(x)
                h = nn.Conv(32, (3, 3), use_bias=False)(nn.relu(h))
                h = nn.BatchNorm(use_running_average=False)(h)
                x = x + nn.Conv(32, (3, 3), use_bias=False)(nn.relu(h))
            return nn.Dense(10)(x.mean((1, 2)))

    key, model = jax.random.key(0), ResNet()
    images = jax.random.normal(key, (64, 32, 32, 3))
    variables = model.init(key, images)

    def loss_fn(params: Any, statistics: Any, images: Any, labels: Any) -> Any:
        variables = {"params": params, "batch_stats": statistics}
        logits, _ = model.apply(variables, images, mutable=["batch_stats"])
        return _cross_entropy(logits, labels)

    labels = jax.random.randint(key, (64,), 0, 10)
    return loss_fn, variables["params"], (variables["batch_stats"], images, labels)


def gpt2() -> tuple[Callable, Any, tuple]:
    """GPT-2 small, 124 million parameters, two sequences of 128 tokens."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    width, heads, blocks, vocabulary, length = 768, 12, 12, 50_257, 128
    normal = nn.initializers.normal(0.02)

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, mask):
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(heads, kernel_init=normal)(h, mask=mask)
            h = nn.Dense(4 * width, kernel_init=normal)(nn.LayerNorm()(x))
            return x + nn.Dense(width, kernel_init=normal)(nn.gelu(h))

    class GPT2(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            embedding = nn.Embed(vocabulary, width, embedding_init=normal)
            positions = self.param("positions", normal, (1024, width))
            x = embedding(tokens) + positions[: tokens.shape[1]]
            mask = nn.make_causal_mask(tokens)
            for _ in range(blocks):
                x = Block()(x, mask)
            return embedding.attend(nn.LayerNorm()(x))

    key, model = jax.random.key(0), GPT2()
    tokens = jax.random.randint(key, (2, length), 0, vocabulary)
    params = jax.jit(model.init)(key, tokens)

    def loss_fn(params: Any, tokens: Any) -> Any:
        logits: Any = model.apply(params, tokens)
        return _cross_entropy(logits[:, :-1], tokens[:, 1:])

    print(sum(leaf.size for leaf in jax.tree.leaves(params)), "parameters", file=sys.stderr)
    return loss_fn, params, (jnp.asarray(tokens),)


def transformer() -> tuple[Callable, Any, tuple]:
    """24 unrolled pre-LN transformer blocks of width 128, 16 sequences of 32 tokens."""
    import flax.linen as nn
    import jax

    class Transformer(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            x = nn.Embed(256, 128)(tokens)
            for _ in range(24):
                x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
                x = x + nn.Dense(128)(nn.gelu(nn.Dense(512)(nn.LayerNorm()(x))))
            return nn.Dense(256)(nn.LayerNorm()(x))

    key, model = jax.random.key(0), Transformer()
    tokens = jax.random.randint(key, (16, 32), 0, 256)
    params = jax.jit(model.init)(key, tokens)

    def loss_fn(params: Any, tokens: Any) -> Any:
        logits: Any = model.apply(params, tokens)
        return _cross_entropy(logits[:, :-1], tokens[:, 1:])

    return loss_fn, params, (tokens,)


MODELS = {function.__name__: function for function in (mlp, deep, resnet, gpt2, transformer)}


def first_call(name: str, what: str) -> dict[str, float]:
    """Times the first call on one model, in this process, and its memory."""
    import jax

    loss_fn, params, batch = MODELS[name]()
    jax.block_until_ready((params, batch))
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    if what == "gradient":
        jax.block_until_ready(jax.jit(jax.value_and_grad(loss_fn))(params, *batch))
    else:
        import initjax

        initjax.audit(loss_fn, params, *batch)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # The parameters are there either way.
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return {"seconds": seconds, "memory": (peak - held) / 1024 + size / 2**20}


def later_calls(name: str, rounds: int) -> dict[str, float]:
    """Times later calls of a gradient and of an auditor, in turns."""
    import jax

    import initjax

    loss_fn, params, batch = MODELS[name]()
    gradient = jax.jit(jax.value_and_grad(loss_fn))
    auditor = initjax.auditor(loss_fn, params, *batch)
    jax.block_until_ready(gradient(params, *batch))
    auditor(params, *batch)
    times: dict[str, list[float]] = {"gradient": [], "audit": []}
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(gradient(params, *batch))
        middle = time.perf_counter()
        auditor(params, *batch)
        times["gradient"].append(middle - start)
        times["audit"].append(time.perf_counter() - middle)
    return {what: statistics.median(found) for what, found in times.items()}


def main() -> None:
    parser = _results.parser(__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help=f"any of {', '.join(MODELS)}")
    parser.add_argument("--rounds", type=int, default=5, help="calls of which the median is taken")
    parser.add_argument("--first", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--later", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first:
        print(json.dumps(first_call(*options.first)))
        return
    if options.later:
        print(json.dumps(later_calls(options.later, options.rounds)))
        return
    names = options.models.split(",")
    if unknown := [name for name in names if name not in MODELS]:
        parser.error(f"--models={unknown[0]}: must be among {', '.join(MODELS)}")
    rows = []
    for name in names:
        firsts: dict[str, list[dict[str, float]]] = {"gradient": [], "audit": []}
        for _ in range(options.rounds):
            for what, found in firsts.items():
                found.append(_in_process("--first", name, what))
        first, memory = (
            [statistics.median(one[key] for one in found) for found in firsts.values()]
            for key in ("seconds", "memory")
        )
        later = _in_process(f"--rounds={max(10, options.rounds)}", f"--later={name}")
        again = [later["gradient"], later["audit"]]
        row = [str(MODELS[name].__doc__).rstrip(".")]
        for (one, other), unit, scale in ((first, "s", 1), (again, "ms", 1e3), (memory, "MB", 1)):
            row += [f"{_digits(one * scale)} {unit}", f"{_digits(other * scale)} {unit}"]
            row.append(f"{other / one:.1f}")
        rows.append(row)
        print(" | ".join(row), flush=True)
    head = ["model", "first gradient", "first audit", "ratio", "gradient", "auditor", "ratio"]
    body = (
        f"Medians of {options.rounds} processes for first calls, which compile, and of"
        f" {max(10, options.rounds)} later calls in turns. Memory is the peak above what was held"
        " before the first call; that of the smallest model is mostly the compiler's.\n\n"
        f"{_results.table([*head, 'memory: gradient', 'audit', 'ratio'], rows)}"
    )
    packages = ("initjax", "jax", "flax", "optax")
    _results.write("audit", "The cost of an audit", body, packages, options.results)


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _in_process(*arguments: str) -> dict[str, float]:
    # An empty cache: what compiles, compiles here.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMP")}
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=_results.ROOT, env=kept
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
