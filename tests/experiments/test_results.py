"""The results of sweeps: each run once, none lost, none read that is not needed."""

import os
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments.common import results, store


def key(number):
    return f"{number:015x}".ljust(64, "0")


def row(number, **changes):
    values = {
        "key": key(number), "status": "finished", "init": "zeros", "seed": number, "loss": [1.0],
        "step_loss": np.arange(5.0), "step_acc": np.arange(5.0), **changes,
    }  # fmt: skip
    return {name: values.get(name) for name in results.SCHEMA.names}


@pytest.fixture
def listings(monkeypatch):
    """How often the directory has been listed."""
    counted = []
    finished = results.Results.finished
    monkeypatch.setattr(
        results.Results, "finished", lambda self: counted.append(1) or finished(self)
    )
    return counted


def test_a_claim_lists_the_directory_twice_however_many_keys_there_are(tmp_path, listings):
    keys = [key(number) for number in range(1000)]
    with results.Results(tmp_path) as stored:
        stored.add([row(number) for number in range(500)])
        assert stored.claim(keys, 300) == keys[500:800]
        assert len(listings) == 2


def test_what_is_finished_while_it_is_claimed_is_given_up_again(tmp_path, monkeypatch):
    """Another process adds runs after the directory was listed, before they are locked."""
    with results.Results(tmp_path / "late") as late:
        late.add([row(number) for number in range(3)])
    (file,) = (tmp_path / "late").glob("*.parquet")
    with results.Results(tmp_path) as stored:
        tried = []
        locked = stored._try

        def lock(key):
            if not tried:
                file.rename(tmp_path / file.name)
            tried.append(key)
            return locked(key)

        monkeypatch.setattr(stored, "_try", lock)
        assert stored.claim([key(number) for number in range(6)], 2) == [key(3), key(4)]
        assert tried == [key(0), key(1), key(3), key(4)]  # the third is known by then


def test_no_two_processes_claim_the_same(tmp_path):
    keys = [key(number) for number in range(6)]
    code = f"""
from experiments.common import results
with results.Results({str(tmp_path)!r}) as stored:
    print(stored.claim({keys!r}, 4))
"""
    with results.Results(tmp_path) as stored:
        assert stored.claim(keys, 3) == keys[:3]
        stored.add([row(0)])
        output = subprocess.check_output([sys.executable, "-c", code], text=True)
        assert output == f"{keys[3:]}\n"  # neither those in hand nor what is finished
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output == f"{keys[1:5]}\n"


def test_runs_are_read_once_each_and_in_order(tmp_path):
    with results.Results(tmp_path) as stored:
        stored.add([row(5), row(3)])
        stored.add([row(1), row(4)])
        stored.add([row(4), row(3), row(2, seed=9)])  # where files could not be locked
    assert results.read(tmp_path)["seed"].to_pylist() == [1, 3, 4, 5, 9]
    assert results.read(tmp_path, {key(4), key(1), key(7)})["seed"].to_pylist() == [1, 4]
    assert len(results.read(tmp_path, {key(7)})) == 0


def test_the_columns_of_every_step_are_read_only_if_they_are_wanted(tmp_path, monkeypatch):
    with results.Results(tmp_path) as stored:
        stored.add([row(1), row(0)])
    whole = results.read(tmp_path)
    assert whole.column_names == results.SCHEMA.names
    assert whole["step_loss"].to_pylist() == [[0, 1, 2, 3, 4]] * 2
    asked = []
    read = pq.ParquetFile.read
    monkeypatch.setattr(
        pq.ParquetFile,
        "read",
        lambda self, columns=None: asked.extend(columns or ["all"]) or read(self, columns),
    )
    fewer = results.read(tmp_path, steps=False)
    assert fewer.equals(whole.drop_columns(["step_loss", "step_acc"]))
    assert sorted(asked) == sorted(fewer.column_names)


def test_temporary_files_of_killed_processes_are_removed_and_those_in_use_are_not(
    tmp_path, monkeypatch
):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(type(tmp_path), "unlink", lambda *_, **__: None)
        for _ in range(2):
            with pytest.raises(Killed), results.Results(tmp_path) as stored:
                stored.add([row(0)])
    old, new = tmp_path.glob(".runs-*.tmp")  # of one name, and yet two
    os.utime(old, (0, time.time() - 2 * results._ABANDONED))
    other = tmp_path / ".notes.tmp"
    other.touch()
    os.utime(other, (0, 0))
    with results.Results(tmp_path):
        assert not old.exists() and new.exists() and other.exists()


def test_two_writers_with_one_process_number_write_two_files(tmp_path, monkeypatch):
    """As on two machines, or in two containers, that share a directory."""
    written = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: written.append(a) or replace(a, b))
    store.write(tmp_path / "file", b"one")
    store.write(tmp_path / "file", b"two")
    assert written[0] != written[1] and (tmp_path / "file").read_bytes() == b"two"


def test_a_directory_that_cannot_be_written_to_is_told(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        stored = results.Results(path)
        assert stored.finished() == set()
        with pytest.raises(ValueError, match=r"cannot write to .*: name another --workdir"):
            stored.__enter__()
