"""One run on two nodes of a real Slurm cluster, in step, through preemption and failure."""

import os
import pathlib
import subprocess
import sys

import psutil
import pytest

from tests.cluster.conftest import PROJECT
from tests.cluster.private_slurm import free_ports, output, until

FLAGS = ("--init=he_normal", "--hidden=32", "--mesh=data:2")
SHORT = ("--epochs=1", "--batch_size=100")
LONG = ("--epochs=3", "--batch_size=4")  # to be disturbed, after its first checkpoint
CHECKPOINTS = ("--checkpoint_every=50",)


@pytest.fixture(scope="module")
def flags(folder):
    return [*FLAGS, f"--data_dir={folder}"]


def alone(flags, workdir):
    """The results of a run in one process, on two devices that JAX simulates."""
    subprocess.run(
        [sys.executable, "-m", "experiments.mnist", *flags, f"--workdir={workdir}"],
        cwd=PROJECT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
        check=True,
        capture_output=True,
        timeout=600,
    )
    return results(workdir)


@pytest.fixture(scope="module")
def undisturbed(flags, tmp_path_factory):
    return alone([*flags, *LONG], tmp_path_factory.mktemp("undisturbed"))


def results(workdir):
    return [(workdir / name).read_bytes() for name in ("params.safetensors", "steps.jsonl")]


@pytest.fixture
def submit(slurm, flags, tmp_path):
    """Submits a run to two nodes, and returns the job's id."""
    # JAX would take the name of the first node, which is known to Slurm alone, and all networks.
    address = f"127.0.0.1:{free_ports(1)[0]}"
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_BIND_ADDRESS")

    def submit(*more):
        command = [
            *("sbatch", "--parsable", "--nodes=2", "--cpus-per-task=1", f"--chdir={PROJECT}"),
            *(f"--output={tmp_path}/log", "scripts/cluster/slurm.sh", "mnist", *flags),
            *(*more, f"--workdir={tmp_path}/run"),
        ]
        return output(command, slurm | dict.fromkeys(names, address))

    return submit


@pytest.fixture
def ended(slurm):
    """Waits until a job has ended, and returns how it did, each time that it ended."""

    def ended(job):
        assert until(lambda: not output(["squeue", "--noheader", f"--jobs={job}"], slurm), 600)
        log = (pathlib.Path(slurm["SLURM_CONF"]).parent / "finished.log").read_text()
        jobs = [dict(field.split("=", 1) for field in line.split()) for line in log.splitlines()]
        return [one["JobState"] for one in jobs if one["JobId"] == job]

    return ended


@pytest.fixture
def a_checkpoint_is_saved(tmp_path):
    return lambda: until(lambda: list(tmp_path.glob("run/checkpoints/*.orbax")), 300)


def test_a_run_on_two_nodes_is_that_of_two_devices(submit, ended, flags, tmp_path):
    job = submit(*SHORT)
    expected = alone([*flags, *SHORT], tmp_path / "alone")
    assert ended(job) == ["COMPLETED"]
    assert results(tmp_path / "run") == expected


@pytest.mark.slow
def test_a_preempted_run_on_two_nodes_goes_on(
    submit, ended, a_checkpoint_is_saved, slurm, undisturbed, tmp_path
):
    job = submit(*LONG, *CHECKPOINTS)
    assert a_checkpoint_is_saved()
    output(["sbatch", "-p", "urgent", "-N2", "--output=/dev/null", "--wrap=true"], slurm)
    assert ended(job) == ["PREEMPTED", "COMPLETED"]
    log = (tmp_path / "log").read_text()
    assert log.count("resume  from step") == 1 and log.count("mesh ") == 2  # by process 0 alone
    assert results(tmp_path / "run") == undisturbed


@pytest.mark.slow
def test_a_run_on_two_nodes_goes_on_after_one_of_its_processes_is_killed(
    submit, ended, a_checkpoint_is_saved, undisturbed, tmp_path
):
    job = submit(*LONG, *CHECKPOINTS)
    assert a_checkpoint_is_saved()
    found = [
        process
        for process in psutil.process_iter(["cmdline", "environ"])
        if f"--workdir={tmp_path}/run" in (process.info["cmdline"] or [])
        and (process.info["environ"] or {}).get("SLURM_PROCID") == "1"
    ]
    found[0].kill()
    assert ended(job)[-1] == "COMPLETED"
    log = (tmp_path / "log").read_text()
    assert "experiments.mnist: process 1 of 2 on " in log and " is lost, so the job ends" in log
    assert log.count("slurm.sh: failed with exit code 137; requeuing") == 1
    assert log.count("resume  from step") == 1
    assert results(tmp_path / "run") == undisturbed
