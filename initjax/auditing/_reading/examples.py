"""What a loss does with the examples of the batch: couples them, or sums over them."""

from __future__ import annotations

from typing import NamedTuple

from initjax.auditing._reading.couplings import Coupling, coupling_of
from initjax.auditing._reading.example_axes import examples_of
from initjax.auditing._reading.inlined import Graph
from initjax.auditing._reading.sums import summed_over_examples


class Ends(NamedTuple):
    """What the end of a program does with the examples."""

    coupling: Coupling | None
    summed: int
    """How many times the mean over the examples the loss is; 0 if it is averaged or not known."""


_NOTHING = Ends(None, 0)


def ends_of(graph: Graph, num_parameters: int) -> Ends:
    """Reads what a loss does with the examples of the batch.

    Args:
      graph: the program.
      num_parameters: how many of its first arguments are parameters.
    """
    found = examples_of(graph, num_parameters)
    if found is None:
        return _NOTHING
    coupling = coupling_of(graph, found, num_parameters)
    return Ends(coupling, summed_over_examples(graph, found))
