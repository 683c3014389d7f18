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
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO

import platformdirs
from absl import flags

from initjax.specs import nearest_first


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
