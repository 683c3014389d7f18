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

import initjax

rng = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


X = normal(8, 5)
MLP = {"a": normal(5, 6), "bias": normal(6), "out": normal(6, 4)}


def square(z):
    return jnp.square(z).mean()


def layers(loss, params, *batch):
    return initjax.audit(loss, params, *batch).layers


def summed(cases):
    """The sum of many losses as one: a program that is compiled faster than each for itself.

    Args:
      cases: tuples of loss, parameters and batch, by name.

    Returns:
      The loss, its parameters and its batch; the parameters of each case are below its name.
    """

    def loss(params, batches):
        return sum(loss(params[name], *batches[name]) for name, (loss, *_) in cases.items())

    params = {name: params for name, (_, params, *_) in cases.items()}
    batches = {name: batch for name, (_, _, *batch) in cases.items()}
    return loss, params, batches


def together(cases):
    """The layers of many losses, by name, from one audit."""
    found = layers(*summed(cases))
    return {
        name: [layer for layer in found if layer.parameters[0].path.split("/")[0] == name]
        for name in cases
    }


def names(loss, params, *batch):
    return [layer.name for layer in layers(loss, params, *batch)]


def reasons(loss, params, *batch):
    """Why each layer's input is not a function of one other layer; None where it is."""
    return [
        None if layer.source is not None else layer.unpredicted
        for layer in layers(loss, params, *batch)
    ]


def computed(loss, params, *batch):
    """The parameters that are no kernels themselves, but make some up."""
    _, repair = initjax.fix(loss, params, *batch, method="variance")
    return [name for name, reason in repair.left if "is computed from parameters" in reason]


def randomized(shapes):
    """Parameters of these shapes, also of biases, which libraries start at zero."""
    return jax.tree.map(lambda shape: normal(*shape.shape), shapes)


def mean_square(array):
    return float(jnp.square(array).mean())


def participation(matrix):
    """The effective rank of the columns of a matrix, from its definition."""
    eigenvalues = np.linalg.eigvalsh(matrix.T @ matrix)
    return eigenvalues.sum() ** 2 / np.square(eigenvalues).sum()


def close(found, expected, rel=1e-4):
    assert found == pytest.approx(float(expected), rel=rel, abs=1e-6)


def assert_units(layer, z, axes, members=1):
    """The pre-activations z of a layer have their units along these axes."""
    units = np.moveaxis(np.asarray(z), axes, range(-len(axes), 0))
    units = units.reshape(-1, np.prod([z.shape[axis] for axis in axes], dtype=int))
    assert (layer.samples, layer.units, layer.members) == (*units.shape, members)
    close(layer.rms, np.sqrt(np.square(units).mean()))
    if len(units) > 1:
        close(layer.unit_stddev, np.sqrt(units.var(0).mean()))


# Products of any shape


PRODUCTS = {
    formula: (normal(*weight), normal(*x), fan_in, fan_out)
    for formula, weight, x, fan_in, fan_out in [
        ("bi,io->bo", (5, 6), (8, 5), 5, 6),
        ("io,bi->ob", (5, 6), (8, 5), 5, 6),
        ("bi,oi->bo", (6, 5), (8, 5), 5, 6),
        ("bi,i->b", (5,), (8, 5), 5, 1),
        ("bi,i->bi", (5,), (8, 5), 1, 1),
        ("btd,dnh->bnth", (5, 2, 3), (8, 4, 5), 5, 6),
        ("btnh,nhd->btd", (2, 3, 5), (8, 4, 2, 3), 6, 5),
        ("bd,edh->ebh", (4, 5, 3), (8, 5), 5, 12),
        ("ebd,edh->ebh", (4, 5, 3), (4, 8, 5), 5, 3),
        ("bij,ijk->bk", (2, 3, 7), (8, 2, 3), 6, 7),
        ("bgi,gio->bgo", (2, 3, 7), (8, 2, 3), 3, 7),
    ]
}


@functools.cache
def products():
    def loss(formula):
        return lambda p, x: square(_einsum(formula, p, x))

    return together({formula: (loss(formula), w, x) for formula, (w, x, *_) in PRODUCTS.items()})


@pytest.mark.parametrize("formula", PRODUCTS)
def test_a_product_of_any_shape_is_a_layer(formula):
    w, x, fan_in, fan_out = PRODUCTS[formula]
    (layer,) = products()[formula]
    assert (layer.kind, layer.fan_in, layer.fan_out) == ("dense", fan_in, fan_out)
    of_x, of_w, of_z = formula.replace("->", ",").split(",")
    if formula.startswith("i"):
        of_x, of_w = of_w, of_x
    units = [label for label in of_w if label in of_z]
    # Axes that all three have, or where an ensemble shares its input.
    members = [label for label in units if label in of_x or label == "e"]
    size = dict(zip(of_w, w.shape, strict=True))
    count = int(np.prod([size[label] for label in members]))
    z = _einsum(formula, w, x)
    assert_units(layer, z, [of_z.index(label) for label in units], count)
    order = [*members, *(label for label in of_w if label not in units)]
    order += [label for label in units if label not in members]
    matrices = np.einsum(f"{of_w}->{''.join(order)}", w).reshape(count, fan_in, -1)
    close(layer.weight_rank, min(map(participation, matrices)), rel=1e-3)


def _einsum(formula, w, x):
    """The product of data and a weight. The weight comes first if the formula starts with i."""
    return jnp.einsum(formula, *((w, x) if formula.startswith("i") else (x, w)))


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

    params, x = normal(*kernel.shape), normal(2, *image.shape[1:])
    (layer,) = layers(lambda p, x: square(convolve(p, x)), params, x)
    summed = convolve(kernel, image)
    assert layer.kind == "convolution"
    assert layer.fan_in == pytest.approx(float(summed.mean()), rel=1e-6)
    assert layer.fan_out == pytest.approx(float(summed.sum()) / image.size, rel=1e-6)
    assert_units(layer, convolve(params, x), [3])
    close(layer.weight_rank, participation(params.reshape(-1, 8)), rel=1e-3)


def test_the_units_of_a_convolution_are_its_output_channels_in_any_layout():
    numbers = ("NCHW", "OIHW", "NCHW")

    def convolve(p, x):
        return lax.conv_general_dilated(x, p, (1, 1), "SAME", dimension_numbers=numbers)

    kernel, x = normal(6, 4, 3, 3), normal(2, 4, 9, 9)
    (layer,) = layers(lambda p, x: square(convolve(p, x)), kernel, x)
    assert_units(layer, convolve(kernel, x), [1])
    close(layer.weight_rank, participation(kernel.reshape(6, -1).T), rel=1e-3)


@pytest.mark.parametrize(
    ("lookup", "indices"),
    [
        (lambda e, i: e[i], (7,)),
        (lambda e, i: jnp.take(e, i, axis=0), (2, 4)),
        (lambda e, i: e.T[:, i], (7,)),
        (lambda e, i: e[i], ()),
    ],
    ids=["index", "take", "columns", "one"],
)
def test_an_embedding_is_a_layer_with_fan_in_one(lookup, indices):
    tokens = jnp.arange(np.prod(indices, dtype=int)).reshape(indices)
    params = {"e": normal(10, 6), "out": normal(6, 3)}
    first, last = layers(
        lambda p, i: square(lookup(p["e"], i).reshape(-1, 6) @ p["out"]), params, tokens
    )
    assert (first.kind, first.fan_in, last.kind) == ("embedding", 1, "dense")
    z = lookup(params["e"], tokens)
    assert_units(first, z, [z.ndim - 1] if z.shape[-1] == 6 else [0])


def test_a_one_hot_product_is_a_dense_layer():
    tokens = jnp.arange(4)
    (layer,) = layers(lambda p, i: square(jax.nn.one_hot(i, 10) @ p), normal(10, 6), tokens)
    assert (layer.kind, layer.fan_in) == ("dense", 10)


def test_parameters_stacked_by_vmap_are_units_of_one_layer():
    def member(w, bias, out, x):
        return jnp.tanh(x @ w + bias) @ out

    params = {"w": normal(4, 5, 6), "bias": normal(4, 6), "out": normal(4, 6, 2)}
    for x, in_axis, fan_out in ((X, None, 24), (normal(4, 8, 5), 0, 6)):
        ensemble = jax.vmap(member, (0, 0, 0, in_axis))
        first, last = layers(
            lambda p, x, ensemble=ensemble: square(ensemble(p["w"], p["bias"], p["out"], x)),
            params, x,
        )  # fmt: skip
        assert (first.fan_in, first.fan_out, last.fan_in) == (5, fan_out, 6)
        z = jnp.einsum("bi,eio->ebo" if x.ndim == 2 else "ebi,eio->ebo", x, params["w"])
        z = z + params["bias"][:, None]
        assert_units(first, z, [0, 2], 4)
        assert_units(last, jnp.einsum("ebi,eio->ebo", jnp.tanh(z), params["out"]), [0, 2], 4)
        close(first.bias_variance, mean_square(params["bias"]))
        assert first.activation == "tanh"

    def embed(e, i):
        return square(jax.vmap(lambda e, i: e[i])(e, i))

    e, tokens = normal(4, 9, 6), jnp.arange(12).reshape(4, 3) % 9
    (embedding,) = layers(embed, e, tokens)
    assert_units(embedding, jax.vmap(lambda e, i: e[i])(e, tokens), [0, 2], 4)
    close(embedding.weight_rank, min(map(participation, e)), rel=1e-3)


# Biases and scales


SCALED = [  # a layer, and the factors of its bias and of its product
    (lambda p, x: x @ p["a"], 0, 1),
    (lambda p, x: x @ p["a"] + p["bias"], 1, 1),
    (lambda p, x: p["bias"] + x @ p["a"], 1, 1),
    (lambda p, x: x @ p["a"] - p["bias"], -1, 1),
    (lambda p, x: x @ p["a"] / 5**0.5 + 0.1 * p["bias"], 0.1, 5**-0.5),
    (lambda p, x: x @ p["a"] / jnp.sqrt(x.shape[-1]), 0, 5**-0.5),
    (lambda p, x: 0.5 * (x @ p["a"]) * 3, 0, 1.5),
    (lambda p, x: (x @ p["a"] + p["bias"]) * 2, 1, 1),
    (lambda p, x: (p["a"].T @ x.T + p["bias"][:, None]).T, 1, 1),
    (lambda p, x: (x @ p["a"]).reshape(8, 2, 3) + p["bias"].reshape(2, 3), 1, 1),
]


@functools.cache
def scaled():
    def loss(layer):
        return lambda p, x: square(layer(p, x))

    return together({f"{n}": (loss(layer), MLP, X) for n, (layer, *_) in enumerate(SCALED)})


@pytest.mark.parametrize("number", range(len(SCALED)))
def test_bias_and_scale_are_found_in_any_order_and_layout(number):
    _, bias, scale = SCALED[number]
    (found,) = scaled()[str(number)]
    close(found.bias_variance, mean_square(bias * MLP["bias"]))
    close(found.weight_variance, scale**2 * 5 * mean_square(MLP["a"]))
    assert_units(found, scale * X @ MLP["a"] + bias * MLP["bias"], [1])


def test_the_scale_and_bias_of_one_part_are_not_those_of_the_layer():
    def attention(p, x):
        q, k, v = jnp.split(x @ p["w"], 3, -1)
        return square(jax.nn.softmax((q * 6**-0.5 + p["bias"]) @ k.T) @ v)

    params = {"w": normal(5, 18), "bias": normal(6)}
    (layer,) = layers(attention, params, X)
    close(layer.weight_variance, 5 * mean_square(params["w"]))
    assert layer.bias_variance == 0
    assert_units(layer, X @ params["w"], [1])


def test_a_scale_applied_to_the_weight_is_not_a_scale_of_the_output():
    def loss(p, x):
        return square(jnp.tanh(x @ (p["a"] / 2)) @ p["out"])

    first, _ = layers(loss, MLP, X)
    close(first.weight_variance, 5 * mean_square(MLP["a"] / 2))
    assert computed(loss, MLP, X) == []  # it is still one kernel


# Weights made of parameters


def test_a_weight_made_from_several_parameters_names_all_of_them():
    def weight_norm(p, x):
        return square(x @ (p["g"] * p["v"] / jnp.linalg.norm(p["v"], axis=0)))

    def lora(p, x):
        return square(x @ (p["w"] + p["down"] @ p["up"]))

    assert names(weight_norm, {"v": normal(5, 6), "g": normal(6)}, X) == ["g and v"]
    params = {"w": normal(5, 6), "down": normal(5, 2), "up": normal(2, 6)}
    assert names(lora, params, X) == ["down and up and w"]
    assert computed(lora, params, X) == ["down and up and w"]
    parts = normal(3, 5, 6)
    (part,) = layers(lambda p, x: square(x @ p[1]), parts, X)
    close(part.weight_variance, 5 * mean_square(parts[1]))
    assert computed(lambda p, x: square(x @ p[1]), parts, X) == ["params"]


def test_a_tied_embedding_is_two_layers_with_one_parameter():
    def loss(p, tokens):
        return square(jnp.tanh(p["e"][tokens] @ p["w"]) @ p["e"].T)

    params = {"e": normal(10, 6), "w": normal(6, 6)}
    found = layers(loss, params, jnp.arange(8))
    assert [layer.name for layer in found] == ["e", "w", "e (use 2)"]
    kinds = [(layer.kind, layer.fan_in) for layer in found]
    assert kinds == [("embedding", 1), ("dense", 6), ("dense", 6)]


def test_products_of_data_are_not_layers():
    def loss(p, x):
        q, k, v = (jnp.einsum("btd,dnh->btnh", x, p[name]) for name in "qkv")
        y = jax.nn.dot_product_attention(q, k, v)
        return square(x + jnp.einsum("btnh,nhd->btd", y, p["o"]))

    params = {name: normal(6, 2, 3) for name in "qkv"} | {"o": normal(2, 3, 6)}
    found = layers(loss, params, normal(8, 4, 6))
    assert [layer.name for layer in found] == ["q", "k", "v", "o"]
    assert found[-1].unpredicted == "attention"


# Roles


def norm(z):
    return (z - z.mean(-1, keepdims=True)) * lax.rsqrt(z.var(-1, keepdims=True) + 1e-6)


RESTARTS = [
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
]  # fmt: skip


@functools.cache
def restarted():
    def loss(between):
        return lambda p, x: square(between(x @ p["a"]) @ p["out"])

    return together({f"{n}": (loss(between), MLP, X) for n, (between, *_) in enumerate(RESTARTS)})


@pytest.mark.parametrize("number", range(len(RESTARTS)))
def test_the_reason_why_predictions_restart_is_given(number):
    _, normalized, reason = RESTARTS[number]
    first, last = restarted()[str(number)]
    assert first.role == ("normalized" if normalized else "")
    assert first.activation == ""
    assert (last.source, last.unpredicted) == (None, reason)


def test_parts_of_one_layer_that_are_joined_again_keep_its_signal():
    moves = {
        "padded circularly": lambda z: jnp.pad(z, ((0, 0), (1, 1), (0, 0)), mode="wrap")[:, 1:5],
        "rolled": lambda z: jnp.roll(z, 1, 1),
        "rolled units": lambda z: jnp.roll(z, 1, 2),
        "of two signals": lambda z: jnp.concatenate([z[:, :2], -z[:, 2:]], 1),
        "normalized": lambda z: jnp.roll(norm(z), 1, 1),
    }

    def loss(moved):
        return lambda p, x: square(moved(jax.nn.relu(x @ p["a"])) @ p["out"])

    x = normal(8, 4, X.shape[1])
    found = together({name: (loss(moved), MLP, x) for name, moved in moves.items()})
    reasons = {name: last.unpredicted for name, (_, last) in found.items()}
    wanted = ["", "", "join", "join", "normalization"]
    assert reasons == dict(zip(moves, wanted, strict=True))
    assert found["rolled"][0].activation == "relu"


def test_running_statistics_are_not_a_residual_stream():
    def loss(p, x, mean, variance):
        return square((x @ p["a"] - mean) * lax.rsqrt(variance + 1e-5) @ p["out"])

    first, last = layers(loss, MLP, X, normal(6), jnp.ones(6))
    assert first.role == ""
    assert last.unpredicted == "product"


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
    ends = [layer.role == "branch end" for layer in layers(residual, params, X)]
    assert ends == [False, False, True, False, True, False]

    def gate(p, x):  # of a GRU: the two terms have different inputs
        r = jax.nn.sigmoid(x @ p["r"])
        return square(jnp.tanh(x @ p["n"] + r * (x @ p["h"])) @ p["out"])

    params = {name: normal(5, 6) for name in "rnh"} | {"out": normal(6, 2)}
    assert [layer.role for layer in layers(gate, params, X)] == ["", "sum", "", "last"]


CROSS_ENTROPIES = {
    "labels": lambda z, y: optax.softmax_cross_entropy_with_integer_labels(z, y),
    "one hot": lambda z, y: optax.softmax_cross_entropy(z, jax.nn.one_hot(y, 4)),
    "log_softmax": lambda z, y: -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1),
    "softmax": lambda z, y: -jnp.log(jax.nn.softmax(z)[jnp.arange(8), y] + 1e-9),
    "logsumexp": lambda z, y: jax.nn.logsumexp(z, axis=-1) - z[jnp.arange(8), y],
}


@functools.cache
def classifiers():
    def loss(of_logits):
        return lambda p, x, y: of_logits(jnp.tanh(x @ p["a"] + p["bias"]) @ p["out"], y).mean()

    return together({
        name: (loss(of_logits), MLP, X, jnp.arange(8) % 4)
        for name, of_logits in CROSS_ENTROPIES.items()
    } | {"none": (lambda p, x: square(x @ p["a"]), MLP, X)})  # fmt: skip


@pytest.mark.parametrize("name", CROSS_ENTROPIES)
def test_a_softmax_and_a_logarithm_mark_logits(name):
    hidden, last = classifiers()[name]
    assert (hidden.logits, last.logits) == (False, True)
    assert [layer.logits for layer in classifiers()["none"]] == [False]


# Other parameters


def test_unused_parameters_and_leaves_that_are_not_floating_are_ignored():
    def loss(p, x):
        noise = jax.random.normal(p["key"], (6,)) * p["count"]
        return square(x @ p["a"] + noise)

    params = {"a": normal(5, 6), "key": jax.random.key(0), "count": 3, "lost": normal(2)}
    report = initjax.audit(loss, params, X)
    assert [layer.name for layer in report.layers] == ["a"]
    (unused,) = [finding for finding in report.findings if finding.cause == "unused"]
    assert unused.layers == ("lost",)


@pytest.mark.parametrize("jit", [False, True], ids=["plain", "jit"])
def test_data_may_be_closed_over(jit):
    wrap = jax.jit if jit else lambda f: f

    def loss(p):
        return square(jnp.tanh(X @ p["a"]) @ p["out"])

    target = normal(8, 4)
    first, last = layers(wrap(loss), MLP)
    assert (first.name, first.unpredicted) == ("a", "batch")
    assert (last.name, last.source) == ("out", 0)
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
        # The audit takes a gradient, which most of these don't have.
        report = initjax.audit(
            lambda p, x, loss=loss: loss(lax.stop_gradient(p), x), normal(5, 6), X
        )
        assert report.layers == ()
        assert any(primitive in text for text in report.unread), primitive
        assert all(text.endswith(", which takes params") for text in report.unread)
    assert initjax.audit(lambda p, x: square(x @ p), normal(5, 6), X).unread == ()


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

    params = randomized(variables["params"])
    rest = {
        "batch_stats": jax.tree.map(lambda leaf: jnp.ones(leaf.shape), variables["batch_stats"])
    }
    report = initjax.audit(loss, params, rest, IMAGES, LABELS)
    found = report.layers
    paths = ["conv/kernel", "grouped/kernel", "hidden/kernel", "out/kernel"]
    assert [layer.name for layer in found] == paths
    for layer, path in zip(found, paths, strict=True):
        close(
            layer.bias_variance, mean_square(params[path.split("/")[0]].get("bias", jnp.zeros(1)))
        )
    assert [layer.fan_in for layer in found] == pytest.approx(
        [4 * (25 / 9) ** 2, 4 * (25 / 9) ** 2, 128, 6]
    )
    assert [layer.role for layer in found] == ["normalized" if train else "", "", "", "last"]
    assert found[-1].logits
    # In training, dropout stands between the layers.
    assert (found[3].source is None) == train
    assert [layer.activation for layer in found[1:]] == ["relu", "gelu", ""]
    assert "unused" not in {finding.cause for finding in report.findings}


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
    params = randomized(jax.eval_shape(model.init, jax.random.key(0), tokens)["params"])

    def loss(params, tokens):
        return cross_entropy(model.apply({"params": params}, tokens), tokens)

    found = layers(loss, params, tokens)
    assert [layer.name for layer in found] == [
        "embed/embedding", "attention/query/kernel", "attention/key/kernel",
        "attention/value/kernel", "attention/out/kernel", "up/kernel", "down/kernel",
        "embed/embedding (use 2)",
    ]  # fmt: skip
    assert [layer.fan_in for layer in found] == [1, 6, 6, 6, 6, 6, 24, 6]
    ends = [layer.role == "branch end" for layer in found]
    assert ends == [False] * 4 + [True, False, True, False]
    assert [layer.logits for layer in found] == [False] * 7 + [True]


class Nnx(nnx.Module):
    def __init__(self, rngs):
        bias_init = initjax.random_normal()
        self.inner = nnx.Linear(5, 6, bias_init=bias_init, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.outer = nnx.Linear(6, 4, bias_init=bias_init, rngs=rngs)

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
    first, last = layers(*arguments)
    assert (first.name, last.name) == ("inner/kernel", "outer/kernel")
    assert (first.fan_in, last.fan_in) == (5, 6)
    assert model.inner.bias is not None and model.outer.bias is not None
    close(first.bias_variance, mean_square(model.inner.bias[...]))
    close(last.bias_variance, mean_square(model.outer.bias[...]))
    assert first.role == "normalized"


def test_layers_of_equinox():
    model = equinox.nn.MLP(5, 3, 7, 2, key=jax.random.key(0))
    params, static = equinox.partition(model, equinox.is_inexact_array)

    def loss(params, x):
        return square(jax.vmap(equinox.combine(params, static))(x))

    found = layers(loss, params, X)
    assert [layer.name for layer in found] == [f"layers/{number}/weight" for number in range(3)]
    assert [layer.fan_in for layer in found] == [5, 7, 7]
    assert [layer.units for layer in found] == [7, 7, 3]
    assert [layer.source for layer in found] == [None, 0, 1]
    assert found[0].unpredicted == "batch"
    for layer, linear in zip(found, model.layers, strict=True):
        close(layer.weight_rank, participation(linear.weight.T), rel=1e-3)
        close(layer.bias_variance, mean_square(linear.bias))
    image = equinox.nn.Conv2d(4, 6, 3, key=jax.random.key(0))
    kernel, static = equinox.partition(image, equinox.is_inexact_array)
    images = normal(2, 4, 9, 9)
    (layer,) = layers(lambda p, x: square(jax.vmap(equinox.combine(p, static))(x)), kernel, images)
    assert (layer.kind, layer.fan_in) == ("convolution", 36)
    assert image.bias is not None
    close(layer.bias_variance, mean_square(image.bias))
    assert_units(layer, jax.vmap(image)(images), [1])


# Activations where a signal ends


MASK = jnp.arange(48).reshape(8, 6) % 3 > 0


ENDS = {
    "joined": lambda z, x: jnp.concatenate([jax.nn.relu(z), x], -1),
    "dropout": lambda z, x: jnp.where(x[:, :1] > 0, jax.nn.relu(z) / 0.9, 0),
    "mask": lambda z, x: jax.nn.relu(z) * MASK,
    "norm": lambda z, x: norm(jax.nn.relu(z)),
    "sum": lambda z, x: jax.nn.relu(z) + x.sum(1, keepdims=True),
    "mean": lambda z, x: jax.nn.relu(z).mean(0, keepdims=True),
    "pool": lambda z, x: linen.max_pool(jax.nn.relu(z)[..., None], (2,)),
}


@functools.cache
def ended():
    def case(between):
        def loss(p, x):
            h = between(x @ p["a"] + p["bias"], x)
            return square(h.reshape(len(h), -1) @ p["out"])

        shape = jax.eval_shape(lambda: between(normal(8, 6), X)).shape
        return loss, MLP | {"out": normal(int(np.prod(shape[1:])), 4)}, X

    return together({name: case(between) for name, between in ENDS.items()})


@pytest.mark.parametrize("name", ENDS)
def test_an_activation_is_found_where_its_signal_ends(name):
    first, last = ended()[name]
    assert (first.activation, last.activation) == ("relu", "")
    assert last.source is None


OTHER_WAYS = {
    "norm": lambda z, x: norm(z),
    "norm first": lambda z, x: jax.nn.relu(norm(z)),
    "rms norm": lambda z, x: z * lax.rsqrt(jnp.square(z).mean(-1, keepdims=True)),
    "scaled": lambda z, x: 0.5 * z + x.sum(1, keepdims=True),
    "with a skip": lambda z, x: jax.nn.relu(z) * x[:, :1] + z,
    "both signs": lambda z, x: jnp.concatenate([jax.nn.relu(z), jax.nn.relu(-z)], -1)[:, ::2],
    "comparison": lambda z, x: jnp.where(z > 0, 1.0, 2.0) * x[:, :1] + z * x[:, 1:2],
    "exponential": lambda z, x: jnp.exp(z) * x[:, :1],
    "power": lambda z, x: jnp.square(z).mean(0, keepdims=True),
    "gate": lambda z, x: jax.nn.sigmoid(z) * jnp.tanh(z[:, ::-1]),
    "loop": lambda z, x: lax.fori_loop(0, 3, lambda _, c: jax.nn.sigmoid(z) * c + 1, z),
}


@functools.cache
def passed_on():
    def loss(between):
        return lambda p, x: square(between(x @ p["a"], x) @ p["out"])

    return together({name: (loss(between), MLP, X) for name, between in OTHER_WAYS.items()})


@pytest.mark.parametrize("name", OTHER_WAYS)
def test_no_activation_is_reported_where_units_also_pass_another_way(name):
    first, _ = passed_on()[name]
    assert first.activation in ("", "identity")


@pytest.mark.parametrize(
    ("loss", "classes"),
    [
        (lambda z: -jax.nn.log_softmax(z)[:, 0], 12),
        (lambda z: -jax.nn.log_softmax(z.reshape(8, 3, 4))[..., 0], 4),
        (lambda z: -jax.nn.log_softmax(z[:, :5] / 0.7)[:, 0], 5),
        (lambda z: jnp.log(jnp.sum(jnp.exp(z), -1)), 12),
        (lambda z: -jnp.log(jax.nn.softmax(jnp.where(MASK[:, :1], z, -9)) + 1e-9)[:, 0], 12),
        (lambda z: jnp.log(square(z)), 0),
        (lambda z: jax.nn.log_softmax(z @ z.T), 0),
        (lambda z: jax.nn.log_softmax(z, axis=0), 0),
        (lambda z: jax.nn.log_sigmoid(z), 0),
        (lambda z: jax.nn.softmax(z), 0),
    ],
)
def test_the_number_of_classes_is_what_one_softmax_sums_over(loss, classes):
    params = {"a": normal(5, 6), "out": normal(6, 12)}

    def whole(p, x):
        return loss(jnp.tanh(x @ p["a"]) @ p["out"]).mean()

    def assert_guesses(report):
        assert report.layers[-1].logits == (classes > 0)
        expected = np.log(classes) if classes else np.nan
        assert report.network.expected_loss == pytest.approx(expected, nan_ok=True)

    assert_guesses(initjax.audit(whole, params, X))
    if classes == 12:
        members = {name: jnp.stack([leaf, leaf + 1, leaf + 2]) for name, leaf in params.items()}
        assert_guesses(
            initjax.audit(lambda p, x: jax.vmap(lambda p: whole(p, x))(p).mean(), members, X)
        )


def test_a_target_from_the_batch_is_not_a_residual_stream():
    def autoencoder(p, x):
        return square(jnp.tanh(x @ p["a"]) @ p["back"] - x)

    found = layers(autoencoder, {"a": normal(5, 6), "back": normal(6, 5)}, X)
    assert [layer.role for layer in found] == ["", "last"]

    def temporal_difference(p, x):
        def value(p, x):
            return jnp.tanh(x @ p["a"]) @ p["out"]

        target = x[:, 0] + value(p["target"], x[::-1]).max(-1)
        return square(value(p["online"], x)[:, 0] - target)

    found = layers(temporal_difference, {"online": MLP, "target": MLP}, X)
    assert [layer.role for layer in found] == ["", "", "", "last"]


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

    def scaled(w, key):
        return w * jax.random.bernoulli(key, 0.5, w.shape)

    weights = {"noisy": noisy, "masked": masked, "scaled": scaled}
    cases = {name: (mlp(weight), MLP, X, key) for name, weight in weights.items()}
    for name, (first, last) in together(cases).items():
        assert (first.fan_in, last.fan_in, last.unpredicted) == (5, 6, "")
        close(first.weight_variance, 5 * mean_square(weights[name](MLP["a"], key)))
    assert sorted(computed(*summed(cases))) == ["masked/a", "noisy/a", "scaled/a"]

    model = Spectral()
    variables = model.init(key, X)
    params = randomized(variables["params"])

    def spectral(params, statistics, x):
        return square(model.apply({"params": params, "batch_stats": statistics}, x))

    # The power iterations that compute the norms are not layers.
    found = layers(spectral, params, variables["batch_stats"], X)
    assert [layer.fan_in for layer in found] == [5, 6]
    biases = [mean_square(params[name]["bias"]) for name in ("Dense_0", "Dense_1")]
    assert [layer.bias_variance for layer in found] == pytest.approx(biases, rel=1e-5)


def test_a_product_with_a_different_kernel_per_example_is_listed_as_unread():
    def loss(p, x, key):
        masks = jax.random.bernoulli(key, 0.5, (8, 5, 6))
        return square(jnp.einsum("bi,bio->bo", x, p["a"] * masks) @ p["out"])

    report = initjax.audit(loss, MLP, X, jax.random.key(0))
    assert [layer.name for layer in report.layers] == ["out"]
    (text,) = report.unread
    assert text.endswith(", which takes a")


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

    (layer,) = layers(loss, normal(3), X)
    assert layer.fan_in == 5


def test_a_mean_with_added_noise_is_not_a_residual_branch():
    def sampled(p, x, key):
        h = jnp.tanh(x @ p["a"])
        mean, spread = h @ p["mean"], jnp.exp(h @ p["spread"])
        return square((mean + spread * jax.random.normal(key, mean.shape)) @ p["out"])

    params = MLP | {"mean": normal(6, 6), "spread": normal(6, 6)}
    found = layers(sampled, params, X, jax.random.key(0))
    assert "branch end" not in [layer.role for layer in found]
