"""Trees of parameters: every draw depends on the key, its own path and nothing else."""

import os
import subprocess
import sys
from typing import Any, NamedTuple, cast

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import initjax
from initjax._flattening import flatten
from initjax._stacks import stack_warning

RULES = {"*bias": initjax.zeros, "*": initjax.he_normal()}
KERNELS = {"*": initjax.he_normal()}


def shapes(*names):
    return {name: {"kernel": jax.ShapeDtypeStruct((5, 4), np.float32)} for name in names}


def run_on_cpus(code):
    """Runs code that simulates several devices, which only CPUs can."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_adding_renaming_and_reordering_layers_leaves_other_draws_alone(key):
    before = initjax.initialize(shapes("a", "b"), key, KERNELS)
    after = initjax.initialize(shapes("z", "b", "c", "a"), key, KERNELS)
    np.testing.assert_array_equal(before["a"]["kernel"], after["a"]["kernel"])
    np.testing.assert_array_equal(before["b"]["kernel"], after["b"]["kernel"])
    assert not np.array_equal(before["a"]["kernel"], before["b"]["kernel"])


def test_a_draw_uses_the_key_of_its_path(key):
    tree = initjax.initialize({"layers": [shapes("a")["a"]]}, key, KERNELS)
    own = initjax.named_key(key, "layers/0/kernel")
    np.testing.assert_array_equal(
        tree["layers"][0]["kernel"], initjax.he_normal()(own, (5, 4), np.float32)
    )


def test_jitted_and_eager_draws_are_equal(key):
    eager = initjax.initialize(shapes("a", "b"), key, KERNELS)
    jitted = jax.jit(lambda key: initjax.initialize(shapes("a", "b"), key, KERNELS))(key)
    jax.tree.map(np.testing.assert_array_equal, eager, jitted)


def test_draws_of_a_tree_equal_golden_bits():
    """These must never change, so that stored runs can be repeated."""
    key = jax.random.key(0)
    words = jax.random.key_data(initjax.named_key(key, "hidden/0/kernel")).tolist()
    assert words == GOLDEN_KEY
    drawn = initjax.initialize(shapes("a"), key, {"*": initjax.glorot_uniform()})
    first = np.asarray(drawn["a"]["kernel"])[0].view(np.uint32).tolist()
    assert first == GOLDEN_BITS


GOLDEN_KEY = [2938851939, 622255339]
GOLDEN_BITS = [3209613809, 3203303011, 1062078016, 3204825213]


def test_streams_by_name_are_independent(key):
    names = [f"stream {i}" for i in range(200)]
    words = {tuple(jax.random.key_data(initjax.named_key(key, name)).tolist()) for name in names}
    assert len(words) == 200


@pytest.mark.parametrize(
    "params",
    [linen.Dense(4), linen.Dense(4).apply, nnx.Linear, print, jnp.float32, "params", {}, None, 3.5,
     {"step": jnp.int32(7)}, [linen.Dense(3)], equinox.nn.Identity()],
    ids=str,
)  # fmt: skip
def test_what_has_no_arrays_is_refused(params, key):
    error = TypeError if callable(params) and params != equinox.nn.Identity() else ValueError
    for name, call in (
        ("initialize", lambda: initjax.initialize(params, key, KERNELS)),
        ("rescale", lambda: initjax.rescale(params, {"*": 2.0})),
    ):
        with pytest.raises(error, match=f"{name}: params (must be a tree|holds no floating)"):
            call()


def test_errors_of_initializers_name_the_path(key):
    with pytest.raises(ValueError, match=r"a/kernel: in_axis=5 is outside shape \(5, 4\)"):
        initjax.initialize(shapes("a"), key, {"*": initjax.he_normal(in_axis=5)})


def test_a_whole_linen_model_is_initialized(key):
    model = linen.Sequential([linen.Dense(8), linen.relu, linen.Dense(3)])
    abstract = jax.eval_shape(model.init, key, np.zeros((1, 5), np.float32))
    params = initjax.initialize(abstract, key, RULES)
    logits = model.apply(params, np.ones((2, 5), np.float32))
    assert jax.tree.map(np.shape, logits) == (2, 3)
    assert not params["params"]["layers_0"]["bias"].any()


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(5, 4, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)  # holds a key and an integer
        self.norm = nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.norm(self.hidden(x)))


@pytest.mark.parametrize("form", ["state", "module", "pure", "abstract"])
def test_an_nnx_model_is_initialized_in_every_form(form, key):
    model = Net(nnx.Rngs(0))
    rules = {"*kernel": initjax.he_normal()}
    if form == "module":
        model = initjax.initialize(model, key, rules)
    elif form == "abstract":
        abstract = nnx.eval_shape(lambda: nnx.Linear(5, 4, rngs=nnx.Rngs(0)))
        state = initjax.initialize(nnx.state({"hidden": abstract}), key, RULES)
        nnx.update(model, nnx.State({"hidden": state["hidden"]}))
    elif form == "pure":
        state = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        nnx.update(model, nnx.State(initjax.initialize(state, key, rules)))
    else:
        nnx.update(model, initjax.initialize(nnx.state(model), key, rules))
    expected = initjax.he_normal()(initjax.named_key(key, "hidden/kernel"), (5, 4))
    np.testing.assert_array_equal(model.hidden.kernel[...], expected)
    assert model(jnp.ones((2, 5))).shape == (2, 4)
    assert nnx.to_pure_dict(nnx.state(model))["norm"]["scale"].all()


def test_a_boxed_linen_parameter_keeps_its_box_and_its_key(key):
    initializer = linen.with_partitioning(linen.initializers.ones, (None, "x"))
    variables = linen.Dense(4, kernel_init=initializer).init(key, jnp.ones((1, 3)))
    drawn = initjax.initialize(variables, key, {"*/kernel": initjax.he_normal()})
    box = drawn["params"]["kernel"]
    assert box.names == (None, "x")
    expected = initjax.he_normal()(initjax.named_key(key, "params/kernel"), (3, 4))
    np.testing.assert_array_equal(box.value, expected)


class Attention(equinox.Module):
    query: jax.Array
    key: jax.Array
    value: jax.Array


class Pair(NamedTuple):
    name: jax.Array
    value: jax.Array


@pytest.mark.parametrize(
    ("pattern", "changed"), [("*", False), ("*a*", False), ("batch_stats/*", True), ("*var", True)]
)
def test_statistics_keep_their_values_unless_a_pattern_names_them(pattern, changed, key):
    tree = {"params": {"bias": jnp.ones(4)}, "batch_stats": {"norm": {"var": jnp.ones(4)}}}
    drawn = initjax.initialize(tree, key, {pattern: initjax.normal(1.0), "*": initjax.ones})
    assert (drawn["batch_stats"]["norm"]["var"] != 1).any() == changed
    norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    pattern = pattern.replace("batch_stats/*", "*var")
    drawn = initjax.initialize(norm, key, {pattern: initjax.normal(1.0), "*": initjax.ones})
    assert (nnx.to_pure_dict(nnx.state(drawn, nnx.BatchStat))["var"] != 1).any() == changed


def test_statistics_without_a_value_need_a_rule_that_names_them(key):
    tree = {"batch_stats": {"var": jax.ShapeDtypeStruct((4,), "float32")}}
    with pytest.raises(ValueError, match="no rule matches 'batch_stats/var"):
        initjax.initialize(tree, key, {"*": initjax.zeros})


class Table(nnx.Module):
    def __init__(self):
        self.value = nnx.Param(jnp.ones((3, 4)))
        self.rows = nnx.List([nnx.Param(jnp.ones((3, 4)))])


ONES = jnp.ones((3, 4))


@pytest.mark.parametrize(
    ("params", "paths"),
    [
        (
            {"attn": Attention(ONES, ONES, ONES)},
            ["attn/query", "attn/key", "attn/value"],
        ),
        ([Pair(ONES, ONES)], ["0/name", "0/value"]),
        (Table(), ["rows/0", "value"]),
        (nnx.state(Table()), ["rows/0", "value"]),
        ({"kernel": nnx.Param(ONES), "value": nnx.Param(ONES)}, ["kernel", "value"]),
        ({"value": linen.Partitioned(ONES, (None, "x"))}, ["value"]),
        ({"kernel": linen.LogicallyPartitioned(ONES, (None, "x"))}, ["kernel"]),
    ],
    ids=lambda case: type(case).__name__,
)
def test_paths_include_a_field_named_value_but_not_flaxs_box(params, paths, key):
    drawn = jax.tree.leaves(initjax.initialize(params, key, dict.fromkeys(paths, KERNELS["*"])))
    for path, leaf in zip(paths, drawn, strict=True):
        expected = initjax.he_normal()(initjax.named_key(key, path), (3, 4))
        np.testing.assert_array_equal(leaf, expected)


def test_an_equinox_module_is_initialized(key):
    model = equinox.nn.MLP(2, 3, 4, 2, key=key)
    torch_like = initjax.he_normal(in_axis=-1, out_axis=-2)
    drawn = initjax.initialize(model, key, {"*weight": torch_like, "*bias": initjax.zeros})
    assert drawn(jnp.ones(2)).shape == (3,) and not drawn.layers[0].bias.any()
    expected = torch_like(initjax.named_key(key, "layers/1/weight"), (4, 4))
    np.testing.assert_array_equal(drawn.layers[1].weight, expected)


class Classifier(equinox.Module):
    layers: equinox.nn.MLP
    dropout: equinox.nn.Dropout
    dtype: type = jnp.float32
    numpy_dtype: type = np.float64
    name: str = "classifier"
    depth: int = 2


def test_leaves_that_are_no_arrays_stay_as_they_are(key):
    mlp = equinox.nn.MLP(2, 3, 4, 2, jax.nn.tanh, key=key)
    model = Classifier(mlp, equinox.nn.Dropout(0.5))
    drawn = initjax.initialize(model, key, {"*": initjax.zeros})
    scaled = initjax.rescale(drawn, {"*/weight": 2.0})
    assert jax.tree.structure(drawn) == jax.tree.structure(scaled) == jax.tree.structure(model)
    for leaf, before in zip(jax.tree.leaves(scaled), jax.tree.leaves(model), strict=True):
        assert not leaf.any() if equinox.is_array(before) else leaf is before


class Tied(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Linear(5, 5, rngs=rngs)
        self.head = self.embed
        self.scale = self.other_scale = nnx.Param(jnp.ones(5))


class Graph(Tied, pytree=False):
    """A module that JAX takes for one leaf, with a circle."""

    def __init__(self, rngs):
        super().__init__(rngs)
        self.itself = self


@pytest.mark.parametrize("kind", [Tied, Graph])
def test_modules_of_nnx_stay_tied(kind, key):
    model = kind(nnx.Rngs(0))
    state = initjax.initialize(nnx.state(model), key, {"*": initjax.normal(1.0)})
    drawn = initjax.initialize(model, key, {"*": initjax.normal(1.0)})
    scaled = initjax.rescale(drawn, {"*kernel": 2.0})
    for tied in (drawn, scaled):
        assert tied.head is tied.embed and tied.other_scale is tied.scale
    jax.tree.map(np.testing.assert_array_equal, nnx.state(drawn), state)
    np.testing.assert_array_equal(scaled.embed.kernel[...], 2 * drawn.embed.kernel[...])


def test_modules_of_nnx_stay_tied_inside_other_trees(key):
    model, extra = Tied(nnx.Rngs(0)), nnx.Param(jnp.ones(3))
    tree = {"a": [model, 3], "b": model.embed, "c": (extra, extra), "d": jnp.ones(2)}
    drawn = initjax.initialize(tree, key, {"a/0/embed/*": "zeros", "c/0": "zeros", "d": "zeros"})
    assert drawn["b"] is drawn["a"][0].head and drawn["c"][0] is drawn["c"][1]
    assert not any(leaf.any() for leaf in (drawn["b"].kernel, drawn["c"][1], drawn["d"]))
    assert isinstance(drawn["a"][0], Tied) and drawn["a"][1] == 3


def test_equal_arrays_of_a_plain_tree_are_drawn_apart(key):
    array = jnp.ones((3, 4))
    drawn = initjax.initialize({"a": array, "b": array}, key, KERNELS)
    assert not np.array_equal(drawn["a"], drawn["b"])


def test_parameters_without_a_rule_stay_as_they_are(key):
    params = {"body": jnp.ones((3, 4)), "head": jnp.ones((4, 2)), "step": jnp.int32(7)}
    drawn = initjax.initialize(params, key, {"head": initjax.he_normal()})
    assert drawn["body"] is params["body"] and drawn["step"] is params["step"]
    assert not np.array_equal(drawn["head"], params["head"])


def test_the_first_matching_rule_wins(key):
    rules = {"a/*": initjax.zeros, "*": initjax.ones}
    drawn = initjax.initialize(shapes("a", "b"), key, rules)
    assert not drawn["a"]["kernel"].any() and drawn["b"]["kernel"].all()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"*kernle": initjax.ones}, r"no rule matches 'a/kernel'"),
        (
            {"*": initjax.ones, "*bias": initjax.zeros},
            r"no parameter matches '\*bias'; the.*a/kernel",
        ),
        (
            {"kernel": initjax.ones, "*": initjax.zeros},
            r"matches 'kernel'; write '\*kernel'; the pa",
        ),
        ({"*": initjax.he_normal}, "a/kernel: .*is a PRNG key"),
        ({1: initjax.zeros}, "rules must map patterns to initializers"),
        ({"*": 0.5}, r"rules must map patterns to initializers.* got 0.5 for '\*'"),
        ("he_normal", "rules must map patterns to initializers.* got 'he_normal'"),
        ({"*bias": "zero", "*": "ones"}, r"initialize: the rule of '\*bias': .*did you mean zeros"),
        ({"*": {"class_name": "Nope"}}, r"initialize: the rule of '\*': get: class_name must be"),
    ],
)
def test_invalid_rules_are_refused(rules, message, key):
    with pytest.raises((TypeError, ValueError), match=message):
        initjax.initialize(shapes("a"), key, rules)


def test_rules_may_be_specifications(key):
    given = {"a*": "HeNormal", "b*": {"class_name": "Zeros"}, "*": "normal(0.5)"}
    rules = {"a*": initjax.he_normal(), "b*": initjax.zeros, "*": initjax.normal(0.5)}
    drawn = [initjax.initialize(shapes("a", "b", "c"), key, each) for each in (given, rules)]
    jax.tree.map(np.testing.assert_array_equal, *drawn)


def test_arguments_in_another_order_are_named(key):
    params, rules = shapes("a"), {"*": initjax.zeros}
    orders: list[Any] = [(params, rules, key), (key, params, rules)]
    for arguments in orders:
        with pytest.raises(TypeError, match=r"in this order; call initialize\(params, key"):
            initjax.initialize(*arguments)
    swapped: Any = ("weights", key)
    with pytest.raises(TypeError, match=r"got a PRNGKeyArray; call named_key\(key, name\)"):
        initjax.named_key(*swapped)
    with pytest.raises(TypeError, match=r"named_key: key must .* got 3; call named_key\(key, name"):
        initjax.named_key(cast(Any, 3), "weights")


@pytest.mark.parametrize("path", ["w[0]", "w*", "[!a]", "a?"])
def test_a_path_and_the_pattern_that_an_error_advises_match_themselves(path, key):
    tree = {"b": {path: jax.ShapeDtypeStruct((3, 4), np.float32)}}
    assert initjax.initialize(tree, key, {f"b/{path}": initjax.ones})["b"][path].all()
    with pytest.raises(ValueError, match=r"must match the whole path, as '(.*)' does") as error:
        initjax.initialize(tree, key, {})
    pattern = str(error.value).split("'")[-2]
    with pytest.raises(
        ValueError, match=r"matches '\*w\[0\]'; write '\*w\[\[\]0\]'; the paths are"
    ):
        initjax.initialize({"w[0]": jnp.ones(3)}, key, {"*w[0]": "ones"})
    assert initjax.initialize(tree, key, {pattern: initjax.ones})["b"][path].all()


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_every_kind_of_key_is_taken(impl):
    with jax.default_prng_impl(impl):
        typed, raw = jax.random.key(3), jax.random.PRNGKey(3)
        given: list[Any] = [typed, raw, np.asarray(raw)]
        drawn = [initjax.initialize(shapes("a", "b"), key, {"*": "normal"}) for key in given]
        for other in drawn[1:]:
            jax.tree.map(np.testing.assert_array_equal, drawn[0], other)
        named = initjax.named_key(raw, "a")
        np.testing.assert_array_equal(named, jax.random.key_data(initjax.named_key(typed, "a")))
        for keys in (jax.random.split(typed, 3), jax.random.split(raw, 3)):
            with pytest.raises(ValueError, match=r"single PRNG key, got an array .* shape \(3,\)"):
                initjax.initialize(shapes("a"), keys, KERNELS)
            with pytest.raises(ValueError, match="named_key: key must be a single PRNG key"):
                initjax.named_key(keys, "a")
        wrong_ones: list[Any] = [0, None, jnp.ones(2), "key", jnp.zeros(3, "uint32")]
        for wrong in wrong_ones:
            with pytest.raises(TypeError, match="initialize: key must be a PRNG key, such as"):
                initjax.initialize(shapes("a"), wrong, KERNELS)


MODES = {
    "strict promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "no rank promotion": lambda: jax.numpy_rank_promotion("raise"),
    "x64": lambda: jax.enable_x64(True),
    "debug_nans": lambda: jax.debug_nans(True),
    "leak checks": jax.checking_leaks,
    "no jit": jax.disable_jit,
    "key reuse checks": lambda: jax.debug_key_reuse(True),
}


@pytest.mark.parametrize("mode", MODES)
def test_trees_are_the_same_in_every_mode_of_jax(mode):
    narrow = {"narrow": jax.ShapeDtypeStruct((3, 4), jnp.bfloat16)}
    tree = {"tied": Tied(nnx.Rngs(0)), "shapes": narrow, "function": jax.nn.relu}

    def drawn():
        params = initjax.initialize(tree, jax.random.key(3), {"*": "normal(1.0)"})
        return jax.tree.leaves(initjax.rescale(params, {"*": 0.5}))[1:]  # without the function

    expected = drawn()
    with MODES[mode]():
        found = drawn()
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_raw_key_of_another_kind_is_named():
    key = jax.random.key_data(jax.random.key(0, impl="rbg"))
    with pytest.raises(TypeError, match=r"shape \(4,\); JAX takes a raw key for one of threefry"):
        initjax.initialize(shapes("a"), key, KERNELS)


class Block(linen.Module):
    bias: bool = True

    @linen.compact
    def __call__(self, x, _):
        x = linen.RMSNorm()(x)
        return linen.Dense(8, use_bias=self.bias)(linen.relu(x)), None


def linen_stack(**options):
    stack = linen.scan(Block, {"params": 0}, split_rngs={"params": True}, length=12)(**options)
    return jax.eval_shape(stack.init, jax.random.key(0), jnp.ones((2, 8)), None)["params"]


def nnx_stack():
    make = nnx.vmap(lambda key: nnx.Linear(8, 4, rngs=nnx.Rngs(key)))
    return make(jax.random.split(jax.random.key(0), 12))


def equinox_stack():
    make = equinox.filter_vmap(lambda key: equinox.nn.Linear(8, 4, key=key))
    return make(jax.random.split(jax.random.key(0), 12))


@pytest.mark.parametrize(
    ("tree", "rule", "remedy"),
    [
        (linen_stack(), "he_normal", "3.46 times too small. Write he_normal(batch_axis=0)."),
        (linen_stack(bias=False), "siren", "are too small. Write siren(batch_axis=0)."),
        (nnx_stack(), "glorot_uniform", "3.46 times too small. Write glorot_uniform(batch_axis=0)"),
        (equinox_stack(), "he_normal(-1, -2)", "he_normal(in_axis=-1, out_axis=-2, batch_axis=0)"),
        (linen_stack(), "in_blocks(he_normal)", "Write he_normal(batch_axis=0)."),
        (linen_stack(), "orthogonal", "jax.vmap(lambda key: orthogonal()(key, shape[1:], dtype))"),
    ],
)  # fmt: skip
def test_a_stack_of_kernels_that_counts_as_inputs_warns(tree, rule, remedy, key):
    name = "*weight" if isinstance(tree, equinox.Module) else "*kernel"
    rules = {name: rule, "*": "ones"}
    with pytest.warns(UserWarning, match="looks like a stack of 12 kernels, since ") as caught:
        initjax.initialize(tree, key, rules)
    (warning,) = caught
    assert remedy in str(warning.message) and warning.filename == __file__


def test_a_stack_that_the_rule_knows_of_has_the_variance_of_its_layers(key):
    rules = {"*/kernel": "he_normal(batch_axis=0)", "*": "normal(1.0)"}
    drawn = initjax.initialize(linen_stack(), key, rules)
    assert float(drawn["Dense_0"]["kernel"].var() * 8) == pytest.approx(2, rel=0.3)
    initjax.initialize(linen_stack(), key, {"*": "normal(1.0)"})  # has no fans


def linen_shapes(layer, *shape):
    x = jax.ShapeDtypeStruct(shape, np.float32)
    return jax.eval_shape(layer.init, jax.random.key(0), x)


@pytest.mark.parametrize(
    "tree",
    [
        linen_shapes(linen.Conv(16, (5,)), 2, 9, 8),
        linen_shapes(linen.Conv(8, (8,)), 2, 9, 8),
        linen_shapes(linen.ConvTranspose(8, (3, 3)), 2, 9, 9, 3),
        linen_shapes(linen.DenseGeneral((3, 4, 5)), 2, 3),
        linen_shapes(linen.MultiHeadDotProductAttention(8), 2, 5, 8),
        linen_shapes(linen.MultiHeadDotProductAttention(4, normalize_qk=True), 2, 5, 4),
        equinox.nn.Conv1d(16, 16, 3, groups=16, key=jax.random.key(0)),
        equinox.nn.Conv2d(8, 16, 1, key=jax.random.key(0)),
    ],
    ids=range(8),
)
def test_convolutions_and_attention_are_no_stacks(tree):
    arrays, structure = flatten(tree)
    shapes = {name: array.shape for name, array in zip(structure.names, arrays, strict=True)}
    for spec in ("he_normal", "he_normal(-1, -2)", "he_normal(1, 0)", "orthogonal", "ones"):
        rules = [(name, initjax.parse(spec)) for name, shape in shapes.items() if len(shape) > 1]
        assert stack_warning(shapes, rules) is None


def test_rescale_multiplies_matches_and_keeps_the_rest(key):
    model = linen.Sequential([linen.Dense(8), linen.relu, linen.Dense(3)])
    params = model.init(key, jnp.ones((1, 5)))
    scaled = initjax.rescale(params, {"*_2/kernel": 0.5, "*/kernel": 2.0})
    assert jax.tree.structure(scaled) == jax.tree.structure(params)
    for name, factor in (("layers_0", 2.0), ("layers_2", 0.5)):
        before, after = params["params"][name], scaled["params"][name]
        np.testing.assert_array_equal(after["kernel"], factor * np.asarray(before["kernel"]))
        assert after["bias"] is before["bias"]


def test_rescale_rounds_a_narrow_product_once():
    leaf = jnp.arange(1, 200, dtype="bfloat16")
    scaled = initjax.rescale({"a": leaf}, {"a": 0.3})["a"]
    expected = (np.arange(1, 200, dtype=np.float32) * np.float32(0.3)).astype(leaf.dtype)
    np.testing.assert_array_equal(scaled, expected)
    once = leaf * jnp.bfloat16(0.3)
    assert scaled.dtype == leaf.dtype and not np.array_equal(once, expected)


def test_rescale_takes_four_bits():
    leaf = jnp.asarray([0.5, 1.0, -3.0], "float4_e2m1fn")
    scaled = initjax.rescale({"a": leaf}, {"a": 2.0})["a"]
    assert scaled.dtype == leaf.dtype and scaled.astype("float32").tolist() == [1.0, 2.0, -6.0]


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "complex128"])
def test_rescale_keeps_the_types_of_numpy(dtype):
    dtype = jnp.dtype(dtype)
    tree = {"a": np.ones(3, dtype), "b": np.ones((), dtype), "c": dtype.type(1)}
    for name, leaf in initjax.rescale(tree, {"*": 1 + 2**-40}).items():
        assert (type(leaf), leaf.dtype) == (type(tree[name]), dtype)
        wide = np.float64 if dtype.itemsize > 4 else np.float32
        np.testing.assert_array_equal(leaf, np.asarray(wide(1 + 2**-40)).astype(dtype))


def test_rescale_works_with_nnx_and_under_jit(key):
    model = nnx.Linear(5, 4, rngs=nnx.Rngs(0))
    nnx.update(
        model, jax.jit(lambda state: initjax.rescale(state, {"kernel": 0.0}))(nnx.state(model))
    )
    assert not model(jnp.ones((2, 5))).any()


@pytest.mark.parametrize(
    ("params", "factors", "error", "message"),
    [
        ({"a": np.ones(2)}, {"b": 2.0}, ValueError, "no parameter matches 'b'; the paths are a"),
        ({"a": np.ones(2)}, {"a": np.nan}, ValueError, "factor of 'a' must be a finite number"),
        ({"a": np.ones(2)}, {"a": initjax.ones}, TypeError, "factor of 'a' must be a real number"),
        ({"a": np.ones(2)}, 2.0, TypeError, "must map patterns to numbers, got 2.0"),
        ({"a": np.ones(2)}, {0: 2.0}, TypeError, "must map patterns to numbers, got {0: 2.0}"),
        (shapes("a"), {"*": 2.0}, ValueError, "'a/kernel' has no value to multiply"),
        ({"a": jnp.ones(2)}, {"a": 1e60}, ValueError, "'a': float32 can't hold the factor 1e\\+60"),
        ({"a": np.ones(2, "float16")}, {"a": 1e-60}, ValueError, "'a': float32 can't hold"),
    ],
)
def test_rescale_refuses_invalid_factors(params, factors, error, message):
    with pytest.raises(error, match=message):
        initjax.rescale(params, factors)


def test_rescale_refuses_factors_that_are_traced_or_keys(key):
    tree = {"a": np.ones(2)}
    with pytest.raises(TypeError, match="factor of 'a' must be a number that is known outside of"):
        jax.jit(lambda factor: initjax.rescale(tree, {"a": factor}))(2.0)
    with pytest.raises(TypeError, match=r"factor of 'a' must be a number .* got a PRNGKeyArray"):
        initjax.rescale(tree, {"a": key})


def test_two_parameters_with_one_path_are_refused(key):
    with pytest.raises(ValueError, match="two parameters have the path 'a/b'"):
        initjax.initialize({"a/b": jnp.ones(3), "a": {"b": jnp.ones(3)}}, key, KERNELS)


def test_rbg_keys_equal_named_key():
    key = jax.random.key(0, impl="unsafe_rbg")
    drawn = initjax.initialize(shapes("a"), key, KERNELS)["a"]["kernel"]
    own = initjax.named_key(key, "a/kernel")
    np.testing.assert_array_equal(drawn, initjax.he_normal()(own, (5, 4)))


def test_shapes_made_under_a_mesh_of_one_device_are_drawn_there(key):
    def make():
        init = nnx.with_partitioning(nnx.initializers.lecun_normal(), (None, "x"))
        return nnx.Linear(8, 16, kernel_init=init, rngs=nnx.Rngs(0))

    rules = {"*": initjax.normal(1.0)}
    expected = initjax.initialize(nnx.Linear(8, 16, rngs=nnx.Rngs(0)), key, rules)
    with jax.set_mesh(jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))):
        abstract = nnx.eval_shape(make)
        drawn = initjax.initialize(abstract, key, rules)
        assert drawn.kernel[...].sharding == make().kernel[...].sharding
    for module in (drawn, initjax.initialize(abstract, key, rules)):
        np.testing.assert_array_equal(module.kernel[...], expected.kernel[...])


MESH = """
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
import initjax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec

key, rules = jax.random.key(0), {"*bias": initjax.zeros, "*": initjax.he_normal()}
size = 2**11
shapes = {"kernel": (size, size), "bias": (size,)}
def tree(make):
    return {name: make(name, shape) for name, shape in shapes.items()}

plain = tree(lambda name, shape: jax.ShapeDtypeStruct(shape, "float32"))
alone = initjax.initialize(plain, key, rules)
for mesh in (jax.make_mesh((8,), ("x",)), jax.make_mesh((2, 4), ("y", "x"))):
    axes = {"kernel": PartitionSpec(*mesh.axis_names), "bias": PartitionSpec("x")}
    shardings = tree(lambda name, shape: NamedSharding(mesh, axes[name]))
    jitted = jax.jit(lambda key: initjax.initialize(plain, key, rules), out_shardings=shardings)
    memory = jitted.lower(key).compile().memory_analysis()
    # Each device holds and computes only an eighth.
    assert memory.output_size_in_bytes < 4 * size * size / 8 + 8 * size
    assert memory.temp_size_in_bytes < 4 * 4 * size * size / 8, memory.temp_size_in_bytes
    sharded = tree(
        lambda name, shape: jax.ShapeDtypeStruct(shape, "float32", sharding=shardings[name])
    )
    for drawn in (jitted(key), initjax.initialize(sharded, key, rules)):
        for name in shapes:
            assert drawn[name].sharding.is_equivalent_to(shardings[name], len(shapes[name]))
            np.testing.assert_array_equal(drawn[name], alone[name])
"""


def test_each_device_draws_its_shard_and_the_mesh_does_not_matter():
    run_on_cpus(MESH)


BITS = """
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
import initjax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

key, shape = jax.random.key(0), (64, 96)
def mesh(*sizes, kind=AxisType.Auto):
    return jax.make_mesh(sizes, ("y", "x")[: len(sizes)], axis_types=(kind,) * len(sizes))

shardings = [
    NamedSharding(mesh(8), PartitionSpec("y")),
    NamedSharding(mesh(8), PartitionSpec(None, "y")),
    NamedSharding(mesh(2, 4), PartitionSpec("y", "x")),
    NamedSharding(mesh(8, kind=AxisType.Explicit), PartitionSpec("y")),
]
def wrapped(key, shape, dtype):
    return initjax.truncated_normal(0.3, None, -1.2, 2.6)(key, shape, dtype)

for index, rule in enumerate([initjax.parse(spec) for spec in {specs!r}] + [wrapped]):
    plain = {{"a": jax.ShapeDtypeStruct(shape, "float32")}}
    eager = initjax.initialize(plain, key, {{"*": rule}})["a"]
    draw = lambda key: initjax.initialize(plain, key, {{"*": rule}})["a"]
    jitted = jax.jit(draw)(key)
    np.testing.assert_allclose(eager, jitted, rtol=1e-4, atol=1e-6)
    for sharding in shardings if {thorough} or index < 3 else shardings[2:3]:
        leaf = jax.ShapeDtypeStruct(shape, "float32", sharding=sharding)
        drawn = initjax.initialize({{"a": leaf}}, key, {{"*": rule}})["a"]
        assert drawn.sharding.is_equivalent_to(sharding, 2)
        np.testing.assert_array_equal(drawn, eager, err_msg=str((rule, sharding)))
        drawn = jax.jit(draw, out_shardings=sharding)(key)
        np.testing.assert_array_equal(drawn, jitted, err_msg=str((rule, sharding)))
"""


@pytest.mark.parametrize("thorough", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_no_sharding_changes_a_bit(thorough):
    """The first three in all shardings; the others only along both axes, except in slow tests."""
    specs = ["normal(0.02)", "orthogonal", "sparse(7, 0.02)", "he_normal", "glorot_uniform"]
    specs += ["random_walk", "truncated_normal(0.3, None, -1.2, 2.6)", "random_normal(1.0, 0.2)"]
    specs += ["bounded_normal(1.46, 0.288, 0.13, 1.16)", "icnr(normal(0.02), 2)"]
    code = BITS.format(specs=specs, thorough=thorough)
    run_on_cpus(code)


COMPILED = """
import logging
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
import initjax
from jax.sharding import NamedSharding, PartitionSpec

messages = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
logging.getLogger("jax").addHandler(handler)
sharding = NamedSharding(jax.make_mesh((4,), ("x",)), PartitionSpec("x"))
leaf = jax.ShapeDtypeStruct((64, 32), "float32", sharding=sharding)
tree = {str(index): leaf for index in range(10)}
def compilations(*rules):
    messages.clear()
    with jax.log_compiles():
        for rule in rules:
            initjax.initialize(tree, jax.random.key(0), {"*": rule})
    return len([message for message in messages if message.startswith("Compiling")])

compilations(initjax.siren())  # compiles the keys and everything but the draw
assert compilations(*map(initjax.normal, (0.1, 0.2, 0.3))) == 1
assert compilations(initjax.he_normal(), initjax.glorot_normal()) == 1
assert compilations(*[initjax.orthogonal()] * 3) == 1
"""


def test_sharded_leaves_of_one_shape_and_kind_compile_once():
    run_on_cpus(COMPILED)


DEVICES = """
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
import initjax, numpy as np
from jax.sharding import SingleDeviceSharding

key, (first, second) = jax.random.key(0), jax.devices()
there = SingleDeviceSharding(second)
for rule in (initjax.normal(), initjax.orthogonal(), initjax.zeros):
    free = np.zeros((3, 4), "float32")
    put = jax.device_put(free, second)
    wanted = jax.ShapeDtypeStruct((3, 4), "float32", sharding=there)
    tree = {"free": jax.numpy.asarray(free), "put": put, "wanted": wanted}
    drawn = initjax.initialize(tree, key, {"*": rule})
    assert drawn["put"].sharding == drawn["wanted"].sharding == there
    assert drawn["free"].devices() == {first} and not drawn["free"].committed
    for name in tree:
        alone = rule(initjax.named_key(key, name), (3, 4), "float32")
        np.testing.assert_array_equal(drawn[name], alone)
"""


def test_a_leaf_stays_on_its_device():
    run_on_cpus(DEVICES)


@pytest.mark.parametrize("stack", [(3,), (2, 3)])
def test_the_initializer_that_a_warning_writes_draws_every_kernel_by_itself(stack, key):
    shapes = {
        "bias": jax.ShapeDtypeStruct((*stack, 8), "float32"),
        "kernel": jax.ShapeDtypeStruct((*stack, 8, 8), "float32"),
    }
    with pytest.warns(UserWarning, match="Draw each by itself") as caught:
        initjax.initialize(shapes, key, {"kernel": initjax.orthogonal(), "*": initjax.zeros})
    written = str(caught[0].message).partition("Draw each by itself: ")[2]
    drawn = eval(written, {"jax": jax, "orthogonal": initjax.orthogonal})
    drawn = np.asarray(drawn(key, (*stack, 8, 8), "float32"), float)
    gram = np.swapaxes(drawn, -1, -2) @ drawn
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(8), gram.shape), atol=1e-5)
