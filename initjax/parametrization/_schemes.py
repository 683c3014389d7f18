r"""Parametrizations: by which factors a model differs from its base model, by role.

With :math:`m` and :math:`n` the growth of a parameter's fan_in and fan_out, and :math:`l` that of
the depth (1 outside of the blocks), each entry is a product of powers of these, relative to the
base model. Three of them can be exchanged without changing the function or its training: a
multiplier of :math:`A t`, a standard deviation of :math:`B / t` and a learning rate of
:math:`C / t^2` for SGD or :math:`C / t` for Adam are the same for all :math:`t`, with Adam's
epsilon times :math:`t` and a weight decay that keeps its product with the learning rate.

Tensor Programs V has no table of Adam's epsilon. Here it follows the gradients that it is compared
with, as in table 1 of CompleteP: those of muP shrink with the width that follows a layer, and with
what multiplies the layer. microsoft/mup leaves it as it is. Weight decays that are multiplied with
the learning rate are divided by its factor, so that what decays in one step is the same at all
sizes: as in microsoft/mup, CompleteP, and u-muP's independent decay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args

from initjax.parametrization._leaves import Grown, Role

Scheme = Literal["standard", "ntk", "mup", "depth_mup", "completep", "u_mup", "spectral"]
Optimizer = Literal["sgd", "momentum", "adam", "adamw", "adamw_independent", "lion", "muon"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)

_SIGNS = ("adam", "adamw", "adamw_independent", "lion")
"""Their updates have entries of one size, however large the gradient is."""


class Power(NamedTuple):
    """A product of powers."""

    m: float = 0
    n: float = 0
    l: float = 0  # noqa: E741

    def of(self, growth: tuple[float, float], depth: float) -> float:
        """Its value."""
        return growth[0] ** self.m * growth[1] ** self.n * depth**self.l


ONE = Power()
Entry = Power | Callable[[Grown], float]
Entries = Mapping[Role, Entry]
"""By role; 1 for those that it lacks."""


_NONE: Entries = MappingProxyType({})


class Rules(NamedTuple):
    """A parametrization."""

    source: str
    stddev: Entries
    sgd: Entries | None
    """The learning rates of SGD; None if the source has none."""
    adam: Entries
    """Those of Adam, AdamW and Lion."""
    kernels: Entries = _NONE
    """What multiplies the products with kernels, of the roles input and hidden."""
    logits: Entries = _NONE
    """What multiplies the products with kernels of the roles output and tied."""
    attention: float = 0
    """The power of the growth of a head's size that multiplies scores, besides 1/sqrt(size)."""
    residual: float = 0
    """The power of the depth that multiplies every residual branch."""
    epsilon: Entries = _NONE
    """Adam's."""
    muon: Entries | None = None
    """The size of a whole update, in the spectral norm."""
    has_depth: bool = False
    in_blocks: Power = ONE
    """What multiplies learning rates of Adam inside of blocks."""
    epsilon_in_blocks: Power = ONE


def _spectral_stddev(leaf: Grown) -> float:
    def stddev(fans: tuple[float, float]) -> float:
        return (min(1.0, fans[1] / fans[0]) / fans[0]) ** 0.5

    return stddev(leaf.fans) / stddev(leaf.base_fans)


_LECUN: Entries = {"hidden": Power(m=-0.5), "output": Power(m=-0.5)}
_MUP_STDDEV: Entries = {"hidden": Power(m=-0.5), "output": Power(m=-1)}
_MUP_SGD: Entries = {
    "input": Power(n=1),
    "embedding": Power(n=1),
    "tied": Power(m=1, n=1),
    "hidden": Power(m=-1, n=1),
    "output": Power(m=-1),
    "vector": Power(n=1),
}
_MUP_ADAM: Entries = {"hidden": Power(m=-1), "output": Power(m=-1)}
_SPECTRAL_NORM = Power(m=-0.5, n=0.5)
_MUP_MUON: Entries = {
    **dict.fromkeys(("input", "embedding", "hidden", "output"), _SPECTRAL_NORM),
    "tied": Power(m=0.5, n=0.5),
}
_TIED: Entries = {"tied": Power(m=-1, n=-1)}  # one of them is 1: that of the vocabulary
_GRADIENTS: Entries = {
    "input": Power(n=-1),
    "embedding": Power(n=-1),
    "hidden": Power(n=-1),
    "vector": Power(n=-1),
    "tied": Power(m=-1, n=-1),
}
"""The size of gradients, which Adam's epsilon is compared with."""

RULES: Mapping[Scheme, Rules] = {
    "standard": Rules(
        "the parametrization of most models",
        stddev=_LECUN,
        sgd={},
        adam={},
        muon={},
    ),
    "ntk": Rules(
        "Jacot et al. 2018, https://arxiv.org/abs/1806.07572",
        stddev=_LECUN,
        sgd={"hidden": Power(m=-1), "output": Power(m=-1)},
        adam={"hidden": Power(m=-0.5), "output": Power(m=-0.5)},
        logits={"tied": Power(m=-0.5, n=-0.5)},
        epsilon={"hidden": Power(m=0.5), "output": Power(m=0.5)},
    ),
    "mup": Rules(
        "Tensor Programs V, table 3: Yang et al. 2022, https://arxiv.org/abs/2203.03466",
        stddev=_MUP_STDDEV,
        sgd=_MUP_SGD,
        adam=_MUP_ADAM,
        logits=_TIED,
        attention=-0.5,
        epsilon=_GRADIENTS,
        muon=_MUP_MUON,
    ),
    "depth_mup": Rules(
        "Tensor Programs VI: Yang et al. 2023, https://arxiv.org/abs/2310.02244",
        stddev=_MUP_STDDEV,
        sgd=_MUP_SGD,
        adam=_MUP_ADAM,
        logits=_TIED,
        attention=-0.5,
        residual=-0.5,
        epsilon=_GRADIENTS,
        has_depth=True,
        in_blocks=Power(l=-0.5),
        epsilon_in_blocks=Power(l=-0.5),
    ),
    "completep": Rules(
        "CompleteP, table 1, alpha = 1: Dey et al. 2025, https://arxiv.org/abs/2505.01618",
        stddev={"hidden": Power(m=-0.5)},
        sgd=None,
        adam={"hidden": Power(m=-1)},
        logits={"output": Power(m=-1), **_TIED},
        attention=-0.5,
        residual=-1,
        epsilon={**_GRADIENTS, "output": Power(m=-1)},
        has_depth=True,
        epsilon_in_blocks=Power(l=-1),
    ),
    "u_mup": Rules(
        "u-muP: Blake et al. 2024, https://arxiv.org/abs/2407.17465",
        stddev={},
        sgd=None,
        adam={"hidden": Power(m=-0.5), "embedding": Power(n=-0.5), "tied": Power(m=-0.5, n=-0.5)},
        kernels={"hidden": Power(m=-0.5)},
        logits={"output": Power(m=-1), **_TIED},
        attention=-0.5,
        residual=-0.5,
        epsilon={**_GRADIENTS, "hidden": Power(m=-0.5, n=-1), "output": Power(m=-1)},
        has_depth=True,
        in_blocks=Power(l=-0.5),
        epsilon_in_blocks=Power(l=-0.5),
    ),
    "spectral": Rules(
        "the spectral condition: Yang et al. 2023, https://arxiv.org/abs/2310.17813",
        # A row that is looked up isn't summed with others, so its size doesn't depend on fan_in.
        stddev=dict.fromkeys(("input", "hidden", "output"), _spectral_stddev),
        sgd=_MUP_SGD,
        adam=_MUP_ADAM,
        logits=_TIED,
        attention=-0.5,
        epsilon=_GRADIENTS,
        muon=_MUP_MUON,
    ),
}


class Factors(NamedTuple):
    """What a parametrization says of one parameter, relative to the base model."""

    stddev: float
    multiplier: float
    learning_rate: float
    epsilon: float
    weight_decay: float


def factors(rules: Rules, optimizer: Optimizer, leaf: Grown, depth: float) -> Factors:
    """What a parametrization says of a parameter.

    Args:
      rules: the parametrization.
      optimizer: what trains it.
      leaf: the parameter.
      depth: the growth of the depth.
    """
    depth = depth if leaf.in_block else 1.0

    def value(entries: Entries) -> float:
        entry = entries.get(leaf.role, ONE)
        return entry.of(leaf.growth, depth) if isinstance(entry, Power) else entry(leaf)

    by_muon = optimizer == "muon" and len(leaf.shape) == 2  # it trains all else by Adam
    by_adam = optimizer in (*_SIGNS, "muon") and not by_muon
    if by_muon:
        # What `optax.contrib.muon` multiplies the updates of matrices by: it takes the second axis
        # for that of the outputs, whatever the layout is.
        own = [max(1.0, shape[1] / shape[0]) ** 0.5 for shape in (leaf.shape, leaf.base_shape)]
        rate = value(rules.muon) * own[1] / own[0] if rules.muon else 1.0
    elif by_adam:
        rate = value(rules.adam) * rules.in_blocks.of(leaf.growth, depth)
    else:
        rate = value(rules.sgd or {})
    epsilon = value(rules.epsilon) * rules.epsilon_in_blocks.of(leaf.growth, depth)
    return Factors(
        stddev=value(rules.stddev),
        multiplier=value(rules.kernels) * value(rules.logits),
        learning_rate=rate,
        epsilon=epsilon if by_adam and optimizer != "lion" else 1.0,
        weight_decay=1.0 if optimizer in ("adam", "adamw_independent") else 1 / rate,
    )
