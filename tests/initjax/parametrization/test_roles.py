"""Roles and counterparts: what two trees of shapes tell of a model, in every library."""

import equinox
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from initjax import parametrize


def shape(*sizes, dtype="float32"):
    return jax.ShapeDtypeStruct(sizes, dtype)


def roles(params, base_params, **options):
    plan = parametrize(params, base_params, **options)
    return {leaf.path: leaf.role for leaf in plan.leaves}


def leaf(own, base, name="kernel", **options):
    """A parameter of a layer by itself."""
    params, base_params = ({"layer": {name: shape(*sizes)}} for sizes in (own, base))
    (found,) = parametrize(params, base_params, **options).leaves
    return found


class LinenNet(nn.Module):
    """Has a layer of each kind."""

    width: int
    heads: int = 2

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, self.width)(tokens)
        x = nn.Conv(self.width, (3,))(x)
        x = nn.MultiHeadDotProductAttention(self.heads)(x)
        x = nn.BatchNorm(use_running_average=True)(x)
        return nn.Dense(5)(nn.LSTMCell(self.width)((x, x), x)[1])


def linen(width, heads=2):
    tokens = jnp.zeros((1, 4), int)
    return jax.eval_shape(LinenNet(width, heads).init, jax.random.key(0), tokens)


def test_the_layers_of_linen():
    for heads in (2, 4):  # the features of a head grow, or their number
        found = roles(linen(16, heads), linen(8))
        assert found["params/Embed_0/embedding"] == "embedding"
        assert found["params/Dense_0/kernel"] == "output"
        assert found["params/Dense_0/bias"] == "scalar"
        assert found.pop("batch_stats/BatchNorm_0/mean") == "vector"
        del found["params/Embed_0/embedding"], found["params/Dense_0/kernel"]
        kernels = {path: role for path, role in found.items() if path.endswith("kernel")}
        assert len(kernels) == 5 + 8 and set(kernels.values()) == {"hidden"}
        del found["params/Dense_0/bias"]
        assert {found[path] for path in found if path not in kernels} == {"vector"}


class NNXNet(nnx.Module):
    def __init__(self, width, rngs):
        self.first = nnx.Linear(7, width, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)  # its counts and keys have no role
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.last = nnx.Linear(width, 3, rngs=rngs)


def test_a_module_of_nnx_and_its_state_are_alike():
    own, base = (nnx.eval_shape(lambda w=width: NNXNet(w, nnx.Rngs(0))) for width in (16, 8))
    found = roles(own, base)
    assert found == {
        "first/kernel": "input",
        "first/bias": "vector",
        "norm/scale": "vector",
        "norm/bias": "vector",
        "norm/mean": "vector",
        "norm/var": "vector",
        "last/kernel": "output",
        "last/bias": "scalar",
    }
    assert roles(nnx.state(own), nnx.state(base)) == found
    params = [nnx.split(model, nnx.Param, ...)[1] for model in (own, base)]
    assert roles(*params) == {
        path: found[path] for path in found if path[5:] not in ("mean", "var")
    }


def equinox_net(width):
    keys = iter(jax.random.split(jax.random.key(0), 9))
    return {
        "embed": equinox.nn.Embedding(11, width, key=next(keys)),
        "conv": equinox.nn.Conv1d(3, width, 5, key=next(keys)),
        "cell": equinox.nn.GRUCell(3, width, key=next(keys)),
        "mlp": equinox.nn.MLP(3, 5, width, 2, key=next(keys)),
        "stack": equinox.filter_vmap(lambda key: equinox.nn.Linear(width, width, key=key))(
            jax.random.split(next(keys), 4)
        ),
        "out": equinox.nn.Conv2d(width, 3, 2, key=next(keys)),
        "norm": equinox.nn.LayerNorm(width),
    }


def test_kernels_of_equinox_are_out_before_in():
    nets = [equinox.filter_eval_shape(equinox_net, width) for width in (16, 8)]
    plan = parametrize(*nets)
    found = {each.path: (each.role, each.fan_in, each.ratio) for each in plan.leaves}
    kernels = {path: found[path] for path in found if "weight" in path and "norm" not in path}
    assert kernels == {
        "embed/weight": ("embedding", 11, 2),
        "conv/weight": ("input", 15, 2),
        "cell/weight_ih": ("input", 3, 2),
        "cell/weight_hh": ("hidden", 16, 2),
        "mlp/layers/0/weight": ("input", 3, 2),
        "mlp/layers/1/weight": ("hidden", 16, 2),
        "mlp/layers/2/weight": ("output", 16, 2),
        "stack/weight": ("hidden", 4 * 16, 2),
        "out/weight": ("output", 64, 2),
    }
    others = {found[path][0] for path in found if path not in kernels}
    assert others == {"vector", "scalar"}  # the norm's weight, and all biases
    assert found["mlp/layers/2/bias"][0] == found["out/bias"][0] == "scalar"


@pytest.mark.parametrize(
    ("own", "base", "role", "fan_in", "ratio"),
    [
        ((8, 4), (8, 2), "input", 8, 2),
        ((8, 4), (4, 4), "output", 8, 2),
        ((3, 3, 8, 8), (3, 3, 4, 2), "hidden", 72, 2),
        ((3, 3, 1, 8), (3, 3, 1, 4), "input", 9, 2),  # by channel
        ((3, 3, 8, 5), (3, 3, 4, 5), "output", 72, 2),
        ((5, 4, 8), (5, 2, 4), "hidden", 20, 2),
        # Queries, whose heads grow in number, in size, and in both.
        ((64, 8, 4), (32, 4, 4), "hidden", 64, 2),
        ((64, 2, 32), (32, 2, 16), "hidden", 64, 2),
        ((64, 4, 16), (16, 2, 8), "hidden", 64, 4),
        ((64, 1, 64), (16, 1, 16), "hidden", 64, 4),
        ((64, 3, 8, 8), (32, 3, 4, 8), "hidden", 64, 2),
        ((64, 3, 2, 32), (32, 3, 2, 16), "hidden", 64, 2),
        # What leads out of heads.
        ((8, 4, 32), (4, 4, 16), "hidden", 32, 2),
        ((2, 16, 32), (2, 8, 16), "hidden", 32, 2),
        ((4, 16, 64), (2, 8, 16), "hidden", 64, 4),
        ((8, 4, 6), (4, 4, 6), "output", 8, 2),
        ((6, 8, 4), (6, 8, 2), "input", 48, 2),
        ((1, 9, 8), (1, 9, 4), "input", 9, 2),  # embeddings of positions
        ((4, 8), (8, 16), "hidden", 4, 0.5),  # a narrower model
        ((4, 8), (4, 8), "scalar", 4, 1),
        ((), (), "scalar", 1, 1),
    ],
)
def test_axes_that_grow_tell_the_role(own, base, role, fan_in, ratio):
    found = leaf(own, base)
    assert (found.role, found.fan_in, found.ratio) == (role, fan_in, ratio)


def test_biases_may_have_several_axes():
    assert leaf((4, 8), (2, 8), "bias").role == "vector"
    assert leaf((4, 8), (2, 8), "bias", roles={"layer/*": "hidden"}).role == "vector"
    assert leaf((4, 8), (2, 8), "bias", roles={"*bias": "scalar"}).role == "scalar"


@pytest.mark.parametrize("name", ["embedding", "embeddings"])
def test_embeddings_are_told_by_their_names(name):
    assert leaf((50, 8), (50, 4), name).role == "embedding"
    assert leaf((60, 8), (50, 4), name).role == "embedding"  # of more words
    assert leaf((60, 4), (50, 4), name).role == "scalar"


@pytest.mark.parametrize(
    ("own", "base", "name"),
    [((3, 8, 5), (3, 4, 5), "kernel"), ((8, 5), (4, 5), "weight"), ((8, 8), (4, 2), "weight")],
)
def test_axes_that_are_unclear_can_be_told(own, base, name):
    with pytest.raises(ValueError, match=rf"layer/{name}, .* roles=\{{'layer/{name}': 'input'"):
        leaf(own, base, name)
    ratio = own[0] / base[0] if len(own) == 2 else 2
    for role, factor in {"output": 1 / ratio, "input": 1, "vector": 1}.items():
        found = leaf(own, base, name, roles={"*": role})
        assert (found.role, found.why) == (role, "told by roles")
        if len(own) == 3 or own != (8, 8):
            assert found.learning_rate == factor


def test_a_role_that_is_told_decides_about_the_axes():
    # Stored as (out, in), which shapes don't show.
    assert leaf((10, 8), (10, 2), roles={"*": "output"}).learning_rate == 1 / 4
    assert leaf((8, 10), (2, 10), roles={"*": "input"}).learning_rate == 1
    assert leaf((8,), (2,), "head", roles={"*": "output"}).stddev == 1 / 4
    tied = parametrize({"e": shape(50, 8)}, {"e": shape(50, 2)}, roles={"e": "tied"})
    assert tied.multipliers["logits"].value == 1 / 4


def test_the_first_pattern_that_matches_decides():
    given = {"layer/*": "input", "*": "output"}
    assert leaf((8, 4), (4, 2), roles=given).role == "input"


# Deeper models.


def mlp(width, layers, features=784, biases=True):
    sizes = [features, *[width] * layers]
    found = {}
    for number, (fan_in, fan_out) in enumerate(zip(sizes, [*sizes[1:], 10], strict=True)):
        found[f"Dense_{number}"] = {"kernel": shape(fan_in, fan_out)}
        if biases:
            found[f"Dense_{number}"]["bias"] = shape(fan_out)
    return found


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize(("width", "layers"), [(256, 5), (64, 5), (256, 1), (32, 3)])
def test_the_layers_of_a_deeper_mlp_are_found_by_their_shapes(width, layers, biases):
    own, base = mlp(width, layers, biases=biases), mlp(64, 2, biases=biases)
    plan = parametrize(own, base, depth=(2, layers))
    found = {leaf.path: leaf for leaf in plan.leaves}
    assert found["Dense_0/kernel"].base_shape == (784, 64)
    assert found[f"Dense_{layers}/kernel"].base_shape == (64, 10)
    for number in range(1, layers):
        assert found[f"Dense_{number}/kernel"].base_shape == (64, 64)
    inner = {path for path in found if 1 <= int(path[6]) < layers}
    assert {path for path in found if found[path].in_block} == inner


def test_layers_that_look_alike_need_a_base_model_of_the_same_depth():
    own = mlp(256, 5, features=256)
    with pytest.raises(ValueError, match=r"'Dense_2/bias'.* with as many layers as params"):
        parametrize(own, mlp(64, 2, features=256), depth=(2, 5))
    found = {
        leaf.path: (leaf.role, leaf.in_block)
        for leaf in parametrize(own, mlp(64, 5, features=256), depth=(2, 5)).leaves
    }
    assert found["Dense_0/kernel"] == ("input", False)
    assert found["Dense_3/kernel"] == ("hidden", True)
    assert found["Dense_5/kernel"] == ("output", False)


def test_a_layer_of_a_block_is_not_taken_for_its_neighbor():
    def net(width, blocks):
        block = {
            "Dense_0": {"w": shape(width, 4 * width)},
            "Dense_1": {"w": shape(4 * width, width)},
        }
        return {f"block_{number}": block for number in range(blocks)}

    # (256, 1024) is Dense_0's (64, 256) times 4, and Dense_1's (256, 64) with outputs times 16.
    plan = parametrize(net(256, 12), net(64, 2), "depth_mup", depth=(2, 12))
    for found in plan.leaves:
        assert (found.role, found.ratio, found.in_block) == ("hidden", 4, True)


def test_blocks_in_nested_lists_and_in_flat_trees():
    def nested(width, blocks):
        block = [{"w": shape(width, 3 * width)}, {"w": shape(3 * width, width)}]
        return {"blocks": [block] * blocks, "head": {"w": shape(width, 10)}}

    plan = parametrize(nested(8, 4), nested(4, 2), "depth_mup", depth=(2, 4))
    assert {(leaf.role, leaf.in_block) for leaf in plan.leaves} == {
        ("hidden", True),
        ("output", False),
    }

    def flat(width, layers):
        sizes = [(3, width), *[(width, width)] * layers]
        found = {f"w{number}": shape(*size) for number, size in enumerate(sizes)}
        biases = {f"b{number}": shape(width) for number in range(layers + 1)}
        return found | biases | {"w_out": shape(width, 10)}

    plan = parametrize(flat(8, 4), flat(4, 2), "depth_mup", depth=(2, 4))
    found = {leaf.path: leaf.in_block for leaf in plan.leaves}
    assert found == {path: path[1:] not in ("0", "_out") for path in found}


def test_stacked_blocks_are_known_by_their_first_axis():
    def scanned(width, blocks):
        block = {"kernel": shape(blocks, width, width), "scale": shape(blocks, width)}
        return {"blocks": block, "head": {"kernel": shape(width, 10)}, "gate": shape(blocks)}

    plan = parametrize(scanned(8, 6), scanned(4, 2), "completep", depth=(2, 6))
    found = {leaf.path: (leaf.role, leaf.fan_in, leaf.in_block) for leaf in plan.leaves}
    assert found == {
        "blocks/kernel": ("hidden", 8, True),
        "blocks/scale": ("vector", 1, True),
        "head/kernel": ("output", 8, False),
        "gate": ("scalar", 1, True),
    }


def test_heads_that_grow_like_the_depth_are_not_taken_for_a_stack():
    def net(blocks):
        kernel = {"kernel": shape(blocks, 4, 8 * blocks)}
        return {f"block_{number}": {"out": kernel} for number in range(blocks)}

    plan = parametrize(net(4), net(2), "depth_mup", depth=(2, 4))
    assert {(leaf.role, leaf.fan_in, leaf.in_block) for leaf in plan.leaves} == {
        ("hidden", 16, True)
    }


# Errors.


@pytest.mark.parametrize(
    ("own", "base", "options", "message"),
    [
        (
            mlp(8, 3),
            mlp(4, 2),
            {},
            r"params has 'Dense_3/bias', which base_params lacks; if .*depth=",
        ),
        (
            mlp(8, 2),
            mlp(4, 3),
            {},
            r"base_params has 'Dense_3/bias', which params lacks; if .*depth=",
        ),
        ({"a": shape(3)}, {"b": shape(3)}, {}, r"params has 'a', which base_params lacks$"),
        (
            {"a": shape(3)},
            {"a": shape(3), "b": shape(3)},
            {},
            r"base_params has 'b', which params la",
        ),
        (
            {"a": shape(3)},
            {"a": shape(3, 3)},
            {},
            r"a has the shape \(3,\), and .*\(3, 3\): they need",
        ),
        (
            {"a": shape(3)},
            {"a": shape(3)},
            {"roles": {"b": "input"}},
            r"matches 'b' in roles.* are a$",
        ),
        (
            {"a": shape(3)},
            {"a": shape(3)},
            {"roles": {"a": "head"}},
            r"role of 'a' must be one of.*'hea",
        ),
        (
            {"a": shape(3)},
            {"a": shape(3)},
            {"init": {"b": "zeros"}},
            r"matches 'b' in init; .* are a$",
        ),
        ({}, {"a": shape(3)}, {}, r"params holds no floating array"),
        ({"a": shape(3)}, {"a": shape(3, dtype="int32")}, {}, r"holds no floating array"),
        (
            {"a": shape(3)},
            {"a": shape(3)},
            {"scheme": "muP"},
            r"scheme must be one of mup.*got 'muP'",
        ),
        (
            {"a": shape(3)},
            {"a": shape(3)},
            {"optimizer": "adm"},
            r"optimizer must be one of adam, ",
        ),
        ({"a": shape(3)}, {"a": shape(3)}, {"depth": (0, 2)}, r"depth must be .* >= 1, got 0"),
        (
            {"a": shape(3)},
            {"a": shape(3)},
            {"scheme": "u_mup", "optimizer": "sgd"},
            r"no rules for sgd; those that do are standard, ntk, mup, depth_mup, spectral",
        ),
        (
            {"a": shape(3)},
            {"a": shape(3)},
            {"init": {"a": "he_norml"}},
            r"init\['a'\]: unknown .*he_normal",
        ),
        (
            {"blocks": [shape(8, 8)] * 4},
            {"blocks": [shape(4, 4)] * 2},
            {"depth": (4, 2)},
            r"depth=\(4, 2\) .*the other way; pass depth=\(2, 4\)",
        ),
        (
            {"blocks": shape(4, 8, 8)},
            {"blocks": shape(2, 4, 4)},
            {"depth": (4, 2)},
            r"pass depth=\(2, 4\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(own, base, options, message):
    with pytest.raises(ValueError, match=f"^parametrize: .*{message}"):
        parametrize(own, base, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 4}, r"depth must be a pair \(base, this model\), got 4"),
        ({"head_size": (8, 16, 32)}, r"head_size must be a pair .*got \(8, 16, 32\)"),
        ({"head_size": "ab"}, r"head_size must be"),
        ({"init": {"a": nn.initializers.zeros_init}}, r"init\['a'\] must be an initializer"),
        ({"roles": "input"}, r"roles must map patterns to roles, .*got 'input'"),
        ({"init": nn.initializers.zeros}, r"init must map patterns to initializers"),
    ],
)
def test_arguments_of_a_wrong_type_are_named(options, message):
    with pytest.raises(TypeError, match=f"^parametrize: .*{message}"):
        parametrize({"a": shape(3)}, {"a": shape(3)}, **options)


def test_a_model_in_place_of_its_parameters():
    with pytest.raises(TypeError, match=r"pass its parameters, such as model.init\(key, x\)"):
        parametrize(LinenNet(8).init, LinenNet(4).init)


def test_parameters_without_entries_are_left_alone():
    for own, base in (((0, 8), (0, 4)), ((8, 8), (0, 0)), ((0,), (4,))):
        kernel = leaf(own, base, scheme="spectral")
        assert (kernel.role, kernel.stddev, kernel.learning_rate) == ("scalar", 1, 1)


def test_a_stack_of_another_depth_asks_for_it():
    with pytest.raises(ValueError, match=r"numbers blocks, pass depth=\(2, 4\)$"):
        leaf((4, 64, 64), (2, 16, 16))
    # (in, heads, features) and (in, out) of a window
    assert leaf((64, 8, 8), (16, 4, 4)).role == "hidden"
    assert leaf((3, 64, 64), (3, 16, 16)).role == "hidden"


def test_exchanged_trees_and_an_optimizer_in_place_of_its_name_are_told():
    own, base = {"kernel": shape(16, 16)}, {"kernel": shape(4, 4)}
    (note,) = parametrize(base, own).notes
    assert note.endswith("check the order of params and base_params.")
    assert not parametrize(own, base).notes
    with pytest.raises(TypeError, match=r"'adam'; give the optimizer itself to plan.transform$"):
        parametrize(own, base, optimizer=optax.adam(1e-3))  # pyright: ignore
