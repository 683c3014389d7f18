"""Trees of parameters: every draw depends on the key, its own path and nothing else."""

import subprocess
import sys
from typing import NamedTuple

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import initjax

RULES = {"*bias": initjax.zeros, "*": initjax.he_normal()}
KERNELS = {"*": initjax.he_normal()}


def shapes(*names):
    return {name: {"kernel": jax.ShapeDtypeStruct((5, 4), np.float32)} for name in names}


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


def test_an_empty_tree_stays_empty(key):
    assert initjax.initialize({}, key, RULES) == {}


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
        ({"*": initjax.ones, "*bias": initjax.zeros}, r"no parameter matches '\*bias'.*a/kernel"),
        ({"*": initjax.he_normal}, "a/kernel: .*is a PRNG key"),
        ({1: initjax.zeros}, "rules must map patterns to initializers"),
        ({"*": 0.5}, "rules must map patterns to initializers"),
    ],
)
def test_invalid_rules_are_refused(rules, message, key):
    with pytest.raises((TypeError, ValueError), match=message):
        initjax.initialize(shapes("a"), key, rules)


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
    ],
)
def test_rescale_refuses_invalid_factors(params, factors, error, message):
    with pytest.raises(error, match=message):
        initjax.rescale(params, factors)


def test_two_parameters_with_one_path_are_refused(key):
    with pytest.raises(ValueError, match="two parameters have the path 'a/b'"):
        initjax.initialize({"a/b": jnp.ones(3), "a": {"b": jnp.ones(3)}}, key, KERNELS)


def test_rbg_keys_equal_named_key():
    key = jax.random.key(0, impl="unsafe_rbg")
    drawn = initjax.initialize(shapes("a"), key, KERNELS)["a"]["kernel"]
    own = initjax.named_key(key, "a/kernel")
    np.testing.assert_array_equal(drawn, initjax.he_normal()(own, (5, 4)))


MESH = """
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
import initjax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec

key, rules = jax.random.key(0), {"*bias": initjax.zeros, "*": initjax.he_normal()}
size = 2**12
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
    subprocess.run([sys.executable, "-c", MESH], check=True)


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
    subprocess.run([sys.executable, "-c", code], check=True)


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
    subprocess.run([sys.executable, "-c", COMPILED], check=True)


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
    subprocess.run([sys.executable, "-c", DEVICES], check=True)
