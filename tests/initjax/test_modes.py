"""Every initializer in every mode of JAX, with every kind of key, in every kind of dtype."""

import contextlib
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import initjax
from tests.tf32 import in_tf32

# What a name needs besides its defaults. Every name in NAMES is tested.
ARGUMENTS = {
    "constant": ["-0.3"],
    "variance_scaling": [
        f"3.0, 'fan_avg', '{distribution}'"
        for distribution in ("normal", "truncated_normal", "uniform")
    ],
    "truncated_normal": ["", "0.3, None, 3.0, inf"],
    "bounded_normal": ["1.0, 0.5, 0.0, inf"],
    "mup_output": ["8"],
    "icnr": ["normal(0.5), 2"],
    "torch_bias": ["64"],
    "in_blocks": ["he_normal", "bounded_normal"],
    "stft": ["'imag'"],
    "inverse_softplus": ["log_uniform"],
    "logarithm": ["random_uniform(1.0, 16.0)"],
    "small_init": ["64"],
    "wang_init": ["4, 64"],
    "layer_scale": ["4"],
    "prior_bias": ["0.01"],
    "class_frequency_bias": ["(1.0, 2.0, 5.0)"],
}
SHAPE = 5, 16, 24
SHAPES = {"stft": (16, 1, 9), "hippo": (24, 24), "class_frequency_bias": (3,)}
CALLS = [
    (name, spec)
    for name, made in initjax.NAMES.items()
    for spec in (
        [f"{name}({arguments})" for arguments in ARGUMENTS[name]]
        if name in ARGUMENTS
        else [name if made in (initjax.zeros, initjax.ones) else f"{name}()"]
    )
]
ALIASES = {f"xavier_{kind}": f"glorot_{kind}" for kind in ("uniform", "normal")}
ALIASES |= {f"kaiming_{kind}": f"he_{kind}" for kind in ("uniform", "normal")}
FIXED = {"zeros", "ones", "constant", "identity", "dirac", "hadamard_identity", "stft"}
FIXED |= {"s4d", "hippo", "layer_scale", "prior_bias", "class_frequency_bias", "forget_gate_bias"}
# Messages about their key name the initializer that they call.
WRAPPERS = {"icnr", "inverse_softplus", "logarithm"}

DRAWN = [(name, spec) for name, spec in CALLS if name not in FIXED]


@contextlib.contextmanager
def all_at_once():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        with jax.numpy_rank_promotion("raise"), jax.checking_leaks():
            yield


MODES = {
    "strict promotion of dtypes": lambda: jax.numpy_dtype_promotion("strict"),
    "no promotion of ranks": lambda: jax.numpy_rank_promotion("raise"),
    "x64": lambda: jax.enable_x64(True),
    "leaks": jax.checking_leaks,
    "keys used twice": lambda: jax.debug_key_reuse(True),
    "threefry that isn't partitionable": lambda: jax.threefry_partitionable(False),
    "all at once": all_at_once,
}
RUN = {"debug_nans": lambda: jax.debug_nans(True), "disable_jit": jax.disable_jit}
# One of each kind of program.
KINDS = ["uniform", "normal", "truncated_normal", "truncated_normal(1.0, None, 3.0, inf)"]
KINDS += ["he_normal", "sparse(3)", "orthogonal", "delta_orthogonal", "icnr(normal, 2)"]
KINDS += ["hadamard_identity", "identity", "constant(0.3)", "in_blocks(glorot_uniform)"]


def is_refused(initializer, shape, dtype):
    """Whether it says that it draws real numbers only."""
    try:
        jax.eval_shape(lambda key: initializer(key, shape, dtype), jax.random.key(0))
    except TypeError as error:
        return "real numbers" in str(error) and dtype.startswith("complex")
    return False


@pytest.mark.parametrize("mode", MODES)
def test_every_initializer_can_be_traced_in_every_mode(mode):
    with MODES[mode]():
        key = jax.random.key(0)
        dtypes = ["float32", "bfloat16", "float8_e5m2", "complex64"]
        dtypes += ["float64", "complex128"] if jax.config.jax_enable_x64 else []  # pyright: ignore
        for name, spec in CALLS:
            initializer, shape = initjax.parse(spec), SHAPES.get(name, SHAPE)
            for dtype in dtypes:
                if is_refused(initializer, shape, dtype):
                    continue
                drawn = jax.eval_shape(
                    lambda key, draw=initializer, shape=shape, dtype=dtype: draw(key, shape, dtype),
                    key,
                )
                assert drawn.shape == shape and drawn.dtype == dtype, spec


@pytest.mark.parametrize("mode", RUN)
def test_every_kind_of_program_runs_in_every_mode(mode, key):
    with RUN[mode]():
        for spec in KINDS:
            drawn = initjax.parse(spec)(key, SHAPE, "float32")
            assert drawn.shape == SHAPE and jnp.isfinite(drawn).all(), spec
        for distribution in ("normal", "truncated_normal", "uniform"):
            drawn = initjax.variance_scaling(1.0, "fan_in", distribution)(key, SHAPE, "complex64")
            assert drawn.dtype == "complex64" and jnp.isfinite(drawn).all(), distribution


@pytest.mark.parametrize("mode", [*MODES, *RUN])
def test_large_arrays_are_drawn_in_every_mode(mode):
    shape, settings = (1025, 1024), {**MODES, **RUN}
    expected = np.asarray(initjax.random_uniform()(jax.random.key(0), shape, "float32"))
    with settings[mode]():
        for initializer in (
            initjax.random_uniform(),
            initjax.in_blocks(initjax.random_uniform()),
        ):
            drawn = initializer(jax.random.key(0), shape, "float32")
            if mode != "threefry that isn't partitionable":
                np.testing.assert_allclose(drawn, expected, rtol=1e-6, atol=1e-8)
            assert drawn.shape == shape


IMPLS = ["threefry2x32", "rbg", "unsafe_rbg"]


@pytest.mark.parametrize("impl", IMPLS)
def test_every_kind_of_key_works_typed_and_raw(impl):
    with jax.default_prng_impl(impl):
        typed, raw = jax.random.key(3), jax.random.PRNGKey(3)
        assert raw.shape == ((2,) if impl == "threefry2x32" else (4,))
        for spec in KINDS[:-4] + KINDS[-1:]:
            initializer = initjax.parse(spec)
            drawn = np.asarray(initializer(typed, SHAPE))
            raws: Any = (raw, np.asarray(raw))
            for same in raws:
                np.testing.assert_array_equal(initializer(same, SHAPE), drawn, err_msg=spec)
            assert np.ptp(drawn) > 0, spec
        for _, spec in CALLS:  # the others are traced only
            shape = SHAPES.get(spec.partition("(")[0], SHAPE)
            for key in (typed, raw):
                assert jax.eval_shape(lambda key: initjax.parse(spec)(key, shape), key)  # noqa: B023


@pytest.mark.parametrize(("name", "spec"), DRAWN)
def test_what_is_no_single_key_is_refused_by_name(name, spec):
    initializer, shape = initjax.parse(spec), SHAPES.get(name, SHAPE)
    wrong = [0, None, "key", jnp.ones(2), np.array([1, 2, 3, 4], np.uint32), np.ones(2, np.int32)]
    for key in wrong:
        with pytest.raises(TypeError) as raised:
            initializer(key, shape)
        assert "needs a PRNG key, such as jax.random.key(0), got" in str(raised.value)
        called = ALIASES[name] if name in ALIASES else name
        assert str(raised.value).startswith(called) or name in WRAPPERS
    for keys in (jax.random.split(jax.random.key(0), 3), jax.random.split(jax.random.PRNGKey(0))):
        with pytest.raises(
            ValueError, match=r"a single key, got an array of keys of shape \(.*vmap"
        ):
            initializer(keys, shape)


def test_a_stream_of_keys_is_explained():
    for stream in (nnx.Rngs(0), nnx.Rngs(0).params):
        with pytest.raises(TypeError, match=r"got a Rng\w*; call it, as in rngs\.params\(\)"):
            initjax.he_normal()(stream, (3, 4))  # pyright: ignore


@pytest.mark.parametrize("key", [jax.random.key(0), jax.random.PRNGKey(0)], ids=["typed", "raw"])
@pytest.mark.parametrize(("name", "spec"), CALLS)
def test_key_and_shape_the_wrong_way_round_are_explained(name, spec, key):
    with pytest.raises(TypeError, match=r"needs key and shape in this order, got the shape \(3, 4"):
        initjax.parse(spec)((3, 4), key)  # pyright: ignore
    with pytest.raises(TypeError, match=r"needs a shape of integers, got .*float32.*shape, dtype"):
        initjax.parse(spec)(key, jnp.float32)  # pyright: ignore


@pytest.mark.parametrize("shape", [(40, 50), (1025, 1024)])
@pytest.mark.parametrize("spec", ["normal", "in_blocks(he_normal)", "random_uniform"])
def test_a_key_used_twice_is_reported_as_by_jax(spec, shape):
    initializer = initjax.parse(spec)
    uses = [
        lambda key: initializer(key, shape),
        lambda key: jax.jit(lambda key: initializer(key, shape))(key),
        lambda key: jax.random.normal(key, (3,)),
    ]
    with jax.debug_key_reuse(True):
        for first in uses[:2]:
            for second in uses:
                key = jax.random.key(0)
                first(key)
                with pytest.raises(jax.errors.KeyReuseError, match="Previously-consumed key"):
                    second(key)


def test_narrow_draws_of_few_values_warn_at_the_call(key):
    """Fewer than 3 values in 8 bits, 15 in 16 bits, 255 in 32 bits, for 98% of the numbers."""
    for initializer, dtype in (
        (initjax.normal(1e-8), "float16"),
        (initjax.normal(1e-40), "float32"),
        (initjax.normal(1e-60), "complex64"),
        (initjax.orthogonal(1e-9), "float16"),
        (initjax.sparse(3, 1e-9), "float16"),
        (initjax.siren(1e9), "float8_e5m2"),
        (initjax.he_normal(gain=1e-9), "float16"),
        (initjax.in_blocks(initjax.normal(1e-9)), "float16"),
        (initjax.bounded_normal(0.0, 1.0, 10.0, np.inf), "bfloat16"),
        (initjax.bounded_normal(0.0, 1.0, -np.inf, -40.0), "float16"),
        (initjax.bounded_normal(5.0, 0.01, 4.9, 5.1), "bfloat16"),
        (initjax.random_uniform(0.99, 1.0), "bfloat16"),
        (initjax.random_normal(1e4, 1e-3), "float32"),
        (initjax.random_normal(1e30, 1.0), "float32"),
        (initjax.he_normal(gain=1e-44), "float32"),
    ):
        with pytest.warns(UserWarning, match=f"where {dtype} has only") as seen:
            jax.eval_shape(lambda key: initializer(key, (30, 40), dtype), key)  # noqa: B023
        assert [warning.filename for warning in seen] == [__file__]


@pytest.mark.parametrize("name", initjax.NAMES)
def test_a_factory_that_is_called_as_an_initializer_explains_itself(name):
    if name in ("zeros", "ones"):  # are initializers
        return
    for key in (jax.random.key(0), jax.random.PRNGKey(0)):
        with pytest.raises(TypeError, match=r"is a PRNG key; .* makes an initializer") as raised:
            getattr(initjax, name)(key, (3, 4), "float32")
        assert "\n" not in str(raised.value)


def test_what_makes_no_initializer_does_not_claim_to(key):
    for function in (
        lambda number: initjax.lora_scale(number, 4),
        lambda number: initjax.depth_indexed("layers_{}", 2, stddev=number),
    ):
        for number in (key, jax.random.PRNGKey(0)):
            with pytest.raises(TypeError, match=r"must be a real number, got Array\("):
                function(number)


def test_few_values_are_counted_as_they_are_drawn(key):
    """The count in the warning is that of a draw, whatever the law."""
    for initializer, dtype in (
        (initjax.bounded_normal(0.0, 1.0, 10.0, np.inf), "bfloat16"),
        (initjax.bounded_normal(0.0, 1.0, 1.9, 2.0), "bfloat16"),
        (initjax.random_normal(1.0, 0.01), "bfloat16"),
        (initjax.random_uniform(0.95, 1.0), "bfloat16"),
        (initjax.truncated_normal(1.0, None, -np.inf, -30.0), "float16"),
    ):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            drawn = np.asarray(initializer(key, (400, 500), dtype), np.float32)
        low, high = np.quantile(drawn, [0.01, 0.99])
        counted = len(np.unique(drawn[(low <= drawn) & (drawn <= high)]))
        [warned] = seen
        said = int(str(warned.message).split(" has only ")[1].split()[0])
        assert abs(said - counted) <= 1, initializer


def test_draws_that_are_meant_to_be_equal_do_not_warn(key):
    for initializer in (
        initjax.normal(0.0),
        initjax.uniform(0.0),
        initjax.random_normal(3.0, 0.0),
        initjax.random_uniform(0.3, 0.3),
        initjax.variance_scaling(0.0, "fan_in", "uniform"),
        initjax.orthogonal(0.0),
    ):
        for dtype in ("float16", "float32", "complex64"):
            if not is_refused(initializer, (3, 4), dtype):
                jax.eval_shape(lambda key: initializer(key, (3, 4), dtype), key)  # noqa: B023


FITTING = [
    (initjax.identity(1e6), "float16"),
    (initjax.identity(1e-10), "float16"),
    (initjax.identity(-1.0), "uint8"),
    (initjax.identity(0.5), "int32"),
    (initjax.orthogonal(1e6), "float16"),
    (initjax.delta_orthogonal(1e6), "float16"),
    (initjax.scaled_orthogonal(1e6), "float16"),
    (initjax.orthogonal(1e60), "complex64"),
    (initjax.sparse(3, 1e6), "float16"),
    (initjax.normal(1e60), "complex64"),
    *(
        (initjax.variance_scaling(1e90, "fan_in", distribution), "complex64")
        for distribution in ("normal", "truncated_normal", "uniform")
    ),
    (initjax.siren(1e-9), "float16"),
    (initjax.mup_output(8, 1e20), "float16"),
    (initjax.torch_bias(1e-20), "float16"),
    (initjax.torch_kaiming_uniform(gain=1e9), "float16"),
    (initjax.icnr(initjax.normal(1e9), 2), "float16"),
    (initjax.unit_norm(scale=1e6), "float16"),
    (initjax.kan_spline(1e9), "float16"),
    (initjax.forget_gate_bias(1e6), "float16"),
    (initjax.hadamard_identity(), "int8"),
    (initjax.constant(1e6), "float16"),
    (initjax.constant([0.0, 1e-10]), "float16"),
    (initjax.constant(1e39), "bfloat16"),
    (initjax.constant(np.inf), "float8_e4m3fn"),
    (initjax.constant(np.nan), "float4_e2m1fn"),
    (initjax.constant(1j), "float32"),
    (initjax.constant(-1.0), "float8_e8m0fnu"),
]


@pytest.mark.parametrize(("initializer", "dtype"), FITTING)
def test_numbers_that_a_dtype_cannot_hold_are_refused(initializer, dtype, key):
    with pytest.raises(ValueError, match=f"{dtype} can't hold|but the largest {dtype} is"):
        initializer(key, (3, 16, 24)[-2 - ("delta" in repr(initializer)) :], dtype)


@pytest.mark.parametrize(("name", "spec"), CALLS)
def test_a_dtype_without_sign_and_zero_is_refused(name, spec, key):
    if name in ("ones", "constant", "layer_scale"):  # positive constants
        assert initjax.ones(key, (3,), "float8_e8m0fnu").astype(float).tolist() == [1, 1, 1]
        return
    with pytest.raises(ValueError, match=r"float8_e8m0fnu can't hold|float8_e8m0fnu has no sign"):
        initjax.parse(spec)(key, SHAPES.get(name, SHAPE), "float8_e8m0fnu")


def test_infinity_and_nan_are_held_where_a_dtype_has_them(key):
    assert jnp.isinf(initjax.constant(np.inf)(key, (3,), "float16")).all()
    for dtype in ("float16", "bfloat16", "float8_e4m3fn", "float8_e8m0fnu"):
        assert jnp.isnan(initjax.constant(np.nan)(key, (3,), dtype)).all()


def test_no_product_depends_on_the_precision_of_the_device(key):
    kernels = {"query": (8, 2, 4), "key": (8, 2, 4), "value": (8, 2, 4), "out": (2, 4, 8)}
    params = {name: {"kernel": jnp.zeros(shape)} for name, shape in kernels.items()}
    linear = [spec for spec in KINDS if "orthogonal" in spec] + ["scaled_orthogonal", "kan_spline"]

    def draw(key):
        drawn = {spec: initjax.parse(spec)(key, SHAPE) for spec in linear}
        mimetic = initjax.mimetic(params, key)
        return {**drawn, **{name: mimetic[name]["kernel"] for name in kernels}}

    x = jax.random.normal(key, (8, 8))
    assert 1e-4 < np.abs(in_tf32(jnp.matmul)(x, x) - x @ x).max() < 1e-2
    expected = draw(key)
    for name, drawn in in_tf32(draw)(key).items():
        np.testing.assert_allclose(drawn, expected[name], atol=3e-6, err_msg=name)
    for name, spec in CALLS:  # all others multiply no matrices
        shape = SHAPES.get(name, SHAPE)
        traced = str(jax.make_jaxpr(lambda key: initjax.parse(spec)(key, shape))(key))  # noqa: B023
        assert name == "kan_spline" or "dot_general" not in traced, spec
        assert "conv_general" not in traced, spec


def test_mimetic_works_without_promotion():
    kernels = {"query": (8, 2, 4), "key": (8, 2, 4), "value": (8, 2, 4), "out": (2, 4, 8)}
    params = {name: {"kernel": jnp.zeros(shape)} for name, shape in kernels.items()}
    with all_at_once():
        jax.eval_shape(lambda key: initjax.mimetic(params, key), jax.random.key(0))
