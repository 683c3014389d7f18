"""The shell scripts: which commands they run. `python` is a stub that prints its arguments."""

import os
import pathlib
import re
import signal
import subprocess
import sys
from typing import Any

import psutil
import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"


@pytest.fixture
def bash(tmp_path):
    python(tmp_path, 'echo "$@"')

    def run(script, *arguments, cwd=SCRIPTS.parent, **environment):
        return subprocess.run(
            ["bash", SCRIPTS / script, *arguments],
            cwd=cwd,
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **environment},
            capture_output=True,
            text=True,
        )

    return run


def stub(directory, name, script):
    """Makes a command of that name."""
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def python(directory, script):
    """Makes a Python that has everything installed."""
    stub(directory, "python", f"[ $1 != -c ] || exit 0\n{script}")


def job(**more):
    """The environment that Slurm gives a job; a project's `.venv` is not activated."""
    job = {"JOB_ID": 9, "CPUS_PER_TASK": 3, "JOB_NUM_NODES": 2, "NTASKS": 2, **more}
    return {f"SLURM_{name}": str(value) for name, value in job.items()} | {"VIRTUAL_ENV": "/"}


def task(number, tasks, step=None, **more):
    """The environment that Slurm gives a task of an array."""
    ids = {"ID": number, "MIN": min(tasks), "MAX": max(tasks), "COUNT": len(tasks)}
    if step:
        ids["STEP"] = step
    ids = {f"ARRAY_TASK_{name}": value for name, value in ids.items()}
    return job(ARRAY_JOB_ID=7, **ids, **more)


@pytest.mark.parametrize("program", ["sweep", "depth", "transfer"])
@pytest.mark.parametrize(
    ("tasks", "step"),
    [
        (range(8), None),
        (range(3, 6), 1),  # --array=3-5
        (range(1, 9, 3), 3),  # --array=1-8:3
        ([5], 1),
    ],
    ids=str,
)
def test_each_task_of_a_range_trains_one_shard(bash, program, tasks, step):
    for index, number in enumerate(tasks):
        result = bash("cluster/slurm.sh", program, "--init=a, b", **task(number, tasks, step))
        assert result.returncode == 0, result.stderr
        expected = f"-u -m experiments.{program} --shard={index}/{len(tasks)} --init=a, b"
        assert result.stdout == f"{expected}\n"


def test_without_an_array_a_job_trains_the_whole_grid(bash):
    result = bash("cluster/slurm.sh", "sweep", "--seeds=100", **job())
    assert result.stdout == "-u -m experiments.sweep --seeds=100\n"


@pytest.mark.parametrize("tasks", [[3, 5], [0, 1, 2, 7], [0, 10]], ids=str)
def test_a_list_of_tasks_is_refused(bash, tasks):
    for number in tasks:
        result = bash("cluster/slurm.sh", "sweep", **task(number, tasks, 1))
        assert result.returncode == 2 and result.stdout == ""
        assert "must be a plain range such as 0-7; finished runs are skipped" in result.stderr
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["audit"], ["--seeds=3"]], ids=str)
def test_a_job_without_one_of_the_programs_is_refused(bash, arguments):
    result = bash("cluster/slurm.sh", *arguments, **job())
    assert result.returncode == 2 and result.stdout == ""
    assert "must be sweep, depth, transfer or mnist, not '" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("missing", ["SLURM_JOB_ID", "SLURM_CPUS_PER_TASK"])
def test_the_job_script_outside_a_job_is_refused(bash, missing):
    result = bash("cluster/slurm.sh", "sweep", **{**job(), missing: ""})
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.endswith("submit it with sbatch, as its first lines show\n")
    assert len(result.stderr.splitlines()) == 1


def test_a_job_from_another_directory_is_refused(bash, tmp_path):
    result = bash("cluster/slurm.sh", "sweep", cwd=tmp_path, **job())
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.endswith(f"submit from the project's directory, not from {tmp_path}\n")


@pytest.mark.parametrize(
    "script",
    [
        "exit 127",  # as if there were none
        f'exec {sys.executable} -I -S "$@"',  # without the packages
    ],
)
def test_a_job_without_the_environment_is_refused(bash, tmp_path, script):
    stub(tmp_path, "python", script)
    stub(tmp_path, "scontrol", 'echo "scontrol $@"')
    result = bash("cluster/slurm.sh", "sweep", **job())
    assert result.returncode == 2 and result.stdout == ""
    assert "activate its environment before sbatch, or make .venv" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_job_finds_the_environment(bash, tmp_path):
    stub(tmp_path, "python", f'[ $1 = -c ] || exec echo ran\nexec {sys.executable} "$@"')
    result = bash("cluster/slurm.sh", "sweep", **job())
    assert (result.returncode, result.stdout) == (0, "ran\n")


def test_one_run_has_a_process_for_each_task_of_a_job(bash, tmp_path):
    stub(tmp_path, "srun", 'echo "$JAX_LOCAL_DEVICE_IDS: $@"')
    command = "python -u -m experiments.mnist --distributed=auto --resume --mesh=data:8"
    four = {"GPUS_ON_NODE": 4}
    for gpus, tasks, devices in (({}, 2, ""), (four, 8, ""), (four, 2, "0,1,2,3")):
        result = bash("cluster/slurm.sh", "mnist", "--mesh=data:8", **job(NTASKS=tasks, **gpus))
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(f"{devices}: --cpus-per-task=3 ")
        assert result.stdout.endswith(f" {command}\n")


def test_one_run_as_an_array_is_refused(bash, tmp_path):
    stub(tmp_path, "srun", 'echo "$@"')
    result = bash("cluster/slurm.sh", "mnist", **task(1, range(2)))
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.endswith("submit it without --array, or train many runs with sweep\n")
    assert len(result.stderr.splitlines()) == 1


@pytest.fixture
def project(tmp_path):
    """A directory that jobs may be submitted from, and write to."""
    path = tmp_path / "project"
    (path / "experiments").mkdir(parents=True)
    (path / "experiments/sweep.py").touch()
    return path


@pytest.mark.parametrize(
    ("codes", "last"),
    [
        ([], 0),
        ([], 2),
        ([1, 137, 1], 137),  # three retries
        ([1, 75, 137, 75, 138, 143, 75, 1, 75], 1),  # only failures count
        ([75] * 4 + [1], 0),
        ([1, 1, 1], 2),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("environment", "name"), [(job(), "9"), (task(4, range(8)), "7_4")], ids=["job", "task"]
)
def test_a_job_is_requeued_if_that_can_help(
    bash, project, tmp_path, codes, last, environment, name
):
    stub(tmp_path, "scontrol", 'echo "scontrol $@"')
    for restarts, code in enumerate([*codes, last]):
        python(tmp_path, f"exit {code}")
        counted = {"SLURM_RESTART_COUNT": str(restarts)}
        result = bash("cluster/slurm.sh", "sweep", cwd=project, **environment, **counted)
        assert result.returncode == code
        again = restarts < len(codes)
        assert result.stdout == (f"scontrol requeue {name}\n" if again else "")
        assert len(result.stderr.splitlines()) == (code not in (0, 2))
    assert [path.name for path in project.iterdir()] == ["experiments"]  # nothing is left behind


def test_failures_of_other_jobs_and_tasks_do_not_count(bash, project, tmp_path):
    python(tmp_path, "exit 1")
    stub(tmp_path, "scontrol", 'echo "scontrol $@"')
    for number in range(5):
        result = bash("cluster/slurm.sh", "sweep", cwd=project, **task(number, range(5)))
        assert result.stdout == f"scontrol requeue 7_{number}\n"


@pytest.mark.parametrize(
    ("number", "printed", "said"),
    [
        # The time limit is near.
        (signal.SIGUSR1, "python got USR1\nscontrol requeue 9\n", "not finished; requeuing, so"),
        # Slurm sends it to all processes, so it isn't forwarded.
        (signal.SIGTERM, "", "ended by Slurm: a preempted job goes on by itself; else submit"),
    ],
)
def test_a_job_that_is_stopped_is_requeued_unless_slurm_ended_it(tmp_path, number, printed, said):
    python(
        tmp_path,
        "trap 'echo python got USR1; exit 75' USR1\necho up >&2\n"
        "for i in $(seq 10); do sleep 0.1; done\nexit 75",
    )
    stub(tmp_path, "scontrol", 'echo "scontrol $@"')
    shell: Any = subprocess.Popen(
        ["bash", SCRIPTS / "cluster/slurm.sh", "sweep"],
        cwd=SCRIPTS.parent,
        env={**os.environ, **job(), "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert shell.stderr.readline() == "up\n"
    shell.send_signal(number)
    output, errors = shell.communicate()
    assert (output, shell.returncode) == (printed, 75)
    assert errors.startswith(f"slurm.sh: {said} ")
    assert len(errors.splitlines()) == 1


def test_a_job_that_cannot_be_requeued_says_what_to_do(bash, project, tmp_path):
    python(tmp_path, "exit 75")
    stub(tmp_path, "scontrol", "exit 1")
    result = bash("cluster/slurm.sh", "sweep", cwd=project, **job())
    assert result.returncode == 75
    assert result.stderr.endswith("it can't be requeued; submit the same command to go on\n")


@pytest.fixture
def host(tmp_path):
    """What stands for all hosts of a slice: `gcloud` runs there what is to run on all of them."""
    path = tmp_path / "host"
    (path / "initjax/.venv/bin").mkdir(parents=True)
    stub(
        tmp_path,
        "gcloud",
        f'for part; do case "$part" in --command=*) cd {path}; '
        'eval "${part#--command=}"; exit;; esac; done; printf "%s|" "$@"',
    )
    return path / "initjax"


@pytest.fixture
def tpu(bash, host):
    return lambda *arguments: bash("cluster/tpu_vm.sh", *arguments, TPU="slice", ZONE="here")


def test_a_run_on_the_hosts_of_a_slice_is_started_and_stopped(tpu, host):
    stub(
        host / ".venv/bin",
        "python",
        "trap 'echo stopped; exit' USR1; printf '%s\\n' \"$@\"; while :; do sleep 0.1; done",
    )
    assert tpu("run", "--mesh=data:16", "--init=normal(0.1, 0.2)").returncode == 0
    started = ["-u", "-m", "experiments.mnist", "--distributed=auto", "--resume"]
    given = ["--mesh=data:16", "--init=normal(0.1, 0.2)"]
    process = psutil.Process(int((host / "run.pid").read_text()))
    while len(tpu("log").stdout.splitlines()) < 7:
        assert process.is_running()
    assert tpu("log").stdout.splitlines() == [*started, *given]
    second = tpu("run", "--mesh=data:16")
    assert second.returncode == 1 and second.stderr == "a run goes on here; stop it first\n"
    assert int((host / "run.pid").read_text()) == process.pid
    assert tpu("stop").returncode == 0
    process.wait(timeout=30)
    assert tpu("log").stdout.splitlines() == [*started, *given, "stopped"]
    assert tpu("stop").stdout == "nothing runs here\n"


def test_a_process_that_has_got_the_number_of_an_ended_run_is_left_alone(tpu, host):
    stub(host / ".venv/bin", "python", "echo up")
    with subprocess.Popen(["sleep", "60"]) as other:
        (host / "run.pid").write_text(f"{other.pid}\n")
        assert tpu("stop").stdout == "nothing runs here\n"
        assert tpu("run").returncode == 0
        assert other.poll() is None
        other.kill()


def test_results_are_fetched_from_one_host_of_a_slice(tpu):
    fetched = tpu("fetch", "/mnt/a", "runs/")
    shown = "compute|tpus|tpu-vm|scp|--recurse|slice:/mnt/a|runs/|--worker=0|--zone=here|"
    assert fetched.stdout == shown


def test_the_last_commit_is_installed_on_the_hosts_of_a_slice(tpu, tmp_path):
    stub(tmp_path, "git", "echo archive")
    stub(tmp_path, "python3", "exit 3")
    stub(tmp_path, "tar", 'echo "tar $@"')
    installed = tpu("install")
    assert installed.returncode == 3  # a failure on a host is one
    assert installed.stdout.startswith("compute|tpus|tpu-vm|scp|")
    assert installed.stdout.endswith("|--worker=all|--zone=here|tar -xzf initjax.tar.gz\n")


@pytest.mark.parametrize("missing", ["TPU", "ZONE"])
def test_a_slice_must_be_named(bash, missing):
    refused = bash("cluster/tpu_vm.sh", "log", **{"TPU": "slice", "ZONE": "here", missing: ""})
    assert refused.returncode == 2 and refused.stdout == ""
    assert refused.stderr.startswith("tpu_vm.sh: set TPU and ZONE, ")


@pytest.mark.parametrize("paths", [[], ["/mnt/a"]], ids=str)
def test_results_are_not_fetched_without_both_paths(tpu, paths):
    refused = tpu("fetch", *paths)
    assert refused.returncode == 2 and refused.stdout == ""
    assert refused.stderr.startswith("tpu_vm.sh: fetch needs two paths: ")


@pytest.mark.parametrize("arguments", [[], ["start"]], ids=str)
def test_an_unknown_task_for_a_slice_is_refused(tpu, arguments):
    refused = tpu(*arguments)
    assert refused.returncode == 2 and "must be install, run, log, stop or fetch" in refused.stderr


def test_the_main_figure_is_made_from_the_runs_just_trained(bash):
    result = bash("main_figure.sh", "--workdir=x", "--epochs=1")
    sweep, report, table = result.stdout.splitlines()
    assert sweep.startswith("-m experiments.sweep --seeds=30 --workdir=x --epochs=1")
    assert sweep.endswith("--workdir=runs/main")  # the last one counts
    assert report == "-m experiments.report runs/main"
    assert table == "scripts/published_table.py runs/main"


def test_an_accelerator_is_checked_step_by_step_into_one_table(bash, tmp_path):
    stub(tmp_path, "python", 'case "$*" in *sweep*) exit 3;; esac\necho "$@"')
    result = bash("check_accelerator.sh", tmp_path / "checked")
    head, *rows, last = [line.split() for line in result.stdout.splitlines()]
    assert head == ["check", "result", "seconds"] and last[-1] == str(tmp_path / "checked")
    found = {row[0]: row[1:] for row in rows}
    assert list(found) == ["versions", "main", "sweep", "draws", "audits", "tests"]
    assert found["sweep"][0] == "FAILED" and found["draws"][0] == "ok"
    assert "tests/initjax/auditing/test_fix.py" in (tmp_path / "checked/tests.log").read_text()
    assert result.returncode == 1
    limits = re.findall(
        r"^check [\w\" ]+?(\d+) ", (SCRIPTS / "check_accelerator.sh").read_text(), re.M
    )
    assert len(limits) == 6 and sum(map(int, limits)) < 480
    again = bash("check_accelerator.sh", tmp_path / "checked")
    assert again.returncode == 2 and "choose another directory" in again.stderr


def test_nothing_is_checked_without_an_accelerator(bash, tmp_path):
    stub(tmp_path, "python", "echo no accelerator\nexit 1")
    result = bash("check_accelerator.sh", tmp_path / "checked")
    assert result.returncode == 1 and result.stdout.split()[3:5] == ["versions", "FAILED"]
    assert len(result.stdout.splitlines()) == 2 and result.stdout.endswith("no accelerator\n")
