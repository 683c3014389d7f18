"""The directory of a run: never overwritten, and parameters are restored exactly."""

import os
import time

import numpy as np
import pytest

from experiments.common import files, run_directory


def test_runs_of_the_same_name_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [run_directory.create(None, "mnist random_uniform(-0.1, 0.1)/x") for _ in range(3)]
    assert [path.as_posix() for path in paths] == [
        "runs/mnist-random_uniform-0.1-0.1-x",
        "runs/mnist-random_uniform-0.1-0.1-x-2",
        "runs/mnist-random_uniform-0.1-0.1-x-3",
    ]


def test_a_named_directory_may_be_absent_or_empty(tmp_path):
    assert run_directory.create(str(tmp_path), "x") == tmp_path
    assert run_directory.create(str(tmp_path / "a/b"), "x").is_dir()


def test_a_directory_that_is_not_empty_is_rejected(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is not empty"):
        run_directory.create(str(tmp_path), "x")
    with pytest.raises(ValueError, match="is not a directory"):
        run_directory.create(str(tmp_path / "file"), "x")
    with pytest.raises(ValueError, match=r"cannot write to .*; name another --workdir"):
        run_directory.create(str(tmp_path / "file" / "below"), "x")


class Failed(Exception):
    pass


def test_work_that_fails_before_its_first_result_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for workdir, left in (("mine", ["mine"]), ("a/b", ["mine"]), (None, ["mine"])):
        with pytest.raises(Failed), run_directory.created(workdir, "run") as directory:
            (directory / "config.json").touch()
            (directory / "metrics.jsonl").write_text('{"epoch": 0}\n')
            (directory / "events.out.tfevents.1").touch()
            raise Failed
        assert os.listdir(tmp_path) == left and not os.listdir(tmp_path / "mine")


@pytest.mark.parametrize(
    ("name", "content"), [("audit.json", "{}"), ("metrics.jsonl", '{"epoch": 0}\n{"epoch": 1}\n')]
)
def test_work_that_fails_later_keeps_its_results(name, content, tmp_path):
    with pytest.raises(Failed), run_directory.created(str(tmp_path / "run"), "run") as directory:
        (directory / "config.json").touch()
        (directory / name).write_text(content)
        raise Failed
    assert sorted(os.listdir(tmp_path / "run")) == sorted(["config.json", name])


def test_files_of_a_killed_process_are_removed_but_not_those_of_one_that_may_still_write(tmp_path):
    names = (".1.tmp", "checkpoints/.1.tmp")
    (tmp_path / "checkpoints").mkdir()
    for name in names:
        (tmp_path / name).mkdir()
    with run_directory.created(str(tmp_path), "run", resumable=True):
        assert all((tmp_path / name).exists() for name in names)
    for name in names:
        os.utime(tmp_path / name, (0, time.time() - 2 * files.ABANDONED))
    with run_directory.created(str(tmp_path), "run", resumable=True):
        assert not any((tmp_path / name).exists() for name in names)


def test_loaded_parameters_are_bit_for_bit_equal(tmp_path):
    rng = np.random.default_rng(0)
    params = {
        "hidden": {i: {"kernel": rng.normal(size=(3, 4)).astype(np.float32)} for i in range(11)},
        "output": {"bias": rng.normal(size=2)},
    }
    run_directory.save_params(tmp_path / "params.safetensors", params, {"epoch": "5"})
    loaded = run_directory.load_params(tmp_path / "params.safetensors")
    assert loaded.keys() == params.keys() and set(loaded["hidden"]) == {*range(11)}
    for i in range(11):
        np.testing.assert_array_equal(
            loaded["hidden"][i]["kernel"], params["hidden"][i]["kernel"], strict=True
        )
    np.testing.assert_array_equal(loaded["output"]["bias"], params["output"]["bias"], strict=True)
