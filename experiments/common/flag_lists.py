"""Flags that hold lists, for programs that train a grid: values, initializers, seeds."""

import re
from collections.abc import Callable
from typing import Any

from absl import flags as absl

from experiments.common.config import Config, UsageError, canonical
from experiments.common.flags import DIGITS

_MOST_SEEDS = 100_000  # more are taken for a typing error


def values(flags: absl.FlagValues, name: str, convert: Callable[[str], Any] = str) -> list[Any]:
    """The values that a flag lists, separated by commas, each once.

    Args:
      flags: of the program.
      name: of the flag.
      convert: makes a value of its text, or raises a ValueError.
    """
    text = str(flags[name].value)
    kind = {int: "integers", float: "numbers"}.get(convert, "names")
    wrong = UsageError(f"--{name}={text}: must be {kind} separated by commas")
    parts = split(text)
    if "" in parts:
        raise wrong
    try:
        return list(dict.fromkeys(map(convert, parts)))
    except ValueError:
        raise wrong from None


def initializers(flags: absl.FlagValues, name: str) -> list[str]:
    """The specifications that a flag lists; different names of one initializer are one of them."""
    # `Config` reports an unknown name.
    return list(dict.fromkeys(canonical(Config(init=init).init) for init in values(flags, name)))


def split(text: str) -> list[str]:
    """Splits a list at its commas, but not at those in parentheses or brackets.

    Example:
      >>> split("zeros, random_uniform(-0.1, 0.1)")
      ['zeros', 'random_uniform(-0.1, 0.1)']
    """
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def seeds(text: str) -> list[int]:
    """The seeds that `--seeds` names: a number of them from 0 on, or single seeds and ranges.

    Example:
      >>> seeds("3"), seeds("5-7"), seeds("1,8-9")
      ([0, 1, 2], [5, 6, 7], [1, 8, 9])
    """
    wrong = UsageError(f"--seeds={text}: must be a number or a list such as 3,5,8-12")
    too_many = UsageError(f"--seeds={text}: at most {_MOST_SEEDS:,} seeds are possible")
    if re.fullmatch(DIGITS, text.strip()):
        if int(text) < 1:
            raise UsageError(f"--seeds={text}: must be at least 1")
        if int(text) > _MOST_SEEDS:
            raise too_many
        return list(range(int(text)))
    found: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(rf"\s*({DIGITS})(?:-({DIGITS}))?\s*", part)
        if not match:
            raise wrong
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise wrong
        if last >= 2**32:
            raise UsageError(f"--seeds={text}: a seed must be below 2**32")
        if last - first + len(found) >= _MOST_SEEDS:
            raise too_many
        found.update(dict.fromkeys(range(first, last + 1)))
    return list(found)
