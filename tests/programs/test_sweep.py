"""`python -m experiments.sweep`: each run as if alone, no run lost, no run trained twice."""

import collections
import itertools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from experiments import sweep
from experiments.common import (
    data,
    fitting,
    flag_lists,
    many_runs,
    run_files,
    shards,
    starting,
    sweep_directory,
    tasks,
)
from experiments.common.config import Config, UsageError, canonical

COMMAND = [sys.executable, "-m", "experiments.sweep"]
# Halves the compilation time of XLA, for tests that don't check bits.
FAST = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
_INPUTS = [
    name for name in sweep_directory.SCHEMA.names if name not in ("seconds", "finished", "host")
]


def configs(folder, seeds=2, **options):
    settings = {"hidden": (16,), "epochs": 2, "data_dir": folder, **options}
    return [
        Config(init=init, seed=seed, **settings)
        for seed in range(seeds)
        for init in ("he_normal", "zeros", "random_uniform(-0.1, 0.1)")
    ]


def run(*flags, cwd, env=FAST):
    return subprocess.run(
        [*COMMAND, *flags], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )


def piped(*flags, cwd):
    """A running sweep whose output is buffered, as in any pipe."""
    environment = {name: value for name, value in FAST.items() if name != "PYTHONUNBUFFERED"}
    process: Any = subprocess.Popen(
        [*COMMAND, *flags], cwd=cwd, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    return process


def train(configs, directory):
    """Trains all missing runs in this process and returns their number."""
    dataset = data.load(configs[0].dataset, configs[0].data_dir)
    trained, others = sweep.run(configs, dataset, str(directory))
    assert others == 0
    return trained


def outcome(directory):
    """The runs of a directory, without when and where they were trained."""
    return sweep_directory.read(directory).select(_INPUTS).to_pylist()


def same(a, b):
    """Whether two outcomes are bit-for-bit equal, including NaN."""
    return repr(a) == repr(b)


def alone(config):
    """The metrics of a run as `experiments.mnist` trains it."""
    digits = data.load(config.dataset, config.data_dir)
    with starting.precision(config):
        start = starting.start(config, digits)
        epochs = fitting.fit(
            tasks.classification(start.model.apply),
            starting.optimizer(config, start.model),
            config.learning_rate,
            start.params,
            starting.order_key(start.key),
            (digits.train_images, digits.train_labels),
            (digits.test_images, digits.test_labels),
            epochs=config.epochs,
            batch_size=config.batch_size,
        )
        epochs = list(epochs)
    steps = np.concatenate([epoch.batch_metrics.loss for epoch in epochs if epoch.batch_metrics])
    return {
        "val_loss": [epoch.metrics["val_loss"] for epoch in epochs],
        "val_acc": [epoch.metrics["val_acc"] for epoch in epochs],
        "loss": [epoch.metrics["loss"] for epoch in epochs[1:]],
        "acc": [epoch.metrics["acc"] for epoch in epochs[1:]],
        "step_loss": steps.astype(np.float32).tolist(),
    }


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"activation": "tanh", "optimizer": "momentum", "learning_rate": 0.1, "dtype": "bfloat16"},
        {"dtype": "float64", "optimizer": "sgd"},
        {"epochs": 1, "batch_size": 1000},  # an epoch of one step
        {"batch_size": 3000, "hidden": (), "learning_rate": 1e30},  # which diverges
        {"scheme": "completep", "base": (8,), "epochs": 1},
    ],
    ids=str,
)
def test_a_run_in_a_sweep_is_bit_for_bit_equal_to_the_run_alone(folder, tmp_path, settings):
    wanted = configs(folder, **settings)
    assert train(wanted, tmp_path) == len(wanted)
    rows = {row["key"]: row for row in sweep_directory.read(tmp_path).to_pylist()}
    digest = data.load(None, folder).digest
    assert len(rows) == len(wanted)
    for config in wanted:
        row = rows[config.identity(digest)]
        for name, value in alone(config).items():
            assert same(row[name], value), (config, name)
        assert row["seed"] == config.seed and row["init"] == canonical(config.init)


def test_any_number_of_runs_and_devices_gives_the_same_bits(folder, tmp_path):
    flags = ["--hidden=16", "--epochs=2", f"--data_dir={folder}", "--init=he_normal,zeros"]
    for devices, seeds in ((1, 2), (3, 5)):
        environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}
        result = run(
            *flags, f"--seeds={seeds}", f"--workdir={devices}", cwd=tmp_path, env=environment
        )
        assert result.returncode == 0, result.stderr
        assert f"on {devices} x cpu" in result.stdout
    many = {row["key"]: row for row in outcome(tmp_path / "3")}
    few = outcome(tmp_path / "1")
    assert len(many) == 10 and len(few) == 4
    assert all(same(row, many[row["key"]]) for row in few)


def test_finished_runs_are_skipped(folder, tmp_path):
    wanted = configs(folder, seeds=3)
    assert train(wanted[:4], tmp_path) == 4
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.parquet")}
    assert train(wanted, tmp_path) == 5
    assert train(wanted, tmp_path) == 0
    for name, content in before.items():
        assert (tmp_path / name).read_bytes() == content
    # Another name of the same initializer is the same run; another learning rate is not.
    named = Config(
        init="kaiming_normal()", hidden=(16,), epochs=2, data_dir=folder, dataset="digits"
    )
    assert train([named], tmp_path) == 0
    faster = Config(init="he_normal", hidden=(16,), epochs=2, data_dir=folder, learning_rate=0.1)
    assert train([faster], tmp_path) == 1


def test_one_program_serves_every_initializer_and_learning_rate(folder, tmp_path):
    def programs():
        return many_runs.train_runs._cache_size()  # pyright: ignore[reportAttributeAccessIssue]

    train(configs(folder), tmp_path)
    compiled = programs()
    assert train(configs(folder, seeds=4, learning_rate=0.01), tmp_path) == 12
    assert programs() == compiled


def test_a_diverging_run_is_recorded_and_does_not_stop_others(folder, tmp_path):
    wanted = [
        Config(init=init, hidden=(16,), epochs=2, data_dir=folder)
        for init in ("he_normal", "normal(3e37)", "glorot_uniform")
    ]
    train(wanted, tmp_path)
    status = {row["init"]: row["status"] for row in outcome(tmp_path)}
    assert status["normal(stddev=3e+37)"] == "diverged"
    assert status["he_normal"] == status["glorot_uniform"] == "finished"


def test_shards_add_up_to_the_grid(folder, tmp_path):
    flags = [
        "--init=he_normal,random_uniform(-0.1, 0.1)", "--seeds=2,5-6", "--hidden=16",
        "--hidden=16,8", "--learning_rate=.01,.1", f"--data_dir={folder}",
    ]  # fmt: skip
    for shard in range(2):
        result = run(*flags, f"--shard={shard}/2", "--workdir=r", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    rows = outcome(tmp_path / "r")
    inits = ("he_normal", "random_uniform(minval=-0.1, maxval=0.1)")
    grid = set(itertools.product(inits, (2, 5, 6), ((16,), (16, 8)), (0.01, 0.1)))
    found = [(row["init"], row["seed"], tuple(row["hidden"]), row["learning_rate"]) for row in rows]
    assert len(found) == len(grid) == 24 and set(found) == grid


@pytest.mark.parametrize("number", [2, 3, 6])
def test_each_part_of_a_grid_is_a_fair_sample(number):
    grid = [
        Config(init=init, seed=seed)
        for seed in range(30)
        for init in ("zeros", "he_normal", "orthogonal")
    ]
    parts = [shards.Shard(index, number).part(grid) for index in range(number)]
    assert sorted(itertools.chain(*parts), key=grid.index) == grid
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for mine in parts:
        assert mine == sorted(mine, key=grid.index)  # seed by seed
        inits = collections.Counter(config.init for config in mine)
        assert len(inits) == 3 and min(inits.values()) >= 2
    # Fixed for all versions of NumPy, so that machines agree on who trains which runs.
    ten = [Config(seed=seed) for seed in range(10)]
    assert [config.seed for config in shards.Shard(0, 2).part(ten)] == [0, 1, 2, 4, 7]


def test_values_given_twice_are_trained_once(folder, tmp_path):
    flags = [
        "--init=he_normal,kaiming_normal(), he_normal", "--seeds=0,0-1", "--hidden=16",
        "--hidden=16", "--learning_rate=.1,0.10", "--optimizer=adam,adam", "--activation=relu,relu",
        f"--data_dir={folder}", "--shard=0/2",
    ]  # fmt: skip
    result = run(*flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "init    he_normal; 1 seed\n" in result.stdout
    assert "\nruns    1, of which 0 are finished" in result.stdout


_HOLD = """
import sys, time
from experiments.common import sweep_directory
with sweep_directory.SweepDirectory(sys.argv[1]) as stored:
    print(len(stored.claim(sys.argv[2:], 100)), flush=True)
    time.sleep(600)
"""


def test_runs_of_other_processes_are_reported_and_can_be_finished_later(folder, tmp_path):
    flags = ["--init=he_normal,zeros", "--seeds=2", "--hidden=16", f"--data_dir={folder}"]
    digest = data.load(None, folder).digest
    wanted = [
        Config(init=init, seed=seed, hidden=(16,)).identity(digest)
        for seed in range(2)
        for init in ("he_normal", "zeros")
    ]
    # Claims end with the process that holds them, even if it is killed.
    for held, left in ((4, "4 runs are"), (1, "1 run is")):
        other = subprocess.Popen(
            [sys.executable, "-c", _HOLD, tmp_path / "runs/sweep", *wanted[:held]],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert other.stdout and other.stdout.readline() == f"{held}\n"
            result = run(*flags, cwd=tmp_path)
        finally:
            other.kill()
            other.communicate()
        assert result.returncode == 0 and result.stderr == ""
        lines = result.stdout.splitlines()
        assert lines[-4] == f"{left} running in other processes; rerun this command to compare"
        assert all(len(line) <= 80 for line in lines) and "test accuracy" not in result.stdout
        assert "0:00:00 left" not in result.stdout  # which would mean that all runs are done
    result = run(*flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "\nruns    4, of which 3 are finished" in result.stdout
    assert re.search(r"\n4/4 runs, [\d.]+ runs/s, 0:00:00 left", result.stdout)
    assert "test accuracy" in result.stdout


def test_a_finished_directory_need_not_be_writable(folder, tmp_path):
    flags = ["--init=he_normal,zeros", "--seeds=2", "--hidden=16", f"--data_dir={folder}"]
    first = run(*flags, cwd=tmp_path)
    directory = tmp_path / "runs/sweep"
    before = sorted(directory.iterdir())
    directory.chmod(0o555)
    try:
        again = run(*flags, cwd=tmp_path)
    finally:
        directory.chmod(0o755)
    assert again.returncode == 0 and again.stderr == ""
    assert sorted(directory.iterdir()) == before  # also if root runs the test
    comparison = first.stdout.partition("0:00:00 left")[2]
    assert "test accuracy" in comparison and again.stdout.endswith(comparison)


def test_two_processes_share_the_work(folder, tmp_path):
    flags = ["--init=he_normal", "--seeds=200", "--hidden=16", f"--data_dir={folder}"]
    command = [*COMMAND, *flags, "--workdir=r"]
    started = [
        subprocess.Popen(command, cwd=tmp_path, env=FAST, stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    keys = [
        key
        for part in (tmp_path / "r").glob("*.parquet")
        for key in run_files.read(part, ["key"])["key"].to_pylist()
    ]
    assert len(set(keys)) == 200
    assert len(keys) == 200  # none was trained twice


def test_the_output_shows_progress_and_results(folder, tmp_path):
    flags = ["--init=zeros,he_normal", "--seeds=3", "--hidden=16", f"--data_dir={folder}"]
    result = run(*flags, cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0 and result.stderr == ""
    lines = result.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines) and "\x1b" not in result.stdout
    assert any(line.startswith("runs    6, of which 0 are finished") for line in lines)
    assert any(re.match(r"6/6 runs, [\d.]+ runs/s, 0:00:00 left", line) for line in lines)
    assert any(re.match(r"he_normal     3  0\.\d+ \+-0", line) for line in lines)
    assert any(line.startswith("- zeros: 0 of 3 runs learned anything") for line in lines)
    assert lines[-3:] == [
        "results runs/sweep",
        "report  python -m experiments.report runs/sweep",
        "        writes runs/sweep/report.html",
    ]


def test_ctrl_c_keeps_all_trained_runs(folder, tmp_path):
    flags = ["--init=he_normal", "--seeds=2000", "--hidden=16", f"--data_dir={folder}"]
    process = subprocess.Popen(
        [*COMMAND, *flags], cwd=tmp_path, env=FAST, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/sweep/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "saving the current runs" in output
    kept = len(outcome(tmp_path / "runs/sweep"))
    assert f"kept    {kept} runs in runs/sweep" in output and 0 < kept < 2000


def test_ctrl_c_that_also_stops_the_reader_loses_no_run(folder, tmp_path):
    """As in `python -m experiments.sweep | tee log`."""
    flags = [
        "--init=he_normal",
        "--seeds=2000",
        "--hidden=16",
        "--epochs=150",
        f"--data_dir={folder}",
    ]
    process = piped(*flags, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("runs/sweep/*.parquet"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kept = len(outcome(tmp_path / "runs/sweep"))
    time.sleep(0.3)  # the next batch, which takes some seconds, has started
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130 and process.stderr.read() == ""
    process.stderr.close()
    assert len(outcome(tmp_path / "runs/sweep")) > kept


def test_head_closing_the_output_causes_no_traceback_and_loses_no_run(folder, tmp_path):
    flags = ["--init=he_normal", "--seeds=2", "--hidden=16", f"--data_dir={folder}"]
    process = piped(*flags, cwd=tmp_path)
    while not process.stdout.readline().startswith("runs "):
        pass
    process.stdout.close()
    assert process.wait(timeout=120) == 0 and process.stderr.read() == ""
    process.stderr.close()
    assert len(outcome(tmp_path / "runs/sweep")) == 2


def test_an_initializer_that_does_not_fit_is_reported_before_training(folder, tmp_path):
    flags = ["--init=he_normal,delta_orthogonal", "--seeds=2", f"--data_dir={folder}"]
    result = run(*flags, cwd=tmp_path)
    assert result.returncode == 2 and result.stdout == ""
    assert "hidden/0/kernel" in result.stderr and len(result.stderr.splitlines()) == 1
    assert not list((tmp_path / "runs/sweep").glob("*.parquet"))


def test_a_network_that_does_not_fit_in_memory_is_reported_in_one_line(folder, tmp_path):
    result = run("--init=zeros", "--hidden=1000000,1000000", f"--data_dir={folder}", cwd=tmp_path)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert "sizes 1000000-1000000 has 1,000,001,000,000 parameters" in result.stderr
    assert os.listdir(tmp_path) == []


def test_more_epochs_than_memory_can_hold_are_reported_in_one_line(folder, tmp_path):
    flags = ("--init=zeros", "--seeds=1", "--epochs=4000000000", f"--data_dir={folder}")
    result = run(*flags, cwd=tmp_path)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert "--epochs=4000000000: the metrics of all steps need " in result.stderr
    assert os.listdir(tmp_path) == []


def test_help_shows_defaults_as_they_are_written(tmp_path):
    result = run("--help", cwd=tmp_path)
    text = " ".join(result.stdout.split())
    assert "32,32 for transformer). To compare several, repeat the flag. --residual" in text
    assert "repeat this option" not in text and "['" not in text


def test_a_single_number_is_the_number_of_seeds_even_with_spaces():
    assert flag_lists.seeds(" 3") == flag_lists.seeds("3 ") == [0, 1, 2]
    assert flag_lists.seeds("4294967295-4294967295") == [2**32 - 1]


@pytest.mark.parametrize("text", ["9" * 5000, f"0-{'9' * 5000}", f"{'9' * 5000}/{'9' * 5000}"])
def test_a_number_too_long_for_python_is_no_fault_of_the_program(text):
    with pytest.raises(UsageError, match="must be"):
        (shards.parse if "/" in text else flag_lists.seeds)(text)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--init=he_normal,nothing"], "--init: unknown initializer 'nothing'"),
        (["--seeds=0"], "--seeds=0: must be at least 1"),
        (["--seeds="], "--seeds=: must be a number or a list such as 3,5,8-12"),
        (["--seeds=-3"], "--seeds=-3: must be a number or a list such as 3,5,8-12"),
        (["--seeds=10000000"], "--seeds=10000000: at most 100,000 seeds are possible"),
        (["--seeds=5-2000000"], "--seeds=5-2000000: at most 100,000 seeds are possible"),
        (["--seeds=4294967296-4294967297"], "--seeds=4294967296-4294967297: a seed must be below"),
        (["--seeds=5-3"], "--seeds=5-3: must be a number or a list such as 3,5,8-12"),
        (["--learning_rate=.1,fast"], "--learning_rate=.1,fast: must be numbers"),
        (["--hidden=1,two"], "--hidden=1,two: must be integers"),
        (["--hidden=16,,8"], "--hidden=16,,8: must be integers"),
        (["--init=zeros,,he_normal"], "--init=zeros,,he_normal: must be names separated by commas"),
        (["--activation=relu,"], "--activation=relu,: must be names separated by commas"),
        (["--optimizer="], "--optimizer=: must be names separated by commas"),
        (["--shard=2/2"], "--shard=2/2: must be i/n with i from 0 to n-1"),
        (["--shard=5/9", "--init=zeros", "--seeds=2"], "the grid has only 2 runs"),
        (["--optimizer=adam,adm"], "--optimizer=adm: did you mean adam? Must be one of adam"),
        (["--workdir="], "--workdir=: the path is empty"),
        (["--sed=3"], "unknown flag --sed; did you mean --seeds? Valid flags: --init"),
    ],
)
def test_an_error_is_reported_in_one_line(tmp_path, flags, message):
    result = run(*flags, cwd=tmp_path)
    assert result.returncode == 2 and result.stdout == ""
    assert message in result.stderr and len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def _train_all(folder, seeds, workdir):
    train(configs(folder, seeds=seeds, hidden=(64,), epochs=6), workdir)


@pytest.mark.parametrize(
    ("kills", "seeds"),
    [(3, 24), pytest.param(50, 300, marks=pytest.mark.slow)],  # the latter takes two minutes
)
def test_killing_a_sweep_at_any_moment_loses_and_corrupts_nothing(folder, tmp_path, kills, seeds):
    """Killed at random moments, then finished and compared with an undisturbed sweep."""
    _train_all(folder, seeds, tmp_path / "undisturbed")  # first, so that the program is compiled
    # Forked from a process that has imported everything, so that kills hit what matters.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [f"experiments.{name}" for name in ("sweep", "common.sweep_directory", "common.training")]
        + ["experiments.common.models"]
    )
    rng = np.random.default_rng(0)
    kept, cut_short, patience = 0, 0, 0.0
    while cut_short < kills or not kept:
        process = context.Process(target=_train_all, args=(folder, seeds, tmp_path / "killed"))
        process.start()
        process.join(rng.uniform(0.3, 1.5) + patience)
        finished = process.exitcode is not None
        process.kill()
        process.join()
        found = list((tmp_path / "killed").glob("*.parquet"))
        now = len(outcome(tmp_path / "killed")) if found else 0
        assert now >= kept
        patience += 0.1 * (now == kept)  # on a busy machine it takes longer to finish anything
        kept = now
        if finished:
            break
        cut_short += 1
    assert cut_short > kills / 2 and 0 < kept
    _train_all(folder, seeds, tmp_path / "killed")
    assert same(outcome(tmp_path / "killed"), outcome(tmp_path / "undisturbed"))
