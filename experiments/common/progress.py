"""Progress: a live bar in a terminal, plain lines elsewhere."""

import contextlib
import datetime
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

from experiments.common.console import say

_LINE_SECONDS = 10.0  # between two lines, outside a terminal
_FIRST_SECONDS = 2.0  # before the first of them
_REDRAW_SECONDS = 0.05  # between two redraws of an epoch's bar, as in Keras
_WIDTH = 20  # of a bar, in characters
_CLEAR = "\r\x1b[K"  # the line of a terminal

# Drawn by hand: importing rich takes 35 ms and each of its redraws 4 ms, 5% of the main job; and
# outside a terminal the lines would have to be written by hand all the same.


class EpochProgress:
    """Shows epochs as Keras does: a live bar in a terminal, one plain line per epoch elsewhere.

    Args:
      epochs: how many there will be.
      stream: where to; None shows nothing.
    """

    def __init__(self, epochs: int, stream: TextIO | None):
        self.live = stream is not None and stream.isatty()
        self._stream = stream
        self._epochs = epochs
        self._drawn = -math.inf

    def say(self, *lines: str) -> None:
        """Prints lines, in place of the bar of an unfinished epoch if there is one."""
        if lines:
            first, *others = lines
            say(self._stream, (_CLEAR if self.live else "") + first, *others)

    def steps(self, epoch: int, done: int, steps: int, metrics: Mapping[str, float]) -> None:
        """Draws the bar of an unfinished epoch; only for a terminal."""
        now = time.monotonic()
        if self._stream and now - self._drawn >= _REDRAW_SECONDS:
            self._drawn = now
            text = f"{_bar(done, steps)} {done}/{steps}{_values(metrics)}"
            _redraw(self._stream, f"{self._head(epoch)} {text}")

    def epoch(self, epoch: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """Prints the line of a finished epoch, in place of its bar."""
        self.say(f"{self._head(epoch)} {seconds:.2f}s{_values(metrics)}")

    def _head(self, epoch: int) -> str:
        return f"Epoch {epoch:{len(str(self._epochs))}}/{self._epochs}"


@contextlib.contextmanager
def counted_progress(
    done: int, total: int, stream: TextIO | None, things: str = "runs"
) -> Iterator[Callable[[int], None]]:
    """Shows how many of many things are finished, how many per second, and the time left.

    Args:
      done: how many are finished already.
      total: how many there will be.
      stream: where to; None shows nothing.
      things: what they are called.

    Yields:
      A function to call with the number of finished ones.
    """
    if done == total or stream is None:
        yield lambda now_done: None
        return
    live, started = stream.isatty(), time.monotonic()
    next_line = started + min(_FIRST_SECONDS, _LINE_SECONDS)

    def tell(now_done: int) -> None:
        nonlocal next_line
        now = time.monotonic()
        pace = (now_done - done) / (now - started)
        left = datetime.timedelta(seconds=round((total - now_done) / pace))
        text = f"{now_done}/{total} {things}, {pace:.2f} {things}/s, {left} left"
        if live:
            _redraw(stream, f"{_bar(now_done, total)} {text}")
        elif now >= next_line or now_done == total:
            next_line = now + _LINE_SECONDS
            say(stream, text)

    if live:
        _redraw(stream, f"{_bar(done, total)} {done}/{total} {things}")
    try:
        yield tell
    finally:
        if live:
            say(stream, "")


def _bar(done: int, total: int) -> str:
    filled = round(_WIDTH * done / total)
    return "━" * filled + "─" * (_WIDTH - filled)


def _redraw(stream: TextIO, text: str) -> None:
    # A line that wraps could not be drawn over.
    text = text[: shutil.get_terminal_size().columns - 1]
    say(stream, _CLEAR + text, end="")


def _values(metrics: Mapping[str, float]) -> str:
    """Formats metrics as Keras does: four digits, scientific notation for extreme values."""
    return "".join(
        f" - {name} {value:.4f}"
        if 1e-3 < abs(value) < 1e6 or value == 0
        else f" - {name} {value:.4e}"
        for name, value in metrics.items()
    )
