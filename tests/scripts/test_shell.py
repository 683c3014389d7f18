"""The shell scripts: which commands they run. `python` is a stub that prints its arguments."""

import os
import pathlib
import subprocess

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"


@pytest.fixture
def bash(tmp_path):
    stub = tmp_path / "python"
    stub.write_text('#!/bin/sh\necho "$@"\n')
    stub.chmod(0o755)

    def run(script, *arguments, **environment):
        return subprocess.run(
            ["bash", SCRIPTS / script, *arguments],
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **environment},
            capture_output=True,
            text=True,
        )

    return run


def task(number, tasks, step=None):
    """The environment that Slurm gives a task of an array."""
    variables = {"ID": number, "MIN": min(tasks), "MAX": max(tasks), "COUNT": len(tasks)}
    if step:
        variables["STEP"] = step
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in variables.items()}


@pytest.mark.parametrize(
    ("tasks", "step"),
    [
        (range(8), 1),
        (range(8), None),
        (range(3, 6), 1),  # --array=3-5
        (range(0, 5, 2), 2),  # --array=0-4:2
        (range(1, 9, 3), 3),
        ([5], 1),
    ],
    ids=str,
)
def test_each_task_of_a_range_trains_one_shard(bash, tasks, step):
    for index, number in enumerate(tasks):
        result = bash("sweep_slurm.sh", "--seeds=100", "--init=a, b", **task(number, tasks, step))
        assert result.returncode == 0, result.stderr
        expected = f"-u -m experiments.sweep --shard={index}/{len(tasks)} --seeds=100 --init=a, b"
        assert result.stdout == f"{expected}\n"


@pytest.mark.parametrize("tasks", [[3, 5], [0, 1, 2, 7], [0, 10]], ids=str)
def test_a_list_of_tasks_is_refused(bash, tasks):
    for number in tasks:
        result = bash("sweep_slurm.sh", **task(number, tasks, 1))
        assert result.returncode == 2 and result.stdout == ""
        assert "must be a plain range such as 0-7; finished runs are skipped" in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_the_main_figure_is_made_from_the_runs_just_trained(bash):
    result = bash("main_figure.sh", "--workdir=x", "--epochs=1")
    sweep, report, table = result.stdout.splitlines()
    assert sweep.startswith("-m experiments.sweep --seeds=30 --workdir=x --epochs=1")
    assert sweep.endswith("--workdir=runs/main")  # the last one counts
    assert report == "-m experiments.report runs/main"
    assert table == "scripts/published_table.py runs/main"
