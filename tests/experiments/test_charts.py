"""Charts show the numbers of the runs."""

import re

import altair as alt
import numpy as np
import pytest

from experiments.common import chart_style, charts, comparison, comparison_charts, sweep_directory


@pytest.fixture
def setting(tmp_path, fill):
    fill(tmp_path)
    (setting,) = comparison.settings(sweep_directory.read(tmp_path))
    return setting


def values(chart):
    """All rows of data of a chart, from all of its layers."""
    found: list = []

    def walk(part):
        if isinstance(part, dict):
            if isinstance(part.get("values"), list) and isinstance(part["values"][:1], list):
                found.extend(item for item in part["values"] if isinstance(item, dict))
            for inner in part.values():
                walk(inner)
        elif isinstance(part, list):
            for inner in part:
                walk(inner)

    walk(chart)
    return found


def test_curves_show_means_with_their_intervals(setting):
    rows = [row for row in values(charts.test_error(setting)) if row["init"] == "he_normal"]
    errors = 1 - setting.values["final_acc"][0]
    last = next(row for row in rows if row["epoch"] == 2 and "seeds" in row)
    half = 2.200985160082949 * errors.std(ddof=1) / 12**0.5  # Student's t of eleven degrees
    assert last["mean"] == pytest.approx(errors.mean()) and last["seeds"] == 12
    assert last["high"] - last["mean"] == pytest.approx(half, rel=1e-6)
    assert last["mean"] - last["low"] == pytest.approx(half, rel=1e-6)
    rows = [row for row in values(charts.training_loss(setting)) if row["init"] == "he_normal"]
    losses = comparison.column(setting.runs, "step_loss")
    mine = losses[np.array(setting.runs["init"].to_pylist()) == "he_normal"]
    rows = [row for row in rows if "seeds" in row]
    first = min(rows, key=lambda row: row["epoch"])  # above the axis, but there to hover over
    assert first["mean"] == pytest.approx(mine[:, :9].mean(), rel=1e-6)
    assert first["epoch"] == pytest.approx(4.5 / 938 * 2)


def test_the_strip_shows_every_run_that_learned_and_counts_the_others(setting):
    rows = values(charts.final_accuracy(setting))
    shown = {(row["init"], row["seed"]): row["accuracy"] for row in rows if "accuracy" in row}
    for init, line in zip(setting.inits[:2], setting.values["final_acc"], strict=False):
        for seed, accuracy in zip(setting.seeds, line, strict=True):
            assert shown[init, seed] == accuracy
    notes = {row["note"] for row in rows if "note" in row}
    assert len(shown) == 24 and notes == {"← 12 of 12 runs at 0.1135"}


def test_the_matrix_shows_row_minus_column_in_points(setting):
    rows = values(comparison_charts.matrix(setting))
    cells = {(row["first"], row["second"]): row for row in rows}
    means = dict(zip(setting.inits, setting.values["final_acc"].mean(axis=1), strict=True))
    assert len(cells) == 6
    for (first, second), cell in cells.items():
        assert cell["difference"] == pytest.approx(100 * (means[first] - means[second]))
    assert cells["he_normal", "zeros"]["text"].endswith("*")
    assert cells["zeros", "he_normal"]["text"].startswith("-86")
    assert cells["he_normal", "glorot_uniform"]["text"].endswith("*≈")


def test_a_histogram_shows_the_density_of_finite_weights(setting, rng):
    kernels = {
        "he_normal": rng.normal(0, 0.1, (100, 50)),
        "glorot_uniform": rng.uniform(-0.2, 0.2, (100, 50)),
        "zeros": np.full((100, 50), np.inf),
    }
    rows = values(charts.weight_histogram(setting, "hidden/0/kernel", kernels))
    assert {row["init"] for row in rows} == {"he_normal", "glorot_uniform"}
    uniform = [row for row in rows if row["init"] == "glorot_uniform" and abs(row["weight"]) < 0.15]
    assert np.mean([row["density"] for row in uniform]) == pytest.approx(2.5, rel=0.03)
    for init in ("he_normal", "glorot_uniform"):
        mine = [row for row in rows if row["init"] == init]
        width = mine[1]["weight"] - mine[0]["weight"]
        assert sum(row["density"] for row in mine) * width == pytest.approx(1)


def test_280_initializers_all_look_different(setting):
    looks = set(
        zip(
            np.resize(chart_style._COLORS, 280).tolist(),
            [str(chart_style._DASHES[i % len(chart_style._DASHES)]) for i in range(280)],
            np.resize(chart_style._SHAPES, 280).tolist(),
            strict=True,
        )
    )
    assert len(looks) == 280
    symbols = {chart_style.symbol(setting, init) for init in setting.inits}
    assert len(symbols) == 3


def test_the_forest_shows_differences_from_the_best_and_arrows_where_they_leave_the_axis(setting):
    spec = comparison_charts.forest(setting, "final_acc")
    assert spec and spec["title"]["text"] == "Final test accuracy: difference from he_normal"
    rows = {row["init"]: row for row in values(spec) if "mean" in row}
    he, glorot, _ = setting.values["final_acc"]
    half = 2.200985160082949 * 100 * (he - glorot).std(ddof=1) / 12**0.5
    mean = 100 * (glorot - he).mean()
    found = rows["glorot_uniform"]
    assert (found["mean"], found["low"], found["high"]) == pytest.approx(
        (mean, mean - half, mean + half)
    )
    assert found["settled"] and found["verdict"] == "behind"
    assert rows["zeros"]["mean"] == pytest.approx(-86, abs=0.5)
    assert rows["zeros"]["text"].startswith("-86.")
    assert [row["init"] for row in values(spec) if row.get("beyond") == -1] == ["zeros"]
    assert "Arrows: beyond the axis" in " ".join(spec["title"]["subtitle"])
    assert comparison_charts.forest(setting, "steps") is None  # neither reaches the accuracy


@pytest.mark.parametrize("loss", [1e30, 3e5])
def test_an_initializer_with_huge_losses_does_not_hide_the_others(loss, tmp_path, row, rng):
    huge = {"step_loss": np.full(938, loss), "loss": [loss] * 2, "val_acc": [0.1, 0.2, 0.5]}
    rows = [row("he_normal", seed, rng) for seed in range(6)]
    rows += [row("glorot_uniform", seed, rng, **huge) for seed in range(6)]
    with sweep_directory.SweepDirectory(tmp_path) as stored:
        stored.add(rows)
    (setting,) = comparison.settings(sweep_directory.read(tmp_path))
    for chart in (charts.training_loss(setting), charts.test_error(setting)):
        assert chart
        assert "Above the axis: glorot_uniform" in chart["title"]["subtitle"][0]
        low, high = chart["layer"][0]["encoding"]["y"]["scale"]["domain"]
        assert high / low < 30
    notes = [row["note"] for row in values(charts.final_accuracy(setting)) if "note" in row]
    assert notes == ["← 6 of 6 runs at 0.5000"]


def test_an_interval_that_leaves_the_axis_ends_in_an_arrow(tmp_path, row, rng):
    """Two seeds, whose intervals are thirteen times as wide as their distance."""
    rows = [
        row("he_normal", seed, rng, val_acc=[0.1, 0.96, 0.97 + 0.005 * seed]) for seed in range(2)
    ]
    with sweep_directory.SweepDirectory(tmp_path) as stored:
        stored.add(rows)
    (setting,) = comparison.settings(sweep_directory.read(tmp_path))
    for chart in (charts.final_accuracy(setting), charts.test_error(setting)):
        assert chart
        assert [row["beyond"] for row in values(chart) if "beyond" in row] == [-1, 1]
        assert "Arrows: intervals that leave the axis" in chart["title"]["subtitle"][0]


def test_files_have_text_of_one_size_and_no_marks_to_hover_over(setting):
    spec = charts.training_loss(setting)
    image = chart_style.svg({**spec, "params": [
        {"name": "shown", "value": setting.inits}, {"name": "focus", "value": ""},
    ]})  # fmt: skip
    sizes = set(re.findall(r'font-size="(\d+)px"', image))
    assert sizes == {"16", "18"} and 'width="800"' in image  # 18: the title
    assert image.count("<path") < 100


def test_charts_are_valid(setting, rng):
    weights = {"hidden/0/kernel": lambda: {"he_normal": rng.normal(0, 1, (9, 9))}}
    drawn = charts.of_setting(setting, weights)
    assert list(drawn)[-1] == "weights_hidden_0_kernel" and len(drawn) == 8
    specs = {name: draw() for name, draw in drawn.items()}
    assert [name for name, spec in specs.items() if not spec] == ["forest_steps_loss"]
    for spec in filter(None, specs.values()):
        alt.LayerChart.from_dict({**spec, "config": chart_style.CONFIG})
