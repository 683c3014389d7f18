"""`python -m experiments.mnist --resume`: a run killed at any moment ends with the same bits."""

import json
import os
import random
import subprocess
import sys

import pytest

from experiments import mnist
from experiments.common import checkpoints, files
from experiments.common.config import Config

COMMAND = [sys.executable, "-m", "experiments.mnist"]


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
    for name in ("params.safetensors", "steps.jsonl", "audits.jsonl"):
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


@pytest.mark.slow  # a minute: thirty processes
def test_a_run_killed_thirty_times_ends_with_the_same_bits(tmp_path):
    flags = ["--epochs=12", "--audit_every=700", "--workdir=run"]
    subprocess.run([*COMMAND, *flags], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "run").rename(tmp_path / "undisturbed")
    rng, kills, places = random.Random(0), 0, []
    while kills < 30:
        process = subprocess.Popen(
            [*COMMAND, *flags, "--checkpoint_every=50", "--resume"],
            cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout
        for line in process.stdout:  # kill it between its start and some epochs later
            if line.startswith("resume"):
                places.append(line)
                break
        try:
            process.wait(rng.uniform(0, 1.2))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        process.communicate()
        if process.returncode == 0:
            break
    last = subprocess.run(
        [*COMMAND, *flags, "--checkpoint_every=50", "--resume"], cwd=tmp_path, check=True
    )
    assert last.returncode == 0 and len({*places}) > 5, places
    same(tmp_path / "run", tmp_path / "undisturbed")
    assert kills == 30
