"""Checks of what lies between the last layer and the loss: what the outputs can become."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding, finding, names_of
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._judging.names import some
from initjax.auditing._reading.terms import Term

_FLOOR, _BAD_FLOOR = 0.05, 0.3  # of the variance of the targets, that no outputs can explain
# Of the loss of guessing, below which a cross entropy can't fall: for probabilities in place of
# logits, and for other bounds, with which the right class can still get K^-0.4 of K classes.
_CLASS_FLOOR, _HIGH_CLASS_FLOOR = 0.1, 0.4
# Of a class's own examples. Of 30 perceptrons for digits, 29 had 0.89 or more, and were 1.4 to 24
# times as often wrong over 200 steps of Adam as without the rectifier; one had 0.77: 1.3 times.
_STUCK = 0.8
_CLIPPED = 0.25  # of the outputs
_PROBABILITIES = ("softmax", "sigmoid")
_SATURATED = 17.0  # rounds a sigmoid to 1 in float32


def constant_output(evidence: Evidence) -> list[Finding]:
    """Losses that nothing in the network can move: every gradient is exactly zero."""
    layers = [layer for layer in evidence.layers if layer.site.differentiable]
    # No gradient is measured where none arrives.
    if not layers or any(layer.log_gradient > -math.inf for layer in layers):
        return []
    learning = any(found.get("learning") for found in evidence.measured.parameters)
    if learning and len(layers) < len(evidence.layers):
        return []
    losses = evidence.traced.anatomy.losses
    ends = ends_of(evidence)
    cut = min(losses.cuts, key=_by_likelihood, default="")
    if cut == "softmax over one unit":
        message = (
            f"The output of {some_of(ends)} is a softmax over one unit, which is 1 whatever goes in"
        )
        remedy = "Replace the softmax by a sigmoid, or give the layer one unit for each class"
    elif cut == "stop_gradient":
        message = f"stop_gradient stands between {some_of(ends)} and the loss"
        remedy = "Remove it"
    elif cut:
        message = (
            f"The loss depends on {some_of(ends)} only through {cut}, whose derivative is zero"
        )
        remedy = f"Compute the loss from the outputs without {cut}"
    else:
        flat = _flat_end(evidence)
        if flat is None and (evidence.network.loss == 0 or _rounded(ends)):
            return []
        message = f"The loss does not change with the outputs of {some_of(ends)}"
        remedy = "Look for a clip or a step between the last layer and the loss, and remove it"
        if flat is not None:
            term, limit = flat
            message = f"All outputs of {some_of(ends)} are {limit:g}, where {term.bound} is flat"
            remedy = f"Remove {term.bound} after the last layer"
    message += ", so every gradient is exactly zero"
    return finding("failure", "constant_output", ends, message, remedy)


def _by_likelihood(cut: str) -> int:
    order = ("softmax over one unit", "argmax", "argmin", "round", "floor", "ceil", "sign")
    return order.index(cut) if cut in order else len(order) + (cut == "stop_gradient")


def ends_of(evidence: Evidence) -> list[JudgedLayer]:
    """The layers whose outputs enter the loss."""
    paths = {path for term in evidence.traced.anatomy.losses.terms for path in term.layers}
    return evidence.layers_at(paths) or list(evidence.readouts) or list(evidence.layers[-1:])


def some_of(layers: Sequence[JudgedLayer]) -> str:
    return some(names_of(layers))


def _rounded(ends: Sequence[JudgedLayer]) -> bool:
    """Whether a sigmoid of these pre-activations may be flat by rounding alone."""
    return any(layer.rms > _SATURATED for layer in ends)


def _flat_end(evidence: Evidence) -> tuple[Term, float] | None:
    """The term whose outputs all lie at the end of their range, and that end."""
    for term in evidence.traced.anatomy.losses.terms:
        found = evidence.measured.watched[term.watch]
        if math.isfinite(term.range[0]) and found["least"] == 1:
            return term, term.range[0]
    return None


def double_softmax(evidence: Evidence) -> list[Finding]:
    """Probabilities that a cross entropy takes for logits."""
    for term in evidence.traced.anatomy.losses.terms:
        if term.bound not in _PROBABILITIES or term.kind == "distance":
            continue
        message = _class_floor(evidence, term)
        if message and (term.bound == "softmax" or term.kind == "binary cross entropy"):
            layers = evidence.layers_at(term.layers)
            again = "softmax" if term.kind == "cross entropy" else "sigmoid"
            message = (
                f"The outputs of {some_of(layers)} go through a {term.bound}, and the loss then"
                f" takes them for logits and applies a {again} again; {message}"
            )
            remedy = f"Pass the outputs to the loss without the {term.bound}"
            return finding("warning", "double_softmax", layers, message, remedy)
    return []


def _class_floor(evidence: Evidence, term: Term) -> str:
    """Below what a cross entropy of bounded logits can't fall; "" if that is low enough."""
    low, high = term.range
    if not math.isfinite(high - low):
        return ""
    if term.kind == "binary cross entropy":
        floor = float(np.logaddexp(0, -max(-low, high)))
        return (
            f"the loss can't fall below {floor:.3g} for each output, and guessing gives"
            f" {math.log(2):.3g}"
            if floor > _CLASS_FLOOR * math.log(2)
            else ""
        )
    floor = math.log1p((term.classes - 1) * math.exp(low - high))
    guess = math.log(max(1, term.classes))
    return (
        f"the loss can't fall below {floor:.4g}, and guessing gives {guess:.4g}"
        if floor > (_CLASS_FLOOR if term.bound in _PROBABILITIES else _HIGH_CLASS_FLOOR) * guess
        else ""
    )


def bounded_output(evidence: Evidence) -> list[Finding]:
    """Outputs that can't reach what they should become."""
    for choice in evidence.traced.anatomy.losses.choices:
        wrong = _never_chosen(evidence.measured.watched[choice.watch])
        if wrong:
            layers = evidence.layers_at(choice.layers)
            return finding("failure", "bounded_output", layers, *wrong)
    for term in evidence.traced.anatomy.losses.terms:
        wrong = wrong_labels(evidence, term)
        if wrong:
            layers = evidence.layers_at(term.layers)
            return finding("failure", "bounded_output", layers, *wrong)
        if not term.bound or term.noisy:
            continue
        found, layers = evidence.measured.watched[term.watch], evidence.layers_at(term.layers)
        outputs = f"The outputs of {some_of(layers) if layers else 'the model'}"
        if term.kind == "distance":
            floor, spread = float(found["floor"]), float(found["spread"])
            if not floor > max(_FLOOR * spread, 1e-4):
                continue
            low, high = term.range
            message = (
                f"{outputs} go through {term.bound}, so they lie {_between(low, high)}, but"
                f" {found['beyond']:.0%} of the targets are outside: they go from"
                f" {found['target_least']:.3g} to {found['target_largest']:.3g}"
            )
            remedy = f"Remove {term.bound} after the last layer, or scale the targets to its range"
            level = "failure" if floor > _BAD_FLOOR * spread else "warning"
            return finding(level, "bounded_output", layers, message, remedy)
        if term.kind == "logarithm":
            if not found["least"] > _CLIPPED:
                continue
            message = (
                f"The loss takes the logarithm of what {some_of(layers) if layers else 'the model'}"
                f" gives, clipped at {term.range[0]:.3g}: {found['least']:.0%} of it lies below and"
                " gets no gradient"
            )
            remedy = "Apply a sigmoid or a softmax to the outputs before the logarithm"
            return finding("warning", "bounded_output", layers, message, remedy)
        message = _class_floor(evidence, term)
        if message:
            message = f"{outputs} go through {term.bound} before the cross entropy; {message}"
        elif term.bound == "relu" and float(found.get("stuck", found["dead"] > 0)) > _STUCK:
            message = (
                f"{outputs} go through relu before the cross entropy, and there are classes whose"
                f" logit is zero in {found.get('stuck', 1):.0%} of their own examples, so that"
                " nothing raises it"
            )
        else:
            continue
        remedy = f"Remove {term.bound} after the last layer"
        return finding("warning", "bounded_output", layers, message, remedy)
    return []


def wrong_labels(evidence: Evidence, term: Term) -> tuple[str, str] | None:
    """What is wrong with labels that no outputs can fit, and what to do; None if nothing is."""
    found = evidence.measured.watched[term.watch]
    if found.get("outside", 0) > 0:
        least, largest = float(found["chance_least"]), float(found["chance_largest"])
        return (
            f"The sigmoid cross entropy gets labels from {least:.3g} to {largest:.3g}, which are no"
            f" probabilities: for {found['outside']:.0%} of them it has no lower bound, and outputs"
            " grow forever",
            "Map the labels to the range from 0 to 1"
            + (": (labels + 1) / 2" if least == -1 and largest == 1 else ""),
        )
    if found.get("without_output", 0) > 0:
        least, largest = int(found["class_least"]), int(found["class_largest"])
        # One number alone may mark examples without a label.
        if found["beyond_least"] < largest or (largest == term.classes and least > 0):
            remedy = "Number the classes from 0" if least > 0 else "Give each class its own unit"
            return (
                f"The classes in the labels go from {least} to {largest}, but the outputs are for"
                f" {term.classes}, from 0 to {term.classes - 1}: {found['without_output']:.0%} of"
                " the examples have a class without an output",
                remedy,
            )
    return None


def _never_chosen(found: dict[str, Any]) -> tuple[str, str] | None:
    """What is wrong with labels of two values that a loss takes for the same; None if it doesn't.

    Other numbers that it compares with one of its own may rarely be beyond that.
    """
    least, largest = float(found["least"]), float(found["largest"])
    if found["two"] < 1 or least == largest or 0 < found["chosen"] < 1:
        return None
    return (
        "The loss chooses one of two formulas for each example by comparing its label with a"
        f" number, but takes the same one for all examples: the labels are {least:.3g} and"
        f" {largest:.3g}, so the outputs learn only one class",
        "Give the labels that it compares with, such as 0 and 1",
    )


def _between(low: float, high: float) -> str:
    low = 0.0 if 0 < low < 1e-200 else low  # an exponential is never zero
    if math.isfinite(high - low):
        return f"between {low:g} and {high:g}"
    return f"above {low:g}" if math.isfinite(low) else f"below {high:g}"
