"""What the programs may rely on: nothing that Windows lacks. None of it was run there."""

import pathlib
import subprocess
import sys

from experiments.common import description

# Every module of the programs, and the claims, without what only POSIX has.
_CODE = """
import importlib, os, pathlib, pkgutil, sys
for name in ("fcntl", "resource", "termios", "tty", "pty", "pwd", "grp"):
    sys.modules[name] = None
vars(os).pop("sched_getaffinity", None)
import experiments
for module in pkgutil.walk_packages(experiments.__path__, "experiments."):
    importlib.import_module(module.name)
import tensorflow_datasets
from experiments.common import files, sweep_directory
one, other = (sweep_directory.SweepDirectory(sys.argv[1]) for _ in range(2))
with one, other:
    print(one.claim(["a", "b"], 1), other.claim(["a", "b"], 2))
files.write(pathlib.Path(sys.argv[1], "file"), b"")
print(os.path.expanduser("~") != "~")
"""


def test_the_programs_need_no_module_of_posix(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", _CODE, tmp_path], capture_output=True, text=True, timeout=300
    )
    assert result.stdout == "['a'] ['b']\nTrue\n", result.stderr


def test_no_program_names_a_module_that_only_posix_has():
    root = pathlib.Path(__file__).parents[2]
    for path in (root / "experiments").rglob("*.py"):
        for name in (
            "fcntl",
            "termios",
            "signal.SIGK",
            "signal.SIGU",
            "signal.SIGH",
            "os.fork",
            "os.getuid",
        ):
            assert name not in path.read_text(encoding="utf-8"), path


def test_commands_are_quoted_for_the_shell_of_the_system(monkeypatch):
    command = ["--init=normal(0.1, 0)", "--seed=0"]
    assert description.quoted(command) == "'--init=normal(0.1, 0)' --seed=0"
    monkeypatch.setattr(description.os, "name", "nt")
    assert description.quoted(command) == '"--init=normal(0.1, 0)" --seed=0'
