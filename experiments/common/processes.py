"""The processes of one job, on one host or many, that train one network together.

Each of them runs the same program on its own devices, and they compute in step: what all of them
have to call says so. Process 0 alone prints and writes, and coordinates the others.

A job ends as a whole, also if one of the processes is lost; see `experiments.common.peers`.
"""

import contextlib
import json
import os
import platform
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any, NamedTuple, TypeVar

import numpy as np

from experiments.common import console, peers
from experiments.common.config import UsageError

_Found = TypeVar("_Found")

_START = 600  # seconds for all processes to come: hosts may have to be started, images be fetched
_PATIENT = 30  # seconds until a process says for whom it waits
_MEET = 5  # seconds that a process with an error waits for the others to have the same one
_STOP = 60  # the same for one that was stopped: process 0 has files to write before it ends
_WAIT = 600  # seconds for what process 0 finds or finishes; the watch tells if it is lost
_JAX = 50  # seconds for JAX to notice, if nothing here does


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
    failed, done = threading.Event(), threading.Event()
    watch = threading.Thread(target=peers.watch, args=(failed, done), daemon=True)
    watch.start()
    try:
        yield
        peers.store().wait_at_barrier("initjax/done", _WAIT * 1000)
    except BaseException as error:
        # All processes have errors of the user's alike, and stop at the same step.
        if not _meet(_STOP if isinstance(error, KeyboardInterrupt) else _MEET):
            if isinstance(error, Exception) and not isinstance(error, UsageError):
                failed.set()  # most likely since a process is lost: the watch will tell
                watch.join(2 * peers.FAILED)
            done.set()
            state = peers.state()
            code = console.exit_code(error)
            peers.announce(
                f"process {state.process_id} of {state.num_processes} on {platform.node()} has"
                " ended early; the job ends",
                code,
            )
            peers.leave_soon(code)
            raise
        done.set()
        jax.distributed.shutdown()
        raise
    done.set()
    watch.join()
    jax.distributed.shutdown()


def is_main() -> bool:
    """Whether this is the process that prints and writes."""
    return not is_joined() or peers.state().process_id == 0


def is_joined() -> bool:
    """Whether this process belongs to a job, though perhaps as the only one."""
    return "jax" in sys.modules and peers.state().client is not None


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
        peers.store().key_value_set(f"initjax/{name}", json.dumps(found))
        return found
    return json.loads(peers.store().blocking_key_value_get(f"initjax/{name}", _WAIT * 1000))


def from_all(name: str, found: _Found) -> list[_Found]:
    """What each process has found, in all of them, each of which has to call it.

    Args:
      name: of what is found, another one for each call.
      found: what JSON can express.
    """
    if not is_joined():
        return [found]
    state, store = peers.state(), peers.store()
    store.key_value_set(f"initjax/{name}/{state.process_id}", json.dumps(found))
    names = [f"initjax/{name}/{process}" for process in range(state.num_processes)]
    return [json.loads(store.blocking_key_value_get(name, _WAIT * 1000)) for name in names]


def check_alike(asked: Mapping[str, Any]) -> None:
    """Checks that all processes, each of which has to call it, were asked for the same.

    Args:
      asked: what this one was asked for, by the names of flags and the like, as JSON can express
        it.

    Raises:
      UsageError: in a process that was asked for something else than process 0.
    """
    mine = json.loads(json.dumps(asked))
    first = from_main("asked", lambda: mine)
    for name in mine:
        if mine[name] != first[name]:
            raise UsageError(
                f"process {peers.state().process_id} was started with a different {name} from"
                f" process 0: {mine[name]}, not {first[name]}"
            )
    least(0)  # nothing is written before all agree


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
        peers.at_abort(
            f"process {member.process} can't join the job; another one may have the same number", 1
        )
    # In a thread, since no signal is handled while JAX waits.
    begun = futures.ThreadPoolExecutor(1).submit(
        jax.distributed.initialize,
        **where,
        initialization_timeout=2 * _START,  # since JAX aborts
        heartbeat_timeout_seconds=_JAX,
        shutdown_timeout_seconds=_JAX,
    )
    try:
        futures.wait([begun], _PATIENT)
        if not begun.done():
            peers.say(f"{_waiting()}; it waits up to {_START} s")
            futures.wait([begun], _START - _PATIENT)
        if not begun.done():
            # A failure, not to be tried forever: the address may be wrong.
            peers.end(
                f"{_waiting()}, after {_START} s; start all processes at about the same time, with"
                " the same address",
                1,
            )
        begun.result()
    except jax.errors.JaxRuntimeError as error:  # such as of a job that is about to end
        state, reason = peers.state(), str(error).partition("\n")[0]
        peers.end(f"process {state.process_id} can't join the job: {reason}", peers.LOST)
    except (ValueError, KeyError):  # what JAX found is incomplete
        if member:
            raise
        raise UsageError(
            "--distributed=auto: JAX found no job: of Slurm (started with srun), Open MPI,"
            " Kubernetes (with the package kubernetes) or a TPU pod; give"
            " --distributed=HOST:PORT,i/n instead"
        ) from None
    peers.at_abort(
        "process 0, which coordinates this job, is lost, or can't be reached; the job ends",
        peers.LOST,
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


def _waiting() -> str:
    """For whom this process waits at the start."""
    state = peers.state()
    address = state.coordinator_address or "the coordinator"
    host, _, port = address.rpartition(":")
    missing = "other processes"
    if state.process_id:
        try:
            socket.create_connection((host.strip("[]"), int(port or 0)), 5).close()
        except socket.gaierror:  # as of a pod that isn't there yet
            missing = f"process 0: the name {host} is unknown on this host; to give its address,"
            missing += " set JAX_COORDINATOR_ADDRESS=ADDRESS:PORT for all"
        except OSError:
            missing = "process 0: nothing answers there"
    return f"process {state.process_id} waits at {address} for {missing}"


def _meet(seconds: int) -> bool:
    """Whether all processes come here within seconds, as with an error that all have."""
    try:
        peers.store().wait_at_barrier("initjax/end", seconds * 1000)
    except Exception:
        return False
    return True
