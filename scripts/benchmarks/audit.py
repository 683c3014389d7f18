"""Measures the cost of an audit, compared with one gradient of the same loss: time and memory.

    python scripts/benchmarks/audit.py --models=mlp,deep,resnet,gpt2

Each measurement has a process of its own. Times are medians over --rounds, after compilation; the
first call, which compiles, has a column of its own. Memory is the peak of the process minus what it
held before the first call. The largest model is GPT-2 small, with 124 million parameters.
"""

import argparse
import itertools
import json
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

    import initjax

    key = jax.random.key(0)
    init = initjax.he_normal()
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


MODELS = {function.__name__: function for function in (mlp, deep, resnet, gpt2)}


def measure(name: str, what: str, rounds: int) -> dict[str, float]:
    """Times one kind of call of one model, in this process."""
    import jax

    from initjax.auditing._audit import reported
    from initjax.auditing._measuring.passes import measurer
    from initjax.auditing._reading.trace import trace

    loss_fn, params, batch = MODELS[name]()
    jax.block_until_ready((params, batch))
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    if what == "gradient":
        gradient = jax.jit(jax.value_and_grad(loss_fn))
        jax.block_until_ready(gradient(params, *batch))

        def call() -> None:
            jax.block_until_ready(gradient(params, *batch))
    else:
        traced = trace("audit", loss_fn, params, batch, False)
        passes = measurer(traced)
        measured = passes(params, batch)
        reported(traced, measured, params, batch)

        def call() -> None:
            passes(params, batch)

    first = time.perf_counter() - start
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "first": first,
        "time": statistics.median(times),
        "memory": (peak - held) / 1024,
        "params": sum(leaf.nbytes for leaf in jax.tree.leaves(params)) / 2**20,
    }


def main() -> None:
    parser = _results.parser(__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help=f"any of {', '.join(MODELS)}")
    parser.add_argument("--rounds", type=int, default=7, help="calls of which the median is taken")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        model, what = options.one
        print(json.dumps(measure(model, what, options.rounds)))
        return
    names = options.models.split(",")
    if unknown := [name for name in names if name not in MODELS]:
        parser.error(f"--models={unknown[0]}: must be among {', '.join(MODELS)}")
    rows = []
    for name in names:
        one, other = (_in_process(name, what, options.rounds) for what in ("gradient", "audit"))
        # The parameters are there either way; a gradient needs them, itself and activations.
        memory = [found["memory"] + found["params"] for found in (one, other)]
        rows.append(
            [
                str(MODELS[name].__doc__).rstrip("."),
                f"{one['time'] * 1e3:.3g} ms",
                f"{other['time'] * 1e3:.3g} ms",
                f"{other['time'] / one['time']:.1f}",
                f"{memory[0]:.0f} MB",
                f"{memory[1]:.0f} MB",
                f"{memory[1] / memory[0]:.1f}",
                f"{other['first']:.1f} s",
            ]
        )
        print(" | ".join(rows[-1]), flush=True)
    head = ["model", "gradient", "audit", "ratio", "memory: gradient", "audit", "ratio"]
    body = (
        f"Medians of {options.rounds} calls, after the first, which compiles. Memory is the peak"
        " above what was held before the first call; that of the smallest model is mostly the"
        f" compiler's.\n\n{_results.table([*head, 'first audit'], rows)}"
    )
    packages = ("initjax", "jax", "flax", "optax")
    _results.write("audit", "The cost of an audit", body, packages, options.results)


def _in_process(name: str, what: str, rounds: int) -> dict[str, float]:
    command = [sys.executable, __file__, f"--rounds={rounds}", "--one", name, what]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=_results.ROOT)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
