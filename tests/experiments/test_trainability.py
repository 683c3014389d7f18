"""Cells and diagrams from the rows of a directory."""

import numpy as np
import pyarrow as pa
import pytest

from experiments.common import diagram_verdicts, trainability


def rows(row, rng, variances=(1.0, 1.5, 2.0), depths=(4, 8), seeds=3, rates=(0.01, 0.1)):
    """The larger rate trains networks of 4 layers, the smaller one those of 8 layers, too."""
    for variance in variances:
        for depth in depths:
            for seed in range(seeds):
                for rate in rates:
                    good = variance == 1.5 and (depth == 4 or rate == 0.01) and seed < 2
                    losses = np.linspace(2.3, 0.1 if good else 2.3, 60) + rate / 100
                    yield row(
                        "zeros", seed, rng,
                        key=f"{variance} {depth} {seed} {rate}",
                        init=f"variance_scaling({variance}, 'fan_in', 'normal')",
                        bias_init="random_normal(stddev=0.223607)",
                        hidden=[32] * depth, activation="tanh", learning_rate=rate,
                        step_loss=losses, step_acc=np.full(60, 0.9 if good else 0.1),
                    )  # fmt: skip


def test_a_cell_takes_its_best_rate_and_a_diagram_has_its_place(row, rng):
    table = pa.Table.from_pylist(list(rows(row, rng)))
    (grid,) = trainability.grids(table)
    assert len(grid.cells) == 6 and grid.fields["width"] == 32
    cells = {(cell.init[17:20], cell.depth): cell for cell in grid.cells}
    assert cells["1.5", 8].learning_rates == [0.01, 0.1]
    assert cells["1.5", 8].learning_rate == 0.01
    assert cells["1.5", 4].trained.value == pytest.approx(2 / 3)
    assert cells["1.5", 4].trained.low > 0.15
    (diagram,) = grid.diagrams
    assert diagram.bias_variance == 0.05 and diagram.activation == "tanh"
    assert diagram.weight_variances.tolist() == [1, 1.5, 2] and diagram.depths.tolist() == [4, 8]
    assert diagram.fraction.round(2).tolist() == [[0, 0.67, 0], [0, 0.67, 0]]
    diagram.accuracy[1, 2] = np.nan  # no run
    assert np.isnan(diagram.mean[1, 2]) and np.isnan(diagram.fraction[1, 2])
    assert diagram.xi_c.round(1).tolist() == [3.6, 15.8, 25.2]
    assert diagram.critical == pytest.approx(1.760955, abs=1e-6)


def test_a_grid_is_divided_by_learning_rate_or_by_that_times_depth(row, rng):
    some = list(rows(row, rng, rates=(0.01,)))
    some += [
        one | {"learning_rate": 0.2 / len(one["hidden"])} for one in rows(row, rng, rates=(1,))
    ]
    (grid,) = trainability.grids(pa.Table.from_pylist(some))
    parts = trainability.one_rate(grid)
    assert sorted(parts) == ["0.01", "0.2/depth"]
    assert {cell.learning_rate for cell in parts["0.2/depth"].cells} == {0.05, 0.025}


def test_a_diagram_has_only_its_own_fits_at_one_rate(row, rng, monkeypatch):
    some = list(rows(row, rng, seeds=1))
    some += [one | {"bias_init": "zeros", "key": f"{one['key']} 0"} for one in some]
    (grid,) = trainability.grids(pa.Table.from_pylist(some))
    monkeypatch.setattr(
        diagram_verdicts, "_fits", lambda diagram, whose: [(whose, diagram.bias_variance)]
    )
    found = [diagram_verdicts.rate_rows(grid, diagram) for diagram in grid.diagrams]
    assert found == [[(f"rate {rate}", bias) for rate in ("0.01", "0.1")] for bias in (0, 0.05)]


def test_a_rate_with_fewer_seeds_is_not_chosen_and_a_diverged_run_guesses(row, rng):
    some = list(rows(row, rng, (1.5,), (4,), seeds=2))
    first = next(place for place in some if place["learning_rate"] == 0.01)
    some.remove(first)
    some[0]["step_loss"][-1] = np.inf
    (grid,) = trainability.grids(pa.Table.from_pylist(some))
    (cell,) = grid.cells
    assert cell.learning_rate == 0.1 and cell.learning_rates == [0.1]
    assert cell.accuracy[0] < cell.accuracy[1] == pytest.approx(0.9)


def test_networks_of_uneven_layers_and_too_few_variances_make_no_diagram(row, rng):
    table = pa.Table.from_pylist([row("zeros", 0, rng)])  # 128-64
    assert trainability.grids(table) == []
    (grid,) = trainability.grids(pa.Table.from_pylist(list(rows(row, rng, (1.0, 2.0)))))
    assert grid.diagrams == [] and grid.others == grid.cells


@pytest.mark.parametrize(
    ("init", "bias_init", "expected"),
    [
        ("he_normal", "zeros", (2.0, 0.0)),
        ("orthogonal(1.5)", "random_normal(stddev=0.1)", (2.25, 0.01)),
        ("random_normal(stddev=0.05)", "zeros", (0.08, 0.0)),
        ("glorot_uniform", "ones", None),
        ("sparse(3)", "zeros", None),
    ],
)
def test_variances_of_hidden_layers_are_those_of_the_specification(init, bias_init, expected):
    assert trainability.variances(init, bias_init, 32) == expected
