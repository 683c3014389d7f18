"""Checks of what the loss does with the examples of the batch."""

from __future__ import annotations

from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding, finding
from initjax.auditing._judging.first_step import large_steps
from initjax.auditing._reading.couplings import Coupling

_MANY = 16  # examples, over which a sum changes the gradient by an order of magnitude


def batch_coupling(evidence: Evidence) -> list[Finding]:
    """Losses in which an example is compared with other examples' targets."""
    coupling = evidence.traced.ends.coupling
    if coupling is None:
        return []
    return finding("failure", "batch_coupling", [], *_described(coupling))


def _described(coupling: Coupling) -> tuple[str, str, str]:
    """Message, remedy and code."""
    count, shape = coupling.examples, _shape(coupling.prediction)
    match coupling.kind:
        case "softmax":
            return (
                f"The softmax of the outputs, an array of shape {shape}, is over the {count}"
                " examples of the batch and not over the classes, so the output for an example"
                " depends on the others, and for one example alone it is always 1",
                "Take the softmax over the axis of the classes",
                "jax.nn.softmax(logits, axis=-1)",
            )
        case "weights":
            return (
                f"The softmax of weights of shape {shape} is over the {count} examples of the"
                " batch, but they weigh what is summed within each example, so the output for an"
                " example depends on the others",
                "Take the softmax over the axis that is summed",
                "jax.nn.softmax(scores, axis=1)",
            )
        case "scan":
            return (
                f"A loop hands its state on {_as_if_times(count, shape)}",
                "Give it the layout that it expects: swap the axes before lax.scan, or take"
                " time_major=False for nn.RNN",
                "x = jnp.swapaxes(x, 0, 1)",
            )
        case "attention":
            return (
                f"Attention runs {_as_if_times(count, shape)}",
                "Attend along the other axis: of (batch, time, features), the second",
                "x = jnp.swapaxes(x, 0, 1)",
            )
        case "reshape":
            return (
                f"A reshape of shape {shape}, whose rows are not the examples, to"
                f" {_shape(coupling.target)} makes {count} rows, each of parts of several examples",
                "Move the axis of the examples to the front first: -1 if it is the last",
                "x = jnp.moveaxis(x, -1, 0)",
            )
        case "cumulative":
            return (
                f"The outputs, an array of shape {shape}, are summed up along the {count} examples"
                " of the batch, so the output for an example depends on those before it",
                "Sum along another axis, or not at all",
                "jnp.cumsum(x, axis=1)",
            )
        case "broadcast":
            more = len(coupling.prediction) > len(coupling.target)
            wider = "predictions" if more else "targets"
            pairs = _shape((count, count, *coupling.target[1 + (not more) :]))
            return (
                f"The loss compares predictions of shape {shape} with targets of shape"
                f" {_shape(coupling.target)}; they broadcast to {pairs}, so each prediction is"
                f" compared with the targets of all {count} examples and learns only"
                " their mean",
                "Give both the same shape",
                f"{wider} = {wider}[:, 0]",
            )
        case "picked":
            return (
                f"The loss picks from predictions of shape {shape} by labels of shape"
                f" {_shape(coupling.target)} for all pairs of the {count} examples, so each"
                " prediction is compared with the labels of all",
                "Pick one number for each example",
                "jnp.take_along_axis(predictions, labels.reshape(-1, 1), axis=1)",
            )


def _as_if_times(count: int, shape: str) -> str:
    return (
        f"along the {count} examples of a batch of shape {shape}, as if they were times, so the"
        " output for an example depends on the others"
    )


def sum_loss(evidence: Evidence) -> list[Finding]:
    """Losses that grow with the batch. An optimizer that divides by the gradient's size hides it:
    with an optimizer, its first step decides."""
    count = evidence.traced.ends.summed
    if count < _MANY:
        return []
    with_optimizer = any("update" in found for found in evidence.measured.parameters)
    if with_optimizer and not large_steps(evidence):
        return []
    message = (
        "The loss is a sum over the examples of the batch and not their mean, so loss and gradient"
        f" are {count} times as large, and with SGD the learning rate is, too"
    )
    remedy = "Take the mean over the examples"
    if not with_optimizer:
        remedy += "; if you train with Adam, which hides the factor, pass optimizer= to the audit"
    return finding("warning", "sum_loss", [], message, remedy)


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
