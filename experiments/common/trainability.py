"""Which depths train: the cells of a grid of initializers and depths, and the theory beside them.

A *cell* is all seeds of one network and initializer, each cell at its own best learning rate: the
one with the lowest training loss at the end. A network *trained* if its training accuracy over the
last steps is above 50%, the level of the published diagrams: far above guessing and far below what
a network reaches that learns.

A *diagram* is a grid of cells by depth and weight variance. Beside it are the theory's scale xi_c
of each weight variance, and the boundary that is fitted in units of it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

import initjax
from experiments.common import comparison, description, grouping, run_files, statistics
from experiments.common.boundary import Boundary, fit_boundary
from initjax import theory

TRAINED = 0.5
"""Training accuracy over the last steps above which a network counts as trained."""
WINDOW = 50
"""How many last steps these are."""
_FEWEST_VARIANCES = 3  # that make a diagram

# What the cells of one grid have in common, besides the width.
_COMMON = (
    "model residual normalization scheme base activation optimizer batch_size steps epochs inputs"
    " output_init dtype dataset digest"
).split()


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """All seeds of one network and initializer, at the best learning rate of those tried."""

    init: str
    bias_init: str
    depth: int
    """Number of hidden layers."""
    learning_rate: float
    """The best one."""
    learning_rates: list[float]
    """Those that were tried, ascending."""
    accuracy: np.ndarray
    """(seeds,): training accuracy over the last steps."""
    runs: pa.Table
    """The rows at the best learning rate, by seed."""
    complete: Callable[[], pa.Table]
    """Returns them with the columns of steps."""

    @property
    def trained(self) -> statistics.Interval:
        """The share of the seeds that trained, with Wilson's interval."""
        return statistics.share_interval(int((self.accuracy > TRAINED).sum()), len(self.accuracy))

    @property
    def test_accuracy(self) -> np.ndarray:
        """(seeds,): final accuracy on the test set."""
        return comparison.column(self.runs, "val_acc")[:, -1]


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """The cells of networks of one width, activation and training."""

    fields: dict[str, Any]
    """What they have in common: columns of `sweep_directory.SCHEMA`, and `width`."""
    cells: list[Cell]
    """In the order of depth, then of the runs."""
    runs: pa.Table | None = None
    """All rows, of every learning rate; None for a part of a grid."""

    @property
    def name(self) -> str:
        """For a file."""
        name = f"initializers-{self.fields['activation']}-width{self.fields['width']}"
        return "-".join([name, *_network(self.fields).lower().replace(",", "").split()])

    @functools.cached_property
    def diagrams(self) -> "list[Diagram]":
        """One for each bias variance with three or more weight variances.

        Only normal kernels enter them: others, such as orthogonal ones, train to other depths at
        the same weight variance.
        """
        return _diagrams(self)

    @functools.cached_property
    def others(self) -> list[Cell]:
        """The cells that are in no diagram."""
        drawn = {id(cell) for diagram in self.diagrams for cell in diagram.cells}
        return [cell for cell in self.cells if id(cell) not in drawn]


class Variances(NamedTuple):
    """Of the hidden layers of a cell, as the theory takes them."""

    weights: float
    """Of a weight, times fan_in."""
    biases: float


@dataclasses.dataclass(frozen=True, eq=False)
class Diagram:
    """Training accuracy by depth and weight variance, and the theory's scales. NaN: no run."""

    activation: str
    width: int
    bias_variance: float
    weight_variances: np.ndarray
    """(columns,), ascending."""
    depths: np.ndarray
    """(rows,), ascending."""
    accuracy: np.ndarray
    """(rows, columns, seeds): training accuracy over the last steps."""
    learning_rates: np.ndarray
    """(rows, columns): the best of those tried."""
    fields: dict[str, Any]
    """As in `Grid`."""
    cells: list[Cell]
    """Where it is from; empty for a published diagram."""

    @property
    def name(self) -> str:
        """For a file."""
        return f"diagram-{self.activation}-width{self.width}-bias{self.bias_variance:g}"

    @property
    def mean(self) -> np.ndarray:
        """(rows, columns): the mean accuracy of the seeds."""
        return _mean(self.accuracy)

    @property
    def fraction(self) -> np.ndarray:
        """(rows, columns): the share of the seeds that trained."""
        return _mean(self.trained)

    @property
    def trained(self) -> np.ndarray:
        """(rows, columns, seeds): 1 for a network that trained, 0 for one that didn't."""
        return np.where(np.isnan(self.accuracy), np.nan, self.accuracy > TRAINED)

    @functools.cached_property
    def scales(self) -> list[theory.DepthScales]:
        """(columns,): the theory of each weight variance."""
        return [self.theory_at(float(weights)) for weights in self.weight_variances]

    @property
    def xi_c(self) -> np.ndarray:
        """(columns,): the depth scale of correlations."""
        return np.array([scales.correlation_depth for scales in self.scales])

    @functools.cached_property
    def critical(self) -> float:
        """The weight variance between order and chaos; NaN if there is none."""
        try:
            return theory.critical_line(self.activation, self.bias_variance).weight_variance
        except ValueError:
            return np.nan

    @functools.cached_property
    def boundary(self) -> Boundary | None:
        """The fit over all weight variances."""
        return self._fit(np.ones(len(self.weight_variances), bool))

    @functools.cached_property
    def ordered(self) -> Boundary | None:
        """The fit over weight variances below criticality, where gradients vanish."""
        return self._fit(self.weight_variances < self.critical)

    @functools.cached_property
    def chaotic(self) -> Boundary | None:
        """The fit over weight variances above criticality, where gradients explode."""
        return self._fit(self.weight_variances > self.critical)

    def _fit(self, columns: np.ndarray) -> Boundary | None:
        if columns.sum() < _FEWEST_VARIANCES:
            return None
        return fit_boundary(self.depths, self.xi_c[columns], self.trained[:, columns])

    def curve(self, weight_variances: np.ndarray) -> np.ndarray | None:
        """The fitted boundary at any weight variances, (3, n): depth, lower and upper bound.

        On each side of criticality it is the fit of that side, or that of all where it has none;
        None without a fit.
        """
        found = []
        for weights in weight_variances:
            fitted = (self.ordered if weights < self.critical else self.chaotic) or self.boundary
            if fitted is None:
                return None
            xi_c = self.theory_at(float(weights)).correlation_depth
            ks, limits = np.array(fitted.k), np.array(fitted.limit)
            found.append(np.minimum(ks * xi_c if np.isfinite(xi_c) else np.inf, limits))
        return np.stack(found, axis=1)

    def theory_at(self, weight_variance: float) -> theory.DepthScales:
        """The theory's scales at any weight variance."""
        return theory.depth_scales(self.activation, weight_variance, self.bias_variance)


def describe(fields: dict[str, Any]) -> str:
    """One line about what the networks of a grid or a diagram have in common."""
    parts = [f"{fields['activation']}, width {fields['width']}"]
    if network := _network(fields):
        parts.insert(0, network)
    length = description.duration(fields["epochs"], fields["steps"])
    return f"{', '.join(parts)}; {fields['optimizer']}, batch {fields['batch_size']}, {length}"


def _network(fields: dict[str, Any]) -> str:
    """What the networks are, if they are no plain MLPs."""
    model = fields.get("model", "mlp")
    kind = model, fields.get("residual", False), fields.get("normalization", "none")
    text = "".join(description.kind(*kind))
    text += description.scheme(fields.get("scheme"), fields.get("base"))
    return "" if text == "MLP" else text


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over seeds without those that are missing; NaN if all are."""
    runs = np.isfinite(values).sum(axis=2)
    return np.where(runs, np.nansum(values, axis=2) / np.maximum(runs, 1), np.nan)


def grids(
    table: pa.Table, complete: Callable[[pa.Table], pa.Table] = lambda rows: rows
) -> list[Grid]:
    """Divides runs into grids. Runs whose hidden layers differ in size belong to none.

    Args:
      table: rows as in `experiments.common.sweep_directory`.
      complete: adds the columns of steps to some of the rows, if the table lacks them.
    """
    table = _ended(table, complete)
    names = [name for name in _COMMON if name in table.column_names]
    kinds = grouping.places(grouping.groups(table, [*names, "hidden"]))
    firsts = table.select([*names, "hidden"]).take([places[0] for places in kinds]).to_pylist()
    found: dict[str, tuple[dict[str, Any], list[np.ndarray]]] = {}
    for row, places in zip(firsts, kinds, strict=True):
        hidden = row.pop("hidden")
        if len(set(hidden)) == 1:
            fields = row | {"width": hidden[0]}
            found.setdefault(str(fields), (fields, []))[1].append(places)
    made = []
    for fields, places in found.values():
        mine = np.sort(np.concatenate(places))
        part = table if len(mine) == len(table) else table.take(mine)  # a copy takes memory
        made.append(Grid(fields, _cells(part, complete), part))
    return made


def _ended(table: pa.Table, complete: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """Rows with the means of their last steps."""
    ends = {name: np.empty(len(table)) for name in ("step_loss", "step_acc")}
    names = [name for name in run_files.SETTING if name in table.column_names]
    for places in grouping.places(grouping.groups(table, names)):
        rows = complete(table.take(places))
        for name, means in ends.items():
            # A diverged run guesses.
            values = comparison.column(rows, name)[:, -WINDOW:]
            means[places] = values.mean(axis=1, dtype=np.float64)
    for name, means in ends.items():
        table = table.append_column(f"last_{name}", pa.array(means))
    return table


def one_rate(grid: Grid) -> dict[str, Grid]:
    """The runs of a grid divided by learning rate, or by learning rate times depth.

    Returns:
      A grid for each rate that all depths have; the name is such as "0.1" or "0.1/depth".
    """
    if grid.runs is None:
        return {}
    chunks = grid.runs["hidden"].chunks
    depths = np.concatenate([chunk.value_lengths().to_numpy() for chunk in chunks])
    rates = grid.runs["learning_rate"].to_numpy()
    found: dict[str, Grid] = {}
    for unit, values in (("", rates), ("/depth", rates * depths)):
        names = np.array([f"{value:.3g}{unit}" for value in values])
        for name in sorted(set(names)):
            if set(depths[names == name]) == set(depths):
                part = grid.runs.filter(pa.array(names == name))
                found[name] = Grid(grid.fields, _cells(part), part)
    return found


def _cells(
    table: pa.Table, complete: Callable[[pa.Table], pa.Table] = lambda rows: rows
) -> list[Cell]:
    groups: dict[tuple[str, str, int], dict[float, np.ndarray]] = {}
    names = ["init", "bias_init", "hidden", "learning_rate"]
    kinds = grouping.places(grouping.groups(table, names))
    firsts = table.select(names).take([places[0] for places in kinds]).to_pylist()
    for row, places in sorted(
        zip(firsts, kinds, strict=True), key=lambda kind: len(kind[0]["hidden"])
    ):
        network: tuple[str, str, int] = row["init"], row["bias_init"], len(row["hidden"])
        groups.setdefault(network, {})[row["learning_rate"]] = places
    seeds = table["seed"].to_numpy()
    losses, accuracies = (table[f"last_{name}"].to_numpy() for name in ("step_loss", "step_acc"))
    cells = []
    for network, by_rate in groups.items():
        of_rate = {rate: losses[places] for rate, places in sorted(by_rate.items())}
        best, rates = comparison.best_rate(of_rate)
        places = by_rate[best][np.argsort(seeds[by_rate[best]], kind="stable")]
        runs = table.take(places)
        whole = functools.partial(complete, runs)
        cells.append(Cell(*network, best, rates, accuracies[places], runs, whole))
    return cells


def variances(init: str, bias_init: str, width: int) -> Variances | None:
    """The variances of hidden layers between layers of equal width; None if they have none.

    Args:
      init: specification of the initializer of the kernels.
      bias_init: that of the biases.
      width: of the layers.

    Example:
      >>> variances("glorot_uniform", "random_normal(stddev=0.5)", 64)
      Variances(weights=1.0, biases=0.25)
    """
    weights, biases = _mean_square(init, width), _mean_square(bias_init, width)
    if weights is None or biases is None:
        return None
    # Specifications hold rounded standard deviations, whose squares should be round, too.
    return Variances(*(float(f"{variance:.5g}") for variance in (weights * width, biases)))


def _mean_square(spec: str, width: int) -> float | None:
    """Of an element of a kernel (width, width), or of a bias."""
    match initjax.get(spec):
        case initjax.variance_scaling(scale=scale):  # all fans are the width
            return scale / width
        case initjax.orthogonal(scale=scale):
            return scale**2 / width
        case initjax.random_normal(mean=0.0, stddev=stddev):
            return stddev**2
        case initjax.constant(value=value) if np.ndim(value) == 0 and value == 0:
            return 0.0
    return None


def _diagrams(grid: Grid) -> list[Diagram]:
    if _network(grid.fields):  # the theory is that of plain MLPs
        return []
    found: dict[float, dict[tuple[int, float], Cell]] = {}
    for cell in grid.cells:
        if getattr(initjax.get(cell.init), "distribution", None) == "normal":
            drawn = variances(cell.init, cell.bias_init, grid.fields["width"])
            if drawn:
                place = cell.depth, drawn.weights
                found.setdefault(drawn.biases, {})[place] = cell
    return [
        _diagram(grid, biases, cells)
        for biases, cells in sorted(found.items())
        if len({weights for _, weights in cells}) >= _FEWEST_VARIANCES
    ]


def _diagram(grid: Grid, biases: float, cells: dict[tuple[int, float], Cell]) -> Diagram:
    depths, weights = (sorted(set(values)) for values in zip(*cells, strict=True))
    seeds = sorted({seed for cell in cells.values() for seed in cell.runs["seed"].to_pylist()})
    accuracy = np.full((len(depths), len(weights), len(seeds)), np.nan)
    rates = np.full((len(depths), len(weights)), np.nan)
    for (depth, variance), cell in cells.items():
        place = depths.index(depth), weights.index(variance)
        mine = np.searchsorted(seeds, cell.runs["seed"].to_numpy())
        accuracy[*place, mine] = cell.accuracy
        rates[place] = cell.learning_rate
    return Diagram(
        grid.fields["activation"],
        grid.fields["width"],
        biases,
        np.array(weights),
        np.array(depths),
        accuracy,
        rates,
        grid.fields,
        list(cells.values()),
    )
