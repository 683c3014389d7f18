"""Whether a dtype holds the numbers of an initializer: one rule for all of them.

A number that a dtype can't hold is refused: one that would become infinite, NaN or zero, or lose
its sign, its fraction or its imaginary part. Random numbers are refused if the largest of them
doesn't fit. If they fit, but almost all round to a few values, a warning says so.
"""

from __future__ import annotations

import functools
import sys
import warnings
from typing import Any

import numpy as np

from initjax._values import shown

# The central 98% of the numbers should have at least 2**(bits / 4) - 1 values: in 8 bits 3 (one
# above zero and one below), in 16 bits 15, in 32 bits 255.
_BITS_PER_BIT = 4


def check_held(initializer: Any, dtype: np.dtype, numbers: Any) -> None:
    """Raises an error unless a dtype holds these numbers, up to rounding.

    Args:
      initializer: whose numbers they are.
      dtype: the dtype of its array.
      numbers: a number or an array.

    Raises:
      ValueError: the dtype can't hold one of them.
    """
    array = np.asarray(numbers)
    lost = array[_lost(array, dtype)]
    if lost.size:
        raise ValueError(f"{shown(initializer)}: {dtype.name} can't hold {lost[0]!s}")


def _lost(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A mask of the numbers that a dtype can't hold."""
    import jax.numpy as jnp

    if array.dtype.kind == "c" and dtype.kind != "c":
        return np.ones(array.shape, bool)
    if dtype.kind == "b":
        return np.zeros(array.shape, bool)
    if "int" in dtype.name:
        low, high = int(jnp.iinfo(dtype).min), int(jnp.iinfo(dtype).max)
        whole = np.isfinite(array) & (array == np.round(array))
        return ~(whole & (low <= array) & (array <= high))
    with np.errstate(all="ignore"):
        held = array.astype(dtype).astype(np.complex128)
        asked = array.astype(np.complex128)
    lost = np.zeros(array.shape, bool)
    for part in (np.real, np.imag):
        got, wanted = part(held), part(asked)
        same = (np.sign(got) == np.sign(wanted)) & (np.isinf(got) == np.isinf(wanted))
        lost |= np.where(np.isnan(wanted), ~np.isnan(got), ~same)
    return lost


def check_drawn(
    initializer: Any,
    dtype: np.dtype,
    wide: np.dtype,
    reach: float,
    central: tuple[float, float],
) -> None:
    """Raises an error if a dtype can't hold random numbers, and warns if it holds few of them.

    Args:
      initializer: what draws them.
      dtype: the dtype of its array.
      wide: the dtype of the draw, before rounding.
      reach: the largest magnitude.
      central: the interval that holds the central 98% of the numbers.

    Raises:
      ValueError: the dtype can't hold the largest, or has no sign and no zero.
    """
    refusal, warning = _verdict(dtype, wide, reach, central)
    if refusal:
        raise ValueError(f"{shown(initializer)} {refusal}")
    if warning:
        warnings.warn(f"{shown(initializer)} {warning}", stacklevel=_outside())


@functools.lru_cache(maxsize=1024)
def _verdict(
    dtype: np.dtype, wide: np.dtype, reach: float, central: tuple[float, float]
) -> tuple[str, str]:
    """What is wrong with these numbers in a dtype, and what is weak; empty if nothing is."""
    import jax.numpy as jnp

    limits = jnp.finfo(dtype)
    if float(limits.min) >= 0:
        return f"draws random numbers, but {dtype.name} has no sign and no zero", ""
    most = float(limits.max)
    if not reach <= most:
        digits = 3 if f"{reach:.3g}" != f"{most:.3g}" else 8
        return (
            f"draws numbers up to {reach:.{digits}g}, but the largest {dtype.name} is"
            f" {most:.{digits}g}"
        ), ""
    low, high = central
    real = np.dtype(jnp.finfo(dtype).dtype)
    # XLA flushes what is subnormal in the dtype of the draw.
    ends = [0.0 if abs(end) < float(jnp.finfo(wide).tiny) else end for end in central]
    first, last = (_ordinal(np.asarray(end).astype(real)) for end in ends)
    if low == high or last - first + 1 >= 2 ** (limits.bits // _BITS_PER_BIT) - 1:
        return "", ""
    values = "one value" if first == last else f"{last - first + 1} values"
    return "", (
        f"draws 98% of its numbers from [{low:.6g}, {high:.6g}], where {dtype.name} has only"
        f" {values}; use a dtype with more bits, or a wider distribution"
    )


def _outside() -> int:
    """The stack level of the first caller outside of this package, for a warning."""
    frame, level = sys._getframe(1), 1
    while frame is not None and frame.f_globals.get("__name__", "").startswith("initjax."):
        frame, level = frame.f_back, level + 1
    return level


def _ordinal(number: np.ndarray) -> int:
    """The position of a floating number among all numbers of its dtype; zero's is 0."""
    bits = int(number.view(f"uint{8 * number.itemsize}"))
    sign = 1 << (8 * number.itemsize - 1)
    return bits if bits < sign else sign - bits
