"""Which process this is, and whether another one of the same machine has ended.

A number alone doesn't tell: it is given to later processes, too, and every container and machine
has numbers of its own. So a process also has a start, and a place in which its number is valid: the
host name, the boot, and the namespace of process numbers. Containers of a machine share the boot,
and may even share the host name, but not the namespace.
"""

import os
import pathlib
import platform
from typing import NamedTuple


class Process(NamedTuple):
    """A process, as its owner file describes it to others."""

    place: str
    """Where its number is valid; empty if unknown."""
    pid: int
    started: str
    """Tells it from later processes of the same number."""


UNKNOWN = Process("", 0, "")


def this() -> Process:
    """This process; `UNKNOWN` if the system isn't Linux."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):  # that of another namespace
            return UNKNOWN
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        place = f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
        return Process(place, os.getpid(), state_and_start(os.getpid())[1])
    except OSError:  # not Linux
        return UNKNOWN


def is_gone(process: Process) -> bool:
    """Whether a process of this machine has ended."""
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it belongs to another user
        pass
    try:
        state, started = state_and_start(process.pid)
    except OSError:  # hidden from other users
        return False
    return state in "ZX" or started != process.started


def state_and_start(pid: int) -> tuple[str, str]:
    """Such as ("R", "82431"): what a process does, and when it started, in ticks since boot."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], fields[19]
