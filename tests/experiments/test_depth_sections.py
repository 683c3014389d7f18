"""What a report shows of networks of many depths."""

import altair as alt
import numpy as np
import pytest

from experiments.common import (
    chart_style,
    comparison,
    depth_charts,
    depth_sections,
    depth_summaries,
    sweep_directory,
    titles,
)

# The bias variance is not that of the published diagram, whose fit takes seconds.
_DEPTHS, _VARIANCES = (5, 10, 20, 40), (1.0, 1.3, 1.986, 2.5, 4.0)


def deep(row, rng, init, depth, accuracy, seed=0, **changes):
    """A run whose training accuracy at the end is this."""
    return row(
        "he_normal", seed, rng, init=init, hidden=[16] * depth, activation="tanh", epochs=1,
        steps=60, step_acc=np.full(60, accuracy), step_loss=np.full(60, 1 - accuracy),
        loss=[0.5], acc=[0.5], val_loss=[0.5], val_acc=[accuracy], **changes,
    )  # fmt: skip


def diagram_rows(row, rng, seeds=2):
    """Networks that train up to 6 xi_c, or 30 layers."""
    reach = dict(zip(_VARIANCES, (22, 30, 30, 30, 12), strict=True))
    return [
        deep(row, rng, f"variance_scaling({variance}, 'fan_in', 'normal')", depth,
             0.9 if depth < reach[variance] else 0.1, seed,
             bias_init="random_normal(stddev=0.316228)")
        for variance in _VARIANCES for depth in _DEPTHS for seed in range(seeds)
    ]  # fmt: skip


def grid_rows(row, rng, depths=(2, 4, 8)):
    """One initializer trains at all depths, the other only at the smallest."""
    return [
        deep(row, rng, init, depth, 0.9 if init == "orthogonal" or depth == 2 else 0.1, seed)
        for init in ("orthogonal", "he_normal") for depth in depths for seed in range(3)
    ]  # fmt: skip


def divided(directory, *rows):
    with sweep_directory.SweepDirectory(directory) as stored:
        stored.add(list(rows))
    return depth_sections.divided(sweep_directory.read(directory))


@pytest.fixture(scope="module")
def depths(tmp_path_factory, row):
    rng = np.random.default_rng(0)
    rows = *diagram_rows(row, rng), *grid_rows(row, rng)
    return divided(tmp_path_factory.mktemp("depths"), *rows)[0]


def values(spec, name):
    """The rows of data of a chart that have this field."""
    layers = [layer.get("data", {}).get("values", []) for layer in spec["layer"]]
    return [value for rows in [spec.get("data", {}).get("values", []), *layers] for value in rows
            if name in value]  # fmt: skip


def test_runs_of_many_depths_are_not_settings_too(tmp_path, row, rng):
    depths, others = divided(
        tmp_path, *diagram_rows(row, rng), *(row("zeros", seed, rng) for seed in range(2))
    )
    assert len(depths.diagrams) == 1 and not depths.grids
    assert depths.runs == 40 and depths.extent() == (5, 40)
    assert others["init"].to_pylist() == ["zeros"] * 2
    assert titles.title(comparison.settings(others), depths).startswith(
        "40 networks of 5 to 40 layers on mnist: tanh, width 16; zeros on mnist: MLP"
    )


def test_few_settings_of_several_depths_are_shown_in_both_ways(tmp_path, row, rng):
    depths, others = divided(tmp_path / "few", *grid_rows(row, rng))
    assert len(depths.grids) == 1 and len(others) == depths.runs == 18
    depths, others = divided(tmp_path / "many", *grid_rows(row, rng, range(2, 10)))
    assert len(depths.grids) == 1 and len(others) == 0
    depths, others = divided(tmp_path / "two", *grid_rows(row, rng, (2, 4)))
    assert not depths.runs and len(others) == 12
    flat = [run for run in diagram_rows(row, rng) if len(run["hidden"]) == 5]
    depths, others = divided(tmp_path / "flat", *flat)
    assert not depths.runs and len(others) == 10


def test_a_heat_map_has_a_cell_for_each_network_and_the_lines_of_theory(depths):
    (diagram,) = depths.diagrams
    spec = depth_charts.heat_map(diagram)
    cells = {(cell["depth"], cell["weights"]): cell for cell in values(spec, "accuracy")}
    assert set(cells) == {(depth, variance) for depth in _DEPTHS for variance in _VARIANCES}
    assert cells[20, 4.0]["accuracy"] == 0.1 and cells[20, 4.0]["trained"] == "0 of 2"
    # Cells meet, with their middles inside.
    assert cells[10, 1.3]["right"] == cells[10, 1.986]["left"] == pytest.approx(1.643)
    assert cells[10, 1.3]["bottom"] < 10 < cells[10, 1.3]["top"] == cells[20, 1.3]["bottom"]
    rule = [row for row in values(spec, "bottom") if row.get("line", "").startswith("6 ")]
    at = min(rule, key=lambda row: abs(row["left"] - 4.0))  # where xi_c is 6.596
    assert at["bottom"] == pytest.approx(6 * 6.596, rel=0.02)


def test_points_beyond_the_diagram_are_triangles(depths):
    spec = depth_charts.boundary(depths.diagrams[0])
    points = {row["weights"]: row for row in values(spec, "side")}
    assert len(points) == 5 and points[4.0]["side"] == "circle"
    assert points[1.986]["side"] == "triangle-right" and points[1.986]["phase"] == "vanishing"
    assert points[1.0]["scale"] == pytest.approx(2.683, rel=1e-3)
    assert 10 < points[4.0]["depth"] < 20 and points[4.0]["phase"] == "exploding"


def test_the_reach_of_initializers_is_the_deepest_that_trains(depths):
    (grid,) = depths.grids
    assert depth_charts.deepest(grid.cells) == {"orthogonal": 8, "he_normal": 2}
    panel = depth_charts.Panel(["orthogonal", "he_normal"], "tanh", grid.cells)
    texts = {row["init"]: row["text"] for row in values(depth_charts.reach([panel]), "text")}
    assert texts == {"orthogonal": "8+", "he_normal": "2"}
    rows = values(depth_charts.by_depth(panel), "init")
    assert {(row["init"], row["depth"]): row["trained"] for row in rows}["he_normal", 4] == "0 of 3"


def test_the_summary_names_the_boundary_and_what_follows(depths):
    tried, boundary, best, advice = depth_summaries.of_depths(depths)
    assert tried == (
        "58 networks of 2 to 40 layers were trained to see which of them learn: tanh of width 16, 5"
        " weight variances at 4 depths with 2 seeds each; 2 initializers at 3 depths."
    )
    assert "half of the networks of tanh of width 16 train up to" in boundary
    assert best == (
        "The best test accuracy at the largest depth that trains: tanh, 8 layers: orthogonal (ahead"
        " of he_normal)."
    )
    assert advice.startswith("For a deep tanh network, choose a weight variance near the critical")


def test_all_charts_and_tables_of_depth_are_valid(depths):
    diagram, grid = depth_sections.planned(depths)
    assert list(diagram.charts) == ["heat_map", "boundary", "collapse"]
    assert list(grid.charts) == ["reach", "by_depth_tanh"]
    for name, draw in {**diagram.charts, **grid.charts}.items():
        spec = draw()
        assert spec, name
        for layer in spec["layer"]:
            del layer.get("data", {"values": []})["values"][2:]  # or validation takes seconds
        alt.LayerChart.from_dict({**spec, "config": chart_style.CONFIG})
    assert [table.name for table in diagram.section.tables] == ["fits", "cells"]
    assert diagram.section.tables[1].rows[0].keys() >= {"weight variance", "ξc", "trained"}
    verdicts = grid.section.tables[0].rows
    assert [row["depth"] for row in verdicts] == ["2", "4", "8"]
    assert verdicts[2]["verdict"].startswith("orthogonal has the highest mean test accuracy")
    assert verdicts[2]["rule of thumb"] == "-"  # there is no Glorot's
    assert set(grid.section.symbols) == {"orthogonal", "he_normal"}
    assert not any("xi_c" in text for text in diagram.section.sentences)
