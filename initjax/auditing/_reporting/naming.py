"""Names of layers that are short and stay different."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from initjax._wrapping import columns, printable, shortened
from initjax.auditing._judging.layers import Layer
from initjax.auditing._judging.names import suffix

_LONGEST = 60  # columns, from which on names may become alike


def short_names(layers: Sequence[Layer]) -> list[str]:
    """The layers' names without the folders that all share, and without the usual ending."""
    names = [printable(layer.name) for layer in layers]
    if len(names) < 2:
        return names
    ends = [suffix(layer.parameters) for layer in layers]
    paths = [name.removesuffix(end) for name, end in zip(names, ends, strict=True)]
    parts = [path.split("/") for path in paths]
    shared = 0
    while all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    last = collections.Counter(part[-1] for part in parts if len(part) > shared + 1)
    usual = {end for end, count in last.items() if 2 * count > len(names)}

    def short(dropped: set[str]) -> list[str]:
        kept = [
            part[shared:-1] if len(part) > shared + 1 and part[-1] in dropped else part[shared:]
            for part in parts
        ]
        return ["/".join(part) + end for part, end in zip(kept, ends, strict=True)]

    shortest = short(usual)
    return shortest if len(set(shortest)) == len(set(names)) else short(set())


def distinct(names: Sequence[str], least: int) -> int:
    """The smallest width, from `least` on, at which shortened names are still different.

    Args:
      names: of the rows of a table.
      least: columns that they always get.
    """
    different = len(set(names))
    longest = min(_LONGEST, max(map(columns, names), default=0))
    for width in range(least, longest):
        if len({shortened(name, width) for name in names}) == different:
            return width
    return max(least, longest)
