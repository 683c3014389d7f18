"""Compares `initjax.parametrize` with other libraries, for one model at two sizes.

`equivalents.py` writes the table. What microsoft/mup and unit-scaling draw, and the learning rates
and weight decays that they give to their optimizers, are read from these libraries. Of nanoGPT-mup,
which is a program, the rules are told as numbers. All numbers are relative to the base model.

A library that keeps a factor in the forward pass has other numbers for the same training. Ours are
told in its form, by the exchange of multiplier, stddev and learning rate.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

import initjax

BASE, WIDTH = 64, 256
BASE_DEPTH, DEPTH = 2, 18
BASE_HEAD, HEAD = 16, 64
INPUTS, WORDS, CLASSES = 24, 500, 100
TEXT = (
    "What `initjax.parametrize` says and what other libraries say of a model whose width grows"
    f" from {BASE} to {WIDTH}, relative to the base model. Where there are blocks, their number"
    f" grows from {BASE_DEPTH} to {DEPTH}; heads of attention grow from {BASE_HEAD} to {HEAD}."
    " `product` is what their forward pass multiplies by; our numbers are told in that form. `p` is"
    " that of a Kolmogorov-Smirnov test of the kernels with their multipliers. A cell with one"
    " number is equal in both. nanoGPT-mup and CompleteP are the branches master (b2a5e60) and"
    " completep (6f8bc3b) of EleutherAI/nanoGPT-mup. nanoGPT-mup leaves the weight decay as it is,"
    " so that kernels of wide models decay less."
)
HEADER = ["library", "parameter", "draw", "product", "SGD", "Adam", "AdamW", "its decay"]
OPTIMIZERS: tuple[Literal["sgd", "adam", "adamw"], ...] = ("sgd", "adam", "adamw")


class Numbers(NamedTuple):
    """What a library says of a parameter."""

    path: str
    """What the parameter is called here."""
    drawn: Any
    """What it draws, or the factor of the standard deviation."""
    product: float
    """The factor of the product with it."""
    rates: Mapping[str, float]
    """Factors of the learning rates, by optimizer."""
    decay: float | None
    """The factor of AdamW's weight decay, which is multiplied with the learning rate."""


def shapes(width: int, depth: int) -> dict[str, Any]:
    import jax

    sizes = {
        "embed/embedding": (WORDS, width),
        "stem/kernel": (INPUTS, width),
        "mix/kernel": (width, width),
        "norm/scale": (width,),
        "head/kernel": (width, CLASSES),
        **{f"block_{block}/kernel": (width, width) for block in range(depth)},
    }
    return {path: jax.ShapeDtypeStruct(size, np.float32) for path, size in sizes.items()}


def by_parameter(groups: Iterable[Mapping], named: Mapping[str, Any]) -> dict[str, tuple]:
    """Learning rate and weight decay of each parameter."""
    return {
        path: (float(group["lr"]), float(group["weight_decay"]))
        for group in groups
        for path, parameter in named.items()
        if any(parameter is other for other in group["params"])
    }


def mup_numbers() -> list[Numbers]:
    import mup  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    def model(width: int) -> Any:
        return torch.nn.ModuleDict(
            {
                "embed/embedding": torch.nn.Embedding(WORDS, width),
                "stem/kernel": torch.nn.Linear(INPUTS, width, bias=False),
                "mix/kernel": torch.nn.Linear(width, width, bias=False),
                "norm/scale": torch.nn.LayerNorm(width),
                "head/kernel": mup.MuReadout(width, CLASSES, bias=False),
            }
        )

    torch.manual_seed(1)
    wide = model(WIDTH)
    mup.set_base_shapes(wide, model(BASE), delta=model(BASE + 1))
    named = {path: layer.weight for path, layer in wide.items()}
    made = {"sgd": mup.MuSGD, "adam": mup.MuAdam, "adamw": mup.MuAdamW}
    told = {
        name: by_parameter(make(wide.parameters(), lr=1.0, weight_decay=1.0).param_groups, named)
        for name, make in made.items()
    }
    return [
        Numbers(
            path,
            None if path == "norm/scale" else parameter.detach().numpy().T,
            1 / wide[path].width_mult() if path == "head/kernel" else 1.0,
            {name: groups[path][0] for name, groups in told.items()},
            told["adamw"][path][1],
        )
        for path, parameter in named.items()
    ]


def unit_scaling_numbers() -> list[Numbers]:
    import torch  # pyright: ignore[reportMissingImports]
    import unit_scaling as uu  # pyright: ignore[reportMissingImports]

    def model(width: int, depth: int) -> tuple[dict, dict]:
        blocks = uu.DepthModuleList([uu.Linear(width, width) for _ in range(depth)])
        layers = {
            "embed/embedding": uu.Embedding(WORDS, width),
            "stem/kernel": uu.Linear(INPUTS, width),
            "mix/kernel": uu.Linear(width, width),
            "norm/scale": uu.RMSNorm(width, elementwise_affine=True),
            "head/kernel": uu.LinearReadout(width, CLASSES),
            "block_0/kernel": blocks[0],
        }
        weights = {path: layer.weight for path, layer in layers.items()}
        groups = uu.optim.scaled_parameters(
            weights.values(), uu.optim.lr_scale_func_adam, lr=1.0, weight_decay=1.0
        )
        return layers, by_parameter(groups, weights)

    def product(layer: Any) -> float:
        """What multiplies the product with a kernel."""
        if "Linear" not in type(layer).__name__:
            return 1.0
        x = torch.ones(1, layer.weight.shape[1])
        ratio = layer(x) / torch.nn.functional.linear(x, layer.weight)
        return float(ratio.detach().mean())

    def branch(depth: int) -> float:
        """What a residual branch is multiplied by, if the embedding isn't."""
        rule = uu.core.functional.transformer_residual_scaling_rule()
        tau = rule(2 * depth - 1, 2 * depth)  # of the last layer
        before = [rule(index, 2 * depth) for index in range(2 * depth - 1)]
        return tau / float(np.prod([(1 + each**2) ** -0.5 for each in before]))

    torch.manual_seed(1)
    (base_layers, base_told), (layers, told) = model(BASE, BASE_DEPTH), model(WIDTH, DEPTH)
    numbers = []
    for path, layer in layers.items():
        kernel = None if path == "norm/scale" else layer.weight.detach().numpy().T
        rate, decay = (now / then for now, then in zip(told[path], base_told[path], strict=True))
        scale = product(layer) / product(base_layers[path])
        numbers.append(Numbers(path, kernel, scale, {"adam": rate, "adamw": rate}, decay))
    residual = branch(DEPTH) / branch(BASE_DEPTH)
    return [*numbers, Numbers("residual", None, residual, {}, None)]


def nanogpt_mup_numbers() -> list[Numbers]:
    """EleutherAI/nanoGPT-mup, branch master, commit b2a5e60, model.py: rules in lines 63-66 (scores
    divided by the size of a head), 161-169 (stddevs), 216-221 (logits divided by the growth of the
    width) and 305-322 (AdamW). Its embedding is the output kernel, too."""
    m = WIDTH / BASE
    return [
        Numbers("embed/embedding", 1.0, 1 / m, {"adamw": 1.0}, 1.0),
        Numbers("mix/kernel", m**-0.5, 1.0, {"adamw": 1 / m}, 1.0),
        Numbers("norm/scale", None, 1.0, {"adamw": 1.0}, None),
        Numbers("attention", None, BASE_HEAD / HEAD, {}, None),
    ]


def completep_numbers() -> list[Numbers]:
    """EleutherAI/nanoGPT-mup, branch completep, commit 6f8bc3b, model.py: lines 113-118 (branches),
    168-174 (stddevs), 222-228 (logits) and 312-362 (AdamW), with `depth_alpha_exp = 1`."""
    m, depth = WIDTH / BASE, DEPTH / BASE_DEPTH
    return [
        Numbers("embed/embedding", 1.0, 1 / m, {"adamw": 1.0}, 1.0),
        Numbers("block_0/kernel", m**-0.5, 1.0, {"adamw": 1 / m}, m),
        Numbers("norm/scale", None, 1.0, {"adamw": 1.0}, None),
        Numbers("residual", None, 1 / depth, {}, None),
        Numbers("attention", None, BASE_HEAD / HEAD, {}, None),
    ]


class Library(NamedTuple):
    """What is compared with a library."""

    numbers: Callable[[], list[Numbers]]
    scheme: Literal["mup", "completep", "u_mup"]
    roles: Mapping[str, Literal["tied"]]
    init: Mapping[str, str]
    """What the library draws, as a specification, where it is compared."""
    depths: tuple[int, int]


LIBRARIES = {
    "mup": Library(
        mup_numbers,
        "mup",
        {},
        {"*embedding": "normal(1.0)", "*kernel": "torch_kaiming_uniform(a=5**0.5)"},
        (BASE_DEPTH, BASE_DEPTH),
    ),
    "unit-scaling": Library(
        unit_scaling_numbers,
        "u_mup",
        {},
        {"*embedding": "normal(1.0)", "*kernel": "normal(1.0)"},
        (BASE_DEPTH, DEPTH),
    ),
    "nanoGPT-mup": Library(
        nanogpt_mup_numbers, "mup", {"embed/*": "tied"}, {}, (BASE_DEPTH, BASE_DEPTH)
    ),
    "CompleteP": Library(
        completep_numbers, "completep", {"embed/*": "tied"}, {}, (BASE_DEPTH, DEPTH)
    ),
}


def rows(name: str) -> list[tuple[str, ...]]:
    """The rows of the table about a library.

    Raises:
      ModuleNotFoundError: it isn't installed.
    """
    library = LIBRARIES[name]
    theirs = library.numbers()
    plans = {
        optimizer: initjax.parametrize(
            shapes(WIDTH, library.depths[1]),
            shapes(BASE, library.depths[0]),
            library.scheme,
            optimizer,
            roles=library.roles,
            depth=library.depths,
            head_size=(BASE_HEAD, HEAD),
            init={pattern: initjax.parse(spec) for pattern, spec in library.init.items()},
        )
        for optimizer in OPTIMIZERS
        if any(optimizer in numbers.rates for numbers in theirs)
    }
    return [(name, f"`{numbers.path}`", *_cells(numbers, plans)) for numbers in theirs]


def _cells(theirs: Numbers, plans: Mapping[str, initjax.Plan]) -> list[str]:
    plan = next(iter(plans.values()))
    if theirs.path in ("residual", "attention"):
        ours = plan.multipliers[theirs.path].value
        if theirs.path == "attention":  # besides the root of the size, which models divide by
            ours *= (BASE_HEAD / HEAD) ** 0.5
        return ["", _cell(theirs.product, ours), *[""] * 4]
    leaves = {
        optimizer: next(leaf for leaf in plan.leaves if leaf.path == theirs.path)
        for optimizer, plan in plans.items()
    }
    leaf = next(iter(leaves.values()))
    t = theirs.product / leaf.multiplier
    cells = [_draws(theirs, plan, leaf), f"x{theirs.product:.4g}"]
    for optimizer in OPTIMIZERS:
        if optimizer not in theirs.rates:
            cells.append("")
            continue
        ours = leaves[optimizer].learning_rate / t ** (2 if optimizer == "sgd" else 1)
        cells.append(_cell(theirs.rates[optimizer], ours))
    decay = leaves["adamw"].weight_decay * t
    return [*cells, "" if theirs.decay is None else _cell(theirs.decay, decay)]


def _cell(theirs: float, ours: float) -> str:
    if np.isclose(theirs, ours, rtol=1e-5):
        return f"x{theirs:.4g}"
    return f"x{theirs:.4g}, here x{ours:.4g}"


def _draws(theirs: Numbers, plan: initjax.Plan, leaf: initjax.PlannedLeaf) -> str:
    """Compares kernels, with what multiplies them, by a Kolmogorov-Smirnov test."""
    import jax
    import scipy.stats

    if theirs.drawn is None:
        return ""
    if isinstance(theirs.drawn, float):
        return _cell(theirs.drawn, leaf.stddev * leaf.multiplier / theirs.product)
    ours = plan.rules[leaf.path](jax.random.key(0), leaf.shape)
    there, here = np.ravel(theirs.drawn) * theirs.product, np.ravel(ours) * leaf.multiplier
    _, p = scipy.stats.ks_2samp(there, here)
    return f"p={p:.2g}"
