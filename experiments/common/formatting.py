"""Numbers as text: estimates, intervals, shares and p values, in few characters however large."""

import math

from experiments.common import statistics

_LARGE = 1e5  # from here on in scientific notation
_SMALL = 1e-6  # below it, too


def number(value: float, like: float | None = None, sign: str = "", digits: int = 4) -> str:
    """A number with four decimals, or one if it is 10 or more, or two digits; "-" for NaN.

    Args:
      value: the number.
      like: the number whose size determines the decimals; None means the value.
      sign: "+" shows the sign of positive numbers, too.
      digits: decimals of numbers below 10.

    Example:
      >>> number(0.97542), number(483.04), number(1e30), number(float("nan")), number(0.000123)
      ('0.9754', '483.0', '1.00e+30', '-', '0.00012')
    """
    if math.isnan(value):
        return "-"
    largest = max(abs(value), abs(value if like is None else like))
    if largest >= _LARGE or 0 < largest < _SMALL:
        return f"{value:{sign}.2e}"
    if digits >= 4 and 0 < largest < 1e-3:
        digits = 1 - math.floor(math.log10(largest))
    return f"{value:{sign}.{digits if largest < 10 else min(digits, 1)}f}"


def interval(estimate: statistics.Interval, sign: str = "") -> str:
    """An estimate with its bounds; a single run has none.

    Example:
      >>> interval(statistics.Interval(0.97, 0.96, 0.98))
      '0.9700 (0.9600 to 0.9800)'
    """
    text = number(estimate.value, sign=sign)
    return f"{text} ({bounds(estimate, sign)})" if math.isfinite(estimate.low) else text


def bounds(estimate: statistics.Interval, sign: str = "") -> str:
    """The bounds of an estimate."""
    low, high = (number(bound, estimate.value, sign) for bound in estimate[1:])
    return f"{low} to {high}"


def plus_minus(estimate: statistics.Interval) -> str:
    """An estimate with half the width of its interval, for narrow columns.

    Example:
      >>> plus_minus(statistics.Interval(0.97, 0.96, 0.98))
      '0.9700 ±0.0100'
    """
    text, half = number(estimate.value), (estimate.high - estimate.low) / 2
    return f"{text} ±{number(half, estimate.value)}" if math.isfinite(half) else text


def share(estimate: statistics.Interval) -> str:
    """A share with its bounds, in percent."""
    return f"{estimate.value:.0%} ({estimate.low:.0%} to {estimate.high:.0%})"


def p(value: float) -> str:
    """A p value.

    Example:
      >>> p(0.0333), p(1e-12)
      ('0.033', '<1e-9')
    """
    return "-" if math.isnan(value) else "<1e-9" if value < 1e-9 else f"{value:.2g}"


def p_equals(value: float) -> str:
    """A p value in a sentence.

    Example:
      >>> p_equals(0.0333), p_equals(1e-12)
      ('p = 0.033', 'p < 1e-9')
    """
    return "p < 1e-9" if value < 1e-9 else f"p = {value:.2g}"


def seeds(number: float) -> str:
    """A number of seeds that would settle something.

    Example:
      >>> seeds(9), seeds(1234), seeds(math.inf)
      ('9', '1,200', 'more than 1,000,000')
    """
    if math.isinf(number):
        return "more than 1,000,000"
    return f"{number:.0f}" if number < 100 else f"{float(f'{number:.2g}'):,.0f}"
