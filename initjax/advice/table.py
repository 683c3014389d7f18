"""The table of training runs that advice rests on, which is part of the package.

`python scripts/advice_table.py` makes it, from directories of training runs. A row is a way to
initialize networks of one setting (kind, activation, optimizer, width and depth), over several
seeds, at the best of several learning rates.
"""

from __future__ import annotations

import functools
import importlib.resources
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

VERSION = 1
"""Of the format; it counts up if a column goes or changes its meaning."""

FILE = "table.json"


class Row(NamedTuple):
    """The runs from one initialization in one setting."""

    kind: str
    """'plain', 'residual' or 'normalized': layer normalization before every activation."""
    activation: str
    optimizer: str
    width: int
    depth: int
    name: str
    """Of the choice, such as 'orthogonal'."""
    init: str
    bias_init: str
    learning_rate: float
    """The best of those that were tried, by training loss."""
    runs: int
    """At this learning rate: one for each seed."""
    trained: int
    """How many of them are better than guessing."""
    accuracy: float
    """The mean of the final test accuracies; runs that diverged count as guessing."""
    stddev: float
    """Over the seeds."""
    difference: float
    """The mean paired difference of accuracies, to the best row of the setting."""
    low: float
    """The lower end of its 95% interval, simultaneous for all rows of the setting."""
    high: float


class Table(NamedTuple):
    """All rows, and what they have in common."""

    rows: tuple[Row, ...]
    steps: int
    batch_size: int
    data: str
    """Such as 'standardized mnist'."""
    rates: int
    """How many learning rates were tried."""


Setting = tuple[Row, ...]
"""The rows of one kind, activation, optimizer, width and depth."""


@functools.cache
def shipped() -> Table | None:
    """The table of this package; None if there is none.

    Raises:
      ValueError: it has another format.
    """
    file = importlib.resources.files("initjax.advice") / FILE
    return read(file.read_text("utf-8")) if file.is_file() else None


def read(text: str) -> Table:
    """Reads a table.

    Raises:
      ValueError: it has another format.
    """
    content: dict[str, Any] = json.loads(text)
    if content["version"] != VERSION or tuple(content["columns"]) != Row._fields:
        raise ValueError(f"the table of advice has format {content['version']}, not {VERSION}")
    rows = tuple(Row(*row) for row in content["rows"])
    return Table(rows, *(content[name] for name in Table._fields[1:]))


def written(table: Table, **more: Any) -> str:
    """The text of a table, one row a line.

    Args:
      table: what to write.
      **more: other facts, such as where it comes from.
    """
    head = {"version": VERSION, **table._asdict(), **more, "columns": Row._fields}
    del head["rows"]
    rows = ",\n".join(json.dumps(row) for row in table.rows)
    return f'{json.dumps(head, indent=1)[:-2]},\n "rows": [\n{rows}\n]\n}}\n'


def around(
    table: Table, kind: str, activation: str, optimizer: str, width: int, depth: int
) -> tuple[list[Setting], str]:
    """The settings of a table that surround a network, closest first.

    There is one, or two or four, of which some are at least as wide or deep, and others at most.

    Args:
      table: where to look.
      kind, activation, optimizer, width, depth: the network.

    Returns:
      The settings, and why there are none: "" if there are some.
    """
    settings: dict[tuple[int, int], list[Row]] = {}
    for row in table.rows:
        if (row.kind, row.activation, row.optimizer) == (kind, activation, optimizer):
            settings.setdefault((row.width, row.depth), []).append(row)
    if not settings:
        return [], _absent(table, kind, activation, optimizer)

    def distance(place: tuple[int, int]) -> float:
        return math.hypot(math.log(place[0] / width), math.log(place[1] / depth))

    found: dict[tuple[int, int], None] = {}
    for wider, deeper in itertools.product((1, -1), repeat=2):
        inside = [
            place
            for place in settings
            if wider * (place[0] - width) >= 0 and deeper * (place[1] - depth) >= 0
        ]
        if not inside:
            return [], (
                f"the table's {kind} {activation} networks have {_sizes(settings)}, and advice"
                " isn't extrapolated"
            )
        found[min(inside, key=distance)] = None
    return [tuple(settings[place]) for place in sorted(found, key=distance)], ""


def _absent(table: Table, kind: str, activation: str, optimizer: str) -> str:
    of_kind = [row for row in table.rows if row.kind == kind and row.optimizer == optimizer]
    if not of_kind:
        return f"the table has no {kind} networks trained with {optimizer}"
    known = ", ".join(dict.fromkeys(row.activation for row in of_kind))
    name = activation or "this activation"
    return f"the table has no {kind} networks with {name}, only with {known}"


def _sizes(places: Iterable[tuple[int, int]]) -> str:
    """Such as "2 to 100 layers of 64 units, or 5 to 20 layers of 128"."""
    depths: dict[int, list[int]] = {}
    for width, depth in sorted(places):
        depths.setdefault(width, []).append(depth)
    parts = []
    for width, found in depths.items():
        span = f"{found[0]} to {found[-1]}" if len(found) > 1 else f"{found[0]}"
        parts.append(f"{span} layers of {width}")
    return f"{parts[0]} units{''.join(f', or {part}' for part in parts[1:])}"


def best(setting: Sequence[Row]) -> Row:
    """The row with the highest mean accuracy."""
    return max(setting, key=lambda row: row.accuracy)


def as_good_as_best(row: Row, setting: Setting) -> bool:
    """Whether a row isn't measurably worse than the best of its setting.

    The interval of the paired difference must reach zero, and no fewer of its runs be trained.
    """
    return row.high >= 0 and row.trained >= best(setting).trained
