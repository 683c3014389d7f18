"""What a report says first about networks of many depths: what was tried, found, and follows."""

import math
from collections.abc import Sequence

import numpy as np

from experiments.common import (
    comparison,
    depth_charts,
    description,
    rules_of_thumb,
    trainability,
    verdicts,
)
from experiments.common.depth_sections import Depths
from experiments.common.statistics import Interval


def of_depths(depths: Depths) -> list[str]:
    """What was tried, what was found, and what follows, a sentence each; none without such runs."""
    if not depths.runs:
        return []
    return [
        _tried(depths),
        *([_of_diagram(depths.diagrams)] if depths.diagrams else []),
        *([_best(depths.grids)] if depths.grids else []),
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


def _best(grids: Sequence[trainability.Grid]) -> str:
    """Which initializer is best at the largest depth that trains, for each activation."""
    parts = []
    widths = len({grid.fields["width"] for grid in grids})
    for grid in sorted(grids, key=lambda grid: (grid.fields["activation"], grid.fields["width"])):
        what = str(grid.fields["activation"])
        what += f" of width {grid.fields['width']}" if widths > 1 else ""
        reach = max(depth_charts.deepest(grid.cells).values())
        cells = rules_of_thumb.by_depth(grid).get(reach)
        if not cells:
            parts.append(
                f"{what}, {'no depth' if not reach else description.count(reach, 'layer')}"
            )
            continue
        setting = rules_of_thumb.compared(cells)
        best, groups = comparison.ranking(setting, setting.main)[0], verdicts.against_best(setting)
        words = []
        if behind := [*groups.ahead, *groups.failed]:
            words.append(f"ahead of {_counted(behind, 'and', setting)}")
        if alike := [*groups.open, *groups.equivalent, *groups.apart]:
            words.append(f"not shown to differ from {_counted(alike, 'or', setting)}")
        told = f" ({'; '.join(words)})" if words else ""
        parts.append(f"{what}, {description.count(reach, 'layer')}: {best}{told}")
    return f"The best test accuracy at the largest depth that trains: {'; '.join(parts)}."


def _counted(names: list[str], word: str, setting: comparison.Setting) -> str:
    if len(names) == len(setting.inits) - 1 and len(names) > 1:
        return "all others" if word == "and" else "any other"
    return verdicts.listed(names, word)


def _advice(depths: Depths) -> str:
    if depths.diagrams:
        diagram = max(depths.diagrams, key=lambda diagram: np.isfinite(diagram.accuracy).sum())
        critical, fitted = diagram.critical, diagram.boundary
        tried = diagram.weight_variances
        if not math.isnan(critical) and not tried[0] <= critical <= tried[-1]:
            return (
                f"Theory's critical weight variance of {diagram.activation}, {critical:.3g}, where"
                " ξc is largest, was not among those tried: try it next."
            )
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
    if not cells:
        return "Try more weight variances and depths to find the boundary."
    tried = sorted({cell.depth for cell in cells})
    counts = []
    for depth in (tried[0], tried[-1]):
        trained = [cell.trained.value >= 0.5 for cell in cells if cell.depth == depth]
        layers = description.count(depth, "layer")
        counts.append(f"with {layers}, {sum(trained)} of {len(trained)} train")
    told = "; ".join(counts)
    return (
        f"Of the combinations of activation and initializer: {told}; so choose the initializer for"
        " the depth that you need, from the verdicts by depth."
    )
