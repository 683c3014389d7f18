"""What a sweep of up to a million runs costs on up to a thousand devices: a simulation.

Devices train shards of a grid into one directory. Each of them starts, trains batch after batch,
writes and merges files, is preempted, and starts again; all of them share the metadata server of
one file system, which answers one request after the other. The numbers of one device, and of Slurm,
were measured; those of the file system are assumptions, and so are the seconds of a start. At the
end, eight real processes store runs into one directory, without training, and what they do is
compared with what is predicted. About a minute; counting requests needs strace.
"""

import argparse
import heapq
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

import _results
import numpy as np

from experiments.common import run_files

# Measured on this machine, with 2 cores: strace on `experiments.sweep` and on what `check` starts.
_START_REQUESTS = 15_150  # that Python and JAX make to read 2,800 files of the environment
_START_SECONDS = 10.0  # until a process trains; measured once: 10.6 s, 2.6 s CPU, machine loaded
_REQUESTS = 50.0  # of the store for each process,
_BATCH_REQUESTS = 27.0  # for each batch, merging included,
_RUN_REQUESTS = 2.1  # for each run: a claim is made and removed,
_BEAT_REQUESTS = 2 / 5.0  # and for each second: the heartbeat
_FILE_BYTES = 12_000  # of a file without runs
_RUN_BYTES = 500
_STEP_BYTES = 6.0  # of a loss and an accuracy, compressed
_STEPS = 469  # of a run: an epoch of MNIST
_BATCH_SECONDS, _LARGEST_BATCH = 5.0, 256  # as in `experiments.common.filling`

# Slurm 22.05, measured with its daemons on this machine: an array of 1,000 tasks, 2 nodes.
_TASKS_PER_SECOND = 40.0
_FIRST_TASK_SECONDS = 1.5
_REQUEUE_SECONDS = 120.0
_ARRAY = 1_000  # tasks at most: MaxArraySize is 1001

# Assumed: a file server for some hundred machines.
_METADATA_RATE = 10_000.0  # requests a second
_BANDWIDTH = 1e9  # bytes a second


class Case(NamedTuple):
    """A sweep."""

    runs: int
    devices: int
    seconds: float
    """Of training one run."""
    preemptions: float = 0.0
    """Of each device in an hour."""
    local: bool = True
    """Whether the machines have a copy of the Python environment each."""


class Result(NamedTuple):
    """What a sweep costs."""

    hours: float
    useful: float
    """The share of the devices' time in which they train; the others are those of what they lose
    it to."""
    starting: float
    preempted: float
    waiting: float
    requests: float
    """To the metadata server."""
    busy: float
    """The share of the time in which it is busy."""
    files: int
    """At most at one time, before they are merged at the end."""
    rewritten: float
    """How often a run is written."""


def store(sizes: list[int]) -> tuple[int, float]:
    """What the store of one process does with batches of these numbers of runs.

    Returns:
      The largest number of files, and how often a run is written, with the merging at the end.
    """
    files: dict[pathlib.Path, int] = {}
    most, written, row = 0, 0, _RUN_BYTES + _STEP_BYTES * _STEPS
    for number, size in enumerate(sizes):
        files[pathlib.Path(str(number))] = int(_FILE_BYTES + size * row)
        written += size
        while full := run_files.full_level(files):
            merged = sum(files.pop(path) - _FILE_BYTES for path in full)
            written += round(merged / row)
            files[full[0]] = merged + _FILE_BYTES
        most = max(most, len(files))
    small = sum(size - _FILE_BYTES for size in files.values() if size < run_files.LARGE)
    return most, (written + round(small / row)) / sum(sizes)


def batches(runs: int, seconds: float) -> list[int]:
    """The numbers of runs of the batches of one process that isn't preempted."""
    found, size = [], 1
    while runs:
        found.append(min(size, runs))
        runs -= found[-1]
        size = max(1, min(_LARGEST_BATCH, 2 * size, round(_BATCH_SECONDS / seconds)))
    return found


def simulate(case: Case) -> Result:
    """Lets all devices train their shards, one event after the other."""
    rng = np.random.default_rng(0)
    shard = -(-case.runs // case.devices)
    left = [shard] * case.devices
    size = [0] * case.devices  # of the next batch; 0: the process starts first
    rate = case.preemptions / 3600

    def patience() -> float:
        return float(rng.exponential(1 / rate)) if rate else np.inf

    free = requests = starting = preempted = waiting = end = 0.0
    events = [
        (_FIRST_TASK_SECONDS + number / _TASKS_PER_SECOND, number) for number in range(case.devices)
    ]
    doomed = [start + patience() for start, _ in events]
    heapq.heapify(events)
    while events:
        now, device = heapq.heappop(events)
        if not size[device]:
            asked = _REQUESTS + _START_REQUESTS * (not case.local)
            taken = _START_SECONDS
            starting += taken
            batch = 0
        else:
            batch = min(size[device], left[device])
            taken = batch * case.seconds
            asked = _BATCH_REQUESTS + _RUN_REQUESTS * batch + _BEAT_REQUESTS * taken
        # The server is asked when the batch is trained, that is in the order of the events.
        free = max(free, now) + asked / _METADATA_RATE
        requests += asked
        waiting += free - now
        done = free + taken
        left[device] -= batch
        end = max(end, done)
        if not left[device]:
            continue
        most = max(1, round(_BATCH_SECONDS / case.seconds))
        size[device] = min(_LARGEST_BATCH, max(1, 2 * batch), most)
        if done > doomed[device]:  # it finished its batch in the time that is left after SIGTERM
            preempted += _REQUEUE_SECONDS
            done += _REQUEUE_SECONDS
            size[device] = 0
            doomed[device] = done + patience()
        heapq.heappush(events, (done, device))
    most, rewritten = store(batches(shard, case.seconds))
    whole = end * case.devices
    return Result(
        end / 3600, case.runs * case.seconds / whole, starting / whole, preempted / whole,
        waiting / whole, requests, requests / _METADATA_RATE / end, most * case.devices, rewritten,
    )  # fmt: skip


_CASES = [
    *(Case(runs, devices, 5) for runs, devices in (
        (1_000, 1), (1_000, 8), (10_000, 8), (10_000, 100), (100_000, 100), (100_000, 1_000),
        (1_000_000, 100), (1_000_000, 1_000),
    )),
    Case(1_000_000, 1_000, 5, local=False),
    Case(1_000_000, 1_000, 0.02),
    Case(1_000_000, 1_000, 60),
    Case(1_000_000, 1_000, 60, preemptions=0.1),
    Case(1_000_000, 1_000, 60, preemptions=1),
]  # fmt: skip


def costs() -> str:
    """The table of what sweeps cost."""
    rows = []
    for case in _CASES:
        found = simulate(case)
        rows.append(
            [
                f"{case.runs:,}", f"{case.devices:,}", f"{case.seconds:g}",
                f"{case.preemptions:g}", "each machine" if case.local else "shared",
                f"{found.hours:.2f}", f"{found.useful:.0%}", f"{found.starting:.1%}",
                f"{found.preempted:.1%}", f"{found.waiting:.1%}", f"{found.requests:,.0f}",
                f"{found.busy:.0%}", f"{found.files:,}", f"{found.rewritten:.1f}",
                f"{case.runs * (_RUN_BYTES + _STEP_BYTES * _STEPS) / 1e9:.2f}",
            ]
        )  # fmt: skip
        print(", ".join(rows[-1]), flush=True)
    head = [
        "runs", "devices", "s a run", "preemptions an hour", "environment on", "hours", "training",
        "starting", "preempted", "waiting for files", "requests", "server busy", "files at most",
        "a run is written, times", "GB at the end",
    ]  # fmt: skip
    return _results.table(head, rows)


def limits() -> str:
    """The table of what is exhausted first, and at how many devices."""
    row = _RUN_BYTES + _STEP_BYTES * _STEPS

    def devices(seconds: float) -> float:
        batch = min(_LARGEST_BATCH, max(1, round(_BATCH_SECONDS / seconds)))
        asked = _BATCH_REQUESTS + _RUN_REQUESTS * batch
        return _METADATA_RATE / (asked / (batch * seconds) + _BEAT_REQUESTS)

    first = batches(1_000, _BATCH_SECONDS)
    _, rewritten = store(first)
    rows = [
        ["starting: requests for Python's files, if they are shared, take a minute",
         60 * _METADATA_RATE / _START_REQUESTS,
         "copy the environment, or a container, to each machine"],
        ["metadata, runs of 0.02 s", devices(0.02), "fewer devices: each run is claimed"],
        ["metadata, runs of 0.5 s", devices(0.5), "the same"],
        ["metadata, runs of 5 s", devices(5),
         "longer batches, or a second directory on another server"],
        ["metadata, runs of 60 s", devices(60), "the same"],
        ["tasks of a Slurm array (MaxArraySize)", float(_ARRAY), "several arrays, --shard=i/n"],
        ["starting all tasks of a Slurm array takes a minute", 60 * _TASKS_PER_SECOND,
         "longer runs"],
        ["bandwidth, runs of 5 s", _BANDWIDTH / (row * rewritten / 5), "not reached"],
    ]  # fmt: skip
    ordered = sorted(rows, key=lambda row: row[1])  # pyright: ignore[reportArgumentType]
    return _results.table(
        ["exhausted", "at devices", "then"],
        [[str(what), f"{count:,.0f}", str(then)] for what, count, then in ordered],
    )


_WORKER = """
import sys
import numpy as np
from experiments.common import run_files, sweep_directory
directory, label, runs, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
keys = [f"{label}-{run:06}" for run in range(runs)]
row = dict.fromkeys(run_files.SCHEMA.names) | {"seed": 0}
random = np.random.default_rng(0).random
with sweep_directory.SweepDirectory(directory, label) as stored:
    most, done = 0, stored.finished()
    while mine := stored.claim([key for key in keys if key not in done], batch):
        steps = [{"step_loss": random(469), "step_acc": random(469)} for _ in mine]
        stored.add([row | {"key": key} | more for key, more in zip(mine, steps)])
        most = max(most, len(run_files.listed([run_files.folder(stored.directory, label)])))
        done = stored.finished()
print(most)
"""
_COUNTED = "openat,newfstatat,stat,unlink,rename,mkdir,symlink,rmdir,getdents64,fsync,readlink"


def check(runs: int, batch: int, processes: int = 8) -> list[str]:
    """Stores runs with real processes, and compares the files and requests with the prediction."""
    each = runs // processes
    with tempfile.TemporaryDirectory() as scratch:
        directory = pathlib.Path(scratch, "runs")
        started = []
        for number in range(processes):
            command = [sys.executable, "-c", _WORKER, str(directory)]
            command += [f"00000000-{number}of{processes}", str(each), str(batch)]
            log = f"{scratch}/{number}.log"
            traced = ["strace", "-f", "-y", "-o", log, "-e", f"trace={_COUNTED}", *command]
            started.append(
                subprocess.Popen(
                    traced if shutil.which("strace") else command, stdout=subprocess.PIPE, text=True
                )
            )
        most = sum(int(process.communicate()[0]) for process in started)
        left = len(run_files.listed(run_files.folders(directory)))
        requests = sum(
            str(directory) in line and "resumed" not in line.split("(")[0]
            for log in pathlib.Path(scratch).glob("*.log")
            for line in log.read_text(errors="replace").splitlines()
        )
    sizes = [batch] * (each // batch)
    predicted = _REQUESTS + len(sizes) * _BATCH_REQUESTS + each * _RUN_REQUESTS
    return [
        f"{runs:,}", str(batch), f"{store(sizes)[0] * processes:,}", f"{most:,}",
        str(processes), str(left), f"{predicted * processes:,.0f}",
        f"{requests:,}" if requests else "not counted",
    ]  # fmt: skip


def main() -> None:
    options: argparse.Namespace = _results.parser(__doc__).parse_args()
    head = ["runs", "of a batch"]
    head += [
        f"{what}, {how}"
        for what in ("files at most", "files at the end", "requests")
        for how in ("predicted", "real")
    ]
    body = (
        f"Assumed: a file server that answers {_METADATA_RATE:,.0f} metadata requests and moves"
        f" {_BANDWIDTH / 1e9:g} GB a second; and that a start takes {_START_SECONDS:g} s, a round"
        " number for a busy machine (measured once, on one: 10.6 s, of which 2.6 s of CPU time)."
        f" Measured here: {_START_REQUESTS:,} requests for a start; {_BATCH_REQUESTS:g} requests"
        f" for a batch of about {_BATCH_SECONDS:g} s and {_RUN_REQUESTS} for each of its runs;"
        f" Slurm starts {_TASKS_PER_SECOND:g} tasks a second, and restarts one after"
        f" {_REQUEUE_SECONDS:g} s. A request is a system call that names a file; the caches of"
        " clients save some.\n\n"
        f"{costs()}\n\nWhat is exhausted first, each taken by itself:\n\n{limits()}\n\n"
        "One machine reads the runs in the end. That is limited by its memory: see store.md.\n\n"
        "Eight real processes that store runs without training them, on this machine:\n\n"
        f"{_results.table(head, [check(2_000, 1), check(2_000, 25)])}"
    )
    _results.write(
        "cluster", "A million runs on a thousand devices", body, ["jax", "pyarrow"], options.results
    )


if __name__ == "__main__":
    main()
