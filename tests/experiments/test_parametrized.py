"""Runs with a parametrization: at the base size nothing changes, beyond it what the plan says."""

import itertools
import json

import jax
import numpy as np
import pytest

import initjax
from experiments.common import data, run_directory, starting, tasks, training
from experiments.common.config import OPTIMIZERS, SCHEMES, Config, UsageError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 8, 8, 1), np.uint8)
LABELS = (np.arange(40) % 10).astype(np.int32)
DIGITS = data.Dataset("digits", "here", "d", 10, IMAGES, LABELS, IMAGES, LABELS)

KINDS = [
    {"model": "mlp", "hidden": (8,) * 5, "residual": True},
    {"model": "cnn", "hidden": (8, 6)},
    {"model": "transformer", "hidden": (8,)},
]


def started(**fields):
    config = Config(**fields)
    start = starting.start(config, DIGITS)
    return start, starting.optimizer(config, start.model), dict(run_directory.flatten(start.packed))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_at_the_base_size_a_run_is_bit_for_bit_the_run_without_a_scheme(kind):
    plain, optimizer, params = started(**kind)
    same, same_optimizer, same_params = started(**kind, scheme="completep", base=kind["hidden"])
    # Equal functions, optimizers and parameters make one program with one input.
    assert same.model.apply is plain.model.apply and same_optimizer == optimizer
    assert params.keys() == same_params.keys()
    for name, leaf in params.items():
        np.testing.assert_array_equal(leaf, same_params[name])


def test_schemes_that_differ_only_in_where_they_put_the_width_train_alike():
    """At equal depth, "mup", "completep" and "u_mup" are one: they scale draws, products and rates
    of a kernel differently, with the same effect."""

    def losses(scheme):
        start, optimizer, _ = started(hidden=(16,) * 5, scheme=scheme, base=(8,) * 5)
        assert start.model.stacks
        _, metrics = training.train(
            training.initial_state(optimizer, 0.1, start.packed),
            0.1,
            (IMAGES, LABELS),
            np.arange(80).reshape(4, 20) % 40,
            task=tasks.classification(start.model.apply),
            optimizer=optimizer,
        )
        return metrics.loss / 20

    mup, completep, u_mup, standard = map(losses, ("mup", "completep", "u_mup", "standard"))
    np.testing.assert_allclose(completep, mup, rtol=1e-4)
    np.testing.assert_allclose(u_mup, mup, rtol=1e-4)
    assert np.abs(standard - mup).max() > 0.02


def test_a_deeper_and_wider_transformer_multiplies_branches_scores_and_logits():
    options = {"model": "transformer", "hidden": (16,) * 2, "bias_init": "normal"}
    plain, _, _ = started(**options)
    start, _, _ = started(**options, scheme="completep", base=(4,))
    by_hand = {"query": (4 / 16) ** 0.5, "out": 1 / 2, "down": 1 / 2}
    leaves = {
        name: leaf * by_hand.get(name.split("/")[-2], 4 / 16 if name == "output/kernel" else 1)
        for name, leaf in run_directory.flatten(start.packed)
        if "/" in name
    }
    params = run_directory.nested({"positions": start.packed["positions"], **leaves})
    found = jax.jit(start.model.apply)(start.packed, IMAGES)
    wanted = jax.jit(plain.model.apply)(params, IMAGES)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_kernels_are_those_of_the_same_seed_as_large_as_the_scheme_says():
    options = {"hidden": (256, 128), "init": "glorot_uniform", "output_init": "he_normal"}
    _, _, plain = started(**options)
    _, _, scaled = started(**options, scheme="mup", base=(64, 32))
    limits = {0: (6 / (64 + 64)) ** 0.5, 1: (6 / (64 + 32)) ** 0.5 / 2}  # of the base, over sqrt(m)
    for layer, limit in limits.items():
        kernel = scaled[f"hidden/{layer}/kernel"]
        np.testing.assert_allclose(np.abs(kernel).max(), limit, rtol=1e-2)
        ratio = kernel / plain[f"hidden/{layer}/kernel"]
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)
    np.testing.assert_allclose(scaled["output/kernel"].std(), (2 / 32) ** 0.5 / 4, rtol=0.1)


def test_an_initializer_that_does_not_fit_is_named_as_without_a_scheme():
    config = Config(hidden=(16,), init="delta_orthogonal", scheme="mup", base=(8,))
    with pytest.raises(UsageError, match=r"--init: hidden/0/kernel: .*an MLP has none"):
        starting.check(config, DIGITS)


def test_a_configuration_knows_which_schemes_have_rules_for_an_optimizer():
    shapes = {"kernel": jax.ShapeDtypeStruct((8, 8), "float32")}
    for scheme, optimizer in itertools.product(SCHEMES, OPTIMIZERS):
        refused = [False, False]
        try:
            initjax.parametrize(shapes, shapes, scheme, optimizer)  # pyright: ignore
        except ValueError:
            refused[0] = True
        try:
            Config(scheme=scheme, base=(128, 64), optimizer=optimizer)
        except UsageError:
            refused[1] = True
        assert refused[0] == refused[1], (scheme, optimizer)


def test_old_runs_keep_their_keys_and_scaled_runs_have_their_own():
    old = "a526a35838b69f79bd5e0c831bb0ad1e81f3d57b4046e5106abef0d8f1bad59c"
    scaled = [
        Config(scheme="mup", base=(64, 32)),
        Config(scheme="ntk", base=(64, 32)),
        Config(scheme="mup", base=(64, 64)),
    ]
    keys = [config.identity("d") for config in (Config(), *scaled)]
    assert keys[0] == old and len(set(keys)) == 4
    again = Config(**json.loads(json.dumps({"scheme": "mup", "base": (64, 32)})))
    assert again == scaled[0] and again.arguments()[2:] == ["--scheme=mup", "--base=64,32"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scheme": "mop", "base": (8, 8)}, "--scheme=mop: did you mean mup?"),
        ({"scheme": "mup"}, "--scheme=mup needs --base, .* such as --base=128,64"),
        ({"base": (8, 8)}, "--base=8,8 needs --scheme: one of standard, ntk, mup, "),
        ({"scheme": "mup", "base": (8,)}, "--base=8 has 1 hidden layers, but --hidden=128,64 has"),
        ({"scheme": "mup", "base": (0, 8)}, "--base=0,8: every size must be at least 1"),
        (
            {"scheme": "mup", "base": (8, 16), "model": "resnet"},
            "--base=8,16: --model=resnet adds blocks to one another, .* --base=2x8",
        ),
        (
            {"scheme": "mup", "base": (6,), "model": "transformer"},
            "--base=6: --model=transformer needs a size that can be divided among its 4 heads",
        ),
        (
            {"scheme": "u_mup", "base": (8, 8), "optimizer": "sgd"},
            "--scheme=u_mup has no rules for --optimizer=sgd; use adam",
        ),
        (
            {"scheme": "mup", "base": (8, 8), "model": "a:b"},
            "--scheme=mup is not for a network of your own",
        ),
    ],
)
def test_a_scheme_that_is_not_possible_is_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        Config(**fields)
