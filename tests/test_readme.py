"""What the README says is true: its examples run, its commands work, no public name is missing."""

import doctest
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

import initjax

README = pathlib.Path(__file__).parents[1] / "README.md"
TEXT = README.read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.S)
COMMANDS = re.findall(r"^python -m experiments\.\w+ .*", TEXT, re.M)
CHAINS = re.findall(
    r"^python -m experiments\.\w+ .*(?:\npython -m experiments\.report .*)?", TEXT, re.M
)


@pytest.mark.parametrize("example", [block for block in EXAMPLES if ">>>" not in block])
def test_an_example_runs(example):
    exec(compile(example, "README.md", "exec"), {})


def test_what_is_typed_gives_what_is_shown():
    assert doctest.testfile(str(README), module_relative=False).failed == 0


@pytest.mark.parametrize("chain", CHAINS)
def test_a_command_works(chain, folder, tmp_path):
    """Each in as short a form as there is, on fewer images; a report follows upon its sweep."""
    fewer = ["--epochs=1", f"--data_dir={folder}"]
    shorter = {"experiments.mnist": fewer, "experiments.sweep": [*fewer, "--seeds=2"]}
    for command in chain.splitlines():
        python, *arguments = shlex.split(command)
        assert python == "python"
        arguments += shorter.get(arguments[1], [])
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            # What runs once, and but for a second, is compiled in half the time.
            env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr


def test_the_scripts_explain_themselves():
    for script in sorted((README.parent / "scripts").glob("*.py")):
        command = [sys.executable, script, "--help"]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0 and f"usage: python scripts/{script.name}" in result.stdout


def test_the_commands_and_every_public_name_are_there():
    assert len(re.findall(r"^python3 -m venv .*", TEXT, re.M)) == 2 and len(COMMANDS) == 6
    assert "\n".join(CHAINS).splitlines() == COMMANDS
    assert "python -m experiments.mnist --init=glorot_uniform" in TEXT
    missing = []
    for name in initjax.__all__:
        family = name.partition("_")[0]
        if not re.search(rf"`(\*\*)?{name}\b", TEXT) and f"`{family}_*`" not in TEXT:
            missing.append(name)
    assert not missing


def test_every_local_link_leads_somewhere():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", TEXT):
        assert (README.parent / target).exists(), target
