"""`python -m experiments.report`: a page that works offline, and the same as files."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from experiments.common import comparison, sweep_directory

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def reported(tmp_path_factory, fill):
    directory = tmp_path_factory.mktemp("report") / "runs"
    fill(directory)
    result = report(directory)
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
    assert "| he_normal | 12 | 100% (76% to 100%) |" in markdown
    pairs = list(csv.DictReader((directory / "report" / "pairs.csv").read_text().splitlines()))
    assert len(pairs) == 3 * (len(comparison.endpoints()) - 1)  # none reaches the target
    assert all(float(pair["low"]) <= float(pair["difference"]) for pair in pairs)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page with")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_works_in_a_browser_and_sends_no_request(reported, tmp_path, width):
    directory, _ = reported
    page = (directory / "report.html").read_text()
    # Clicks as a user would, and leaves what is then visible in the page for this test.
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
      seen.symbols = document.querySelectorAll("fieldset svg path[fill]").length;
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
    assert (
        seen["before"] == 24 and seen["after"] == 12
    )  # every seed of the two initializers that learned
    assert seen["symbols"] == 3 and seen["overflow"] <= 0
    assert "CONSOLE" not in result.stderr, result.stderr


def report(directory, *flags):
    command = [sys.executable, "-m", "experiments.report", str(directory), *flags]
    # Halves the compilation time.
    fast = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    return subprocess.run(command, env=fast, capture_output=True, text=True)


def test_several_settings_are_numbered_and_files_of_an_earlier_report_are_removed(
    reported, tmp_path, row, fill, rng
):
    """Two learning rates; runs that diverged from infinite weights; long names."""
    shutil.copytree(reported[0] / "report", tmp_path / "report")
    assert (tmp_path / "report" / "differences.png").exists()
    fill(tmp_path, seeds=2)
    (tmp_path / "report" / "mine.png").touch()
    nan = float("nan")
    failed = {"status": "diverged", "loss": [nan, nan], "val_loss": [2.3, nan, nan]}
    names = ["normal(stddev=3e+37)", "lecun_normal", "siren(first=True)"]
    with sweep_directory.SweepDirectory(tmp_path) as stored:
        stored.add([row("he_normal", seed, rng, learning_rate=0.1) for seed in range(2)])
        stored.add(
            [
                row("he_normal", seed, rng, **changes)
                for seed in range(2)
                for changes in (
                    {"init": names[0], "step_loss": [nan] * 938, **failed},
                    *({"init": name} for name in names[1:]),
                )
            ]
        )
    result = report(tmp_path)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    files = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"differences_1.png", "differences_2.png", "mine.png"} <= files
    assert "differences.png" not in files
    lines = (tmp_path / "report" / "endpoints.csv").read_text().splitlines()
    table = list(csv.DictReader(lines))
    rates = {(line["number"], line["initializer"], line["learning_rate"]) for line in table}
    assert ("1", "he_normal", "0.001") in rates and ("2", "he_normal", "0.1") in rates
    diverged = [line for line in table if line["initializer"] == names[0]]
    assert {line["learned"] for line in diverged} == {"0"}
    assert {line["mean"] for line in diverged if line["endpoint"] == "final_acc"} == {"0.1135"}


def test_margin_and_target_come_from_the_flags(tmp_path, fill):
    fill(tmp_path, seeds=6, step_acc=[0.0] * 300 + [0.7] * 638)
    assert report(tmp_path, "--margin=0.01", "--target=0.6").returncode == 0
    table = (tmp_path / "report" / "pairs.csv").read_text()
    assert "equivalent" not in table and ",he_normal is ahead of glorot_uniform after" in table
    page = (tmp_path / "report.html").read_text()
    assert (
        "steps to 0.6 accuracy" in page and "386.0" in page
    )  # when 86 of the last 100 batches are at 0.7


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--margin=0", "--margin=0: must be above 0 and below 100 points"),
        ("--target=95", "--target=95: must be above 0 and at most 1"),
    ],
)
def test_an_invalid_flag_is_reported(flag, message, tmp_path):
    result = report(tmp_path, flag)
    assert result.returncode == 2 and message in result.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_is_not_writable_is_reported(tmp_path, fill):
    fill(tmp_path, seeds=2)
    tmp_path.chmod(0o500)
    result = report(tmp_path)
    tmp_path.chmod(0o700)
    assert result.returncode == 2 and f"cannot write to {tmp_path}" in result.stderr


def test_a_directory_without_runs_is_explained(tmp_path):
    result = report(tmp_path)
    assert result.returncode == 2 and result.stdout == ""
    assert f"{tmp_path} holds no runs; run python -m experiments.sweep first" in result.stderr
