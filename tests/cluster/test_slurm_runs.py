"""One run on two nodes of a real Slurm cluster, in step, through preemption."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.cluster.conftest import PROJECT
from tests.cluster.private_slurm import free_ports, output, until

FLAGS = ("--init=he_normal", "--hidden=32", "--epochs=3", "--batch_size=4", "--mesh=data:2")
CHECKPOINTS = ("--checkpoint_every=50",)
RESULTS = ("params.safetensors", "steps.jsonl")


@pytest.fixture
def flags(folder):
    return [*FLAGS, f"--data_dir={folder}"]


@pytest.fixture
def undisturbed(flags, tmp_path):
    """The results of the same run in one process, on two devices that JAX simulates."""
    workdir = tmp_path / "undisturbed"
    subprocess.run(
        [sys.executable, "-m", "experiments.mnist", *flags, f"--workdir={workdir}"],
        cwd=PROJECT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
        check=True,
        capture_output=True,
        timeout=600,
    )
    return [(workdir / name).read_bytes() for name in RESULTS]


@pytest.fixture
def submit(slurm, flags, tmp_path):
    """Submits the run to two nodes, and returns the job's id."""
    # JAX would take the name of the first node, which is known to Slurm alone, and all networks.
    address = f"127.0.0.1:{free_ports(1)[0]}"
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_BIND_ADDRESS")

    def submit():
        command = [
            *("sbatch", "--parsable", "--nodes=2", "--cpus-per-task=1", f"--chdir={PROJECT}"),
            *(f"--output={tmp_path}/log", "scripts/cluster/slurm.sh", "mnist", *flags),
            *(*CHECKPOINTS, f"--workdir={tmp_path}/run"),
        ]
        return output(command, slurm | dict.fromkeys(names, address))

    return submit


def states(slurm, job):
    """How a job ended, each time that it did."""
    log = (pathlib.Path(slurm["SLURM_CONF"]).parent / "finished.log").read_text()
    tasks = [dict(field.split("=", 1) for field in line.split()) for line in log.splitlines()]
    return [(one["JobState"], one["ExitCode"]) for one in tasks if one["JobId"] == job]


@pytest.mark.slow
def test_a_preempted_run_on_two_nodes_goes_on_from_its_checkpoint(
    submit, slurm, undisturbed, tmp_path
):
    job = submit()
    assert until(lambda: list(tmp_path.glob("run/checkpoints/*.orbax")), 300)
    output(["sbatch", "-p", "urgent", "-N2", "--output=/dev/null", "--wrap=true"], slurm)
    assert until(lambda: not output(["squeue", "--noheader", f"--jobs={job}"], slurm), 600)
    log = (tmp_path / "log").read_text()
    assert [state for state, _ in states(slurm, job)] == ["PREEMPTED", "COMPLETED"], log
    assert log.count("resume  from step") == 1 and log.count("mesh ") == 2, (
        log
    )  # by process 0 alone
    assert [(tmp_path / "run" / name).read_bytes() for name in RESULTS] == undisturbed
