"""Which operation makes a loss, or its gradient, infinite or NaN."""

from __future__ import annotations

from collections.abc import Sequence

from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding, finding, names_of
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._judging.names import some
from initjax.auditing._judging.output_scales import large_exponent
from initjax.auditing._judging.outputs import wrong_labels

_NAMES = {
    "log": "logarithm",
    "log1p": "logarithm",
    "sqrt": "square root",
    "rsqrt": "reciprocal square root",
    "div": "quotient",
}


def undefined_loss(evidence: Evidence) -> list[Finding]:
    """A loss that is infinite or NaN, although all layers' outputs are finite."""
    message = f"The loss is {evidence.network.loss}, although all pre-activations are finite"
    remedy = "Look for a logarithm of zero, a division by zero or an overflow in the loss"
    layers: list[JudgedLayer] = []
    for term in evidence.traced.anatomy.losses.terms:
        wrong = wrong_labels(evidence, term)
        if wrong:
            layers = evidence.layers_at(term.layers)
            return finding("failure", "not_finite", layers, f"{message}. {wrong[0]}", wrong[1])
    exponent = large_exponent(evidence)
    if exponent:
        layers, why, smaller = exponent
        return finding("failure", "not_finite", layers, f"{message}. {why}", smaller)
    for risk in evidence.traced.anatomy.losses.risks:
        found = evidence.measured.watched[risk.watch]
        undefined, zero = float(found["undefined"]), float(found["zero"])
        if not undefined:
            continue
        layers = evidence.layers_at(risk.layers)
        made = f"what {some(names_of(layers))} gives" if layers else "a part of the loss"
        if risk.name == "div":
            message += f": it divides by {made}, which is zero in {undefined:.0%} of the numbers"
            remedy = "Add a small number to the divisor"
        elif risk.twice:
            message += ": it takes a logarithm twice, and the first one is not positive"
            remedy = "Take the logarithm once: log_softmax and log_sigmoid have it already"
        else:
            sign = "zero" if zero == undefined else "negative" if not zero else "not positive"
            message += (
                f": it takes the {_NAMES[risk.name]} of {made}, of which {undefined:.0%} is {sign}"
            )
            remedy = (
                "Use log_softmax or log_sigmoid of the logits, or a cross entropy of logits, such"
                " as those of optax"
                if risk.name == "log"
                else "Keep its argument positive: add a small number, or use softplus"
            )
        break
    return finding("failure", "not_finite", layers, message, remedy)


def undefined_gradient(evidence: Evidence, lost: Sequence[JudgedLayer]) -> list[Finding]:
    """A gradient that is infinite or NaN, although the loss is finite."""
    message = f"The gradient at {some(names_of(lost))} is infinite or NaN, although the loss is"
    message += " finite"
    remedy = "Look for the derivative of a square root, a norm or a quotient at zero"
    exponent = large_exponent(evidence)
    if exponent:
        layers, why, smaller = exponent
        return finding("failure", "not_finite", layers, f"{message}. {why}", smaller)
    for risk in evidence.traced.anatomy.losses.risks:
        if float(evidence.measured.watched[risk.watch]["zero"]):
            message += f": the loss takes a {_NAMES[risk.name]} at zero"
            remedy = "Add a small number, such as 1e-8, to what is zero, before the operation"
            break
    return finding("failure", "not_finite", lost, message, remedy)
