"""Trains small transformers, to see from which scores on, and how alike, attention does harm.

    python scripts/attention_levels.py

Two tasks on sequences of 16 tokens: to name the token before each one, which takes attention to
places, and to say whether a token occurs twice, which takes attention to tokens. The first table
varies the scale of the scores at initialization, the second one the number of blocks without
residual streams, which make tokens alike. Each network is audited before it is trained. Takes 4
minutes on 2 CPU cores.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from benchmarks import _results

import initjax

WIDTH, LENGTH, VOCABULARY, ROWS = 32, 16, 32, 32
SEEDS, STEPS, LAST = 3, 250, 20
LIMIT = math.sqrt(2 * math.log(LENGTH))  # of the scores' standard deviation, by theory
RATIOS = (0.02, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0)
BLOCKS = (1, 2, 4, 6, 8)
TASKS = {"token before": VOCABULARY, "token occurs twice": 2}
OPTIMIZER = optax.adam(3e-3)


def batch(key: jax.Array, task: str) -> tuple[jax.Array, jax.Array]:
    """Sequences of tokens, and the class of each token."""
    tokens = jax.random.randint(key, (ROWS, LENGTH), 0, VOCABULARY)
    if task == "token before":
        return tokens, jnp.roll(tokens, 1, axis=1).at[:, 0].set(0)
    same = tokens[:, :, None] == tokens[:, None]
    return tokens, (same.sum(-1) > 1).astype(int)


def drawn(key: jax.Array, blocks: int, classes: int, scale: jax.Array | float) -> Any:
    """Parameters; the kernels of queries and keys have variance `scale` / fan_in."""
    lecun = initjax.variance_scaling(1.0, "fan_in", "normal")
    keys = iter(jax.random.split(key, 3 + 4 * blocks))
    square = (WIDTH, WIDTH)
    return {
        "tokens": initjax.normal(1.0)(next(keys), (VOCABULARY, WIDTH)),
        "places": initjax.normal(1.0)(next(keys), (LENGTH, WIDTH)),
        "out": lecun(next(keys), (WIDTH, classes)),
        "blocks": [
            {
                "query": scale**0.5 * lecun(next(keys), square),
                "key": scale**0.5 * lecun(next(keys), square),
                "value": lecun(next(keys), square),
                "result": lecun(next(keys), square),
            }
            for _ in range(blocks)
        ],
    }


def norm(x: jax.Array) -> jax.Array:
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)


def loss_of(residual: bool, params: Any, tokens: jax.Array, labels: jax.Array) -> jax.Array:
    """The cross entropy of a transformer of blocks of attention, normalized inside of branches."""
    x = params["tokens"][tokens] + params["places"]
    for block in params["blocks"]:
        y = norm(x)
        scores = jnp.einsum("ntd,nsd->nts", y @ block["query"], y @ block["key"])
        mixed = jax.nn.softmax(scores / math.sqrt(WIDTH)) @ (y @ block["value"]) @ block["result"]
        x = x + mixed if residual else mixed
    logits = norm(x) @ params["out"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def trained(task: str, blocks: int, residual: bool, scale: jax.Array) -> jax.Array:
    """The mean loss of the last steps, by seed."""
    loss = functools.partial(loss_of, residual)

    def one(key: jax.Array) -> jax.Array:
        params = drawn(key, blocks, TASKS[task], scale)

        def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            params, optimizer = state
            value, gradient = jax.value_and_grad(loss)(params, *batch(key, task))
            updates, optimizer = OPTIMIZER.update(gradient, optimizer)
            return (optax.apply_updates(params, updates), optimizer), value

        start = params, OPTIMIZER.init(params)
        keys = jax.random.split(jax.random.fold_in(key, 1), STEPS)
        return jax.lax.scan(step, start, keys)[1][-LAST:].mean()

    return jax.vmap(one)(jax.random.split(jax.random.key(0), SEEDS))


def row(task: str, blocks: int, residual: bool, scale: float) -> list[str]:
    """What the audit says of a network, and where its training ends."""
    key, _ = jax.random.split(jax.random.key(0), SEEDS)[:2]
    params = drawn(key, blocks, TASKS[task], scale)
    loss = functools.partial(loss_of, residual)
    report = initjax.audit(loss, params, *batch(jax.random.key(1), task))
    first, last = report.attention[0], report.attention[-1]
    found = [
        f"{finding.level}, {finding.cause}"
        for finding in report.findings
        if finding.cause.startswith("attention")
    ]
    losses = np.asarray(trained(task, blocks, residual, jnp.float32(scale)))
    return [
        task,
        str(blocks),
        f"{first.score_stddev / first.critical_stddev:.2f}",
        f"{first.effective_keys:.1f}",
        f"{1 - last.token_correlation:.1e}",
        found[0] if found else "ok",
        f"{losses.mean():.3f} ± {losses.std(ddof=1):.3f}",
    ]


def table(rows: Sequence[Sequence[str]]) -> str:
    head = ["task", "blocks", "scores / limit", "keys read", "1 - cosine", "audit", "loss"]
    return _results.table(head, rows)


def main() -> None:
    options = _results.parser(__doc__).parse_args()
    scales = [row(task, 2, True, ratio * LIMIT) for task in TASKS for ratio in RATIOS]
    depths = [row(task, blocks, False, 1.0) for task in TASKS for blocks in BLOCKS]
    guesses = ", ".join(f"{math.log(classes):.3f} ({task})" for task, classes in TASKS.items())
    body = f"""\
Losses are means of the last {LAST} of {STEPS} steps of Adam, over {SEEDS} seeds, with the standard
deviation over seeds. Guessing any class would give {guesses}. Keys read are those of the first
attention, of {LENGTH}; the cosine is that of two tokens at the last one. An audit warns from 1.5
times the limit on, and sees a failure from 4 times on; it warns of tokens that are alike from
1 - cosine = 1e-2 down, and sees a failure from 1e-3 down.

## Larger scores, two blocks in a residual stream

{table(scales)}

## More blocks without a residual stream

{table(depths)}
"""
    _results.write(
        "attention_levels", "Attention: levels of harm", body, ["jax", "optax"], options.results
    )


if __name__ == "__main__":
    main()
