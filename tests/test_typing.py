# pyright: strict
"""A user's script that uses every public name: it runs, and pyright in strict mode accepts it.

Run by pytest as a test, and checked by the run of pyright in .ci/run; `assert_type` does nothing at
run time, and fails there.
"""

import pathlib
import re
from typing import Any, assert_type

import jax
import jax.numpy as jnp
import optax  # pyright: ignore[reportMissingTypeStubs]
import pytest

import initjax
from initjax import auditing, theory

Params = dict[str, dict[str, jax.Array]]

INITIALIZERS: list[initjax.Initializer] = [
    initjax.bounded_normal(stddev=0.02),
    initjax.class_frequency_bias([10, 30]),
    initjax.constant(0.5),
    initjax.delta_orthogonal(),
    initjax.dirac(),
    initjax.forget_gate_bias(),
    initjax.glorot_normal(),
    initjax.glorot_uniform(),
    initjax.hadamard_identity(),
    initjax.he_normal(gain=jax.nn.gelu),
    initjax.he_uniform(gain="tanh"),
    initjax.hippo("legs"),
    initjax.icnr(initjax.he_normal(), 2),
    initjax.identity(),
    initjax.in_blocks(initjax.normal()),
    initjax.inverse_softplus(initjax.log_uniform(0.001, 0.1)),
    initjax.kaiming_normal(),
    initjax.kaiming_uniform(**initjax.conv_fans(strides=(2, 2))),
    initjax.kan_spline(),
    initjax.layer_scale(24),
    initjax.lecun_normal(**initjax.stacked_fans(2)),
    initjax.lecun_uniform(**initjax.packed_fans(3)),
    initjax.log_uniform(),
    initjax.logarithm(initjax.random_uniform(1.0, 16.0)),
    initjax.mup_output(4),
    initjax.normal(0.1),
    initjax.ones,
    initjax.orthogonal(2**0.5),
    initjax.prior_bias(0.01),
    initjax.random_normal(),
    initjax.random_truncated_normal(),
    initjax.random_uniform(-0.1, 0.1),
    initjax.random_walk(),
    initjax.s4d("real"),
    initjax.scaled_orthogonal(),
    initjax.siren(),
    initjax.small_init(64),
    initjax.sparse(2),
    initjax.spectral(),
    initjax.stft("real", window=None),
    initjax.torch_bias(8),
    initjax.torch_kaiming_normal(),
    initjax.torch_kaiming_uniform(a=5**0.5),
    initjax.truncated_normal(),
    initjax.uniform(),
    initjax.unit_norm(),
    initjax.variance_scaling(2.0, "fan_in", "normal"),
    initjax.wang_init(12, 64),
    initjax.xavier_normal(**initjax.embedding_fans()),
    initjax.xavier_uniform(**initjax.einsum_fans("bd,dh->bh")),
    initjax.zeros,
]


@pytest.fixture
def params() -> Params:
    shapes = {name: {"kernel": jax.ShapeDtypeStruct((8, 8), "float32")} for name in ("in", "out")}
    return initjax.initialize(shapes, jax.random.key(0), {"*/kernel": initjax.he_normal()})


def clipped(z: jax.Array) -> jax.Array:
    return jnp.clip(z, -1, 1)


def loss_fn(params: Params, x: jax.Array) -> jax.Array:
    return jnp.square(jax.nn.relu(x @ params["in"]["kernel"]) @ params["out"]["kernel"]).mean()


def test_initializers_are_values_that_draw_arrays(key: jax.Array):
    for initializer in INITIALIZERS:
        assert_type(initializer, initjax.Initializer)
        assert initjax.get(initjax.parse(repr(initializer))) == initializer
    names = {repr(initializer).partition("(")[0] for initializer in INITIALIZERS}
    assert names <= initjax.NAMES.keys()
    kernel = initjax.orthogonal()(initjax.named_key(key, "kernel"), (8, 4))
    assert_type(kernel, jax.Array)
    assert kernel.shape == (8, 4)


def test_fans_and_gains_are_numbers_and_arguments():
    fans = initjax.compute_fans((3, 3, 8, 16), **initjax.conv_fans(groups=2))
    assert_type(fans, tuple[float, float])
    arguments = initjax.conv_transpose_fans(strides=(2, 2))
    assert_type(arguments, dict[str, Any])
    assert_type(initjax.gain("tanh"), float)
    assert_type(initjax.gain(jax.nn.gelu), float)
    assert_type(initjax.gain(clipped), float)
    assert_type(initjax.torch_gain("tanh"), float)


def test_recipes_keep_the_type_of_the_parameters(params: Params, key: jax.Array):
    outputs = "out/*"
    assert_type(initjax.depth_indexed("layer_{}/out", 4), dict[str, initjax.Initializer])
    assert_type(initjax.rescale(params, {outputs: 0.5}), Params)
    assert_type(initjax.residual_scaling(params, 4, outputs=outputs), Params)
    assert_type(initjax.fixup(params, 4, inner="in/*", last=outputs), Params)
    assert_type(initjax.t_fixup(params, 4, "encoder", weights=outputs), Params)
    assert_type(initjax.deepnorm(params, "encoder", weights=outputs, encoder_layers=4), Params)
    constants = initjax.deepnorm_constants("encoder", encoder_layers=4)
    assert_type(constants, tuple[float, float])
    kernels = {name: {"kernel": initjax.ones(key, (8, 2, 4))} for name in ("query", "key", "value")}
    attention: Params = {**kernels, "out": {"kernel": initjax.ones(key, (2, 4, 8))}}
    assert_type(initjax.mimetic(attention, key), Params)
    kernel = params["in"]["kernel"]
    assert_type(initjax.lora_scale(16, 4, rank_stabilized=True), float)
    assert_type(initjax.pissa(kernel, 4), initjax.LowRank)
    assert_type(initjax.olora(kernel, 4, 2.0), initjax.LowRank)
    assert_type(initjax.lora_ga(kernel, kernel, 2), initjax.LowRank)
    assert_type(initjax.pissa(kernel, 4).lora_a, jax.Array)


def test_an_audit_and_a_repair_have_typed_results(params: Params, key: jax.Array):
    x = jax.random.normal(key, (64, 8))
    report = initjax.audit(loss_fn, params, x)
    assert_type(report, initjax.Report)
    assert_type(report.layers, tuple[initjax.Layer, ...])
    assert_type(report.findings, tuple[initjax.Finding, ...])
    assert_type(report.network, initjax.Network)
    assert_type(report.layers[0].parameters, tuple[initjax.Parameter, ...])
    assert_type(report.attention, tuple[initjax.Attention, ...])
    assert_type([layer.rms for layer in report.layers], list[float])
    causes: list[str] = [finding.cause for finding in report.findings]
    assert not causes
    auditor = initjax.auditor(loss_fn, params, x)
    assert_type(auditor(params, x), initjax.Report)
    repaired, repair = initjax.fix(loss_fn, params, x)
    assert_type(repaired, Params)
    assert_type(repair, initjax.Repair)
    assert_type(repair.changes, tuple[initjax.Change, ...])
    assert_type(repair.after, initjax.Report)
    for name in auditing.__all__:
        assert getattr(auditing, name) is getattr(initjax, name)


def test_a_coordinate_check_is_typed(key: jax.Array):
    def make(width: int, key: jax.Array) -> tuple[Any, Params, tuple[jax.Array]]:
        sizes = {"in": (8, width), "out": (width, 8)}
        shapes = {name: {"kernel": jax.ShapeDtypeStruct(sizes[name], "float32")} for name in sizes}
        params = initjax.initialize(shapes, key, {"*/kernel": initjax.he_normal()})
        return loss_fn, params, (jax.random.normal(key, (16, 8)),)

    checked = initjax.coordinate_check(make, [4, 8], optax.sgd(0.1), steps=1, seeds=2, key=key)
    assert_type(checked, initjax.CoordinateCheck)
    assert_type(checked.coordinates, tuple[initjax.Coordinate, ...])
    assert_type(checked.coordinates[0].faults, tuple[initjax.Fault, ...])
    assert_type(checked.coordinates[0].slope("own", 1), initjax.Slope | None)
    assert_type(checked.stable, bool)


def test_a_plan_is_typed(params: Params, key: jax.Array):
    plan = initjax.parametrize(params, params, "completep", "adamw", depth=(2, 4))
    assert_type(plan, initjax.Plan)
    assert_type(plan.leaves, tuple[initjax.PlannedLeaf, ...])
    assert_type(plan.multipliers["residual"], initjax.Multiplier)
    assert_type(plan.rules, dict[str, initjax.Initializer])
    assert_type(plan.rescale(params), Params)


def test_leaves_are_typed(params: Params):
    found = initjax.identify(params)
    assert_type(found, initjax.Identification)
    assert_type(found.leaves, tuple[initjax.IdentifiedLeaf, ...])
    compared = initjax.compare_leaves(params, params)
    assert_type(compared, initjax.Comparison)
    assert_type(compared.leaves, tuple[initjax.ComparedLeaf, ...])
    assert_type(compared.unchanged, tuple[str, ...])


def test_advice_is_typed(params: Params, key: jax.Array):
    advice = initjax.recommend("relu", 20, 64, normalization="layer")
    assert_type(advice, initjax.Recommendation)
    assert_type(advice.initializer, initjax.Initializer)
    assert_type(advice.choice, initjax.Choice)
    assert_type(advice.alternatives, tuple[initjax.Choice, ...])
    assert_type(advice.theory, initjax.Prediction)
    assert_type(advice.evidence, initjax.Evidence | None)
    report = initjax.audit(loss_fn, params, jax.random.normal(key, (64, 8)))
    advice = initjax.recommend(report)
    assert_type(advice, initjax.Recommendation)
    evidence = initjax.recommend(clipped, 3, 64, optimizer="momentum").evidence
    if evidence is not None:
        assert_type(evidence.settings, tuple[initjax.Measured, ...])


def test_theory_gives_numbers_and_named_tuples(tmp_path: pathlib.Path):
    assert_type(theory.moments("relu"), theory.Moments)
    assert_type(theory.gain("relu"), float)
    assert_type(theory.torch_gain("relu"), float)
    assert_type(theory.variance_map("relu", 1.0, 2.0), float)
    assert_type(theory.correlation_map("relu", 0.5, 1.0, 2.0), float)
    assert_type(theory.chi("relu", 1.0, 2.0), float)
    assert_type(theory.chi_parallel("relu", 1.0, 2.0), float)
    assert_type(theory.depth_scales("relu", 2.0), theory.DepthScales)
    assert_type(theory.critical_line("relu"), theory.CriticalPoint)
    assert_type(theory.critical_points("relu"), list[theory.CriticalPoint])
    assert_type(theory.log_norm_moments([100, 100]), theory.LogNorm)
    assert_type(theory.jacobian_spectrum("relu", 1.0, depth=3), theory.JacobianSpectrum)
    assert_type(theory.dead_fraction(0.9, batch_size=256), float)
    assert_type(theory.attention_weights(1.0, num_keys=64), theory.AttentionWeights)
    assert_type(theory.attention_threshold(64), float)
    assert_type(theory.attention_map(0.5, num_keys=64), theory.AttentionMap)
    assert_type(theory.transformer_map(2, num_keys=64), theory.TokenSignals)
    assert theory.relu_correlation_map(1.0) == pytest.approx(1.0)  # pyright: ignore
    picture = tmp_path / "phases.png"
    theory.phase_diagram("relu", [1.0, 2.0], [0.0, 0.1], picture).get_axes()
    assert picture.exists()


def test_this_script_uses_every_public_name():
    text = pathlib.Path(__file__).read_text()
    for module, prefix in ((initjax, "initjax"), (theory, "theory")):
        for name in module.__all__:
            assert re.search(rf"\b{prefix}\.{name}\b", text), f"{prefix}.{name}"
    assert set(auditing.__all__) <= set(initjax.__all__)
