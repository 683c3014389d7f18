"""The sections of a report about depth: trainability diagrams, and initializers by depth."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from experiments.common import (
    chart_style,
    depth_charts,
    depth_results,
    diagram_verdicts,
    formatting,
    grouping,
    published,
    report_page,
    rules_of_thumb,
    statistics,
    tables,
    trainability,
)
from experiments.common import verdicts as setting_verdicts

_FEWEST_DEPTHS = 3  # that make a grid one of depths
_MOST_SETTINGS = 6  # that are also shown in full, each in a section of its own

_PHASES = {"ordered": "gradients vanish", "chaotic": "gradients explode"}

FIGURES = ("heat_map", "boundary", "collapse", "published_map", "reach", r"by_depth_\w+?")
"""The names of all figures, as patterns."""

Charts = dict[str, Callable[[], dict[str, Any] | None]]
"""Functions that draw charts, by names that are valid in file names."""


class Depths(NamedTuple):
    """The runs of a directory that vary in depth."""

    diagrams: list[trainability.Diagram]
    grids: list[trainability.Grid]
    """All cells that belong to no diagram."""
    runs: int

    def extent(self) -> tuple[int, int]:
        """The numbers of hidden layers of the shallowest and the deepest network."""
        depths = [cell.depth for part in (*self.diagrams, *self.grids) for cell in part.cells]
        return min(depths), max(depths)


class Planned(NamedTuple):
    """A section whose charts are not drawn yet."""

    section: report_page.Section
    charts: Charts


def divided(
    runs: pa.Table, complete: Callable[[pa.Table], pa.Table] = lambda rows: rows
) -> tuple[Depths, pa.Table]:
    """Finds the runs that vary in depth.

    Args:
      runs: rows as in `experiments.common.sweep_directory`.
      complete: adds the columns of steps to some of the rows, if they lack them.

    Returns:
      Those runs, and the rows that are to be compared as settings, which can be some of the same.
    """
    depths: dict[tuple[str, int], set[int]] = {}
    numbers = grouping.groups(runs, ["activation", "hidden"])
    firsts = np.unique(numbers, return_index=True)[1]
    kinds: list[tuple[str, int] | None] = []
    for row in runs.select(["activation", "hidden"]).take(firsts).to_pylist():
        sizes = row["hidden"] or []  # none of a network of the user's own
        kind = (row["activation"], sizes[0]) if len(set(sizes)) == 1 else None
        kinds.append(kind)
        if kind:
            depths.setdefault(kind, set()).add(len(sizes))
    if all(len(found) < _FEWEST_DEPTHS for found in depths.values()):
        return Depths([], [], 0), runs  # most sweeps, which may be large
    kinds = [kinds[number] for number in numbers]
    deep = [kind is not None and len(depths[kind]) >= _FEWEST_DEPTHS for kind in kinds]
    found, used, whole = Depths([], [], 0), set(), set()
    some = runs if all(deep) else runs.filter(pa.array(deep))  # a copy takes memory
    grids = trainability.grids(some, complete)
    for grid in grids:
        if len({cell.depth for cell in grid.cells}) < _FEWEST_DEPTHS:
            continue
        diagrams = [one for one in grid.diagrams if len(one.depths) >= _FEWEST_DEPTHS]
        drawn = {id(cell) for diagram in diagrams for cell in diagram.cells}
        found.diagrams.extend(diagrams)
        if rest := [cell for cell in grid.cells if id(cell) not in drawn]:
            found.grids.append(trainability.Grid(grid.fields, rest))
        used.add(str(grid.fields))
        settings = {(cell.depth, rate) for cell in grid.cells for rate in cell.learning_rates}
        if not diagrams and len(settings) <= _MOST_SETTINGS:
            whole.add(str(grid.fields))
    names = [name for name in grids[0].fields if name != "width"]
    parts = grouping.places(grouping.groups(runs, [*names, "hidden"]))
    rows = runs.select(names).take([places[0] for places in parts]).to_pylist()
    count, kept = 0, np.ones(len(runs), bool)
    for row, places in zip(rows, parts, strict=True):
        kind = kinds[places[0]]
        if kind and (grid := str(row | {"width": kind[1]})) in used:
            count += len(places)
            kept[places] = grid in whole
    return found._replace(runs=count), runs.filter(pa.array(kept))


def planned(depths: Depths) -> list[Planned]:
    """The sections, the diagrams first."""
    compared: set[int] = set()  # a published diagram is shown once
    found = []
    for diagram in depths.diagrams:
        other = published.like(diagram)
        found.append(_of_diagram(diagram, None if id(other) in compared else other))
        compared.add(id(other))
    groups: dict[str, list[trainability.Grid]] = {}
    for grid in depths.grids:
        groups.setdefault(str({**grid.fields, "activation": None}), []).append(grid)
    return found + [_of_grids(grids) for grids in groups.values()]


def _of_diagram(diagram: trainability.Diagram, other: trainability.Diagram | None) -> Planned:
    charts: Charts = {
        "heat_map": functools.partial(depth_charts.heat_map, diagram),
        "boundary": functools.partial(depth_charts.boundary, diagram),
        "collapse": functools.partial(depth_charts.collapse, diagram),
    }
    if other:
        charts["published_map"] = functools.partial(
            depth_charts.heat_map, other, "The published diagram"
        )
    headline, *sentences = map(_written, diagram_verdicts.conclusions(diagram))
    cells = sorted(diagram.cells, key=lambda cell: (cell.depth, _weights(cell, diagram)))
    grid = trainability.Grid(diagram.fields, cells)
    fits = diagram_verdicts.fits(diagram)
    section = report_page.Section(
        heading=f"Depth: {trainability.describe(diagram.fields)}; bias variance"
        f" {diagram.bias_variance:g}",
        description=_describe(diagram.fields),
        headline=headline,
        sentences=sentences,
        symbols={},
        figures=(),
        tables=[
            *([report_page.Table("fits", "Fits", _shown_fits(fits), fits)] if fits else []),
            _cells([grid], diagram),
        ],
    )
    return Planned(section, charts)


def _written(sentence: str) -> str:
    """A sentence of a terminal as the page writes it."""
    for phase, words in _PHASES.items():
        sentence = sentence.replace(f"in the {phase} phase", f"where {words} (the {phase} phase)")
    return (sentence[0].upper() + sentence[1:]).replace("xi_c", "ξc")


def _describe(fields: dict[str, Any]) -> str:
    """What the heading doesn't say of networks and their training."""
    model = "MLP" if fields["model"] == "mlp" else fields["model"]
    return (
        f"{fields['dataset']}, {fields['inputs']} inputs, {model}, {fields['dtype']}; output"
        f" {fields['output_init']}"
    )


def _shown_fits(fits: tables.Table) -> tables.Table:
    def interval(row: dict[str, Any], name: str) -> str:
        ends = ["low", "high"] if name == "k" else [f"{name} low", f"{name} high"]
        value, low, high = (row[key] for key in (name, *ends))
        digits = 2 if name == "rank correlation" else 1
        texts = ["infinite" if np.isinf(end) else f"{end:.{digits}f}" for end in (value, low, high)]
        return f"{texts[0]} ({texts[1]} to {texts[2]})"

    return [
        {
            "diagram": row["diagram"],
            "where": _PHASES.get(row["phase"], "all"),
            "half train at, in ξc": interval(row, "k"),
            "but at most, layers": interval(row, "limit"),
            "rank correlation": interval(row, "rank correlation"),
            "on the right side": f"{row['right']:.0%}",
        }
        for row in fits
    ]


def _of_grids(grids: Sequence[trainability.Grid]) -> Planned:
    means: dict[str, list[float]] = {}
    for cell in (cell for grid in grids for cell in grid.cells):
        means.setdefault(depth_charts.name(cell), []).append(float(cell.accuracy.mean()))
    inits = sorted(means, key=lambda init: -float(np.mean(means[init])))
    panels = [
        depth_charts.Panel(inits, grid.fields["activation"], grid.cells)
        for grid in sorted(grids, key=lambda grid: grid.fields["activation"])
    ]
    charts: Charts = {}
    if len(panels) > 1 or len(inits) > 1:
        charts["reach"] = functools.partial(depth_charts.reach, panels)
    charts |= {
        f"by_depth_{panel.activation}": functools.partial(depth_charts.by_depth, panel)
        for panel in panels
    }
    fields = grids[0].fields
    several = "several activations" if len(panels) > 1 else fields["activation"]
    sentences = [text for grid in grids for text in rules_of_thumb.sentences(grid)[:1]]
    verdicts = _verdicts(grids)
    described = trainability.describe({**fields, "activation": several})
    section = report_page.Section(
        heading=f"Initializers by depth: {described}",
        description=_describe(fields),
        headline=depth_charts.deepest_sentence(grids).removesuffix("."),
        sentences=sentences,
        symbols={init: chart_style.symbol(panels[0], init) for init in inits},
        figures=(),
        tables=[
            *([report_page.Table("depths", "Verdicts by depth", *[verdicts] * 2)] * bool(verdicts)),
            _cells(grids),
        ],
    )
    return Planned(section, charts)


def _verdicts(grids: Sequence[trainability.Grid]) -> tables.Table:
    """A row for each activation and depth: which initializer is best there, and of its rule."""
    rows = []
    for grid in grids:
        outcomes = {one.depth: one for one in rules_of_thumb.outcomes(grid)}
        for depth, cells in rules_of_thumb.by_depth(grid).items():
            row = {"activation": grid.fields["activation"], "depth": str(depth)}
            row["verdict"] = setting_verdicts.headline(rules_of_thumb.compared(cells))
            if one := outcomes.get(depth):
                name, _ = rules_of_thumb.RULES[grid.fields["activation"]]
                row |= {"rule of thumb": f"{name}: {one.kind}", "why": one.reason}
            else:
                row |= {"rule of thumb": "-", "why": "-"}
            rows.append(row)
    return rows


def _weights(cell: trainability.Cell, diagram: trainability.Diagram) -> float:
    """The weight variance of a cell of a diagram."""
    drawn = trainability.variances(cell.init, cell.bias_init, diagram.width)
    assert drawn  # or it would not be in a diagram
    return drawn.weights


def _cells(
    grids: Sequence[trainability.Grid], diagram: trainability.Diagram | None = None
) -> report_page.Table:
    """A row for each kind of network, named by its weight variance if it is from a diagram."""
    numbers = [row for grid in grids for row in depth_results.cell_rows(grid, grid.cells)]
    several = len(grids) > 1

    def called(grid: trainability.Grid, cell: trainability.Cell) -> dict[str, str]:
        if diagram is None:
            activation = {"activation": grid.fields["activation"]} if several else {}
            return activation | {"initializer": depth_charts.name(cell)}
        weights = _weights(cell, diagram)
        column = diagram.weight_variances.tolist().index(weights)
        return {"weight variance": f"{weights:g}", "ξc": f"{diagram.xi_c[column]:.4g}"}

    shown = [
        called(grid, cell)
        | {
            "depth": str(cell.depth),
            "learning rate": f"{cell.learning_rate:g}",
            "runs": str(len(cell.accuracy)),
            "trained": formatting.share(cell.trained),
            "training accuracy": formatting.interval(statistics.mean_interval(cell.accuracy)),
            "test accuracy": formatting.interval(statistics.mean_interval(cell.test_accuracy)),
        }
        for grid in grids
        for cell in grid.cells
    ]
    return report_page.Table("cells", f"All {len(shown)} kinds of networks", shown, numbers)
