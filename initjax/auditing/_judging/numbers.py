"""Numbers as sentences have them: three digits, and no exponent where people write none."""

from __future__ import annotations

import math

_LARGE = 1e6  # from which on the order of magnitude says all


def plain(value: float) -> str:
    """A number for a sentence: '12.5', '40,300' or '10^17'."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= _LARGE:
        return f"{'-' * (value < 0)}10^{math.log10(abs(value)):.0f}"
    text = f"{float(rounded(value)):,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("e-0", "e-")


def plain_power(log: float) -> str:
    """The same for a number that is given by its logarithm, and may be too large for a float."""
    return plain(math.exp(log)) if abs(log) < 600 else f"10^{log / math.log(10):.0f}"


def rounded(value: float) -> str:
    """A number with three digits, as Python reads it: '83.9' or '1230'."""
    return f"{float(f'{value:.3g}'):.15g}"
