"""The runs that the table of `initjax.recommend` is made from."""

import functools
import pathlib
import sys
from collections.abc import Collection, Sequence
from typing import Any

import initjax
from advice.held_out import BATCH_SIZE, STEPS, HeldOut, learning_rates
from experiments.common import grid_runs
from experiments.common.config import Config, canonical

SEEDS = range(6)

# Networks of these settings; each is trained from every choice that `initjax.recommend` has.
_DEPTHS = {
    ("plain", 64, "adam"): {
        "relu tanh": (2, 5, 20, 50, 100),
        "sigmoid gelu silu selu": (2, 5, 20, 50),
    },
    ("plain", 128, "adam"): {"relu tanh": (5, 20)},
    ("plain", 64, "momentum"): {"relu tanh": (5, 20, 50)},
    ("residual", 64, "adam"): {"relu tanh gelu": (5, 20, 50)},
    ("normalized", 64, "adam"): {"relu tanh gelu": (5, 20, 50)},
}
SETTINGS = tuple(
    HeldOut(kind, activation, width, depth, optimizer)
    for (kind, width, optimizer), networks in _DEPTHS.items()
    for activations, depths in networks.items()
    for activation in activations.split()
    for depth in depths
)

KINDS = {"plain": {}, "residual": {"residual": True}, "normalized": {"normalization": "layer"}}
"""The fields of a configuration, and the arguments of `initjax.recommend`, of each kind."""


@functools.cache
def advice(network: HeldOut) -> initjax.Recommendation:
    """What the library recommends for a network."""
    options: Any = {"optimizer": network.optimizer, **KINDS[network.kind]}
    return initjax.recommend(network.activation, network.depth, network.width, **options)


def specs(choice: initjax.Choice) -> tuple[str, str]:
    """The initializers of kernels and biases, in a network whose branches have one kernel."""
    if choice.branch_scale == 1:
        return choice.spec, choice.bias_spec
    variance = choice.weight_variance * choice.branch_scale**2
    return f'variance_scaling({variance:.4g}, "fan_in", "truncated_normal")', choice.bias_spec


def drawn(choice: initjax.Choice) -> tuple[str, str]:
    """The same, as runs name them."""
    init, bias_init = specs(choice)
    return canonical(init), canonical(bias_init)


def config(network: HeldOut, init: str, bias_init: str, rate: float, seed: int) -> Config:
    """A run."""
    return Config(
        init=init,
        bias_init=bias_init,
        output_init="lecun_normal",
        seed=seed,
        hidden=(network.width,) * network.depth,
        activation=network.activation,
        inputs="standardized",
        optimizer=network.optimizer,
        learning_rate=rate,
        steps=STEPS,
        batch_size=BATCH_SIZE,
        **KINDS[network.kind],
    )


def train(configs: Sequence[Config], directory: pathlib.Path) -> None:
    """Trains the runs that are missing in a directory."""
    configs, dataset = grid_runs.opened(configs, sys.stdout)
    networks = len({(one.hidden, one.activation, one.optimizer) for one in configs})

    def header(missing: int) -> list[str]:
        return [f"runs    {len(configs)} of {networks} networks, of which {missing} are missing"]

    grid_runs.train(configs, dataset, str(directory), sys.stdout, header)


def configs(kinds: Collection[str] = tuple(KINDS)) -> list[Config]:
    """All runs of some kinds of networks, setting by setting: a table can be made of part of them.

    Args:
      kinds: names in `KINDS`.
    """
    return [
        config(network, *specs(choice), rate, seed)
        for network in SETTINGS
        if network.kind in kinds
        for seed in SEEDS
        for choice in (advice(network).choice, *advice(network).alternatives)
        for rate in learning_rates(network.optimizer, network.depth)
    ]
