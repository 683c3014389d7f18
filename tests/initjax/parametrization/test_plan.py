"""What a plan says, and what it makes of an optimizer."""

import json
import re

import equinox
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from initjax import parametrize


def shape(*sizes, dtype="float32"):
    return jax.ShapeDtypeStruct(sizes, dtype)


def shapes(width):
    return {
        "in": {"kernel": shape(3, width), "bias": shape(width)},
        "mid": {"kernel": shape(width, width)},
        "out": {"kernel": shape(width, 2), "bias": shape(2)},
    }


def numbers(tree, seed, dtype="float32"):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), dtype), tree)


def steps(optimizer, params, count=2, dtype="float32", **options):
    """Some steps on gradients that don't depend on the parameters."""
    state = optimizer.init(params)
    found = []
    for step in range(count):
        gradients = numbers(params, 10 + step, dtype)
        updates, state = optimizer.update(gradients, state, params, **options)
        params = optax.apply_updates(params, updates)
        found.append(updates)
    return found


def close(trees, others, tolerance=2e-6):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=1e-12), trees, others
    )


def by_hand(plan, make, params):
    """One optimizer for each parameter."""
    labels = {leaf.path: leaf for leaf in plan.leaves}
    names = jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params
    )
    return optax.multi_transform({path: make(leaf) for path, leaf in labels.items()}, names)


RATE, EPSILON, DECAY = 1e-2, 1e-1, 0.3  # an epsilon that matters
OPTIMIZERS = {
    "sgd": (optax.sgd(RATE), lambda leaf: optax.sgd(RATE * leaf.learning_rate)),
    "momentum": (
        optax.sgd(RATE, 0.9, nesterov=True),
        lambda leaf: optax.sgd(RATE * leaf.learning_rate, 0.9, nesterov=True),
    ),
    "adam": (
        optax.adam(RATE, eps=EPSILON),
        lambda leaf: optax.adam(RATE * leaf.learning_rate, eps=EPSILON * leaf.epsilon),
    ),
    "adamw": (
        optax.adamw(RATE, eps=EPSILON, weight_decay=DECAY),
        lambda leaf: optax.adamw(
            RATE * leaf.learning_rate,
            eps=EPSILON * leaf.epsilon,
            weight_decay=DECAY * leaf.weight_decay,
        ),
    ),
    "adamw_independent": (
        optax.chain(optax.adam(RATE, eps=EPSILON), optax.add_decayed_weights(-DECAY)),
        lambda leaf: optax.chain(
            optax.adam(RATE * leaf.learning_rate, eps=EPSILON * leaf.epsilon),
            optax.add_decayed_weights(-DECAY * leaf.weight_decay),
        ),
    ),
    "lion": (
        optax.lion(RATE, weight_decay=DECAY),
        lambda leaf: optax.lion(RATE * leaf.learning_rate, weight_decay=DECAY * leaf.weight_decay),
    ),
    "muon": (
        optax.contrib.muon(RATE, weight_decay=DECAY),
        lambda leaf: optax.contrib.muon(
            RATE * leaf.learning_rate,
            weight_decay=DECAY * leaf.weight_decay,
            adam_weight_decay=0.0,
            eps=1e-8,
        ),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_parameter_is_trained_as_by_an_optimizer_of_its_own(name):
    inner, make = OPTIMIZERS[name]
    params = numbers(shapes(8), 0)
    plan = parametrize(shapes(8), shapes(2), "mup", name)
    assert {leaf.learning_rate for leaf in plan.leaves} != {1.0}
    found = steps(plan.transform(inner), params)
    expected = steps(by_hand(plan, make, params), params)
    close(found, expected, 3e-4 if name == "muon" else 2e-6)  # Muon iterates


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_at_base_width_updates_are_the_optimizer_s_own(name):
    inner, _ = OPTIMIZERS[name]
    params = numbers(shapes(4), 0)
    plan = parametrize(shapes(4), shapes(4), "mup", name)
    jax.tree.map(
        np.testing.assert_array_equal,
        steps(plan.transform(inner), params),
        steps(inner, params),
    )


def test_optimizers_around_and_inside():
    """Clipping before, schedules, hyperparameters that are injected, masks and accumulation."""
    plan = parametrize(shapes(8), shapes(2), "mup", "sgd")
    params = numbers(shapes(8), 0)
    factors = {leaf.path: leaf.learning_rate for leaf in plan.leaves}

    schedule = optax.linear_schedule(RATE, 0.0, 4)
    first, second = steps(plan.transform(optax.sgd(schedule)), params)
    gradient = numbers(shapes(8), 11)["mid"]["kernel"]
    np.testing.assert_allclose(
        second["mid"]["kernel"], -0.75 * RATE * factors["mid/kernel"] * gradient, rtol=1e-6
    )

    injected = plan.transform(optax.inject_hyperparams(optax.sgd)(learning_rate=RATE))
    state = injected.init(params)
    state.hyperparams["learning_rate"] = jnp.asarray(2 * RATE)
    updates, _ = injected.update(numbers(shapes(8), 10), state, params)
    close(updates, jax.tree.map(lambda update: 2 * update, first))

    clipped = optax.chain(optax.clip_by_global_norm(1.0), plan.transform(optax.sgd(RATE)))
    norm = optax.tree.norm(numbers(shapes(8), 10))
    close(steps(clipped, params, 1)[0], jax.tree.map(lambda update: update / norm, first))

    labels = {"in": "frozen", "mid": "trained", "out": "trained"}
    masked = optax.multi_transform(
        {"trained": plan.transform(optax.sgd(RATE)), "frozen": optax.set_to_zero()}, labels
    )
    (found,) = steps(masked, params, 1)
    close(found["mid"], first["mid"])
    np.testing.assert_array_equal(found["in"]["kernel"], 0)
    (inside,) = steps(
        plan.transform(optax.masked(optax.sgd(RATE), {"in": False, "mid": True, "out": True})),
        params,
        1,
    )
    close(inside["out"], first["out"])

    accumulated = optax.MultiSteps(plan.transform(optax.sgd(RATE)), 2)
    nothing, mean = steps(accumulated, params)
    np.testing.assert_array_equal(nothing["mid"]["kernel"], 0)
    both = [numbers(shapes(8), seed)["mid"]["kernel"] for seed in (10, 11)]
    np.testing.assert_allclose(
        mean["mid"]["kernel"], -RATE * factors["mid/kernel"] * (both[0] + both[1]) / 2, rtol=1e-5
    )


def test_steps_in_every_mode():
    plan = parametrize(shapes(8), shapes(2), "completep", "lion")
    optimizer = plan.transform(optax.lion(RATE, weight_decay=DECAY))  # Optax's Adam isn't strict
    params = numbers(shapes(8), 0)
    expected = steps(optimizer, params, 1)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        (compiled,) = [jax.jit(lambda p: steps(optimizer, p, 1))(params)]
        close(compiled, expected, 2e-5)
        narrow = steps(optimizer, numbers(shapes(8), 0, "bfloat16"), 1, "bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(narrow)} == {"bfloat16"}
    with jax.enable_x64():
        wide = steps(optimizer, numbers(shapes(8), 0, "float64"), 1, "float64")
        assert {leaf.dtype.name for leaf in jax.tree.leaves(wide)} == {"float64"}
    close(wide, expected, 2e-5)


def test_updates_keep_their_shardings():
    sharding = NamedSharding(jax.make_mesh((jax.device_count(),), ("x",)), PartitionSpec("x"))
    plan = parametrize({"w": shape(8, 8)}, {"w": shape(2, 2)})
    params = {"w": jax.device_put(jnp.ones((8, 8)), sharding)}
    optimizer = plan.transform(optax.sgd(RATE))
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert updates["w"].sharding.is_equivalent_to(sharding, 2)


def test_an_optimizer_of_nnx_trains_a_module():
    class Net(nnx.Module):
        def __init__(self, width):
            self.first = nnx.Param(jnp.ones((3, width)))
            self.last = nnx.Param(jnp.ones((width, 2)))
            self.count = nnx.BatchStat(jnp.zeros(width))

    net = Net(8)
    plan = parametrize(net, Net(2), "mup", "sgd")
    optimizer = nnx.Optimizer(net, plan.transform(optax.sgd(1.0)), wrt=nnx.Param)
    gradients = nnx.grad(lambda net: (net.first[...] @ net.last[...]).sum())(net)
    optimizer.update(net, gradients)
    np.testing.assert_allclose(net.first[...], 1 - 4 * 2)  # 4 is the growth of fan_out
    np.testing.assert_allclose(net.last[...], 1 - 3 / 4)


def test_gradients_of_equinox_leave_out_what_is_no_array():
    def net(width):
        return equinox.nn.MLP(3, 2, width, 1, key=jax.random.key(0))

    model = net(8)
    plan = parametrize(model, equinox.filter_eval_shape(net, 2), "mup", "sgd")
    optimizer = plan.transform(optax.sgd(1.0))
    params = equinox.filter(model, equinox.is_inexact_array)
    gradients = jax.tree.map(jnp.ones_like, params)
    assert gradients.activation is None
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    model = equinox.apply_updates(model, updates)
    assert [float(layer.weight[0, 0]) for layer in updates.layers] == [-4, -1 / 4]


def test_a_tree_of_other_paths_is_named():
    plan = parametrize({"params": shapes(8)}, {"params": shapes(2)})
    optimizer = plan.transform(optax.sgd(RATE))
    params = numbers(shapes(8), 0)
    with pytest.raises(ValueError, match=r"no parameter 'in/bias'; make it for .* params/in/bias"):
        optimizer.update(params, optimizer.init(params), params)


# What it says.


class Transformer(nn.Module):
    width: int
    depth: int
    heads: int = 4

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(100, self.width, name="token_embedding")(tokens)
        for number in range(self.depth):
            name = f"transformer_encoder_block_{number}"
            x = nn.MultiHeadDotProductAttention(self.heads, name=f"{name}_attention")(x)
            x = nn.LayerNorm(name=f"{name}_norm")(x)
            x = nn.Dense(self.width, name=f"{name}_mlp_out")(
                nn.Dense(4 * self.width, name=f"{name}_mlp_in")(x)
            )
        return nn.Dense(100, name="classification_head")(x)


def transformer(width, depth, heads=4):
    tokens = jnp.zeros((1, 3), int)
    return jax.eval_shape(Transformer(width, depth, heads).init, jax.random.key(0), tokens)


def test_the_table_of_a_large_model_fits_and_says_what_to_do():
    own, base = transformer(64, 12), transformer(16, 2)
    plan = parametrize(own, base, "u_mup", "adamw", depth=(2, 12), head_size=(4, 16))
    text = str(plan)
    assert max(map(len, text.splitlines())) <= 80
    path = "params/transformer_encoder_block_*_attention/query/kernel"
    assert re.search(rf"^{re.escape(path)} \(12\)\n +hidden +64 +4 +x1 +x0.204", text, re.M)
    todo = text.partition("In the forward pass:\n")[2]
    for line in (
        "  y = 0.5 * (x @ kernel)\n",
        f"      {path}\n",
        "  logits = 0.25 * logits\n      params/classification_head/kernel\n",
        "  scores = 0.5 * (query @ key.T) / head_size**0.5\n",
        "  x = x + 0.408248 * block(x)",
    ):
        assert line in todo
    assert not plan.notes
    found = json.loads(json.dumps(plan.to_dict(), allow_nan=False))
    assert found["multipliers"]["residual"]["value"] == 6**-0.5
    assert len(found["leaves"]) == len(plan.leaves) and found["scheme"] == "u_mup"
    row = next(row for row in found["leaves"] if row["path"].endswith("0_attention/query/kernel"))
    assert row["shape"] == [64, 4, 16] and row["role"] == "hidden" and row["in_block"]


def test_kernels_that_need_different_products_have_a_line_each():
    trees = [{"a": shape(n, n), "b": shape(n * n, n)} for n in (4, 2)]
    plan = parametrize(trees[0], trees[1], "u_mup")
    lines = plan.multipliers["kernels"].line.splitlines()
    assert lines == ["y = 0.707107 * (x @ kernel)  # a", "y = 0.5 * (x @ kernel)  # b"]
    assert np.isnan(plan.multipliers["kernels"].value)
    assert plan.to_dict()["multipliers"]["kernels"]["value"] is None
    assert all(f"  {line[:-5]}" in str(plan) for line in lines)


@pytest.mark.parametrize(
    ("own", "base", "options", "note"),
    [
        (shapes(4), shapes(4), {}, "Both models have the same shapes: the plan"),
        (shapes(8), shapes(4), {"depth": (2, 4)}, "mup has no rule for depth: its factors are"),
        (
            shapes(8),
            shapes(4),
            {"depth": (2, 4), "scheme": "completep"},
            "No parameter is in a",
        ),
        (
            {"e": {"embedding": shape(9, 8)}},
            {"e": {"embedding": shape(9, 4)}},
            {},
            "pass roles={'e/embedding': 'tied'}",
        ),
        (transformer(64, 1), transformer(16, 1), {}, "head_size=(4, 16): scores then fall"),
        (transformer(64, 1, 16), transformer(16, 1), {}, "Heads of attention keep 4 features"),
        (
            {"qkv": shape(8, 24)},
            {"qkv": shape(4, 12)},
            {},
            "grow (qkv), pass head_size=(b",
        ),
    ],
)
def test_notes_tell_what_shapes_do_not(own, base, options, note):
    plan = parametrize(own, base, **options)
    assert len(plan.notes) == 1 and note in plan.notes[0]
    assert " ".join(plan.notes[0].split()) in " ".join(str(plan).split())


def test_nothing_is_said_where_nothing_is_open():
    assert not parametrize(shapes(8), shapes(4)).notes
    assert "In the forward pass" not in str(parametrize(shapes(8), shapes(4)))


@pytest.mark.parametrize("optimizer", [1e-3, optax.adam, "adam"])
def test_transform_asks_for_a_transformation(optimizer):
    with pytest.raises(TypeError, match="transform: optimizer must be an Optax transformation"):
        parametrize(shapes(8), shapes(4)).transform(optimizer)


def test_a_page_too_narrow_is_named():
    with pytest.raises(ValueError, match=r"^to_text: width must be .* >= 20, got 0"):
        parametrize(shapes(8), shapes(4)).to_text(0)
