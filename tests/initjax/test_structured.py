"""Initializers with a special structure: each paper's or library's claim, tested on draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import scipy.stats
from flax import linen

import initjax


@pytest.mark.parametrize("axis", [-1, -2])
def test_sparse_has_the_exact_number_of_connections_and_its_distribution(axis, key):
    kernel = np.asarray(initjax.sparse(7, 0.5, axis=axis)(key, (3, 200, 300)))
    assert set(np.unique((kernel != 0).sum(axis=axis))) == {7}
    chosen = kernel[kernel != 0]
    assert scipy.stats.kstest(chosen, scipy.stats.norm(0, 0.5).cdf).pvalue > 1e-4
    # All positions are equally likely: chi-squared over the positions of the axis.
    places = (kernel != 0).sum(axis=tuple(i for i in range(3) if i != 3 + axis))
    assert scipy.stats.chisquare(places).pvalue > 1e-4


def test_sparse_takes_any_number_of_connections_that_there_are(key):
    assert (np.asarray(initjax.sparse(20)(key, (20, 30))) != 0).all()
    assert not np.asarray(initjax.sparse(0)(key, (20, 30))).any()
    with pytest.raises(ValueError, match=r"sparse\(connections=21\) needs .* at most sparse\(20\)"):
        initjax.sparse(21)(key, (20, 30))
    with pytest.raises(ValueError, match=r"along axis -1, but shape \(50, 30\) has 30"):
        initjax.sparse(40, axis=-1)(key, (50, 30))


def test_siren_gives_sines_arguments_of_the_right_variance(key):
    """One after the first layer; sin of N(0, q) has mean square (1 - exp(-2q))/2."""
    keys = jax.random.split(key, 6)
    first = initjax.siren(first=True)(keys[1], (512, 512))
    law = scipy.stats.uniform(-1 / 512, 2 / 512)
    assert scipy.stats.kstest(np.ravel(first), law.cdf).pvalue > 1e-4
    x = jnp.sin(100 * jax.random.normal(keys[0], (2000, 512)))
    expected = 1.0
    for layer in range(2, 6):
        argument = 30 * x @ initjax.siren()(keys[layer], (512, 512))
        assert np.var(argument) == pytest.approx(expected, rel=0.03)
        x, expected = jnp.sin(argument), 1 - np.exp(-2 * expected)


@pytest.mark.parametrize(("activation", "gain"), [("linear", 1.010117), ("relu", 1.451276)])
def test_random_walk_keeps_the_log_norm_from_drifting(activation, gain, key):
    width, depth, nets = 50, 40, 500
    initializer = initjax.random_walk(activation)
    drawn = initializer(key, (width, 40_000))
    assert np.std(drawn) * width**0.5 == pytest.approx(gain, rel=0.003)

    def log_norm(key):
        key_x, *keys = jax.random.split(key, depth + 2)
        h = jax.random.normal(key_x, (width,))
        norms = []
        for layer in keys:
            h = h @ initializer(layer, (width, width))
            norms.append(jnp.log(jnp.sum(h**2)))
            h = jax.nn.relu(h) if activation == "relu" else h
        return norms[-1] - norms[0]

    drift = np.asarray(jax.vmap(log_norm)(jax.random.split(key, nets)))
    error = drift.std() / nets**0.5
    assert abs(drift.mean()) < 4 * error
    # Without the correction, He's: -2 log(g/sqrt(2)) per layer, which this test would detect.
    assert depth * 2 * np.log(gain / (2**0.5 if activation == "relu" else 1)) > 5 * error


@pytest.mark.parametrize("layout", ["depth_to_space", "pixel_shuffle"])
def test_icnr_upsamples_like_nearest_neighbor(layout, key):
    factor, features = 2, 3
    x = jax.random.normal(key, (1, 5, 5, 4))
    kernel = initjax.icnr(initjax.he_normal(), factor, layout)(key, (3, 3, 4, features * factor**2))
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    if layout == "depth_to_space":  # (block row, block column, feature), as in TensorFlow
        y = y.reshape(5, 5, factor, factor, features)
    else:  # (feature, block row, block column), as in PyTorch
        y = jnp.moveaxis(y.reshape(5, 5, features, factor, factor), 2, -1)
    assert jnp.ptp(y.reshape(25, factor**2, features), axis=1).max() == 0
    small = initjax.he_normal()(key, (3, 3, 4, features))
    assert np.std(kernel) == pytest.approx(float(np.std(small)))


def test_identity_is_padded_and_stacked(key):
    np.testing.assert_array_equal(initjax.identity(2.0)(key, (3, 5)), 2 * np.eye(3, 5))
    np.testing.assert_array_equal(initjax.identity()(key, (4, 5, 3))[2], np.eye(5, 3))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_dirac_passes_its_input_through_a_convolution(groups, key):
    layer = linen.Conv(
        8, (3, 3), feature_group_count=groups, use_bias=False, kernel_init=initjax.dirac(groups)
    )
    x = jax.random.normal(key, (2, 6, 6, 8))
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(layer.init_with_output(key, x)[0], x, atol=1e-6)


@pytest.mark.parametrize("outputs", [3, 8, 9, 20])
def test_hadamard_identity_is_the_identity_widened_by_a_hadamard_matrix(outputs, key):
    kernel = np.asarray(initjax.hadamard_identity()(key, (3, 3, 8, outputs)))
    size = 2 ** int(np.ceil(np.log2(outputs)))
    wide = scipy.linalg.hadamard(size) / size**0.5
    expected = np.eye(8, outputs) if outputs <= 8 else wide[:8, :outputs]
    np.testing.assert_allclose(kernel[1, 1], expected, rtol=1e-7)
    assert np.count_nonzero(kernel) == np.count_nonzero(expected)


@pytest.mark.parametrize("side", ["real", "imag"])
@pytest.mark.parametrize("scaling", ["density", "spectrum", None])
@pytest.mark.parametrize(
    ("window", "periodic"), [("hann", False), ("hamming", True), (("kaiser", 8.0), False)]
)
def test_stft_equals_scipys_transform(side, scaling, window, periodic, key):
    frames = np.random.default_rng(0).normal(size=(5, 64))
    taper = scipy.signal.get_window(window, 64, periodic)
    norm = {"density": np.linalg.norm(taper), "spectrum": np.abs(taper).sum(), None: 1}[scaling]
    expected = getattr(np.fft.rfft(frames * taper / norm), side)
    initializer = initjax.stft(side, window, scaling, periodic)
    assert initjax.parse(repr(initializer)) == initializer
    kernel = np.asarray(initializer(key, (64, 1, 33)))
    np.testing.assert_allclose(frames @ kernel[:, 0], expected, atol=3e-6 * np.abs(expected).max())


def test_mup_output_falls_with_the_width_not_its_square_root(key):
    assert initjax.mup_output(64)(key, (64, 500)).tolist() == (
        initjax.lecun_normal()(key, (64, 500)).tolist()
    )
    wide = initjax.mup_output(64, 2.0, "uniform")(key, (1024, 500))
    limit = (3 * 2.0 * 64) ** 0.5 / 1024
    assert scipy.stats.kstest(np.ravel(wide), scipy.stats.uniform(-limit, 2 * limit).cdf)[1] > 1e-4


@pytest.mark.parametrize(
    "spec",
    [
        "siren",
        "siren(first=True)",
        "random_walk",
        "mup_output(8)",
        "torch_kaiming_uniform(5**0.5)",
        "torch_kaiming_normal",
    ],
)
def test_fan_arguments_work_the_same_everywhere(spec, key):
    def draw(shape, **fans):
        name, _, arguments = spec.removesuffix(")").partition("(")
        fans = ", ".join(f"{fan}={value!r}" for fan, value in fans.items())
        initializer = initjax.parse(f"{name}({', '.join(filter(None, [arguments, fans]))})")
        assert initjax.parse(repr(initializer)) == initializer
        return np.asarray(initializer(key, shape))

    plain = draw((64, 24))
    transposed = draw((24, 64), in_axis=-1, out_axis=-2)  # a kernel of Equinox or PyTorch
    np.testing.assert_array_equal(transposed.ravel(), plain.ravel())
    stacked = draw((8 * 64, 24), **initjax.stacked_fans(8))
    assert np.std(stacked) == pytest.approx(float(np.std(draw((64, 8 * 24)))), rel=0.05)
    in_a_batch = draw((8, 64, 24), batch_axis=0)
    np.testing.assert_array_equal(in_a_batch.ravel(), stacked.ravel())
    np.testing.assert_array_equal(draw((64, 24), **initjax.conv_fans(3)), plain)


def test_torch_kaiming_counts_fan_out_with_its_divisor():
    fans = initjax.conv_fans(4)
    expected = initjax.variance_scaling(2.0, "fan_out", "normal", **fans)
    assert initjax.torch_kaiming_normal(mode="fan_out", **fans) == expected


def test_mup_output_accepts_a_gain_and_can_be_drawn_in_blocks(key, same_bits):
    assert initjax.mup_output(8, gain=2.0) == initjax.mup_output(8, 4.0)
    assert initjax.mup_output(8, 2.0, gain=jax.nn.relu) == initjax.mup_output(8, 4.0)
    for distribution in ("truncated_normal", "normal", "uniform"):
        initializer = initjax.mup_output(8, 1.0, distribution)
        blocks = initjax.in_blocks(initializer)
        same_bits(blocks(key, (3000, 500)), initializer(key, (3000, 500)))


def test_icnr_accepts_an_initializer_but_not_a_factory(key):
    for initializer in (jax.nn.initializers.zeros, jax.nn.initializers.he_normal()):
        assert initjax.icnr(initializer)(key, (3, 3, 8, 4)).shape == (3, 3, 8, 4)
    assert not initjax.icnr(lambda *arguments: jnp.zeros(arguments[1]))(key, (3, 3, 8, 4)).any()
    for maker in (initjax.he_normal, initjax.normal, jax.nn.initializers.he_normal, print, "zeros"):
        with pytest.raises(TypeError, match="icnr: initializer must be an initializer, a function"):
            initjax.icnr(maker)


RANDOM = ["variance_scaling(1.0, 'fan_in', 'normal'", "he_normal(", "glorot_uniform(", "sparse("]
RANDOM += ["siren(", "random_walk(", "mup_output(8, ", "torch_kaiming_uniform(", "torch_bias(3, "]
RANDOM += ["orthogonal(", "delta_orthogonal(", "scaled_orthogonal("]


@pytest.mark.parametrize("spec", RANDOM)
def test_invalid_dtypes_are_refused_at_construction(spec):
    spec = spec + ("" if spec.endswith(("(", ", ")) else ", ")
    for dtype in ("int32", "bool", "uint8", "int4"):
        with pytest.raises(
            ValueError, match=rf"^\w+: dtype must be floating or complex, got {dtype}"
        ):
            initjax.parse(f"{spec}dtype='{dtype}')")
    for dtype in ("bfloat16", "float8_e4m3fn", "complex64"):
        assert initjax.parse(f"{spec}dtype='{dtype}')").dtype == dtype  # pyright: ignore


@pytest.mark.parametrize("spatial", [(3,), (3, 3), (3, 1, 3)])
@pytest.mark.parametrize("axis", [-1, -2, "positive"])
def test_delta_orthogonal_preserves_the_norm_in_a_circular_convolution(spatial, axis, key):
    axis = len(spatial) + 1 if axis == "positive" else axis  # JAX fails with an IndexError here
    initializer = initjax.delta_orthogonal(column_axis=axis)
    layer = linen.Conv(16, spatial, padding="CIRCULAR", use_bias=False, kernel_init=initializer)
    x = jax.random.normal(key, (2, *[5] * len(spatial), 16))
    with jax.default_matmul_precision("highest"):
        output, _ = layer.init_with_output(key, x)
    assert jnp.linalg.norm(output) == pytest.approx(float(jnp.linalg.norm(x)), rel=1e-4)


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (3, 3, 20, 50)])
def test_scaled_orthogonal_preserves_mean_squares(shape, key):
    kernel = np.asarray(initjax.scaled_orthogonal()(key, shape))
    matrix = kernel.reshape(-1, *shape[-2:])
    assert (matrix[np.arange(len(matrix)) != len(matrix) // 2] == 0).all()
    singular = np.linalg.svd(matrix[len(matrix) // 2])[1]
    np.testing.assert_allclose(singular, max((shape[-1] / shape[-2]) ** 0.5, 1), rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: initjax.parse("sparse(1.5)"), "connections must be an integer, got 1.5"),
        (lambda: initjax.sparse(axis=0), "axis must be -1 or -2, got 0"),
        (lambda: initjax.siren(0), "omega must be above 0"),
        (lambda: initjax.random_walk("tanh"), "activation must be one of"),
        (lambda: initjax.parse("icnr(zeros, 1.5)"), "factor must be an integer, got 1.5"),
        (lambda: initjax.dirac(0), "groups must be a finite number >= 1, got 0"),
        (lambda: initjax.torch_bias(0), "fan_in must be above 0, got 0"),
        (lambda: initjax.mup_output(0), "base_fan_in must be above 0"),
        (lambda: initjax.mup_output(8, distribution="cauchy"), "mup_output: distribution must be"),
        (lambda: initjax.stft("both"), "side must be one of real, imag; got 'both'"),
        (lambda: initjax.stft(window="hnan"), "stft: window 'hnan': "),
        (lambda: initjax.stft(scaling="power"), "scaling must be one of"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("identity", (3,)),
        ("dirac(3)", (3, 2, 4)),
        ("dirac", (3, 3)),
        ("sparse", (3,)),
        ("delta_orthogonal", (3, 5, 4)),
        ("scaled_orthogonal", (2, 3, 3)),
        ("icnr(zeros)", (3, 6)),
        ("siren", (3,)),
        ("hadamard_identity", (3,)),
        ("mup_output(8)", (3,)),
        ("stft", (64, 33)),
        ("stft", (64, 2, 33)),
        ("stft", (2, 1, 3)),  # Keras gives NaN: a Hann window of two points is zero
    ],
)
def test_unsuitable_shapes_are_refused(spec, shape, key):
    with pytest.raises(ValueError, match=r"shape|outside|zero at all"):
        initjax.parse(spec)(key, shape)
