"""Parts of a grid of runs, for processes or machines that share the work: `--shard=i/n`."""

import dataclasses
import re
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from experiments.common import description
from experiments.common.config import UsageError

_Item = TypeVar("_Item")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of a number of disjoint parts that make up a grid."""

    index: int
    """From 0 to `number` - 1."""
    number: int

    def __str__(self) -> str:
        return f"{self.index}/{self.number}"

    def part(self, runs: Sequence[_Item]) -> list[_Item]:
        """The runs of this part, in the order of the grid; no others are read.

        They are a fair sample: every n-th run of a grid may belong to the same initializer, so the
        grid is shuffled first.

        Raises:
          UsageError: there are none.
        """
        # The one generator whose stream NumPy keeps across versions, so that machines agree.
        order = np.random.RandomState(0).permutation(len(runs))
        mine = np.sort(order[self.index :: self.number]).tolist()
        if not mine:
            grid = description.count(len(runs), "run")
            raise UsageError(f"--shard={self}: the grid has only {grid}")
        return [runs[place] for place in mine]

    def label(self, grid: str) -> str:
        """Tells the files of this part from those of the others; empty for the whole of a grid.

        Args:
          grid: its digest.

        Example:
          >>> Shard(7, 1000).label("3f2a91c0d4e5f607")
          '3f2a91c0-0007of1000'
        """
        digits = len(str(self.number))
        return "" if self == WHOLE else f"{grid[:8]}-{self.index:0{digits}}of{self.number}"


WHOLE = Shard(0, 1)
"""All of a grid."""


def are_siblings(label: str, other: str) -> bool:
    """Whether these are the labels of two different shards of one division of one grid.

    Example:
      >>> are_siblings("3f2a91c0-0of2", "3f2a91c0-1of2"), are_siblings("3f2a91c0-0of2", "")
      (True, False)
    """
    grids = [(text.partition("-")[0], text.rpartition("of")[2]) for text in (label, other)]
    return grids[0] == grids[1] and label != other


def parse(text: str) -> Shard:
    """The shard that `--shard=i/n` names.

    Raises:
      UsageError: the text names none.
    """
    match = re.fullmatch(r"(\d{1,18})/(\d{1,18})", text)
    if not match or int(match[1]) >= int(match[2]):
        raise UsageError(f"--shard={text}: must be i/n with i from 0 to n-1, such as 0/4")
    return Shard(int(match[1]), int(match[2]))
