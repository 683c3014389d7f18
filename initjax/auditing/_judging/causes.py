"""The table of causes: what can be wrong with an initialization.

To add a cause, write a function of `Evidence` that returns findings, and a row here. Causes are
checked in this order; one that explains others comes before them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from initjax.auditing._judging import (
    attending,
    batches,
    fans,
    first_layer,
    first_step,
    inputs,
    linearity,
    output_scales,
    outputs,
    propagation,
    signals,
    weights,
)
from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding


class Cause(NamedTuple):
    """One row of the table."""

    name: str
    meaning: str
    check: Callable[[Evidence], list[Finding]]
    hides: tuple[str, ...] | Literal["everything"] = ()
    """The causes that follow from this one: they are not reported beside it."""
    explained: str = ""
    """Where it is explained, in Markdown."""

    def explains(self, cause: str) -> bool:
        """Whether another cause follows from this one."""
        if self.hides == "everything":  # but what the input alone shows, and may have led to it
            return cause not in ("input_offset", "input_scale")
        return cause in self.hides


def _paper(text: str, number: str) -> str:
    return f"[{text}](https://arxiv.org/abs/{number})"


_GLOROT = "[Glorot and Bengio 2010](https://proceedings.mlr.press/v9/glorot10a.html)"
_LECUN = "[LeCun et al. 1998](http://yann.lecun.com/exdb/publis/pdf/lecun-98b.pdf)"
_DEPTH = _paper("Schoenholz et al. 2017", "1611.01232")
_ATTENTION = _paper("Giorlandino and Goldt 2026", "2505.24333")
_OF_INPUTS = (
    "branch_scale",
    "attention_one_hot",
    "saturated",
    "vanishing",
    "exploding",
    "dead",
    "first_layer",
    "collapse",
    "output_scale",
)
"""What inputs of another scale than weights are drawn for lead to."""
_ROWS = (
    Cause("not_finite", "a number is infinite or NaN", weights.not_finite, "everything"),
    Cause(
        "no_layers",
        "no layer was found",
        weights.no_layers,
        ("batch",),
        "`initjax.audit`: what counts as a layer",
    ),
    Cause(
        "batch_coupling",
        "the loss mixes up the examples of the batch",
        batches.batch_coupling,
        ("sum_loss", "bounded_output", "double_softmax", "target_scale", "output_scale"),
    ),
    Cause(
        "constant_output",
        "the loss does not change with the outputs, and every gradient is zero",
        outputs.constant_output,
        (
            "symmetry",
            "bounded_output",
            "double_softmax",
            "target_scale",
            "output_scale",
            "zero",
            "saturated",
            "vanishing",
            "exploding",
            "dead",
            "collapse",
            "depth",
        ),
    ),
    Cause("unused", "a parameter does not affect the loss", weights.unused),
    Cause(
        "no_gradient",
        "a parameter affects the loss, but gets no gradient",
        weights.no_gradient,
    ),
    Cause("batch", "the batch is too small to measure anything", inputs.batch),
    Cause("sum_loss", "the loss is a sum over the batch", batches.sum_loss, ("update",)),
    Cause(
        "zero",
        "a kernel or a scale is zero and lets no gradient through",
        weights.zero,
        ("collapse", "depth"),
        f"{_paper('Zhang et al. 2019', '1901.09321')}, for where zeros are right",
    ),
    Cause(
        "symmetry",
        "all units of a layer compute the same function",
        weights.symmetry,
        ("duplicate", "saturated", "vanishing", "exploding", "dead", "collapse", "depth"),
        "[Goodfellow et al. 2016, section 8.4](https://www.deeplearningbook.org)",
    ),
    Cause(
        "duplicate",
        "two layers have the same weights",
        weights.duplicate,
        (),
        "[JAX: random numbers](https://docs.jax.dev/en/latest/random-numbers.html)",
    ),
    Cause(
        "input_offset",
        "the input is shifted by more than it varies",
        inputs.input_offset,
        ("input_scale", *_OF_INPUTS),
        f"{_LECUN}, section 4.3",
    ),
    Cause(
        "input_scale",
        "the input is far from unit scale",
        inputs.input_scale,
        _OF_INPUTS,
        f"{_LECUN}, section 4.3",
    ),
    Cause(
        "first_layer",
        "the sines of the first layer hardly turn over the inputs",
        first_layer.first_layer,
        (),
        _paper("Sitzmann et al. 2020", "2006.09661"),
    ),
    Cause(
        "no_activation",
        "the whole network is one linear function, in spite of its hidden layers",
        linearity.no_activation,
    ),
    Cause(
        "not_centered",
        "the weights of a layer have a nonzero mean, which adds up over its inputs",
        weights.not_centered,
        (
            "wrong_fan",
            "branch_scale",
            "saturated",
            "vanishing",
            "exploding",
            "dead",
            "collapse",
            "depth",
            "output_scale",
            "update",
        ),
        f"{_LECUN}, section 4.6",
    ),
    Cause(
        "wrong_fan",
        "the initializer used a wrong fan_in or fan_out for this layer",
        fans.wrong_fan,
        ("saturated", "vanishing", "exploding", "depth", "output_scale"),
        "`initjax.compute_fans`",
    ),
    Cause(
        "branch_scale",
        "residual branches add up to a signal that grows with depth",
        signals.branch_scale,
        ("saturated", "vanishing", "exploding", "output_scale"),
        "`initjax.residual_scaling`",
    ),
    Cause(
        "attention_one_hot",
        "attention scores are so large that each query reads only a few tokens",
        attending.one_hot,
        (),
        _ATTENTION,
    ),
    Cause(
        "attention_uniform",
        "attention makes tokens alike, so that later blocks can't tell them apart",
        attending.uniform,
        ("collapse", "depth"),
        _ATTENTION,
    ),
    Cause(
        "saturated",
        "pre-activations lie where the activation is flat",
        signals.saturated,
        ("vanishing", "exploding", "depth"),
        _GLOROT,
    ),
    Cause(
        "double_softmax",
        "a cross entropy takes probabilities for logits",
        outputs.double_softmax,
        ("bounded_output",),
    ),
    Cause(
        "bounded_output",
        "the outputs can't reach the targets",
        outputs.bounded_output,
        ("target_scale",),
    ),
    Cause(
        "target_scale",
        "the targets are far from unit scale",
        output_scales.target_scale,
        ("output_scale",),
        f"{_LECUN}, section 4.3",
    ),
    Cause("output_scale", "the outputs are too large", output_scales.output_scale, ("update",)),
    Cause(
        "vanishing",
        "gradients shrink from layer to layer",
        propagation.vanishing,
        ("collapse", "depth", "update"),
        _DEPTH,
    ),
    Cause(
        "exploding",
        "gradients or signals grow from layer to layer",
        propagation.exploding,
        ("depth", "update"),
        _DEPTH,
    ),
    Cause(
        "dead",
        "units are flat on the whole batch",
        signals.dead,
        ("collapse", "depth"),
        _paper("Lu et al. 2019", "1903.06733"),
    ),
    Cause(
        "collapse",
        "a layer can't tell its inputs apart",
        signals.collapse,
        ("depth",),
        _paper("Poole et al. 2016", "1606.05340"),
    ),
    Cause(
        "depth",
        "the network is too deep for its signal to get through",
        signals.depth,
        (),
        _DEPTH,
    ),
    Cause(
        "ascent",
        "the optimizer's first step follows the gradient and not its opposite",
        first_step.ascent,
        ("frozen", "update"),
    ),
    Cause("frozen", "the optimizer's first step does not change a parameter", first_step.frozen),
    Cause("update", "the optimizer's first step is as large as the weights", first_step.update),
)
CAUSES: dict[str, Cause] = {row.name: row for row in _ROWS}
"""All causes, in the order in which they are judged."""
