"""`python -m experiments.compact`: few files of many, and the same runs."""

import subprocess
import sys

from experiments.common import run_files, sweep_directory


def compact(directory):
    command = [sys.executable, "-m", "experiments.compact", str(directory)]
    return subprocess.run(command, capture_output=True, text=True)


def test_many_files_become_few_and_what_was_done_is_said(tmp_path, fill):
    for seeds in (2, 3, 4):
        fill(tmp_path / "new", seeds=seeds)
        folder = run_files.folder(tmp_path, f"a-{seeds}of9")
        folder.parent.mkdir(exist_ok=True)
        (tmp_path / "new").rename(folder)
    before = sweep_directory.read(tmp_path)
    result = compact(tmp_path)
    assert result.returncode == 0 and result.stderr == ""
    assert result.stdout.splitlines()[-3:] == [
        "runs    12", "files   1 file, before 3", f"results {tmp_path}"
    ]  # fmt: skip
    (path,) = tmp_path.rglob("*.parquet")
    assert path.parent == tmp_path / "compacted"
    assert sweep_directory.read(tmp_path).equals(before)


def test_a_directory_without_runs_is_reported(tmp_path):
    result = compact(tmp_path / "nothing")
    assert result.returncode == 2 and result.stdout == ""
    assert f"{tmp_path}/nothing holds no runs; run python -m experiments.sweep" in result.stderr
    assert not (tmp_path / "nothing").exists()
