"""Models with one error in their parametrization, one per function, and what a check should tell.

Factors are powers of the ratio of widths. The labels follow from theory: they were written before a
check was run on these models.
"""

import optax

from . import right
from .cases import Case, Label, Mistake

START, LATER = "at the start", "after steps"
RATE, STDDEV = "learning_rate", "stddev"


def hidden_rate() -> Case:
    return right.mlp().wrong(
        "Adam's rate not divided by width, first hidden layer",
        Mistake(RATE, 1.0, "hidden/0/kernel"),
        Label("hidden/0/kernel", RATE, "grows", LATER),
    )


def stacked_rate() -> Case:
    return right.stacked().wrong(
        "Adam's rate not divided by width, stacked blocks",
        Mistake(RATE, 1.0, "net/~/blocks/w"),
        Label("net/~/blocks/w", RATE, "grows", LATER),
    )


def output_rate() -> Case:
    return right.residual().wrong(
        "Adam's rate not divided by width, output",
        Mistake(RATE, 1.0, "*/head/kernel"),
        Label("*/head/kernel", RATE, "grows", LATER),
    )


def input_rate() -> Case:
    return right.normed_sgd().wrong(
        "SGD's rate not multiplied by width, input",
        Mistake(RATE, -1.0, "stem"),
        Label("stem", RATE, "shrinks", LATER),
    )


def bias_rate() -> Case:
    return right.mlp_sgd().wrong(
        "SGD's rate not multiplied by width, biases",
        Mistake(RATE, -1.0, "stem/bias"),
        Mistake(RATE, -1.0, "hidden/*/bias"),
        Label("*bias", RATE, "shrinks", LATER),
    )


def gain_rate() -> Case:
    return right.normed().wrong(
        "gains of the norms trained as hidden kernels",
        Mistake(RATE, -1.0, "blocks/*/gain"),
        Label("blocks/*/gain", RATE, "shrinks", LATER),
    )


def output_stddev() -> Case:
    return right.mlp().wrong(
        "output drawn with 1/sqrt(fan_in)",
        Mistake(STDDEV, 0.5, "head/kernel"),
        Label("head/kernel", STDDEV, "grows", LATER),
    )


def hidden_stddev() -> Case:
    return right.mlp().wrong(
        "stddev of the second hidden layer divided by m, not sqrt(m)",
        Mistake(STDDEV, -0.5, "hidden/1/kernel"),
        Label("hidden/1/kernel", STDDEV, "shrinks", START),
    )


def constant_stddev() -> Case:
    return right.cnn().wrong(
        "one stddev for a convolution at all widths",
        Mistake(STDDEV, 0.5, "convs/1/weight"),
        Label("convs/1/weight", STDDEV, "grows", START),
    )


def logits_twice() -> Case:
    return right.mlp().wrong(
        "logits multiplied by 1/m a second time",
        Mistake("logits", -1.0),
        Label("head/kernel", "multiplier", "shrinks", LATER),
    )


def tied_logits() -> Case:
    return right.tied().wrong(
        "logits of the tied readout not multiplied by 1/m",
        Mistake("logits", 1.0),
        Label("embedding*", "multiplier", "grows", LATER),
    )


def embedding() -> Case:
    return right.many_heads().wrong(
        "embedding scaled as a hidden kernel",
        Mistake(STDDEV, -0.5, "*/embedding"),
        Mistake(RATE, -1.0, "*/embedding"),
        Label("*embedding", STDDEV, "shrinks", START),
        Label("*embedding", RATE, "shrinks", LATER),
    )


def attention() -> Case:
    return right.wide_heads().wrong(
        "scores divided by sqrt(head_size) although heads grow",
        Mistake("attention", 0.5),
        Label("*scores*", "scores", "grows", LATER),
    )


def recurrent_rate() -> Case:
    return right.gru().wrong(
        "Adam's rate of the recurrent kernel not divided by width",
        Mistake(RATE, 1.0, "*/dense_h/kernel"),
        Label("*/dense_h/kernel", RATE, "grows", LATER),
    )


def standard() -> Case:
    """Hidden kernels and the output: rates; the output too: its stddev."""
    return right.mlp().wrong(
        "standard parametrization with Adam",
        Label("hidden/*/kernel", RATE, "grows", LATER),
        Label("head/kernel", RATE, "grows", LATER),
        Label("head/kernel", STDDEV, "grows", LATER),
        scheme="standard",
    )


def lazy() -> Case:
    return right.unit().wrong(
        "NTK parametrization with SGD: lazy",
        Label("a", RATE, "shrinks", LATER),
        Label("[bc]", RATE, "shrinks", LATER),
        scheme="ntk",
        rule="sgd",
        optimizer=optax.sgd(0.1),
    )


PLANTED = (
    hidden_rate,
    stacked_rate,
    output_rate,
    input_rate,
    bias_rate,
    gain_rate,
    output_stddev,
    hidden_stddev,
    constant_stddev,
    logits_twice,
    tied_logits,
    embedding,
    attention,
    recurrent_rate,
    standard,
    lazy,
)
