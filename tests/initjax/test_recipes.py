"""Recipes for whole models: the papers' factors and the papers' claims."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.sharding import NamedSharding, PartitionSpec

import initjax


class Branch(linen.Module):
    """A residual branch of two layers, as in the MLP of a transformer without normalization."""

    features: int

    @linen.compact
    def __call__(self, x):
        init = initjax.variance_scaling(2.0, "fan_out", "normal")
        h = linen.relu(linen.Dense(self.features, kernel_init=init, name="up")(x))
        return x + linen.Dense(self.features, kernel_init=init, name="down")(h)


class Residual(linen.Module):
    depth: int

    @linen.compact
    def __call__(self, x):
        for _ in range(self.depth):
            x = Branch(x.shape[-1])(x)
        return linen.Dense(10, name="head")(x)


DEPTH = 32


@pytest.fixture
def residual(key):
    model, x = Residual(DEPTH), jax.random.normal(key, (64, 128))
    return model, model.init(key, x), x


def hidden(model, params, x):
    _, state = model.apply(params, x, capture_intermediates=True)
    return state["intermediates"][f"Branch_{DEPTH - 1}"]["__call__"][0]


def test_residual_scaling_keeps_the_sum_of_branches_near_one(residual):
    model, params, x = residual
    scaled = initjax.residual_scaling(params, DEPTH, outputs="*/down/kernel")
    # Each branch adds the variance of its input: (1 + 2/1)^depth without, (1 + 2/depth)^depth with.
    growth = np.var(hidden(model, scaled, x)) / np.var(x)
    assert growth == pytest.approx((1 + 2 / DEPTH) ** DEPTH, rel=0.3)
    assert np.var(hidden(model, params, x)) / np.var(x) > 1e9


def test_fixup_starts_as_the_identity_and_scales_the_other_layers(residual):
    model, params, x = residual
    scaled = initjax.fixup(
        params, DEPTH, inner="*/up/kernel", last="*/down/kernel", head="*/head/*"
    )
    np.testing.assert_array_equal(hidden(model, scaled, x), x)
    assert not np.any(model.apply(scaled, x))
    before, after = (tree["params"]["Branch_3"]["up"]["kernel"] for tree in (params, scaled))
    np.testing.assert_allclose(after, before / DEPTH**0.5, rtol=1e-6)
    assert np.std(after) * 64**0.5 * DEPTH**0.5 == pytest.approx(1, rel=0.03)


def test_fixup_of_bottleneck_blocks_uses_the_fourth_root():
    params = {"conv1": jnp.ones(()), "conv2": jnp.ones(()), "conv3": jnp.ones(())}
    scaled = initjax.fixup(params, 16, inner=["conv1", "conv2"], last="conv3", layers_per_branch=3)
    assert jax.tree.map(float, scaled) == {"conv1": 0.5, "conv2": 0.5, "conv3": 0.0}


@pytest.mark.parametrize(("stack", "factor"), [("encoder", 0.67 / 2), ("decoder", 144**-0.25)])
def test_t_fixup_has_the_factors_of_the_paper(stack, factor):
    params = {"value": jnp.ones(1), "query": jnp.ones(1), "embed": jnp.ones(1)}
    scaled = initjax.t_fixup(params, 16, stack, weights=["value"], embeddings="embed")
    values = {name: float(leaf[0]) for name, leaf in scaled.items()}
    assert values == pytest.approx({"value": factor, "query": 1.0, "embed": 144**-0.25})


@pytest.mark.parametrize(
    ("stack", "layers", "constants"),
    [
        ("encoder", {"encoder_layers": 18}, (36**0.25, 144**-0.25)),
        ("decoder", {"decoder_layers": 24}, (48**0.25, 192**-0.25)),
        # The paper's 6-6 model: figure 2's formulas, computed by hand.
        ("encoder", {"encoder_layers": 6, "decoder_layers": 6}, (1.417938, 0.496989)),
        ("decoder", {"encoder_layers": 6, "decoder_layers": 6}, (2.059767, 0.343295)),
    ],
)
def test_deepnorm_has_the_constants_of_the_paper(stack, layers, constants):
    assert initjax.deepnorm_constants(stack, **layers) == pytest.approx(constants, rel=1e-5)
    params = {"out": jnp.ones(1), "key": jnp.ones(1)}
    scaled = initjax.deepnorm(params, stack, weights="out", **layers)
    assert float(scaled["out"][0]) == pytest.approx(constants[1], rel=1e-5)
    assert scaled["key"] is params["key"]


def test_deepnorm_keeps_updates_of_a_deep_model_as_small_as_of_a_shallow_one(key):
    """The paper's claim: without it, a post-norm model of this depth doesn't train stably."""

    def model(params, alpha, x):
        for layer in params.values():
            x = alpha * x + jax.nn.relu(x @ layer["up"]) @ layer["down"]
            x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
        return x

    def change(depth, scaled):
        shapes = {
            str(i): {name: jax.ShapeDtypeStruct((64, 64), "float32") for name in ("up", "down")}
            for i in range(depth)
        }
        params = initjax.initialize(shapes, key, {"*": initjax.glorot_normal()})
        alpha = 1.0
        if scaled:
            alpha, _ = initjax.deepnorm_constants("encoder", encoder_layers=depth)
            params = initjax.deepnorm(params, "encoder", weights="*", encoder_layers=depth)
        x, target = jax.random.normal(key, (2, 32, 64))
        gradient = jax.grad(lambda params: jnp.mean((model(params, alpha, x) - target) ** 2))
        step = jax.tree.map(lambda p, g: p - 1.0 * g, params, gradient(params))
        return jnp.linalg.norm(model(step, alpha, x) - model(params, alpha, x))

    deep, shallow = change(48, True), change(6, True)
    assert deep < 2 * shallow and deep < 0.5 * change(48, False)


@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_mimetic_makes_the_products_of_the_kernels_look_like_identities(library, key):
    d, heads = 96, 3
    if library == "linen":
        model = linen.MultiHeadDotProductAttention(num_heads=heads)
        params = {"attention": model.init(key, jnp.ones((1, 4, d)))["params"]}
    else:
        module = nnx.MultiHeadAttention(heads, d, decode=False, rngs=nnx.Rngs(0))
        params = {"attention": nnx.to_pure_dict(nnx.state(module))}
    drawn = initjax.mimetic(params, key, "attention")["attention"]
    query, key_, value, out = (
        np.asarray(drawn[part]["kernel"], np.float64) for part in ("query", "key", "value", "out")
    )
    product = value.reshape(d, d) @ out.reshape(d, d)
    noise = (product + 0.4 * np.eye(d)) / 0.4
    assert noise.std() * d**0.5 == pytest.approx(1, rel=0.05) and abs(noise.mean()) < 0.01
    for head in range(heads):
        product = query[:, head] @ key_[:, head].T
        assert np.linalg.matrix_rank(product) == d // heads
        # Nearly a multiple of the identity: the largest third has most of a third of the trace.
        assert 0.7 * d / heads < np.trace(product) < 1.4 * 0.7 * d
    assert not np.allclose(query[:, 0], query[:, 1])
    np.testing.assert_array_equal(drawn["query"]["bias"], params["attention"]["query"]["bias"])
    shapes = (jax.tree.map(np.shape, tree) for tree in (drawn, params["attention"]))
    assert next(shapes) == next(shapes)


def test_mimetic_gives_the_best_approximation_of_a_heads_rank(key):
    """By Eckart and Young: the discarded part is orthogonal to the kept part."""
    params: Any = linen.MultiHeadDotProductAttention(num_heads=4).init(key, jnp.ones((1, 4, 64)))
    drawn = initjax.mimetic(params, key, query_key=(1.0, 0.0))["params"]
    for head in range(4):
        query, other = (np.asarray(drawn[part]["kernel"])[:, head] for part in ("query", "key"))
        np.testing.assert_allclose(query.T @ query, other.T @ other, atol=1e-4)
        # Each side gets the root of every singular value; the largest of such noise is about 2.
        values = np.linalg.svd(query)[1] ** 2
        assert values[0] == pytest.approx(2, rel=0.15) and values[-1] > 1


def test_mimetic_keeps_every_kernel_on_its_device(key):
    params = linen.MultiHeadDotProductAttention(num_heads=2).init(key, jnp.ones((1, 4, 16)))
    mesh = jax.make_mesh((1,), ("x",))
    placed = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    for tree in (params, placed):
        drawn = initjax.mimetic(tree, key)
        for before, after in zip(jax.tree.leaves(tree), jax.tree.leaves(drawn), strict=True):
            assert after.sharding == before.sharding and after.committed == before.committed
    jitted = jax.jit(lambda key: initjax.mimetic(placed, key))(key)
    assert jax.tree.structure(jitted) == jax.tree.structure(placed)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, key: initjax.residual_scaling(p, 4, outputs=()), r"outputs must .* got \(\)"),
        (lambda p, key: initjax.fixup(p, 4, inner=(), last="*"), "inner must hold a pattern"),
        (lambda p, key: initjax.fixup(p, 4, inner="*", last=[]), "last must hold a pattern"),
        (lambda p, key: initjax.t_fixup(p, 2, "encoder", weights=()), "weights must hold"),
        (
            lambda p, key: initjax.deepnorm(p, "encoder", weights=(), encoder_layers=2),
            "weights must hold",
        ),
        (lambda p, key: initjax.mimetic(p, key, ()), "attention must hold a pattern"),
        (lambda p, key: initjax.residual_scaling(p, 0, outputs="*"), "num_branches must be"),
        (
            lambda p, key: initjax.residual_scaling(p, 2, outputs="x"),
            "^residual_scaling: no parameter matches 'x'",
        ),
        (
            lambda p, key: initjax.fixup(p, 2, inner="*", last="x"),
            "^fixup: no parameter matches 'x'",
        ),
        (
            lambda p, key: initjax.t_fixup(p, 2, "encoder", weights="x"),
            "^t_fixup: no parameter matches 'x'",
        ),
        (
            lambda p, key: initjax.deepnorm(p, "encoder", weights="x", encoder_layers=2),
            "^deepnorm: no parameter matches 'x'",
        ),
        (lambda p, key: initjax.fixup(p, 2, inner="*", last=(), layers_per_branch=1), ">= 2"),
        (lambda p, key: initjax.t_fixup(p, 2, "both", weights="*"), "stack must be one of"),
        (lambda p, key: initjax.deepnorm_constants("encoder", decoder_layers=2), "encoder_layers"),
        (lambda p, key: initjax.mimetic(p, key, "b"), "no attention matches 'b'.* are none"),
        (
            lambda p, key: initjax.mimetic({"a": {"query": {"kernel": jnp.ones((4, 4))}}}, key),
            r"'a' must hold kernels of the shapes .* got \[\(4, 4\)\]",
        ),
    ],
)
def test_recipe_errors_say_what_is_valid(make, message, key):
    with pytest.raises(ValueError, match=message):
        make({"a": jnp.ones(2)}, key)


def test_mimetic_names_its_key():
    with pytest.raises(TypeError, match=r"mimetic: key must be a PRNG key, .* got 0; call mimetic"):
        initjax.mimetic({"query": {"kernel": np.ones((4, 2, 2))}}, 0)  # pyright: ignore
