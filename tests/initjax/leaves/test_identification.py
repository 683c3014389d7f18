"""What leaves look drawn from: every law by its own draws, and what none of them drew."""

import json
import math

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import initjax

SHAPE = (96, 160)
# What is drawn, and the first initializer that is named.
NAMED = {
    "zeros": "zeros",
    "ones": "ones",
    "constant(-0.25)": "constant(-0.25)",
    "normal(0.02)": "normal(0.02)",
    "truncated_normal(0.02)": "truncated_normal(0.02)",
    "random_uniform": "random_uniform(-0.05, 0.05)",
    "uniform(0.05)": "uniform(0.05)",
    "he_normal": "he_normal()",
    "lecun_uniform": "lecun_uniform()",
    "glorot_uniform": "glorot_uniform()",
    "he_uniform(in_axis=1, out_axis=0)": "he_uniform(in_axis=1, out_axis=0)",
    "torch_kaiming_normal": "variance_scaling(2.0, 'fan_in', 'normal')",
    "torch_kaiming_uniform(5**0.5)": "torch_kaiming_uniform(5**0.5)",
    "siren": "siren()",
    "orthogonal": "orthogonal()",
    "orthogonal(2**0.5)": "orthogonal(2**0.5)",
    "orthogonal(0.01)": "orthogonal(0.01)",
    "scaled_orthogonal": "scaled_orthogonal()",
    "identity(2.0)": "identity(2)",
    "hadamard_identity": "hadamard_identity()",
    "unit_norm": "unit_norm()",
    "unit_norm(axis=-1, scale=2.0)": "unit_norm(axis=-1, scale=2)",
    "icnr(normal(0.05), 2)": "icnr(normal(0.05), 2)",
    "s4d": "s4d()",
}


def leaf(array, path="kernel"):
    (found,) = initjax.identify({path: array}).leaves
    return found


@pytest.fixture(scope="module")
def found():
    keys = jax.random.split(jax.random.key(7), len(NAMED))
    draws = {spec: initjax.parse(spec)(key, SHAPE) for spec, key in zip(NAMED, keys, strict=True)}
    return {leaf.path: leaf for leaf in initjax.identify(draws).leaves}


@pytest.mark.parametrize("spec", NAMED)
def test_an_initializer_is_recognized_by_its_draw(found, spec):
    named = found[spec]
    assert named.rules[0] == NAMED[spec], named
    assert initjax.parse(named.rules[0])
    assert named.same_as == ()
    if not math.isnan(named.ratio):
        assert named.ratio == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("random_normal(1.0, 0.2)", "random_normal(1, 0."),
        ("random_uniform(-0.1, 0.3)", "random_uniform(-0.1, 0.3)"),
        ("log_uniform(0.001, 0.1)", "log_uniform(0.001, 0.1)"),
        (
            "inverse_softplus(log_uniform(0.001, 0.1))",
            "too few numbers to tell: uniform off center or inverse softplus of log-uniform",
        ),
        ("logarithm(random_uniform(1.0, 16.0))", "logarithm(random_uniform(1, 16))"),
        ("sparse(5)", "sparse(5, "),
        ("normal(0.037)", "normal(0.03"),
        ("bounded_normal(1.0, 0.5, 0.0, inf)", "no law fits"),
    ],
)
def test_laws_that_no_rule_scales_are_told_with_their_parameters(spec, text, key):
    assert leaf(initjax.parse(spec)(key, SHAPE)).text.startswith(text)


def test_other_shapes_have_other_rules(key):
    assert leaf(initjax.delta_orthogonal()(key, (3, 3, 16, 32))).rules == ("delta_orthogonal()",)
    assert leaf(initjax.kan_spline()(key, (8, 16, 8))).rules == ("kan_spline()",)
    assert leaf(initjax.hippo()(key, (16, 16))).rules == ("hippo('legs', 'state')",)
    assert leaf(initjax.dirac(2)(key, (3, 8, 16))).rules == ("dirac(2)",)
    assert leaf(initjax.forget_gate_bias()(key, (32,))).rules == ("forget_gate_bias()",)
    stacked = initjax.he_normal(batch_axis=0)(key, (4, 64, 96))
    assert leaf(stacked).rules == ("he_normal(batch_axis=0)",)
    assert "he_normal for each of 4 kernels" in leaf(stacked).text
    each = jax.vmap(lambda key: initjax.orthogonal()(key, (32, 32)))(jax.random.split(key, 3))
    assert leaf(each).text == "orthogonal(), each of 3 kernels"


def test_kernels_of_a_stack_may_have_their_own_scales(key):
    scales = 0.02 / jnp.sqrt(jnp.arange(1.0, 5.0))
    stack = initjax.normal(1.0)(key, (4, 48, 64)) * scales[:, None, None]
    assert leaf(stack).law == "normal"
    assert leaf(stack).text.startswith("normal: 4 kernels with standard deviations of 0.0")
    assert leaf(stack.at[0].set(jnp.sort(stack[0]))).law == "none"


def test_models_of_all_kinds_are_read(key):
    linen = nn.Dense(128).init(key, jnp.ones((1, 256)))
    texts = {leaf.path: leaf.text for leaf in initjax.identify(linen).leaves}
    assert texts["params/bias"] == "constant 0"
    assert texts["params/kernel"].startswith("lecun_normal, ")
    attention = nn.MultiHeadDotProductAttention(4).init(key, jnp.ones((1, 3, 128)))
    kernel = {leaf.path: leaf for leaf in initjax.identify(attention).leaves}
    assert any("lecun_normal" in rule for rule in kernel["params/query/kernel"].rules)
    recurrent = nnx.LSTMCell(48, 64, rngs=nnx.Rngs(0))
    texts = {leaf.path: leaf.text for leaf in initjax.identify(recurrent).leaves}
    assert texts["hf/kernel"] == "orthogonal" and "lecun_normal" in texts["if_/kernel"]
    linear = eqx.nn.Linear(64, 128, key=key)
    weight, bias = initjax.identify(linear).leaves
    assert weight.text.startswith("torch_kaiming_uniform(5**0.5) counting (out, in), ")
    assert "torch_bias(64)" in bias.rules


def test_uniform_numbers_from_zero_are_told_from_centered_ones(key):
    trap = leaf(jax.nn.initializers.uniform(0.05)(key, (256, 64)))
    assert trap.law == "uniform from zero" and trap.rules == ("uniform(0.05)",)


def test_half_precision_is_no_obstacle(key):
    for dtype in ("bfloat16", "float16"):
        for name in ("he_normal", "glorot_uniform", "orthogonal"):
            draw = initjax.parse(name)(key, (64, 128), dtype)
            assert f"{name}()" in leaf(draw).rules
        theirs = jax.nn.initializers.normal(0.02)(key, (64, 128), jnp.dtype(dtype))
        assert leaf(theirs).rules == ("normal(0.02)",)


def test_what_was_trained_is_told_from_what_was_drawn(key):
    kernel = initjax.he_normal()(key, (256, 128))
    update = jnp.outer(jnp.sin(jnp.arange(256.0)), jnp.cos(jnp.arange(128.0)) + 1) * 0.04
    assert "he_normal()" in leaf(kernel).rules
    assert leaf(kernel + update).law == "none"
    heavy = jax.random.laplace(key, (256, 128))
    assert leaf(heavy).text.startswith("no law fits: trained, loaded")
    rows = kernel * jnp.linspace(0.8, 1.2, 256)[:, None]
    assert leaf(rows).law == "none"


def test_few_numbers_tell_little(key):
    assert leaf(initjax.he_normal()(key, (4, 5))).text == "too few numbers to tell: only 20"
    small = leaf(initjax.lecun_uniform()(key, (8, 8)))
    assert small.law == "too few numbers"
    assert set(small.laws) == {"uniform", "normal", "truncated normal"}


def test_copies_and_unusable_leaves_are_named(key):
    kernel = initjax.he_normal()(key, (64, 64))
    memory = np.zeros(1000, np.float32)
    memory[::3] = np.frombuffer(np.random.default_rng(0).bytes(1336), np.float32)
    memory = np.where(np.isfinite(memory), memory, 0)
    found = initjax.identify(
        {
            "a": kernel,
            "b": -2 * kernel,
            "broken": kernel.at[0, 0].set(jnp.nan),
            "key": key,
            "memory": memory,
            "shape": jax.ShapeDtypeStruct((3,), jnp.float32),
            "step": jnp.arange(3),
        }
    )
    leaves = {leaf.path: leaf for leaf in found.leaves}
    assert leaves["a"].same_as == ("b",) and leaves["b"].same_as == ("a",)
    assert leaves["a"].text.endswith("; same numbers as b")
    assert leaves["broken"].text == "not finite: 1 of 4096 numbers"
    assert leaves["memory"].law == "unwritten"
    assert [leaves[path].law for path in ("key", "shape", "step")] == ["skipped"] * 3
    for width in (60, 80):
        assert max(map(len, found.to_text(width).splitlines())) <= width
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [one["path"] for one in told["leaves"]] == sorted(leaves)
    assert initjax.identify({"a": kernel}) == initjax.identify({"a": kernel})


@pytest.mark.parametrize("law", ["normal", "truncated normal", "uniform", "uniform from zero"])
def test_a_law_is_seldom_rejected_for_its_own_draws(law):
    """At most one of 2000, so of 400 seldom more than one."""
    from initjax.leaves._families import fits, numbers_of

    draw = {
        "normal": initjax.normal(1.0),
        "truncated normal": initjax.truncated_normal(1.0),
        "uniform": initjax.random_uniform(-1.0, 1.0),
        "uniform from zero": initjax.uniform(1.0),
    }[law]
    draws = np.asarray(draw(jax.random.key(3), (400, 40, 24)))
    laws = [[fit.law for fit in fits(numbers_of(one))] for one in draws]
    assert sum(law not in found for found in laws) <= 2
    # Of 960 numbers other laws are told apart.
    assert sum(found == [law] for found in laws) > 380


@pytest.mark.parametrize("tree", [{}, {"a": "text"}])
def test_a_tree_without_arrays_is_an_error(tree):
    with pytest.raises((TypeError, ValueError), match="identify: params"):
        initjax.identify(tree)


def test_rows_of_padding_are_told_apart(key):
    table = initjax.normal(0.02)(key, (60, 64)).at[0].set(0)
    assert leaf(table).rules == ("normal(0.02)",)
    assert leaf(table).text == "normal(0.02), 1.00 of its scale; 1 of 60 rows are zero"


def test_leaves_that_are_alike_share_a_row(key):
    keys = jax.random.split(key, 12)
    layers = [{"kernel": initjax.he_normal()(one, (96, 96)), "bias": jnp.zeros(96)} for one in keys]
    text = str(initjax.identify({f"layer_{n}": layer for n, layer in enumerate(layers)}))
    assert len(text.splitlines()) == 3
    assert "layer_*/kernel" in text and "he_normal, 0.99 to 1.01 of its scale (12" in text


def test_queries_are_counted_by_their_features_and_not_as_a_convolution():
    init = initjax.lecun_normal(in_axis=0, out_axis=(1, 2))
    found = leaf(init(jax.random.key(0), (64, 4, 16)))
    assert found.rules[0] == "lecun_normal(in_axis=0, out_axis=(1, 2))"
