"""Rows of a table, of which those of blocks that are alike become one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

_SHORT = 12  # rows of a table that is shown whole
_FEWEST = 3  # blocks that are folded
_LONGEST = 64  # rows of a block
_NARROW = (
    1.5  # largest by smallest number: a factor in which layers that are alike differ by chance
)
_NUMBER = re.compile(r"(\d+)")


class Number(NamedTuple):
    """A number of a row, or the range of several; NaN means not measured."""

    form: Callable[[float, int], str]
    """Writes a number with so many digits."""
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.low) or self.low == self.high:
            return self.form(self.low, 3)
        low, high = (self.form(end, 2) for end in (self.low, self.high))
        return low if low == high else f"{low.removesuffix('%')}..{high}"

    @property
    def short(self) -> str:
        """The middle of a narrow range, in place of its ends."""
        if 0 < self.low < self.high <= _NARROW * self.low:
            return f"~{self.form(math.sqrt(self.low * self.high), 2)}"
        return str(self)


def number(form: Callable[[float, int], str], value: float) -> Number:
    """One number and how it is printed."""
    return Number(form, value, value)


class Row(NamedTuple):
    """One row of a table."""

    name: str
    cells: tuple[str | Number, ...]
    level: str = "ok"
    """'ok', 'warning' or 'failure'."""
    alike: Hashable = None
    """Rows are folded only if these are equal, and all cells that are texts."""
    layers: int = 1
    """How many layers it stands for."""

    @property
    def texts(self) -> list[str]:
        """What is printed: its name and its cells."""
        return [self._counted, *map(str, self.cells)]

    @property
    def short_texts(self) -> list[str]:
        """The same for a narrow table."""
        return [self._counted, *(c if isinstance(c, str) else c.short for c in self.cells)]

    @property
    def _counted(self) -> str:
        return self.name + (f" x{self.layers}" if self.layers > 1 else "")


def fold(rows: Sequence[Row]) -> list[Row]:
    """Folds the rows of three or more blocks that follow each other and are alike.

    Blocks are alike if their rows have the same names but for numbers that count up, the same texts
    and the same levels. Each row of such a block gets the ranges of its numbers. Rows at fault
    stay as they are unless they are equal, and so does a short table.

    Args:
      rows: in the order of execution.

    Returns:
      The rows that are shown.
    """
    if len(rows) <= _SHORT:
        return list(rows)
    keys = [_key(row) for row in rows]
    counts = [[int(part) for part in _NUMBER.findall(row.name)] for row in rows]
    shown, at = [], 0
    while at < len(rows):
        size, times = _block(keys, counts, at)
        for first in range(at, at + size):
            mine = rows[first : at + size * times : size]
            one = _merged(mine)
            same = one.level == "ok" or all(row.texts[1:] == one.texts[1:] for row in mine)
            shown += [one] if times > 1 and same else mine
        at += size * times
    return shown


def _key(row: Row) -> Hashable:
    texts = tuple(cell if isinstance(cell, str) else None for cell in row.cells)
    return _NUMBER.sub("#", row.name), texts, row.level, row.alike


def _block(keys: Sequence[Hashable], counts: Sequence[list[int]], at: int) -> tuple[int, int]:
    """How many rows the block has that begins here, and how often it follows itself."""
    best = 1, 1
    for size in range(1, min(_LONGEST, (len(keys) - at) // _FEWEST) + 1):
        end = at + size
        while end < len(keys) and _goes_on(keys, counts, at, end, size):
            end += 1
        times = (end - at) // size
        if times >= _FEWEST and size * times > best[0] * best[1]:
            best = size, times
    return best


def _goes_on(
    keys: Sequence[Hashable], counts: Sequence[list[int]], at: int, row: int, size: int
) -> bool:
    """Whether a row repeats the one a block before, with numbers that go on counting."""
    if keys[row] != keys[row - size]:
        return False
    step = _step(counts[row - size], counts[row])
    second = row < at + 2 * size
    return any(step) and (second or step == _step(counts[row - 2 * size], counts[row - size]))


def _step(before: Sequence[int], after: Sequence[int]) -> list[int]:
    return [b - a for a, b in zip(before, after, strict=True)]


def _merged(rows: Sequence[Row]) -> Row:
    """One row for several."""
    first, last = (_NUMBER.split(row.name) for row in (rows[0], rows[-1]))
    name = "".join(a if a == b else f"{a}..{b}" for a, b in zip(first, last, strict=True))
    cells = tuple(
        cell if isinstance(cell, str) else _range([row.cells[place] for row in rows])
        for place, cell in enumerate(rows[0].cells)
    )
    return rows[0]._replace(name=name, cells=cells, layers=len(rows))


def _range(numbers: Sequence[str | Number]) -> Number:
    measured = [each for each in numbers if isinstance(each, Number) and not math.isnan(each.low)]
    if not measured:
        return next(each for each in numbers if isinstance(each, Number))
    lows, highs = [each.low for each in measured], [each.high for each in measured]
    return Number(measured[0].form, min(lows), max(highs))
