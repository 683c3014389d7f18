"""A sweep as an array job of a real Slurm cluster: whatever happens, its runs are the same bits."""

import pathlib
import subprocess
import sys
from typing import Any

import psutil
import pytest

from experiments.common import sweep_directory
from tests.cluster.conftest import PROJECT
from tests.cluster.private_slurm import output, until

_RUNS = [n for n in sweep_directory.SCHEMA.names if n not in ("seconds", "finished", "host")]


@pytest.fixture(scope="session")
def flags(folder):
    """A grid of 16 runs, half of which take a task of two some seconds."""
    return ["--init=he_normal,glorot_uniform", "--seeds=8", "--steps=800", f"--data_dir={folder}"]


@pytest.fixture(scope="session")
def undisturbed(flags, tmp_path_factory):
    return alone(flags, tmp_path_factory.mktemp("undisturbed"))


def alone(flags, workdir):
    """The runs of a grid, trained by one process that nothing interrupts."""
    command = [sys.executable, "-m", "experiments.sweep", *flags, f"--workdir={workdir}"]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, timeout=900)
    return runs(workdir)


def runs(workdir):
    """All about the runs of a directory but when and where they were trained, as text."""
    return repr(sweep_directory.read(workdir).select(_RUNS).to_pylist())


@pytest.fixture
def submit(slurm, tmp_path):
    """Submits an array of two tasks that log to files in a directory, and returns its id."""

    def submit(*flags, options=()):
        command = [
            *("sbatch", "--parsable", "--array=0-1", "--cpus-per-task=1"),
            *(f"--output={tmp_path}/%a.log", f"--chdir={PROJECT}", *options),
            *("scripts/cluster/slurm.sh", "sweep", *flags, f"--workdir={tmp_path}/runs"),
        ]
        return output(command, slurm)

    return submit


@pytest.fixture
def ended(slurm):
    """Waits until no task of an array is left, and returns how each ended, each time it did."""

    def ended(job):
        left = ["squeue", "--noheader", f"--jobs={job}"]
        assert until(lambda: not output(left, slurm), 300)
        found = {0: [], 1: []}
        log = pathlib.Path(slurm["SLURM_CONF"]).parent / "finished.log"
        for line in log.read_text().splitlines():
            task = dict(field.split("=", 1) for field in line.split())
            if task.get("ArrayJobId") == job:
                found[int(task["ArrayTaskId"])].append((task["JobState"], task["ExitCode"]))
        return found

    return ended


@pytest.fixture
def processes(tmp_path):
    """Waits until some runs are stored, and returns the processes that train both tasks, stopped.

    So none can finish before what is to happen to it. When Slurm ends a job, it first continues it.
    """

    def process(task):
        mine = {f"--shard={task}/2", f"--workdir={tmp_path}/runs"}
        for one in psutil.process_iter(["cmdline"]):
            if mine <= set(one.info["cmdline"] or []) and one.info["cmdline"][0] == "python":
                return one

    def processes():
        for task in (0, 1):
            assert until(lambda task=task: process(task), 60)
        found: list[Any] = [process(0), process(1)]
        assert until(lambda: list(tmp_path.rglob("runs-*.parquet")), 300)
        for one in found:
            one.suspend()
        return found

    return processes


COMPLETED = ("COMPLETED", "0:0")


def test_a_preempted_array_goes_on(submit, ended, processes, flags, undisturbed, slurm, tmp_path):
    job = submit(*flags)
    processes()
    output(["sbatch", "-p", "urgent", "-N2", "--output=/dev/null", "--wrap=true"], slurm)
    for task, (first, *others) in ended(job).items():
        assert first[0] == "PREEMPTED" and others == [COMPLETED]
        log = (tmp_path / f"{task}.log").read_text()
        assert log.count("DUE TO PREEMPTION") == 1
        assert log.count("slurm.sh: ended by Slurm") <= 1 and "requeuing" not in log
    assert runs(tmp_path / "runs") == undisturbed


@pytest.mark.slow
def test_an_array_goes_on_after_its_time_limit(submit, ended, flags, slurm, tmp_path):
    longer = [*flags, "--seeds=2", "--steps=40000"]
    # With a time limit of a minute, Slurm sends the signal after half a minute or less.
    job = submit(*longer, options=["--time=1", "--signal=B:USR1@60"])
    logs = [tmp_path / f"{task}.log" for task in (0, 1)]
    requeued = "slurm.sh: not finished; requeuing"
    for task, log in enumerate(logs):
        assert until(lambda log=log: log.exists() and requeued in log.read_text(), 120)
        # Later time limits would only take time, of which a busy machine has too little.
        output(["scontrol", "update", f"JobId={job}_{task}", "TimeLimit=60"], slurm)
    for states in ended(job).values():
        assert states[-1] == COMPLETED and len(states) > 1
    assert runs(tmp_path / "runs") == alone(longer, tmp_path / "alone")


@pytest.mark.slow
def test_a_canceled_task_goes_on_when_its_command_is_submitted_again(
    submit, ended, processes, flags, undisturbed, slurm, tmp_path
):
    job = submit(*flags)
    first, _ = processes()
    output(["scancel", f"{job}_1"], slurm)
    first.resume()
    states = ended(job)
    assert states[0] == [COMPLETED] and [state for state, _ in states[1]] == ["CANCELLED"]
    assert runs(tmp_path / "runs") != undisturbed
    assert ended(submit(*flags)) == {0: [COMPLETED], 1: [COMPLETED]}
    assert runs(tmp_path / "runs") == undisturbed


@pytest.mark.slow
def test_a_task_that_is_killed_is_tried_again(
    submit, ended, processes, flags, undisturbed, tmp_path
):
    job = submit(*flags)
    first, second = processes()
    second.kill()
    first.resume()
    assert ended(job)[0] == [COMPLETED]
    assert ended(job)[1][-1] == COMPLETED
    assert "slurm.sh: failed with exit code 137; requeuing" in (tmp_path / "1.log").read_text()
    assert runs(tmp_path / "runs") == undisturbed


def test_a_wrong_command_is_not_tried_again(submit, ended, tmp_path):
    job = submit("--init=he_norml")
    assert ended(job) == {0: [("FAILED", "2:0")], 1: [("FAILED", "2:0")]}
    assert "experiments.sweep: --init: unknown" in (tmp_path / "0.log").read_text()
