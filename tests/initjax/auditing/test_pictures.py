"""Pictures show what was measured and predicted, of every kind of report."""

import dataclasses
import io
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.text import Text

import initjax
from initjax.auditing import Finding, Layer, Network, Report
from initjax.auditing._judging.names import Parameter
from initjax.theory.meanfield import chi, correlation_map, variance_map

WIDTH, GAIN = 100, 4.0
NORMAL = np.exp(-(np.linspace(-4, 4, 41) ** 2) / 2)
HISTOGRAM = tuple((NORMAL / NORMAL.sum()).tolist())
NETWORK = Network(2.3, 2.3, 1.0, 1.0, 5, 10.0, 1.0)
RMS, GRADIENT, FORWARD, BACKWARD, CORRELATION, FLAT = range(6)  # the panels


def chain(depth, name="hidden/{}/kernel", activation=jnp.tanh, gain=GAIN):
    """Layers as theory has them: each follows from the one before."""
    square, correlation, gradient = 0.5, 0.3, 1e-3
    layers = []
    for row in range(depth):
        ratio = chi(activation, square, gain)
        known: dict[str, Any] = {
            "name": name.format(row), "parameters": (Parameter(row, name.format(row)),),
            "units": WIDTH, "samples": 64, "weight_variance": gain,
            "rms": square**0.5, "predicted_rms": square**0.5, "correlation": correlation,
            "predicted_range": (0.8 * square**0.5, 1.3 * square**0.5),
            "predicted_correlation": correlation if row else math.nan, "saturating": True,
            "saturated": 0.2, "predicted_saturated": 0.04, "gradient": gradient,
            "predicted_gradient_ratio": ratio if row < depth - 1 else math.nan,
            "histogram": HISTOGRAM, "gradient_histogram": HISTOGRAM, "kind": "dense",
            "source": row - 1 if row else None,
        }  # fmt: skip
        others: dict[str, Any] = {field.name: math.nan for field in dataclasses.fields(Layer)}
        layers.append(Layer(**(others | known)))
        correlation = correlation_map(activation, correlation, square, gain)
        square = variance_map(activation, square, gain)
        gradient /= ratio**0.5
    return layers


def report(layers, findings=(), network=NETWORK):
    return Report(tuple(layers), network, tuple(findings), ())


def changed(layers, rows, **changes):
    return [
        dataclasses.replace(layer, **changes) if row in rows else layer
        for row, layer in enumerate(layers)
    ]


def dots(axes):
    """The measured numbers, by layer."""
    lines = [line for line in axes.lines if str(line.get_marker()) in "o^X"]
    found = [(x, y) for line in lines for x, y in np.asarray(line.get_xydata()).tolist()]
    return [y for _, y in sorted(found)]


def theory(axes):
    (lines,) = [part for part in axes.collections if isinstance(part, LineCollection)]
    return [segment.tolist() for segment in lines.get_segments()]


def text_of(figure):
    return " ".join(text.get_text() for text in figure.texts)


def test_dots_show_measurements_and_lines_show_theory():
    layers = changed(chain(6), [2], rms=3.0, gradient=1.0, correlation=-0.5)
    panels = report(layers).plot().axes
    assert dots(panels[RMS]) == [layer.rms for layer in layers]
    assert dots(panels[GRADIENT]) == [layer.gradient for layer in layers]
    assert dots(panels[CORRELATION]) == [layer.correlation for layer in layers]
    assert dots(panels[FLAT]) == [0.2] * 6
    predicted = [layer.predicted_rms for layer in layers]
    assert theory(panels[RMS]) == [
        [[row, predicted[row]], [row + 1, predicted[row + 1]]] for row in range(5)
    ]
    # From the last layer back, which is what it was measured to be.
    for (row, low), (_, high) in theory(panels[GRADIENT]):
        expected = chain(6)[int(row)].gradient
        assert low == pytest.approx(expected) and low != high
    assert [row for (row, _), _ in theory(panels[GRADIENT])] == [4, 3, 2, 1, 0]
    # From what was measured at the first one on.
    (_, first), (_, second) = theory(panels[CORRELATION])[0]
    assert first == 0.3 and second == layers[1].predicted_correlation
    assert panels[CORRELATION].get_ylim()[0] < -0.5


def test_theory_restarts_where_a_layer_does_not_follow_from_another():
    layers = changed(chain(4), [2], source=None, unpredicted="normalization")
    panels = report(changed(layers, [1], predicted_gradient_ratio=math.nan)).plot().axes
    assert [[a, b] for (a, _), (b, _) in theory(panels[RMS])] == [[0, 1], [2, 3]]
    assert [[a, b] for (a, _), (b, _) in theory(panels[GRADIENT])] == [[2, 3], [0, 1]]


def test_gradients_of_layers_of_different_sizes_are_compared_by_their_norms():
    layers = changed(chain(2), [0], units=4 * WIDTH)
    (((_, first), (_, last)),) = theory(report(layers).plot().axes[GRADIENT])
    ratio = layers[0].predicted_gradient_ratio
    assert first**2 * 4 * WIDTH == pytest.approx(ratio * last**2 * WIDTH)


def test_the_band_is_where_networks_of_these_widths_lie():
    layers = chain(12)
    (band,) = [
        part
        for part in report(layers).plot().axes[RMS].collections
        if isinstance(part, PolyCollection)
    ]
    corners = np.asarray(band.get_paths()[-1].vertices)
    assert (corners[1, 1], corners[2, 1]) == pytest.approx(layers[-1].predicted_range)


def test_growth_over_a_decade_gets_a_logarithmic_axis():
    layers = chain(10)
    growing = [dataclasses.replace(la, rms=2.0**row) for row, la in enumerate(layers)]
    axes = report(growing).plot().axes[RMS]
    assert axes.get_yscale() == "log" and "log scale" in axes.get_title(loc="left")
    assert axes.get_ylim()[0] < 0.5 and axes.get_ylim()[1] > 2.0**9
    axes = report(layers).plot().axes[RMS]
    assert axes.get_yscale() == "linear" and "log scale" not in axes.get_title(loc="left")
    assert axes.get_ylim()[0] <= 0


def test_a_prediction_far_off_does_not_squeeze_the_measurements():
    layers = changed(chain(5), [4], predicted_rms=1e30)
    assert report(layers).plot().axes[RMS].get_ylim()[1] < 1e4


def test_zeros_and_non_finite_numbers_lie_at_the_edges():
    layers = [dataclasses.replace(la, rms=10.0**row) for row, la in enumerate(chain(6))]
    layers = changed(changed(layers, [0, 1], rms=0.0), [5], rms=math.nan)
    axes = report(layers).plot().axes[RMS]
    assert axes.get_title(loc="right") == "lower edge: zero; upper edge: infinite or NaN"
    at_edges = {
        tuple(point)
        for line in axes.lines
        if line.get_transform() == axes.get_xaxis_transform()
        for point in np.asarray(line.get_xydata()).tolist()
    }
    assert at_edges == {(0, 0), (1, 0), (5, 1)}
    # What was not measured is at neither edge.
    unmeasured = changed(chain(6), [0], gradient=math.nan, gradient_histogram=())
    assert report(unmeasured).plot().axes[GRADIENT].get_title(loc="right") == ""


def test_histograms_are_laid_out_by_layer_from_the_bottom_up():
    spike = tuple(1.0 if bin == 30 else 0.0 for bin in range(41))
    layers = changed(chain(3), [1], histogram=spike, gradient_histogram=())
    panels = report(layers).plot().axes
    (image,) = panels[FORWARD].images
    table = np.ma.asarray(image.get_array())
    assert table.shape == (41, 3) and image.origin == "lower"
    np.testing.assert_array_equal(table[:, 1], spike)
    assert image.get_extent() == [-0.5, 2.5, -4, 4]
    gradients = np.ma.getmaskarray(np.ma.asarray(panels[BACKWARD].images[0].get_array()))
    assert gradients[:, 1].all() and not gradients[:, [0, 2]].any()


def test_layers_with_a_finding_are_marked_and_findings_are_shown():
    failure = Finding("failure", "dead", ("hidden/1/kernel",), "Half of it is dead.", "Revive it.")
    warning = Finding("warning", "depth", ("hidden/3/kernel",), "Too deep.", "Use less.")
    figure = report(chain(5), [failure, warning]).plot()
    axes = figure.axes[RMS]
    marked = {
        line.get_marker(): np.asarray(line.get_xdata()).tolist()
        for line in axes.lines
        if np.size(line.get_xdata()) and str(line.get_marker()) in "o^X"
    }
    assert marked == {"o": [0, 2, 4], "X": [1], "^": [3]}
    assert "failure, dead: Half of it is dead. Revive it." in text_of(figure)
    assert "warning, depth: Too deep. Use less." in text_of(figure)
    labels = figure.axes[CORRELATION].get_xticklabels()
    assert [label.get_fontweight() for label in labels] == [
        "normal", "bold", "normal", "bold", "normal",
    ]  # fmt: skip
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "measured, named in a failure" in legend and "measured, named in a warning" in legend


LONG = "backbone/a_stage_with_a_name/block_{}/attention/out_projection/kernel"
MANY = [
    Finding("warning", "update", (LONG.format(1),), "word " * 60, "change " * 20) for _ in range(9)
]


@pytest.mark.parametrize(
    ("layers", "findings"),
    [
        (chain(1), []),
        (chain(2), MANY),
        (chain(40, LONG), MANY[:1]),
        (chain(200), []),
        (changed(chain(3), range(3), rms=0.0, gradient=0.0, predicted_rms=0.0, rms_z=math.nan), []),
        (
            changed(
                chain(3), range(3), rms=math.nan, gradient=math.nan, predicted_rms=math.inf,
                predicted_gradient_ratio=math.inf, correlation=math.nan, saturated=math.nan,
                predicted_correlation=math.nan, histogram=(math.nan,) * 41,
            ),
            [],
        ),
        (changed(chain(3), [0, 1], rms=1e-300, gradient=1e150), []),
    ],
    ids=["one", "two", "long names", "200", "zeros", "nan", "extremes"],
)  # fmt: skip
def test_every_kind_of_report_is_drawn_with_all_of_its_text_inside(layers, findings):
    network = dataclasses.replace(NETWORK, loss=math.nan) if math.isnan(layers[0].rms) else NETWORK
    figure = report(layers, findings, network).plot()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with PIL.Image.open(buffer) as picture:
        assert picture.size[0] == 1650 and 1200 < picture.size[1] < 2200
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    width, height = figure.bbox.size
    # Matplotlib also keeps labels of ticks beyond the ends of an axis, which it does not draw.
    beyond = {
        label
        for axes in figure.axes
        for label in axes.get_yticklabels()
        if not axes.get_ylim()[0] <= label.get_position()[1] <= axes.get_ylim()[1]
    }
    for text in set(figure.findobj(Text)) - beyond:
        assert isinstance(text, Text)
        box = text.get_window_extent()
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert inside or not text.get_text() or not text.get_visible(), text.get_text()
    labels = figure.axes[CORRELATION].get_xticklabels()
    boxes = [label.get_window_extent() for label in labels]
    assert len(boxes) <= 26 and all(one.x1 <= other.x0 for one, other in itertools.pairwise(boxes))


def test_a_report_without_layers_has_no_picture():
    with pytest.raises(ValueError, match="has no layers to draw"):
        report([]).plot()


def test_an_audit_plots_itself_and_leaves_pyplot_alone(tmp_path, key):
    from matplotlib import pyplot

    def loss_fn(params, x):
        return jnp.square(jax.nn.relu(x @ params["in"]) @ params["out"]).mean()

    params = {"in": initjax.he_normal()(key, (32, 64)), "out": jnp.zeros((64, 4))}
    audited = initjax.audit(loss_fn, params, jax.random.normal(key, (128, 32)))
    figure = audited.plot(tmp_path / "audit.png")
    assert (tmp_path / "audit.png").read_bytes().startswith(b"\x89PNG")
    assert dots(figure.axes[RMS]) == [layer.rms for layer in audited.layers]
    assert pyplot.get_fignums() == []
