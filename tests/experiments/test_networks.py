"""The networks other than MLPs: what they compute, and how their parameters are drawn."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import initjax
from experiments.common import models, networks, run_audit, run_directory, starting
from experiments.common.config import Config, UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 9, 6, 1), np.uint8)  # 3x2 patches
SIZES = {"mlp": 9 * 6, "cnn": 16, "resnet": 16, "transformer": 16}
KINDS = [
    {"model": "cnn"},
    {"model": "resnet"},
    {"model": "transformer"},
    {"model": "mlp", "residual": True, "normalization": "layer"},
]


def network(hidden, **kind):
    config = Config(hidden=hidden, activation="tanh", bias_init="normal(0.1)", **kind)
    model = models.network(
        (SIZES[config.model], *hidden, 10),
        config.activation,
        "float32",
        model=config.model,
        residual=config.residual,
        normalization=config.normalization,
        tokens=6,
    )
    return config, model


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_stacked_network_equals_the_one_written_out_and_learns_in_all_parameters(kind):
    _, model = network((8,) * 5, **kind)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype) / 3, model.shapes
    )
    assert [stack.length for stack in model.stacks] == [4]

    @jax.jit
    def passes(packed):
        def loss(packed):
            logits = model.apply(packed, IMAGES)
            return jax.nn.log_softmax(logits)[:, 0].sum(), logits

        return jax.grad(loss, has_aux=True)(packed)

    grads, logits = passes(model.pack(params))
    assert logits.shape == (3, 10)
    np.testing.assert_allclose(
        logits, jax.jit(model.unrolled)(params, IMAGES), rtol=1e-4, atol=1e-5
    )
    still = [name for name, grad in run_directory.flatten(grads) if not np.abs(grad).max() > 1e-7]
    # A bias of the keys adds the same to all scores of a query.
    assert all(name.endswith("key/bias") for name in still)


def test_norms_and_positions_are_not_drawn_by_the_flags():
    _, model = network((8,), model="transformer")
    rules = {name: starting._rule(name) for name, _ in run_directory.flatten(model.shapes)}
    fixed = {name: starting._FIXED[rule] for name, rule in rules.items() if rule in starting._FIXED}
    assert fixed == {
        "positions": "normal(0.02)",
        **{
            f"{path}/{name}": {"scale": "ones", "bias": "zeros"}[name]
            for path in ("norm", "hidden/0/attention_norm", "hidden/0/mlp_norm")
            for name in ("scale", "bias")
        },
    }
    assert rules["hidden/0/query/kernel"] == rules["input/kernel"] == "init"
    assert rules["hidden/0/query/bias"] == "bias_init"


def test_a_normalized_mlp_starts_from_the_weights_of_the_plain_one():
    plain, other = (
        starting.draw_params(*network((8, 8), normalization=normalization))
        for normalization in ("none", "layer")
    )
    np.testing.assert_array_equal(plain["hidden"][1]["kernel"], other["hidden"][1]["kernel"])


def test_patches_are_those_of_the_image():
    found = networks.patches(jnp.asarray(IMAGES))
    assert found.shape == (3, *networks.grid(9, 6), 16) == (3, 3, 2, 16)
    np.testing.assert_array_equal(found[:, 1, 0], IMAGES[:, 4:8, :4, 0].reshape(3, 16))
    np.testing.assert_array_equal(found[:, 2, 1, 2:], 0)


def test_convolutions_and_their_gradients_are_those_of_jax():
    def plain(x, kernel):
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
        dimensions = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=dimensions)

    keys = jax.random.split(jax.random.key(0), 2)
    x, kernel = (
        jax.random.normal(key, shape)
        for key, shape in zip(keys, [(2, 3, 4, 5), (3, 3, 5, 6)], strict=True)
    )
    found, wanted = (
        jax.value_and_grad(lambda *a, f=f: jnp.sin(f(*a)).sum(), (0, 1))(x, kernel)
        for f in (networks._convolve, plain)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, wanted)


def test_delta_orthogonal_convolutions_keep_norms_exactly():
    kernel = initjax.delta_orthogonal()(jax.random.key(0), (3, 3, 8, 16))
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 8)).astype(np.float32)
    y = networks._convolve(x, kernel)
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-4)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"model": "cn"}, "--model=cn: did you mean cnn?"),
        ({"model": "cnn", "residual": True}, "with residual blocks is --model=resnet"),
        ({"model": "resnet", "residual": True}, "--model=resnet has residual blocks anyway"),
        ({"residual": True}, "--hidden=128,64: --model=mlp --residual adds blocks"),
        ({"model": "cnn", "hidden": ()}, "needs at least one hidden block"),
        ({"model": "transformer", "hidden": (30,)}, "divided among its 4 heads"),
        ({"normalization": "batch"}, "must be one of none, layer"),
    ],
)
def test_what_cannot_be_built_is_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        Config(**fields)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"model": "cnn", "hidden": (8,)}, r"got \(3, 3, 16, 8\)$"),  # fewer outputs than inputs
        ({"model": "cnn", "hidden": (16,), "output_init": "dirac"}, "output/kernel is a matrix"),
        ({"model": "transformer", "hidden": (8,)}, "a transformer has none"),
    ],
)
def test_why_an_initializer_does_not_fit_is_said(fields, message):
    config = Config(init="delta_orthogonal", **fields)
    _, model = network(config.hidden, model=config.model)
    assert re.search(message, str(starting._misfit(config, model)))


def test_only_what_differs_from_the_model_is_given_in_a_command():
    assert Config(model="resnet").arguments() == [
        "--init=glorot_uniform", "--seed=0", "--model=resnet"
    ]  # fmt: skip
    config = Config(hidden=(64,) * 4, residual=True, normalization="layer")
    assert config.arguments()[2:] == ["--hidden=4x64", "--residual", "--normalization=layer"]
    audit = run_audit.command(Config(model="cnn", hidden=(32,) * 9, steps=3))
    assert audit.endswith("--seed=0 --model=cnn --batch_size=128 --depth=9")
    assert Config(model="resnet", normalization="none").arguments()[3:] == ["--normalization=none"]


def test_a_configuration_from_before_has_the_same_identity():
    before = "a526a35838b69f79bd5e0c831bb0ad1e81f3d57b4046e5106abef0d8f1bad59c"
    assert Config().identity("d") == before != Config(normalization="layer").identity("d")
