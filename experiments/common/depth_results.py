"""The results of a depth experiment: text for a terminal, and records for files."""

import textwrap
from collections.abc import Sequence
from typing import Any

from experiments.common import diagram_verdicts, rules_of_thumb, statistics, trainability, verdicts
from experiments.common.tables import Table
from experiments.common.trainability import Cell, Grid, describe

_WIDTH = 80  # of a terminal


def lines(grid: Grid) -> list[str]:
    """All about a grid, for a terminal."""
    shown: list[str] = []
    for diagram in grid.diagrams:
        shown += ["", *diagram_verdicts.lines(diagram)]
        shown += ["", *diagram_verdicts.fit_lines(diagram_verdicts.fits(diagram))]
        shown += _bullets(diagram_verdicts.conclusions(diagram))
        if rows := diagram_verdicts.rate_rows(grid, diagram):
            shown += [
                "",
                "With one learning rate for all weight variances instead of the best of each:",
            ]
            shown += diagram_verdicts.fit_lines(rows)
    if grid.others:
        shown += ["", *_cells(grid), *_bullets(conclusions(grid))]
    return shown


def conclusions(grid: Grid) -> list[str]:
    """What the initializers of a grid that are in no diagram show, in sentences."""
    found = rules_of_thumb.sentences(grid)
    for depth, cells in rules_of_thumb.by_depth(grid).items():
        setting = rules_of_thumb.compared(cells)
        found.append(f"depth {depth}: {verdicts.headline(setting)}")
    return found


def record(grids: Sequence[Grid]) -> dict[str, Any]:
    """The content of `depth.json`: diagrams with their fits, initializers, and conclusions."""
    return {
        "trained": f"training accuracy over the last {trainability.WINDOW} steps above"
        f" {trainability.TRAINED:.0%}",
        "diagrams": [
            {
                "name": diagram.name,
                "title": f"{describe(diagram.fields)}; bias variance {diagram.bias_variance:g}",
                "weight_variances": diagram.weight_variances.tolist(),
                "depths": diagram.depths.tolist(),
                "accuracy": diagram.accuracy.tolist(),
                "learning_rates": diagram.learning_rates.tolist(),
                "xi_c": diagram.xi_c.tolist(),
                "chi": [scales.chi for scales in diagram.scales],
                "half_train_at": diagram.boundary and diagram.boundary.depths.tolist(),
                "fits": diagram_verdicts.fits(diagram),
                "conclusions": diagram_verdicts.conclusions(diagram),
                "fits at one rate": diagram_verdicts.rate_rows(grid, diagram),
            }
            for grid in grids
            for diagram in grid.diagrams
        ],
        "initializers": [
            {
                "name": grid.name,
                "title": describe(grid.fields),
                "cells": cell_rows(grid, grid.others),
                "conclusions": conclusions(grid),
            }
            for grid in grids
            if grid.others
        ],
    }


def _bullets(sentences: Sequence[str]) -> list[str]:
    return [
        line
        for sentence in sentences
        for line in textwrap.wrap(f"- {sentence}", _WIDTH, subsequent_indent="  ")
    ]


def cell_rows(grid: Grid, cells: Sequence[Cell]) -> Table:
    """A row of numbers for each of some cells of a grid."""
    rows = []
    for cell in cells:
        drawn = trainability.variances(cell.init, cell.bias_init, grid.fields["width"])
        accuracy, test = map(statistics.mean_interval, (cell.accuracy, cell.test_accuracy))
        rows.append(
            {
                name: grid.fields.get(name)
                for name in ("model", "activation", "width", "optimizer", "steps", "inputs")
            }
            | {
                "init": cell.init,
                "bias_init": cell.bias_init,
                "weight_variance": drawn and drawn.weights,
                "bias_variance": drawn and drawn.biases,
                "depth": cell.depth,
                "learning_rate": cell.learning_rate,
                "runs": len(cell.accuracy),
                "trained": cell.trained.value,
                "trained_low": cell.trained.low,
                "trained_high": cell.trained.high,
                "accuracy": accuracy.value,
                "accuracy_low": accuracy.low,
                "accuracy_high": accuracy.high,
                "lowest_accuracy": float(cell.accuracy.min()),
                "highest_accuracy": float(cell.accuracy.max()),
                "test_accuracy": test.value,
                "test_accuracy_low": test.low,
                "test_accuracy_high": test.high,
            }
        )
    return rows


def _cells(grid: Grid) -> list[str]:
    """The cells of a grid that are in no diagram, for a terminal: initializers by depth."""
    depths = sorted({cell.depth for cell in grid.others})
    labels = {(cell.init, cell.bias_init): _label(cell) for cell in grid.others}
    cells = {(cell.init, cell.bias_init, cell.depth): cell for cell in grid.others}
    rows = [["depth", *map(str, depths)]]
    for init, label in sorted(labels.items()):
        row = [cells.get((*init, depth)) for depth in depths]
        rows.append([label, *("" if cell is None else _text(cell) for cell in row)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    title = f"{describe(grid.fields)}: training accuracy over the last {trainability.WINDOW} steps"
    shown = textwrap.wrap(f"{title}, and how many seeds trained", _WIDTH)
    room = _WIDTH - sum(widths[1:]) - 2 * len(widths[1:])
    first = min(widths[0], max(room, 12))
    for label, *texts in rows:
        if len(label) > first:  # a line of its own
            shown.append(label)
            label = ""
        line = [f"{label:{first}}", *(f"{t:>{w}}" for t, w in zip(texts, widths[1:], strict=True))]
        shown.append("  ".join(line).rstrip())
    return shown


def _label(cell: Cell) -> str:
    return cell.init if cell.bias_init == "zeros" else f"{cell.init}, bias {cell.bias_init}"


def _text(cell: Cell) -> str:
    trained, runs = (cell.accuracy > trainability.TRAINED).sum(), len(cell.accuracy)
    return f"{100 * cell.accuracy.mean():.1f}% {trained}/{runs}"
