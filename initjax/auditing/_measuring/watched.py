"""What is computed of each kind of watched values, in the pass and after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from initjax.auditing._measuring.attention import attention_statistics, sample_of
from initjax.auditing._measuring.losses import (
    first_rows,
    invalid,
    invalid_parts,
    of_choices,
    of_outputs,
    whole,
)


class Kind(NamedTuple):
    """Two functions at the top of a module, of what a watch says besides the arrays.

    Arrays have the lengths of the loops around them as leading axes; those of a while loop are of
    its last turn.
    """

    sample: Callable[[Any, str, Any], Any]
    """Maps `static`, a name and an array, in the pass, to the part of it that is returned."""
    statistics: Callable[[Any, dict[str, Any], Any], dict[str, Any]]
    """Maps `static`, the arrays by their names, and what finds the flat parts of an activation, to
    statistics. Written for NumPy and `jax.numpy` alike."""


KINDS = {
    "outputs": Kind(first_rows, of_outputs),
    "choice": Kind(whole, of_choices),
    "operand": Kind(invalid_parts, invalid),
    "attention": Kind(sample_of, attention_statistics),
}
