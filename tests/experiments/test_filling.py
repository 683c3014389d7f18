"""Filling a directory: runs that are stopped, however often, go on bit for bit."""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from experiments import sweep
from experiments.common import (
    console,
    data,
    description,
    files,
    filling,
    sweep_directory,
    trainers,
    unfinished,
)
from experiments.common.config import Config

_INPUTS = [
    name for name in sweep_directory.SCHEMA.names if name not in ("seconds", "finished", "host")
]


def configs(folder, **options):
    settings = {"hidden": (8,), "epochs": 2, "data_dir": folder, **options}
    return [Config(init=init, seed=1, **settings) for init in ("he_normal", "zeros", "orthogonal")]


def train(wanted, directory, stream=None):
    dataset = data.load(None, wanted[0].data_dir)
    return sweep.run(wanted, dataset, str(directory), stream)


def outcome(directory):
    return repr(sweep_directory.read(directory).select(_INPUTS).to_pylist())


@pytest.fixture
def stop_after(monkeypatch):
    """Has the program asked to stop at some pause, and pauses after every few steps."""
    monkeypatch.setattr(trainers._Pace, "next", lambda pace, done, turns: min(pace.total, done + 5))

    def set(pauses):
        @contextlib.contextmanager
        def interrupt_later(*_):
            asked = itertools.count()
            yield lambda: console.Preempted if next(asked) >= pauses else None

        monkeypatch.setattr(console, "interrupt_later", interrupt_later)

    return set


def test_runs_that_are_stopped_again_and_again_go_on_to_the_bit(folder, tmp_path, stop_after):
    wanted = configs(folder)
    train(wanted, tmp_path / "undisturbed")
    assert not (tmp_path / "undisturbed/.unfinished").exists()
    for pauses in (0, 1, 3):  # each run has three pauses, and an end
        stop_after(pauses)
        with pytest.raises(console.Preempted):
            train(wanted, tmp_path / "stopped")
        assert unfinished.Unfinished(tmp_path / "stopped").keys()
    assert 0 < len(sweep_directory.read(tmp_path / "stopped")) < len(wanted)
    stop_after(10**9)
    train(wanted, tmp_path / "stopped")
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "undisturbed")
    assert not (tmp_path / "stopped/.unfinished").exists()


def test_what_is_left_of_a_stopped_run_is_used_only_if_it_is_whole_and_its_own(
    folder, tmp_path, stop_after, capsys
):
    wanted = configs(folder)
    stop_after(1)
    with pytest.raises(console.Preempted):
        train(wanted, tmp_path, sys.stdout)
    output = " ".join(capsys.readouterr().out.split())
    assert f"kept 0 runs in {tmp_path}, and " in output
    in_progress = unfinished.Unfinished(tmp_path)
    (path, *others) = sorted(in_progress.path(key) for key in in_progress.keys())
    content = path.read_bytes()
    # A run that is finished, which a killed process has not removed.
    in_progress.path("f" * 64).write_bytes(content)
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    for other in others:
        other.write_bytes(content)  # of another run
    stop_after(10**9)
    train(wanted, tmp_path, sys.stdout)
    output = " ".join(capsys.readouterr().out.split())
    assert output.count("Its run starts again.") == 1 + len(others)
    assert f"{path.name} is not used: it is damaged. Its run" in output
    assert output.count("is not used: it is of another run") == len(others)
    train(wanted, tmp_path / "undisturbed")
    assert outcome(tmp_path) == outcome(tmp_path / "undisturbed")
    assert in_progress.keys() == {"f" * 64}  # of a run of another grid, for all that is known


def test_a_run_does_not_go_on_on_another_model_of_cpu(
    folder, tmp_path, stop_after, capsys, monkeypatch
):
    wanted = configs(folder)[:1]
    stop_after(1)
    with pytest.raises(console.Preempted):
        train(wanted, tmp_path)
    assert unfinished.Unfinished(tmp_path).keys()
    monkeypatch.setattr(description, "processor", lambda: "A 1 avx2")
    stop_after(10**9)
    train(wanted, tmp_path, sys.stdout)
    output = " ".join(capsys.readouterr().out.split())
    assert "is not used: it was written by " in output and "; this is A 1 avx2, python " in output


def test_a_file_of_another_version_or_another_network_is_not_used(tmp_path):
    import numpy as np

    in_progress = unfinished.Unfinished(tmp_path)
    arrays = {"a": np.arange(3.0), "b": np.array(7, np.int32)}
    in_progress.save({"k": unfinished.Point(4, 1.5, arrays)}, "cpu, jax 1")
    found = in_progress.load("k", "cpu, jax 1", arrays)
    assert (found.steps, found.seconds) == (4, 1.5)
    assert all((found.arrays[name] == arrays[name]).all() for name in arrays)
    with pytest.raises(
        unfinished.Unusable, match="it was written by cpu, jax 1; this is cpu, jax 2"
    ):
        in_progress.load("k", "cpu, jax 2", arrays)
    with pytest.raises(unfinished.Unusable, match="another network"):
        in_progress.load("k", "cpu, jax 1", {"a": arrays["a"]})
    for content in (b"", in_progress.path("k").read_bytes()[:200]):
        in_progress.path("k").write_bytes(content)
        with pytest.raises(unfinished.Unusable, match="damaged"):
            in_progress.load("k", "cpu, jax 1", arrays)
    in_progress.clean({"k"})
    assert not (tmp_path / ".unfinished").exists()


def test_a_folder_that_another_process_removes_meanwhile_is_made_again(tmp_path, monkeypatch):
    write, removed = files.write, []

    def remove_first(path, content):
        if not removed:
            path.parent.rmdir()
            removed.append(path)
        write(path, content)

    monkeypatch.setattr(files, "write", remove_first)
    in_progress = unfinished.Unfinished(tmp_path)
    in_progress.save({"k": unfinished.Point(4, 1.5, {})}, "cpu")
    assert removed and in_progress.load("k", "cpu", {}).steps == 4


def test_only_as_many_keys_are_looked_at_as_are_needed(tmp_path):
    class Group(dict):
        def __iter__(self):
            for count, key in enumerate(super().__iter__()):
                assert count < 3
                yield key

    group = Group.fromkeys(map(str, range(1000)))
    in_progress = unfinished.Unfinished(tmp_path)
    keys = filling._in_progress_first(group, in_progress)
    assert list(itertools.islice(keys, 3)) == ["0", "1", "2"]
    in_progress.save({key: unfinished.Point(1, 1.0, {}) for key in ("700", "1", "another")}, "cpu")
    keys = filling._in_progress_first(group, in_progress)
    assert list(itertools.islice(keys, 4)) == ["1", "700", "0", "2"]


# A sweep of long runs: it pauses ten times a second, and saves what it has each time.
_LONG = """
import sys
from experiments import sweep
from experiments.common import console, filling, trainers
filling._SAVE_SECONDS = 0.0
trainers._WHOLE_SECONDS = trainers._PAUSE_SECONDS = 0.1
console.run_program(sweep._PROGRAM, sweep.main)
"""


@pytest.mark.skipif(os.name == "nt", reason="sends signals as POSIX has them")
def test_a_long_run_survives_sigterm_and_kill(folder, tmp_path, monkeypatch):
    flags = ["--init=he_normal", "--seeds=2", "--hidden=8", "--epochs=400", "--workdir=r"]
    for number, code in ((signal.SIGTERM, 75), (signal.SIGKILL, -9)):
        process = subprocess.Popen(
            [sys.executable, "-c", _LONG, *flags, f"--data_dir={folder}"],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        in_progress = unfinished.Unfinished(tmp_path / "r")
        before = [in_progress.path(key).read_bytes() for key in sorted(in_progress.keys())]
        while [in_progress.path(key).read_bytes() for key in sorted(in_progress.keys())] == before:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (code, "")
        if number == signal.SIGTERM:
            assert "SIGTERM: saving the current runs" in output
            kept = r"\nkept    0 runs in r, and [12] in progress; run the same command again to"
            assert re.search(kept, output)
    loaded, load = [], unfinished.Unfinished.load
    monkeypatch.setattr(
        unfinished.Unfinished, "load", lambda *given: loaded.append(load(*given)) or loaded[-1]
    )
    wanted = [Config(init="he_normal", seed=seed, hidden=(8,), epochs=400) for seed in range(2)]
    wanted = [Config(**{**vars(one), "data_dir": folder}) for one in wanted]
    train(wanted, tmp_path / "r")
    assert loaded and all(0 < point.steps < 3200 for point in loaded)
    train(wanted, tmp_path / "undisturbed")
    assert outcome(tmp_path / "r") == outcome(tmp_path / "undisturbed")


def test_a_file_that_another_machine_is_writing_is_left_alone(tmp_path, monkeypatch):
    """Whatever the clocks of both show: the file system gives files their times."""
    folder = tmp_path / ".unfinished"
    folder.mkdir()
    new, old = folder / ".a.safetensors.1.tmp", folder / ".a.safetensors.2.tmp"
    for path in (new, old):
        path.touch()
    written = new.stat().st_mtime
    os.utime(old, (written, written - 25 * 3600))
    monkeypatch.setattr(time, "time", lambda: written + 10 * 365 * 24 * 3600)
    unfinished.Unfinished(tmp_path).clean(set())
    assert new.exists() and not old.exists()
