"""Flags: programs share names, defaults and help texts."""

import dataclasses

import pytest

from experiments import audit, mnist, report, sweep
from experiments.common import flags
from experiments.common.config import Config, UsageError


def test_every_field_of_a_configuration_has_a_flag():
    assert {field.name for field in dataclasses.fields(Config)} == flags._SHARED.keys() - {"shard"}


@pytest.mark.parametrize("name", sorted(flags._SHARED.keys() - {"shard"}))
def test_programs_explain_a_shared_flag_in_the_same_words(name):
    """The audit has its own text where a flag means something else there."""
    shared = mnist._FLAGS[name].help
    if name not in ("seed", "params"):  # a sweep has many seeds, and draws its parameters
        assert sweep._FLAGS[name].help.startswith(shared)
    if name not in ("hidden", "optimizer", "learning_rate", "epochs", "steps", "batch_size"):
        assert audit._FLAGS[name].help == shared


def test_flags_of_different_programs_are_separate():
    assert "audit" in mnist._FLAGS and "audit" not in audit._FLAGS
    assert "fix" in audit._FLAGS and "fix" not in mnist._FLAGS


def test_the_values_of_flags_become_the_fields_of_a_configuration():
    values = flags.define(
        {"Model": ("hidden", "dtype", "help"), "Output": ("own",)}, own=flags.string("a", "Own.")
    )
    values(["program", "--hidden=3,2"])
    assert flags.config_fields(values) == {"hidden": "3,2", "dtype": "float32"}
    assert values.own == "a"


@pytest.mark.parametrize("name", ["workdir", "data_dir"])
def test_every_program_expands_the_home_directory_in_a_path(name, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for program in (mnist, audit, sweep):
        assert program._FLAGS[name].parser.parse("~/s") == "/home/me/s"
        with pytest.raises(UsageError, match="the path is empty"):
            program._FLAGS[name].parser.parse("")
        with pytest.raises(UsageError, match="null character"):
            program._FLAGS[name].parser.parse("a\0b")
        with pytest.raises(UsageError, match="the path is not valid UTF-8; rename it"):
            program._FLAGS[name].parser.parse("a\udcff")
        with pytest.raises(UsageError, match=r"no such home directory.*: ./~no-one/s"):
            program._FLAGS[name].parser.parse("~no-one/s")


def test_the_report_expands_the_home_directory_too(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    report._FLAGS(["report"])
    with pytest.raises(UsageError, match=r"^/home/me/s holds no runs"):
        report.main("~/s")


@pytest.mark.parametrize("hidden", [(), (8,), (128, 64), (8,) * 3, (8,) * 4, (4, *[32] * 200, 4)])
def test_the_sizes_of_layers_are_read_as_they_are_written(hidden):
    (flag,) = [
        flag for flag in Config(hidden=hidden).arguments() if flag.startswith("--hidden=")
    ] or ["--hidden=128,64"]
    assert flags.sizes(flag.removeprefix("--hidden=")) == hidden and len(flag) < 25
