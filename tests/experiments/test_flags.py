"""Flags: programs share names, defaults and help texts."""

import dataclasses

import pytest

from experiments import audit, mnist, sweep
from experiments.common import flags
from experiments.common.config import Config


def test_every_field_of_a_configuration_has_a_flag():
    assert {field.name for field in dataclasses.fields(Config)} == flags._SHARED.keys()


@pytest.mark.parametrize("name", flags._SHARED)
def test_programs_explain_a_shared_flag_in_the_same_words(name):
    """The audit has its own text where a flag means something else there."""
    shared = mnist._FLAGS[name].help
    if name != "seed":
        assert sweep._FLAGS[name].help.startswith(shared)
    if name not in ("hidden", "optimizer", "learning_rate", "epochs", "batch_size"):
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
