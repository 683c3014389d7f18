"""What all programs share when they run: start and exit, output, errors, signals."""

import _thread
import atexit
import contextlib
import gc
import os
import platform
import queue
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import platformdirs

from experiments.common import command_line, description
from experiments.common.config import UsageError

UNFINISHED = 75
"""The exit code after SIGTERM or SIGUSR1: the same command goes on. It is EX_TEMPFAIL, also in
experiments/__init__.py."""

_ONCE = 1.0  # seconds in which SIGTERM is sent only once: `timeout` sends it to a whole group, too


class Preempted(KeyboardInterrupt):
    """SIGTERM or SIGUSR1: a cluster needs the machine, or the time is up."""


def use_compilation_cache() -> None:
    """Keeps compiled programs for the next process; call it before JAX is imported.

    They are stored in the user's cache directory, unless JAX's environment variables say otherwise.
    JAX warns about an entry that another process is still writing, and about a directory that can't
    be written. Neither costs more than compiling again, so these warnings aren't shown.
    """
    cache = platformdirs.user_cache_path("initjax") / "xla"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")


def use_all_cores() -> None:
    """Has each core train its own runs; call it before JAX is imported. A user's choice stands."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(cores))


def exit_code(error: BaseException) -> int:
    """The exit code of a program that an error ends."""
    if isinstance(error, KeyboardInterrupt):
        return UNFINISHED if isinstance(error, Preempted) else 130
    return 2 if isinstance(error, UsageError) else 1


def run_program(program: command_line.Program, main: Callable[..., None]) -> None:
    """Parses the command line, runs a program and exits.

    The exit code is 0; 2 after a `UsageError`, or if JAX_PLATFORMS names what JAX doesn't have,
    which is shown in one line; `UNFINISHED` after SIGTERM or SIGUSR1; 130 after Ctrl-C or SIGHUP; 1
    if memory or a disk is full, and after any other error, which is the program's own fault: it is
    shown with its traceback and with what a report of it needs.

    Args:
      program: its command, flags and help.
      main: the program; receives the positional arguments of the command line.
    """
    # Python's garbage collector scans everything that JAX has imported again and again, and once
    # more at exit: a fifth of the time of the main job. So it runs less often, and not at exit.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    for number in _stop_signals():  # until here: experiments/__init__.py
        signal.signal(number, _stop)
    sys.unraisablehook = _unraisable
    use_compilation_cache()
    os.environ["MPLBACKEND"] = "agg"  # whatever is set for windows: programs only save pictures
    # Matplotlib about a name in a title; the picture shows a box instead.
    warnings.filterwarnings("ignore", "Glyph .* missing from")
    if os.name == "nt":
        os.system("")  # has the console of Windows read escape sequences
    try:
        code = _exit_code(program, main)
        _ignore_signals()  # all is done
    except KeyboardInterrupt as error:
        _ignore_signals()
        if live(sys.stdout):
            say(sys.stdout, CLEAR, end="")  # the "^C" that the terminal has written
        # At once, since threads that still compile crash while Python shuts down.
        os._exit(exit_code(error))
    if code:
        sys.exit(code)


def _exit_code(program: command_line.Program, main: Callable[..., None]) -> int:
    """Runs a program and shows its error, if there is one."""
    try:
        parsed = command_line.parse(program, sys.argv)
        if isinstance(parsed, str):
            say(sys.stdout, parsed)
        else:
            main(*parsed)
        return 0
    except UsageError as error:
        say(sys.stderr, f"{program.name}: {' '.join(str(error).split())}")
        return 2
    except MemoryError:
        say(sys.stderr, f"{program.name}: there is not enough memory")
        return 1
    except OSError as error:  # such as a full disk
        say(sys.stderr, f"{program.name}: {_described(error)}")
        return 1
    except Exception as error:
        platforms = os.environ.get("JAX_PLATFORMS")
        if platforms and str(error).startswith("Unable to initialize backend"):
            say(sys.stderr, f"{program.name}: JAX_PLATFORMS={platforms}: {error}")
            return 2
        say(sys.stderr, traceback.format_exc(), *_report_request(program))
        return 1


def _stop_signals() -> dict[int, type[KeyboardInterrupt]]:
    """The signals that stop a program, and what each raises.

    Those that it was started to ignore, as by nohup, don't.
    """
    raised = {
        "SIGINT": KeyboardInterrupt,
        "SIGHUP": KeyboardInterrupt,
        "SIGTERM": Preempted,
        "SIGUSR1": Preempted,
    }
    # Windows lacks some of them.
    found = {getattr(signal, name): raised[name] for name in raised if hasattr(signal, name)}
    return {number: found[number] for number in found if signal.getsignal(number) != signal.SIG_IGN}


def _stop(number: int, _: Any) -> None:
    raise _stop_signals()[number]


def _ignore_signals() -> None:
    for number in _stop_signals():
        signal.signal(number, signal.SIG_IGN)


def _unraisable(error: Any) -> None:
    """Repeats a signal that came while Python ran a callback, such as one of JAX's about garbage.

    Python can't raise an error there, so it would go on as if there had been none.
    """
    if not issubclass(error.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(error)
        return
    number = signal.SIGTERM if issubclass(error.exc_type, Preempted) else signal.SIGINT
    if os.name == "nt":
        repeat = threading.Timer(0.01, _thread.interrupt_main, [number])  # after the callback
    else:  # a real signal, which ends waiting, too
        repeat = threading.Timer(0.01, os.kill, [os.getpid(), number])
    repeat.start()


def _described(error: OSError) -> str:
    """Such as "runs/a/config.json: No space left on device"."""
    return ": ".join(str(part) for part in (error.filename, error.strerror) if part) or str(error)


def _report_request(program: command_line.Program) -> list[str]:
    """What to do about an error that no user has made."""
    versions = ", ".join(" ".join(pair) for pair in description.versions().items())
    given = description.quoted(sys.argv[1:])
    return [
        f"{program.name}: this is an error in the program, not in its command line. Please report",
        "it with the lines above and these two:",
        f"command   python -m {program.name} {given}".rstrip(),
        f"versions  {versions}, {platform.platform()}",
    ]


def say(stream: TextIO | None, *lines: str, end: str = "\n") -> None:
    """Prints lines, unless the stream is None.

    Nothing shown may cost a result: characters that the stream can't encode are replaced, and once
    a stream can't be written, as after `| head`, what follows is not shown.
    """
    if stream:
        try:
            print(_encodable("\n".join(lines), stream), end=end, file=stream, flush=True)
        except OSError:
            with contextlib.suppress(OSError, ValueError):  # a stream that is no file
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


CLEAR = "\r\x1b[K"
"""Goes back to the beginning of a terminal's line and empties it."""


def live(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal in which a line can be drawn again."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def say_instead(stream: TextIO | None, *lines: str) -> None:
    """Prints lines, the first in place of what is on the terminal's line: a bar, or "^C"."""
    if lines:
        first, *others = lines
        say(stream, (CLEAR if live(stream) else "") + first, *others)


_ASCII = str.maketrans({"━": "#", "─": "-", "±": "+-", "²": "^2"})


def _encodable(text: str, stream: TextIO) -> str:
    """The text, or the closest to it that the stream can encode."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
        return text
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)


@contextlib.contextmanager
def interrupt_later(
    stream: TextIO | None, until: str = "finishing the current runs"
) -> Iterator[Callable[[], type[KeyboardInterrupt] | None]]:
    """Delays Ctrl-C and other signals that stop a program, so that the current runs are stored.

    Args:
      stream: where to say so. A second signal stops at once.
      until: what is done before the program stops.

    Yields:
      A function that returns what to raise if the program was asked to stop, else None.
    """
    asked: type[KeyboardInterrupt] | None = None
    first = 0.0
    # A SimpleQueue, since its `put` is safe in a signal handler.
    to_say: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def ask(number: int, _: Any) -> None:
        nonlocal asked, first
        wanted, now = _stop_signals()[number], time.monotonic()
        if asked is None:
            asked, first = wanted, now
            if number == signal.SIGINT:
                to_say.put(f"{until}; press Ctrl-C again to stop at once")
            else:
                to_say.put(f"{signal.Signals(number).name}: {until}")
        elif wanted is not Preempted or now - first > _ONCE:
            raise wanted

    def tell() -> None:
        if line := to_say.get():
            say_instead(stream, line)

    with _handled_by(ask):
        # Printed by a thread, not by the handler: if Ctrl-C has also stopped the reader, as in
        # `| tee log`, printing fails, and an error in the handler would stop the current runs.
        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            yield lambda: asked
        finally:
            to_say.put(None)
            teller.join(timeout=1)  # on a busy machine, the program might end first


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delays Ctrl-C and the like to the end of what must not be done by half, such as writing."""
    asked: type[KeyboardInterrupt] | None = None

    def ask(number: int, _: Any) -> None:
        nonlocal asked
        asked = asked or _stop_signals()[number]

    with _handled_by(ask):
        yield
    if asked:
        raise asked


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Has a function handle the signals that stop a program."""
    try:
        before = {number: signal.signal(number, handler) for number in _stop_signals()}
    except ValueError:  # only the main thread receives signals
        before = {}
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)
