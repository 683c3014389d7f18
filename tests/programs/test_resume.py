"""`python -m experiments.mnist --resume`: a run killed at any moment ends with the same bits."""

import dataclasses
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from experiments import mnist
from experiments.common import (
    checkpoints,
    console,
    data,
    files,
    layer_curves,
    learning_curve,
    resuming,
    run_directory,
    starting,
)
from experiments.common.config import Config, UsageError

COMMAND = [sys.executable, "-m", "experiments.mnist"]


def _draw(name, directory, *_):
    files.write(directory / name, b"")


@pytest.fixture(scope="module", autouse=True)
def _without_pictures():
    """Half the time of such a small run."""
    with pytest.MonkeyPatch.context() as patched:
        for module, name in ((learning_curve, "learning_curve.png"), (layer_curves, "audits.png")):
            patched.setattr(module, "draw", functools.partial(_draw, name))
        yield


@pytest.fixture(scope="module")
def config(folder):
    """Two epochs of four steps."""
    return Config(epochs=2, batch_size=250, hidden=(8,), data_dir=folder)


def train(config, workdir, stream=None, **options):
    """With a checkpoint after every third step, and an audit after every second."""
    settings = {"audit_every": 2, "checkpoint_every": 3, "resume": True, **options}
    return mnist.run(config, str(workdir), stream, **settings)


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    """A run that never saw a checkpoint."""
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    train(config, directory, checkpoint_every=None, resume=False)
    return directory


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """A run that is finished, with its last two checkpoints, after 6 and 8 steps."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    train(config, directory)
    return directory


def same(directory, expected):
    """Asserts that two runs ended with the same bits."""
    assert {*os.listdir(directory)} >= {name for name in os.listdir(expected) if name[0] != "e"}
    for name in {"params.safetensors", "steps.jsonl", "audits.jsonl"} & {*os.listdir(expected)}:
        assert (directory / name).read_bytes() == (expected / name).read_bytes(), name
    lines = [files.read_lines(path / "metrics.jsonl") for path in (directory, expected)]
    for one, other in zip(*lines, strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}
    summaries = [json.loads((path / "summary.json").read_text()) for path in (directory, expected)]
    for summary in summaries:
        assert summary.pop("seconds") >= summary.pop("seconds_per_epoch") > 0
    assert summaries[0] == summaries[1]
    values = [scalars(path) for path in (directory, expected)]
    assert values[0] == values[1]


def scalars(directory):
    """What TensorBoard shows: steps and values by tag."""
    from tensorboard.backend.event_processing import event_accumulator

    events = event_accumulator.EventAccumulator(str(directory))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_checkpoints_change_no_bit_of_training(finished, undisturbed):
    same(finished, undisturbed)
    names = [path.name for path in checkpoints.names(finished / "checkpoints")]
    assert [name[:9] for name in names] == ["000000008", "000000006"]


class Killed(BaseException):
    """As if the process had been killed."""


def kill_at(monkeypatch, number):
    """Has the process die before it changes the disk for that time, and do nothing after that."""
    done = 0

    def dying(function):
        def call(*given, **options):
            nonlocal done
            if threading.current_thread() is threading.main_thread():  # not JAX's cache
                done += 1
                if done >= number:
                    raise Killed
            return function(*given, **options)

        return call

    for name in ("fsync", "replace", "unlink", "mkdir"):
        monkeypatch.setattr(os, name, dying(getattr(os, name)))


def killed_and_resumed(monkeypatch, config, directory, moments):
    for moment in moments:
        with monkeypatch.context() as patched, pytest.raises(Killed):
            kill_at(patched, moment)
            train(config, directory)
    train(config, directory)


# Before its first checkpoint, while an epoch is stored, between that and the next checkpoint.
@pytest.mark.parametrize("moments", [(4, 30), (42, 37)], ids=str)
def test_a_run_killed_at_chosen_moments_ends_with_the_same_bits(
    moments, config, undisturbed, tmp_path, monkeypatch
):
    killed_and_resumed(monkeypatch, config, tmp_path / "run", moments)
    same(tmp_path / "run", undisturbed)


@pytest.mark.slow  # a minute: two runs for each change of the disk
def test_a_run_killed_at_any_change_of_the_disk_ends_with_the_same_bits(
    config, undisturbed, tmp_path, monkeypatch
):
    moment = 1
    while True:
        directory = tmp_path / str(moment)
        with monkeypatch.context() as patched:
            kill_at(patched, moment)
            try:
                train(config, directory)
                break
            except Killed:
                pass
        train(config, directory)
        same(directory, undisturbed)
        moment += 1
    assert moment > 50


def begin(directory, config):
    dataset = data.load(None, config.data_dir)
    start = starting.start(config, dataset)
    return resuming.begin(directory, config, dataset, start, audit_every=2, resume=True)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_a_note_says_what_differed_in_any_part_of_a_run(tmp_path):
    device = {"platform": "cpu", "kind": "cpu", "processor": "one"}
    now = {"mesh": None, "device": device, "versions": {"jax": "0.10"}}
    other = {**now, "mesh": {"data": 2, "model": 1}}
    record = {}

    def notes(steps, now):
        place = resuming.Place({}, "run", 4, 2, steps=steps)
        record["starts"] = resuming.starts(place, record, now)
        return "".join(resuming.lines(place, tmp_path, record["starts"])).partition("note ")[2]

    assert notes(0, now) == notes(3, now) == ""
    assert "other mesh than at an earlier start of this run" in notes(3, other)
    assert [start["step"] for start in record["starts"]] == [0, 3]  # one had trained nothing
    assert "other mesh than" in notes(5, now)  # though the first one had none
    assert notes(3, now) == ""  # those steps are trained again
    moved = {**now, "device": {**device, "processor": "two"}}
    assert "other device than" in notes(4, moved)


def replace_by_a_directory(path):
    path.unlink()
    path.mkdir()


def lose_lines(path):
    lines = path.parents[1] / "metrics.jsonl"
    lines.write_bytes(lines.read_bytes().rpartition(b"{")[0])


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.write_bytes(b""), "damaged"),
        (truncate, "damaged"),
        (flip, "damaged"),
        (replace_by_a_directory, "can't be read"),
        (lose_lines, "metrics.jsonl has 2 of the 3 lines from before it"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_named_and_the_previous_one_is_used(
    damage, why, finished, config, tmp_path
):
    directory = shutil.copytree(finished, tmp_path / "run")
    last, previous = checkpoints.names(directory / "checkpoints")
    damage(last)
    place = begin(directory, config)
    assert place.path == previous and place.steps == 6 and place.point and place.point.epoch == 2
    assert place.lines["steps.jsonl"].count(b"\n") == 4 == place.lines["audits.jsonl"].count(b"\n")
    record = json.loads((directory / "config.json").read_text())
    warning, resumed = " ".join(resuming.lines(place, directory, record["starts"])).split("resume ")
    assert f"checkpoint {last.name} can't be used: " in warning and why in " ".join(warning.split())
    assert "from the previous good one, of step 6 of 8, saved " in " ".join(resumed.split())
    flip(previous)
    with pytest.raises(UsageError) as refused:
        begin(directory, config)
    assert all(path.name in str(refused.value) for path in (last, previous))
    assert f"delete all that is in {directory / 'checkpoints'} to train" in str(refused.value)


def test_a_damaged_checkpoint_costs_only_time(finished, config, undisturbed, tmp_path, capsys):
    directory = shutil.copytree(finished, tmp_path / "run")
    (directory / "summary.json").unlink()  # as if it had been killed before
    last, previous = checkpoints.names(directory / "checkpoints")
    flip(last)
    (directory / "mine").write_text("a note")
    record = json.loads((directory / "config.json").read_text())
    record["starts"][0]["versions"]["jax"] = "0.9"
    (directory / "config.json").write_text(json.dumps(record))
    train(config, directory, sys.stdout)
    same(directory, undisturbed)
    output = capsys.readouterr().out
    assert "\nwarning checkpoint 000000008-" in output
    assert (
        "\nnote    other versions than at an earlier start of this run: its numbers may" in output
    )
    found = json.loads((directory / "config.json").read_text())["starts"]
    assert [start["step"] for start in found] == [0, 6]
    assert [start["versions"]["jax"] == "0.9" for start in found] == [True, False]
    after = checkpoints.names(directory / "checkpoints")
    assert last not in after and previous in after and len(after) == 2
    assert (directory / "mine").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "--seed=1 (it has --seed=0)"),
        ({"hidden": (8, 8)}, "--hidden=8,8 (it has --hidden=8)"),
        ({"init": "zeros"}, "--init=zeros (it has --init=glorot_uniform)"),
        ({"epochs": 1}, "--epochs=1 (it has --epochs=2)"),
        ({"epochs": 1, "steps": 8}, "--steps=8 (it has no --steps)"),
    ],
    ids=str,
)
def test_a_run_is_not_resumed_with_other_flags(changes, message, finished, config):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(UsageError) as refused:
        train(dataclasses.replace(config, **changes), finished)
    assert message in str(refused.value) and "give the flags that it has" in str(refused.value)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_other_data_other_audits_and_other_directories_are_refused(finished, config, tmp_path):
    with pytest.raises(UsageError, match=r"--audit_every=5 \(it has --audit_every=2\)"):
        train(config, finished, audit_every=5)
    (directory := shutil.copytree(finished, tmp_path / "run")).joinpath("summary.json").unlink()
    with pytest.raises(UsageError, match="it was trained on other data"):
        train(dataclasses.replace(config, data_dir=None), directory)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text("{}")
    with pytest.raises(UsageError, match="holds no run with checkpoints"):
        train(config, tmp_path / "other")
    (directory / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"config.json cannot be read .*can't be resumed"):
        train(config, directory)


def test_a_finished_run_is_left_alone_and_more_epochs_resume_it(finished, config, tmp_path, capsys):
    directory = shutil.copytree(finished, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    train(dataclasses.replace(config, init="glorot_uniform()"), directory, sys.stdout)
    assert "resume  this run is finished: nothing to do\nval_acc " in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before
    longer = dataclasses.replace(config, epochs=3)
    train(longer, directory, sys.stdout)
    assert "resume  from step 8 of 12, saved " in capsys.readouterr().out
    train(longer, tmp_path / "longer", checkpoint_every=None, resume=False)
    same(directory, tmp_path / "longer")
    assert json.loads((directory / "config.json").read_text())["config"]["epochs"] == 3


def after_epoch_1(monkeypatch, act):
    """Has something happen in the middle of storing epoch 1."""
    save = run_directory.save_params

    def saved(path, params, metadata):
        save(path, params, metadata)
        if metadata["epoch"] == "1":
            monkeypatch.undo()
            act()

    monkeypatch.setattr(run_directory, "save_params", saved)


def test_a_preempted_run_saves_a_checkpoint_at_once(
    config, undisturbed, tmp_path, monkeypatch, capsys
):
    after_epoch_1(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(console.Preempted):
        train(config, tmp_path / "run", sys.stdout, checkpoint_every=None)
    output = capsys.readouterr().out.splitlines()
    assert "SIGTERM: saving a checkpoint" in output and "interrupted; 1 epoch finished" in output
    assert output[-1].startswith("resume  python -m experiments.mnist --init=glorot_uniform ")
    assert output[-1].endswith(f"--audit_every=2 --workdir={tmp_path / 'run'} --resume")
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "interrupted"
    train(config, tmp_path / "run", sys.stdout, checkpoint_every=None)
    assert "resume  from step 4 of 8, saved " in capsys.readouterr().out
    same(tmp_path / "run", undisturbed)


def test_two_processes_that_resume_one_run_do_no_harm(config, undisturbed, tmp_path, monkeypatch):
    """The second one takes over while the first writes, and ends before it goes on."""
    after_epoch_1(monkeypatch, lambda: train(config, tmp_path / "run"))
    with pytest.raises(UsageError, match="another process has resumed the run in"):
        train(config, tmp_path / "run")
    same(tmp_path / "run", undisturbed)


def test_a_process_that_was_superseded_leaves_the_parameters_of_the_other(
    config, undisturbed, tmp_path, monkeypatch
):
    """The second one finishes the run while the first trains an epoch."""
    add = run_directory.add_epoch

    def added(output, epoch):
        if epoch.number == 1:
            monkeypatch.undo()
            train(config, tmp_path / "run")
        add(output, epoch)

    monkeypatch.setattr(run_directory, "add_epoch", added)
    with pytest.raises(UsageError, match="another process has resumed the run in"):
        train(config, tmp_path / "run")
    same(tmp_path / "run", undisturbed)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b'{"config": {}, "flags": {}, "data": {"digest": 3}, "starts": [1]}'),
        ("config.json", b'{"config": {"epochs": "2", "init": 3}, "flags": {}}'),
        ("config.json", b"[]"),
        ("summary.json", b"[1]"),
        ("summary.json", b"{}"),
        ("metrics.jsonl", b"\0\0\n\0\n"),
        ("metrics.jsonl", b"\xff\n"),
    ],
    ids=str,
)
def test_a_damaged_file_of_a_run_is_named_or_written_again(
    name, content, config, undisturbed, tmp_path, monkeypatch
):
    after_epoch_1(monkeypatch, lambda: None)
    train(config, tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(content)
    if name == "metrics.jsonl":
        (tmp_path / "run/summary.json").unlink()  # which says that it is finished
    if name == "summary.json":
        train(config, tmp_path / "run")
        same(tmp_path / "run", undisturbed)
    else:
        with pytest.raises(UsageError, match=str(tmp_path / "run")):
            train(config, tmp_path / "run")


def test_a_stopped_program_exits_with_75_and_the_same_command_goes_on(folder, tmp_path):
    flags = [f"--data_dir={folder}", "--hidden=8", "--batch_size=10", "--checkpoint_every=1000"]
    command = [*COMMAND, *flags, "--workdir=run", "--resume", "--steps=30000"]
    options = {"cwd": tmp_path, "stdout": subprocess.PIPE, "text": True}
    seen = []
    for number, code in ((signal.SIGUSR1, 75), (signal.SIGINT, 130)):
        with subprocess.Popen(command, **options) as process:
            assert process.stdout
            while not [line for line in seen if line.startswith(("Epoch 0", "resume  from"))]:
                seen.append(process.stdout.readline())
            process.send_signal(number)
            output, _ = process.communicate(timeout=60)
            assert process.returncode == code, output
        seen.clear()
    steps = int(checkpoints.names(tmp_path / "run/checkpoints")[0].name[:9])
    assert 0 < steps < 30000 and "--workdir=run --checkpoint_every=1000 --resume\n" in output


# Trains on four devices, stops after an epoch, and goes on, on the same mesh and on another.
_ON_MESHES = """
import os, signal, sys
from experiments import mnist
from experiments.common import console, meshes, run_directory
from experiments.common.config import Config

save = run_directory.save_params

def stop(path, params, metadata):
    save(path, params, metadata)
    if metadata["epoch"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)

def train(workdir, mesh, **options):
    config = Config(epochs=2, batch_size=250, hidden=(8,), data_dir=sys.argv[1])
    mnist.run(config, workdir, sys.stdout, mesh=meshes.parse(mesh), **options)

train("undisturbed", "data:2,model:2")
for mesh in ("data:2,model:2", "data:4"):
    run_directory.save_params = stop
    try:
        train(mesh, "data:2,model:2", resume=True)
    except console.Preempted:
        run_directory.save_params = save
        train(mesh, mesh, resume=True)
"""


@pytest.mark.slow  # five runs on meshes, each of which is compiled
def test_a_run_on_a_mesh_is_resumed_on_this_and_on_other_meshes(folder, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", _ON_MESHES, folder],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "4"},
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("resume  from step 4 of 8, saved ") == 2
    assert result.stdout.count("note    other mesh than at an earlier start of this run: ") == 1
    same(tmp_path / "data:2,model:2", tmp_path / "undisturbed")
    one, other = (
        dict(
            run_directory.flatten(run_directory.load_params(tmp_path / name / "params.safetensors"))
        )
        for name in ("undisturbed", "data:4")
    )
    for name in one:
        np.testing.assert_allclose(other[name], one[name], atol=1e-6)


@pytest.mark.slow  # two minutes: thirty processes that are killed
def test_a_run_killed_at_thirty_random_moments_ends_with_the_same_bits(tmp_path):
    """Moments from the start of the process to some seconds of training; what ends is compared."""
    flags = ["--epochs=30", "--audit_every=5000", "--workdir=run"]
    began = time.monotonic()
    with subprocess.Popen(
        [*COMMAND, *flags], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        while not process.stdout.readline().startswith("Epoch  1/30"):
            pass
        until_training = time.monotonic() - began
        process.communicate()
    (tmp_path / "run").rename(tmp_path / "undisturbed")

    command = [*COMMAND, *flags, "--checkpoint_every=50", "--resume"]
    rng, kills, ended = random.Random(0), 0, 0
    with (tmp_path / "log").open("w") as log:
        while kills < 30 or (tmp_path / "run").exists():
            with subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log) as process:
                try:
                    moment = rng.uniform(0, 1.5 * until_training)
                    assert process.wait(moment if kills < 30 else None) == 0
                except subprocess.TimeoutExpired:
                    process.kill()
                    kills += 1
                    continue
            same(tmp_path / "run", tmp_path / "undisturbed")
            ended += 1
            (tmp_path / "run").rename(tmp_path / f"run{ended}")
    lines = (tmp_path / "log").read_text().splitlines()
    resumed = [line for line in lines if line.startswith("resume  from step")]
    assert len(resumed) >= 5 and ended >= 1
    print(f"{kills} kills, {len(resumed)} resumed, {ended} ended", *resumed, sep="\n")
