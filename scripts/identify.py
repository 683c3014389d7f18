"""Counts how often `initjax.identify` is right about draws of all initializers.

    python scripts/identify.py

Draws from each initializer in three shapes, and counts what the draws are taken for: the law, and
the initializer itself. What a known law drew may be called something else in one of 1000 cases.
Also counts how often a kernel is still taken for a fresh draw after an update, by its size. Takes 4
minutes on 2 CPU cores.
"""

import collections
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks import _results

import initjax

# What is drawn: its law, and what names it; None where no rule has its scale.
RANDOM = {
    "normal(0.02)": ("normal", "normal(0.02)"),
    "random_normal(0.0, 0.05)": ("normal", "normal(0.05)"),
    "variance_scaling(1.0, 'fan_in', 'normal')": (
        "normal",
        "variance_scaling(1.0, 'fan_in', 'normal')",
    ),
    "torch_kaiming_normal": ("normal", "variance_scaling(2.0, 'fan_in', 'normal')"),
    "wang_init(12, 64)": ("normal", None),
    "truncated_normal(0.02)": ("truncated normal", "truncated_normal(0.02)"),
    "lecun_normal": ("truncated normal", "lecun_normal()"),
    "glorot_normal": ("truncated normal", "glorot_normal()"),
    "he_normal": ("truncated normal", "he_normal()"),
    "random_uniform": ("uniform", "random_uniform(-0.05, 0.05)"),
    "lecun_uniform": ("uniform", "lecun_uniform()"),
    "glorot_uniform": ("uniform", "glorot_uniform()"),
    "he_uniform": ("uniform", "he_uniform()"),
    "torch_kaiming_uniform(5**0.5)": ("uniform", "torch_kaiming_uniform(5**0.5)"),
    "siren": ("uniform", "siren()"),
    "uniform(0.05)": ("uniform from zero", "uniform(0.05)"),
    "random_normal(1.0, 0.2)": ("normal off center", None),
    "random_uniform(-0.1, 0.3)": ("uniform off center", None),
    "log_uniform(0.001, 0.1)": ("log-uniform", None),
    "logarithm(random_uniform(1.0, 16.0))": ("logarithm of uniform", None),
    "inverse_softplus(log_uniform(0.001, 0.1))": ("inverse softplus of log-uniform", None),
    "orthogonal": ("orthogonal", "orthogonal()"),
    "unit_norm": ("unit norm", "unit_norm()"),
    "sparse(5)": ("sparse", None),
    "icnr(he_normal(), 2)": ("subpixels", "icnr(he_normal(), 2)"),
    "bounded_normal(1.0, 0.5, 0.0, inf)": ("none", None),
    "truncated_normal(0.3, None, -1.0, 3.0)": ("none", None),
}
# What isn't random: drawn once.
FIXED = {
    "zeros": "zeros",
    "ones": "ones",
    "constant(-0.25)": "constant(-0.25)",
    "identity(2.0)": "identity(2)",
    "hadamard_identity": "hadamard_identity()",
    "s4d": "s4d()",
    "s4d('lin', 'imag')": "s4d('lin', 'imag')",
    "forget_gate_bias": "forget_gate_bias()",
}
SHAPES = ((64, 128), (16, 64), (8, 16))
UPDATES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)


def identified(draws: Any) -> list[initjax.IdentifiedLeaf]:
    """What each of some draws is taken for."""
    return [initjax.identify({"kernel": draw}).leaves[0] for draw in np.asarray(draws)]


def drawn(spec: str, shape: Sequence[int], count: int) -> Any:
    """So many draws of an initializer."""
    keys = jax.random.split(initjax.named_key(jax.random.key(0), f"{spec} {shape}"), count)
    return jax.vmap(lambda key: initjax.parse(spec)(key, tuple(shape)))(keys)


def row(spec: str, shape: Sequence[int], count: int) -> tuple[list[str], int]:
    """A row of the table, and how many draws were named wrongly."""
    law, rule = RANDOM[spec]
    found = identified(drawn(spec, shape, count))
    fits = [leaf.law == law or law in leaf.laws for leaf in found]
    sure = [leaf.law != "too few numbers" for leaf in found]
    named = [rule is None or rule in leaf.rules for leaf in found]
    right = sum(fit and here and one for fit, here, one in zip(fits, sure, named, strict=True))
    open_ = sum(fit and not here for fit, here in zip(fits, sure, strict=True))
    other_scale = sum(
        fit and here and not one for fit, here, one in zip(fits, sure, named, strict=True)
    )
    wrong = collections.Counter(
        "no law" if leaf.law == "none" else " or ".join(leaf.laws)
        for leaf, fit in zip(found, fits, strict=True)
        if not fit
    )
    text = "; ".join(f"{law} {number}" for law, number in wrong.most_common(2)) or "0"
    size = " x ".join(map(str, shape))
    cells = [f"`{spec}`", size, f"{right}", f"{open_}", f"{other_scale}", text]
    return cells, 0 if law == "none" else count - right - open_


def updated(count: int) -> list[list[str]]:
    """How often kernels after an update of rank one or of scaled rows are taken for draws."""
    shape, rows = (128, 256), []
    kernels = drawn("he_normal", shape, count)
    kinds: dict[str, Callable[[Any], Any]] = {
        "rank one": lambda key: (
            jax.random.normal(key, (shape[0], 1))
            * jax.random.normal(jax.random.fold_in(key, 1), (1, shape[1]))
        ),
        "new means of columns": lambda key: jnp.broadcast_to(
            jax.random.normal(key, (1, shape[1])), shape
        ),
        "heavy tails": lambda key: jax.random.t(key, 3.0, shape) / 3**0.5,
    }
    keys = jax.random.split(jax.random.key(1), count)
    for name, make in kinds.items():
        update = jax.vmap(make)(keys) * kernels.std()
        for size in UPDATES:
            leaves = identified(kernels + size * update)
            fresh = sum("truncated normal" in leaf.laws for leaf in leaves)
            rows.append([name, f"{size:g}", f"{fresh} of {count}"])
    return rows


def main() -> None:
    parser = _results.parser(__doc__)
    parser.add_argument(
        "--draws", type=int, default=300, help="of each initializer and shape (default: 300)"
    )
    args = parser.parse_args()
    rows, wrong, total = [], 0, 0
    for spec in RANDOM:
        for shape in SHAPES:
            cells, misses = row(spec, shape, args.draws)
            rows.append(cells)
            if RANDOM[spec][0] != "none":
                wrong, total = wrong + misses, total + args.draws
        print(spec, flush=True)
    right = sum(
        rule in identified(drawn(spec, SHAPES[0], 1))[0].rules for spec, rule in FIXED.items()
    )
    body = (
        f"Draws of known laws: {total}. Their law or their scale was told otherwise in {wrong}"
        f" ({wrong / total:.2%}; stated: at most 0.10%). Initializers that draw nothing random:"
        f" {right} of {len(FIXED)} recognized.\n\n"
        "Named: law and initializer. Open: too few numbers to tell, with the law among those that"
        " fit. Where no rule has the initializer's scale, the law counts.\n\n"
    )
    head = ["drawn", "shape", "named", "open", "other scale", "other law"]
    body += _results.table(head, rows)
    body += (
        "\n\nKernels of shape 128 x 256 from `he_normal`, after an update whose root mean square"
        " is so large, relative to theirs:\n\n"
    )
    body += _results.table(["update", "size", "still taken for a draw"], updated(args.draws // 3))
    title = "What draws of all initializers are taken for"
    _results.write("identify", title, body, ["initjax", "jax", "numpy"], args.results)


if __name__ == "__main__":
    main()
