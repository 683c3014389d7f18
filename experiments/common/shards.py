"""Parts of a grid of runs, for processes or machines that share the work: `--shard=i/n`."""

import dataclasses
import re
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from experiments.common.config import UsageError

_Item = TypeVar("_Item")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of a number of disjoint parts that make up a grid."""

    index: int
    """From 0 to `number` - 1."""
    number: int

    def part(self, runs: Sequence[_Item]) -> list[_Item]:
        """The runs of this part, in the order of the grid.

        They are a fair sample: every n-th run of a grid may belong to the same initializer, so the
        grid is shuffled first.
        """
        # The one generator whose stream NumPy keeps across versions, so that machines agree.
        order = np.random.RandomState(0).permutation(len(runs))
        return [runs[place] for place in sorted(order[self.index :: self.number])]


WHOLE = Shard(0, 1)
"""All of a grid."""


def parse(text: str) -> Shard:
    """The shard that `--shard=i/n` names.

    Raises:
      UsageError: the text names none.
    """
    match = re.fullmatch(r"(\d{1,18})/(\d{1,18})", text)
    if not match or int(match[1]) >= int(match[2]):
        raise UsageError(f"--shard={text}: must be i/n with i from 0 to n-1, such as 0/4")
    return Shard(int(match[1]), int(match[2]))
