"""A report fits on the screen and shows no number that was not measured."""

import base64
import dataclasses
import html.parser
import importlib.util
import json
import math
import pathlib
import textwrap
import unicodedata
from typing import Any

import jax
import pytest

import initjax
import initjax.auditing
from initjax import theory
from initjax._wrapping import shortened
from initjax.auditing import Attention, Change, Finding, Layer, Network, Repair, Report
from initjax.auditing._judging.causes import CAUSES
from initjax.auditing._judging.names import Parameter, label
from initjax.auditing._reporting.folding import Row, fold, number
from initjax.auditing._reporting.glossary import ATTENTION_COLUMNS, COLUMNS, REASONS, WORDS
from initjax.auditing._reporting.naming import short_names
from initjax.auditing._reporting.schema import schema_table
from initjax.auditing._reporting.table import compact
from initjax.auditing._reporting.text import causes_table, unread_lines

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


def attention():
    """An attention with numbers of no meaning."""
    fields = dataclasses.fields(Attention)
    return Attention(**{field.name: UNITS.get(str(field.type), ()) for field in fields})


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


def columns(text):
    """How many columns of a terminal a text takes."""
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


@pytest.mark.parametrize("count", [0, 1, 3, 60, 300])
@pytest.mark.parametrize("findings", [[], FINDINGS], ids=["healthy", "ill"])
@pytest.mark.parametrize("width", [40, 64, 80, 130])
def test_a_report_of_any_size_fits_the_terminal(count, findings, width):
    unread = ["pallas_call (kernel), which takes a, b, c and 25 more"] * 4
    shown = report(many(count), findings, unread=unread)
    text = shown.to_text(width)
    lines = text.splitlines()
    assert [line for line in lines if len(line) > width] == []
    assert len(lines) < 90 or width < 80
    assert not any(line != line.rstrip() for line in lines)
    assert f"{count} layer{'' if count == 1 else 's'}" in " ".join(text.split())
    assert width != 80 or text == str(shown)


def test_a_narrow_terminal_gets_fewer_columns_and_is_told_which():
    layers = [
        layer(f"block/{number}/attention/out", activation="leaky_relu", rms=1.2345e-7, uses=9)
        for number in range(3)
    ]
    header = {
        width: next(
            line.split() for line in report(layers).to_text(width).splitlines() if " gain" in line
        )
        for width in (40, 80)
    }
    assert "spread" not in header[80] and "z" in header[80]
    assert header[40] == ["layer", "gain", "rms", "dead", "ratio"]
    (said,) = [line for line in str(report(layers)).splitlines() if "not shown" in line]
    assert said.strip() == "not shown: spread; a width of 84 shows all columns"
    full = report(layers).to_text(84)
    assert report(layers).to_text(0) == report(layers).to_text(40)
    wrong: Any
    for wrong in ("80", 80.5, None):
        with pytest.raises((TypeError, ValueError), match=r"report.to_text: width must be"):
            report(layers).to_text(wrong)
    assert "not shown" not in full and "spread" in full and "~" not in full


def test_wide_characters_count_twice():
    names = ["ブロック/0/カーネル", "block/1/kernel", "卷积/" * 30 + "核"]
    ill = Finding("failure", "zero", tuple(names), f"{', '.join(names)} are zero.", "Draw them.")
    lines = str(report(map(layer, names), [ill])).splitlines()
    assert max(map(columns, lines)) <= 80
    rows = [line for line in lines if line.startswith("x ")]
    assert len(rows) == 3 and len({columns(line.partition(" 0.7 ")[0]) for line in rows}) == 1


def test_characters_that_move_the_cursor_are_escaped():
    text = str(report([layer("a\x1b[2J\tb\nc"), layer("d")]))
    assert "\x1b" not in text and "\\x1b[2J" in text
    assert len(text.splitlines()) == len(str(report([layer("a"), layer("d")])).splitlines())


def test_layers_that_are_left_out_are_counted_and_those_at_fault_are_shown():
    names = [f"layer{number}{'_' * (number % 3)}" for number in range(300)]
    shapes = [(number % 7, number) for number in range(300)]  # so that no layers are alike
    fault = Finding("failure", "dead", ("layer150",), "dead", "revive it")
    layers = [layer(name, shape=shape) for name, shape in zip(names, shapes, strict=True)]
    text = str(report(layers, [fault]))
    shown = [name for name in names if f" {name} " in text.replace("\n", " ")]
    assert "layer150" in shown and "layer0" in shown and "layer299__" in shown
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
    header, row = str(report([shown])).splitlines()[3:5]
    cells = dict(zip(header.split(), row.split(), strict=True))
    assert cells == {
        "layer": "dense/kernel", "then": "tanh", "gain": "1.5", "rms": "0.812", "theory": "0.9",
        "z": "-1.3", "spread": "0.5", "corr": "0.25", "dead": "12%", "grad": "0.001",
        "ratio": "1.1", "chi_1": "1.2",
    }  # fmt: skip
    steps = str(report([dataclasses.replace(shown, update_ratio=0.02, saturating=True)]))
    assert " step " in steps and " grad " not in steps
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
    assert text.startswith("Nothing is wrong: no fault was found in 1 layer.\n") and "none" in text


TYPES = {
    "number or null": (int, float, type(None)), "integer": int, "string": str, "object": dict,
    "list of objects": dict, "list of strings": str, "list of integers": int,
    "list of numbers or nulls": (int, float, type(None)),
}  # fmt: skip


def test_the_readme_documents_every_key_of_to_dict():
    folder = pathlib.Path(initjax.auditing.__file__).parent
    # The table is what schema_table() returns.
    assert schema_table() in (folder / "README.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in schema_table().splitlines()[2:]]
    documented = {key.strip("`"): kind for key, kind, _ in rows}
    full = dataclasses.replace(report(many(6), FINDINGS, unread=["lu"]), attention=(attention(),))
    found = full.to_dict()
    shown = {}
    for name, value in found.items():
        shown[name] = value
        start, objects = (f"{name}[]", value) if isinstance(value, list) else (name, [value])
        for one in filter(lambda each: isinstance(each, dict), objects):
            shown |= {f"{start}.{key}": item for key, item in one.items()}
    assert set(shown) == set(documented)
    for key, value in shown.items():
        kind = documented[key]
        assert isinstance(value, list) == kind.startswith("list")
        for one in value if isinstance(value, list) else [value]:
            assert isinstance(one, TYPES[kind]) and not isinstance(one, bool), key
    assert found["version"] == 1 and found["summary"].startswith("This network won't train")


@pytest.mark.parametrize("count", [0, 1, 60])
def test_to_dict_holds_everything_and_is_json(count):
    found = report(many(count), FINDINGS, unread=["lu"]).to_dict()
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == found
    assert found["verdict"] == "failure"
    assert len(found["layers"]) == count
    assert found["findings"][1] == {
        "level": "warning", "cause": "depth", "layers": ["b"], "message": "Too deep.",
        "remedy": "Use fewer layers.", "code": "",
    }  # fmt: skip
    assert found["network"]["loss"] == 2.31
    if count > 1:
        assert found["layers"][0]["gradient_ratio"] is None
        assert found["layers"][1]["rms"] is None
        assert found["layers"][0]["rms"] == 1.2e30


def test_a_notebook_escapes_markup_in_names(no_matplotlib):
    evil = "<script>alert('&')</script>"
    finding = Finding("failure", "zero", (evil,), f"{evil} is zero", f"draw {evil}")
    shown = report(
        [layer(evil, activation=evil, role=evil)], [finding], unread=[f"{evil}, which takes {evil}"]
    )
    page = shown._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<tr>") == 2 and page.count("<td") == 13
    assert "#b3261e" in page and "#00724f" in report([layer("a")])._repr_html_()
    fixed = Repair(shown, shown, (Change(evil, evil, ()),), ((evil, evil),), evil, evil)
    assert "<script" not in fixed._repr_html_()


@pytest.fixture
def no_matplotlib(monkeypatch):
    find = importlib.util.find_spec
    hidden = lambda name, *_: None if name == "matplotlib" else find(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)


class Tags(html.parser.HTMLParser):
    """Checks that every tag is closed, and collects texts and styles."""

    def __init__(self, page):
        super().__init__()
        self.open, self.styles, self.rows = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.styles.append((tag, dict(attrs).get("style") or ""))
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1].append(data)


def test_a_notebook_shows_the_same_numbers_in_any_theme(no_matplotlib):
    shown = report(many(60), FINDINGS)
    page = Tags(shown._repr_html_())
    lines = shown.to_text(500).splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("  layer "))
    texts = [line[2:].split() for line in lines[start : start + len(page.rows)]]
    marks = {"!", "x"}
    found = [" ".join(cell for cell in row if cell not in marks).split() for row in page.rows]
    assert not page.open and len(found) == len(texts)
    for row, text in zip(found, texts, strict=True):
        assert row == text or "~" in " ".join(text)  # a long activation
    for _, style in page.styles:  # a text has a color only where it has a ground
        assert ("color:#fff" in style) == ("background:" in style)
    sides = [style for tag, style in page.styles if tag == "td"][:13]
    assert sides == ["", *["text-align:left"] * 2, *["text-align:right"] * 10]


def test_a_notebook_shows_what_the_terminal_shows_and_a_picture():
    code = "params = initjax.initialize(params, key, {'<a>': initjax.zeros})"
    ill = [*FINDINGS, Finding("warning", "depth", ("a",), "Too deep.", "Cut it.", (), code)]
    shown = report([layer("a", predicted_range=(0.5, 0.9))], ill)
    page = dataclasses.replace(shown, attention=(attention(),))._repr_html_()
    assert "This network won" in page.partition("</p>")[0] and "initjax audit: 1 failure" in page
    assert page.count("<li>") == 3 and "<b>Cut it.</b><pre" in page and "{&#x27;&lt;a&gt;" in page
    assert "gain: weight scale" in page and "entropy: " in page and page.count("<table") == 2
    source = page.partition("base64,")[2].partition('"')[0]
    assert base64.b64decode(source).startswith(b"\x89PNG")
    assert not Tags(page).open


def test_a_notebook_shows_a_repair_with_both_audits(no_matplotlib):
    ill, well = report(many(3), FINDINGS), report(many(3))
    fixed = Repair(ill, well, (Change("in", "0.1 to 1", (2.5,)),), (("b", "why"),), "unit", "care")
    page = Tags(fixed._repr_html_())
    assert not page.open
    assert page.rows[:2] == [["parameter", "change"], ["in", "times 2.5: 0.1 to 1"]]
    assert len(page.rows) == 2 + 2 * 4
    for text in ("1 parameter changed; failure before, ok after", "left unchanged: b: why", "care"):
        assert text in fixed._repr_html_()


def test_what_an_interpreter_shows_is_short():
    ill, well = report(many(300), FINDINGS), report(many(300))
    changes = tuple(Change(LONG, "0.1 to 1", (1 / 3,) * 300) for _ in range(300))
    fixed = Repair(ill, well, changes, ((LONG, "why"),) * 300, "unit variance", "take care")
    assert repr(ill) == (
        "<Report: 1 failure (zero), 1 warning (depth); 300 layers, loss 2.31;"
        " print(report) shows all>"
    )
    assert repr(well) == "<Report: ok; 300 layers, loss 2.31; print(report) shows all>"
    assert repr(fixed) == (
        "<Repair: 1 parameter changed; failure before, ok after; print(repair) shows all>"
    )
    assert repr(dataclasses.replace(fixed, before=well, changes=())) == (
        "<Repair: nothing was changed; ok before and after; print(repair) shows all>"
    )
    assert repr(FINDINGS[1]) == "<Finding: warning, depth: Too deep. Use fewer layers.>"
    assert str(FINDINGS[1]) == "warning, depth: Too deep. Use fewer layers."
    assert repr(changes[0]) == f"<Change {LONG}: times 0.3333, 0.3333, 0.3333, ...: 0.1 to 1>"
    parameter = Parameter(3, "hidden/0/kernel", (2,))
    dense = layer("in", kind="dense", shape=(784, 128), activation="relu", gradient=math.nan)
    assert repr(dense) == "<Layer in: dense (784, 128), relu, gain 0.7, rms 0.7>"
    others = [ill.layers[0], parameter, NETWORK, theory.moments("relu")]
    others += [theory.depth_scales("tanh", 1.5, 0.1), theory.critical_line("tanh", 0.1)]
    assert [text for text in map(repr, others) if len(text) > 250 or "\n" in text] == []


def test_assert_healthy_reports_all_causes_except_ignored_ones():
    ill = report([layer("a")], FINDINGS)
    with pytest.raises(AssertionError) as error:
        ill.assert_healthy()
    first, *found, last = str(error.value).splitlines()
    assert first == "initjax audit: 1 failure (zero), 1 warning (depth); 1 layer, loss 2.31"
    assert found[0].startswith("failure, zero: All weights") and "    Use fewer layers." in found
    assert last == "print(report) shows the layers; ignore=['zero', 'depth'] accepts them"
    with pytest.raises(AssertionError) as error:
        ill.assert_healthy(ignore=["zero"])
    assert "(zero)" not in str(error.value) and "(depth)" in str(error.value)
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
    title = report([layer("a")], FINDINGS[1:]).to_text(80).splitlines()[2]
    assert title == "initjax audit: 1 warning. 1 layer, loss 2.31 (guessing: 2.303)"


@pytest.mark.parametrize(
    ("cause", "level", "names", "line"),
    [
        ("symmetry", "failure", ["a/b/kernel"],
         "This network won't train: all units of `b` compute the same function."),
        ("zero", "failure", ["a/b/kernel", "a/c/kernel", "other"],
         f"This network won't train: {CAUSES['zero'].meaning} (b, c and other)."),
        ("zero", "failure", ["a/c/kernel"],
         "This network won't train: `c` is zero and lets no gradient through."),
        ("depth", "warning", list("abcd"),
         "This network may train badly: the network is too deep for its signal to get through"
         " (4 places)."),
        ("output_scale", "failure", [],
         f"This network won't train well: {CAUSES['output_scale'].meaning}."),
        ("vanishing", "warning", ["a/b/kernel"],
         "This network may train badly: gradients shrink from layer to layer (b)."),
        ("batch", "warning", [],
         "This audit can't say much: the batch is too small to measure anything."),
    ],
)  # fmt: skip
def test_the_first_line_is_the_verdict_in_plain_words(cause, level, names, line):
    ill = Finding(level, cause, tuple(names), "It is so.", "Change it.")
    shown = report([layer("a/b/kernel"), layer("a/c/kernel")], [ill, *FINDINGS])
    assert shown.to_text(200).splitlines()[0] == line or len(line) > 80
    assert " ".join(str(shown).split()).startswith(line)


def test_three_things_to_do_stand_above_the_table_and_the_others_below():
    code = "params = initjax.initialize(params, jax.random.key(0), {'a/kernel': initjax.zeros})"
    ill = [
        Finding("warning", "depth", (f"{place}",), f"It is {place}.", "Change it.", (), code)
        for place in range(5)
    ]
    text = str(report([layer("a/kernel")], ill))
    above, below = text.split("  layer")
    assert [place for place in range(5) if f"\n{place + 1}. warning, depth" in above] == [0, 1, 2]
    assert [place for place in range(5) if f"\n{place + 1}. warning, depth" in below] == [3, 4]
    pasted = " ".join(above.partition("Change it.")[2].partition("\n2. ")[0].split())
    assert pasted == code  # in two lines, broken where Python allows it
    names = {"params": {}, "initjax": initjax, "jax": jax}
    with pytest.raises(ValueError, match="params"):
        exec(textwrap.dedent(above.partition("Change it.\n")[2].partition("\n2. ")[0]), names)


def rows(names, level=lambda name: "ok", text=lambda name: "relu"):
    return [
        Row(name, (text(name), number(compact, float(place))), level(name))
        for place, name in enumerate(names)
    ]


@pytest.mark.parametrize(
    ("names", "level", "shown"),
    [
        (["in", *(f"b_{n}" for n in range(12)), "out"], {}, ["in", "b_0..11 x12", "out"]),
        ([f"b_{n}/{part}" for n in range(8) for part in "qkv"], {},
         ["b_0..7/q x8", "b_0..7/k x8", "b_0..7/v x8"]),
        ([f"Dense_{2 * n}" for n in range(14)], {}, ["Dense_0..26 x14"]),
        ([f"b_{n}/Dense_{m}" for n in range(7) for m in range(2)], {},
         ["b_0..6/Dense_0 x7", "b_0..6/Dense_1 x7"]),
        ([f"e/k[{n}] (use 2)" for n in range(13)], {}, ["e/k[0..12] (use 2) x13"]),
        ([f"b_{n}" for n in range(12)], {}, [f"b_{n}" for n in range(12)]),  # a short table
        ([*(f"b_{n}" for n in range(2)), *"abcdefghijkl"], {}, ["b_0", "b_1", *"abcdefghijkl"]),
        ([f"b_{n}" for n in range(14)], {"b_9": "failure"},
         ["b_0..8 x9", "b_9", "b_10..13 x4"]),
        ([f"b_{n}/{part}" for n in range(8) for part in "qk"],
         {f"b_{n}/k": "warning" for n in range(8)},
         ["b_0..7/q x8", *(f"b_{n}/k" for n in range(8))]),
    ],
)  # fmt: skip
def test_blocks_that_are_alike_are_folded_and_rows_at_fault_stay(names, level, shown):
    folded = fold(rows(names, lambda name: level.get(name, "ok")))
    assert [row.texts[0] for row in folded] == shown
    assert sum(row.layers for row in folded) == len(names)
    assert [row.texts[2] for row in fold(rows(names))[1:2] if row.layers == 12] in ([], ["1..12"])


def test_blocks_that_differ_in_a_text_are_not_folded():
    names = [f"b_{n}" for n in range(14)]
    folded = fold(rows(names, text=lambda name: "tanh" if name == "b_7" else "relu"))
    assert [row.texts[0] for row in folded] == ["b_0..6 x7", "b_7", "b_8..13 x6"]


def test_rows_at_fault_that_are_equal_are_folded():
    zeros = [Row(f"b_{n}", ("relu", number(compact, 0.0)), "failure") for n in range(14)]
    assert [row.texts for row in fold(zeros)] == [["b_0..13 x14", "relu", "0"]]
    assert fold(zeros)[0].level == "failure"


def test_every_word_of_a_report_is_explained():
    shown = report([layer("a", unpredicted="sort")], unread=["pallas_call (kernel), which takes a"])
    for word in (
        *COLUMNS,
        *ATTENTION_COLUMNS,
        *CAUSES,
        *WORDS,
        "!",
        *REASONS,
        *REASONS.values(),
        "sort",
        "pallas_call",
    ):
        text = shown.explain(word)
        assert REASONS.get(word, word) in text
        assert len(text.split()) > 5 and "](" not in text
    assert "2 before relu" in shown.explain("gain")
    both = shown.explain("batch").splitlines()
    assert [text.partition(":")[0] for text in both] == [
        "batch (a cause)", "the batch (where predictions restart)",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"no 'chi'.* Did you mean 'chi_1'\?.*vanishing.*sort"):
        shown.explain("chi")
    wrong: Any = 3
    with pytest.raises(TypeError, match="word must be a string"):
        shown.explain(wrong)


def test_names_stay_different_in_a_narrow_table():
    blocks = [f"EncDecBlock_{n}/{part}Attention_0" for n in range(6) for part in ("Self", "EncDec")]
    names = [f"{block}/{part}/kernel" for block in blocks for part in ("query", "key")]
    for width in (60, 80):
        text = report([layer(name, shape=(n,)) for n, name in enumerate(names)]).to_text(width)
        lines = [line for line in text.splitlines() if "~" in line]
        assert len({line.split()[0] for line in lines}) == len(names)
        assert max(map(len, lines)) <= width


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


@pytest.mark.parametrize(("times", "end"), [(1, "/kernel:"), (3, "")])
def test_the_middle_of_a_long_path_is_left_out(times, end):
    path = "/".join([LONG] * times)
    ill = Finding("warning", "depth", (path,), f"{path}: too deep", f"redraw {path}")
    lines = str(report([layer(path)], [ill])).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("~" in line and line.endswith(end) for line in lines)


@pytest.mark.parametrize(
    ("path", "width", "short"),
    [
        ("Block_0..7/MultiHeadDotProductAttention_0/query x8", 24, "Block_0..7/M~_0/query x8"),
        ("EncDecBlock_0/EncDecAttention_0/query", 18, "En~ck_0/E~_0/query"),
        ("a_very_long_single_name_of_a_kernel_12", 18, "a_ver~_a_kernel_12"),
        ("dense/kernel", 18, "dense/kernel"),
        ("dense/kernel", 1, "~"),
    ],
)
def test_the_middle_parts_of_a_name_are_shortened_first(path, width, short):
    assert shortened(path, width) == short
