"""Prints a table of leaves, in which those that are alike share a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from initjax._wrapping import aligned, columns, printable, shortened, wrapped

Row = tuple[str, str, str]

_LONGEST = 40  # rows that are shown
_PATH, _SHAPE = 26, 16  # columns
_NARROWEST = 40
_FEWEST = 3  # leaves that share a row
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def table(header: Row, rows: Sequence[Row], width: int) -> str:
    """Lines of path, shape and text, in so many columns; texts that are too long are wrapped."""
    shown = [(printable(path), shape, printable(text)) for path, shape, text in _folded(rows)]
    hidden = len(shown) - _LONGEST
    half = _LONGEST // 2 if hidden > 1 else len(shown)
    cells = [header, *shown[:half], *(shown[len(shown) - half :] if hidden > 1 else ())]
    width = max(width, _NARROWEST)
    first = min(_PATH, width // 3, max(columns(path) for path, _, _ in cells))
    second = min(_SHAPE, max(columns(shape) for _, shape, _ in cells))
    lines = []
    for number, (path, shape, text) in enumerate(cells):
        if hidden > 1 and number == half + 1:
            lines.append(f"... {hidden} more rows ...")
        start = f"{aligned(shortened(path, first), first)}  {aligned(shape, second)}  "
        indent = " " * columns(start)
        told = wrapped(text, width - len(indent)) or [""]
        lines.append((start + told[0]).rstrip())
        lines += [indent + line.strip() for line in told[1:]]
    return "\n".join(lines)


def _folded(rows: Sequence[Row]) -> list[Row]:
    """The rows, with those as one that differ only in numbers of the path and of the text."""
    groups: dict[Row, list[Row]] = {}
    keys = []
    for row in rows:
        path, shape, text = row
        numbered = _NUMBER.search(path) is not None and " as " not in text
        keys.append((_NUMBER.sub("0", path), shape, _NUMBER.sub("0", text)) if numbered else row)
        groups.setdefault(keys[-1], []).append(row)
    found = []
    for row, key in zip(rows, keys, strict=True):
        group = groups[key]
        if len(group) < _FEWEST:
            found.append(row)
        elif row is group[0]:
            path = _joined([path for path, _, _ in group], lambda _: "*")
            text = _joined([text for _, _, text in group], _range)
            found.append((path, row[1], f"{text} ({len(group)} leaves)"))
    return found


def _joined(texts: Sequence[str], join: Callable[[Sequence[str]], str]) -> str:
    """A text for several ones, in which numbers that differ are joined."""
    numbers = list(zip(*map(_NUMBER.findall, texts), strict=True))
    parts = _NUMBER.split(texts[0])
    joined = [same[0] if len(set(same)) == 1 else join(same) for same in numbers]
    return "".join(part + number for part, number in zip(parts, [*joined, ""], strict=True))


def _range(numbers: Sequence[str]) -> str:
    return f"{min(numbers, key=float)} to {max(numbers, key=float)}"
