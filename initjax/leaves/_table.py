"""Prints a table of leaves."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH = 80
_LONGEST = 40  # leaves that are shown
_PATH, _SHAPE = 26, 16  # columns


def table(header: Sequence[str], rows: Sequence[tuple[str, str, str]], width: int = WIDTH) -> str:
    """Lines of path, shape and text, in so many columns; texts that are too long are wrapped."""
    from initjax.auditing._reporting.wrapping import (
        aligned,
        columns,
        printable,
        shortened,
        wrapped,
    )

    shown = [(printable(path), shape, printable(text)) for path, shape, text in rows]
    hidden = max(0, len(shown) - _LONGEST)
    if hidden:
        half = _LONGEST // 2
        shown = [*shown[:half], *shown[len(shown) - half :]]
    cells = [tuple(header), *shown]
    first = min(_PATH, max(columns(path) for path, _, _ in cells))
    second = min(_SHAPE, max(columns(shape) for _, shape, _ in cells))
    lines = []
    for number, (path, shape, text) in enumerate(cells):
        if hidden and number == _LONGEST // 2 + 1:
            lines.append(f"... {hidden} more leaves ...")
        start = f"{aligned(shortened(path, first), first)}  {aligned(shape, second)}  "
        indent = " " * columns(start)
        told = wrapped(text, width - len(indent)) or [""]
        lines.append((start + told[0]).rstrip())
        lines += [indent + line.strip() for line in told[1:]]
    return "\n".join(lines)
