"""Fits text into the columns of a terminal, where some characters take two of them, or none."""

from __future__ import annotations

import itertools
import textwrap
import unicodedata

_LEAST = 4  # columns of a part of a path, before the middle of the whole path is left out
_FIXED = "\1"  # stands for a space at which no line may break
_SECOND = "\0"  # stands for the second column of a character


def columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def printable(text: str) -> str:
    """The text, with escapes for what would move the cursor of a terminal."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def aligned(text: str, width: int, right: bool = False) -> str:
    """The text, filled up with spaces."""
    spaces = " " * (width - columns(text))
    return spaces + text if right else text + spaces


def shortened(path: str, width: int) -> str:
    """The path, with the middles of its long parts left out if it is too long.

    The parts between the first and the last are shortened most. The ends of parts stay, since
    numbers stand there.
    """
    parts = path.split("/")
    inner = range(1, len(parts) - 1)
    for which, least in ((inner, _LEAST), (range(len(parts)), _LEAST), (inner, 1)):
        for most in range(min(width, max(map(columns, parts))), least - 1, -1):
            cut = [_cut(part, most) if n in which else part for n, part in enumerate(parts)]
            if columns("/".join(cut)) <= width:
                return "/".join(cut)
        parts = [_cut(part, least) if n in which else part for n, part in enumerate(parts)]
    return _cut(path, width)


def _cut(text: str, width: int) -> str:
    if columns(text) <= width:
        return text
    if width < 2:
        return "~"
    front = _start(text, (width - 1) // 3) or text[:1]
    return f"{front}~{_start(text[::-1], width - 1 - columns(front))[::-1]}"


def _start(text: str, width: int) -> str:
    ends = itertools.accumulate(map(_columns, text))
    return text[: sum(end <= width for end in ends)]


def wrapped(text: str, width: int, first: str = "", rest: str = "    ") -> list[str]:
    """Lines that fit, of a text whose long paths are shortened.

    Args:
      text: sentences.
      width: columns of a line.
      first: what the first line begins with.
      rest: what the other lines begin with.
    """
    words = [shortened(printable(word), width - len(rest)) for word in text.split()]
    lines = textwrap.wrap(
        _marked(" ".join(words)),
        width,
        initial_indent=_marked(first),
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_SECOND, "") for line in lines]


def code_lines(code: str, width: int, indent: str) -> list[str]:
    """Lines of Python, of which long ones are broken between the arguments of a call."""
    lines: list[str] = []
    for line in code.splitlines():
        nicely = _broken(line, width, indent, ":")
        lines += nicely if max(map(len, nicely)) <= width else _broken(line, width, indent)
    return lines


def _broken(line: str, width: int, indent: str, before: str = "") -> list[str]:
    """A line of Python, broken inside brackets, but not behind any of some characters."""
    depth, marked = 0, []
    for last, one, following in zip(" " + line[:-1], line, line[1:] + " ", strict=True):
        depth += (one in "([{") - (one in ")]}")
        stays = not depth or last in before or following.isdigit()
        marked.append(_FIXED if one == " " and stays else one)
    found = textwrap.wrap(
        "".join(marked),
        width,
        initial_indent=indent,
        subsequent_indent=indent + "    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [part.replace(_FIXED, " ") for part in found]


def _marked(text: str) -> str:
    """The text with as many characters as it takes columns."""
    if text.isascii():
        return text
    return "".join(one + _SECOND if _columns(one) == 2 else one for one in text)
