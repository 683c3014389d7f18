"""`python -m experiments.report`: a page that works offline, and the same as files."""

import csv
import html
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

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
    assert re.search(r"^9/9 figures, [\d.]+ figures/s, 0:00:00 left$", output, re.M)
    files = {path.name for path in (directory / "report").iterdir()}
    figures = (
        "forest", "forest_first_loss", "final_accuracy", "differences", "test_error",
        "training_loss", "weights_hidden_0_kernel", "weights_hidden_1_kernel",
    )  # fmt: skip
    assert files == {
        *(f"{name}.{kind}" for name in figures for kind in ("png", "svg")), "report.md",
        "endpoints.csv", "endpoints.tex", "pairs.csv", "pairs.tex",
    }  # fmt: skip
    for path in (directory / "report").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 20_000
        with Image.open(path) as image:
            assert image.width == 1600  # twice that of a README
    page = (directory / "report.html").read_text()
    assert "&lt;host&gt;" in page and "<host>" not in page
    assert "<h1>he_normal, glorot_uniform and zeros on mnist: MLP with hidden layers" in page
    commands = (
        "python -m experiments.sweep --init=glorot_uniform,he_normal,zeros --seeds=12 --epochs=2"
        f" --workdir={directory}\npython -m experiments.report {directory}\n"
    )
    assert f'<pre id="commands">{commands}</pre>\n<p>Made with python' in page
    verdict = page.index("he_normal has the highest mean test accuracy after 2 epochs, 97.")
    assert verdict < page.index("<summary>Method") < page.index('id="forest"')
    latex = (directory / "report" / "endpoints.tex").read_text()
    assert r"glorot\_uniform & 12 & 100\% (76\% to 100\%)" in latex
    markdown = (directory / "report" / "report.md").read_text()
    assert "| he_normal | 12 | 100% (76% to 100%) |" in markdown and commands in markdown
    assert "\n## \n" not in markdown  # one setting has no heading of its own
    pairs = list(csv.DictReader((directory / "report" / "pairs.csv").read_text().splitlines()))
    assert len(pairs) == 3 * (len(comparison.endpoints()) - 1)  # none reaches the target
    assert all(float(pair["low"]) <= float(pair["difference"]) for pair in pairs)


_USER = """<script>
const wait = milliseconds => new Promise(done => setTimeout(done, milliseconds));
const all = selector => [...document.querySelectorAll(selector)];
const waiting = setInterval(async () => {
  if (!document.body.dataset.ready) return;
  clearInterval(waiting);
  const count = () => all("#final_accuracy .mark-symbol path").length;
  const seen = {charts: all(".chart svg").length, before: count()};
  seen.fonts = all(".chart svg text").map(text => parseFloat(getComputedStyle(text).fontSize));
  seen.body = parseFloat(getComputedStyle(document.body).fontSize);
  seen.symbols = all("fieldset svg path[fill]").length;
  seen.overflow = document.documentElement.scrollWidth - innerWidth;
  seen.unsaid = all(".scroll").filter(box => {
    const hint = box.previousElementSibling;
    return box.scrollWidth > box.clientWidth + 1 && (hint.hidden || box.tabIndex < 0);
  }).length;
  seen.scrolling = all(".hint:not([hidden])").length;
  const background = getComputedStyle(document.body).backgroundColor;
  seen.colors = [background, all("#forest .role-axis-label text")[0].getAttribute("fill")];
  const opacity = path => path.getAttribute("fill-opacity");
  const bands = () => all("#training_loss .mark-area path").map(opacity);
  seen.bands = bands();
  document.querySelector('input[value="he_normal"]').focus();
  await wait(300);
  seen.focused = bands();
  document.querySelector('input[value="he_normal"]').click();
  await wait(300);
  seen.after = count();
  const table = all("table")[0];
  const heads = [...table.tHead.rows[0].cells].map(cell => cell.textContent);
  const column = heads.findIndex(text => /test accuracy/.test(text));
  const sorted = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent);
  const button = table.querySelectorAll("th button")[column];
  button.click();
  seen.up = sorted();
  button.click();
  seen.down = sorted();
  seen.files = [];
  HTMLAnchorElement.prototype.click = function () {
    seen.files.push([this.download, this.href.slice(0, 22)]);
  };
  for (const link of all("#section-1 .files a").slice(0, 2))
    link.dispatchEvent(new MouseEvent("click", {cancelable: true}));
  await wait(1000);
  seen.tables = all(".files a[href^='data:']").map(link => link.download);
  seen.copied = [];
  const writeText = async text => seen.copied.push(text);
  Object.defineProperty(navigator, "clipboard", {value: {writeText}});
  all(".copy").forEach(button => button.click());
  await wait(100);
  seen.said = all(".copy").filter(button => button.textContent === "Copied").length;
  dispatchEvent(new Event("beforeprint"));
  seen.paper = all(".paper svg").length;
  seen.csv = atob(all(".files a[download='endpoints.csv']")[0].href.split(",")[1]);
  const names = performance.getEntriesByType("resource").map(entry => entry.name);
  seen.requests = names.filter(name => !/^(blob|data):/.test(name)).length;
  document.body.dataset.seen = JSON.stringify(seen);
}, 100);
</script>"""


def browsed(page, tmp_path, width, dark=False):
    """What a user sees on a page who clicks here and there, and what the browser complains of."""
    before, end, after = page.read_text().rpartition("</body>")
    copy = tmp_path / "page.html"
    copy.write_text(before + _USER + end + after)
    result = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            f"--window-size={width},900", "--virtual-time-budget=20000", "--dump-dom",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            f"--user-data-dir={tmp_path / 'profile'}", copy.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r'data-seen="([^"]*)"', result.stdout)
    assert found, result.stderr[-2000:]
    assert "CONSOLE" not in result.stderr, result.stderr
    return json.loads(html.unescape(found[1]))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page with")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_page_works_in_a_browser_and_sends_no_request(reported, tmp_path, width, dark):
    seen = browsed(reported[0] / "report.html", tmp_path, width, dark)
    assert seen["charts"] == 8 and seen["requests"] == 0
    # Every seed of the two initializers that learned.
    assert seen["before"] == 24 and seen["after"] == 12
    assert seen["symbols"] == 3 and seen["overflow"] <= 0
    assert min(seen["fonts"]) == max(seen["fonts"]) == seen["body"] == 16
    assert seen["unsaid"] == 0 and seen["scrolling"] >= 1
    assert seen["colors"] == (
        ["rgb(22, 22, 22)", "#e8e8e8"] if dark else ["rgb(255, 255, 255)", "#1a1a1a"]
    )
    # All bands are light, and then only the focused one is seen.
    assert len(set(seen["bands"])) == 1 and float(seen["bands"][0]) < 0.2
    assert sorted(seen["focused"]) == ["0", "0", "0.3"][-len(seen["bands"]) :]
    assert seen["up"] == ["zeros", "glorot_uniform", "he_normal"] == seen["down"][::-1]
    assert seen["files"][0] == ["forest.png", "data:image/png;base64,"]
    assert seen["files"][1][0] == "forest.svg"
    assert seen["tables"] == [
        f"{name}.{kind}" for name in ("endpoints", "pairs", "runs") for kind in ("csv", "md", "tex")
    ]
    # Each table in three formats, and the commands.
    assert len(seen["copied"]) == seen["said"] == 10 and seen["copied"][0] == seen["csv"]
    assert "| he_normal | 12 | 100% (76% to 100%) |" in seen["copied"][1]
    assert seen["copied"][2].startswith("\\begin{tabular}")
    assert seen["copied"][-1].startswith("python -m experiments.sweep --init=")
    assert seen["paper"] == 8
    assert seen["csv"].splitlines()[0].startswith("initializer,learning_rate,runs,learned,endpoint")


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
    assert {"differences_1.png", "final_accuracy_2.svg", "mine.png"} <= files
    assert not {"differences.png", "differences.svg"} & files
    assert "differences_2.png" not in files  # one initializer has no differences
    page = (tmp_path / "report.html").read_text()
    assert "on mnist, in 3 settings (2 learning rates): MLP with hidden layers" in page
    assert '<a href="#section-2">2</a>' in page and '<section id="section-2">' in page
    assert "<h2>2. learning rate 0.1</h2>" in page
    lines = (tmp_path / "report" / "endpoints.csv").read_text().splitlines()
    table = list(csv.DictReader(lines))
    rates = {(line["number"], line["initializer"], line["learning_rate"]) for line in table}
    assert ("1", "he_normal", "0.001") in rates and ("2", "he_normal", "0.1") in rates
    diverged = [line for line in table if line["initializer"] == names[0]]
    assert {line["learned"] for line in diverged} == {"0"}
    assert {line["mean"] for line in diverged if line["endpoint"] == "final_acc"} == {"0.1135"}


def test_of_many_settings_few_are_shown_in_full_and_all_are_in_the_tables(
    tmp_path, row, rng, monkeypatch
):
    from experiments import report as program
    from experiments.common import charts, compaction, sweep_directory

    monkeypatch.setattr(program, "_ALL_IN_FULL", 3)
    monkeypatch.setattr(program, "_IN_FULL", 1)
    monkeypatch.setattr(program, "_LISTED", 3)
    monkeypatch.setattr(charts, "FIGURES", {"training_loss": charts.training_loss})
    activations = ("relu", "tanh", "gelu", "silu")
    with sweep_directory.SweepDirectory(tmp_path) as stored:
        for number, activation in enumerate(activations):
            better = {"activation": activation, "val_acc": [0.1, 0.5, 0.9 + number / 100]}
            stored.add(
                [
                    row("he_normal", seed, rng, init=init, **better)
                    for init in ("ones", "zeros")
                    for seed in range(6)
                ]
            )
    compaction.compact(tmp_path)
    page, *files = program.report(str(tmp_path), 0.001, 0.95)
    # Settings are sorted by their fields, and the best one is the third.
    assert [path.name for path in files if path.suffix == ".png"] == ["training_loss_3.png"]
    text = page.read_text()
    assert '<section id="section-3">' in text and text.count("<section id=") == 1
    assert "1 of 4 settings are shown below, those with the best results; the first 3 ver" in text
    for name, rows in (("verdicts", 4), ("endpoints", 4 * 2 * 5), ("pairs", 4 * 4)):
        table = (tmp_path / f"report/{name}.csv").read_text()
        assert len(list(csv.DictReader(table.splitlines()))) == rows


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
    for sweep in ("a", "b"):
        (tmp_path / sweep).mkdir()
        (tmp_path / sweep / "runs-0.parquet").touch()
    result = report(tmp_path)
    assert f"{tmp_path} holds no runs; name a sweep: {tmp_path}/a or {tmp_path}/b" in result.stderr


def test_the_commit_of_a_repository_around_an_installation_is_not_named(monkeypatch, tmp_path):
    from experiments import report as program

    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "another"], check=True)
    file = tmp_path / "lib" / "experiments" / "report.py"
    file.parent.mkdir(parents=True)
    monkeypatch.setattr(program, "__file__", str(file))
    assert "commit" not in program._versions()
    monkeypatch.setattr(program, "__file__", str(tmp_path / "experiments" / "report.py"))
    assert "commit" in program._versions()
