"""Grids of runs: all combinations of the values of some axes, each made when it is needed."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, overload

from experiments.common.config import Config

Axis = Sequence[Mapping[str, Any]]
"""Values that fields of `Config` take together."""


@dataclasses.dataclass(frozen=True)
class Grid(Sequence[Config]):
    """The configurations of a grid, in the order of `itertools.product`.

    A configuration is made when its item is read, so that one of a thousand parts of a grid of a
    million runs starts as fast as a small grid.

    Raises:
      UsageError: a value is invalid. All combinations with the first value of the first axis are
        tried, which is the first seed.
    """

    fields: Mapping[str, Any]
    """The fields that are the same in all runs."""
    axes: Sequence[Axis]
    """The first one varies slowest. If it is the seed, the runs of a grid that was stopped are a
    fair sample."""

    def __post_init__(self) -> None:
        for index in range(len(self) // len(self.axes[0])):
            self[index]

    def __len__(self) -> int:
        return math.prod(map(len, self.axes))

    @overload
    def __getitem__(self, index: int) -> Config: ...
    @overload
    def __getitem__(self, index: slice) -> list[Config]: ...
    def __getitem__(self, index: int | slice) -> Config | list[Config]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        found = dict(self.fields)
        for axis in reversed(self.axes):
            index, place = divmod(index, len(axis))
            found |= axis[place]
        return Config(**found)

    @property
    def digest(self) -> str:
        """Equal for the same runs in the same order, wherever their data are."""
        fields = {name: self.fields[name] for name in self.fields if name not in _OF_MACHINES}
        text = json.dumps([fields, *self.axes], sort_keys=True, default=dict)
        return hashlib.sha256(text.encode()).hexdigest()


_OF_MACHINES = ("dataset", "data_dir")  # may differ between machines


def axis(name: str, values: Sequence[Any]) -> Axis:
    """The axis of one field."""
    return [{name: value} for value in values]
