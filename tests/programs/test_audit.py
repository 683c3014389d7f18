"""`python -m experiments.audit`, run as a user runs it."""

import hashlib
import json
import math
import os
import re
import subprocess
import sys
import types
from typing import Any

import pytest

from experiments import audit
from experiments.common import data, run_audit, starting
from experiments.common.config import Config

COMMAND = [sys.executable, "-m", "experiments.audit"]


def run(*flags, cwd, **options):
    result = subprocess.run(
        [*COMMAND, *flags], cwd=cwd, capture_output=True, text=True, timeout=300, **options
    )
    # What takes more than two seconds, such as on a busy machine, says so.
    result.stdout = re.sub(
        r"^(start|init|fix|plot)? +.*ing.*, \d+ s\n", "", result.stdout, flags=re.M
    )
    return result


def report(directory, name="audit"):
    return json.loads((directory / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """A network that can't train, audited with --check."""
    folder = tmp_path_factory.mktemp("failed")
    flags = ("--init=zeros", "--activation=tanh", "--depth=4", "--width=16", "--check")
    return folder / "runs/audit-mnist-zeros-seed0", run(*flags, cwd=folder)


def test_the_output_says_what_is_wrong_and_what_to_do_next(failed):
    directory, result = failed
    lines = result.stdout.splitlines()
    assert result.stderr == ""
    assert lines[:5] == [
        "data    mnist: 256 of 60,000 training images, 28x28x1",
        "model   MLP 784-4x16-10, tanh, float32",
        "init    zeros; output glorot_uniform; bias zeros; seed 0",
        "audit   compiling and measuring 5 layers",
        "",
    ]
    assert lines[5].startswith("This network won't train: a kernel")
    assert any(line.startswith("initjax audit: 1 failure. 5 layers, loss 2.303") for line in lines)
    assert sum(line.startswith("x hidden/") for line in lines) == 4
    assert any(line.startswith("1. failure, zero: ") for line in lines)
    flags = "--init=zeros --seed=0 --activation=tanh --depth=4 --width=16"
    verdict, *rest = lines[-4:]
    assert re.fullmatch(r"verdict failure: zero; \d+\.\d s", verdict)
    assert rest == [
        f"next    python -m experiments.audit {flags} --fix",
        f"results runs/{directory.name}",
        f"repeat  python -m experiments.audit {flags} --check",
    ]


def test_check_exits_with_1_after_a_failure(failed):
    assert failed[1].returncode == 1


def test_the_directory_holds_the_numbers_and_a_plot(failed):
    directory, result = failed
    assert {path.name for path in directory.iterdir()} == {
        "config.json", "audit.json", "audit.png",
    }  # fmt: skip
    found = report(directory)
    assert found["format_version"] == 1 and found["verdict"] == "failure"
    assert [layer["name"] for layer in found["layers"]][-1] == "output/kernel"
    assert found["findings"][0]["cause"] == "zero" and len(found["findings"][0]["layers"]) == 4
    assert (directory / "audit.png").read_bytes().startswith(b"\x89PNG")
    config = report(directory, "config")
    assert config["config"]["hidden"] == [16] * 4 and config["versions"]["jax"]
    assert result.stdout.splitlines()[-1] == f"repeat  {config['command']}"


def test_the_suggested_command_repairs_the_network(failed, tmp_path):
    _, before = failed
    flags = before.stdout.splitlines()[-3].partition("experiments.audit ")[2].split()
    result = run(*flags, "--check", "--workdir=a/b", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert before.stdout.partition("\n\n")[2].partition("\nverdict")[0] in result.stdout
    assert "initjax fix: " in result.stdout
    directory = tmp_path / "a/b"
    digest = hashlib.sha256((directory / "params.safetensors").read_bytes()).hexdigest()[:12]
    assert result.stdout.splitlines()[-3] == (
        f"train   python -m experiments.mnist --params=a/b/params.safetensors@sha256:{digest}"
        " --seed=0 --hidden=4x16 --activation=tanh"
    )
    assert report(directory)["verdict"] == "failure"
    fixed = report(directory, "fixed")
    assert fixed["verdict"] == "ok" and fixed["layers"][0]["rms"] > 0.1
    assert {change["name"] for change in fixed["changes"]} == {
        f"hidden/{layer}/kernel" for layer in range(4)
    }
    assert {path.name for path in directory.iterdir()} == {
        "config.json", "audit.json", "audit.png", "fixed.json", "params.safetensors",
    }  # fmt: skip


def test_a_healthy_network_is_not_repaired(tmp_path, folder, capsys):
    config = audit.Audit(Config(hidden=(32,), data_dir=folder), fix=True)
    directory, found = audit.run(config, str(tmp_path / "audit"), sys.stdout)
    output = capsys.readouterr().out
    assert found.verdict == "ok" and output.count("initjax") == 1
    assert "\nNo repair needed: the weights are healthy, and nothing was changed.\n" in output
    assert {path.name for path in directory.iterdir()} == {
        "config.json", "audit.json", "audit.png",
    }  # fmt: skip
    (train,) = [line for line in output.splitlines() if line.startswith("train ")]
    assert train.startswith("train   python -m experiments.mnist --init=glorot_uniform --seed=0 ")


def test_the_remedies_are_flags(tmp_path, folder, capsys):
    config = audit.Audit(Config(init="zeros", hidden=(8, 8), activation="gelu", data_dir=folder))
    directory, _ = audit.run(config, str(tmp_path / "audit"), sys.stdout)
    output = " ".join(capsys.readouterr().out.split())
    assert """Draw the kernel at random: '--init=lecun_normal(gain='"'"'gelu'"'"')'.""" in output
    assert "lecun_normal(gain='gelu')" in report(directory)["findings"][0]["remedy"]


def test_a_table_that_does_not_fit_says_how_wide_the_terminal_must_be(
    tmp_path, folder, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "50")
    audit.run(audit.Audit(Config(hidden=(8,), data_dir=folder)), str(tmp_path / "a"), sys.stdout)
    output = capsys.readouterr().out.partition("\n\n")[2].partition("\nverdict")[0]
    assert re.search(r"not shown: .*;\s+a\s+width\s+of\s+\d\d\s+shows\s+all\s+columns\n", output)
    assert "to_text" not in output and all(len(line) <= 50 for line in output.splitlines())


@pytest.mark.parametrize("moment", ["auditor", "fix"])
def test_an_interrupted_audit_leaves_what_is_finished(
    moment, tmp_path, folder, monkeypatch, capsys
):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_audit, moment, interrupt)
    config = audit.Audit(Config(init="zeros", hidden=(8,), data_dir=folder), fix=True)
    with pytest.raises(KeyboardInterrupt):
        audit.run(config, str(tmp_path / "a/b"), sys.stdout)
    output = capsys.readouterr().out
    if moment == "auditor":
        assert output.endswith("\ninterrupted; nothing was written\n") and not [*tmp_path.iterdir()]
    else:
        assert output.endswith(
            f"\ninterrupted; the audit is finished\nresults {tmp_path / 'a/b'}\n"
        )
        assert report(tmp_path / "a/b")["verdict"] == "failure"


def test_the_first_step_of_an_optimizer_is_measured(tmp_path):
    """Adam's first step is the learning rate, except for pixels that are always black."""
    network = Config(learning_rate=0.5, dtype="bfloat16", hidden=(), batch_size=64)
    config = audit.Audit(network, optimizer=True)
    directory, found = audit.run(config, str(tmp_path / "audit"))
    images, _ = run_audit.first_batch(network, starting.root_key(0), data.load())
    step = 0.5 * images.reshape(64, -1).any(axis=0).mean() ** 0.5
    stddev = (2 / (784 + 10)) ** 0.5
    assert len(found.layers) == 1
    assert found.layers[0].update_ratio == pytest.approx(step / stddev, rel=0.05)
    assert [finding.cause for finding in found.findings] == ["update"]
    assert audit.command(config) == (
        "python -m experiments.audit --init=glorot_uniform --seed=0 --dtype=bfloat16"
        " --learning_rate=0.5 --batch_size=64 --optimizer=adam --hidden="
    )
    assert report(directory, "config")["config"]["learning_rate"] == 0.5


@pytest.mark.parametrize(
    ("causes", "step"),
    [
        ([], []),
        (
            ["vanishing", "depth"],
            ["next    python -m experiments.audit --init=glorot_uniform {} --optimizer=sgd --fix"],
        ),
        (
            ["not_finite"],
            ["next    python -m experiments.audit --init=he_normal {} --optimizer=sgd"],
        ),
        (
            ["batch"],
            ["next    python -m experiments.audit --init=glorot_uniform {} --optimizer=sgd"],
        ),
        (
            ["update"],
            ["next    python -m experiments.audit --init=glorot_uniform {} --learning_rate=0.001"],
        ),
    ],
)
def test_the_suggested_next_step_fits_the_causes(causes, step):
    network = Config(batch_size=1 if causes == ["batch"] else 256, optimizer="sgd")
    report: Any = types.SimpleNamespace(
        verdict="warning" if causes else "ok",
        findings=[
            types.SimpleNamespace(cause=cause, layers=["hidden/0/kernel"], remedy="try he_normal()")
            for cause in causes
        ],
        layers=[types.SimpleNamespace(update_ratio=ratio) for ratio in (3.0, math.nan)],
    )
    found = run_audit.next_step(network, report, optimizer=True)
    assert len(found) == len(step)
    for line, start in zip(found, step, strict=True):
        assert line.startswith(start.format("--seed=0"))
        assert "--batch_size" not in line and ("--fix" in line) == ("--fix" in start)


@pytest.mark.parametrize(
    ("network", "layers", "remedy", "flags"),
    [
        (Config(init="ones"), "hidden/0/kernel", "use lecun_normal()", "--init=lecun_normal"),
        (Config(init="he_normal"), "hidden/0/kernel", "kaiming_normal()", None),
        (
            Config(init="he_normal", activation="sigmoid"),
            "hidden/0/kernel",
            "draw it with he_normal(), and use tanh or relu",
            "--init=he_normal --seed=0 --activation=tanh",
        ),
        (
            Config(output_init="ones"),
            "output/kernel",
            "he_normal(gain='gelu')",
            "--init=glorot_uniform --seed=0 '--output_init=he_normal(gain='\"'\"'gelu'\"'\"')'",
        ),
        (Config(params="x"), "hidden/0/kernel", "use lecun_normal()", "--init=lecun_normal"),
        (Config(), "hidden/0/kernel", "lower the learning rate", None),
    ],
)
def test_another_initializer_is_suggested_where_a_repair_does_not_help(
    network, layers, remedy, flags
):
    finding = types.SimpleNamespace(cause="vanishing", layers=[layers], remedy=remedy)
    report: Any = types.SimpleNamespace(verdict="failure", findings=[finding])
    (line,) = run_audit.another(network, report)
    if flags is None:
        assert line == "next    choose another --init: rescaling doesn't repair this network"
    else:
        assert line.startswith(f"next    python -m experiments.audit {flags}")


def test_a_batch_that_is_too_small_is_no_evidence_of_health(tmp_path, folder, capsys):
    network = Config(batch_size=1, hidden=(16,), data_dir=folder)
    audit.run(audit.Audit(network, fix=True), str(tmp_path / "a"), sys.stdout)
    output = capsys.readouterr().out
    assert "\nNothing was changed: the batch is too small to judge the weights.\n" in output
    (line,) = [line for line in output.splitlines() if line.startswith("next ")]
    assert "--batch_size" not in line and "--fix" not in line


def test_a_step_that_is_too_large_is_no_fault_of_the_weights(tmp_path, folder, capsys):
    network = Config(optimizer="sgd", learning_rate=100.0, hidden=(16,), data_dir=folder)
    audit.run(audit.Audit(network, True, True), str(tmp_path / "a"), sys.stdout)
    output = capsys.readouterr().out
    assert "\nNo repair needed" in output and "\nverdict warning: update;" in output
    (line,) = [line for line in output.splitlines() if line.startswith("next ")]
    assert " --learning_rate=1.0 " in line and "--fix" not in line


@pytest.mark.parametrize(("step", "rate"), [(0.6, 0.5), (4.9, 0.5), (5.1, 0.05), (80.0, 0.005)])
def test_the_suggested_learning_rate_makes_the_first_step_healthy(step, rate):
    report: Any = types.SimpleNamespace(
        findings=[types.SimpleNamespace(cause="update")],
        layers=[types.SimpleNamespace(update_ratio=ratio) for ratio in (0.1, step, math.nan)],
    )
    slower = run_audit.slower(Config(optimizer="adam", learning_rate=5.0), report)
    assert slower.learning_rate == pytest.approx(rate)


def test_hidden_layers_are_given_by_depth_and_width_or_by_their_sizes():
    assert audit.hidden_sizes(None, None, None) is None
    assert audit.hidden_sizes(None, 3, None) == (128,) * 3
    assert audit.hidden_sizes(None, 2, 7) == (7, 7)
    assert audit.hidden_sizes(None, 2, None, "cnn") == (32, 32)
    assert audit.hidden_sizes(None, 0, None) == audit.hidden_sizes("", None, None) == ()
    assert audit.hidden_sizes("5,6", None, None) == (5, 6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--init=he_norml"], "--init: unknown initializer 'he_norml'; did you mean he_normal? "),
        (["--depth=3", "--hidden=8"], "give either --hidden or --depth and --width, not both"),
        (["--width=3"], "--width=3 needs --depth"),
        (["--depth=-1"], "--depth=-1: must be at least 0"),
        (["--depth=1000000"], "--depth=1000000: must be at least 0 and at most 1,000"),
        (["--depth=2", "--width=9999999999999"], "--width=9999999999999: must be at least 1 and"),
        (["--depth=2", "--width=1000000"], "a network of sizes 1000000-1000000 has "),
        (["--hidden=8,x"], "--hidden=8,x: must be integers separated by commas"),
        (["--learning_rate=0.1"], "--learning_rate=0.1 needs --optimizer"),
        (["--optimizer=adamw"], "--optimizer=adamw: did you mean adam? Must be one of adam, "),
        (["--epochs=3"], "unknown flag --epochs; valid flags: "),
        (["--workdir=."], "--workdir=. is not empty"),
        (["--data_dir=nowhere"], "--data_dir=nowhere cannot be read"),
    ],
)
def test_an_error_is_reported_in_one_line_before_anything_heavy_is_imported(
    flags, message, tmp_path
):
    (tmp_path / "file").touch()
    result = run(*flags, cwd=tmp_path, env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"})
    *imports, last = result.stderr.splitlines()
    assert result.returncode == 2 and result.stdout == ""
    assert last.startswith(f"experiments.audit: {message}")
    assert all(line.startswith("import time:") for line in imports)
    heavy = re.compile(r"\| +(jax|flax|optax|matplotlib|tensorflow_datasets)$")
    assert not [line for line in imports if heavy.search(line)]
    assert os.listdir(tmp_path) == ["file"]


def test_help_groups_and_explains_all_flags(tmp_path):
    result = run("--help", cwd=tmp_path, env={**os.environ, "COLUMNS": "80"})
    assert result.returncode == 0 and result.stderr == ""
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    for group, names in audit._GROUPS.items():
        assert f"\n{group}:\n" in result.stdout
        assert all(f"\n  --{name}\n" in result.stdout for name in names)
    assert {name for names in audit._GROUPS.values() for name in names} == {*audit._FLAGS, "help"}
