"""What all programs share on the command line: start and exit, --help, errors, Ctrl-C."""

import atexit
import contextlib
import gc
import os
import queue
import shutil
import signal
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO

import platformdirs
from absl import flags

from initjax.specs import nearest_first


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


def run_program(
    command: str,
    description: str,
    flag_values: flags.FlagValues,
    groups: Mapping[str, Iterable[str]],
    main: Callable[..., None],
    arguments: int = 0,
) -> None:
    """Parses the command line, runs a program and exits.

    The exit code is 0; 2 after an error in the command line; 130 after Ctrl-C or SIGTERM; 1 if a
    file can't be written. A ValueError from `main` is printed in one line, without a traceback.

    Args:
      command: the command without flags, such as `python -m experiments.mnist`.
      description: what it does, for --help.
      flag_values: the program's own flags; `help` is added to them.
      groups: the names of the flags under the headings of --help.
      main: the program; receives the positional arguments of the command line.
      arguments: the maximum number of positional arguments.
    """
    # Python's garbage collector scans everything that JAX has imported again and again, and once
    # more at exit: a fifth of the time of the main job. So it runs less often, and not at exit.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    # A job stopped by a cluster is treated like one stopped by its user.
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
    except flags.IllegalFlagValueError as error:
        _fail(name, _illegal_value(str(error)))
    except (flags.Error, ValueError) as error:
        _fail(name, str(error))
    except KeyboardInterrupt:
        _leave(130)
    except BrokenPipeError:  # such as by `| head`
        _leave(1)
    except OSError as error:  # such as a full disk
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(1)


def _fail(name: str, message: str) -> None:
    print(f"{name}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _illegal_value(message: str) -> str:
    """Absl's message about a value, in the words of our own."""
    flag, _, reason = message.removeprefix("flag ").partition(": ")
    if reason.startswith("invalid literal for int"):
        reason = "must be an integer"
    elif reason.startswith("could not convert string to float"):
        reason = "must be a number"
    elif "Non-boolean argument" in reason:
        reason = "must be true or false"
    return f"{flag}: {reason}"


def _leave(code: int) -> None:
    """Exits, even if standard output was closed by its reader."""
    try:
        sys.stdout.flush()
    except OSError:  # or Python flushes again at exit, prints an error and changes the code
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


def say(stream: TextIO | None, *lines: str) -> None:
    """Prints lines, unless the stream is None."""
    if stream:
        print("\n".join(lines), file=stream, flush=True)


@contextlib.contextmanager
def interrupt_later(stream: TextIO | None) -> Iterator[Callable[[], bool]]:
    """Delays Ctrl-C and SIGTERM, so that the current runs are finished and stored.

    Args:
      stream: where to say so. A second Ctrl-C stops at once.

    Yields:
      A function that returns whether the program was asked to stop.
    """
    asked = False
    # A SimpleQueue, since its `put` is safe in a signal handler.
    to_say: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def ask(number: int, _: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        to_say.put("\nfinishing the current runs; press Ctrl-C again to stop at once")

    def tell() -> None:
        if line := to_say.get():
            with contextlib.suppress(OSError):
                say(stream, line)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # only the main thread receives signals
        before = {}
    # Printed by a thread, not by the handler: if Ctrl-C has also stopped the reader, as in
    # `| tee log`, printing fails, and an error in the handler would stop the current runs.
    threading.Thread(target=tell, daemon=True).start()
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        to_say.put(None)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delays Ctrl-C and SIGTERM to the end of what must not be done by half, such as writing."""
    asked = False

    def ask(number: int, _: Any) -> None:
        nonlocal asked
        asked = True

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # only the main thread receives signals
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise KeyboardInterrupt
