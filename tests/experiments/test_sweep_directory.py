"""The directory of a sweep: each run once, none lost, and no unneeded column is read."""

import os
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments.common import files, run_files, sweep_directory
from experiments.common.config import UsageError


def key(number):
    return f"{number:015x}".ljust(64, "0")


def row(number, **changes):
    values = {
        "key": key(number), "status": "finished", "init": "zeros", "seed": number, "loss": [1.0],
        "step_loss": np.arange(5.0), "step_acc": np.arange(5.0), **changes,
    }  # fmt: skip
    return {name: values.get(name) for name in sweep_directory.SCHEMA.names}


@pytest.fixture
def listings(monkeypatch):
    """How often the directory has been listed."""
    counted = []
    finished = sweep_directory.SweepDirectory.finished
    monkeypatch.setattr(
        sweep_directory.SweepDirectory, "finished", lambda self: counted.append(1) or finished(self)
    )
    return counted


def test_a_claim_lists_the_directory_once_however_many_keys_there_are(tmp_path, listings):
    keys = [key(number) for number in range(1000)]
    with sweep_directory.SweepDirectory(tmp_path) as stored:
        stored.add([row(number) for number in range(500)])
        stored.finished()
        listings.clear()
        assert stored.claim(keys, 300) == keys[500:800]
        assert len(listings) == 1


def test_runs_that_another_process_finishes_meanwhile_are_not_claimed(tmp_path):
    """It adds runs, and releases its claims on them, after this process has looked."""
    with (
        sweep_directory.SweepDirectory(tmp_path) as stored,
        sweep_directory.SweepDirectory(tmp_path) as other,
    ):
        keys = [key(number) for number in range(6)]
        assert other.claim(keys, 3) == keys[:3]
        assert stored.finished() == set()
        other.add([row(number) for number in range(3)])
        assert stored.claim(keys, 2) == keys[3:5]
        stored.add([row(3), row(4)])
        assert not list((tmp_path / ".claims").glob("*.*"))


def test_runs_of_a_file_that_is_replaced_while_it_is_looked_for_are_not_claimed(
    tmp_path, monkeypatch
):
    """Another process merges its files after the directory was listed, and before it is read."""
    with (
        sweep_directory.SweepDirectory(tmp_path) as stored,
        sweep_directory.SweepDirectory(tmp_path) as other,
    ):
        for number in range(3):
            other.add([row(number)])
        read = run_files.read

        def merged_before(path, columns=None):
            monkeypatch.setattr(run_files, "read", read)
            other._merge(list(other._sizes))
            return read(path, columns)

        monkeypatch.setattr(run_files, "read", merged_before)
        assert stored.claim([key(number) for number in range(6)], 2) == [key(3), key(4)]


def test_claims_end_with_the_process_that_holds_them(tmp_path):
    code = f"""
import os
from experiments.common import files, sweep_directory
stored = sweep_directory.SweepDirectory({str(tmp_path)!r}).__enter__()
stored.claim({[key(0), key(1)]!r}, 2)
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert len(list((tmp_path / ".claims").iterdir())) == 3  # what it left
    with sweep_directory.SweepDirectory(tmp_path) as stored:
        assert stored.claim([key(0), key(1)], 2) == [key(0), key(1)]
        stored.add([row(0), row(1)])
    assert not list((tmp_path / ".claims").iterdir())


def test_claims_of_finished_runs_that_a_killed_process_left_are_removed(tmp_path):
    with sweep_directory.SweepDirectory(tmp_path) as stored:
        stored.claim([key(0), key(1)], 2)
    with sweep_directory.SweepDirectory(tmp_path / "other") as other:
        other.add([row(0)])
    (file,) = (tmp_path / "other").glob("*.parquet")
    file.rename(tmp_path / file.name)
    with sweep_directory.SweepDirectory(tmp_path):
        assert [path.name for path in (tmp_path / ".claims").glob("*.*")] == [f"{key(1)}.0"]


def test_two_processes_never_claim_the_same_run(tmp_path):
    keys = [key(number) for number in range(6)]
    code = f"""
from experiments.common import files, sweep_directory
with sweep_directory.SweepDirectory({str(tmp_path)!r}) as stored:
    print(sorted(stored.claim({keys!r}, 4)))
"""
    with sweep_directory.SweepDirectory(tmp_path) as stored:
        assert stored.claim(keys, 3) == keys[:3]
        stored.add([row(0)])
        output = subprocess.check_output([sys.executable, "-c", code], text=True)
        assert output == f"{keys[3:]}\n"  # neither claimed nor finished ones
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output == f"{keys[1:5]}\n"


def test_runs_are_read_once_each_and_in_order(tmp_path):
    with sweep_directory.SweepDirectory(tmp_path) as stored:
        stored.add([row(5), row(3)])
        stored.add([row(1), row(4)])
        stored.add([row(4), row(3), row(2, seed=9)])  # trained twice
    assert sweep_directory.read(tmp_path)["seed"].to_pylist() == [1, 3, 4, 5, 9]
    assert sweep_directory.read(tmp_path, {key(4), key(1), key(7)})["seed"].to_pylist() == [1, 4]
    assert len(sweep_directory.read(tmp_path, {key(7)})) == 0


def test_the_columns_of_steps_are_read_only_on_request(tmp_path, monkeypatch):
    with sweep_directory.SweepDirectory(tmp_path) as stored:
        stored.add([row(1), row(0)])
    whole = sweep_directory.read(tmp_path)
    assert whole.column_names == sweep_directory.SCHEMA.names
    assert whole["step_loss"].to_pylist() == [[0, 1, 2, 3, 4]] * 2
    asked = []
    read = pq.ParquetFile.read
    monkeypatch.setattr(
        pq.ParquetFile,
        "read",
        lambda self, columns=None: asked.extend(columns or ["all"]) or read(self, columns),
    )
    fewer = sweep_directory.read(tmp_path, steps=False)
    assert fewer.equals(whole.drop_columns(["step_loss", "step_acc"]))
    assert sorted(asked) == sorted(fewer.column_names)


def test_old_temporary_files_are_removed_and_new_ones_are_kept(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with sweep_directory.SweepDirectory(tmp_path) as stored, monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(type(tmp_path), "unlink", lambda *_, **__: None)
        for _ in range(2):
            with pytest.raises(Killed):
                stored.add([row(0)])
    old, new = tmp_path.glob(".runs-*.tmp")
    # By the clock of the files: those of this and of other machines may be wrong.
    monkeypatch.setattr(time, "time", lambda: new.stat().st_mtime + 10 * 365 * 24 * 3600)
    os.utime(old, (0, new.stat().st_mtime - 2 * files.ABANDONED))
    other = tmp_path / ".notes.tmp"
    other.touch()
    os.utime(other, (0, 0))
    with sweep_directory.SweepDirectory(tmp_path):
        assert not old.exists() and new.exists() and other.exists()


def test_a_directory_that_is_not_writable_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        stored = sweep_directory.SweepDirectory(path)
        assert stored.finished() == set()
        with pytest.raises(ValueError, match=r"cannot write to .*; name another --workdir"):
            stored.__enter__()


def test_a_directory_that_was_made_for_runs_that_failed_is_removed(tmp_path):
    for directory in (tmp_path / "a/b", tmp_path):
        with sweep_directory.SweepDirectory(directory) as stored:
            assert stored.claim([key(0)], 1) == [key(0)]
            assert (directory / ".claims").is_dir()
        assert tmp_path.exists() and not (tmp_path / "a").exists()
    with sweep_directory.SweepDirectory(tmp_path / "a") as stored:
        stored.add([row(0)])
    assert (tmp_path / "a").exists()


def _cut_short(path):
    path.write_bytes(path.read_bytes()[:100])


def _without_losses(path):
    pq.write_table(pq.read_table(path).drop_columns(["loss"]), path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut_short, r"cannot read .*\.parquet: .*"),
        (_without_losses, r".*\.parquet has no column loss"),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do_about_it(damage, message, tmp_path):
    with sweep_directory.SweepDirectory(tmp_path) as stored:
        stored.add([row(1)])
    (path,) = tmp_path.glob("*.parquet")
    damage(path)
    with pytest.raises(UsageError, match=f"^{message}; if it is damaged, delete it, and"):
        sweep_directory.read(tmp_path)


def test_files_without_rows_hold_no_runs(tmp_path):
    with sweep_directory.SweepDirectory(tmp_path) as stored:
        stored.add([])
    with pytest.raises(UsageError, match="holds no runs"):
        sweep_directory.read(tmp_path)
