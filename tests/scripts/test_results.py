"""The files of results that the scripts write."""

import csv
import datetime
import importlib
import pathlib
import sys

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch):
    """Imports a script as its own directory does."""

    def load(name, folder=SCRIPTS):
        monkeypatch.syspath_prepend(folder)
        return importlib.import_module(name)

    return load


def test_a_file_of_results_says_what_was_measured_where_and_when(script, monkeypatch, tmp_path):
    results = script("_results", SCRIPTS / "benchmarks")
    trial = f"--results={tmp_path}"
    monkeypatch.setattr(sys, "argv", [str(SCRIPTS / "equivalents.py"), "--rounds=3", trial])
    body = results.table(["a", "b"], [["1", "2"]])
    path = results.write("x", "Title", body, ["jax", "no-such-package"], tmp_path)
    title, _, origin, _, *table = path.read_text().splitlines()
    assert title == "# Title" and table == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]
    today = datetime.date.today()
    assert origin.startswith(f"`python scripts/equivalents.py --rounds=3` on {today}: ")
    assert " core" in origin and importlib.import_module("jax").__version__ in origin
    assert "no-such-package" not in origin


def test_the_published_table_has_three_rows_for_each_initializer(script, tmp_path):
    table = script("published_table")
    columns = (
        "initializer",
        "epoch",
        "metric",
        "published",
        "independent",
        "ours",
        "stddev over seeds",
    )
    metrics = ("loss", "acc", "val_loss", "val_acc")
    with (tmp_path / "published.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for init in ("zeros", "he_normal"):
            for number, metric in enumerate(metrics * 2):
                epoch = 1 if number < 4 else 5
                writer.writerow(
                    [init, epoch, metric, f"p{number}", f"i{number}", f"o{number}", "s"]
                )
    rows = table.rows(tmp_path)
    assert [row[:2] for row in rows[:3]] == [
        ["zeros", "published"],
        ["zeros", "independent"],
        ["zeros", "ours"],
    ]
    assert len(rows) == 6 and rows[4][2:] == [f"i{number}" for number in range(8)]
    assert rows[5][2:] == [f"o{number} ± s" for number in range(8)]


def test_the_evidence_counts_faults_and_false_alarms(script):
    evidence = script("audit_evidence").evidence
    faulty = [(["a"] * 7, True, True), (["b"] * 7, True, False), (["c"] * 7, False, False)]
    healthy = [(["d"] * 6, False), (["e"] * 6, True)]
    published = [(["f"] * 6, False)]
    text = evidence(faulty, healthy, published, 125.0)
    assert text.startswith(
        "Faults found 2 of 3, causes named correctly 1 of 3, false alarms 1 of 2, and 0 of 1 models"
        " after public repositories. 2 minutes."
    )
    assert text.count("\n| a |") == 1 and text.index("\n| c |") < text.index("\n| d |")
    assert text.index("\n| e |") < text.index("\n| f |")
