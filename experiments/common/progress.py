"""Progress: a live bar in a terminal, plain lines elsewhere."""

import contextlib
import datetime
import itertools
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TextIO, TypeVar

from experiments.common.console import CLEAR, live, say, say_instead

_STAGE_SECONDS = 2.0  # that a stage may take in silence in a terminal
_QUIET_SECONDS = 5.0  # and elsewhere, where a slow start is no news
_LINE_SECONDS = 10.0  # between two lines, outside a terminal
_FIRST_SECONDS = 2.0  # before the first of them
_REDRAW_SECONDS = 0.05  # between two redraws of an epoch's bar, as in Keras
_WIDTH = 20  # of a bar, in characters
_COLUMNS = 80  # that the line of an epoch may take

# Drawn by hand: importing rich takes 35 ms and each of its redraws 4 ms, 5% of the main job; and
# outside a terminal the lines would have to be written by hand all the same.


_Epoch = TypeVar("_Epoch")


class EpochProgress:
    """Shows epochs as Keras does: a live bar in a terminal, one plain line per epoch elsewhere.

    Args:
      epochs: how many there will be.
      stream: where to; None shows nothing.
    """

    def __init__(self, epochs: int, stream: TextIO | None):
        self.live = live(stream)
        self.stream = stream
        self._epochs = epochs
        self._drawn = -math.inf

    def say(self, *lines: str) -> None:
        """Prints lines, in place of the bar of an unfinished epoch if there is one."""
        say_instead(self.stream, *lines)

    def compiled(self, epochs: Iterator[_Epoch], first: int = 0) -> Iterator[_Epoch]:
        """Passes epochs on, and says what takes so long before the first: programs are compiled.

        Args:
          epochs: the epochs.
          first: the number of the first of them; 0 is the network before training.
        """
        for number in itertools.count(min(first, 1)):
            silent = number == 0 or (number == 1 and not self.live)
            with stage(self.stream if silent else None, "train   compiling"):
                epoch = next(epochs, None)
            if epoch is None:
                return
            yield epoch

    def steps(self, epoch: int, done: int, steps: int, metrics: Mapping[str, float]) -> None:
        """Draws the bar of an unfinished epoch; only for a terminal."""
        now = time.monotonic()
        if self.stream and now - self._drawn >= _REDRAW_SECONDS:
            self._drawn = now
            text = f"{_bar(done, steps)} {done}/{steps}{_values(metrics)}"
            _redraw(self.stream, f"{self._head(epoch)} {text}")

    def epoch(self, epoch: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """Prints the line of a finished epoch, in place of its bar."""
        took = f"{seconds:.2f}" if seconds < 100 else f"{seconds:.0f}"
        line = f"{self._head(epoch)} {took}s{_values(metrics)}"
        if len(line) > _COLUMNS:  # many epochs, or huge losses
            line = line.replace(" - ", " ")
        self.say(line if len(line) <= _COLUMNS else line.removeprefix("Epoch "))

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
    redraws, started, finished = live(stream), time.monotonic(), False
    next_line = started + min(_FIRST_SECONDS, _LINE_SECONDS)

    def tell(now_done: int) -> None:
        nonlocal next_line, finished
        now = time.monotonic()
        if now_done == done or now == started:  # by a coarse clock
            return
        pace = (now_done - done) / (now - started)
        left = datetime.timedelta(seconds=round((total - now_done) / pace))
        text = f"{now_done}/{total} {things}, {pace:.2f} {things}/s, {left} left"
        if redraws:
            _redraw(stream, f"{_bar(now_done, total)} {text}")
            if finished := now_done == total:
                say(stream, "")
        elif now >= next_line or now_done == total:
            next_line = now + _LINE_SECONDS
            say(stream, text)

    if redraws:
        _redraw(stream, f"{_bar(done, total)} {done}/{total} {things}")
    try:
        yield tell
    finally:
        if redraws and not finished:
            _redraw(stream, "")


@contextlib.contextmanager
def stage(stream: TextIO | None, text: str) -> Iterator[Callable[[int, int], None]]:
    """Says what a program is doing and for how long, unless that is short.

    In a terminal this is a line, shown after two seconds and removed in the end; elsewhere it is a
    line after five seconds and then every ten.

    Args:
      stream: where to; None shows nothing. Nothing else may be printed there in the meantime.
      text: what is being done.

    Yields:
      A function to call with (what is done so far, all of it), if that is known: the time left is
      shown, too.
    """
    counted: list[tuple[float, int, int]] = []  # the first count, and the last

    def count(done: int, total: int) -> None:
        counted[1:] = [(time.monotonic(), done, total)]

    if stream is None:
        yield count
        return
    redraws, finished, started = live(stream), threading.Event(), time.monotonic()

    def tell() -> None:
        shown = False
        wait = _STAGE_SECONDS if redraws else _QUIET_SECONDS
        while not finished.wait(wait):
            line = f"{text}, {time.monotonic() - started:.0f} s{_left(counted)}"
            if redraws:
                _redraw(stream, line)
            else:
                say(stream, line)
            wait = 1.0 if redraws else _LINE_SECONDS
            shown = redraws
        if shown:
            _redraw(stream, "")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield count
    finally:
        finished.set()
        teller.join()


def countdown(left: Callable[[], float | None], text: str, stream: TextIO | None) -> None:
    """Waits while a function returns how many seconds are left, and shows them.

    In a terminal this is a line that counts down and is removed in the end; elsewhere a line once.

    Args:
      left: returns the seconds, which may be coarse; 0 or None ends the wait.
      text: what is waited for.
      stream: where to; None shows nothing.
    """
    shown = math.inf
    while seconds := left():
        first, shown = shown == math.inf, max(1.0, min(shown - 1.0, seconds))
        line = f"{text} for up to {shown:.0f} s"
        if stream and live(stream):
            _redraw(stream, line)
        elif first:
            say(stream, line)
        time.sleep(1.0)
    if stream and live(stream) and shown < math.inf:
        _redraw(stream, "")


def _left(counted: Sequence[tuple[float, int, int]]) -> str:
    """What is done, and the time that the rest takes at the same pace, if that is known."""
    if len(counted) < 2:
        return ""
    (started, before, _), (now, done, total) = counted
    seconds = (total - done) * (now - started) / max(1, done - before)
    return f"; {done:,} of {total:,}, about {seconds:.0f} s left"


def _bar(done: int, total: int) -> str:
    filled = round(_WIDTH * done / total)
    return "━" * filled + "─" * (_WIDTH - filled)


def _redraw(stream: TextIO, text: str) -> None:
    # A line that wraps could not be drawn over.
    text = text[: shutil.get_terminal_size().columns - 1]
    say(stream, CLEAR + text, end="")


def number(value: float) -> str:
    """Formats a metric as Keras does, but in at most seven characters.

    It has four digits after the point, or three from 100 on. Extreme values are written in
    scientific notation.

    Example:
      >>> number(2.30259), number(1.5e30), number(0.0001)
      ('2.3026', '1.5e+30', '1.0e-04')
    """
    if value == 0 or 1e-3 < abs(value) < 1e3:
        return f"{value:.4f}" if abs(value) < 100 else f"{value:.3f}"
    return f"{value:.1e}"


def _values(metrics: Mapping[str, float]) -> str:
    return "".join(f" - {name} {number(value)}" for name, value in metrics.items())
