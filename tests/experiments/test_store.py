"""The directory of a run: complete or absent, never overwritten, never lost."""

import json
import os

import numpy as np
import pytest

from experiments.common import store


def test_runs_of_one_name_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [store.create(None, "mnist random_uniform(-0.1, 0.1)/x") for _ in range(3)]
    assert [path.as_posix() for path in paths] == [
        "runs/mnist-random_uniform-0.1-0.1-x",
        "runs/mnist-random_uniform-0.1-0.1-x-2",
        "runs/mnist-random_uniform-0.1-0.1-x-3",
    ]


def test_a_named_directory_is_taken_if_absent_or_empty(tmp_path):
    assert store.create(str(tmp_path), "x") == tmp_path
    assert store.create(str(tmp_path / "a/b"), "x").is_dir()


def test_a_directory_that_holds_anything_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is not empty"):
        store.create(str(tmp_path), "x")
    with pytest.raises(ValueError, match="is not a directory"):
        store.create(str(tmp_path / "file"), "x")
    with pytest.raises(ValueError, match=r"cannot make .*: name another --workdir"):
        store.create(str(tmp_path / "file" / "below"), "x")


def test_a_file_is_complete_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "file"
    store.write(path, b"old")

    def disk_is_full(descriptor):
        raise OSError("disk is full")

    monkeypatch.setattr(os, "fsync", disk_is_full)
    with pytest.raises(OSError, match="disk is full"):
        store.write(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_files_have_the_permissions_of_any_file(tmp_path):
    store.write(tmp_path / "a", b"")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_lines_are_appended_and_a_torn_last_line_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    store.append(path, [{"epoch": 1}, {"epoch": 2}])
    store.append(path, [{"epoch": 3, "loss": float("nan")}])
    with path.open("a") as file:
        file.write('{"epoch": 4, "lo')
    assert store.read(path) == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3, "loss": None}]


def test_json_names_its_format_and_has_no_nan(tmp_path):
    store.write_json(tmp_path / "a.json", {"loss": float("inf"), "shape": (1, 2)})
    content = json.loads((tmp_path / "a.json").read_text())
    assert content == {"format_version": 1, "loss": None, "shape": [1, 2]}


def test_parameters_survive_to_the_bit(tmp_path):
    rng = np.random.default_rng(0)
    params = {
        "hidden": {i: {"kernel": rng.normal(size=(3, 4)).astype(np.float32)} for i in range(11)},
        "output": {"bias": rng.normal(size=2)},
    }
    store.save_params(tmp_path / "params.safetensors", params, 5)
    loaded = store.load_params(tmp_path / "params.safetensors")
    assert loaded.keys() == params.keys() and set(loaded["hidden"]) == {*range(11)}
    for i in range(11):
        np.testing.assert_array_equal(
            loaded["hidden"][i]["kernel"], params["hidden"][i]["kernel"], strict=True
        )
    np.testing.assert_array_equal(loaded["output"]["bias"], params["output"]["bias"], strict=True)
