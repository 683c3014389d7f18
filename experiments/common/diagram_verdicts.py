"""Trainability diagrams as text: the grid of accuracies, the fits, and what follows from them."""

import functools
import math
import textwrap
from typing import Any

import numpy as np

from experiments.common import description, published, trainability, verdicts
from experiments.common.boundary import Boundary
from experiments.common.tables import Table
from experiments.common.trainability import Diagram, Grid, describe

CLAIMS = {6.0: "the paper's line", 4.5: "that of others"}
"""The values of k that others draw, and who."""

_WIDTH = 80  # of a terminal


def lines(diagram: Diagram) -> list[str]:
    """A diagram for a terminal: training accuracy in percent by depth and weight variance."""
    seeds = description.count(diagram.accuracy.shape[2], "seed")
    title = (
        f"{describe(diagram.fields)}; bias variance {diagram.bias_variance:g}; {seeds}: training"
        f" accuracy in % over the last {trainability.WINDOW} steps, by depth and weight variance;"
        " half at: the depth that half of the networks train at"
    )
    fitted = diagram.boundary
    rows = [("variance", [f"{value:.4g}" for value in diagram.weight_variances])]
    rows += [
        (f"depth {depth:3}", ["" if np.isnan(cell) else f"{100 * cell:.0f}" for cell in cells])
        for depth, cells in zip(diagram.depths, diagram.mean, strict=True)
    ]
    if fitted:
        rows.append(("half at", _edges(diagram, fitted)))
    rows.append(("xi_c", [_short(xi) for xi in diagram.xi_c]))
    width = 1 + max(len(cell) for _, cells in rows for cell in cells)
    label = max(len(name) for name, _ in rows)
    lines = textwrap.wrap(title, _WIDTH)
    per_block = max(1, (_WIDTH - label) // width)
    for start in range(0, len(diagram.weight_variances), per_block):
        lines += [
            f"{name:{label}}" + "".join(f"{cell:>{width}}" for cell in cells[start:][:per_block])
            for name, cells in rows
        ]
    return lines


def _edges(diagram: Diagram, fitted: Boundary) -> list[str]:
    """The depths at which half of the networks train, with < or > where that is not in it."""
    first, last = diagram.depths[[0, -1]]
    return [
        f"<{first}" if depth <= first else f">{last}" if depth >= last else f"{depth:.0f}"
        for depth in fitted.depths
    ]


def _short(number: float) -> str:
    return "inf" if math.isinf(number) else f"{number:.1f}" if number < 99.5 else f"{number:.0f}"


def fits(diagram: Diagram) -> Table:
    """The fitted boundaries of a diagram, and of the published one if it is of the same kind."""
    other = published.like(diagram)
    return _fits(diagram, "ours") + (_fits(other, "published") if other else [])


def _fits(diagram: Diagram, whose: str) -> Table:
    parts = {"all": diagram.boundary, "ordered": diagram.ordered, "chaotic": diagram.chaotic}
    return [
        {
            "diagram": whose,
            "phase": phase,
            "k": found.k.value,
            "low": found.k.low,
            "high": found.k.high,
            "seeds low": found.k_over_seeds and found.k_over_seeds.low,
            "seeds high": found.k_over_seeds and found.k_over_seeds.high,
            "limit": found.limit.value,
            "limit low": found.limit.low,
            "limit high": found.limit.high,
            "rank correlation": found.correlation.value,
            "rank correlation low": found.correlation.low,
            "rank correlation high": found.correlation.high,
            "right": found.right,
        }
        for phase, found in parts.items()
        if found
    ]


def fit_lines(rows: Table) -> list[str]:
    """The fits for a terminal."""
    if not rows:
        return []
    cells = [("diagram, phase", "k = depth / xi_c", "over seeds", "rank correlation")]
    for row in rows:
        seeds = "-" if row["seeds low"] is None else _bounds(row["seeds low"], row["seeds high"])
        value, low, high = (row[f"rank correlation{end}"] for end in ("", " low", " high"))
        cells.append(
            (
                f"{row['diagram']}, {row['phase']}",
                f"{row['k']:.1f} ({_bounds(row['low'], row['high'])})",
                seeds,
                "-" if math.isnan(value) else f"{value:.2f} ({low:.2f} to {high:.2f})",
            )
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


@functools.lru_cache(maxsize=64)  # the fits take seconds, and are shown and stored
def rate_rows(grid: Grid, diagram: Diagram) -> Table:
    """The fits of one of a grid's diagrams at one learning rate for all, if there are several."""
    parts = trainability.one_rate(grid)
    if len(parts) < 2:
        return []
    return [
        row
        for name, part in parts.items()
        for one in part.diagrams
        if one.bias_variance == diagram.bias_variance
        for row in _fits(one, f"rate {name}")
    ]


def _bounds(low: float, high: float) -> str:
    return f"{low:.1f} to {high:.1f}"


def _inside(k: float, row: dict[str, Any]) -> bool:
    return row["low"] <= k <= row["high"]


def conclusions(diagram: Diagram) -> list[str]:
    """What a diagram shows, in sentences that follow from the fits and their intervals."""
    fitted = diagram.boundary
    if fitted is None:
        share = np.nanmean(diagram.trained)
        if 0 < share < 1:
            return ["there are too few weight variances or depths for a fit"]
        return [
            f"{'all' if share else 'no'} networks trained: the boundary is at"
            f" {'larger' if share else 'smaller'} depths"
        ]
    correlation, limit = fitted.correlation, fitted.limit
    if math.isnan(correlation.value):
        return [
            "networks train up to the same depth at all weight variances, so these runs tell"
            " nothing about xi_c; try more depths"
        ]
    rises = "rises" if correlation.low > 0 else "is not shown to rise"
    found = [
        f"trainable depth {rises} with xi_c: rank correlation {correlation.value:.2f}"
        f" ({correlation.low:.2f} to {correlation.high:.2f})"
    ]
    rows = fits(diagram)
    ours = {row["phase"]: row for row in rows if row["diagram"] == "ours"}
    for phase, row in ours.items():
        where = f"in the {phase} phase" if phase != "all" else "at all weight variances together"
        inside, outside = (
            [f"{k:g} xi_c, {who}," for k, who in CLAIMS.items() if _inside(k, row) == wanted]
            for wanted in (True, False)
        )
        parts = [
            f"{verdicts.listed(names, 'and')} {'is' if len(names) == 1 else 'are'} {words}"
            for names, words in ((inside, "inside"), (outside, "outside"))
            if names
        ]
        found.append(
            f"{where}, half of the networks train at {row['k']:.1f} xi_c"
            f" ({_bounds(row['low'], row['high'])}): {'; '.join(parts)}"
        )
    if {"ordered", "chaotic"} <= ours.keys():
        one, other = ours["ordered"], ours["chaotic"]
        found.append(
            "one k does not hold for both phases: their intervals don't overlap"
            if _apart(one, other)
            else "one k may hold for both phases: their intervals overlap"
        )
    for row in rows:
        if row["diagram"] == "published" and row["phase"] in ours:
            apart = _apart(row, ours[row["phase"]])
            differs = "differs from" if apart else "is not shown to differ from"
            found.append(
                f"the published diagram, {row['phase']}: its k, {row['k']:.1f}"
                f" ({_bounds(row['low'], row['high'])}), {differs} ours"
            )
    if math.isfinite(limit.value):
        high = "more" if math.isinf(limit.high) else f"{limit.high:.0f}"
        found.append(
            f"near criticality, where xi_c is large, half of the networks train at"
            f" {limit.value:.0f} layers ({limit.low:.0f} to {high}): something other than xi_c"
            " limits the depth there, such as width, steps or learning rate"
        )
    return found


def _apart(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one["low"] > other["high"] or other["low"] > one["high"]
