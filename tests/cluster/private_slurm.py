"""A Slurm cluster of this machine alone, to test with: real daemons on the loopback interface.

Its configuration, keys, state and logs are in one directory, its ports are chosen free, and its
daemons end with the process that started them. Nothing in /etc is read or written, so a Slurm that
the machine belongs to is not disturbed.
"""

import contextlib
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping

DAEMONS = ("munged", "slurmctld", "slurmd")

# There are no cgroups, so neither memory nor CPUs are enforced, and no accounting database. Slurm
# starts a requeued job after `cred_expire` seconds, 120 by default and 5 at least.
_CONFIGURATION = """\
ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={directory}/munge/socket,cred_expire={requeue_delay}
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={directory}/finished.log
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=30
OverTimeLimit=0
ReturnToService=2
MailProg=/bin/true
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=100
"""
_NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus}\n"


def missing() -> list[str]:
    """The daemons that are not installed."""
    return [name for name in DAEMONS if not _path(name)]


def _path(daemon: str) -> str | None:
    return shutil.which(daemon, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def running(
    directory: pathlib.Path,
    *,
    nodes: int = 2,
    cpus: int = 1,
    requeue_delay: int = 5,
    settings: str = "",
) -> Iterator[dict[str, str]]:
    """Runs a cluster of nodes n1, n2, ... and yields the environment in which to use it.

    The names of nodes are known to Slurm alone.

    Args:
      directory: an empty one, for all that the cluster writes. Its path should be short.
      nodes: how many, each one `slurmd`.
      cpus: of each node. They may be more than the machine has.
      requeue_delay: seconds until Slurm starts a requeued job again.
      settings: further lines of slurm.conf, which replace those of the same name.

    Raises:
      RuntimeError: it did not come up; with the ends of its logs.
    """
    names = [f"n{number + 1}" for number in range(nodes)]
    for name in ("munge", "state", *(f"spool-{name}" for name in names)):
        (directory / name).mkdir()
    ports = free_ports(nodes + 1)
    host = socket.gethostname().partition(".")[0]
    user = pwd.getpwuid(os.geteuid()).pw_name
    text = _CONFIGURATION.format(
        host=host, port=ports[0], user=user, directory=directory, requeue_delay=requeue_delay
    )
    replaced = {line.partition("=")[0] for line in settings.splitlines()}
    kept = [line for line in text.splitlines() if line.partition("=")[0] not in replaced]
    described = [
        _NODE.format(name=name, host=host, port=port, cpus=cpus)
        for name, port in zip(names, ports[1:], strict=True)
    ]
    configuration = directory / "slurm.conf"
    configuration.write_text("\n".join([*kept, settings, *described]))
    environment = {
        **{name: v for name, v in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))},
        "SLURM_CONF": str(configuration),
    }
    key = directory / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    commands = [
        [
            *("munged", "--foreground", f"--key-file={key}", f"--socket={directory}/munge/socket"),
            *(f"--pid-file={directory}/munge/pid", f"--seed-file={directory}/munge/seed"),
            # By force, since the directories of tests are closed to other users, as they should be.
            *(f"--log-file={directory}/munge/log", "--num-threads=2", "--force"),
        ],
        ["slurmctld", "-D", "-c"],
        *(["slurmd", "-D", "-N", name] for name in names),
    ]
    with contextlib.ExitStack() as stack:
        for number, command in enumerate(commands):
            stack.enter_context(_daemon(command, environment, directory / f"daemon-{number}.log"))
            if number == 0 and not until((directory / "munge" / "socket").exists, 10):
                raise RuntimeError(_logs(directory))
        if not until(lambda: _idle(environment) == nodes, 20):
            raise RuntimeError(_logs(directory))
        try:
            yield environment
        finally:
            subprocess.run(["scancel", f"--user={user}"], env=environment, capture_output=True)
            until(lambda: not output(["squeue", "--noheader"], environment), 40)


def output(command: list[str], environment: Mapping[str, str]) -> str:
    """What a command of Slurm prints."""
    found = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if found.returncode:
        raise RuntimeError(f"{command}: {found.stderr}")
    return found.stdout.strip()


@contextlib.contextmanager
def _daemon(
    command: list[str], environment: Mapping[str, str], log: pathlib.Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a daemon as a child, which Linux ends if this process is killed."""
    path = _path(command[0])
    if path is None:
        raise RuntimeError(f"{command[0]} is not installed")
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", path, *command[1:]],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)  # slurmctld takes 5 seconds to save what nobody needs
        process.send_signal(signal.SIGKILL)
        process.wait()


def free_ports(number: int) -> list[int]:
    """Ports of the loopback interface that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _idle(environment: Mapping[str, str]) -> int:
    """How many nodes are idle."""
    found = subprocess.run(
        ["sinfo", "--noheader", "-N", "-p", "main", "-o", "%T"],
        env=environment,
        capture_output=True,
        text=True,
    )
    return found.stdout.split().count("idle")


def until(condition: Callable[[], object], seconds: float) -> bool:
    """Waits for a condition, and returns whether it came true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _logs(directory: pathlib.Path) -> str:
    logs = sorted([*directory.glob("*.log"), *directory.glob("munge/log")])
    return "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in logs)
