"""`python -m experiments.report`: a page that answers and asks nobody, and the same as files."""

import csv
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from experiments.common import comparison, published, results, statistics

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def row(init, seed, rng, **changes):
    """A run as a sweep stores it: accuracies about those of MNIST, those of a seed alike."""
    shift = {"he_normal": 0.0, "glorot_uniform": 0.003, "zeros": 2.2}[init]
    luck = np.random.default_rng(seed).normal(0, 0.001)
    loss = 0.3 + shift + luck + rng.normal(0, 0.0005)
    acc = 0.1135 if init == "zeros" else 0.975 - shift / 6 + luck + rng.normal(0, 0.0003)
    steps = np.linspace(2.3, loss, 938)
    return {
        "key": f"{init}{seed}{sorted(changes.items())}".encode().hex(),
        "status": "finished",
        "init": init, "output_init": "glorot_uniform", "bias_init": "zeros", "seed": seed,
        "hidden": [128, 64], "activation": "relu", "dtype": "float32", "optimizer": "adam",
        "learning_rate": 0.001, "epochs": 2, "batch_size": 128, "dataset": "mnist", "digest": "d",
        "loss": [loss, loss / 2], "acc": [0.9, 0.95],
        "val_loss": [2.3, loss / 2, loss / 3], "val_acc": [0.1, acc - 0.02, acc],
        "step_loss": steps, "step_acc": np.clip(1 - steps / 3, 0, 1),
        "features": 784, "classes": 10, "test_images": 10_000, "guess_acc": 0.1135,
        "seconds": 1.0, "finished": 0, "host": "<host>", "device": "cpu", "versions": "jax 1",
        **changes,
    }  # fmt: skip


def fill(directory, seeds=12, **changes):
    rng = np.random.default_rng(1)
    inits = ("he_normal", "glorot_uniform", "zeros")
    with results.Results(directory) as stored:
        stored.add([row(init, seed, rng, **changes) for seed in range(seeds) for init in inits])


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    directory = tmp_path_factory.mktemp("report") / "runs"
    fill(directory)
    command = [sys.executable, "-m", "experiments.report", str(directory)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return directory, result.stdout


def test_the_page_and_its_files_are_there(reported):
    directory, output = reported
    assert f"report  {directory / 'report.html'}" in output
    files = {path.name for path in (directory / "report").iterdir()}
    assert files == {
        "training_loss.png", "test_error.png", "final_accuracy.png", "differences.png",
        "weights_hidden_0_kernel.png", "weights_hidden_1_kernel.png", "report.md", "endpoints.csv",
        "pairs.csv",
    }  # fmt: skip
    for path in (directory / "report").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 20_000
    page = (directory / "report.html").read_text()
    assert "&lt;host&gt;" in page and "<host>" not in page
    markdown = (directory / "report" / "report.md").read_text()
    assert "| he_normal | 12 | 12 |" in markdown
    pairs = list(csv.DictReader((directory / "report" / "pairs.csv").read_text().splitlines()))
    assert len(pairs) == 3 * (len(comparison.ENDPOINTS) - 1)  # none reaches the target


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page with")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_works_in_a_browser_and_sends_no_request(reported, tmp_path, width):
    directory, _ = reported
    page = (directory / "report.html").read_text()
    # What a user does, and what is then seen, left in the page for this test to read.
    script = """<script>
    const waiting = setInterval(async () => {
      if (!document.body.dataset.ready) return;
      clearInterval(waiting);
      const count = () => document.querySelectorAll("#final_accuracy .mark-symbol path").length;
      const seen = {charts: document.querySelectorAll(".chart svg").length, before: count()};
      document.querySelector('input[value="he_normal"]').click();
      await new Promise(done => setTimeout(done, 300));
      seen.after = count();
      seen.requests = performance.getEntriesByType("resource").length;
      seen.overflow = document.documentElement.scrollWidth - innerWidth;
      document.body.dataset.seen = JSON.stringify(seen);
    }, 100);
    </script>"""
    copy = tmp_path / "page.html"
    before, end, after = page.rpartition("</body>")
    copy.write_text(before + script + end + after)
    result = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            f"--window-size={width},900", "--virtual-time-budget=20000", "--dump-dom",
            f"--user-data-dir={tmp_path / 'profile'}", copy.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r'data-seen="([^"]*)"', result.stdout)
    assert found, result.stderr[-2000:]
    seen = json.loads(found[1].replace("&quot;", '"'))
    assert seen["charts"] == 6 and seen["requests"] == 0
    assert seen["before"] == 24 and seen["after"] == 12  # every seed of the two that learned
    assert seen["overflow"] <= 0
    assert "CONSOLE" not in result.stderr, result.stderr


def test_the_verdicts_follow_from_the_tests(tmp_path):
    fill(tmp_path)
    (setting,) = comparison.settings(results.read(tmp_path))
    assert setting.inits == ["he_normal", "glorot_uniform", "zeros"] and len(setting.seeds) == 12
    words = comparison.summary(setting)
    assert words[0].startswith("zeros: 0 of 12 runs learned anything (95 % interval 0% to 2")
    assert re.fullmatch(
        r"he_normal is ahead of glorot_uniform in the first epoch by 0\.00[23]\d loss \(p .*\)",
        words[1],
    )
    assert re.fullmatch(
        r"he_normal is ahead of glorot_uniform after 2 epochs by 0\.0\d points \(p .*\),"
        r" but equivalent within 0.1 points",
        words[2],
    )
    named = {pair[:2]: pair for pair in comparison.pairs(setting, "final_acc")}
    pair = named["he_normal", "glorot_uniform"]
    values = setting.values["final_acc"]
    assert pair.comparison.difference == statistics.mean_interval(values[0] - values[1])
    equal = pair._replace(p=0.3)
    assert comparison.verdict(equal, "final_acc", 2) == (
        "he_normal and glorot_uniform are equivalent after 2 epochs within 0.1 points"
    )
    unsure = equal._replace(comparison=pair.comparison._replace(p_equivalence=0.2))
    assert comparison.verdict(unsure, "final_acc", 2).startswith(
        "no difference between he_normal and glorot_uniform is seen after 2 epochs; one of 0."
    )


def test_learning_rates_are_compared_at_each_and_at_the_one_that_suits(tmp_path):
    fill(tmp_path, seeds=3)
    fill(tmp_path, seeds=3, learning_rate=0.1, loss=[0.2, 0.01])
    rng = np.random.default_rng(2)
    with results.Results(tmp_path) as stored:
        stored.add([row("he_normal", 0, rng, learning_rate=1.0, loss=[9.0, 9.0])])
    settings = comparison.settings(results.read(tmp_path))
    rates = [setting.fields["learning_rate"] for setting in settings]
    assert sorted(rates[:3]) == [0.001, 0.1, 1.0] and rates[3] is None
    assert set(settings[3].runs["learning_rate"].to_pylist()) == {0.1}
    assert len(settings[3].runs) == 9


def test_the_published_table_is_placed_among_our_runs(tmp_path):
    fill(tmp_path)  # of two epochs: something else was trained
    (setting,) = comparison.settings(results.read(tmp_path))
    assert published.compare(setting) == []
    five = {
        "epochs": 5,
        "loss": [0.3163 + 0.01, 1, 1, 1, 1],
        "acc": [0.9] * 5,
        "val_loss": [2.3] * 6,
        "val_acc": [0.1, 0.95, 0.96, 0.97, 0.97, 0.9769],
    }
    fill(tmp_path / "five", seeds=4, **five)
    (setting,) = comparison.settings(results.read(tmp_path / "five"))
    rows = [line for line in published.compare(setting) if line["initializer"] == "he_normal"]
    assert len(rows) == 8
    first, last = rows[0], rows[-1]
    assert (first["metric"], first["published"], first["ours"]) == ("loss", "0.3163", "0.3263")
    assert first["our runs below it"] == "0%" and first["inside 95 %"] == "no"
    assert last["metric"] == "val_acc" and last["inside 95 %"] == "yes"


def test_a_run_that_failed_is_counted_and_left_out_of_means(tmp_path):
    rng = np.random.default_rng(3)
    with results.Results(tmp_path) as stored:
        stored.add([row("he_normal", seed, rng) for seed in range(4)])
        stored.add([row("glorot_uniform", seed, rng) for seed in range(3)])
        failed = {"status": "diverged", "val_loss": [2.3, np.nan, np.nan]}
        stored.add([row("glorot_uniform", 3, rng, **failed)])
    (setting,) = comparison.settings(results.read(tmp_path))
    words = comparison.summary(setting)
    assert words[0].startswith("glorot_uniform: 3 of 4 runs learned anything (95 % interval 30%")
    assert all(pair.comparison.n == 3 for pair in comparison.pairs(setting, "final_acc"))
    lines = {line["init"]: line for line in comparison.table(setting)}
    assert (lines["glorot_uniform"]["runs"], lines["glorot_uniform"]["learned"]) == (4, 3)
    command = [sys.executable, "-m", "experiments.report", str(tmp_path)]
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_a_directory_without_runs_is_explained(tmp_path):
    command = [sys.executable, "-m", "experiments.report", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert f"{tmp_path} holds no runs: python -m experiments.sweep makes some" in result.stderr
    (tmp_path / "runs-0.parquet").write_bytes(b"PAR1 no more")
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and "cannot read" in result.stderr
    assert len(result.stderr.splitlines()) == 1
