"""What a report says first about networks of many depths: what was tried, found, and follows."""

import math
from collections.abc import Sequence

import numpy as np

from experiments.common import depth_charts, description, trainability
from experiments.common.depth_sections import Depths
from experiments.common.statistics import Interval


def of_depths(depths: Depths) -> list[str]:
    """What was tried, what was found, and what follows, a sentence each; none without such runs."""
    if not depths.runs:
        return []
    return [
        _tried(depths),
        *([_of_diagram(depths.diagrams)] if depths.diagrams else []),
        *([depth_charts.deepest_sentence(depths.grids)] if depths.grids else []),
        _advice(depths),
    ]


def _tried(depths: Depths) -> str:
    widths: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for diagram in depths.diagrams:
        shape = diagram.accuracy.shape
        widths.setdefault((diagram.activation, shape), []).append(str(diagram.width))
    parts = [
        f"{activation} of width {' and '.join(dict.fromkeys(width))}, {columns} weight variances at"
        f" {rows} depths with {description.count(seeds, 'seed')} each"
        for (activation, (rows, columns, seeds)), width in widths.items()
    ]
    if depths.grids:
        cells = [cell for grid in depths.grids for cell in grid.cells]
        inits = {depth_charts.name(cell) for cell in cells}
        activations = {grid.fields["activation"] for grid in depths.grids}
        several = f" with {len(activations)} activations" if len(activations) > 1 else ""
        tried = {cell.depth for cell in cells}
        parts.append(
            f"{description.count(len(inits), 'initializer')}{several} at"
            f" {description.count(len(tried), 'depth')}"
        )
    shallow, deep = depths.extent()
    return (
        f"{depths.runs:,} networks of {shallow} to {deep} layers were trained to see which of them"
        f" learn: {'; '.join(parts)}."
    )


def _of_diagram(diagrams: Sequence[trainability.Diagram]) -> str:
    diagram = max(diagrams, key=lambda diagram: np.isfinite(diagram.accuracy).sum())
    what = f"{diagram.activation} of width {diagram.width}"
    fitted = diagram.boundary
    if fitted is None:
        return f"Of {what}, {np.nanmean(diagram.trained):.0%} trained, which shows no boundary."
    if diagram.ordered and diagram.chaotic:
        found = (
            f"{_k(diagram.ordered.k)} where gradients vanish and {_k(diagram.chaotic.k)} where they"
            " explode"
        )
    else:
        found = _k(fitted.k)
    rank = fitted.correlation
    rises = "rises" if rank.low > 0 else "is not shown to rise"
    return (
        f"The trainable depth {rises} with theory's depth scale ξc (rank correlation"
        f" {rank.value:.2f}, {rank.low:.2f} to {rank.high:.2f}): half of the networks of {what}"
        f" train up to {found}."
    )


def _k(k: Interval) -> str:
    return f"{k.value:.1f} ξc (95% interval {k.low:.1f} to {k.high:.1f})"


def _advice(depths: Depths) -> str:
    if depths.diagrams:
        diagram = max(depths.diagrams, key=lambda diagram: np.isfinite(diagram.accuracy).sum())
        critical, fitted = diagram.critical, diagram.boundary
        if not math.isnan(critical):
            text = (
                f"For a deep {diagram.activation} network, choose a weight variance near the"
                f" critical one, {critical:.3g}, where ξc is largest"
            )
            if fitted and math.isfinite(fitted.limit.value):
                text += (
                    f"; beyond about {fitted.limit.value:.0f} layers something other than ξc limits"
                    " the depth, such as width, steps or learning rate"
                )
            return f"{text}."
    cells = [cell for grid in depths.grids for cell in grid.cells]
    counts = (
        {
            depth: [cell.trained.value >= 0.5 for cell in cells if cell.depth == depth]
            for depth in (min(cell.depth for cell in cells), max(cell.depth for cell in cells))
        }
        if cells
        else {}
    )
    told = "; ".join(
        f"at {description.count(depth, 'layer')}, {sum(trained)} of {len(trained)} train"
        for depth, trained in counts.items()
    )
    if not told:
        return "Try more weight variances and depths to find the boundary."
    return (
        "The deeper the network, the more its initializer matters: of the combinations of"
        f" activation and initializer, {told}."
    )
