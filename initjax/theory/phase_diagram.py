"""The phase diagram of an activation: trainable depth by weight and bias variance."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from initjax._extras import require_matplotlib
from initjax._values import checked_number
from initjax.theory._activation import Activation, named
from initjax.theory._fixed_points import HIGHEST, LOWEST, strides
from initjax.theory._integrals import single
from initjax.theory._phases import Cells, phase_cells
from initjax.theory.criticality import critical_line, critical_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from initjax._figure import Figure

_SPAN = (1 / 3, 2.5)  # of weight variances, relative to a critical one
_DEEPEST = 1000  # layers: the brightest color, also for more
_INK = "#1a1a1a"
_ROOM = 0.1  # the margin around the name of a phase, relative to the axes


def phase_diagram(
    activation: Activation,
    weight_variances: Sequence[float] | np.ndarray | None = None,
    bias_variances: Sequence[float] | np.ndarray | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    r"""Plots how deep a plain network can be and still train, by weight and bias variance.

    The color is :math:`6 \xi_c`, about the number of layers after which two inputs can still be
    distinguished; see `depth_scales`. In the ordered phase gradients vanish, in the chaotic phase
    they explode, and on the critical line between them they do neither. The line is dashed where
    its fixed point is unstable; stars mark its `critical_points`. Where the variance itself grows
    without bound, the area is hatched and the color is six times the number of layers over which
    gradients grow by e.

    Args:
      activation: phi, a function that acts on each number by itself, or a name in `jax.nn`.
      weight_variances: sigma_w², variances of a weight times fan_in, at least two, ascending; None
        means 121 around a critical value.
      bias_variances: sigma_b², variances of a bias, likewise; None means 73 from 0 to 0.6.
      path: where to save the figure, in the format of its suffix; None means it isn't saved.

    Returns:
      A Matplotlib figure, which a notebook shows. It belongs to no window of `pyplot`.

    Raises:
      TypeError, ValueError: activation isn't such a function or name; variances are not ascending
        finite numbers >= 0.
      ImportError: Matplotlib is not installed.

    Example:
      >>> figure = phase_diagram("tanh", [0.5, 1, 2, 4], [0, 0.1, 0.2])
      >>> figure.axes[0].get_xlabel()
      'weight variance times fan_in, $\\sigma_w^2$'

    Reference:
      Schoenholz, Gilmer, Ganguli and Sohl-Dickstein 2017, "Deep Information Propagation", figure 5,
      https://arxiv.org/abs/1611.01232
    """
    require_matplotlib("phase_diagram")
    function = named("phase_diagram", activation)
    if weight_variances is None:
        center = _critical_weights(function)
        weight_variances = np.linspace(_SPAN[0] * center, _SPAN[1] * center, 121)
    if bias_variances is None:
        bias_variances = np.linspace(0, 0.6, 73)
    weights = _checked("weight_variances", weight_variances)
    biases = _checked("bias_variances", bias_variances)
    cells = phase_cells(function, weights, biases)

    from initjax._figure import default_style

    name = (
        activation if isinstance(activation, str) else getattr(activation, "__name__", "activation")
    )
    with default_style():
        figure = _drawn(function, weights, biases, cells)
        figure.axes[0].set_title(
            "Phase diagram" if name == "<lambda>" else f"Phase diagram of {name}"
        )
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _drawn(function: Callable, weights: np.ndarray, biases: np.ndarray, cells: Cells) -> Figure:
    from matplotlib.colors import LogNorm

    from initjax._figure import Figure

    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    shades = LogNorm(5, _DEEPEST)
    mesh = axes.pcolormesh(
        weights,
        biases,
        cells.depth,
        norm=shades,
        cmap="viridis",
        shading="nearest",
        rasterized=True,
    )
    axes.set_xlim(weights[0], weights[-1])
    axes.set_ylim(biases[0], biases[-1])
    axes.autoscale(False)
    bar = figure.colorbar(mesh, ax=axes, extend="both", pad=0.02)
    ticks = [5, 10, 20, 50, 100, 200, 500, 1000]
    bar.set_ticks(ticks, labels=[f"{tick:,}" for tick in ticks])
    bar.ax.minorticks_off()
    bar.set_label(r"layers that can be trained, about $6\,\xi_c$")
    _name_phases(axes, weights, biases, cells)
    _draw_criticality(axes, function)
    axes.set_xlabel(r"weight variance times fan_in, $\sigma_w^2$")
    axes.set_ylabel(r"bias variance, $\sigma_b^2$")
    return figure


def _checked(name: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    checked = [checked_number("phase_diagram", name, value, minimum=0) for value in values]
    array = np.array(checked)
    if len(array) < 2 or not (np.diff(array) > 0).all():
        raise ValueError(
            f"phase_diagram: {name} must be at least two ascending numbers, got {values!r}"
        )
    return array


def _critical_weights(function: Callable) -> float:
    for biases in (0.05, 0.0):
        try:
            return critical_line(function, biases).weight_variance
        except ValueError:
            pass  # there is no critical point, as for softplus
    return 1 / float(single(function, 1.0).derivative_second)


def _name_phases(axes: Axes, weights: np.ndarray, biases: np.ndarray, cells: Cells) -> None:
    """Labels each phase where there is most space, and hatches where there is no fixed point."""
    from scipy.ndimage import distance_transform_edt

    unbounded = np.isinf(cells.variance)
    if unbounded.any():
        hatched = axes.contourf(
            weights, biases, unbounded.astype(float), [0.5, 1.5], colors="none", hatches=["//"]
        )
        hatched.set_edgecolor((1, 1, 1, 0.35))
        hatched.set_linewidth(0)
    phases = {
        "ordered phase\ngradients vanish": (cells.chi < 1) & ~unbounded,
        "chaotic phase\ngradients explode": (cells.chi > 1) & ~unbounded,
        "unbounded\nsignal and gradients explode": unbounded,
    }
    for text, phase in phases.items():
        sampling = (1 / (len(biases) + 1), 1 / (len(weights) + 1))
        room = np.asarray(distance_transform_edt(np.pad(phase, 1), sampling=sampling))[1:-1, 1:-1]
        row, column = np.unravel_index(room.argmax(), room.shape)
        if room.max() > _ROOM:
            place = weights[column], biases[row]
            box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none"}
            axes.text(*place, text, ha="center", va="center", color=_INK, fontsize=9, bbox=box)


def _draw_criticality(axes: Axes, function: Callable) -> None:
    """Draws the critical line and the isolated points, with a legend."""
    points, lines = critical_points(function), []
    if not (points and math.isnan(points[0].variance)):
        table = list(strides(function, LOWEST, HIGHEST))
        weights = np.concatenate([1 / found.derivative_second for _, found in table])
        biases = np.concatenate([q - found.second / found.derivative_second for q, found in table])
        stable = np.concatenate([found.slope / found.derivative_second for _, found in table])
        fine = np.linspace(0, len(weights) - 1, 16 * len(weights))
        x, y, stable = (
            np.interp(fine, np.arange(len(weights)), array) for array in (weights, biases, stable)
        )
        unstable = stable > 1 + 1e-9
        lines = [("critical line", "-", ~unstable)]
        lines.append(("critical, but unstable", (0, (2, 1.5)), unstable))
        for label, style, part in lines:
            if (_shown(axes, x, y) & part).any():
                here = np.where(part, y, np.nan)
                axes.plot(x, here, color="white", linewidth=4)
                axes.plot(x, here, color=_INK, linestyle=style, linewidth=2, label=label)
    x = np.array([point.weight_variance for point in points])
    y = np.array([point.bias_variance for point in points])
    if _shown(axes, x, y).any():
        label = "critical in variance too" if lines else "critical point"
        star = {"markersize": 15, "color": "white", "markeredgecolor": _INK, "linestyle": "none"}
        axes.plot(x, y, "*", label=label, clip_on=False, zorder=5, **star)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right", fontsize=9, framealpha=1)


def _shown(axes: Axes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    return (x >= left) & (x <= right) & (y >= bottom) & (y <= top)
