"""A report fits on the screen and shows no number that was not measured."""

import dataclasses
import json
import math
from typing import Any

import pytest

from initjax.auditing import Finding, Layer, Network, Report
from initjax.auditing._judging.causes import CAUSES
from initjax.auditing._judging.names import Parameter, label
from initjax.auditing._reporting.text import causes_table, short_names, unread_lines

NETWORK = Network(
    loss=2.31, expected_loss=math.log(10), jacobian=0.9, jacobian_condition=12.5, depth=3,
    correlation_depth=10.0, gradient_growth=0.7,
)  # fmt: skip
UNITS = {"float": 0.7, "int": 3, "str": "", "bool": False, "int | None": None, "Reason | str": ""}


def layer(path, slice=(), use=1, **changes):
    """A layer with numbers of no meaning, whatever fields it has."""
    values = {field.name: UNITS.get(str(field.type), ()) for field in dataclasses.fields(Layer)}
    parameters = (Parameter(0, path, slice, use),)
    names = {"name": label(parameters), "parameters": parameters}
    return Layer(**{**values, **names, **changes})


def report(layers, findings=(), network=NETWORK, unread=()):
    return Report(tuple(layers), network, tuple(findings), tuple(unread))


LONG = "transformer/blocks/attention_with_a_rather_long_name/multi_head/query_projection/kernel"
EXTREMES = [
    {"rms": 1.2e30, "rms_z": -123456.0, "gradient": 3e-38, "gradient_ratio": math.inf},
    {"rms": math.nan, "dead": math.nan, "correlation": math.nan, "rms_z": math.nan},
    {"rms": 0.0, "weight_variance": 9999.7, "gradient": 12345.0, "correlation": -1.0},
    {"activation": "mul(z, mul(0.5, add(1.0, tanh(mul(0.797...", "uses": 4096},
    {"unpredicted": "attention", "role": "branch end"},
    {"role": "last", "logits": True, "saturating": True, "update_ratio": 1e-12},
]


def many(count):
    return [
        layer(f"{LONG}/{number}/kernel", (number,), 2, **EXTREMES[number % len(EXTREMES)])
        for number in range(count)
    ]


FINDINGS = [
    Finding("failure", "zero", (f"{LONG}/2/kernel[2] (use 2)",),
            f"All weights of {LONG} and {LONG} are zero. " * 3,
            "Draw the kernel at random, as he_normal() does, which is what suits any relu."),
    Finding("warning", "depth", ("b",), "Too deep.", "Use fewer layers."),
]  # fmt: skip


@pytest.mark.parametrize("count", [0, 1, 3, 60, 300])
@pytest.mark.parametrize("findings", [[], FINDINGS], ids=["healthy", "ill"])
def test_a_report_of_any_size_fits_in_100_columns(count, findings):
    unread = ["pallas_call (kernel), which takes a, b, c and 25 more"] * 4
    text = str(report(many(count), findings, unread=unread))
    lines = text.splitlines()
    assert [line for line in lines if len(line) > 100] == []
    assert len(lines) < 90
    assert not any(line != line.rstrip() for line in lines)
    assert f"{count} layer{'' if count == 1 else 's'}" in lines[0]


def test_layers_that_are_left_out_are_counted_and_those_at_fault_are_shown():
    names = [f"layer{number}" for number in range(300)]
    fault = Finding("failure", "dead", ("layer150",), "dead", "revive it")
    text = str(report(map(layer, names), [fault]))
    shown = [name for name in names if f" {name} " in text.replace("\n", " ")]
    assert "layer150" in shown and "layer0" in shown and "layer299" in shown
    hidden = [int(line.split()[1]) for line in text.splitlines() if "more layers" in line]
    assert sum(hidden) + len(shown) == 300
    (marked,) = [line for line in text.splitlines() if line.startswith("x ")]
    assert "layer150" in marked


def test_each_column_shows_its_number():
    shown = layer(
        "dense/kernel", activation="tanh", uses=1, weight_variance=1.5, rms=0.8125,
        predicted_rms=0.9, rms_z=-1.26, unit_stddev=0.5, correlation=0.25, dead=0.125,
        saturated=0.375, update_ratio=math.nan, gradient=0.001, gradient_ratio=1.1,
        predicted_gradient_ratio=1.2,
    )  # fmt: skip
    header, row = str(report([shown])).splitlines()[2:4]
    cells = dict(zip(header.split(), row.split(), strict=True))
    assert cells == {
        "layer": "dense/kernel", "then": "tanh", "gain": "1.5", "rms": "0.812", "theory": "0.9",
        "z": "-1.3", "spread": "0.5", "corr": "0.25", "dead": "12%", "gradient": "0.001",
        "ratio": "1.1", "chi_1": "1.2",
    }  # fmt: skip
    steps = str(report([dataclasses.replace(shown, update_ratio=0.02, saturating=True)]))
    assert "step" in steps and "gradient" not in steps
    assert "38%" in steps and "12%" not in steps  # how flat, not how dead


def test_a_layer_where_predictions_restart_shows_no_prediction():
    given = layer("a", unpredicted="sum", predicted_rms=0.123, rms_z=7.7)
    first = layer("b", unpredicted="batch", predicted_rms=0.456)
    shown = report([given, first, layer("c", unpredicted="sort")])
    text = str(shown)
    assert "0.123" not in text and "7.7" not in text and "0.456" not in text
    assert "after: a sum of layers (1), sort (1)" in text
    assert "the batch" not in text
    reasons = [row["unpredicted"] for row in shown.to_dict()["layers"]]
    assert reasons == ["a sum of layers", "the batch", "sort"]


def test_numbers_that_were_not_measured_are_left_blank():
    blank: dict[str, Any] = {
        field.name: math.nan for field in dataclasses.fields(Layer) if str(field.type) == "float"
    }
    network = Network(1.0, math.nan, math.nan, math.nan, 0, math.nan, math.nan)
    text = str(report([layer("a", **blank)], network=network))
    assert "nan" not in text
    assert "Jacobian" not in text and "guessing" not in text
    assert text.endswith("ok: nothing is wrong")


@pytest.mark.parametrize("count", [0, 1, 60])
def test_to_dict_holds_everything_and_is_json(count):
    found = report(many(count), FINDINGS, unread=["lu"]).to_dict()
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == found
    assert found["verdict"] == "failure"
    assert len(found["layers"]) == count
    assert found["findings"][1] == {
        "level": "warning", "cause": "depth", "layers": ["b"], "message": "Too deep.",
        "remedy": "Use fewer layers.",
    }  # fmt: skip
    assert found["network"]["loss"] == 2.31
    if count > 1:
        assert found["layers"][0]["gradient_ratio"] is None
        assert found["layers"][1]["rms"] is None
        assert found["layers"][0]["rms"] == 1.2e30


def test_a_notebook_escapes_markup_in_names():
    evil = "<script>alert('&')</script>"
    finding = Finding("failure", "zero", (evil,), f"{evil} is zero", f"draw {evil}")
    shown = report(
        [layer(evil, activation=evil, role=evil)], [finding], unread=[f"{evil}, which takes {evil}"]
    )
    page = shown._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<tr>") == 2 and page.count("<td>") == 12
    assert "#b3261e" in page and "#00724f" in report([layer("a")])._repr_html_()


def test_assert_healthy_reports_all_causes_except_ignored_ones():
    ill = report([layer("a")], FINDINGS)
    with pytest.raises(AssertionError) as error:
        ill.assert_healthy()
    assert "failure, zero:" in str(error.value) and "warning, depth: Too deep." in str(error.value)
    assert "Use fewer layers." in str(error.value)
    with pytest.raises(AssertionError) as error:
        ill.assert_healthy(ignore=["zero"])
    assert "zero" not in str(error.value) and "depth" in str(error.value)
    ill.assert_healthy(ignore=["depth", "zero"])
    report([layer("a")]).assert_healthy()


@pytest.mark.parametrize("ignore", ["zero", ["zeros"], ("depth", "nonsense")])
def test_an_unknown_cause_in_ignore_is_an_error(ignore):
    with pytest.raises(ValueError, match="must be a sequence of causes") as error:
        report([layer("a")], FINDINGS).assert_healthy(ignore=ignore)
    assert repr(ignore) in str(error.value)
    assert all(cause in str(error.value) for cause in CAUSES)


def test_the_verdict_is_the_worst_finding():
    assert report([]).verdict == "ok"
    assert report([], FINDINGS[1:]).verdict == "warning"
    assert report([], FINDINGS).verdict == "failure"
    title = str(report([layer("a")], FINDINGS)).splitlines()[0]
    assert title == "initjax audit: 1 failure, 1 warning. 1 layer, loss 2.31 (guessing: 2.303)"


def test_unread_parts_name_the_first_of_their_parameters():
    lines = unread_lines(
        ["a", "b", "c", "d", "e"], {"lu": frozenset(range(5)), "sort": frozenset()}
    )
    assert lines == ("lu, which takes a, b, c and 2 more", "sort")


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["a/in/kernel", "a/out/kernel"], ["in", "out"]),
        (["a/embed/table", ("a/out/kernel", (0,)), ("a/out/kernel", (1, 2), 2)],
         ["embed/table", "out[0]", "out[1][2] (use 2)"]),
        ([("a/in [x]/kernel", (3,)), "a/out (use 7)/kernel"], ["in [x][3]", "out (use 7)"]),
        (["a/in/kernel", "a/in"], ["in/kernel", "in"]),
        (["a/in/kernel", "a/out/kernel", "a/in"], ["in/kernel", "out/kernel", "in"]),
        (["kernel", "bias"], ["kernel", "bias"]),
        (["a/kernel"], ["a/kernel"]),
    ],
)  # fmt: skip
def test_names_are_shortened_as_long_as_they_stay_different(names, short):
    layers = [layer(name) if isinstance(name, str) else layer(*name) for name in names]
    assert short_names(layers) == short


def test_the_table_of_causes_has_a_row_for_each_cause():
    head, line, *rows = causes_table().splitlines()
    assert head.count("|") == line.count("|") == 4
    assert [row.split("`")[1] for row in rows] == list(CAUSES)
    assert all(row.count("|") == 4 for row in rows)
    assert rows[0] == "| `not_finite` | a number is infinite or NaN |  |"


def test_the_middle_of_a_long_path_is_left_out():
    path = "/".join([LONG] * 3)
    ill = Finding("warning", "depth", (path,), f"{path}: too deep", f"redraw {path}")
    lines = str(report([layer(path)], [ill])).splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.endswith("projection/kernel:") for line in lines)
