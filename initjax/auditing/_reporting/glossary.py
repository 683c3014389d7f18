"""What the words of a report mean: its columns, its causes, and why a prediction is missing."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple

from initjax.auditing._judging.causes import CAUSES
from initjax.auditing._reading.reasons import Reason


class Column(NamedTuple):
    """One column of the table of layers."""

    legend: str
    """What it is, in a few words."""
    meaning: str
    """A sentence or two."""
    good: str
    """What numbers are good; empty if none are bad."""
    explained: str
    """Where there is more."""


_LINK = re.compile(r"\[(.*?)\]\((.*?)\)")  # in Markdown
_PROPAGATION = "Schoenholz et al. 2017, https://arxiv.org/abs/1611.01232"
_WIDTH = "Hanin and Nica 2020, https://arxiv.org/abs/1812.05994"
_DYING = "Lu et al. 2019, https://arxiv.org/abs/1903.06733"
_JACOBIANS = "Doshi, He and Gromov 2023, https://arxiv.org/abs/2111.12143"
COLUMNS: dict[str, Column] = {
    "layer": Column(
        "",
        "The path of the layer's kernel. A row whose name has a range, such as block_0..11/out x12,"
        " stands for that many layers that are alike; it has the ranges of their numbers.",
        "",
        "",
    ),
    "then": Column(
        "",
        "What follows the layer: its activation, 'logits', or where its output goes: 'branch end'"
        " (added to a residual stream), 'sum' (added to other data) or 'normalized'. 'not run' is a"
        " branch that wasn't taken. Blank if what follows is not a function of this layer alone.",
        "",
        "",
    ),
    "gain": Column(
        "weight scale (relu 2, tanh 1)",
        "fan_in times the mean square of the weights: the mean square of the outputs if that of the"
        " inputs is 1.",
        "2 before relu, 1 before tanh; others: initjax.gain(activation)**2",
        _PROPAGATION,
    ),
    "rms": Column(
        "output size",
        "The root mean square of the layer's outputs, before its activation.",
        "about the same in all layers, and near 1",
        _PROPAGATION,
    ),
    "theory": Column(
        "predicted rms",
        "The prediction of rms, from the network's input, the kernels' gains and the activations."
        " Blank where the prediction starts from a measured input.",
        "equal to rms",
        _PROPAGATION,
    ),
    "z": Column(
        "error in sigmas",
        "The difference between the logarithms of rms and theory, in the standard deviations that"
        " are expected for layers of this width.",
        "-3 to 3",
        _WIDTH,
    ),
    "spread": Column(
        "over examples",
        "The standard deviation of the layer's outputs over examples, as a root mean square over"
        " units.",
        "as large as rms, or not much smaller",
        _PROPAGATION,
    ),
    "corr": Column(
        "of examples",
        "The mean cosine between the outputs for two examples. At 1, the layer can't tell its"
        " inputs apart.",
        "below 0.999",
        "Poole et al. 2016, https://arxiv.org/abs/1606.05340",
    ),
    "dead": Column(
        "units off",
        "The fraction of units that are flat on the whole batch, so that they learn nothing.",
        "little more than by chance, which a report says if it is exceeded",
        _DYING,
    ),
    "flat": Column(
        "outputs where it is flat",
        "The fraction of outputs at which an activation that saturates, such as tanh, is flat.",
        "about 4% before tanh",
        "Glorot and Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html",
    ),
    "grad": Column(
        "",
        "The root mean square of the loss's gradient with respect to the layer's outputs. 'none':"
        " no gradient was measured here.",
        "not zero; compare ratio",
        _PROPAGATION,
    ),
    "step": Column(
        "update by weights",
        "The standard deviation of the optimizer's first update, divided by that of the weights.",
        "below 0.5",
        "",
    ),
    "ratio": Column(
        "gradient / next layer's (aim: 1)",
        "The squared norm of the gradient, divided by that of the layer that reads this one; on a"
        " residual stream, by that of the end of the next branch.",
        "about 1: if it is below in every layer, gradients vanish with depth; above, they explode",
        _JACOBIANS,
    ),
    "chi_1": Column(
        "predicted ratio",
        "The prediction of ratio: the reader's gain times the mean square of the activation's"
        " slope. Blank where other layers' gradients enter, too.",
        "1",
        _PROPAGATION,
    ),
}
"""The columns of the table of layers, in their order."""

REASONS: dict[Reason | str, str] = {
    "batch": "the batch",
    "embedding": "an embedding",
    "loop": "a loop",
    "shared loop": "a loop that shares its weights",
    "all turns": "all turns of a loop",
    "sum": "a sum of layers",
    "product": "a product of layers",
    "attention": "attention or another product of activations",
    "normalization": "normalization",
    "centering": "centering",
    "mask": "dropout or a mask",
    "pooling": "pooling",
    "reduction": "a sum or mean",
    "join": "layers joined or padded",
    "branch": "a choice of branches",
    "choice": "a choice by data",
    "array": "an array",
    "data": "data",
    "parameter": "a parameter",
    "parametric": "an activation with parameters",
    "layers": "several layers",
    "units": "several units of a layer",
    "long": "a long expression",
}
"""Why predictions restart at a layer, as the report says it."""


_CONDENSED = "Giorlandino and Goldt 2026, https://arxiv.org/abs/2505.24333"
_COLLAPSED = "Dong, Cordonnier and Loukas 2021, https://arxiv.org/abs/2103.03404"
ATTENTION_COLUMNS: dict[str, Column] = {
    "keys": Column(
        "open to a query",
        "How many keys a query would read at equal scores: all but those that a mask or a position"
        " bias hides.",
        "",
        "",
    ),
    "scores": Column(
        "their stddev",
        "The standard deviation of the scores of one query over its keys, masks and position biases"
        " left out.",
        "about 1 or less; not above limit",
        _CONDENSED,
    ),
    "limit": Column(
        "for scores",
        "sqrt(2 ln keys). With scores of a larger stddev, most of the weight is on a few keys.",
        "",
        _CONDENSED,
    ),
    "reads": Column(
        "keys with weight",
        "How many keys a query reads: 1 / (sum of squared weights).",
        "more than a few",
        _CONDENSED,
    ),
    "reads*": Column("predicted", "The prediction of reads, from scores and keys.", "", _CONDENSED),
    "entropy": Column(
        "of weights (even: 1)",
        "The entropy of the weights, relative to that of equal scores.",
        "",
        "",
    ),
    "cosine": Column(
        "of two tokens before",
        "The mean cosine of two tokens of a sequence, as the layer of the keys reads them. Where it"
        " comes near 1 from block to block, tokens become alike.",
        "below 0.99",
        _COLLAPSED,
    ),
    "cosine*": Column(
        "predicted",
        "The prediction of cosine, carried through the blocks from the first one's measured input."
        " Empty for that one, and where something that the audit can't follow comes between.",
        "",
        _CONDENSED,
    ),
    "after": Column(
        "and after attention",
        "The mean cosine of two tokens of what the attention gives, in one head, before it is added"
        " to anything.",
        "",
        _COLLAPSED,
    ),
    "after*": Column(
        "predicted, as reads*", "The prediction of after, from cosine.", "", _CONDENSED
    ),
}


WORDS: dict[str, str] = {
    "x, !": "'x' marks a layer, parameter or attention with a failure, '!' one with a warning.",
    "failure": "The network can hardly train.",
    "warning": "The network may train worse than it could.",
    "logits": "The layer's outputs go into the softmax of a cross entropy.",
    "branch end": "The layer's output is added to a residual stream.",
    "normalized": "The layer's output is normalized, so its scale doesn't matter.",
    "not run": "The layer is in a branch that wasn't taken.",
    "none": "No gradient was measured at this layer.",
    "guessing": "The loss of guessing K equally likely classes, ln K.",
    "longest chain": "The most layers in a row that theory predicts, each before an activation.",
    "trainable in theory": "How many layers a difference of two inputs gets through: six times the"
    " depth over which it shrinks by a factor of e. Gradients are judged separately.",
    "Jacobian": "The derivatives of the last layer's output by the first layer's. A mean squared"
    " singular value near 1 keeps gradients as they are.",
    "condition number": "The largest singular value of the Jacobian by the smallest, within four"
    " random directions.",
}
"""Other words that are printed."""


def explained(word: str, primitives: Iterable[str]) -> str:
    """What a word of a report means.

    Args:
      word: a column, a cause, another word of a report, or a reason, as a code or as the report
        has it.
      primitives: names of JAX's operations that this report mentions.

    Raises:
      ValueError: the report has no such word; the message lists those that it has.
    """
    columns = COLUMNS | ATTENTION_COLUMNS
    names = list(dict.fromkeys(primitives))
    found = []
    if word in columns:
        column = columns[word]
        good = f" Good: {column.good}." if column.good else ""
        found.append(f"{word} (a column): {column.meaning}{good}{_see(column.explained)}")
    if word in CAUSES:
        cause = CAUSES[word]
        found.append(f"{word} (a cause): {cause.meaning}.{_see(cause.explained)}")
    found += [
        f"{key}: {meaning}" for key, meaning in WORDS.items() if word in (key, *key.split(", "))
    ]
    for code, text in REASONS.items():
        if word in (code, text):
            found.append(
                f"{text} (where predictions restart): the layer's input isn't a function of one"
                f" other layer's output, but comes from {text}. The layer is predicted from its"
                " measured input, so theory, z and chi_1 may be blank. It is judged by all other"
                " numbers."
            )
    if word in names:
        found.append(
            f"{word} (an operation of JAX): the audit doesn't know what it does to a signal. Where"
            " parameters enter it, their layers aren't measured; behind it, predictions restart."
        )
    if found:
        return "\n".join(found)
    valid = [*columns, *CAUSES, *WORDS, *REASONS, *names]
    near = difflib.get_close_matches(word, [*valid, *REASONS.values()], 1)
    did_you = f" Did you mean {near[0]!r}?" if near else ""
    words = {"Columns": columns, "causes": CAUSES, "words": WORDS}
    words |= {"where predictions restart": REASONS, "operations": names}
    listed = [f"{kind}: {', '.join(those)}" for kind, those in words.items() if those]
    raise ValueError(
        f"report.explain: there is no {word!r} in a report.{did_you} {'; '.join(listed)}"
    )


def _see(explained: str) -> str:
    """Where there is more, without Markdown."""
    where = _LINK.sub(r"\1, \2", explained)
    return f" See {where}." if where else ""
