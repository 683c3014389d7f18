"""The table of attentions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from initjax._wrapping import printable
from initjax.auditing._judging.attention import Attention
from initjax.auditing._reporting.folding import Row, fold, number
from initjax.auditing._reporting.glossary import ATTENTION_COLUMNS
from initjax.auditing._reporting.table import Table, compact


def attention_table(attentions: Sequence[Attention], levels: Sequence[str]) -> Table:
    """The table of attentions, of which those that are alike are one row; columns with a star are
    predictions.

    Args:
      attentions: in the order of execution.
      levels: of each: 'ok', 'warning' or 'failure'.
    """
    header = ["attention", "keys", "scores", "limit", "reads", "reads*", "entropy"]
    header += ["cosine", "cosine*", "after", "after*"]
    rows = [
        Row(
            printable(name),
            (
                number(compact, attention.keys),
                number(compact, attention.score_stddev),
                number(compact, attention.critical_stddev),
                number(compact, attention.effective_keys),
                number(compact, attention.predicted_effective_keys),
                number(_share, attention.entropy),
                number(_cosine, attention.token_correlation),
                number(_cosine, attention.predicted_token_correlation),
                number(_cosine, attention.correlation),
                number(_cosine, attention.predicted_correlation),
            ),
            level,
        )
        for attention, name, level in zip(attentions, _short(attentions), levels, strict=True)
    ]
    legend = {name: column.legend for name, column in ATTENTION_COLUMNS.items()}
    return Table(header, fold(rows), legend)


def _short(attentions: Sequence[Attention]) -> list[str]:
    """The names without the folders and endings that all share."""
    parts = [attention.name.split("/") for attention in attentions]
    shared = 0
    while len(parts) > 1 and all(
        len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts
    ):
        shared += 1
    parts = [part[shared:] for part in parts]
    while all(len(part) > 1 and part[-1] == parts[0][-1] for part in parts) and len(parts) > 1:
        parts = [part[:-1] for part in parts]
    return ["/".join(part) for part in parts]


def _share(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _cosine(value: float, digits: int) -> str:
    """Two places; more where tokens are nearly alike."""
    if math.isnan(value):
        return ""
    return f"{value:.2f}" if value < 0.985 else f"{value:.4f}"
