"""What the programs say: flags explained, progress shown, mistakes told in one line."""

import atexit
import contextlib
import datetime
import gc
import math
import os
import queue
import shutil
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO

import platformdirs
from absl import flags

from initjax.specs import nearest_first

_LINE_SECONDS = 10.0  # between two lines of progress where there is no terminal


def use_compilation_cache() -> None:
    """Keeps compiled programs for the next process; to be called before JAX is imported.

    They lie in the user's cache directory, unless JAX's own environment variables say otherwise.
    """
    cache = platformdirs.user_cache_path("initjax") / "xla"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def run_program(
    command: str,
    description: str,
    flag_values: flags.FlagValues,
    groups: Mapping[str, Iterable[str]],
    main: Callable[..., None],
    arguments: int = 0,
) -> None:
    """Parses the command line and runs a program; ends the process with its exit code.

    The exit code is 0; 2 after a mistake in the command line; 130 after Ctrl-C or SIGTERM; 1 if a
    file cannot be written. A mistake, which `main` reports by a ValueError, is told in one line,
    without a traceback.

    Args:
      command: how the program is called, such as `python -m experiments.mnist`.
      description: what it does, for --help.
      flag_values: the program's own flags; `help` is added to them.
      groups: the names of the flags under the headings of --help.
      main: the program; is given what stands on the command line besides flags.
      arguments: how many of that there may be.
    """
    # Python's collector of garbage looks through all that JAX has imported again and again, and at
    # exit once more: a fifth of the main job's time. So it looks less often, and not at exit.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    # A cluster that stops a job, and a user who does, are answered alike.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    use_compilation_cache()
    name = [word for word in command.split() if not word.startswith("[")][-1]
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=flag_values)
    try:
        _, *rest = flag_values(sys.argv)
        if flag_values["help"].value:
            print(_help(command, description, flag_values, groups))
            sys.exit(0)
        if len(rest) > arguments:
            wrong = rest[arguments]
            raise ValueError(f"unexpected argument {wrong!r}; flags are written --NAME=VALUE")
        main(*rest)
    except flags.UnrecognizedFlagError as error:
        known = [flag for group in groups.values() for flag in group]
        valid = ", ".join(f"--{flag}" for flag in nearest_first(error.flagname, known))
        _fail(name, f"unknown flag --{error.flagname}; valid flags: {valid}")
    except (flags.Error, ValueError) as error:
        _fail(name, str(error))
    except KeyboardInterrupt:
        _leave(130)
    except BrokenPipeError:  # as `| head` causes; there is nobody left to tell
        _leave(1)
    except OSError as error:  # such as a full disk
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(1)


def _fail(name: str, message: str) -> None:
    print(f"{name}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _leave(code: int) -> None:
    """Ends the process, also when nobody reads any longer what it still had to say."""
    try:
        sys.stdout.flush()
    except OSError:  # Python would try again at exit, complain, and change the exit code
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _help(
    command: str,
    description: str,
    flag_values: flags.FlagValues,
    groups: Mapping[str, Iterable[str]],
) -> str:
    width = min(shutil.get_terminal_size().columns, 100)
    parts = [f"usage: {command} [--FLAG=VALUE ...]", textwrap.fill(description, width)]
    for heading, names in groups.items():
        lines = [f"{heading}:"]
        for flag_name in names:
            flag = flag_values[flag_name]
            default = flag.default
            default = ",".join(default) if isinstance(default, list) else default
            shown = "" if default in (None, "") or default is False else f" (default: {default})"
            text, _, _ = flag.help.partition(";\n    repeat this option")  # which absl adds
            lines.append(f"  --{flag_name}")
            lines += textwrap.wrap(
                f"{text}{shown}", width, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


class Progress:
    """Shows epochs as Keras does: a live bar in a terminal, a plain line an epoch elsewhere.

    Args:
      epochs: how many there will be.
      stream: where to; a terminal gets the bar, None nothing at all.
    """

    _WIDTH = 20
    _INTERVAL = 0.05  # seconds between two redraws, as in Keras
    _CLEAR = "\r\x1b[K"

    def __init__(self, epochs: int, stream: TextIO | None):
        self.live = stream is not None and stream.isatty()
        self._stream = stream
        self._epochs = epochs
        self._drawn = -math.inf

    def say(self, *lines: str) -> None:
        """Writes lines, over the bar of an epoch that was not finished if there is one."""
        if self._stream:
            print(
                (self._CLEAR if self.live else "") + "\n".join(lines), file=self._stream, flush=True
            )

    def steps(self, epoch: int, done: int, steps: int, metrics: Mapping[str, float]) -> None:
        """Draws the bar of an epoch that has done some of its steps; for a terminal only."""
        now = time.monotonic()
        if now - self._drawn >= self._INTERVAL:
            self._drawn = now
            filled = round(self._WIDTH * done / steps)
            bar = "━" * filled + "─" * (self._WIDTH - filled)
            text = f"{self._head(epoch)} {bar} {done}/{steps}{_values(metrics)}"
            # A line that wraps could not be drawn over.
            text = self._CLEAR + text[: shutil.get_terminal_size().columns - 1]
            print(text, end="", file=self._stream, flush=True)

    def epoch(self, epoch: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """Writes the line of a finished epoch, in the place of its bar."""
        self.say(f"{self._head(epoch)} {seconds:.2f}s{_values(metrics)}")

    def _head(self, epoch: int) -> str:
        return f"Epoch {epoch:{len(str(self._epochs))}}/{self._epochs}"


def say(stream: TextIO | None, *lines: str) -> None:
    """Writes lines, if there is somewhere to write to."""
    if stream:
        print("\n".join(lines), file=stream, flush=True)


@contextlib.contextmanager
def interrupt_later(stream: TextIO | None) -> Iterator[Callable[[], bool]]:
    """Puts off Ctrl-C and SIGTERM, so that what is under way is finished and kept.

    Args:
      stream: where to say so. A second Ctrl-C ends the program at once.

    Yields:
      A function that tells whether an end was asked for.
    """
    asked = False
    to_say: queue.SimpleQueue[str | None] = (
        queue.SimpleQueue()
    )  # whose `put` may interrupt whatever else goes on

    def ask(number: int, _: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        to_say.put("\nfinishing the runs that are under way; Ctrl-C again ends at once")

    def tell() -> None:
        if line := to_say.get():
            with contextlib.suppress(OSError):
                say(stream, line)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, which alone is told of signals
        before = {}
    # The handler does not say it: where Ctrl-C has ended those who read it, as in `| tee log`, that
    # fails, and would end what is under way.
    threading.Thread(target=tell, daemon=True).start()
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        to_say.put(None)


@contextlib.contextmanager
def runs_progress(done: int, total: int, stream: TextIO | None) -> Iterator[Callable[[int], None]]:
    """Shows runs done, their pace and the time left: a bar in a terminal, lines elsewhere.

    Args:
      done: how many are done already.
      total: how many there will be.
      stream: where to; None shows nothing.

    Yields:
      A function to be told how many are done now.
    """
    if done == total or stream is None:
        yield lambda now_done: None
        return
    started = time.monotonic()

    def pace(now_done: int) -> float:
        return (now_done - done) / (time.monotonic() - started)

    if not stream.isatty():
        told = started

        def tell(now_done: int) -> None:
            nonlocal told
            now = time.monotonic()
            if now - told >= _LINE_SECONDS or now_done == total:
                told = now
                left = datetime.timedelta(seconds=round((total - now_done) / pace(now_done)))
                say(stream, f"{now_done}/{total} runs, {pace(now_done):.2f} runs/s, {left} left")

        yield tell
        return

    from rich import console, progress

    columns = (
        progress.BarColumn(20),
        progress.MofNCompleteColumn(),
        "runs",
        "{task.fields[pace]}",
        progress.TimeRemainingColumn(elapsed_when_finished=True),
    )
    with progress.Progress(*columns, console=console.Console(file=stream)) as bar:
        task = bar.add_task("", total=total, completed=done, pace="")
        yield lambda now_done: bar.update(
            task, completed=now_done, pace=f"{pace(now_done):.2f} runs/s"
        )


def _values(metrics: Mapping[str, float]) -> str:
    """Formats metrics as Keras does: four digits, scientific where these would not do."""
    return "".join(
        f" - {name} {value:.4f}"
        if 1e-3 < abs(value) < 1e6 or value == 0
        else f" - {name} {value:.4e}"
        for name, value in metrics.items()
    )
