"""`python -m experiments.mnist`, run as a user runs it."""

import hashlib
import json
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments import mnist
from experiments.common import data, files, run_directory, starting, training
from experiments.common.config import Config, UsageError

COMMAND = [sys.executable, "-m", "experiments.mnist"]
# Halves the compilation time of XLA, for tests that don't check the numbers.
FAST = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}


def run(*flags, cwd, **options):
    return subprocess.run(
        [*COMMAND, *flags], cwd=cwd, capture_output=True, text=True, timeout=300, **options
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The main job with all its defaults, on all of MNIST."""
    folder = tmp_path_factory.mktemp("main")
    result = run("--init=glorot_uniform", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "runs/mnist-glorot_uniform-seed0", result


def test_the_main_job_trains_to_the_published_accuracy(finished):
    epochs = files.read_lines(finished[0] / "metrics.jsonl")
    assert [epoch["epoch"] for epoch in epochs] == [0, 1, 2, 3, 4, 5]
    # Means of the independent runs, within three of their standard deviations.
    assert epochs[1]["loss"] == pytest.approx(0.3318, abs=0.02)
    assert epochs[1]["val_acc"] == pytest.approx(0.9515, abs=0.01)
    assert epochs[5]["val_loss"] == pytest.approx(0.0805, abs=3 * 0.0043)
    assert epochs[5]["val_acc"] == pytest.approx(0.9750, abs=3 * 0.0015)


def test_the_output_shows_every_epoch_and_what_to_do_next(finished):
    directory, result = finished
    lines = result.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines) and "\x1b" not in result.stdout
    number = r"\d\.\d{4}"
    for epoch in range(1, 6):
        pattern = (
            rf"Epoch {epoch}/5 \d+\.\d\ds - loss {number} - acc {number}"
            rf" - val_loss {number} - val_acc {number}"
        )
        assert sum(bool(re.fullmatch(pattern, line)) for line in lines) == 1
    assert "60,000 training and 10,000 test images" in result.stdout
    assert f"results runs/{directory.name}" in lines
    assert lines[-1] == ("repeat  python -m experiments.mnist --init=glorot_uniform --seed=0")
    assert result.stderr == ""


def test_the_directory_can_be_read_by_other_tools(finished):
    directory, _ = finished
    config = json.loads((directory / "config.json").read_text())
    assert config["config"]["init"] == "glorot_uniform" and config["config"]["epochs"] == 5
    assert config["initializers"]["output_init"] == "glorot_uniform()"
    assert config["device"]["platform"] == "cpu" and config["versions"]["jax"]
    assert config["data"]["digest"] == data.load().digest
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["val_acc"] == files.read_lines(directory / "metrics.jsonl")[-1]["val_acc"]
    steps = files.read_lines(directory / "steps.jsonl")
    assert [step["step"] for step in steps] == [*range(1, 5 * 469 + 1)]
    assert (directory / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_saved_parameters_give_the_reported_accuracy(finished):
    from experiments.common import models

    directory, _ = finished
    params = run_directory.load_params(directory / "params.safetensors")
    digits = data.load()
    logits = models.mlp((784, 128, 64, 10), "relu", "float32").apply(params, digits.test_images)
    accuracy = np.mean(np.argmax(logits, -1) == digits.test_labels)
    assert accuracy == pytest.approx(
        files.read_lines(directory / "metrics.jsonl")[-1]["val_acc"], abs=2e-4
    )


def test_tensorboard_reads_the_events(finished):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    events = event_accumulator.EventAccumulator(str(finished[0]))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "train/acc", "val/loss", "val/acc"}
    epochs = files.read_lines(finished[0] / "metrics.jsonl")
    values = [event.value for event in events.Scalars("val/acc")]
    np.testing.assert_allclose(values, [epoch["val_acc"] for epoch in epochs], rtol=1e-6)


def test_the_repeat_command_repeats_the_run_bit_for_bit_in_a_new_directory(finished):
    directory, result = finished
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    flags = result.stdout.splitlines()[-1].partition("experiments.mnist ")[2].split()
    again = run(*flags, cwd=directory.parents[1])
    assert again.returncode == 0
    second = directory.with_name("mnist-glorot_uniform-seed0-2")
    for name in ("params.safetensors", "steps.jsonl"):
        assert (second / name).read_bytes() == (directory / name).read_bytes()
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before


def test_zeros_learn_only_to_predict_the_most_common_class(tmp_path):
    _, summary = mnist.run(Config(init="zeros", epochs=1), str(tmp_path))
    assert summary["val_acc"] == 0.1135
    assert summary["val_loss"] == pytest.approx(2.3010, abs=0.0005)


def test_another_initializer_with_the_same_seed_sees_the_same_batches(finished, tmp_path):
    """So the losses of their batches are correlated."""
    mnist.run(Config(init="he_normal", epochs=1), str(tmp_path))
    mine = np.array([step["loss"] for step in files.read_lines(tmp_path / "steps.jsonl")])
    other = np.array([step["loss"] for step in files.read_lines(finished[0] / "steps.jsonl")[:469]])
    assert np.corrcoef(mine[200:], other[200:])[0, 1] > 0.9


def test_tensorflow_is_not_imported(tmp_path):
    code = (
        "import sys\nfrom experiments import mnist\nfrom experiments.common.config import Config\n"
        f"mnist.run(Config(epochs=1, hidden=(8,)), {str(tmp_path / 'run')!r})\n"
        "assert not {'tensorflow', 'tensorflow_datasets', 'torch'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], env=FAST, check=True)


@pytest.mark.parametrize(
    "flags",
    [
        ("--hidden=", "--optimizer=sgd", "--learning_rate=0.1"),
        ("--hidden=32", "--activation=tanh", "--dtype=bfloat16", "--optimizer=momentum"),
        ("--dtype=float64", "--bias_init=random_uniform(-0.1, 0.1)", "--output_init=zeros"),
    ],
)
def test_every_flag_does_something(flags, tmp_path):
    result = run("--epochs=1", "--batch_size=1024", *flags, "--workdir=a/b", cwd=tmp_path, env=FAST)
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "a/b/summary.json").read_text())
    assert summary["val_acc"] > 0.6
    repeat = result.stdout.splitlines()[-1]
    for flag in flags:
        value = flag.partition("=")[2]
        assert value in repeat
    if "--dtype=float64" in flags:
        params = run_directory.load_params(tmp_path / "a/b/params.safetensors")
        assert params["output"]["kernel"].dtype == np.float64


@pytest.fixture(scope="module")
def losses(folder):
    """The losses of every step of a small run with some settings changed."""

    def losses(directory, **changes):
        settings = {"epochs": 1, "batch_size": 250, "hidden": (8,), "data_dir": folder, **changes}
        mnist.run(Config(**settings), str(directory))
        return [step["loss"] for step in files.read_lines(directory / "steps.jsonl")]

    return losses


@pytest.fixture(scope="module")
def unchanged(losses, tmp_path_factory):
    return losses(tmp_path_factory.mktemp("unchanged"))


@pytest.mark.parametrize(
    "change",
    [
        {"init": "he_normal"},
        {"output_init": "he_normal"},
        {"bias_init": "ones"},
        {"seed": 1},
        {"activation": "tanh"},
        {"dtype": "bfloat16"},
        {"optimizer": "sgd"},
        {"learning_rate": 2e-3},
        {"batch_size": 500},
    ],
    ids=str,
)
def test_every_setting_changes_what_is_trained(change, losses, unchanged, tmp_path):
    assert losses(tmp_path, **change) != unchanged


def test_an_audit_before_training_changes_no_bit_of_it(tmp_path, capsys):
    config = Config(init="zeros", epochs=1, batch_size=6000, hidden=(8, 8))
    mnist.run(config, str(tmp_path / "a"))
    mnist.run(config, str(tmp_path / "b"), sys.stdout, audit=True)
    names = {name: {path.name for path in (tmp_path / name).glob("[!e]*")} for name in "ab"}
    assert names["b"] - names["a"] == {"audit.json"}
    for name in ("params.safetensors", "steps.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in "ab"]
    assert configs[0]["config"] == configs[1]["config"]
    output = capsys.readouterr().out
    audited, _, training = output.partition("\nEpoch 0/1")
    assert "\n1. failure, zero: " in audited and "Epoch 1/1" in training
    suggestion = "next    python -m experiments.audit --init=zeros --seed=0 --hidden=8,8 --fix"
    assert suggestion in audited.splitlines()
    report = json.loads((tmp_path / "b/audit.json").read_text())
    first = files.read_lines(tmp_path / "b/steps.jsonl")[0]
    assert report["verdict"] == "failure"
    assert report["network"]["loss"] == pytest.approx(first["loss"], rel=1e-5)


def test_audits_during_training_change_no_bit_of_it_and_leave_a_curve(tmp_path, capsys):
    config = Config(init="constant(0.01)", epochs=2, batch_size=6000, hidden=(8,) * 5)
    mnist.run(config, str(tmp_path / "a"))
    mnist.run(config, str(tmp_path / "b"), sys.stdout, audit_every=5)
    names = {name: {path.name for path in (tmp_path / name).glob("[!e]*")} for name in "ab"}
    assert names["b"] - names["a"] == {"audits.jsonl", "audits.png"}
    for name in ("params.safetensors", "steps.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    audits = files.read_lines(tmp_path / "b/audits.jsonl")
    assert [audit["step"] for audit in audits] == [0, 5, 10, 15, 20]
    assert audits[0]["findings"][0]["cause"] == "symmetry"
    # The first audit is of the parameters, and on the batch, of the first training step.
    first = files.read_lines(tmp_path / "b/steps.jsonl")[0]
    assert audits[0]["network"]["loss"] == pytest.approx(first["loss"], rel=1e-5)
    assert audits[-1]["layers"][0]["rms"] != audits[0]["layers"][0]["rms"]
    audits = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("audits")
    )
    assert re.match(r"audits  5 audits; step 0: failure \(symmetry.*\); step 20: \w+", audits)


def test_a_run_from_saved_parameters_is_the_run_that_drew_them(losses, unchanged, folder, tmp_path):
    config = Config(hidden=(8,), data_dir=folder)
    drawn = starting.start(config, data.load(None, folder))
    run_directory.save_params(tmp_path / "drawn", jax.device_get(drawn.params), {})
    assert losses(tmp_path / "run", params=str(tmp_path / "drawn")) == unchanged
    record = json.loads((tmp_path / "run/config.json").read_text())
    digest = hashlib.sha256((tmp_path / "drawn").read_bytes()).hexdigest()[:12]
    assert record["config"]["params"] == f"{tmp_path / 'drawn'}@sha256:{digest}"
    assert f" --params={tmp_path / 'drawn'}@sha256:{digest} --seed=0 " in record["command"]
    assert record["initializers"] == {} and "--init" not in record["command"]


@pytest.mark.parametrize(
    ("changes", "cause", "command"),
    [
        ({"init": "zeros"}, "hidden/0/kernel is zero", "--init=zeros --seed=0"),
        (
            {"init": "normal(100)"},
            "the initial weights are too large",
            "'--init=normal(100)' --seed=0",
        ),
        (
            {"learning_rate": 1e9},
            "--learning_rate=1e+09 is too high",
            "--init=glorot_uniform --seed=0 --learning_rate=1000000000.0",
        ),
    ],
    ids=str,
)
def test_a_run_that_learned_nothing_says_why_and_what_to_do(
    changes, cause, command, folder, tmp_path, capsys
):
    mnist.run(Config(epochs=1, data_dir=folder, **changes), str(tmp_path), sys.stdout)
    output = capsys.readouterr().out
    lines = output.splitlines()
    (first,) = [number for number, line in enumerate(lines) if line.startswith("warning ")]
    assert f"Likely cause: {cause}" in " ".join(output.split())
    *warning, step, results, repeat = lines[first:]
    assert all(len(line) <= 80 for line in warning)
    assert step.startswith(f"next    python -m experiments.audit {command} --data_dir=")
    assert results.startswith("results ") and repeat.startswith("repeat ")


def test_a_batch_of_more_images_than_there_are_holds_all_of_them(folder, tmp_path, capsys):
    mnist.run(Config(epochs=1, batch_size=1001, hidden=(), data_dir=folder), str(tmp_path),
              sys.stdout)  # fmt: skip
    note = "note --batch_size=1001 is more than there are training images (1,000): each batch"
    assert note in " ".join(capsys.readouterr().out.split())
    assert len(files.read_lines(tmp_path / "steps.jsonl")) == 1


def test_the_repeat_command_repeats_the_audits():
    assert mnist.command(Config(), audit=True, audit_every=7).endswith(
        " --init=glorot_uniform --seed=0 --audit --audit_every=7"
    )


def test_ctrl_c_before_training_leaves_nothing(folder, tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(starting, "start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        mnist.run(Config(data_dir=folder), str(tmp_path / "a/b"), sys.stdout)
    assert capsys.readouterr().out == "interrupted; nothing was written\n"
    assert not [*tmp_path.iterdir()]


def test_ctrl_c_while_an_epoch_is_written_keeps_it_whole(folder, tmp_path, monkeypatch):
    save, saved = run_directory.save_params, []

    def interrupted(*given):
        save(*given)
        saved.append(given)
        if len(saved) == 2:  # epochs 0 and 1
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(run_directory, "save_params", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mnist.run(Config(hidden=(8,), data_dir=folder), str(tmp_path))
    assert len(files.read_lines(tmp_path / "metrics.jsonl")) == 2
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "interrupted"


def test_a_run_that_is_interrupted_before_it_has_a_result_leaves_nothing(
    tmp_path, folder, monkeypatch
):
    def interrupted(params):
        raise KeyboardInterrupt

    monkeypatch.setattr(mnist.run_audit, "auditor", lambda *given: interrupted)
    config = Config(epochs=1, hidden=(8,), data_dir=folder)
    with pytest.raises(KeyboardInterrupt):
        mnist.run(config, str(tmp_path), audit_every=1)
    assert not [*tmp_path.iterdir()]


def test_a_diverging_run_finishes_and_says_so(tmp_path):
    result = run("--epochs=1", "--optimizer=sgd", "--learning_rate=1e30", cwd=tmp_path, env=FAST)
    assert result.returncode == 0, result.stderr
    assert "loss nan" in result.stdout and "training diverged" in result.stdout
    assert result.stderr == ""
    (summary,) = tmp_path.glob("runs/*/summary.json")
    assert json.loads(summary.read_text())["val_loss"] is None


def test_a_directory_of_idx_files_can_be_trained_on(tmp_path):
    import gzip

    source = pathlib.Path(data.__file__).with_name("mnist")
    folder = tmp_path / "my-digits"
    folder.mkdir()
    for path in source.glob("*.gz"):
        (folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    result = run("--data_dir=my-digits", "--epochs=1", "--hidden=8", cwd=tmp_path, env=FAST)
    assert result.returncode == 0, result.stderr
    config = json.loads((tmp_path / "runs/my-digits-glorot_uniform-seed0/config.json").read_text())
    assert config["data"]["digest"] == data.load().digest
    assert config["data"]["source"] == str(folder)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--init=he_norml"], "--init: unknown initializer 'he_norml'; did you mean he_normal? "),
        (["--init=normal(-1)"], "--init: normal: stddev must be a finite number >= 0, got -1"),
        (["--output_init=normal(std=1)"], "--output_init: normal has no parameter 'std'; valid"),
        (["--bias_init=os.system('x')"], "--bias_init: cannot read"),
        (["--activation=rleu"], "--activation=rleu: did you mean relu? Must be one of celu, "),
        (["--optimizer=adamw"], "--optimizer=adamw: did you mean adam? Must be one of adam, "),
        (["--dtype=int8"], "--dtype=int8: must be one of "),
        (["--hidden=128,x"], "--hidden=128,x: must be integers separated by commas"),
        (["--hidden=0x8"], "--hidden=0x8: must be integers separated by commas"),
        (["--hidden=3x"], "--hidden=3x: must be integers separated by commas"),
        (["--hidden=9999999999x8"], "1,001 hidden layers: at most 1,000 are possible"),
        (["--hidden=16,,8"], "--hidden=16,,8: must be integers separated by commas"),
        (["--hidden=128,0"], "--hidden=128,0: every size must be at least 1"),
        (["--hidden=99999999999"], "--hidden=99999999999: every size must be at least 1 and at"),
        (["--hidden=1000000,1000000"], "a network of sizes 1000000-1000000 has 1,000,001,000,000 "),
        (["--hidden=2000000000,2000000000"], "a network of sizes 2000000000-2000000000 has "),
        (["--hidden=" + "8," * 1000 + "8"], "1,001 hidden layers: at most 1,000 are possible"),
        (["--epochs=0"], "--epochs=0: must be at least 1"),
        (["--batch_size=0"], "--batch_size=0: must be at least 1"),
        (["--seed=-1"], "--seed=-1: must be at least 0"),
        (["--seed=x"], "--seed=x: must be an integer"),
        ([f"--hidden={'9' * 5000}"], f"--hidden={'9' * 5000}: must be integers separated"),
        (["--audit=x"], "--audit=x: must be true or false; --audit alone means true"),
        (["--help=short"], "--help=short: takes no value; write --help"),
        (["--flagfile=nowhere"], "--flagfile: cannot read the file: No such file"),
        (["--audit_every=0"], "--audit_every=0: must be at least 1"),
        (["--checkpoint_every=0"], "--checkpoint_every=0: must be at least 1"),
        (["--resume"], "--resume needs --workdir, the directory of the run"),
        (["--resume", "--workdir=file"], "--workdir=file is not a directory"),
        (["--resume", "--workdir=."], "--workdir=. holds no run with checkpoints"),
        (["--mesh=rows:2"], "--mesh=rows:2: expected NAME:SIZE, with the names data and model"),
        (["--distributed=host"], "--distributed=host: must be auto, or HOST:PORT,i/n: the address"),
        (["--learning_rate=0"], "--learning_rate=0: must be a finite number above 0"),
        (["--learning_rate=x"], "--learning_rate=x: must be a number"),
        (["--learning_rate=nan"], "--learning_rate=nan: must be a finite number above 0"),
        (["--int=zeros"], "unknown flag --int; did you mean --init? Valid flags: --init, "),
        (["--lr=0.1"], "unknown flag --lr; did you mean --learning_rate? Valid flags: --init, "),
        (["--opt=sgd"], "unknown flag --opt; did you mean --optimizer? Valid flags: --init, "),
        (["zeros"], "unexpected argument 'zeros'"),
        (["--workdir=."], "--workdir=. is not empty"),
        (["--params=nowhere"], "--params=nowhere cannot be read: No such file or directory"),
        (["--params=file", "--init=zeros"], "give either --params or --init"),
        (["--data_dir=nowhere"], "--data_dir=nowhere cannot be read"),
        (["--data_dir=."], "--data_dir=. holds no IDX files"),
        (["--dataset=no such"], "--dataset=no such is not a valid name"),
    ],
)
def test_an_error_is_reported_in_one_line_before_anything_heavy_is_imported(
    flags, message, tmp_path
):
    (tmp_path / "file").touch()
    result = run(*flags, cwd=tmp_path, env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"})
    *imports, last = result.stderr.splitlines()
    assert result.returncode == 2 and result.stdout == ""
    assert last.startswith(f"experiments.mnist: {message}")
    assert all(line.startswith("import time:") for line in imports)
    heavy = re.compile(r"\| +(jax|flax|optax|matplotlib|tensorflow_datasets|tensorboardX)$")
    assert not [line for line in imports if heavy.search(line)]
    assert os.listdir(tmp_path) == ["file"]


def test_an_unknown_or_unprepared_dataset_is_explained(tmp_path):
    unknown = run("--dataset=fashion_mnits", f"--data_dir={tmp_path}", cwd=tmp_path)
    assert unknown.returncode == 2 and "did you mean fashion_mnist" in unknown.stderr
    unprepared = run("--dataset=fashion_mnist", f"--data_dir={tmp_path}", cwd=tmp_path)
    assert unprepared.returncode == 2 and "download_and_prepare" in unprepared.stderr
    assert len(unprepared.stderr.splitlines()) == 1 and os.listdir(tmp_path) == []


def test_the_error_for_an_initializer_that_does_not_fit_names_the_parameter(tmp_path):
    result = run("--init=he_normal(in_axis=5)", cwd=tmp_path)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert "--init: hidden/0/kernel: in_axis=5 is outside shape (784, 128)" in result.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpshort", "--helpfull"])
def test_help_groups_and_explains_all_flags(flag, tmp_path):
    result = run(flag, cwd=tmp_path, env={**os.environ, "COLUMNS": "80"})
    assert result.returncode == 0 and result.stderr == ""
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    for heading in ("Initialization:", "Model:", "Training:", "Data:", "Output:"):
        assert f"\n{heading}\n" in result.stdout
    for name in Config.__dataclass_fields__:
        assert f"\n  --{name}\n" in result.stdout
    assert "(default: 128,64 for mlp," in " ".join(result.stdout.split())
    assert "\nExamples:\n  python -m experiments.mnist --init=he_normal " in result.stdout


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, *flags, cwd):
        master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *flags], cwd=cwd, env=FAST, stdout=slave, stderr=slave, stdin=slave
        )
        os.close(slave)
        self.master, self.output = master, ""

    def read_until(self, text, timeout=120):
        deadline = time.monotonic() + timeout
        while text not in self.output:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{text!r} did not come; so far: {self.output}"
            try:
                self.output += os.read(self.master, 65536).decode()
            except OSError:  # the other end is closed
                assert text in self.output, self.output
                return

    def close(self):
        code = self.process.wait(timeout=60)
        os.close(self.master)
        return code


def test_a_terminal_sees_a_live_bar(tmp_path):
    terminal = Terminal("--epochs=2", cwd=tmp_path)
    terminal.read_until("repeat  ")
    assert terminal.close() == 0
    assert "\r\x1b[KEpoch 1/2 ──────────────────── 0/469" in terminal.output
    assert re.search(r"Epoch 2/2 ━+─+ \d+/469 - loss \d\.\d{4} - acc 0\.\d{4}", terminal.output)
    assert re.search(r"\r\x1b\[KEpoch 2/2 \d+\.\d\ds - loss", terminal.output)


@pytest.mark.parametrize("where", ["terminal", "pipe", "cluster"])
def test_ctrl_c_keeps_every_finished_epoch(where, tmp_path):
    flags = ("--epochs=1000", "--hidden=16", "--workdir=run")
    if where == "terminal":
        program = Terminal(*flags, cwd=tmp_path)
        program.read_until("Epoch    4/1000")  # the third has ended
        program.process.send_signal(signal.SIGINT)
        program.read_until("repeat  ")
        output, code = program.output, program.close()
    else:
        process = subprocess.Popen(
            [*COMMAND, *flags], cwd=tmp_path, env=FAST, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        output = ""
        while "Epoch    3/1000" not in output:
            output += process.stdout.readline()
        process.send_signal(signal.SIGTERM if where == "cluster" else signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
        output, code = output + rest, process.returncode
    assert code == (75 if where == "cluster" else 130) and "Traceback" not in output
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    epochs = files.read_lines(tmp_path / "run/metrics.jsonl")
    assert summary["status"] == "interrupted" and 3 <= summary["epochs"] == len(epochs) - 1
    assert f"interrupted; {summary['epochs']} epochs finished" in output
    assert len(files.read_lines(tmp_path / "run/steps.jsonl")) == 469 * summary["epochs"]
    assert (tmp_path / "run/learning_curve.png").exists()
    assert run_directory.load_params(tmp_path / "run/params.safetensors")


def test_a_killed_run_keeps_every_finished_epoch(tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "--epochs=1000", "--hidden=16", "--workdir=run"],
        cwd=tmp_path, env=FAST, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    for line in process.stdout:
        if line.startswith("Epoch    3/1000"):
            process.kill()
            break
    process.communicate()
    assert len(files.read_lines(tmp_path / "run/metrics.jsonl")) >= 4
    assert json.loads((tmp_path / "run/config.json").read_text())["config"]["hidden"] == [16]


def test_head_closing_the_output_causes_no_traceback(tmp_path):
    command = f"{sys.executable} -m experiments.mnist --help | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path)
    assert "Traceback" not in result.stderr and "BrokenPipe" not in result.stderr


def test_head_closing_the_output_loses_no_epoch(folder, tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "--epochs=2", "--hidden=8", f"--data_dir={folder}", "--workdir=run"],
        cwd=tmp_path, env=FAST, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout and process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(timeout=120) == 0
    process.stderr.close()
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "finished"


def test_running_out_of_memory_in_the_first_epoch_leaves_nothing(folder, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(training, "train", fails)
    config = Config(epochs=1, hidden=(8,), data_dir=folder)
    with pytest.raises(UsageError, match="hidden layers 8 and --batch_size=128 needs more memory"):
        mnist.run(config, str(tmp_path / "run"))
    assert os.listdir(tmp_path) == []


def test_a_configuration_is_checked_on_construction():
    with pytest.raises(ValueError, match="unknown initializer"):
        Config(init="nothing")
    assert Config(optimizer="sgd").learning_rate == 0.01
    assert Config(**json.loads(json.dumps({"hidden": (3, 2)}))) == Config(hidden=(3, 2))
