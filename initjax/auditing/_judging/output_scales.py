"""Checks of how large the outputs and the targets are."""

from __future__ import annotations

import collections
import math
from typing import Any

from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding, finding
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._judging.numbers import plain
from initjax.auditing._judging.outputs import ends_of, some_of
from initjax.auditing._judging.propagation import exploding, smaller_end
from initjax.auditing._reading.terms import Term

_LOGITS, _BAD_LOGITS = 3.0, 10.0  # root mean square
# Mean squared distance of outputs and targets, over the variance of the targets: a network first
# has to get rid of it, and regressions with Adam then spend their first thousand steps on it.
_DISTANCE, _BAD_DISTANCE = 300.0, 1e4
_TARGETS, _BAD_TARGETS = 100.0, 1000.0  # root mean square, from which SGD with usual steps diverges
_GROWN = 25.0  # mean square of the last layer's input


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
            f" of {some_of(layers) if layers else 'the model'} have root mean square {outputs:.3g}"
        )
        if far:
            message += f"; guessing the targets' mean would be {plain(ratio)} times better"
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
    ends = [layer for layer in ends_of(evidence) if found and layer.name in found[0].layers]
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
            f"The logits of {layer.name} have root mean square {plain(size)}; the loss is"
            f" {network.loss:.4g}"
        )
        if not math.isnan(network.expected_loss):
            message += f", and guessing would give {network.expected_loss:.4g}"
        level = "failure" if size > _BAD_LOGITS else "warning"
        return finding(level, "output_scale", found, message, smaller_end(size))
    for term in evidence.traced.anatomy.losses.terms:
        watched, layers = evidence.measured.watched[term.watch], evidence.layers_at(term.layers)
        stddev = float(watched["stddev"])
        if term.kind == "binary cross entropy" and stddev > _LOGITS and layers:
            message = (
                f"The logits of {some_of(layers)} have standard deviation {stddev:.3g} before a"
                " sigmoid, so the network is sure of answers that it can't know yet"
            )
            level = "failure" if stddev > _BAD_LOGITS else "warning"
            return finding(level, "output_scale", layers, message, smaller_end(stddev))
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
                f"The outputs of {some_of(layers)} have root mean square {size:.3g}, and the"
                f" targets {watched['target_rms']:.3g}; guessing the targets' mean would be"
                f" {plain(ratio)} times better"
            )
            level = "failure" if ratio > _BAD_DISTANCE else "warning"
            return finding(level, "output_scale", layers, message, smaller_end(size))
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
                f"The loss takes the exponential of what {some_of(layers)} gives, which has a"
                f" standard deviation of {stddev:.3g} there, so a few examples outweigh all others"
            )
            return layers, message, smaller_end(stddev)
    return None
