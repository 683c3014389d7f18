"""The draws that a plan asks for: by its rules, and by scaling a model's own draw."""

import itertools

import equinox
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from initjax import initialize, parametrize


def shape(*sizes, dtype="float32"):
    return jax.ShapeDtypeStruct(sizes, dtype)


def mlp(width, dtype="float32"):
    return {
        str(number): {"kernel": shape(*pair, dtype=dtype), "bias": shape(pair[1], dtype=dtype)}
        for number, pair in enumerate(itertools.pairwise([20, width, width, 10]))
    }


def size(array):
    return float(np.sqrt(np.square(np.asarray(array, "float64")).mean()))


# Rules.


@pytest.mark.parametrize(
    ("made", "fans"),  # in the base model
    [("glorot_uniform", (22, 24, 17)), ("orthogonal", (24, 24, 24))],
)
def test_rules_draw_like_the_base_model_times_the_factor(made, fans, key):
    plan = parametrize(mlp(96), mlp(24), "mup", init={"*kernel": made})
    own = initialize(mlp(96), key, {**plan.rules, "*bias": "zeros"})
    for number, fan, factor in zip("012", fans, (1, 1 / 2, 1 / 4), strict=True):
        kernel = own[number]["kernel"]
        error = 5 * (2 * kernel.size) ** -0.5
        assert size(kernel) == pytest.approx(factor * fan**-0.5, rel=error)


def test_initializers_of_other_libraries_are_measured():
    given = {"w": nn.initializers.he_normal()}
    rules = parametrize({"w": shape(32, 10)}, {"w": shape(8, 10)}, init=given).rules
    assert repr(rules["w"]).startswith("0.5 * <function")  # exactly: 1/4 of 2


def test_rules_at_base_width_are_the_base_initializers():
    made = nn.initializers.he_normal()
    given = {"0/kernel": made, "*kernel": "glorot_uniform"}
    plan = parametrize(mlp(24), mlp(24), "completep", init=given)
    assert plan.rules["0/kernel"] is made
    assert {path: repr(rule) for path, rule in plan.rules.items() if path != "0/kernel"} == {
        "1/kernel": "glorot_uniform()",
        "2/kernel": "glorot_uniform()",
    }


def test_without_init_kernels_and_embeddings_have_flax_s_defaults():
    trees = [
        {"e": {"embedding": shape(99, width)}, "k": {"kernel": shape(width, 2, width)}}
        for width in (64, 16)
    ]
    rules = parametrize(trees[0], trees[1], "standard").rules
    assert repr(rules["k/kernel"]) == "lecun_normal(in_axis=(0,), out_axis=(1, 2))"
    assert repr(rules["e/embedding"]).startswith("2 * variance_scaling(1.0, 'fan_in', 'normal'")


def test_scaled_draws_in_every_form(key, same_bits):
    shapes = {"hidden": shape(64, 64)}
    rules = parametrize(shapes, {"hidden": shape(16, 64)}, "mup").rules
    own = initialize(shapes, key, rules)["hidden"]
    compiled = jax.jit(lambda key: initialize(shapes, key, rules))(key)["hidden"]
    np.testing.assert_allclose(compiled, own, rtol=1e-6, atol=1e-7)
    sharding = NamedSharding(jax.make_mesh((jax.device_count(),), ("x",)), PartitionSpec("x"))
    placed = {"hidden": jax.device_put(jnp.zeros((64, 64)), sharding)}
    sharded = initialize(placed, key, rules)["hidden"]
    same_bits(sharded, own)
    assert sharded.sharding == sharding
    narrow = initialize({"hidden": shape(64, 64, dtype="bfloat16")}, key, rules)["hidden"]
    same_bits(narrow, own.astype("bfloat16"))  # rounded once


# Rescaling a model's own draw. NumPy draws, since JAX would compile for seconds.


def normal(stddev):
    return lambda rng, shape: rng.normal(size=shape) * stddev(*shape)


def uniform(bound):
    return lambda rng, shape: rng.uniform(-1, 1, shape) * bound(*shape)


def orthogonal(rng, shape):
    long, short = max(shape), min(shape)
    matrix = np.linalg.qr(rng.normal(size=(long, short)))[0]
    return matrix if shape == (long, short) else matrix.T


KINDS = {
    "normal": (normal(lambda i, o: 0.02), lambda i, o: 0.02),
    "fan_in": (normal(lambda i, o: i**-0.5), lambda i, o: i**-0.5),
    "he": (normal(lambda i, o: (2 / i) ** 0.5), lambda i, o: (2 / i) ** 0.5),
    "glorot": (uniform(lambda i, o: (6 / (i + o)) ** 0.5), lambda i, o: (2 / (i + o)) ** 0.5),
    "fan_out": (normal(lambda i, o: o**-0.5), lambda i, o: o**-0.5),
    "torch": (uniform(lambda i, o: i**-0.5), lambda i, o: (3 * i) ** -0.5),
    "orthogonal": (orthogonal, lambda i, o: max(i, o) ** -0.5),
    # Numbers alone don't tell these.
    "odd number": (normal(lambda i, o: 0.0137), lambda i, o: 0.0137),
    "odd gain": (normal(lambda i, o: 0.7 * i**-0.5), lambda i, o: 0.7 * i**-0.5),
    "1/fan_in": (normal(lambda i, o: 1 / i), lambda i, o: 1 / i),
}
TOLD = [name for name in KINDS if name not in ("fan_out", "odd number", "odd gain", "1/fan_in")]


def drawn(width, seed, name):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: (
            KINDS[name][0](rng, leaf.shape) if len(leaf.shape) > 1 else np.zeros(leaf.shape)
        ).astype("float32"),
        mlp(width),
    )


def check(name, seed, widths, known):
    own = drawn(widths[0], seed, name)
    base = drawn(widths[1], seed + 1000, name) if known == "arrays" else mlp(widths[1])
    plan = parametrize(own, base, "mup")
    found = plan.rescale(own)
    for leaf in plan.leaves:
        number, part = leaf.path.split("/")
        before, after = own[number][part], found[number][part]
        if part == "bias":
            np.testing.assert_array_equal(after, 0)
            continue
        before_law, after_law = (KINDS[name][1](*s) for s in (leaf.shape, leaf.base_shape))
        assert after[0, 0] / before[0, 0] == pytest.approx(
            leaf.stddev * after_law / before_law, rel=0.2 if name == "1/fan_in" else 1e-5
        ), (leaf.path, seed)


@pytest.mark.parametrize("name", KINDS)
def test_beside_a_base_model_s_draw_any_law_is_scaled_right(name):
    for seed in range(5):
        check(name, seed, (128, 32), "arrays")


@pytest.mark.parametrize("name", TOLD)
def test_shapes_alone_suffice_for_the_laws_that_models_use(name):
    for seed in range(3):
        check(name, seed, (128, 32), "shapes")


def test_what_shapes_do_not_tell_says_what_to_pass():
    for name in ("odd number", "odd gain", "1/fan_in"):
        own = drawn(128, 0, name)
        message = (
            r"^rescale: it can't be told what ./kernel is drawn from: normal\(.*\. Give parametrize"
            r" the base model's arrays in place of .*, init=\{'./kernel': \.\.\.\}$"
        )
        with pytest.raises(ValueError, match=message):
            parametrize(own, mlp(32)).rescale(own)
    told = parametrize(own, mlp(32), init={"*kernel": "normal(0.01)"}).rescale(own)
    np.testing.assert_allclose(told["2"]["kernel"], own["2"]["kernel"] / 4, rtol=1e-6)


def test_biases_like_those_of_pytorch_follow_their_kernels():
    def net(width, seed):
        rng = np.random.default_rng(seed)
        layers = [(20, width), (width, width), (width, 10)]
        model = equinox.filter_eval_shape(equinox.nn.MLP, 20, 10, width, 2, key=jax.random.key(0))
        arrays = [
            np.float32(rng.uniform(-1, 1, size) * fan_in**-0.5)
            for fan_in, fan_out in layers
            for size in ((fan_out, fan_in), (fan_out,))
        ]
        return equinox.tree_at(
            lambda net: [part for layer in net.layers for part in (layer.weight, layer.bias)],
            model,
            arrays,
        )

    own, base = net(256, 0), net(64, 1)
    shapes = equinox.filter_eval_shape(equinox.nn.MLP, 20, 10, 64, 2, key=jax.random.key(0))
    for known in (base, shapes):
        found = parametrize(own, known).rescale(own)
        assert isinstance(found, equinox.nn.MLP) and found.activation is own.activation
        bounds = [float(np.abs(np.asarray(layer.bias)).max()) for layer in found.layers[:2]]
        assert bounds == pytest.approx([20**-0.5, 64**-0.5], rel=0.05)  # those of the base model
        np.testing.assert_array_equal(found.layers[2].bias, own.layers[2].bias)
        kernels = [float(jnp.abs(layer.weight).max()) for layer in found.layers]
        # In the base model 20**-0.5, 1/8 and 1/8, and these times 1, 1/2 and 1/4.
        assert kernels == pytest.approx([20**-0.5, 1 / 16, 1 / 32], rel=0.01)


def test_one_layer_that_looks_odd_is_told_by_its_neighbors():
    rng = np.random.default_rng(0)

    def net(width):
        return {f"block_{n}": {"kernel": shape(width, width)} for n in range(3)}

    own = {name: {"kernel": rng.normal(size=(64, 64)).astype("float32") / 8} for name in net(64)}
    own["block_0"]["kernel"] += 0.02 * np.sign(own["block_0"]["kernel"])  # no law fits
    found = parametrize(own, net(16)).rescale(own)
    for name in own:
        np.testing.assert_allclose(found[name]["kernel"], own[name]["kernel"], rtol=1e-6)


def test_at_equal_widths_a_draw_stays_as_it_is():
    own = drawn(32, 0, "odd number")
    assert parametrize(own, mlp(32)).rescale(own) is own


def test_only_floating_random_leaves_are_scaled():
    def tree(width, seed):
        values = np.random.default_rng(seed).normal(size=(width, 100))
        return {
            "head": {"kernel": values / width**0.5},  # NumPy's float64
            "gain": jnp.full(width, 3.0),
            "zero": jnp.zeros((width, 2)),
            "step": jnp.zeros((), "int32"),
            "key": jax.random.key(seed),
            "half": jnp.asarray(values / width**0.5, "bfloat16"),
        }

    own, base = tree(256, 0), tree(64, 1)
    plan = parametrize(own, base)
    found = plan.rescale(own)
    assert {leaf.path for leaf in plan.leaves} == {"gain", "half", "head/kernel", "zero"}
    assert isinstance(found["head"]["kernel"], np.ndarray)
    np.testing.assert_allclose(found["head"]["kernel"], own["head"]["kernel"] / 2, rtol=1e-12)
    np.testing.assert_array_equal(found["half"], own["half"] / 2)
    for name in ("gain", "zero", "step", "key"):
        assert found[name] is own[name]


def test_a_module_of_nnx_keeps_its_statistics():
    class Net(nnx.Module):
        def __init__(self, width, seed):
            rng = np.random.default_rng(seed)
            self.kernel = nnx.Param(rng.normal(size=(width, 99)) / width**0.5)
            self.var = nnx.BatchStat(jnp.ones(width))
            self.rngs = nnx.Rngs(0)

    own = Net(64, 0)
    for model, base in ((own, Net(16, 1)), (nnx.state(own), nnx.state(Net(16, 1)))):
        found = parametrize(model, base).rescale(model)
        assert type(found) is type(model)
        state = nnx.state(found)
        scaled = np.asarray(state["kernel"][...])
        np.testing.assert_allclose(scaled, np.asarray(own.kernel[...]) / 2, rtol=1e-6)
        np.testing.assert_array_equal(np.asarray(state["var"][...]), 1)


def test_it_runs_inside_jit_if_the_initializers_are_told():
    own = drawn(64, 0, "fan_in")
    told = parametrize(own, mlp(16), init={"*kernel": "lecun_normal", "*bias": "zeros"})
    scaled = jax.jit(told.rescale)(own)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), scaled, told.rescale(own)
    )
    with pytest.raises(ValueError, match=r"0/bias has no numbers to look at; .* init="):
        jax.eval_shape(parametrize(own, mlp(16)).rescale, own)


def test_what_rescale_is_given_must_fit():
    own = drawn(64, 0, "fan_in")
    plan = parametrize(own, mlp(16))
    with pytest.raises(ValueError, match=r"rescale: 0/bias has the shape \(16,\), .*\(64,\)"):
        plan.rescale(drawn(16, 0, "fan_in"))
    with pytest.raises(ValueError, match=r"no parameter 'params/0/bias'; .* It has 0/bias, "):
        plan.rescale({"params": own})
    own["1"]["kernel"][0, 0] = np.nan
    with pytest.raises(ValueError, match=r"rescale: 1/kernel isn't finite"):
        plan.rescale(own)


def test_rules_draw_from_the_same_initializers_at_the_base_width():
    def shapes(width):
        sizes = {
            "query/kernel": (width, 4, width // 4),
            "out/kernel": (4, width // 4, width),
            "embedding": (50, width),
            "blocks/kernel": (3, width, width),
            "blocks/bias": (3, width),
            "blocks/gain": (3, width),
        }
        return {path: jax.ShapeDtypeStruct(size, "float32") for path, size in sizes.items()}

    def initializers(width):
        plan = parametrize(shapes(width), shapes(64))
        return {leaf.path: leaf.base_initializer for leaf in plan.leaves}

    wide = initializers(256)
    assert repr(wide["blocks/kernel"]).endswith("batch_axis=(0,))")
    assert wide["blocks/gain"] is None
    for path, base in initializers(64).items():
        own = wide[path]
        if base is None or own is None:
            assert base is own
            continue
        squares = [
            float(jnp.square(made(jax.random.key(0), shapes(64)[path].shape)).mean())
            for made in (base, own)
        ]
        assert squares[0] == pytest.approx(squares[1], rel=1e-3), path
