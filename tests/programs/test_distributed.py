"""`python -m experiments.mnist` in several processes, which meet on the loopback interface."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments import mnist
from experiments.common import files
from experiments.common.config import Config

COMMAND = [sys.executable, "-m", "experiments.mnist"]
TIMEOUT = 300  # seconds, on a busy machine
SMALL = ("--hidden=32,20", "--epochs=1", "--batch_size=101")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def started(*flags, cwd, number=2, devices=1, missing=(), own=None, command=COMMAND):
    """Starts the processes of a job, and kills in the end what is left of them.

    `missing` ones are not started, `own` gives each its own flags, and `command` is what they run.
    """
    address = f"127.0.0.1:{free_port()}"
    devices = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    jobs = [
        subprocess.Popen(
            [*command, f"--distributed={address},{i}/{number}", *flags, *(own[i] if own else [])],
            cwd=cwd,
            env={**os.environ, **devices},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(number)
        if i not in missing
    ]
    try:
        yield jobs
    finally:
        for job in jobs:
            job.kill()
            job.communicate()  # closes its pipes


def ended(jobs):
    """What each process printed: (exit code, standard output, errors)."""
    outputs = [job.communicate(timeout=TIMEOUT) for job in jobs]
    return [(job.returncode, *output) for job, output in zip(jobs, outputs, strict=True)]


def assert_close(run, other):
    """The steps agree closely, and the last accuracy within that of two images."""
    losses = (
        np.array([line["loss"] for line in files.read_lines(path / "steps.jsonl")])
        for path in (run, other)
    )
    np.testing.assert_allclose(*losses, rtol=1e-4)
    scores = [files.read_lines(path / "metrics.jsonl")[-1]["val_acc"] for path in (run, other)]
    assert abs(scores[0] - scores[1]) <= 2 / 300


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    """The same training in one process, on one device."""
    config = Config(hidden=(32, 20), epochs=1, batch_size=101, data_dir=folder)
    return mnist.run(config, str(tmp_path_factory.mktemp("alone")))[0]


def test_two_processes_train_as_one_does(alone, folder, tmp_path):
    with started(*SMALL, f"--data_dir={folder}", "--workdir=run", cwd=tmp_path) as jobs:
        (code, output, errors), (other_code, *others) = ended(jobs)
    assert (code, errors, other_code, others) == (0, "", 0, ["", ""]), others
    assert "mesh    data 2, 2 x cpu in 2 processes; 0.10 of 0.10 MB of parameters per" in output
    assert "--mesh=data:2" in output.splitlines()[-1] and "[Gloo]" not in output
    assert_close(tmp_path / "run", alone)
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    record = json.loads((tmp_path / "run/config.json").read_text())
    assert record["mesh"] == {"data": 2, "model": 1}


@pytest.mark.slow  # each case starts several processes, which compile
@pytest.mark.parametrize(
    ("number", "devices", "flags"),
    [
        (2, 2, ["--mesh=data:2,model:2"]),
        (2, 2, ["--mesh=model:4"]),
        (3, 1, []),
        (2, 1, ["--audit", "--audit_every=5"]),
        (2, 1, ["--checkpoint_every=3"]),
    ],
)
def test_processes_and_devices_train_as_one_does(alone, folder, tmp_path, number, devices, flags):
    flags = [*SMALL, f"--data_dir={folder}", "--workdir=run", *flags]
    with started(*flags, cwd=tmp_path, number=number, devices=devices) as jobs:
        found = ended(jobs)
    assert [code for code, *_ in found] == [0] * number, found
    assert all(printed == ["", ""] for _, *printed in found[1:])
    assert_close(tmp_path / "run", alone)


@pytest.mark.slow  # several processes
def test_a_job_resumes_from_its_checkpoint(folder, tmp_path):
    flags = ["--hidden=32,20", f"--data_dir={folder}", "--epochs=2", "--checkpoint_every=4"]
    with started(*flags, "--workdir=whole", cwd=tmp_path) as jobs:
        assert [code for code, *_ in ended(jobs)] == [0, 0]
    half = [flag.replace("--epochs=2", "--epochs=1") for flag in flags]
    for epochs in (half, flags):
        with started(*epochs, "--workdir=parts", "--resume", cwd=tmp_path) as jobs:
            found = ended(jobs)
            assert [code for code, *_ in found] == [0, 0], found
    for name in ("params.safetensors", "steps.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


# Process 1 can't read the last checkpoint.
BLIND = """
import runpy, sys
from experiments.common import sharded_checkpoints
load = sharded_checkpoints.load

def loaded(path, like):
    if sys.argv[1].endswith(",1/2") and path.name.startswith("000000010-"):
        raise RuntimeError("no such driver")
    return load(path, like)

sharded_checkpoints.load = loaded
runpy.run_module("experiments.mnist", run_name="__main__")
"""


@pytest.mark.slow  # several processes
def test_all_use_the_previous_checkpoint_if_one_of_them_cannot_read_the_last(folder, tmp_path):
    flags = ["--hidden=32,20", f"--data_dir={folder}", "--batch_size=100", "--checkpoint_every=4"]
    with started(*flags, "--epochs=2", "--workdir=whole", cwd=tmp_path) as jobs:
        assert [code for code, *_ in ended(jobs)] == [0, 0]
    flags += ["--workdir=parts", "--resume"]
    with started(*flags, "--epochs=1", cwd=tmp_path) as jobs:
        assert [code for code, *_ in ended(jobs)] == [0, 0]
    command = [sys.executable, "-c", BLIND]
    with started(*flags, "--epochs=2", cwd=tmp_path, command=command) as jobs:
        (code, output, errors), other = ended(jobs)
    assert (code, other[0]) == (0, 0), (errors, other)
    assert "another process can't read it" in " ".join(output.split())
    assert "resume  from the previous good one, of step 8 of 20" in output
    for name in ("params.safetensors", "steps.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


@pytest.mark.slow  # several processes
def test_parameters_of_a_file_are_divided(alone, folder, tmp_path):
    flags = [*SMALL, f"--data_dir={folder}", f"--params={alone}/params.safetensors"]
    with started(*flags, "--workdir=run", "--mesh=model:2", cwd=tmp_path) as jobs:
        assert [code for code, *_ in ended(jobs)] == [0, 0]
    before = files.read_lines(tmp_path / "run/metrics.jsonl")[0]
    after = files.read_lines(alone / "metrics.jsonl")[-1]
    assert before["val_loss"] == pytest.approx(after["val_loss"], rel=1e-5)


@pytest.mark.slow  # several processes
def test_a_signal_to_one_process_stops_all_at_the_same_step(folder, tmp_path):
    flags = ["--hidden=32,20", f"--data_dir={folder}", "--epochs=100000", "--workdir=run"]
    with started(*flags, "--resume", cwd=tmp_path) as jobs:
        assert jobs[0].stdout
        next(line for line in jobs[0].stdout if line.startswith("Epoch      3/"))
        jobs[1].send_signal(signal.SIGTERM)
        (code, output, errors), (other_code, *_) = ended(jobs)
        assert (code, other_code) == (75, 75), errors
        assert "interrupted; " in output and "--resume" in output.splitlines()[-1]
    with started(*flags, "--resume", cwd=tmp_path) as jobs:
        assert jobs[0].stdout
        line = next(line for line in jobs[0].stdout if line.startswith("resume"))
        assert "from step" in line
        for job in jobs:
            job.send_signal(signal.SIGINT)
        assert [code for code, *_ in ended(jobs)] == [130, 130]


@pytest.mark.slow  # waits until the others notice
@pytest.mark.parametrize(
    ("victim", "number", "when"),
    [
        (0, signal.SIGKILL, "training"),
        (1, signal.SIGKILL, "training"),
        (0, signal.SIGKILL, "compiling"),
        (1, signal.SIGKILL, "compiling"),
        (0, signal.SIGSTOP, "training"),
        (1, signal.SIGSTOP, "training"),
    ],
)
def test_a_lost_process_ends_the_job_within_a_minute(folder, tmp_path, victim, number, when):
    flags = ["--hidden=32,20", f"--data_dir={folder}", "--epochs=100000", "--workdir=run"]
    with started(*flags, cwd=tmp_path) as jobs:
        sign = f"Epoch      {0 if when == 'compiling' else 3}/"
        assert jobs[0].stdout
        next(line for line in jobs[0].stdout if line.startswith(sign))
        jobs[victim].send_signal(number)
        survivor, lost_at = jobs[1 - victim], time.monotonic()
        _, errors = survivor.communicate(timeout=TIMEOUT)
        assert time.monotonic() - lost_at < 60
        assert survivor.returncode == 75
        assert errors.splitlines()[-1].startswith(f"experiments.mnist: process {victim}")
        assert "is lost" in errors.splitlines()[-1]


@pytest.mark.slow  # four processes
def test_all_that_are_left_of_many_processes_name_the_lost_one(folder, tmp_path):
    """Sums go around in a ring, so only the neighbors of the lost process have an error at once."""
    flags = ["--hidden=32,20", f"--data_dir={folder}", "--epochs=100000", "--workdir=run"]
    with started(*flags, cwd=tmp_path, number=4) as jobs:
        assert jobs[0].stdout
        next(line for line in jobs[0].stdout if line.startswith("Epoch      3/"))
        jobs[2].kill()
        lost_at = time.monotonic()
        found = ended(jobs)
        assert time.monotonic() - lost_at < 60
    assert [code for code, *_ in found] == [75, 75, -signal.SIGKILL, 75], found
    for process in (0, 1, 3):
        assert "experiments.mnist: process 2 of 4 on " in found[process][2], found


# Waits less for the other processes than the program itself.
HASTY = """
import runpy
from experiments.common import processes
processes._PATIENT, processes._START = 2, 7
runpy.run_module("experiments.mnist", run_name="__main__")
"""


@pytest.mark.slow  # waits
@pytest.mark.parametrize(("missing", "who"), [(0, "process 0: nothing answers"), (1, "other proc")])
def test_a_process_that_never_comes_ends_the_job(tmp_path, missing, who):
    command = [sys.executable, "-c", HASTY]
    with started(cwd=tmp_path, missing=[missing], command=command) as jobs:
        ((code, output, errors),) = ended(jobs)
    assert (code, output) == (1, "")
    first, second = errors.splitlines()
    for line in (first, second):
        assert line.startswith(f"experiments.mnist: process {1 - missing} waits at 127.0.0.1:")
        assert f" for {who}" in line
    assert first.endswith("; it waits up to 7 s") and ", after 7 s; start all processes" in second
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # several processes
def test_a_process_that_waits_for_the_others_can_be_stopped(tmp_path):
    command = [sys.executable, "-c", HASTY.replace("2, 7", "2, 600")]
    with started(cwd=tmp_path, missing=[0], command=command) as (job,):
        assert job.stderr and "process 1 waits at" in job.stderr.readline()
        job.send_signal(signal.SIGTERM)
        ((code, *_),) = ended([job])
        assert code == 75


@pytest.mark.slow  # several processes
def test_processes_with_other_flags_are_refused(folder, tmp_path):
    seeds = [["--seed=0"], ["--seed=1"]]
    with started(f"--data_dir={folder}", cwd=tmp_path, own=seeds) as jobs:
        (code, _, errors), (other_code, _, reason) = ended(jobs)
    assert "process 1 was started with a different --seed from process 0: 1, not 0" in reason
    assert other_code == code == 2
    assert "process 1 of 2" in errors and "has ended early" in errors
    assert not (tmp_path / "runs").exists()


def test_auto_is_refused_where_nothing_has_started_processes(tmp_path):
    environ = {name: value for name, value in os.environ.items() if "SLURM" not in name}
    result = subprocess.run(
        [*COMMAND, "--distributed=auto"],
        cwd=tmp_path,
        env={**environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert result.returncode == 2 and result.stdout == "" and not list(tmp_path.iterdir())
    assert "JAX found no job: of Slurm (started with srun)" in result.stderr
    assert len(result.stderr.splitlines()) == 1
