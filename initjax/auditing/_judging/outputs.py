"""Checks of what lies between the last layer and the loss: outputs, targets and the loss."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding, finding, names_of
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._judging.names import some
from initjax.auditing._judging.propagation import exploding
from initjax.auditing._reading.terms import Term

_LOGITS, _BAD_LOGITS = 3.0, 10.0  # root mean square
_FLOOR, _BAD_FLOOR = 0.05, 0.3  # of the variance of the targets, that no outputs can explain
# Of the loss of guessing, below which a cross entropy can't fall: for probabilities in place of
# logits, and for other bounds, with which the right class can still get K^-0.4 of K classes.
_CLASS_FLOOR, _HIGH_CLASS_FLOOR = 0.1, 0.4
# Mean squared distance of outputs and targets, over the variance of the targets: a network first
# has to get rid of it, and regressions with Adam then spend their first thousand steps on it.
_DISTANCE, _BAD_DISTANCE = 300.0, 1e4
_TARGETS, _BAD_TARGETS = 100.0, 1000.0  # root mean square, from which SGD with usual steps diverges
_GROWN = 25.0  # mean square of the last layer's input
_STUCK = 0.95  # of a class's own examples; trained networks then never learn that class
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
    ends = _ends(evidence)
    cut = min(losses.cuts, key=_by_likelihood, default="")
    if cut == "softmax over one unit":
        message = (
            f"The output of {_some(ends)} is a softmax over one unit, which is 1 whatever goes in"
        )
        remedy = "Replace the softmax by a sigmoid, or give the layer one unit for each class"
    elif cut == "stop_gradient":
        message = f"stop_gradient stands between {_some(ends)} and the loss"
        remedy = "Remove it"
    elif cut:
        message = f"The loss depends on {_some(ends)} only through {cut}, whose derivative is zero"
        remedy = f"Compute the loss from the outputs without {cut}"
    else:
        flat = _flat_end(evidence)
        if flat is None and (evidence.network.loss == 0 or _rounded(ends)):
            return []
        message = f"The loss does not change with the outputs of {_some(ends)}"
        remedy = "Look for a clip or a step between the last layer and the loss, and remove it"
        if flat is not None:
            term, limit = flat
            message = f"All outputs of {_some(ends)} are {limit:g}, where {term.bound} is flat"
            remedy = f"Remove {term.bound} after the last layer"
    message += ", so every gradient is exactly zero"
    return finding("failure", "constant_output", ends, message, remedy)


def _by_likelihood(cut: str) -> int:
    order = ("softmax over one unit", "argmax", "argmin", "round", "floor", "ceil", "sign")
    return order.index(cut) if cut in order else len(order) + (cut == "stop_gradient")


def _ends(evidence: Evidence) -> list[JudgedLayer]:
    """The layers whose outputs enter the loss."""
    paths = {path for term in evidence.traced.anatomy.losses.terms for path in term.layers}
    return evidence.layers_at(paths) or list(evidence.readouts) or list(evidence.layers[-1:])


def _some(layers: Sequence[JudgedLayer]) -> str:
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
                f"The outputs of {_some(layers)} go through a {term.bound}, and the loss then takes"
                f" them for logits and applies a {again} again; {message}"
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
    for term in evidence.traced.anatomy.losses.terms:
        wrong = wrong_labels(evidence, term)
        if wrong:
            layers = evidence.layers_at(term.layers)
            return finding("failure", "bounded_output", layers, *wrong)
        if not term.bound or term.noisy:
            continue
        found, layers = evidence.measured.watched[term.watch], evidence.layers_at(term.layers)
        outputs = f"The outputs of {_some(layers) if layers else 'the model'}"
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
                f"The loss takes the logarithm of what {_some(layers) if layers else 'the model'}"
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


def _between(low: float, high: float) -> str:
    low = 0.0 if 0 < low < 1e-200 else low  # an exponential is never zero
    if math.isfinite(high - low):
        return f"between {low:g} and {high:g}"
    return f"above {low:g}" if math.isfinite(low) else f"below {high:g}"


def target_scale(evidence: Evidence) -> list[Finding]:
    """Targets that are far from what outputs can soon be."""
    for term, found in _distances(evidence):
        mean, size, outputs = (float(found[n]) for n in ("target_mean", "target_rms", "rms"))
        stddev = math.sqrt(max(0.0, size**2 - mean**2))
        ratio = _distance(term, found)
        far = ratio > _DISTANCE and not _outputs_are_off(found)
        large = size > _TARGETS and size > 10 * outputs
        if not far and not large:
            continue
        layers = evidence.layers_at(term.layers)
        message = (
            f"The targets have mean {mean:.3g} and standard deviation {stddev:.3g}, and the outputs"
            f" of {_some(layers) if layers else 'the model'} have root mean square {outputs:.3g}"
        )
        if far:
            message += f"; guessing the targets' mean would be {ratio:.3g} times better"
        remedy = "Subtract the targets' mean and divide them by their standard deviation"
        bad = size > _BAD_TARGETS or (far and ratio > _BAD_DISTANCE)
        return finding("failure" if bad else "warning", "target_scale", layers, message, remedy)
    return []


def _distances(evidence: Evidence) -> list[tuple[Term, dict[str, Any]]]:
    """The distances from targets, of outputs that are no derivatives."""
    uses = collections.Counter(leaf for layer in evidence.layers for leaf in layer.leaves)
    found = []
    for term in evidence.traced.anatomy.losses.terms:
        # Weights that are used twice may make a derivative by the inputs, of any size.
        once = all(
            uses[leaf] == 1 for layer in evidence.layers_at(term.layers) for leaf in layer.leaves
        )
        if term.kind == "distance" and once:
            found.append((term, evidence.measured.watched[term.watch]))
    return found


def _distance(term: Term, found: dict[str, Any]) -> float:
    """The mean squared distance of outputs and targets, in variances of the targets."""
    spread = float(found["spread"])
    return float(found["error"]) / spread if term.given and spread > 1e-12 else 0.0


def _outputs_are_off(found: dict[str, Any]) -> bool:
    """Whether the outputs are farther from one than the targets, by their root mean squares."""
    return abs(math.log(max(1e-30, found["rms"]))) > abs(math.log(max(1e-30, found["target_rms"])))


def output_scale(evidence: Evidence) -> list[Finding]:
    """Outputs that are far too large, such as logits that are sure of wrong answers."""
    found = _large_outputs(evidence)
    ends = [layer for layer in _ends(evidence) if found and layer.name in found[0].layers]
    # Where the signal has grown before them, the layers that made it grow are at fault.
    grown = any(layer.input_square > _GROWN for layer in ends)
    explained = grown and any(
        other.level == "failure" or found[0].level == "warning" for other in exploding(evidence)
    )
    return [] if explained else found


def _large_outputs(evidence: Evidence) -> list[Finding]:
    sizes = {layer.row: _size_of_logits(layer, evidence) for layer in evidence.layers}
    found = [layer for layer in evidence.layers if sizes[layer.row] > _LOGITS]
    if found:
        layer, network = found[-1], evidence.network
        size = sizes[layer.row]
        message = (
            f"The logits of {layer.name} have root mean square {size:.3g}; the loss is"
            f" {network.loss:.4g}"
        )
        if not math.isnan(network.expected_loss):
            message += f", and guessing would give {network.expected_loss:.4g}"
        level = "failure" if size > _BAD_LOGITS else "warning"
        return finding(level, "output_scale", found, message, _smaller(size))
    for term in evidence.traced.anatomy.losses.terms:
        watched, layers = evidence.measured.watched[term.watch], evidence.layers_at(term.layers)
        stddev = float(watched["stddev"])
        if term.kind == "binary cross entropy" and stddev > _LOGITS and layers:
            message = (
                f"The logits of {_some(layers)} have standard deviation {stddev:.3g} before a"
                " sigmoid, so the network is sure of answers that it can't know yet"
            )
            level = "failure" if stddev > _BAD_LOGITS else "warning"
            return finding(level, "output_scale", layers, message, _smaller(stddev))
    exponent = large_exponent(evidence)
    if exponent:
        layers, message, remedy = exponent
        bad = any(layer.rms > _BAD_LOGITS for layer in layers)
        return finding("failure" if bad else "warning", "output_scale", layers, message, remedy)
    for term, watched in _distances(evidence):
        ratio, layers = _distance(term, watched), evidence.layers_at(term.layers)
        if ratio > _DISTANCE and _outputs_are_off(watched) and layers:
            size = float(watched["rms"])
            message = (
                f"The outputs of {_some(layers)} have root mean square {size:.3g}, and the"
                f" targets {watched['target_rms']:.3g}; guessing the targets' mean would be"
                f" {ratio:.3g} times better"
            )
            level = "failure" if ratio > _BAD_DISTANCE else "warning"
            return finding(level, "output_scale", layers, message, _smaller(size))
    return []


def _size_of_logits(layer: JudgedLayer, evidence: Evidence) -> float:
    """The root mean square of logits, without what all classes of an example have in common: a
    softmax takes that out. 0 for other layers."""
    if not layer.logits:
        return 0.0
    for term in evidence.traced.anatomy.losses.terms:
        found = evidence.measured.watched[term.watch]
        if term.layers == {layer.path} and found.get("columns") == term.classes:
            return min(layer.rms, float(found["across"]))
    return layer.rms


def large_exponent(evidence: Evidence) -> tuple[list[JudgedLayer], str, str] | None:
    """Layers of whose outputs the loss takes the exponential, and which are too large for that,
    with a message and a remedy."""
    for exponential in evidence.traced.anatomy.losses.exponentials:
        stddev = float(evidence.measured.watched[exponential.watch]["stddev"])
        layers = evidence.layers_at(exponential.layers)
        if stddev > _LOGITS and layers:
            message = (
                f"The loss takes the exponential of what {_some(layers)} gives, which has standard"
                f" deviation {stddev:.3g} there, so a few examples outweigh all others"
            )
            return layers, message, _smaller(stddev)
    return None


def _smaller(factor: float) -> str:
    return f"Divide the last kernel by {max(2.0, factor):.2g}, or start it at zero"
