"""Advice: theory's choice, what a table of runs makes of it, and where the table ends.

The tables here are made up; that of the package is in `initjax/advice/table.json`.
"""

import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import initjax
from experiments.common import statistics
from initjax.advice import _evidence
from initjax.advice import table as tables
from initjax.auditing._activations import recommended

recommend: Any = initjax.recommend  # also with what its types don't allow


def row(name, depth, accuracy, low, high, width=64, trained=6, kind="plain", activation="relu"):
    """A row of a made-up table; `low` and `high` are those of the difference to the best."""
    middle = (low + high) / 2
    numbers = (1e-3, 6, trained, accuracy, 0.01, middle, low, high)
    return tables.Row(kind, activation, "adam", width, depth, name, name, "zeros", *numbers)


@pytest.fixture
def shipped(monkeypatch):
    """Puts made-up rows, or none, in place of the table of the package."""

    def put(*rows):
        made = tables.Table(rows, 300, 64, "standardized mnist", 2) if rows else None
        monkeypatch.setattr(tables, "shipped", lambda: made)

    return put


@pytest.mark.parametrize("depth", [10, 50])
def test_theory_alone_agrees_with_the_audit(shipped, depth):
    shipped()
    for name in "relu leaky_relu tanh hard_tanh gelu silu elu selu sigmoid softplus".split():
        advice = recommend(name, depth, 64)
        call, _, more = recommended(name, depth).partition(")")
        if (name == "selu" and depth == 50) or "initjax.recommend" in more:
            assert advice.choice.name == "orthogonal" and advice.bias_variance > 0, name
            assert advice.theory.chi == pytest.approx(1, abs=0.03)
        else:
            assert advice.initializer == initjax.parse(f"{call})"), name
        assert advice.evidence is None
        assert str(advice).split("Why")[1].replace("\n    ", " ").count("This is theory alone.")


def test_the_numbers_are_those_of_theory(shipped):
    shipped()
    advice = recommend("tanh", 100, 100)
    assert (advice.spec, advice.gain, advice.bias_variance) == ("orthogonal", 1, 0)
    assert advice.bias_initializer is initjax.zeros
    assert advice.theory.chi == pytest.approx(1) and advice.theory.variance == 0
    assert math.isinf(advice.theory.correlation_depth)
    # The last layer has no gradient to pass on, so one factor less than layers: 2.5 of science.
    q, factor = 1.0, 1.0
    for _ in range(99):
        factor *= initjax.theory.chi("tanh", q, 1.0)
        q = initjax.theory.variance_map("tanh", q, 1.0)
    assert advice.theory.gradient == pytest.approx(factor)
    relu = recommend("relu", 64, 64)
    assert relu.theory.scatter**2 == pytest.approx(5 * 64 / 64, rel=0.2)
    assert relu.theory.depth_over_width == 1
    assert any("varies by a factor of" in reason for reason in relu.reasons)


def test_an_activation_of_ones_own_has_a_scale_of_its_own(shipped):
    shipped()

    def leaky(z):
        return jnp.where(z > 0, z, 0.3 * z)

    advice = recommend(leaky, 10, 512)
    assert advice.activation == "leaky"
    assert advice.gain == pytest.approx(math.sqrt(2 / (1 + 0.3**2)), abs=1e-3)
    assert recommend(lambda z: jnp.tanh(2 * z), 50, 64).spec == "orthogonal(0.5)"


def test_what_no_initializer_can_do_is_said(shipped):
    shipped()
    deep = " ".join(recommend("sigmoid", 20, 64).avoid)
    assert "no usual initializer puts them on the edge of chaos" in deep and "use tanh" in deep
    assert "no initializer puts them" in " ".join(recommend("softplus", 20, 64).avoid)
    relu = " ".join(recommend("relu", 200, 64).avoid)
    assert "no initializer makes them isometric" in relu
    assert "lecun_normal: gradients vanish" in relu and "he_normal" not in relu
    assert "he_normal: gradients explode" in " ".join(recommend("tanh", 100, 512).avoid)
    batch = recommend("relu", 50, 64, normalization="batch")
    assert "grow exponentially with depth" in batch.avoid[0]
    assert "rank collapse" in recommend("relu", 12, 64, attention=True).avoid[0]


def test_residual_branches_are_scaled_by_their_number(shipped):
    shipped()
    assert recommend("gelu", 16, 512, residual=True).choice.branch_scale == 1 / 4
    twice = recommend("gelu", 8, 512, residual=True, attention=True)
    assert twice.choice.branch_scale == 1 / 4  # attention, and the layers after it
    assert "multiply the last kernel of each by 0.25" in str(twice)
    normalized = recommend("gelu", 8, 512, residual=True, normalization="layer")
    assert normalized.choice.branch_scale == 1


def test_theory_is_followed_where_runs_show_no_difference(shipped):
    shipped(row("orthogonal", 10, 0.95, 0, 0), row("he_normal", 10, 0.94, -0.03, 0.01))
    advice = recommend("relu", 10, 64)
    assert advice.spec == "he_normal" and advice.no_evidence == ""
    (setting,) = advice.evidence.settings
    assert setting.outcome == "no measurable difference" and setting.other == "orthogonal"
    assert setting.difference == pytest.approx((-0.01, -0.03, 0.01))
    text = " ".join(str(advice).split())
    assert "no measurable difference from orthogonal, 0.950 (-1.00 points, -3.00 to +1.00)" in text
    assert "6 of 6 runs trained (100%; 95% interval 61% to 100%)" in text


def test_theory_is_not_called_worse_where_it_is_followed(shipped):
    shipped(
        row("gain", 2, 0.95, 0, 0, activation="silu"),
        row("he_normal", 2, 0.94, -0.03, 0.01, activation="silu"),
    )
    advice = recommend("silu", 2, 64)
    assert advice.spec == "lecun_normal(gain='silu')" and advice.evidence
    assert not any("Theory alone" in reason for reason in advice.reasons)


def test_runs_overrule_theory_where_it_is_measurably_worse(shipped):
    shipped(
        *(row("orthogonal", depth, 0.95, 0, 0) for depth in (5, 20)),
        row("he_normal", 5, 0.94, -0.02, 0.01),
        row("he_normal", 20, 0.90, -0.07, -0.03),
        row("lecun_normal", 5, 0.11, -0.9, -0.8, trained=0),
        row("lecun_normal", 20, 0.11, -0.9, -0.8, trained=0),
    )
    advice = recommend("relu", 9, 64)
    assert advice.spec == "orthogonal(1.414)"
    assert [setting.outcome for setting in advice.evidence.settings] == [
        "no measurable difference",
        "ahead",
    ]
    assert advice.evidence.settings[1].difference == pytest.approx((0.05, 0.03, 0.07))
    assert (
        "Theory alone suggests he_normal. It was measurably worse in runs near this network (depth"
        " 20, width 64: accuracy 0.900, orthogonal 0.950), so what was better there is recommended."
    ) in advice.reasons
    both = "depth 5, width 64 and depth 20, width 64"
    assert f"lecun_normal: no run at {both} trained." in advice.avoid
    # One that trained at one of the settings isn't said to have failed at both.
    shipped(
        *(row("he_normal", depth, 0.95, 0, 0) for depth in (5, 20)),
        row("lecun_normal", 5, 0.94, -0.02, 0.01),
        row("lecun_normal", 20, 0.11, -0.9, -0.8, trained=0),
    )
    assert (
        recommend("relu", 9, 64).avoid[-1] == "lecun_normal: no run at depth 20, width 64 trained."
    )
    # What an audit and a table name the same is not said to differ.
    shipped(row("gain", 10, 0.9, 0, 0, activation="silu"), row("critical", 10, 0.8, -0.2, -0.1))
    assert not any("Theory alone" in reason for reason in recommend("silu", 10, 64).reasons)
    # An initializer that fails for one seed of six isn't as good, however wide its interval is.
    shipped(row("orthogonal", 10, 0.9, 0, 0), row("he_normal", 10, 0.8, -0.4, 0.2, trained=5))
    assert recommend("relu", 10, 64).spec == "orthogonal(1.414)"


def test_nothing_is_extrapolated(shipped):
    shipped(
        *(
            row(name, depth, 0.9, 0, 0, width)
            for name in ("he_normal", "orthogonal")
            for width, depth in ((64, 5), (64, 50), (128, 5), (128, 20))
        )
    )
    evidence = recommend("relu", 10, 100).evidence
    assert [(found.depth, found.width) for found in evidence.settings] == [
        (20, 128),
        (5, 128),
        (5, 64),
        (50, 64),
    ]
    for depth, width in ((4, 64), (51, 64), (10, 63), (10, 129), (30, 100)):
        advice = recommend("relu", depth, width)
        assert advice.evidence is None and advice.spec == "he_normal"
        assert "5 to 50 layers of 64 units, or" in advice.no_evidence
    assert len(recommend("relu", 50, 64).evidence.settings) == 1
    for arguments, words in (
        ({"optimizer": "sgd"}, "no plain networks trained with sgd"),
        ({"residual": True}, "no residual networks trained with adam"),
        ({"normalization": "batch"}, "no networks with batch normalization"),
        ({"residual": True, "normalization": "layer"}, "no residual networks with normalization"),
        ({"attention": True}, "no networks with attention"),
    ):
        advice = recommend("relu", 10, 64, **arguments)
        assert advice.evidence is None and words in advice.no_evidence
    assert "only with relu" in recommend("tanh", 10, 64).no_evidence


def test_settings_where_nothing_trains_are_named(shipped):
    rows = [row(name, 50, 0.11, 0, 0, trained=0) for name in ("he_normal", "orthogonal")]
    shipped(*rows)
    assert "no better than guessing from any" in recommend("relu", 50, 64).avoid[-1]


def test_an_audited_network_gets_the_advice_for_its_description(shipped, key):
    shipped()
    keys = jax.random.split(key, 5)
    params = [initjax.orthogonal()(one, (32, 32)) for one in keys]

    def loss_fn(params, x, y):
        for kernel in params[:-1]:
            x = jnp.tanh(x @ kernel)
        return jnp.square(x @ params[-1] - y).mean()

    x = jax.random.normal(key, (64, 32))
    report = initjax.audit(loss_fn, params, x, x)
    advice = recommend(report)
    assert advice == recommend("tanh", advice.depth, 32)
    wider = recommend(report, base_width=8).parametrization
    assert wider == recommend("tanh", advice.depth, 32, base_width=8).parametrization
    assert advice.depth == 4 and not advice.residual
    report = initjax.audit(lambda params, x: jnp.square(x @ params[0]).mean(), params, x)
    with pytest.raises(ValueError, match=r"has no activation, about which nothing is known"):
        recommend(report)
    with pytest.raises(TypeError, match="a report describes the whole network"):
        recommend(report, 3)


def test_advice_is_data(shipped):
    shipped(row("orthogonal", 10, 0.95, 0, 0), row("he_normal", 10, 0.94, -0.03, 0.01))
    advice = recommend("relu", 10, 64)
    found = json.loads(json.dumps(advice.to_dict(), allow_nan=False))
    assert found["version"] == 1 and found["choice"]["spec"] == "he_normal"
    assert found["theory"]["correlation_depth"] is None  # infinite
    assert found["evidence"]["settings"][0]["other"] == "orthogonal"
    assert len(found["alternatives"]) == 3
    for width in (80, 50):
        assert all(len(line) <= width for line in advice.to_text(width).splitlines())
    assert repr(advice).startswith("<Recommendation: he_normal for relu network, 10 hidden layers")
    assert hash(advice) == hash(recommend("relu", 10, 64))


def test_a_base_width_tells_the_parametrization(shipped):
    shipped()
    advice = recommend("tanh", 4, 256, base_width=64, optimizer="sgd")
    plan = advice.parametrization
    assert (plan.scheme, plan.optimizer) == ("mup", "sgd")
    leaves = {leaf.role: leaf for leaf in plan.leaves}
    assert {role: leaf.stddev for role, leaf in leaves.items()} == {
        "hidden": 1 / 2,
        "input": 1,
        "output": 1 / 4,
        "vector": 1,
    }
    assert [leaves[role].learning_rate for role in ("input", "output")] == [4, 1 / 4]
    assert plan.rules["hidden"] == advice.initializer  # whose scale follows fan_in by itself
    told = json.loads(json.dumps(advice.to_dict(), allow_nan=False))["parametrization"]
    assert told == json.loads(json.dumps(plan.to_dict()))
    for width in (80, 40):
        assert all(len(line) <= width for line in advice.to_text(width).splitlines())
    assert "  output       x0.25     x0.25\n" in str(advice)
    assert "epsilon" not in str(advice) and "heads" not in str(advice)
    assert hash(advice) == hash(recommend("tanh", 4, 256, base_width=64, optimizer="sgd"))

    same = recommend("tanh", 4, 64, base_width=64).parametrization
    assert {leaf.role: leaf.fan_in for leaf in same.leaves}["hidden"] == 64
    assert all(leaf.learning_rate == leaf.stddev == 1 for leaf in same.leaves)
    assert recommend("tanh", 4, 256).parametrization is None
    assert "muP" not in str(recommend("tanh", 4, 256))
    assert "If heads grow" in str(recommend("relu", 2, 64, attention=True, base_width=32))
    for wrong in (0, 2.5, "64"):
        with pytest.raises((TypeError, ValueError), match="base_width must be"):
            recommend("relu", 2, 64, base_width=wrong)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rleu", 5, 64), "'rleu' is not an activation in jax.nn"),
        ((3, 5, 64), "activation must be a function or a name, got 3"),
        (("relu",), "depth is missing"),
        (("relu", 5), "width is missing"),
        (("relu", 0, 64), "depth must be a finite number >= 1, got 0"),
        (("relu", 10_001, 64), "depth must be at most 10,000, got 10,001"),
        (("relu", 5, 6.5), "width must be an integer, got 6.5"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises((TypeError, ValueError), match=words):
        recommend(*arguments)


@pytest.mark.parametrize(
    ("function", "residual"),
    [(jnp.cos, True), (lambda x: x**3, False)],
    ids=["cos", "cube"],
)
def test_an_activation_that_is_flat_at_zero_has_advice(function, residual):
    text = " ".join(str(recommend(function, 6, 64, residual=residual)).split())
    assert "nan" not in text and "with of" not in text


def test_wrong_choices_are_named():
    for name, value in (("normalization", "laier"), ("optimizer", "lion")):
        with pytest.raises(ValueError, match=f"recommend: {name} must be one of"):
            recommend("relu", 5, 64, **{name: value})
    with pytest.raises(TypeError, match="residual must be True or False, got 'no'"):
        recommend("relu", 5, 64, residual="no")


def test_a_table_is_read_as_it_was_written():
    made = tables.Table((row("he_normal", 10, 0.9, 0, 0),), 300, 64, "standardized mnist", 2)
    text = tables.written(made, made="2026-01-01")
    assert tables.read(text) == made
    with pytest.raises(ValueError, match="has format 2, not 1"):
        tables.read(text.replace('"version": 1', '"version": 2'))


def test_shares_have_wilsons_interval():
    for count, n in ((0, 6), (5, 12), (12, 12)):
        assert _evidence.wilson(count, n) == pytest.approx(statistics.share_interval(count, n))


def test_the_table_of_the_package_is_complete():
    """Its settings can be compared, and every recommendation in them is a choice of the library."""
    table = tables.shipped()
    if table is None:
        pytest.skip("no table was made yet")
    settings = {}
    for one in table.rows:
        settings.setdefault(one[:5], []).append(one)
    for (kind, activation, optimizer, width, depth), rows in settings.items():
        assert len(rows) >= 4 and len({one.name for one in rows}) == len(rows)
        assert {one.runs for one in rows} == {rows[0].runs} and rows[0].runs >= 5
        assert rows[0].difference == rows[0].low == rows[0].high == 0
        for one in rows:
            assert one.low <= one.difference <= min(one.high, 1e-9) + 1e-9 and one.trained <= 6
            assert callable(initjax.get(one.init)) and callable(initjax.get(one.bias_init))
        arguments: dict[str, Any] = {"residual": kind == "residual"}
        if kind == "normalized":
            arguments["normalization"] = "layer"
        advice = recommend(activation, depth, width, optimizer=optimizer, **arguments)
        assert advice.evidence.settings[0].depth == depth
        names = {choice.name for choice in (advice.choice, *advice.alternatives)}
        assert {one.name for one in rows} <= names
        assert advice.evidence.settings[0].outcome != "behind"
