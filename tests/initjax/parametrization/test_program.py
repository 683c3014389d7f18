"""Roles and axes that `parametrize` reads from a model's own program, whatever its layout.

Everything is read from shapes: no program runs. The width grows by 4.
"""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import initjax

BASE, WIDE = 8, 32


def f32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def i32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def planned(loss_fn, shapes, *batch, **options):
    return initjax.parametrize(
        shapes(WIDE), shapes(BASE), loss_fn=loss_fn, batch=tuple(batch), **options
    )


def read(loss_fn, shapes, *batch, **options):
    """What a plan says of each parameter: its role, and its fan_in."""
    plan = planned(loss_fn, shapes, *batch, **options)
    return {leaf.path: (leaf.role, leaf.fan_in) for leaf in plan.leaves}


def entropy(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1).mean()


def transposed(p, x):  # (out, in)
    return (jnp.tanh(x @ p["a"].T) @ p["c"].T).sum()


def for_each_example(p, x):
    return jax.vmap(lambda x: (p["c"] @ jnp.tanh(p["a"] @ x)).sum())(x).sum()


def sums_written_out(p, x):
    hidden = jnp.tanh((x[:, None, :] * p["a"]).sum(-1))
    return jax.lax.dot_general(hidden, p["c"], (((1,), (1,)), ((), ()))).sum()


def its_own_gradient(p, x):
    """A transposed kernel in a derivative is no other use of it."""
    model = jax.jit(lambda x: (p["c"] @ jnp.tanh(p["a"] @ x)).sum())
    return jnp.square(jax.vmap(jax.grad(model))(x)).sum()


@pytest.mark.parametrize(
    "loss_fn", [transposed, for_each_example, sums_written_out, its_own_gradient]
)
def test_kernels_of_another_layout_have_the_roles_that_the_program_gives_them(loss_fn):
    def shapes(width):
        return {"a": f32(width, 3), "c": f32(5, width)}

    assert read(loss_fn, shapes, f32(4, 3)) == {"a": ("input", 3), "c": ("output", WIDE)}
    why = planned(loss_fn, shapes, f32(4, 3)).leaves[1].why
    assert why == "read from the program: sums over axis 1; only fan_in grows"


def test_where_reading_and_shapes_agree_nothing_is_said_of_reading():
    def shapes(width):
        return {"a": f32(3, width), "b": f32(width), "c": f32(width, 5)}

    def loss_fn(p, x):
        return (jnp.tanh(x @ p["a"] + p["b"]) @ p["c"]).sum()

    with_loss, without = (
        planned(loss_fn, shapes, f32(4, 3)),
        initjax.parametrize(shapes(WIDE), shapes(BASE)),
    )
    assert with_loss.leaves == without.leaves


def test_a_tied_embedding_is_found_and_its_logits_multiplied():
    def shapes(width):
        blocks = {"up": f32(3, width, 4 * width), "down": f32(3, 4 * width, width)}
        return {"table": f32(11, width), "blocks": blocks, "places": f32(6, width)}

    def loss_fn(p, tokens, labels):
        def block(x, kernels):
            return x + jnp.tanh(x @ kernels["up"]) @ kernels["down"], None

        x, _ = jax.lax.scan(block, p["table"][tokens] + p["places"], p["blocks"])
        return entropy(x @ p["table"].T, labels)

    plan = planned(loss_fn, shapes, i32(4, 6), i32(4, 6))
    assert {leaf.path: leaf.role for leaf in plan.leaves} == {
        "blocks/down": "hidden",
        "blocks/up": "hidden",
        "places": "input",
        "table": "tied",
    }
    # The scan's axis is no window: each kernel of the stack sums over its own inputs alone.
    assert [leaf.fan_in for leaf in plan.leaves[:2]] == [4 * WIDE, WIDE]
    stddev = float(plan.rules["blocks/up"](jax.random.key(0), (3, WIDE, 4 * WIDE)).std())
    assert stddev == pytest.approx(WIDE**-0.5, rel=0.05)
    assert plan.multipliers["logits"].value == 0.25


def test_a_table_of_columns_is_drawn_by_its_features():
    def shapes(width):
        return {"table": f32(width, 1000), "head": f32(width, 5)}

    def loss_fn(p, tokens):
        return (p["table"][:, tokens].T @ p["head"]).sum()

    plan = planned(loss_fn, shapes, i32(4))
    assert [leaf.role for leaf in plan.leaves] == ["output", "embedding"]
    with jax.numpy_dtype_promotion("strict"):
        table = plan.rules["table"](jax.random.key(0), (WIDE, 1000), jnp.bfloat16)
    assert table.dtype == jnp.bfloat16
    assert float(table.std()) == pytest.approx(BASE**-0.5, rel=0.05)  # as in the base model


def packed(p, x):
    """Queries, keys and values from one kernel, with more features for each of two heads."""
    parts = (x @ p["qkv"]).reshape(*x.shape[:2], 3, 2, -1)
    q, k, v = (parts[:, :, number] for number in range(3))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
    return (mixed.reshape(x.shape) @ p["out"]).sum()


def test_packed_queries_keys_and_values_are_hidden_and_the_heads_found():
    def shapes(width):
        return {"qkv": f32(width, 3 * width), "out": f32(width, width)}

    x = f32(4, 6, WIDE)
    assert read(packed, shapes, x) == {"out": ("hidden", WIDE), "qkv": ("hidden", WIDE)}
    # The shapes don't tell how many features the base model's heads have.
    plan = planned(packed, shapes, x)
    assert plan.multipliers["attention"].line == ""
    assert plan.notes[-1].endswith("can't be told: pass head_size=(base, 16).")
    plan = planned(packed, shapes, x, head_size=(4, 16))
    assert plan.multipliers["attention"].value == 0.5
    assert plan.notes[-1] == "The scores to be multiplied are those of the queries of qkv."
    plan = planned(packed, shapes, x, head_size=(8, 32))
    assert plan.notes[0] == "head_size says 32, but a score of the program sums 16 products."


@pytest.mark.parametrize(
    "of_queries, of_scores, value", [(0.5, 0, 0.5), (0, 0.5, 0.5), (0.5, 0.5, 1), (0, 1, 1)]
)
def test_kernels_by_heads_tell_the_size_of_heads(of_queries, of_scores, value):
    """Scores that the program divides by the size itself need no multiplier."""

    def shapes(width):
        return {"qkv": f32(3, 5, 2, width), "out": f32(2, width, 5)}

    def loss_fn(p, x):
        q, k, v = jnp.einsum("bld,ndhk->nblhk", x, p["qkv"])
        size = q.shape[-1]
        scores = jnp.einsum("bqhd,bkhd->bhqk", q / size**of_queries, k) / size**of_scores
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
        return jnp.einsum("bqhd,hde->bqe", mixed, p["out"]).sum()

    plan = planned(loss_fn, shapes, f32(4, 6, 5))
    assert [leaf.role for leaf in plan.leaves] == ["output", "input"]
    assert [leaf.fan_in for leaf in plan.leaves] == [2 * WIDE, 5]
    assert plan.notes[0].startswith("Attention's heads have 32 features, 8 in the base model")
    assert plan.multipliers["attention"].value == value


def test_experts_under_vmap_sum_over_their_own_inputs():
    def shapes(width):
        experts = {"up": f32(6, width, 2 * width), "down": f32(6, 2 * width, width)}
        return {"experts": experts, "router": f32(width, 6), "looked_up": f32(6, width, 3 * width)}

    def loss_fn(p, x):
        given = jax.vmap(lambda e: jnp.tanh(x @ e["up"]) @ e["down"])(p["experts"])
        y = jnp.einsum("ebd,be->bd", given, jax.nn.softmax(x @ p["router"]))
        chosen = (x @ p["router"]).argmax(-1)
        return jnp.einsum("bd,bdf->bf", y, p["looked_up"][chosen]).sum()

    assert read(loss_fn, shapes, f32(4, WIDE)) == {
        "experts/down": ("hidden", 2 * WIDE),
        "experts/up": ("hidden", WIDE),
        "looked_up": ("hidden", WIDE),
        "router": ("output", WIDE),
    }


def test_kernels_that_are_made_from_others_keep_their_roles():
    """Weight normalization, a low-rank update, a mask, a cast, slices by number."""

    def shapes(width):
        return {
            "gain": f32(1, width),
            "kernel": f32(3, width),
            "deep": f32(2, width, width),
            "last": f32(width, 5),
            "low": {"a": f32(width, 2), "b": f32(2, 5)},
            "wide": {"a": f32(3, 2), "b": f32(2, width)},
        }

    def loss_fn(p, x):
        kernel = p["gain"] * p["kernel"] / jnp.linalg.norm(p["kernel"], axis=0)
        x = jnp.tanh(x @ (kernel + p["wide"]["a"] @ p["wide"]["b"]))
        for number in range(2):
            x = jnp.tanh(x @ jnp.tril(p["deep"][number]).astype(jnp.bfloat16).astype(x.dtype))
        return (x @ (p["last"] + p["low"]["a"] @ p["low"]["b"])).sum()

    assert read(loss_fn, shapes, f32(4, 3)) == {
        "deep": ("hidden", WIDE),
        "gain": ("vector", 1),
        "kernel": ("input", 3),
        "last": ("output", WIDE),
        "low/a": ("output", WIDE),
        "low/b": ("scalar", 2),
        "wide/a": ("scalar", 3),
        "wide/b": ("input", 2),
    }


def test_a_gru_and_a_convolution():
    def shapes(width):
        return {
            "conv": f32(width, 3, 5),
            "depthwise": f32(width, 1, 5),
            "by_input": f32(3 * width, width),
            "by_state": f32(3 * width, width),
            "decay": f32(width, 4),
        }

    def loss_fn(p, x):
        layout = ("NCH", "OIH", "NCH")
        x = jax.lax.conv_general_dilated(x, p["conv"], (1,), "SAME", dimension_numbers=layout)
        x = jax.lax.conv_general_dilated(
            x, p["depthwise"], (1,), "SAME", dimension_numbers=layout, feature_group_count=WIDE
        )
        x = x * jnp.exp(-p["decay"]).sum(-1)[:, None]

        def turn(h, x):
            r, z, c = jnp.split(x @ p["by_input"].T, 3, -1)
            hr, hz, hc = jnp.split(h @ p["by_state"].T, 3, -1)
            z = jax.nn.sigmoid(z + hz)
            return (1 - z) * jnp.tanh(c + jax.nn.sigmoid(r + hr) * hc) + z * h, None

        h, _ = jax.lax.scan(turn, jnp.zeros((x.shape[0], WIDE)), x.transpose(2, 0, 1))
        return h.sum()

    assert read(loss_fn, shapes, f32(4, 3, 9)) == {
        "by_input": ("hidden", WIDE),
        "by_state": ("hidden", WIDE),
        "conv": ("input", 15),
        "decay": ("vector", 1),  # enters no product
        "depthwise": ("input", 5),
    }


def test_kernels_that_are_not_read_keep_the_roles_of_their_shapes_and_a_note_says_so():
    """Queries that are parameters are no layer, and `unused` is none, either."""

    def shapes(width):
        return {"queries": f32(7, width), "key": f32(3, width), "unused": f32(width, width)}

    def loss_fn(p, x):
        scores = jnp.einsum("qd,bkd->bqk", p["queries"], x @ p["key"])
        return jnp.einsum("bqk,bkd->bqd", jax.nn.softmax(scores), x).sum()

    plan = planned(loss_fn, shapes, f32(4, 6, 3), head_size=(BASE, WIDE))
    assert [leaf.role for leaf in plan.leaves] == ["input", "input", "hidden"]
    assert plan.notes[-1].startswith("The program doesn't tell the axes of queries, unused: they")


def test_what_the_program_cannot_decide():
    def loss_fn(p, x):  # one array for two kernels
        size = 3 * (p.size // 8)
        return (jnp.tanh(x @ p[:size].reshape(3, -1)) @ p[size:].reshape(-1, 5)).sum()

    with pytest.raises(ValueError, match="one part of axis 0 of params is summed over"):
        planned(loss_fn, lambda width: f32(8 * width), f32(4, 3))
    stack = {"w": f32(3, 8, 8)}, {"w": f32(2, 8, 8)}
    with pytest.raises(ValueError, match="numbers separate kernels, and grows; if they are blocks"):
        initjax.parametrize(
            *stack,
            loss_fn=lambda p, x: jax.lax.scan(lambda x, w: (x @ w, None), x, p["w"])[0].sum(),
            batch=(f32(4, 8),),
        )
    shapes = {"w": f32(4, 3)}
    with pytest.raises(TypeError, match="batch must be the tuple of loss_fn's other arguments"):
        initjax.parametrize(shapes, shapes, loss_fn=transposed, batch=f32(4, 3))  # pyright: ignore
    with pytest.raises(ValueError, match="loss_fn, which is missing"):
        initjax.parametrize(shapes, shapes, batch=(f32(4, 3),))
    with pytest.raises(TypeError, match="loss_fn must be a function"):
        initjax.parametrize(shapes, shapes, loss_fn="w")  # pyright: ignore


class OwnLinear(eqx.Module):
    matrix: jax.Array

    def __call__(self, x):
        return self.matrix @ x


class Reader(eqx.Module):
    """A small transformer with a head of its own."""

    embedding: eqx.nn.Embedding
    attention: eqx.nn.MultiheadAttention
    conv: eqx.nn.Conv1d
    head: OwnLinear

    def __init__(self, width):
        key = jax.random.key(0)
        self.embedding = eqx.nn.Embedding(11, width, key=key)
        self.attention = eqx.nn.MultiheadAttention(2, width, key=key)
        self.conv = eqx.nn.Conv1d(width, width, 3, padding=1, key=key)
        self.head = OwnLinear(jnp.ones((5, width)))

    def __call__(self, tokens):
        x = jax.vmap(self.embedding)(tokens)
        x = x + self.attention(x, x, x)
        return self.head(self.conv(x.T).mean(1))


def test_equinox():
    def shapes(width):
        return eqx.filter_eval_shape(Reader, width)

    def loss_fn(model, tokens, labels):
        return entropy(jax.vmap(model)(tokens), labels)

    plan = planned(loss_fn, shapes, i32(4, 6), i32(4))
    roles = {leaf.path: leaf.role for leaf in plan.leaves}
    assert roles.pop("embedding/weight") == "embedding"
    assert roles.pop("head/matrix") == "output"
    assert roles.pop("conv/bias") == "vector"
    assert set(roles.values()) == {"hidden"}
    # The modules know how many heads there are.
    assert plan.multipliers["attention"].value == 0.5
    arrays, static = eqx.partition(shapes(WIDE), lambda leaf: hasattr(leaf, "shape"))
    split = initjax.parametrize(
        arrays,
        shapes(BASE),
        loss_fn=lambda arrays, *batch: loss_fn(eqx.combine(arrays, static), *batch),
        batch=(i32(4, 6), i32(4)),
    )
    assert split.leaves == plan.leaves
    assert split.notes[-1].endswith("pass head_size=(base, 16).")
    with pytest.raises(ValueError, match=r"shapes of head/matrix.*pass loss_fn and batch"):
        initjax.parametrize(shapes(WIDE), shapes(BASE))
    told = initjax.parametrize(shapes(WIDE), shapes(BASE), roles={"head/matrix": "output"})
    assert [leaf.learning_rate for leaf in told.leaves] == [
        leaf.learning_rate for leaf in plan.leaves
    ]


class Linen(nn.Module):
    width: int

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(11, self.width)
        x = nn.MultiHeadDotProductAttention(2)(embed(tokens))
        return embed.attend(nn.Conv(self.width, (3,))(x))


class Nnx(nnx.Module):
    def __init__(self, width):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(11, width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, width, decode=False, rngs=rngs)
        self.conv = nnx.Conv(width, width, (3,), rngs=rngs)

    def __call__(self, tokens):
        return self.embed.attend(self.conv(self.attention(self.embed(tokens))))


def test_flax():
    def variables(width):
        return jax.eval_shape(Linen(width).init, jax.random.key(0), jnp.zeros((4, 6), int))

    linen = planned(
        lambda p, tokens, labels: entropy(Linen(WIDE).apply(p, tokens), labels),
        variables,
        i32(4, 6),
        i32(4, 6),
    )
    graph = planned(
        lambda model, tokens, labels: entropy(model(tokens), labels),
        lambda width: nnx.eval_shape(lambda: Nnx(width)),
        i32(4, 6),
        i32(4, 6),
    )
    for plan in linen, graph:
        roles = sorted(leaf.role for leaf in plan.leaves)
        assert roles == ["hidden"] * 5 + ["tied"] + ["vector"] * 5
        assert plan.multipliers["attention"].value == 0.5
        assert plan.multipliers["logits"].value == 0.25
