"""Whether the processes of a job are all there, and how the others end if one is lost.

JAX by itself notices after minutes that a process is gone, or aborts with a trace of C++. So every
process reports to process 0 every second. If one is silent, the others say which one is lost, and
end with `LOST`. If one ends early by itself, they end with its exit code. JAX still aborts at once
if process 0 is lost, which is then explained.
"""

import contextlib
import ctypes
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from experiments.common import console

_BEAT = 1.0  # seconds between two reports
_SILENT = 30.0  # seconds without a report, after which a process is lost: it may have to wait for
# Python's lock, for a long import, or for a core of a busy machine
FAILED = 6.0
"""The same, once a computation with the other processes has failed."""
_LEAVE = 2.0  # seconds to print an error

LOST = console.UNFINISHED
"""The exit code of those that are left: the same command goes on. The lost one has its own."""

_BEATS, _LOST = "initjax/beats", "initjax/lost"


def watch(failed: threading.Event, done: threading.Event) -> None:
    """Reports to process 0, and ends this process when one of the job is lost.

    Process 0 reads all reports, and the others what it found.

    Args:
      failed: is set when a computation failed.
      done: is set when there is nothing to watch any more.
    """
    job, kept = state(), store()
    before, count = time.monotonic(), 0
    seen = dict.fromkeys(range(job.num_processes), ("", before))
    while not done.wait(_BEAT):
        count += 1
        now = time.monotonic()
        if now - before > FAILED:  # it was this process that did nothing
            seen = {process: (report, now) for process, (report, _) in seen.items()}
        before = now
        with contextlib.suppress(Exception):  # of a store that has ended with process 0
            report = f"{count} {int(failed.is_set())} {platform.node()}"
            kept.key_value_set(f"{_BEATS}/{job.process_id}", report, True)
            for _, announced in kept.key_value_dir_get(_LOST):
                if not done.is_set():
                    code, _, lost = announced.partition(" ")
                    say(lost)
                    _let_others_read()
                    os._exit(int(code))
            if job.process_id:
                continue
            for key, report in kept.key_value_dir_get(_BEATS):
                process = int(key.rpartition("/")[2])
                if seen[process][0] != report:
                    seen[process] = report, now
            # Those that wait for another part of a sum than the lost one's see no error.
            reports = [report.split(" ", 2) for report, _ in seen.values() if report]
            hurried = failed.is_set() or any(report[1] == "1" for report in reports)
            patience = FAILED if hurried else _SILENT
            silent = [process for process, (_, last) in seen.items() if now - last > patience]
            if silent and not done.is_set():
                *_, host = seen[silent[0]][0].split(" ", 2)
                host = host or "a host that never reported"
                lost = f"process {silent[0]} of {len(seen)} on {host} is lost, so the job ends;"
                lost += " with --resume, the same command goes on from the last checkpoint"
                announce(lost, LOST)
                end(lost, LOST)


def announce(lost: str, code: int) -> None:
    """Tells the other processes why the job ends, and their exit code."""
    with contextlib.suppress(Exception):
        store().key_value_set(f"{_LOST}/now", f"{code} {lost}", True)
        _let_others_read()


def _let_others_read() -> None:
    """Keeps process 0 for a while, since JAX aborts the others once it is gone."""
    if state().process_id == 0:
        time.sleep(3 * _BEAT)


def leave_soon(code: int) -> None:
    """Ends this process if it doesn't by itself: JAX waits for the others, who wait for it."""
    at_abort("", code)
    timer = threading.Timer(_LEAVE, os._exit, (code,))
    timer.daemon = True
    timer.start()


def at_abort(text: str, code: int) -> None:
    """Has this process say something and end with an exit code when JAX aborts it.

    Python runs its own handlers of signals after those of the system have returned, which is too
    late; so this is one of the system.
    """
    if os.name == "nt":
        return
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: end(text, code))
    _KEPT.append(handler)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)


_KEPT: list[Callable[..., None]] = []  # what C calls must not be collected


def end(text: str, code: int) -> None:
    """Ends the process from any thread, whatever it waits for."""
    say(text)
    os._exit(code)


def say(text: str) -> None:
    """Prints what concerns the job to the errors, for each process by itself."""
    if text:
        with contextlib.suppress(OSError, ValueError):
            print(f"experiments.mnist: {text}", file=sys.stderr, flush=True)


def state() -> Any:
    """What JAX knows of this process and its job."""
    # JAX has no public way to its store of keys and values, which Orbax uses in the same way.
    from jax._src import distributed

    return distributed.global_state


def store() -> Any:
    """The keys and values that all processes share, in process 0."""
    return state().client
