"""Checks of what attentions read: nearly one key each, or all keys so evenly that tokens become
alike.

Reading evenly is no fault: it is how GPT-2 and vision transformers start. It becomes one where
blocks make the tokens alike, since then no later attention can tell them apart.
"""

from __future__ import annotations

import math

from initjax.auditing._judging.attention import JudgedAttention
from initjax.auditing._judging.evidence import Evidence
from initjax.auditing._judging.findings import Finding, finding
from initjax.auditing._judging.layers import JudgedLayer
from initjax.auditing._judging.names import some

# Theory is for many keys: among fewer than 5, one key has half of the weight by chance alone, at
# scores of unit scale.
_FEW = 5  # keys
_SHARP, _LOCKED = 1.5, 4.0  # times the critical score stddev: 1/3 and 3/4 of the weight condense
# 1 - the cosine of two tokens. Scores of usual kernels have this variance: their weights differ by
# 10% from key to key at the first level, and by 3% at the second.
_DIFFERENT, _SAME = 1e-2, 1e-3
_LOST = 0.1  # of the difference that tokens had before: else the input is alike, and not attention


def one_hot(evidence: Evidence) -> list[Finding]:
    """Scores so large that a query reads only a few keys."""
    found = [
        attention
        for attention in evidence.attention
        if attention.keys >= _FEW
        and attention.queries
        and attention.score_stddev > _SHARP * attention.critical_stddev
        and attention.effective_keys < attention.keys / 2
    ]
    if not found:
        return []
    worst = max(found, key=_excess)
    message = (
        f"In {_places(found)}, the scores of one query have stddev {worst.score_stddev:.3g}; above"
        f" {worst.critical_stddev:.2g}, a query reads only a few keys, which chance has chosen:"
        f" here {worst.effective_keys:.2g} of {worst.keys:.3g}; training can hardly move a softmax"
        " that is so sure"
    )
    level = "failure" if _excess(worst) > _LOCKED else "warning"
    return finding(level, "attention_one_hot", _layers(found), message, _smaller_scores(worst))


def _excess(attention: JudgedAttention) -> float:
    return attention.score_stddev / attention.critical_stddev


def _smaller_scores(attention: JudgedAttention) -> str:
    """What to do about large scores: what makes them large decides."""
    size, stddev = attention.site.head_size, attention.score_stddev
    rms = [layer.rms for layer in attention.queries]
    different = 1 - max(0.0, attention.token_correlation)  # keys that are alike give equal scores
    natural = max(rms) * min(rms) * math.sqrt(size * different)
    if natural > 0 and stddev / natural * math.sqrt(size) > 2:
        return (
            f"Divide the scores by sqrt({size}) = {math.sqrt(size):.3g}, the square root of the"
            f" head size: their stddev becomes {stddev / math.sqrt(size):.2g}"
        )
    gain = max(layer.weight_variance for layer in attention.queries)
    if gain > 2:
        return (
            f"Draw the kernels of queries and keys with lecun_normal, which has gain 1 in place of"
            f" {gain:.3g}"
        )
    return "Normalize the tokens before they enter an attention: x + attention(norm(x))"


def uniform(evidence: Evidence) -> list[Finding]:
    """Tokens that become alike from block to block."""
    found = []
    for attention in evidence.attention:
        before = [_difference(other) for other in _measured_before(attention, evidence)]
        most, left = max(before, default=0.0), _difference(attention)
        if (
            attention.keys >= _FEW
            and attention.queries
            and left < _DIFFERENT
            and left < _LOST * most
        ):
            found.append(attention)
    if not found:
        return []
    first, last = found[0], min(found, key=_difference)
    start = max(_measured_before(last, evidence), key=_difference)
    message = (
        f"Tokens become alike: their mean cosine is {start.token_correlation:.2g} at {start.name}"
        f" and {last.token_correlation:.5f} at {last.name}"
    )
    if first is not last:
        message += f" ({first.token_correlation:.4f} already at {first.name})"
    message += "; attentions that average all tokens can't tell them apart any more"
    expects = [
        attention
        for attention in evidence.attention
        if 1 - attention.predicted_token_correlation < _DIFFERENT
    ]
    if expects:
        message += f". Theory, carried from the first block on, expects this from {expects[0].name}"
        message += " on"
    expected = _with_skips(start, 1 + len(last.before))
    remedy = "Add each attention to the tokens that it reads, and normalize inside of the branch: x"
    remedy += f" + attention(norm(x)); theory then expects a cosine of {expected:.2g}"
    level = "failure" if _difference(last) < _SAME else "warning"
    return finding(level, "attention_uniform", _layers(found), message, remedy)


def _measured_before(attention: JudgedAttention, evidence: Evidence) -> list[JudgedAttention]:
    """The attentions upstream of which it is known how alike their tokens are."""
    upstream = [evidence.attention[number] for number in attention.before]
    return [other for other in upstream if not math.isnan(other.token_correlation)]


def _difference(attention: JudgedAttention) -> float:
    """How far two tokens are from being alike, by their cosine; infinite if not measured."""
    different = 1 - attention.token_correlation
    return math.inf if math.isnan(different) else max(different, 0.0)


def _with_skips(attention: JudgedAttention, blocks: int) -> float:
    """The cosine of two tokens after blocks with normalization inside of residual branches."""
    from initjax.theory.attention import transformer_map

    alike = min(max(attention.token_correlation, 0.0), 0.99)
    scale = attention.score_stddev / math.sqrt(1 - alike)
    keys = max(2, round(attention.keys))
    return float(
        transformer_map(blocks, keys, scale, norm="pre", correlation=alike).correlation[-1]
    )


def _layers(attentions: list[JudgedAttention]) -> list[JudgedLayer]:
    """The layers of queries and keys."""
    return [layer for attention in attentions for layer in attention.queries]


def _places(attentions: list[JudgedAttention]) -> str:
    return some([attention.name for attention in attentions])
