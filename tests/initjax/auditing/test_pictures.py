"""Pictures show what was measured and predicted, of every kind of report."""

import dataclasses
import functools
import io
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from matplotlib import rc_context, style
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

import initjax
from initjax.auditing import Attention, Change, Finding, Layer, Network, Repair, Report
from initjax.auditing._judging.names import Parameter
from initjax.theory import phase_diagram
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
            "activation": "tanh", "role": "",
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
    return " ".join(" ".join(text.get_text().split()) for text in figure.texts)


def notes(axes):
    """What is written between a panel's title and the panel, or in the panel."""
    return [text.get_text() for text in axes.texts]


def repair(before, after):
    return Repair(before, after, (Change("in", "0.1 to 1", (2.5,)),), (), "unit variance", "")


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


def test_attentions_have_a_row_of_their_own():
    """Two attentions, read by the layers 1 and 2, and by the layer 4."""
    layers = chain(6)
    numbers: dict[str, Any] = {field.name: math.nan for field in dataclasses.fields(Attention)}
    attentions = tuple(
        Attention(
            **numbers
            | {
                "parameters": tuple(layers[row].parameters[0] for row in rows),
                "token_correlation": cosine,
                "predicted_token_correlation": predicted,
                "keys": 49.0,
                "effective_keys": 20.0,
                "predicted_effective_keys": 21.0,
            }
        )
        for rows, cosine, predicted in (((1, 2), 0.3, math.nan), ((4,), 0.7, 0.8))
    )
    *others, tokens, keys = Report(tuple(layers), NETWORK, (), (), attentions).plot().axes
    assert len(others) == 6
    assert tokens.get_title("left") == "Cosine of two tokens, before attention"
    assert dots(tokens) == [0.3, 0.7]
    assert theory(tokens) == [[[2.0, 0.3], [4.0, 0.8]]]
    assert dots(keys) == [20, 20]
    bars = [line.get_ydata() for line in keys.lines if line.get_marker() == "_"]
    np.testing.assert_array_equal([np.nanmax(each) for each in bars], [49, 21])
    assert keys.get_ylim()[1] > 49


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
    assert axes.get_yscale() == "log" and notes(axes) == ["log scale"]
    assert axes.get_ylim()[0] < 0.5 and axes.get_ylim()[1] > 2.0**9
    axes = report(layers).plot().axes[RMS]
    assert axes.get_yscale() == "linear" and notes(axes) == []
    assert axes.get_ylim()[0] <= 0


def test_a_prediction_far_off_does_not_squeeze_the_measurements():
    layers = changed(chain(5), [4], predicted_rms=1e30)
    assert report(layers).plot().axes[RMS].get_ylim()[1] < 1e4


def test_zeros_and_non_finite_numbers_lie_at_the_edges():
    layers = [dataclasses.replace(la, rms=10.0**row) for row, la in enumerate(chain(6))]
    layers = changed(changed(layers, [0, 1], rms=0.0), [5], rms=math.nan)
    axes = report(layers).plot().axes[RMS]
    assert notes(axes)[::-1] == [
        "log scale",
        "at the lower edge: zero",
        "at the upper edge: infinite or NaN",
    ]
    at_edges = {
        tuple(point)
        for line in axes.lines
        if line.get_transform() == axes.get_xaxis_transform()
        for point in np.asarray(line.get_xydata()).tolist()
    }
    assert at_edges == {(0, 0), (1, 0), (5, 1)}
    # What was not measured is at neither edge.
    unmeasured = changed(chain(6), [0], gradient=math.nan, gradient_histogram=())
    assert notes(report(unmeasured).plot().axes[GRADIENT]) == []


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
    assert legend == [
        "measured", "named in a warning", "named in a failure", "theory",
        "95% of networks of these widths",
    ]  # fmt: skip


def test_a_title_stands_above_the_verdict():
    figure = report(chain(2)).plot(title="784-100-10, $tanh$, he_normal()")
    first, second, *_ = figure.texts
    assert first.get_text() == "784-100-10, $tanh$, he_normal()"
    assert first.get_position()[1] > second.get_position()[1]
    assert second.get_text().startswith("initjax audit: ok. 2 layers")
    assert report(chain(2)).plot().texts[0].get_text() == second.get_text()


def test_a_repair_shows_before_and_after_in_one_picture():
    ill = changed(changed(chain(6), range(6), rms=3.0), [1, 2], rms=300.0, correlation=math.nan)
    fault = Finding("failure", "dead", ("hidden/1/kernel",), "Half of it is dead.", "Revive it.")
    before, after = report(ill, [fault]), report(chain(6))
    figure = repair(before, after).plot(title="an MLP")
    panels = figure.axes
    assert len(panels) == 8
    hollow, filled = (
        {
            float(x): float(y)
            for line in panels[RMS].lines
            if str(line.get_marker()) in "o^X" and (line.get_markerfacecolor() == "w") == which
            for x, y in np.asarray(line.get_xydata())
        }
        for which in (True, False)
    )
    assert hollow == {row: layer.rms for row, layer in enumerate(ill)}
    assert filled == {row: layer.rms for row, layer in enumerate(chain(6))}
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles[2:6] == [
        "Pre-activations before: histogram", "Gradients before: histogram",
        "Pre-activations after: histogram", "Gradients after: histogram",
    ]  # fmt: skip
    predicted = [layer.predicted_rms for layer in chain(6)]
    assert [low for (_, low), _ in theory(panels[RMS])] == predicted[:-1]  # that of after
    text = text_of(figure)
    assert text.startswith("an MLP initjax fix: 1 parameter changed; failure before, ok after")
    assert "before: failure, dead: Half of it is dead." in text and "after: ok" in text
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:3] == ["before", "after", "named in a failure"]
    assert [label.get_fontweight() for label in panels[-1].get_xticklabels()] == ["normal"] * 6


def test_histograms_explain_the_strip_and_the_line_at_zero():
    spike = tuple(1.0 if bin == 20 else 0.0 for bin in range(41))
    panels = report(changed(chain(3), [1], gradient_histogram=spike)).plot().axes
    strip = "strip on the right: a normal distribution"
    assert strip in notes(panels[FORWARD]) and strip in notes(panels[BACKWARD])
    line = "dark line at 0: no gradient, as behind inactive units"
    assert line in notes(panels[BACKWARD])
    assert not any("dark line" in note for note in notes(panels[FORWARD]))
    peaked = tuple((np.arange(41) == 20) * 0.16 + 0.02)  # many are small, but none stand out
    wide = tuple(np.where(np.abs(np.arange(41) - 20) < 3, 0.2, 0.0))
    for histogram, said in (
        (peaked, "dark line at 0: many are near zero"),
        (wide, "dark around 0: most are far below the root mean square"),
    ):
        axes = report(changed(chain(2), [0], histogram=histogram)).plot().axes[FORWARD]
        assert [note for note in notes(axes) if note.startswith("dark")] == [said]


NOTHING: dict[str, Any] = {
    "rms": math.nan, "gradient": math.nan, "correlation": math.nan, "dead": math.nan,
    "saturated": math.nan, "histogram": (), "gradient_histogram": (),
}  # fmt: skip


@functools.cache
def healthy_notes():
    return [notes(axes) for axes in report(chain(3)).plot().axes]


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({**NOTHING, "samples": 0}, {RMS: "no layer ran on this batch", FLAT: "no layer ran"}),
        ({**NOTHING, "histogram": (math.nan,) * 41}, {RMS: "", FORWARD: "infinite or NaN"}),
        ({"gradient": math.nan, "gradient_histogram": ()},
         {GRADIENT: "not measured", BACKWARD: "no gradient reaches a layer"}),
        ({"correlation": math.nan, "samples": 1}, {CORRELATION: "a batch of one example"}),
        ({"saturated": math.nan, "saturating": False}, {FLAT: "no layer has an activation"}),
        ({"source": None, "unpredicted": "sum"}, {RMS: "no theory: predictions restart"}),
    ],
)  # fmt: skip
def test_a_panel_without_data_says_why(changes, reasons):
    panels = report(changed(chain(3), range(3), **changes)).plot().axes
    for number in range(6):
        assert reasons.get(number, "") in " ".join(notes(panels[number]))
        if reasons.get(number):
            assert reasons[number] not in " ".join(healthy_notes()[number])


LONG = "backbone/a_stage_with_a_name/block_{}/attention/out_projection/kernel"
MANY = [
    Finding("warning", "update", (LONG.format(1),), "word " * 60, "change " * 20) for _ in range(9)
]


@pytest.mark.parametrize(
    ("layers", "findings", "twice"),
    [
        (chain(1), [], False),
        (chain(2), MANY, False),
        (chain(40, LONG), MANY, True),
        (chain(200), [], True),
        (changed(chain(3), range(3), rms=0.0, gradient=0.0, predicted_rms=0.0, rms_z=math.nan), [],
         False),
        (
            changed(
                chain(3), range(3), rms=math.nan, gradient=math.nan, predicted_rms=math.inf,
                predicted_gradient_ratio=math.inf, correlation=math.nan, saturated=math.nan,
                predicted_correlation=math.nan, histogram=(math.nan,) * 41,
            ),
            [],
            False,
        ),
        (changed(chain(3), [0, 1], rms=1e-300, gradient=1e150), [], False),
    ],
    ids=["one", "two", "long names", "200", "zeros", "nan", "extremes"],
)  # fmt: skip
def test_every_kind_of_report_is_drawn_with_all_of_its_text_inside(layers, findings, twice):
    network = dataclasses.replace(NETWORK, loss=math.nan) if math.isnan(layers[0].rms) else NETWORK
    found = report(layers, findings, network)
    figure = (repair(found, found) if twice else found).plot(title="word " * 40)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with PIL.Image.open(buffer) as picture:
        assert picture.size[0] == 1530 and 1400 < picture.size[1] < 3100
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
    labels = figure.axes[-1].get_xticklabels()
    boxes = [label.get_window_extent() for label in labels]
    assert len(boxes) <= 24 and all(one.x1 <= other.x0 for one, other in itertools.pairwise(boxes))


def test_figures_look_alike_whatever_style_the_user_has_chosen(tmp_path):
    names = chain(3, "a_$x_{}$/kernel")
    with rc_context({**style.library["dark_background"], "text.usetex": True, "font.size": 30}):
        figure = report(names).plot()
        diagram = phase_diagram("tanh", [0.5, 1], [0, 0.1])
        report(names).plot(tmp_path / "audit.png")
    report(names).plot(tmp_path / "default.png")
    for one in (figure, diagram):
        assert one.get_facecolor() == (1, 1, 1, 1) and not one.axes[0].title.get_usetex()
    pictures = [(tmp_path / f"{name}.png").read_bytes() for name in ("audit", "default")]
    assert pictures[0] == pictures[1]


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
    # What IPython asks an object for if pyplot has not told it how to show figures.
    assert figure._repr_png_().startswith(b"\x89PNG") and isinstance(figure, Figure)
    assert phase_diagram("tanh", [0.5, 1], [0, 0.1])._repr_png_().startswith(b"\x89PNG")
    assert (tmp_path / "audit.png").read_bytes().startswith(b"\x89PNG")
    assert dots(figure.axes[RMS]) == [layer.rms for layer in audited.layers]
    assert pyplot.get_fignums() == []
