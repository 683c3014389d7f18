"""Finding layers in any function, with their fans, axes, biases and roles."""

import functools

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax import lax

from initjax.auditing._activations import name_of
from initjax.auditing._reading.trace import trace

rng = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


X = normal(8, 5)
MLP = {"a": normal(5, 6), "bias": normal(6), "out": normal(6, 4)}


def square(z):
    return jnp.square(z).mean()


def anatomy(loss, params, *batch):
    traced = trace("test", loss, params, batch, False)
    return traced, list(traced.anatomy.sites.values())


def sites(loss, params, *batch):
    return anatomy(loss, params, *batch)[1]


def names(loss, params, *batch):
    traced, found = anatomy(loss, params, *batch)
    return [
        "+".join(sorted({traced.names[source.leaf] for source in site.sources})) for site in found
    ]


def reasons(loss, params, *batch):
    """Why each layer's input is not a function of one other layer; None where it is."""
    return [
        None if site.inputs[-1].signal else site.inputs[-1].lost
        for site in sites(loss, params, *batch)
    ]


# Products of any shape


@pytest.mark.parametrize(
    ("formula", "weight", "x", "fan_in", "fan_out", "axes", "weight_units"),
    [
        ("bi,io->bo", (5, 6), (8, 5), 5, 6, (1,), (1,)),
        ("io,bi->ob", (5, 6), (8, 5), 5, 6, (0,), (1,)),
        ("bi,oi->bo", (6, 5), (8, 5), 5, 6, (1,), (0,)),
        ("bi,i->b", (5,), (8, 5), 5, 1, (), ()),
        ("bi,i->bi", (5,), (8, 5), 1, 1, None, (0,)),
        ("btd,dnh->bnth", (5, 2, 3), (8, 4, 5), 5, 6, None, (1, 2)),
        ("btnh,nhd->btd", (2, 3, 5), (8, 4, 2, 3), 6, 5, (2,), (2,)),
        ("bd,edh->ebh", (4, 5, 3), (8, 5), 5, 12, None, (0, 2)),
        ("ebd,edh->ebh", (4, 5, 3), (4, 8, 5), 5, 3, (0, 2), (0, 2)),
        ("bij,ijk->bk", (2, 3, 7), (8, 2, 3), 6, 7, (1,), (2,)),
        ("bgi,gio->bgo", (2, 3, 7), (8, 2, 3), 3, 7, None, (0, 2)),
    ],
)
def test_a_product_of_any_shape_is_a_layer(formula, weight, x, fan_in, fan_out, axes, weight_units):
    (site,) = sites(lambda p, x: square(_einsum(formula, p["w"], x)), {"w": normal(*weight)},
                    normal(*x))  # fmt: skip
    assert (site.kind, site.fan_in, site.fan_out) == ("dense", fan_in, fan_out)
    assert site.weight_units == weight_units
    if axes is not None:  # otherwise einsum transposes the product
        assert site.unit_axes == axes
    units = {size for axis, size in enumerate(weight) if axis in weight_units}
    assert {_output(formula, weight, x)[axis] for axis in site.unit_axes} == units


def _einsum(formula, w, x):
    """The product of data and a weight. The weight comes first if the formula starts with i."""
    return jnp.einsum(formula, *((w, x) if formula.startswith("i") else (x, w)))


def _output(formula, weight, x):
    """The shape of the product itself."""
    closed = jax.make_jaxpr(lambda w, x: _einsum(formula, w, x))(jnp.zeros(weight), jnp.zeros(x))
    (eqn,) = [eqn for eqn in closed.jaxpr.eqns if eqn.primitive.name == "dot_general"]
    return eqn.outvars[0].aval.shape


GEOMETRIES = {
    "same": {},
    "valid": {"padding": "VALID"},
    "strided": {"window_strides": (2, 3)},
    "dilated": {"rhs_dilation": (2, 1)},
    "transposed": {"lhs_dilation": (2, 3), "padding": ((2, 1), (0, 3))},
    "cropped": {"padding": ((-1, 0), (2, -2))},
    "grouped": {"feature_group_count": 2},
    "depthwise": {"feature_group_count": 4},
}


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_convolution_fans_match_a_convolution_of_ones(geometry):
    arguments = {
        "window_strides": (1, 1), "padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
        **geometry,
    }  # fmt: skip
    channels = 4 // geometry.get("feature_group_count", 1)
    image, kernel = np.ones((1, 9, 8, 4), np.float32), np.ones((3, 2, channels, 8), np.float32)

    def convolve(kernel, image):
        return lax.conv_general_dilated(image, kernel, **arguments)

    (site,) = sites(lambda p, x: square(convolve(p, x)), kernel, image)
    summed = convolve(kernel, image)
    assert site.kind == "convolution"
    assert site.fan_in == pytest.approx(float(summed.mean()), rel=1e-6)
    assert site.fan_out == pytest.approx(float(summed.sum()) / image.size, rel=1e-6)
    assert (site.unit_axes, site.weight_units) == ((3,), (3,))


def test_the_units_of_a_convolution_are_its_output_channels_in_any_layout():
    numbers = ("NCHW", "OIHW", "NCHW")

    def loss(p, x):
        return square(lax.conv_general_dilated(x, p, (1, 1), "SAME", dimension_numbers=numbers))

    (site,) = sites(loss, normal(6, 4, 3, 3), normal(2, 4, 9, 9))
    assert (site.unit_axes, site.weight_units) == ((1,), (0,))


@pytest.mark.parametrize(
    ("lookup", "indices", "axes"),
    [
        (lambda e, i: e[i], (7,), (1,)),
        (lambda e, i: jnp.take(e, i, axis=0), (2, 4), (2,)),
        (lambda e, i: e.T[:, i], (7,), (0,)),
        (lambda e, i: e[i], (), (1,)),
    ],
    ids=["index", "take", "columns", "one"],
)
def test_an_embedding_is_a_layer_with_fan_in_one(lookup, indices, axes):
    tokens = jnp.zeros(indices, jnp.int32)
    first, last = sites(
        lambda p, i: square(lookup(p["e"], i).reshape(-1, 6) @ p["out"]),
        {"e": normal(10, 6), "out": normal(6, 3)},
        tokens,
    )
    assert (first.kind, first.fan_in, first.unit_axes) == ("embedding", 1, axes)
    assert last.kind == "dense"


def test_a_one_hot_product_is_a_dense_layer():
    (site,) = sites(
        lambda p, i: square(jax.nn.one_hot(i, 10) @ p), normal(10, 6), jnp.arange(4)
    )  # fmt: skip
    assert (site.kind, site.fan_in) == ("dense", 10)


def test_parameters_stacked_by_vmap_are_units_of_one_layer():
    def member(w, bias, out, x):
        return jnp.tanh(x @ w + bias) @ out

    params = {"w": normal(4, 5, 6), "bias": normal(4, 6), "out": normal(4, 6, 2)}
    for x, in_axis, fan_out in ((X, None, 24), (normal(4, 8, 5), 0, 6)):
        ensemble = jax.vmap(member, (0, 0, 0, in_axis))
        first, last = sites(
            lambda p, x, ensemble=ensemble: square(ensemble(p["w"], p["bias"], p["out"], x)),
            params, x,
        )  # fmt: skip
        assert (first.fan_in, first.fan_out, last.fan_in) == (5, fan_out, 6)
        assert first.output_axes == last.output_axes == (0, 2)
        assert first.bias is not None
        assert first.activation is not None and first.activation.text == "tanh(z)"

    def embed(e, i):
        return square(jax.vmap(lambda e, i: e[i])(e, i))

    (embedding,) = sites(embed, normal(4, 9, 6), jnp.zeros((4, 3), int))
    assert (embedding.unit_axes, embedding.weight_units) == ((0, 2), (0, 2))


# Biases and scales


@pytest.mark.parametrize(
    ("layer", "bias", "scale"),
    [
        (lambda p, x: x @ p["a"], None, 1),
        (lambda p, x: x @ p["a"] + p["bias"], 1, 1),
        (lambda p, x: p["bias"] + x @ p["a"], 0, 1),
        (lambda p, x: x @ p["a"] - p["bias"], 1, 1),
        (lambda p, x: x @ p["a"] / 5**0.5 + 0.1 * p["bias"], 1, 5**-0.5),
        (lambda p, x: x @ p["a"] / jnp.sqrt(x.shape[-1]), None, 5**-0.5),
        (lambda p, x: 0.5 * (x @ p["a"]) * 3, None, 1.5),
        (lambda p, x: (x @ p["a"] + p["bias"]) * 2, 1, 1),
        (lambda p, x: (p["a"].T @ x.T + p["bias"][:, None]).T, 1, 1),
        (lambda p, x: (x @ p["a"]).reshape(8, 2, 3) + p["bias"].reshape(2, 3), 1, 1),
    ],
)
def test_bias_and_scale_are_found_in_any_order_and_layout(layer, bias, scale):
    site, *_ = sites(lambda p, x: square(layer(p, x)), MLP, X)
    assert site.bias == bias
    assert site.scale == pytest.approx(scale)
    assert (site.output != site.path) == (bias is not None or scale != 1)


def test_the_scale_and_bias_of_one_part_are_not_those_of_the_layer():
    def attention(p, x):
        q, k, v = jnp.split(x @ p["w"], 3, -1)
        return square(jax.nn.softmax((q * 6**-0.5 + p["bias"]) @ k.T) @ v)

    (site,) = sites(attention, {"w": normal(5, 18), "bias": normal(6)}, X)
    assert (site.scale, site.bias, site.output) == (1, None, site.path)


def test_a_scale_applied_to_the_weight_is_not_a_scale_of_the_output():
    site, *_ = sites(lambda p, x: square(x @ (p["a"] / 2)), MLP, X)
    assert site.scale == 1
    assert {source.how for source in site.sources} == {"whole"}


# Weights made of parameters


def test_a_weight_made_from_several_parameters_names_all_of_them():
    def weight_norm(p, x):
        return square(x @ (p["g"] * p["v"] / jnp.linalg.norm(p["v"], axis=0)))

    def lora(p, x):
        return square(x @ (p["w"] + p["down"] @ p["up"]))

    assert names(weight_norm, {"v": normal(5, 6), "g": normal(6)}, X) == ["g+v"]
    params = {"w": normal(5, 6), "down": normal(5, 2), "up": normal(2, 6)}
    assert names(lora, params, X) == ["down+up+w"]
    (site,) = sites(lora, params, X)
    assert {source.how for source in site.sources} == {"nonlinear"}
    (part,) = sites(lambda p, x: square(x @ p[1]), normal(3, 5, 6), X)
    assert {source.how for source in part.sources} == {"part"}


def test_a_tied_embedding_is_two_layers_with_one_parameter():
    def loss(p, tokens):
        return square(jnp.tanh(p["e"][tokens] @ p["w"]) @ p["e"].T)

    params = {"e": normal(10, 6), "w": normal(6, 6)}
    assert names(loss, params, jnp.arange(8)) == ["e", "w", "e"]
    kinds = [(site.kind, site.fan_in) for site in sites(loss, params, jnp.arange(8))]
    assert kinds == [("embedding", 1), ("dense", 6), ("dense", 6)]


def test_products_of_data_are_not_layers():
    def loss(p, x):
        q, k, v = (jnp.einsum("btd,dnh->btnh", x, p[name]) for name in "qkv")
        y = jax.nn.dot_product_attention(q, k, v)
        return square(x + jnp.einsum("btnh,nhd->btd", y, p["o"]))

    params = {name: normal(6, 2, 3) for name in "qkv"} | {"o": normal(2, 3, 6)}
    assert names(loss, params, normal(8, 4, 6)) == ["q", "k", "v", "o"]
    assert reasons(loss, params, normal(8, 4, 6))[-1] == ("attention")


# Roles


def norm(z):
    return (z - z.mean(-1, keepdims=True)) * lax.rsqrt(z.var(-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize(
    ("between", "normalized", "reason"),
    [
        (norm, True, "normalization"),
        (lambda z: z * lax.rsqrt(jnp.square(z).mean(-1, keepdims=True)), True, "normalization"),
        (lambda z: z / jnp.sqrt(jnp.mean(z**2, -1, keepdims=True)), True, "normalization"),
        (lambda z: norm(z.T).T, True, "normalization"),
        (lambda z: z - z.mean(-1, keepdims=True), False, "centering"),
        (lambda z: z.reshape(8, 3, 2).max(-1).repeat(2, -1), False, "reduction"),
        (lambda z: jnp.concatenate([z[:, :3], z[:, 3:]], -1), False, "join"),
        (
            lambda z: linen.avg_pool(z[None, ..., None], (2, 1), padding="SAME")[0, ..., 0],
            False, "pooling",
        ),
        (lambda z: jax.nn.silu(z) * z[:, ::-1], False, "product"),
    ],
)  # fmt: skip
def test_the_reason_why_predictions_restart_is_given(between, normalized, reason):
    first, last = sites(lambda p, x: square(between(x @ p["a"]) @ p["out"]), MLP, X)
    assert first.normalised == normalized
    assert first.activation is None
    assert last.inputs[0].signal is None
    assert last.inputs[0].lost == reason


def test_running_statistics_are_not_a_residual_stream():
    def loss(p, x, mean, variance):
        return square((x @ p["a"] - mean) * lax.rsqrt(variance + 1e-5) @ p["out"])

    first, last = sites(loss, MLP, X, normal(6), jnp.ones(6))
    assert not first.added and not first.residual
    assert last.inputs[0].lost == "product"


@pytest.mark.parametrize("dropped", ["key of the batch", "key inside"])
def test_predictions_restart_behind_dropout(dropped):
    def loss(p, x, key):
        key = key if dropped == "key of the batch" else jax.random.key(0)
        h = jax.nn.relu(x @ p["a"])
        return square(jnp.where(jax.random.bernoulli(key, 0.5, h.shape), 2 * h, 0) @ p["out"])

    assert reasons(loss, MLP, X, jax.random.key(1))[1] not in (None, "batch", "")


def test_residual_branch_ends_are_distinguished_from_other_sums():
    def residual(p, x):
        h = x @ p["in"]
        for w in p["blocks"]:
            h = h + jnp.tanh(norm(h) @ w["up"]) @ w["down"]
        return square(h @ p["out"])

    block = {"up": normal(6, 6), "down": normal(6, 6)}
    params = {"in": normal(5, 6), "blocks": [block, block], "out": normal(6, 2)}
    _, found = anatomy(residual, params, X)
    assert [site.residual for site in found] == [False, False, True, False, True, False]

    def gate(p, x):  # of a GRU: the two terms have different inputs
        r = jax.nn.sigmoid(x @ p["r"])
        return square(jnp.tanh(x @ p["n"] + r * (x @ p["h"])) @ p["out"])

    params = {name: normal(5, 6) for name in "rnh"} | {"out": normal(6, 2)}
    _, found = anatomy(gate, params, X)
    assert not any(site.residual for site in found)
    assert [site.added for site in found] == [False, True, False, False]


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: optax.softmax_cross_entropy_with_integer_labels(z, y),
        lambda z, y: optax.softmax_cross_entropy(z, jax.nn.one_hot(y, 4)),
        lambda z, y: -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1),
        lambda z, y: -jnp.log(jax.nn.softmax(z)[jnp.arange(8), y] + 1e-9),
        lambda z, y: jax.nn.logsumexp(z, axis=-1) - z[jnp.arange(8), y],
    ],
)
def test_a_softmax_and_a_logarithm_mark_logits(loss):
    def whole(p, x, y):
        return loss(jnp.tanh(x @ p["a"] + p["bias"]) @ p["out"], y).mean()

    hidden, last = sites(whole, MLP, X, jnp.arange(8) % 4)
    assert (hidden.softmax, last.softmax) == (False, True)
    assert not sites(lambda p, x: square(x @ p["a"]), MLP, X)[0].softmax


# Other parameters


def test_unused_parameters_and_leaves_that_are_not_floating_are_ignored():
    def loss(p, x):
        noise = jax.random.normal(p["key"], (6,)) * p["count"]
        return square(x @ p["a"] + noise)

    params = {"a": normal(5, 6), "key": jax.random.key(0), "count": 3, "lost": normal(2)}
    traced, found = anatomy(loss, params, X)
    assert [traced.names[leaf] for leaf in sorted(traced.anatomy.leaves)] == ["a"]
    assert [traced.names[leaf] for leaf in traced.inexact] == ["a", "lost"]
    assert len(found) == 1


@pytest.mark.parametrize("jit", [False, True], ids=["plain", "jit"])
def test_data_may_be_closed_over(jit):
    wrap = jax.jit if jit else lambda f: f

    def loss(p):
        return square(jnp.tanh(X @ p["a"]) @ p["out"])

    target = normal(8, 4)
    assert names(wrap(loss), MLP) == ["a", "out"]
    assert reasons(wrap(loss), MLP) == ["batch", None]
    assert names(wrap(lambda p, y: loss(p) + square(y)), MLP, target) == ["a", "out"]

    def field(p, y):  # coordinates are made inside
        return square(jnp.sin(jnp.arange(10.0)[:, None] @ p["in"]) @ p["out"] - y)

    found = names(wrap(field), {"in": normal(1, 6), "out": normal(6, 4)}, normal(10, 4))
    assert found == ["in", "out"]


def test_unreadable_operations_are_listed_with_their_parameters():
    shape = jax.ShapeDtypeStruct((8, 6), jnp.float32)

    def product(x, w):
        return np.asarray(x) @ np.asarray(w)

    def kernel(x_ref, w_ref, o_ref):
        o_ref[...] = x_ref[...] @ w_ref[...]

    from jax.experimental import io_callback
    from jax.experimental import pallas as pl

    numbers = ("NHWC", "HWIO", "NHWC")
    losses = {
        "pure_callback": lambda p, x: square(jax.pure_callback(product, shape, x, p)),
        "io_callback": lambda p, x: square(io_callback(product, shape, x, p)),
        "pallas_call": lambda p, x: square(
            pl.pallas_call(kernel, out_shape=shape, interpret=True)(x, p)
        ),
        "ragged_dot": lambda p, x: square(
            lax.ragged_dot(x, jnp.stack([p, p]), jnp.array([3, 5]))
        ),
        "conv_general_dilated": lambda p, x: square(
            lax.conv_general_dilated(
                p.reshape(1, 5, 6, 1), x.reshape(4, 2, 1, 5), (1, 1), "SAME",
                dimension_numbers=numbers,
            )
        ),
        "linear_solve": lambda p, x: square(jnp.linalg.solve(p[:, :5], x.T)),
    }  # fmt: skip
    for primitive, loss in losses.items():
        traced, found = anatomy(loss, normal(5, 6), X)
        assert not found
        assert any(primitive in text for text in traced.anatomy.unread), primitive
        assert set().union(*traced.anatomy.unread.values()) == {0}
    assert not anatomy(lambda p, x: square(x @ p), normal(5, 6), X)[0].anatomy.unread


# Libraries


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


IMAGES, LABELS = normal(2, 9, 9, 4), jnp.arange(2)


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.Conv(8, (3, 3), name="conv")(x)
        x = linen.relu(linen.BatchNorm(not train, name="norm")(x))
        x = linen.Conv(8, (3, 3), use_bias=False, feature_group_count=2, name="grouped")(x)
        x = linen.max_pool(linen.relu(x), (2, 2), (2, 2))
        x = linen.gelu(linen.Dense(6, name="hidden")(x.reshape(len(x), -1)))
        return linen.Dense(3, name="out")(linen.Dropout(0.1, deterministic=not train)(x))


@pytest.mark.parametrize("train", [False, True])
def test_layers_of_flax_linen(train):
    model = Linen()
    variables = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), IMAGES
    )

    def loss(params, rest, x, y):
        logits, _ = model.apply(
            {"params": params, **rest}, x, train, mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(1)},
        )  # fmt: skip
        return cross_entropy(logits, y)

    rest = {"batch_stats": variables["batch_stats"]}
    traced, found = anatomy(loss, variables["params"], rest, IMAGES, LABELS)
    layers = ["conv/kernel", "grouped/kernel", "hidden/kernel", "out/kernel"]
    assert names(loss, variables["params"], rest, IMAGES, LABELS) == layers
    assert [site.bias is not None for site in found] == [True, False, True, True]
    assert [site.fan_in for site in found] == pytest.approx(
        [4 * (25 / 9) ** 2, 4 * (25 / 9) ** 2, 128, 6]
    )
    assert [site.normalised for site in found] == [train, False, False, False]
    assert [site.added for site in found] == [False] * 4
    assert found[-1].softmax
    # In training, dropout stands between the layers.
    assert (found[3].inputs[0].signal is None) == train
    assert [name_of(site.activation) for site in found[1:]] == ["relu", "gelu", ""]
    assert traced.anatomy.leaves == frozenset(range(len(traced.names)))


class Transformer(linen.Module):
    @linen.compact
    def __call__(self, tokens):
        embed = linen.Embed(11, 6, name="embed")
        x = embed(tokens)
        x = x + linen.MultiHeadDotProductAttention(2, name="attention")(linen.LayerNorm()(x))
        hidden = linen.gelu(linen.Dense(24, name="up")(linen.LayerNorm()(x)))
        x = x + linen.Dense(6, name="down")(hidden)
        return embed.attend(linen.LayerNorm()(x))


def test_layers_of_a_transformer_with_tied_embeddings():
    model, tokens = Transformer(), jnp.arange(12).reshape(3, 4) % 11
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]

    def loss(params, tokens):
        return cross_entropy(model.apply({"params": params}, tokens), tokens)

    found = sites(loss, params, tokens)
    assert names(loss, params, tokens) == [
        "embed/embedding", "attention/query/kernel", "attention/key/kernel",
        "attention/value/kernel", "attention/out/kernel", "up/kernel", "down/kernel",
        "embed/embedding",
    ]  # fmt: skip
    assert [site.fan_in for site in found] == [1, 6, 6, 6, 6, 6, 24, 6]
    assert [site.residual for site in found] == [False] * 4 + [True, False, True, False]
    assert [site.softmax for site in found] == [False] * 7 + [True]


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.inner = nnx.Linear(5, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.outer = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x):
        return self.outer(self.dropout(nnx.relu(self.norm(self.inner(x)))))


@pytest.mark.parametrize("given", ["module", "split", "state"])
def test_layers_of_flax_nnx(given):
    model = Nnx(nnx.Rngs(0))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    whole, state = nnx.split(model)
    arguments = {
        "module": (lambda model, x: square(model(x)), model, X),
        "split": (lambda p, r, x: square(nnx.merge(graphdef, p, r)(x)), params, rest, X),
        "state": (lambda s, x: square(nnx.merge(whole, s)(x)), state, X),
    }[given]
    first, last = sites(*arguments)
    assert names(*arguments) == ["inner/kernel", "outer/kernel"]
    assert (first.fan_in, last.fan_in) == (5, 6)
    assert first.bias is not None and last.bias is not None
    assert first.normalised


def test_layers_of_equinox():
    model = equinox.nn.MLP(5, 3, 7, 2, key=jax.random.key(0))
    params, static = equinox.partition(model, equinox.is_inexact_array)

    def loss(params, x):
        return square(jax.vmap(equinox.combine(params, static))(x))

    found = sites(loss, params, X)
    assert names(loss, params, X) == [f"layers/{number}/weight" for number in range(3)]
    assert [site.fan_in for site in found] == [5, 7, 7]
    assert [site.weight_units for site in found] == [(0,)] * 3
    assert all(site.bias is not None for site in found)
    assert reasons(loss, params, X) == ["batch", None, None]
    image = equinox.nn.Conv2d(4, 6, 3, key=jax.random.key(0))
    kernel, static = equinox.partition(image, equinox.is_inexact_array)
    (site,) = sites(
        lambda p, x: square(jax.vmap(equinox.combine(p, static))(x)), kernel, normal(2, 4, 9, 9)
    )
    assert (site.kind, site.fan_in, site.unit_axes, site.bias) == ("convolution", 36, (1,), 1)


# Activations where a signal ends


MASK = jnp.arange(48).reshape(8, 6) % 3 > 0


@pytest.mark.parametrize(
    "between",
    [
        lambda z, x: jnp.concatenate([jax.nn.relu(z), x], -1),
        lambda z, x: jnp.where(x[:, :1] > 0, jax.nn.relu(z) / 0.9, 0),
        lambda z, x: jax.nn.relu(z) * MASK,
        lambda z, x: norm(jax.nn.relu(z)),
        lambda z, x: jax.nn.relu(z) + x.sum(1, keepdims=True),
        lambda z, x: jax.nn.relu(z).mean(0, keepdims=True),
        lambda z, x: linen.max_pool(jax.nn.relu(z)[..., None], (2,)),
    ],
    ids=["joined", "dropout", "mask", "norm", "sum", "mean", "pool"],
)
def test_an_activation_is_found_where_its_signal_ends(between):
    def loss(p, x):
        h = between(x @ p["a"] + p["bias"], x)
        return square(h.reshape(len(h), -1) @ p["out"])

    shape = jax.eval_shape(lambda: between(normal(8, 6), X)).shape
    params = MLP | {"out": normal(int(np.prod(shape[1:])), 4)}
    first, last = sites(loss, params, X)
    assert name_of(first.activation) == "relu"
    assert last.inputs[0].signal is None and last.activation is None


@pytest.mark.parametrize(
    "between",
    [
        lambda z, x: norm(z),
        lambda z, x: jax.nn.relu(norm(z)),
        lambda z, x: z * lax.rsqrt(jnp.square(z).mean(-1, keepdims=True)),
        lambda z, x: 0.5 * z + x.sum(1, keepdims=True),
        lambda z, x: jax.nn.relu(z) * x[:, :1] + z,
        lambda z, x: jnp.concatenate([jax.nn.relu(z), jax.nn.relu(-z)], -1)[:, ::2],
        lambda z, x: jnp.where(z > 0, 1.0, 2.0) * x[:, :1] + z * x[:, 1:2],
        lambda z, x: jnp.exp(z) * x[:, :1],
        lambda z, x: jnp.square(z).mean(0, keepdims=True),
        lambda z, x: jax.nn.sigmoid(z) * jnp.tanh(z[:, ::-1]),
        lambda z, x: lax.fori_loop(0, 3, lambda _, c: jax.nn.sigmoid(z) * c + 1, z),
    ],
    ids=[
        "norm", "norm first", "rms norm", "scaled", "with a skip", "both signs", "comparison",
        "exponential", "power", "gate", "loop",
    ],
)  # fmt: skip
def test_no_activation_is_reported_where_units_also_pass_another_way(between):
    first, _ = sites(lambda p, x: square(between(x @ p["a"], x) @ p["out"]), MLP, X)
    assert name_of(first.activation) in ("", "identity")


@pytest.mark.parametrize(
    ("loss", "classes"),
    [
        (lambda z: jax.nn.log_softmax(z), 12),
        (lambda z: jax.nn.log_softmax(z.reshape(8, 3, 4)), 4),
        (lambda z: jax.nn.log_softmax(z[:, :5] / 0.7), 5),
        (lambda z: jnp.log(jnp.sum(jnp.exp(z), -1)), 12),
        (lambda z: jnp.log(jax.nn.softmax(jnp.where(MASK[:, :1], z, -9)) + 1e-9), 12),
        (lambda z: jnp.log(square(z)), 0),
        (lambda z: jax.nn.log_softmax(z @ z.T), 0),
        (lambda z: jax.nn.log_softmax(z, axis=0), 0),
        (lambda z: jax.nn.log_sigmoid(z), 0),
        (lambda z: jax.nn.softmax(z), 0),
    ],
)
def test_the_number_of_classes_is_what_one_softmax_sums_over(loss, classes):
    params = {"a": normal(5, 6), "out": normal(6, 12)}
    _, last = sites(lambda p, x: loss(jnp.tanh(x @ p["a"]) @ p["out"]).mean(), params, X)
    assert last.classes == classes
    if classes == 12:
        members = {name: jnp.stack([leaf] * 3) for name, leaf in params.items()}
        _, last = sites(
            lambda p, x: jax.vmap(
                lambda p: loss(jnp.tanh(x @ p["a"]) @ p["out"]).mean()
            )(p).mean(), members, X,
        )  # fmt: skip
        assert last.classes == classes


def test_a_target_from_the_batch_is_not_a_residual_stream():
    def autoencoder(p, x):
        return square(jnp.tanh(x @ p["a"]) @ p["back"] - x)

    found = sites(autoencoder, {"a": normal(5, 6), "back": normal(6, 5)}, X)
    assert not any(site.residual or site.added for site in found)

    def temporal_difference(p, x):
        def value(p, x):
            return jnp.tanh(x @ p["a"]) @ p["out"]

        target = x[:, 0] + value(p["target"], x[::-1]).max(-1)
        return square(value(p["online"], x)[:, 0] - target)

    found = sites(temporal_difference, {"online": MLP, "target": MLP}, X)
    assert not any(site.residual or site.added for site in found)


# Weights that depend on the batch


class Spectral(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.SpectralNorm(linen.Dense(6))(x, update_stats=False))
        return linen.SpectralNorm(linen.Dense(4))(x, update_stats=False)


def test_a_kernel_with_noise_a_mask_or_statistics_is_still_a_weight():
    key = jax.random.key(0)

    def mlp(weight):
        return lambda p, x, key: square(jnp.tanh(x @ weight(p["a"], key)) @ p["out"])

    def noisy(w, key):
        return w + 0.1 * jax.random.normal(key, w.shape)

    def masked(w, key):
        return jnp.where(jax.random.bernoulli(key, 0.5, w.shape), w, 0)

    for weight in (noisy, masked, lambda w, key: w * jax.random.bernoulli(key, 0.5, w.shape)):
        first, last = sites(mlp(weight), MLP, X, key)
        assert (first.fan_in, first.weight, last.fan_in) == (5, 1, 6)
        assert {source.how for source in first.sources} == {"nonlinear"}
        assert last.inputs[0].signal is not None

    model = Spectral()
    variables = jax.eval_shape(model.init, key, X)

    def spectral(params, statistics, x):
        return square(model.apply({"params": params, "batch_stats": statistics}, x))

    # The power iterations that compute the norms are not layers.
    found = sites(spectral, variables["params"], variables["batch_stats"], X)
    assert [(site.fan_in, site.bias is not None) for site in found] == [(5, True), (6, True)]


def test_a_product_with_a_different_kernel_per_example_is_listed_as_unread():
    def loss(p, x, key):
        masks = jax.random.bernoulli(key, 0.5, (8, 5, 6))
        return square(jnp.einsum("bi,bio->bo", x, p["a"] * masks) @ p["out"])

    traced, found = anatomy(loss, MLP, X, jax.random.key(0))
    assert len(found) == 1
    (leaves,) = traced.anatomy.unread.values()
    assert {traced.names[leaf] for leaf in leaves} == {"a"}


@pytest.mark.parametrize("jit", [False, True], ids=["plain", "jit"])
def test_data_may_be_closed_over_even_if_a_key_is_passed(jit):
    wrap = jax.jit if jit else lambda f: f

    def loss(p, key):
        h = jnp.tanh(X @ p["a"])
        return square(jnp.where(jax.random.bernoulli(key, 0.5, h.shape), 2 * h, 0) @ p["out"])

    assert names(wrap(loss), MLP, jax.random.key(0)) == ["a", "out"]


def test_a_constant_matrix_that_multiplies_parameters_is_not_data():
    mixing = normal(30, 3)

    def loss(p, x):
        return square(x @ (mixing @ p).reshape(5, 6))

    (site,) = sites(loss, normal(3), X)
    assert site.fan_in == 5


def test_a_mean_with_added_noise_is_not_a_residual_branch():
    def sampled(p, x, key):
        h = jnp.tanh(x @ p["a"])
        mean, spread = h @ p["mean"], jnp.exp(h @ p["spread"])
        return square((mean + spread * jax.random.normal(key, mean.shape)) @ p["out"])

    params = MLP | {"mean": normal(6, 6), "spread": normal(6, 6)}
    assert not any(site.residual for site in sites(sampled, params, X, jax.random.key(0)))
