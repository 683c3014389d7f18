"""Files: complete or absent, whatever happens."""

import errno
import json
import os

import pytest

from experiments.common import files
from experiments.common.config import UsageError


def test_a_file_is_complete_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write(path, b"old")

    def disk_is_full(descriptor):
        raise OSError(errno.ENOSPC, "disk is full")

    monkeypatch.setattr(os, "fsync", disk_is_full)
    with pytest.raises(OSError, match="disk is full"):
        files.write(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_files_have_the_usual_permissions(tmp_path):
    files.write(tmp_path / "a", b"")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_lines_are_appended_and_a_torn_last_line_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    files.append_lines(path, [{"epoch": 1}, {"epoch": 2}])
    files.append_lines(path, [{"epoch": 3, "loss": float("nan")}])
    with path.open("a") as file:
        file.write('{"epoch": 4, "lo')
    assert files.read_lines(path) == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3, "loss": None}]


def test_json_has_a_format_version_and_no_nan(tmp_path):
    files.write_json(tmp_path / "a.json", {"loss": float("inf"), "shape": (1, 2)})
    content = json.loads((tmp_path / "a.json").read_text())
    assert content == {"format_version": 1, "loss": None, "shape": [1, 2]}


def test_two_writers_with_the_same_process_id_use_different_temporary_files(tmp_path, monkeypatch):
    """As on two machines, or in two containers, that share a directory."""
    written = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: written.append(a) or replace(a, b))
    files.write(tmp_path / "file", b"one")
    files.write(tmp_path / "file", b"two")
    assert written[0] != written[1] and (tmp_path / "file").read_bytes() == b"two"


def test_a_directory_is_written_to_before_the_work(tmp_path, monkeypatch):
    files.prepare(tmp_path / "a/b", "name another")
    assert (tmp_path / "a/b").is_dir() and not os.listdir(tmp_path / "a/b")
    (tmp_path / "file").touch()
    for path, reason in (
        ("file", "it is not a directory"),
        ("file/below", "Not a directory"),
        ("a" * 300, "File name too long"),
    ):
        with pytest.raises(UsageError, match=rf"{path} \({reason}\); name another"):
            files.prepare(tmp_path / path, "name another")

    def disk_is_full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_is_full)
    with pytest.raises(UsageError, match=r"cannot write to .* \(No space left on device\)"):
        files.prepare(tmp_path, "name another")
    with pytest.raises(OSError, match=r"No space left on device: '.*file'"):
        files.write(tmp_path / "file", b"")
    assert sorted(os.listdir(tmp_path)) == ["a", "file"]


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path):
    (tmp_path / "page.html").mkdir()
    with pytest.raises(OSError, match=r"page\.html") as error:
        files.write(tmp_path / "page.html", b"")
    assert error.value.filename == str(tmp_path / "page.html")
    assert os.listdir(tmp_path) == ["page.html"]
