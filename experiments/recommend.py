"""Recommends an initializer for a network, with the reasons and the evidence.

Question: which initializer does a network of this depth and width need?
Command:  python -m experiments.recommend --activation=tanh --depth=50 --width=64
Time:     3 s on one CPU core
"""

import sys

import initjax
from experiments.common import command_line, console, flags
from experiments.common.config import (
    ACTIVATIONS,
    LARGEST_LAYER,
    MOST_LAYERS,
    OPTIMIZERS,
    UsageError,
    choices,
)

COMMAND = "python -m experiments.recommend"

_NORMALIZATIONS = ("none", "layer", "rms", "group", "batch")

_GROUPS = {
    "Network": ("activation", "depth", "width", "residual", "normalization", "attention"),
    "Training": ("optimizer", "base_width"),
    "Output": ("help",),
}
_FLAGS = flags.define(
    _GROUPS,
    depth=flags.integer(2, "Number of hidden layers, or of blocks with residual connections."),
    width=flags.integer(64, "Number of units of a hidden layer."),
    residual=flags.boolean(False, "Whether each block is added to its input."),
    normalization=flags.string(
        "none", f"Normalization of the blocks: {', '.join(_NORMALIZATIONS)}."
    ),
    attention=flags.boolean(False, "Whether each block has softmax attention."),
    optimizer=flags.string(
        "adam", f"Whose training runs are the evidence: {', '.join(OPTIMIZERS)}."
    ),
    base_width=flags.integer(
        None, "Width at which the learning rate was searched: tells what changes with the width."
    ),
)


def main() -> None:
    for name, valid in (
        ("activation", ACTIVATIONS),
        ("normalization", _NORMALIZATIONS),
        ("optimizer", OPTIMIZERS),
    ):
        value = str(_FLAGS[name].value)
        if value not in valid:
            raise UsageError(f"--{name}={value}: {choices(value, valid, 'must be one of ')}")
    for name, value, most in (
        ("depth", _FLAGS.depth, MOST_LAYERS),
        ("width", _FLAGS.width, LARGEST_LAYER),
        ("base_width", _FLAGS.base_width, LARGEST_LAYER),
    ):
        if value is not None and not 1 <= value <= most:
            raise UsageError(f"--{name}={value}: must be at least 1 and at most {most:,}")
    advice = initjax.recommend(
        _FLAGS.activation,
        _FLAGS.depth,
        _FLAGS.width,
        residual=_FLAGS.residual,
        normalization=None if _FLAGS.normalization == "none" else _FLAGS.normalization,
        attention=_FLAGS.attention,
        optimizer=_FLAGS.optimizer,
        base_width=_FLAGS.base_width,
    )
    console.say(sys.stdout, *str(advice).splitlines())


_PROGRAM = command_line.Program(
    COMMAND,
    "Recommends an initializer for the hidden layers of a network: says why, what was measured on"
    " similar networks, and what not to do.",
    _FLAGS,
    _GROUPS,
    examples=(
        "--activation=tanh --depth=50 --width=64",
        "--activation=gelu --depth=20 --residual",
        "--activation=sigmoid --depth=10 --width=64",
        "--activation=relu --width=1024 --base_width=64",
    ),
)


if __name__ == "__main__":
    console.run_program(_PROGRAM, main)
