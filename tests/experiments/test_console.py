"""What all programs share when they run: output that is never lost at a result's cost, errors."""

import ast
import contextlib
import io
import os
import pathlib
import signal
import subprocess
import sys

import pytest

import experiments
from experiments.common import console

SOURCES = sorted(pathlib.Path(experiments.__file__).parent.rglob("*.py"))


def stream(encoding):
    return io.TextIOWrapper(io.BytesIO(), encoding)


def shown(file):
    return file.buffer.getvalue().decode(file.encoding)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8", "━─ 0.97 ±0.01 Ω\n"),
        ("cp1252", "#- 0.97 +-0.01 ?\n"),
        ("ascii", "#- 0.97 +-0.01 ?\n"),
    ],
)
def test_text_that_a_stream_cannot_encode_is_replaced(encoding, text):
    file = stream(encoding)
    console.say(file, "━─ 0.97 ±0.01 Ω")
    assert shown(file) == text


def test_what_a_stream_can_encode_is_left_alone():
    file = stream("cp1252")
    console.say(file, "0.97 ±0.01", end="")
    assert shown(file) == "0.97 ±0.01"
    console.say(None, "nothing")


def test_a_name_that_is_not_unicode_can_be_shown():
    """As Python decodes the bytes of such a file."""
    file = stream("utf-8")
    console.say(file, os.fsdecode(b"runs/\xff"))
    assert shown(file) == "runs/?\n"


def test_output_that_nobody_reads_ends_nothing():
    read, write = os.pipe()
    with open(write, "w") as file:
        os.close(read)
        console.say(file, "first")
        console.say(file, "second")


def program(body, *arguments):
    """Runs a program with a main of its own."""
    code = f"""
import sys
from experiments.common import command_line, console, flags
from experiments.common.config import UsageError
FLAGS = flags.define({{"Model": ("seed", "help")}})
def main():
    {body}
console.run_program(
    command_line.Program("python -m experiments.x", "Text.", FLAGS, {{"Model": ("seed",)}}, ()),
    main,
)
"""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )


def test_an_error_of_the_program_itself_asks_for_a_report():
    result = program("raise ValueError('operands could not be broadcast')", "--seed=3")
    lines = result.stderr.splitlines()
    assert result.returncode == 1 and lines[0].startswith("Traceback")
    assert "ValueError: operands could not be broadcast" in lines
    assert "Please report" in result.stderr and "jax 0." in result.stderr
    assert "command   python -m experiments.x --seed=3" in lines


def test_a_platform_that_jax_does_not_have_is_named_in_one_line(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "bogus")
    result = program("import jax; jax.devices()")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("experiments.x: JAX_PLATFORMS=bogus: Unable to initialize")


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("raise UsageError('--seed=3: is\\n taken')", 2, "experiments.x: --seed=3: is taken\n"),
        ("raise MemoryError", 1, "experiments.x: there is not enough memory\n"),
        ("open('/nowhere/x')", 1, "experiments.x: /nowhere/x: No such file or directory\n"),
        ("sys.stdout.close(); sys.stdout = None; console.say(sys.stdout, 'x')", 0, ""),
    ],
)
def test_what_the_user_can_change_is_said_in_one_line(body, code, message):
    result = program(body)
    assert (result.returncode, result.stderr) == (code, message)


def test_the_versions_in_use_are_shown():
    result = program("raise AssertionError", "--version")
    assert result.returncode == 0 and result.stdout.startswith("python 3.")
    assert "\njax 0." in result.stdout


def test_flags_are_read_from_a_file(tmp_path):
    (tmp_path / "flags").write_text("--seed=7\n# a comment\n")
    result = program("print(FLAGS.seed)", f"--flagfile={tmp_path / 'flags'}")
    assert result.stdout == "7\n", result.stderr
    binary = program("pass", f"--flagfile={sys.executable}")
    assert binary.returncode == 2 and "must be a text file" in binary.stderr


def test_a_flag_that_takes_no_value_is_not_a_fault_of_the_program():
    result = program("raise AssertionError", "--nohelp=true")
    assert result.returncode == 2
    assert result.stderr == "experiments.x: --nohelp=true does not take an argument\n"


@pytest.mark.skipif(os.name == "nt", reason="sends signals as POSIX has them")
def test_ctrl_c_during_a_callback_of_python_is_not_lost():
    """Python only reports an error there, as in JAX's callback about garbage."""
    body = (
        "import gc, os, time; stop = lambda phase, _: phase == 'stop' and os.kill(os.getpid(), 2);"
        " gc.callbacks.append(stop); gc.collect(); gc.callbacks.clear(); time.sleep(30)"
    )
    result = program(body)
    assert (result.returncode, result.stderr) == (130, "")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")
@pytest.mark.parametrize(
    ("name", "ignored", "code"),
    [("SIGHUP", False, 130), ("SIGTERM", False, 75), ("SIGUSR1", False, 75), ("SIGUSR1", True, 0)],
)
def test_a_signal_stops_a_program_unless_it_was_started_to_ignore_it(name, ignored, code):
    """As by nohup. The exit code tells a cluster to start the command again."""
    body = f"import os, signal, time; os.kill(os.getpid(), signal.{name}); time.sleep(0.1)"
    number = getattr(signal, name)
    before = signal.getsignal(number)
    if ignored:
        signal.signal(number, signal.SIG_IGN)
    try:
        result = program(body)
    finally:
        signal.signal(number, before)
    assert (result.returncode, result.stderr) == (code, "")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")
@pytest.mark.parametrize("delay", [console.uninterrupted, lambda: console.interrupt_later(None)])
def test_a_closed_terminal_does_not_interrupt_what_must_be_finished(delay):
    before = signal.signal(signal.SIGHUP, signal.default_int_handler)
    finished = False
    try:
        with contextlib.suppress(KeyboardInterrupt), delay():
            os.kill(os.getpid(), signal.SIGHUP)
            finished = True
    finally:
        signal.signal(signal.SIGHUP, before)
    assert finished


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGUSR1")
def test_a_cluster_that_asks_twice_at_once_asks_once_and_is_told_apart_from_ctrl_c(monkeypatch):
    """GNU timeout sends SIGTERM to the program, and to its group."""
    output = io.StringIO()
    with console.interrupt_later(output) as asked:
        assert not asked()
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert asked() is console.Preempted
        monkeypatch.setattr(console, "_ONCE", 0.0)
        with pytest.raises(console.Preempted):  # who asks again can't wait
            os.kill(os.getpid(), signal.SIGTERM)
    assert output.getvalue() == "SIGUSR1: finishing the current runs\n"
    with pytest.raises(console.Preempted), console.uninterrupted():
        os.kill(os.getpid(), signal.SIGUSR1)
    with console.interrupt_later(output) as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert asked() is KeyboardInterrupt


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_an_error_of_the_user_is_a_usage_error(path):
    """A plain ValueError is shown with a traceback, as a fault of the program."""
    if path.stem != "statistics":  # plain functions of numbers, which no user calls
        raised = [
            node.exc
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Raise)
        ]
        assert not [node for node in raised if node and "ValueError" in ast.unparse(node)]


@pytest.mark.skipif(os.name == "nt", reason="sends signals as POSIX has them")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, -2), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)]
)
def test_a_signal_while_a_program_is_imported_shows_no_traceback(number, code):
    body = f"import os, sys; sys.argv = ['-m']; import experiments; os.kill(os.getpid(), {number})"
    result = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (code, "")


# Sends SIGTERM when a module is imported that takes a while.
_STOP = """
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "jax._src.interpreters.mlir":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), 15)
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.skipif(os.name == "nt", reason="sends signals as POSIX has them")
@pytest.mark.parametrize("program", ["mnist", "sweep"])
def test_sigterm_while_a_program_imports_jax_is_not_lost(program, tmp_path, folder):
    (tmp_path / "sitecustomize.py").write_text(_STOP)
    root = str(pathlib.Path(experiments.__file__).parents[1])
    result = subprocess.run(
        [sys.executable, "-m", f"experiments.{program}", f"--data_dir={folder}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, str(tmp_path)])},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (75, "")
    assert not (tmp_path / "runs").exists()
