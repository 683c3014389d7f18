"""The configurations on which `initjax.recommend` is checked, fixed before its table was made.

They are within the table's range, but not in it: other depths, other widths, other seeds. Each is
trained from every candidate, with the same seeds and batches, at each of the learning rates. A
candidate counts at its best rate, which is chosen by training loss, not on the test set. Nothing
was tried on these configurations before the list was fixed.

The rule, by which the advice passes or fails each configuration:

1. A candidate trains if its final test accuracy is above guessing, by five standard errors, in at
   least three quarters of the seeds. The advice trains wherever any candidate does.
2. The advice isn't worse than any candidate: the 95% interval of the mean paired difference of
   their final test accuracies reaches zero. It is Student's t interval over the seeds, at the level
   that Bonferroni's correction gives for all candidates of the configuration. So about one of 40
   configurations would fail by chance if all candidates were equally good.
"""

from typing import NamedTuple


class HeldOut(NamedTuple):
    """A network to ask advice about."""

    kind: str
    """'plain', 'residual' or 'normalized' (layer normalization before each activation)."""
    activation: str
    width: int
    depth: int
    """The number of hidden layers, or of blocks."""
    optimizer: str = "adam"


HELD_OUT = (
    HeldOut("plain", "relu", 64, 3),
    HeldOut("plain", "relu", 64, 10),
    HeldOut("plain", "relu", 64, 30),
    HeldOut("plain", "relu", 64, 70),
    HeldOut("plain", "tanh", 64, 3),
    HeldOut("plain", "tanh", 64, 12),
    HeldOut("plain", "tanh", 64, 35),
    HeldOut("plain", "tanh", 64, 80),
    HeldOut("plain", "sigmoid", 64, 3),
    HeldOut("plain", "sigmoid", 64, 7),
    HeldOut("plain", "sigmoid", 64, 30),
    HeldOut("plain", "gelu", 64, 3),
    HeldOut("plain", "gelu", 64, 12),
    HeldOut("plain", "gelu", 64, 35),
    HeldOut("plain", "silu", 64, 8),
    HeldOut("plain", "silu", 64, 30),
    HeldOut("plain", "selu", 64, 12),
    HeldOut("plain", "selu", 64, 40),
    HeldOut("plain", "relu", 96, 8),
    HeldOut("plain", "relu", 80, 15),
    HeldOut("plain", "tanh", 96, 8),
    HeldOut("plain", "tanh", 80, 15),
    HeldOut("residual", "relu", 64, 10),
    HeldOut("residual", "tanh", 64, 30),
    HeldOut("residual", "gelu", 64, 12),
    HeldOut("normalized", "relu", 64, 30),
    HeldOut("normalized", "tanh", 64, 10),
    HeldOut("normalized", "gelu", 64, 35),
    HeldOut("plain", "relu", 64, 10, "momentum"),
    HeldOut("plain", "tanh", 64, 30, "momentum"),
)

SEEDS = range(100, 108)
"""None of them is in the table."""

STEPS, BATCH_SIZE = 300, 64
"""On standardized MNIST, as in the table."""


def learning_rates(optimizer: str, depth: int) -> tuple[float, float]:
    """Rates that suit a depth, of which each candidate takes the better one."""
    rates = {"adam": (3e-3, 1e-3, 3e-4, 1e-4), "momentum": (3e-2, 1e-2, 3e-3, 1e-3)}[optimizer]
    first = (depth > 12) + (depth > 60)
    return rates[first], rates[first + 1]


class Candidate(NamedTuple):
    """A way to initialize a network: specifications for kernels and for biases."""

    name: str
    init: str
    bias_init: str = "zeros"


_RULES_OF_THUMB = (
    Candidate("he_normal", "he_normal"),
    Candidate("glorot_uniform", "glorot_uniform"),
    Candidate("lecun_normal", "lecun_normal"),
)


def _normal(weight_variance: float, bias_init: str = "zeros") -> Candidate:
    spec = f'variance_scaling({weight_variance}, "fan_in", "normal")'
    return Candidate("critical", spec, bias_init)


# By theory: orthogonal at a critical gain; Gaussian with critical variances of weights and biases;
# the gain that keeps unit variance. Sigmoid's orthogonal gain is 1 over its slope at zero.
_BY_THEORY = {
    "relu": (Candidate("orthogonal", "orthogonal(1.414)"),),
    "tanh": (
        Candidate("orthogonal", "orthogonal"),
        _normal(1.761, "random_normal(stddev=0.2236)"),
    ),
    "sigmoid": (
        Candidate("orthogonal", "orthogonal(4.0)"),
        Candidate("gain", "lecun_normal(gain='sigmoid')"),
        _normal(103.0),
    ),
    "gelu": (
        Candidate("orthogonal", "orthogonal(1.408)", "random_normal(stddev=0.4158)"),
        Candidate("gain", "lecun_normal(gain='gelu')"),
        _normal(1.983, "random_normal(stddev=0.4158)"),
    ),
    "silu": (
        Candidate("orthogonal", "orthogonal(1.41)", "random_normal(stddev=0.7451)"),
        Candidate("gain", "lecun_normal(gain='silu')"),
        _normal(1.988, "random_normal(stddev=0.7451)"),
    ),
    "selu": (
        Candidate("orthogonal", "orthogonal(0.9496)", "random_normal(stddev=0.2236)"),
        _normal(0.9018, "random_normal(stddev=0.2236)"),
    ),
}


def candidates(kind: str, activation: str, depth: int) -> tuple[Candidate, ...]:
    """What the advice is compared with.

    Args:
      kind: see `HeldOut`. Behind a normalization, scales and biases that theory chooses for plain
        networks have no meaning. On a residual stream, He's initializer is also divided by the root
        of the number of blocks.
      activation: of `HeldOut`.
      depth: of `HeldOut`.
    """
    orthogonal, *others = _BY_THEORY[activation]
    if kind == "normalized":
        return (*_RULES_OF_THUMB, Candidate("orthogonal", "orthogonal"))
    if kind == "residual":
        scaled = f'variance_scaling({2 / depth:.4g}, "fan_in", "truncated_normal")'
        return (*_RULES_OF_THUMB, orthogonal, Candidate("scaled", scaled))
    return (*_RULES_OF_THUMB, orthogonal, *others)
