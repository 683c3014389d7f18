"""The processes of one job, on one host or many, that train one network together.

Each of them runs the same program on its own devices, and they compute in step: what all of them
have to call says so. Process 0 alone prints and writes, and coordinates the others.

A job ends as a whole. JAX notices by itself only after minutes that a process is gone, or aborts
with a trace of C++, so every process reports to process 0 every few seconds. If one is silent, the
others say which one is lost, and end with exit code 1.
"""

import contextlib
import ctypes
import json
import os
import platform
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from experiments.common import console
from experiments.common.config import UsageError

_Found = TypeVar("_Found")

_START = 60  # seconds for all processes to come
_BEAT = 1.0  # seconds between two reports
_SILENT = 30.0  # seconds without a report, after which a process is lost: it may have to wait for
# Python's lock, for a long import, or for a core of a busy machine
_FAILED = 6.0  # the same, once a computation with the other processes has failed
_MEET = 5  # seconds that a process with an error waits for the others to have the same one
_STOP = 20  # the same for one that was stopped: process 0 draws pictures before it ends
_LEAVE = 2.0  # seconds to print an error
_WAIT = 600  # seconds for what process 0 finds or finishes; the watch tells if it is lost
_JAX = 50  # seconds for JAX to notice, if nothing here does

_BEATS, _LOST = "initjax/beats", "initjax/lost"


class Member(NamedTuple):
    """One of the processes of a job."""

    coordinator: str
    """The address of process 0, as HOST:PORT."""
    process: int
    processes: int


def parse(text: str) -> Member | None:
    """What `--distributed` names; None if JAX is to find out.

    Raises:
      UsageError: it is not valid.

    Example:
      >>> parse("10.0.0.1:1234,0/2"), parse("auto")
      (Member(coordinator='10.0.0.1:1234', process=0, processes=2), None)
    """
    if text == "auto":
        return None
    match = re.fullmatch(r"(\S+:(\d{1,5})),(\d{1,7})/(\d{1,7})", text)
    if not match or not 0 < int(match[2]) < 2**16 or int(match[3]) >= int(match[4]):
        raise UsageError(
            f"--distributed={text}: must be auto, or HOST:PORT,i/n: the address of process 0, and i"
            " from 0 to n-1 for the i-th of n processes, such as 10.0.0.1:1234,0/2"
        )
    return Member(match[1], int(match[3]), int(match[4]))


@contextlib.contextmanager
def joined(text: str | None) -> Iterator[None]:
    """The context for the work of a process of a job; enter it before JAX has started.

    Args:
      text: the value of `--distributed`; None is for a process that works by itself.

    Raises:
      UsageError: the job can't be started like this.
    """
    if text is None:
        yield
        return
    import jax

    _initialize(text, parse(text))
    failed = threading.Event()
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(failed, done), daemon=True)
    watch.start()
    try:
        yield
        _store().wait_at_barrier("initjax/done", _WAIT * 1000)
    except BaseException as error:
        # All processes have errors of the user's alike, and stop at the same step.
        if not _meet(_STOP if isinstance(error, KeyboardInterrupt) else _MEET):
            if isinstance(error, Exception) and not isinstance(error, UsageError):
                failed.set()  # most likely since a process is lost: the watch will tell
                watch.join(2 * _FAILED)
            done.set()
            state = _state()
            _announce(
                f"process {state.process_id} of {state.num_processes} on {platform.node()} has"
                " ended early; the job ends"
            )
            _leave_soon(2 if isinstance(error, UsageError) else 1)
            raise
        done.set()
        jax.distributed.shutdown()
        raise
    done.set()
    watch.join()
    jax.distributed.shutdown()


def is_main() -> bool:
    """Whether this is the process that prints and writes."""
    return not is_joined() or _state().process_id == 0


def is_joined() -> bool:
    """Whether this process belongs to a job, though perhaps as the only one."""
    return "jax" in sys.modules and _state().client is not None


def from_main(name: str, find: Callable[[], _Found]) -> _Found:
    """What process 0 finds, in all processes, each of which has to call it.

    Args:
      name: of what is found, another one for each call.
      find: called in process 0 alone; it returns what JSON can express.
    """
    if not is_joined():
        return find()
    if is_main():
        found = find()
        _store().key_value_set(f"initjax/{name}", json.dumps(found))
        return found
    return json.loads(_store().blocking_key_value_get(f"initjax/{name}", _WAIT * 1000))


def check_alike(asked: Mapping[str, Any]) -> None:
    """Checks that all processes, each of which has to call it, were asked for the same.

    Args:
      asked: what this one was asked for, by name, as JSON can express it.

    Raises:
      UsageError: in a process that was asked for something else than process 0.
    """
    mine = json.loads(json.dumps(asked))
    first = from_main("asked", lambda: mine)
    for name in mine:
        if mine[name] != first[name]:
            raise UsageError(
                f"process {_state().process_id} was started with another {name} than process 0:"
                f" {mine[name]}, not {first[name]}"
            )


def least(number: int) -> int:
    """The smallest of the numbers of all processes, each of which has to call it."""
    if not is_joined():
        return number
    from jax.experimental import multihost_utils

    return int(np.min(multihost_utils.process_allgather(np.int32(number))))


def first_asked(
    asked: Callable[[], type[KeyboardInterrupt] | None],
) -> Callable[[], type[KeyboardInterrupt] | None]:
    """What any process was asked, in all of them, each of which has to call it.

    So all stop at the same step, also if a signal reached only one.

    Args:
      asked: as `console.interrupt_later` yields it.
    """
    kinds = (None, KeyboardInterrupt, console.Preempted)
    return lambda: kinds[-least(-kinds.index(asked()))]


def _initialize(text: str, member: Member | None) -> None:
    import jax

    _silence_gloo()
    # JAX would handle SIGTERM, too, in place of Python.
    jax.config.update("jax_enable_preemption_service", False)
    where: dict[str, Any] = {}
    if member:
        where = {
            "coordinator_address": member.coordinator,
            "num_processes": member.processes,
            "process_id": member.process,
            "cluster_detection_method": "deactivate",
        }
        host, _, port = member.coordinator.rpartition(":")
        if host in ("localhost", "127.0.0.1", "[::1]"):  # else all networks could reach it
            where["coordinator_bind_address"] = os.environ.get(
                "JAX_COORDINATOR_BIND_ADDRESS", member.coordinator
            )
        if member.process == 0 and not _is_free(int(port)):
            raise UsageError(f"--distributed={text}: port {port} of this host is in use")
    timer = threading.Timer(_START, _give_up)
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            **where,
            initialization_timeout=2 * _START,  # since JAX aborts
            heartbeat_timeout_seconds=_JAX,
            shutdown_timeout_seconds=_JAX,
        )
    except (ValueError, KeyError):  # what JAX found is incomplete
        if member:
            raise
        raise UsageError(
            "--distributed=auto: this is no process of a job that JAX recognizes: of Slurm (started"
            " with srun), Open MPI, Kubernetes (with the package kubernetes) or a TPU pod; give"
            " --distributed=HOST:PORT,i/n instead"
        ) from None
    finally:
        timer.cancel()
    _explain_abort(
        "process 0, which coordinates this job, is lost, or can't be reached; the job ends"
    )


def _silence_gloo() -> None:
    """Has what C++ prints go nowhere: Gloo prints a line to the standard output in each process."""
    options = {"encoding": sys.stdout.encoding, "errors": sys.stdout.errors}
    sys.stdout.flush()
    sys.stdout = open(os.dup(1), "w", 1, **options)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("", port)).close()
    except OSError:
        return False
    return True


def _give_up() -> None:
    """Ends a process that waits in vain for the others at the start."""
    state = _state()
    address = state.coordinator_address or "the coordinator"
    host = address.rpartition(":")[0].strip("[]")
    problem = "nothing answers there" if state.process_id else "not all of them came"
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        problem = f"the name {host} is unknown on this host"
    _end(
        f"process {state.process_id} waited {_START} s for the others at {address}: {problem};"
        " start all processes at about the same time, with the same address"
    )


def _watch(failed: threading.Event, done: threading.Event) -> None:
    """Reports to process 0, and ends this process when one of the job is lost.

    Process 0 reads all reports, and the others what it found.

    Args:
      failed: is set when a computation failed.
      done: is set when there is nothing to watch any more.
    """
    state, store = _state(), _store()
    started, count = time.monotonic(), 0
    seen = dict.fromkeys(range(state.num_processes), ("", started))
    while not done.wait(_BEAT):
        count += 1
        with contextlib.suppress(Exception):  # of a store that has ended with process 0
            report = f"{count} {platform.node()}"
            store.key_value_set(f"{_BEATS}/{state.process_id}", report, True)
            for _, lost in store.key_value_dir_get(_LOST):
                if not done.is_set():
                    _end(lost)
            if state.process_id:
                continue
            now = time.monotonic()
            for key, report in store.key_value_dir_get(_BEATS):
                process = int(key.rpartition("/")[2])
                if seen[process][0] != report:
                    seen[process] = report, now
            patience = _FAILED if failed.is_set() else _SILENT
            silent = [process for process, (_, last) in seen.items() if now - last > patience]
            if silent and not done.is_set():
                host = seen[silent[0]][0].partition(" ")[2] or "a host that never reported"
                lost = f"process {silent[0]} of {len(seen)} on {host} is lost; the job ends"
                _announce(lost)
                _end(lost)


def _announce(lost: str) -> None:
    """Tells the other processes why the job ends."""
    with contextlib.suppress(Exception):
        _store().key_value_set(f"{_LOST}/now", lost, True)
        if _state().process_id == 0:
            time.sleep(3 * _BEAT)  # in which the others read it


def _meet(seconds: int) -> bool:
    """Whether all processes come here within seconds, as with an error that all have."""
    try:
        _store().wait_at_barrier("initjax/end", seconds * 1000)
    except Exception:
        return False
    return True


def _leave_soon(code: int) -> None:
    """Ends this process if it doesn't by itself: JAX waits for the others, who wait for it."""
    timer = threading.Timer(_LEAVE, os._exit, (code,))
    timer.daemon = True
    timer.start()


def _explain_abort(text: str) -> None:
    """Has a line of ours follow what JAX prints when it aborts, as if process 0 is gone.

    Python runs its own handlers of signals after those of the system have returned, which is too
    late; so this is one of the system.
    """
    if os.name == "nt":
        return
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: _end(text))
    _KEPT.append(handler)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)


_KEPT: list[Callable[..., None]] = []  # what C calls must not be collected


def _end(text: str) -> None:
    """Ends the process from any thread, whatever it waits for."""
    _say(text)
    os._exit(1)


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"experiments.mnist: {text}", file=sys.stderr, flush=True)


def _state() -> Any:
    # JAX has no public way to its store of keys and values, which Orbax uses in the same way.
    from jax._src import distributed

    return distributed.global_state


def _store() -> Any:
    return _state().client
