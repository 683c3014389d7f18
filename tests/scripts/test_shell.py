"""The shell scripts: which commands they run. `python` is a stub that prints its arguments."""

import os
import pathlib
import re
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


def test_an_accelerator_is_checked_step_by_step_into_one_table(bash, tmp_path):
    (tmp_path / "python").write_text('#!/bin/sh\ncase "$*" in *sweep*) exit 3;; esac\necho "$@"\n')
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
    (tmp_path / "python").write_text("#!/bin/sh\necho no accelerator\nexit 1\n")
    result = bash("check_accelerator.sh", tmp_path / "checked")
    assert result.returncode == 1 and result.stdout.split()[3:5] == ["versions", "FAILED"]
    assert len(result.stdout.splitlines()) == 2 and result.stdout.endswith("no accelerator\n")
