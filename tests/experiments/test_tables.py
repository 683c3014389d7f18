"""Tables: numbers for programs, and text for readers."""

import csv

import pytest

from experiments.common import comparison, sweep_directory, tables


@pytest.fixture
def setting(tmp_path, fill):
    fill(tmp_path, seeds=20)
    (setting,) = comparison.settings(sweep_directory.read(tmp_path))
    return setting


def test_a_row_holds_the_numbers_of_its_comparison(setting):
    rows = tables.pairs(setting)
    named = {(row["endpoint"], row["first"], row["second"]): row for row in rows}
    for endpoint in ("final_acc", "final_loss"):
        for pair in comparison.pairs(setting, endpoint):
            row = named[endpoint, pair.first, pair.second]
            found = pair.comparison
            assert (row["difference"], row["low"], row["high"]) == found.difference
            assert found.bootstrap is not None
            assert (row["bootstrap_low"], row["bootstrap_high"]) == found.bootstrap[1:]
            assert row["p"] == found.p and row["p_holm"] == pair.p
            assert row["p_equivalence_holm"] is pair.p_equivalence


def test_the_better_initializer_is_better_by_every_endpoint(setting):
    """he_normal has the higher accuracies and the lower losses in most runs."""
    for row in tables.pairs(setting):
        if row["first"] == "he_normal":
            assert row["first_is_better"] > 0.7
        assert row["first_is_better_low"] <= row["first_is_better"] <= row["first_is_better_high"]


def test_csv_has_the_columns_of_all_rows():
    rows = [{"a": 1.25, "b": None}, {"a": "x,y", "c": 3}]
    lines = list(csv.DictReader(tables.to_csv(rows).decode().splitlines()))
    assert lines == [{"a": "1.25", "b": "", "c": ""}, {"a": "x,y", "b": "", "c": "3"}]


def test_markdown_is_escaped():
    rows = [{"name": "<b>|"}]
    assert tables.to_markdown(rows)[-1] == "| <b>\\| |"


def test_few_runs_have_no_bootstrap_interval(tmp_path, fill):
    fill(tmp_path, seeds=5)
    (setting,) = comparison.settings(sweep_directory.read(tmp_path))
    assert all(row["bootstrap_low"] is None for row in tables.pairs(setting))
    assert all(
        row["bootstrap"] == "-" for row in tables.shown_pairs(setting, tables.pairs(setting))
    )
