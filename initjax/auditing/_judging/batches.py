"""Checks of what the loss does with the examples of the batch."""

from __future__ import annotations

from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding, finding
from initjax.auditing._judging.propagation import update

_MANY = 16  # examples, over which a sum changes the gradient by an order of magnitude


def batch_coupling(evidence: Evidence) -> list[Finding]:
    """Losses in which an example is compared with other examples' targets."""
    coupling = evidence.traced.ends.coupling
    if coupling is None:
        return []
    count, shape = coupling.examples, _shape(coupling.prediction)
    if coupling.kind == "softmax":
        message = (
            f"The softmax of the outputs, an array of shape {shape}, is over the {count} examples"
            " of the batch and not over the classes, so the output for an example depends on the"
            " others, and for one example alone it is always 1"
        )
        remedy = "Take the softmax over the axis of the classes: jax.nn.softmax(logits, axis=-1)"
        return finding("failure", "batch_coupling", [], message, remedy)
    if coupling.kind == "weights":
        message = (
            f"The softmax of weights of shape {shape} is over the {count} examples of the batch,"
            " but they weigh what is summed within each example, so the output for an example"
            " depends on the others"
        )
        remedy = "Take the softmax over the axis that is summed: jax.nn.softmax(scores, axis=1)"
        return finding("failure", "batch_coupling", [], message, remedy)
    if coupling.kind in ("scan", "attention"):
        what = "A loop hands its state on" if coupling.kind == "scan" else "Attention runs"
        message = (
            f"{what} along the {count} examples of a batch of shape {shape}, as if they were times,"
            " so the output for an example depends on the others"
        )
        remedy = (
            "Give it the layout that it expects: jnp.swapaxes(x, 0, 1) before lax.scan, or"
            " time_major=False for nn.RNN"
            if coupling.kind == "scan"
            else "Attend along the other axis: of (batch, time, features), the second"
        )
        return finding("failure", "batch_coupling", [], message, remedy)
    target = _shape(coupling.target)
    message = (
        f"The loss compares predictions of shape {shape} with targets of shape {target}; they"
        f" broadcast to ({count}, {count}), so each prediction is compared with the targets of all"
        f" {count} examples and learns only their mean"
    )
    if len(coupling.prediction) == 2:
        remedy = "Give both the same shape: predictions[:, 0]"
    else:
        remedy = "Give both the same shape: targets[:, 0]"
    return finding("failure", "batch_coupling", [], message, remedy)


def sum_loss(evidence: Evidence) -> list[Finding]:
    """Losses that grow with the batch. An optimizer that divides by the gradient's size hides it:
    with an optimizer, its first step decides."""
    count = evidence.traced.ends.summed
    if count < _MANY:
        return []
    with_optimizer = any("update" in found for found in evidence.measured.parameters)
    if with_optimizer and not update(evidence):
        return []
    message = (
        f"The loss is a sum over the {count} examples of the batch and not their mean, so loss and"
        f" gradient are {count} times as large, and with SGD the learning rate is, too"
    )
    return finding("warning", "sum_loss", [], message, "Take the mean over the examples")


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
