"""The phase diagram: its numbers are those of depth_scales, and what is drawn is there."""

import math

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import PIL.Image
import pytest

from initjax.theory import critical_line, depth_scales, phase_diagram
from initjax.theory._phases import phase_cells

WEIGHTS, BIASES = np.array([0.7, 1.2, 1.9, 2.2, 3.5]), np.array([0, 0.02, 0.1, 0.4])


def kinked(z):
    return jnp.tanh(z) + 0.2 * jax.nn.relu(z - 0.5)


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.relu, jax.nn.gelu, kinked])
def test_cells_are_what_depth_scales_finds(activation):
    cells = phase_cells(activation, WEIGHTS, BIASES)
    for (row, column), q in np.ndenumerate(cells.variance):
        scales = depth_scales(activation, float(WEIGHTS[column]), float(BIASES[row]))
        assert q == pytest.approx(scales.variance, rel=1e-5)
        assert cells.chi[row, column] == pytest.approx(scales.chi, rel=1e-5)
        bounded = math.isfinite(scales.variance)
        depth = abs(scales.correlation_depth if bounded else scales.gradient_depth)
        assert cells.depth[row, column] == pytest.approx(6 * depth, rel=0.03)


def texts(figure):
    axes = figure.axes[0]
    legend = axes.get_legend()
    entries = [text.get_text() for text in legend.get_texts()] if legend else []
    return [text.get_text().partition("\n")[0] for text in axes.texts], entries


def test_tanh_has_two_phases_and_a_line_between_them():
    figure = phase_diagram("tanh")
    assert isinstance(figure, matplotlib.figure.Figure)
    phases, legend = texts(figure)
    assert phases == ["ordered phase", "chaotic phase"]
    assert legend == ["critical line", "critical in variance too"]
    assert figure.axes[0].get_title() == "Phase diagram of tanh"
    [line] = [line for line in figure.axes[0].lines if line.get_label() == "critical line"]
    x, y = map(np.asarray, line.get_data())
    below = np.interp(0.3, y[np.isfinite(y)], x[np.isfinite(y)])
    assert below == pytest.approx(critical_line("tanh", 0.3).weight_variance, abs=1e-3)
    # Brightest next to it.
    mesh = figure.axes[0].collections[0]
    depths = np.asarray(mesh.get_array()).reshape(73, 121)
    weights = np.linspace(*figure.axes[0].get_xlim(), 121)
    row = 36  # a bias variance of 0.3
    assert weights[depths[row].argmax()] == pytest.approx(below, abs=2 * (weights[1] - weights[0]))


def test_gelu_is_unbounded_and_its_line_partly_unstable():
    phases, legend = texts(phase_diagram("gelu"))
    assert phases == ["ordered phase", "unbounded"]
    line, unstable, point = legend
    assert line == "critical line" and "variance leaves it" in unstable and "too" in point


def test_relu_has_a_point_for_a_line():
    figure = phase_diagram("relu")
    phases, legend = texts(figure)
    assert phases == ["ordered phase", "unbounded"] and legend == ["critical point"]
    [star] = [line for line in figure.axes[0].lines if line.get_label() == "critical point"]
    assert np.asarray(star.get_data()).ravel() == pytest.approx([2, 0])


def test_other_activations_are_drawn_where_their_line_is():
    for name, line in (("softplus", []), ("sigmoid", ["critical line"])):
        figure = phase_diagram(name)
        assert texts(figure)[1] == line
    left, right = figure.axes[0].get_xlim()
    assert left < critical_line("sigmoid", 0.05).weight_variance < right
    assert phase_diagram(lambda z: jnp.tanh(2 * z)).axes[0].get_title() == "Phase diagram"


def test_a_picture_is_saved(tmp_path):
    path = tmp_path / "tanh.png"
    phase_diagram("tanh", [0.5, 1.0, 2.0], [0.0, 0.2], path=path)
    with PIL.Image.open(path) as picture:
        assert picture.size[0] > 1000 and len(np.unique(np.asarray(picture.convert("L")))) > 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("thanh",), "phase_diagram: 'thanh' is not an activation in jax.nn"),
        (("tanh", [1.0]), "weight_variances must be two or more, ascending"),
        (("tanh", [2.0, 1.0]), "weight_variances must be two or more, ascending"),
        (("tanh", None, [-0.1, 1.0]), "bias_variances must be a finite number >= 0, got -0.1"),
    ],
)
def test_wrong_arguments_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        phase_diagram(*arguments)
