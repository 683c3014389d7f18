"""State space models: the numbers of the authors' code (mamba at e9594ce, s4 at e757cef)."""

import jax
import numpy as np
import pytest
import scipy.stats

import initjax


@pytest.mark.parametrize("bounds", [(0.001, 0.1), (1e-30, 1e30), (2.0, 2.0)])
def test_log_uniform_has_the_law_of_scipy(bounds, key):
    drawn = np.asarray(initjax.log_uniform(*bounds)(key, (20_000,)), float)
    low, high = np.array(bounds, np.float32)
    assert (drawn >= low).all() and (drawn <= high).all()
    if bounds[0] < bounds[1]:
        assert scipy.stats.kstest(drawn, scipy.stats.loguniform(*bounds).cdf).pvalue > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float8_e4m3fn"])
def test_log_uniform_keeps_its_bounds_in_every_dtype(dtype, key):
    drawn = np.asarray(initjax.log_uniform(0.03, 0.1)(key, (300_000,), dtype), float)
    assert drawn.min() >= 0.03 and drawn.max() <= 0.1 and len(np.unique(drawn)) > 5


def test_the_time_step_has_the_law_of_mamba(key):
    """dt = exp(rand * (log .1 - log .001) + log .001), and its bias dt + log(-expm1(-dt))."""
    init = initjax.inverse_softplus(initjax.log_uniform(0.001, 0.1))
    bias = init(key, (20_000,))
    steps = np.asarray(jax.nn.softplus(bias), float)
    assert scipy.stats.kstest(steps, scipy.stats.loguniform(0.001, 0.1).cdf).pvalue > 1e-3
    dt = np.asarray(initjax.log_uniform(0.001, 0.1)(key, (20_000,)), float)
    np.testing.assert_allclose(bias, dt + np.log(-np.expm1(-dt)), rtol=1e-5)
    jitted = jax.jit(init, static_argnums=1)(key, (20_000,))
    np.testing.assert_allclose(bias, jitted, rtol=1e-6)


@pytest.mark.parametrize("y", [1e-30, 1e-8, 0.5, 0.7, 3.0, 80.0, 1e30])
def test_inverse_softplus_is_exact_far_from_one(y, key):
    drawn = initjax.inverse_softplus(initjax.constant(y))(key, (), "float32")
    expected = y + np.log(-np.expm1(-np.float64(np.float32(y))))
    np.testing.assert_allclose(drawn, expected, rtol=1e-5)


def test_the_decay_of_mamba_2_is_the_logarithm_of_a_uniform_number(key):
    drawn = initjax.logarithm(initjax.random_uniform(1.0, 16.0))(key, (20_000,))
    uniform = scipy.stats.uniform(1, 15).cdf
    assert scipy.stats.kstest(np.exp(np.asarray(drawn, float)), uniform).pvalue > 1e-3
    assert drawn.dtype == "float32"
    narrow = initjax.logarithm(initjax.random_uniform(1.0, 16.0, "bfloat16"))(key, (20_000,))
    np.testing.assert_array_equal(narrow, drawn.astype("bfloat16"))


@pytest.mark.parametrize("make", [initjax.logarithm, initjax.inverse_softplus])
def test_the_inverse_of_numbers_that_are_not_positive_is_refused(make, key):
    for init in (initjax.normal(), initjax.zeros):
        with pytest.raises(
            ValueError, match="needs an initializer of positive numbers, but it dre"
        ):
            make(init)(key, (100,))
    with pytest.raises(TypeError, match="must be an initializer"):
        make(initjax.normal)


def test_s4d_real_is_the_decay_of_mamba(key):
    """A_log = log(arange(1, d_state + 1)) in each row."""
    drawn = initjax.s4d("real")(key, (8, 16))
    np.testing.assert_allclose(drawn, np.tile(np.log(np.arange(1, 17)), (8, 1)), rtol=1e-6)
    assert not initjax.s4d("real", "imag")(key, (8, 16)).any()


# `dplr` in src/models/sequence/kernels/dplr.py, for a state of size 8: imag_part.
S4D = {
    "lin": [0.0, 3.1415927, 6.2831853, 9.4247780],
    "inv": [17.8253536, 4.2441318, 1.5278875, 0.3637827],
    "legs": [19.8574, 5.3542, 1.9578, 0.4275],
}
LEGS_16 = [80.9661, 25.6292, 13.8343, 8.3621, 5.0900, 2.8997, 1.3720, 0.3520]


@pytest.mark.parametrize("method", S4D)
def test_s4d_has_the_numbers_of_its_authors(method, key):
    np.testing.assert_allclose(initjax.s4d(method, "imag")(key, (2, 4))[1], S4D[method], rtol=2e-4)
    np.testing.assert_allclose(initjax.s4d(method)(key, (4,)), np.log(0.5), rtol=1e-6)
    if method == "legs":
        np.testing.assert_allclose(initjax.s4d(method, "imag")(key, (8,)), LEGS_16, rtol=2e-4)


# `transition(measure, 4)` in src/models/hippo/hippo.py: A and B.
HIPPO = {
    "legs": (
        [
            [-1, 0, 0, 0],
            [-1.7320508, -2, 0, 0],
            [-2.2360680, -3.8729833, -3, 0],
            [-2.6457513, -4.5825757, -5.9160798, -4],
        ],
        [1.0, 1.7320508, 2.2360680, 2.6457513],
    ),
    "legt": (
        [
            [-0.5, 0.8660254, -1.1180340, 1.3228757],
            [-0.8660254, -1.5, 1.9364917, -2.2912878],
            [-1.1180340, -1.9364917, -2.5, 2.9580399],
            [-1.3228757, -2.2912878, -2.9580399, -3.5],
        ],
        [0.5, 0.8660254, 1.1180340, 1.3228757],
    ),
    "fourier": (
        [
            [-1, 0, -1.4142136, 0],
            [0, 0, 0, 0],
            [-1.4142136, 0, -2, -3.1415927],
            [0, 0, 3.1415927, 0],
        ],
        [1, 0, 1.4142136, 0],
    ),
}


@pytest.mark.parametrize("measure", HIPPO)
def test_hippo_has_the_numbers_of_its_authors(measure, key):
    state, inputs = HIPPO[measure]
    drawn = initjax.hippo(measure)(key, (3, 4, 4))
    np.testing.assert_allclose(drawn, np.tile(state, (3, 1, 1)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(initjax.hippo(measure, "input")(key, (2, 4))[1], inputs, rtol=1e-6)


def test_a_state_of_hippo_legs_remembers_its_input(key):
    """The method's claim: it holds the coefficients of the past input in Legendre's basis."""
    size, steps = 8, 4000
    state = np.asarray(initjax.hippo("legs")(key, (size, size)), float)
    inputs = np.asarray(initjax.hippo("legs", "input")(key, (size,)), float)
    u = lambda t: np.sin(3 * t)  # noqa: E731
    x = np.zeros(size)
    for step in range(1, steps):  # backward Euler of x' = (A x + B u) / t
        x = np.linalg.solve(
            np.eye(size) - state / (step + 1), x + inputs * u(step / steps) / (step + 1)
        )
    legendre = np.polynomial.legendre.Legendre
    past = np.linspace(0, 1, 50)
    basis = [(2 * n + 1) ** 0.5 * legendre.basis(n)(2 * past - 1) for n in range(size)]
    np.testing.assert_allclose(x @ np.array(basis), u(past), atol=5e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda key: initjax.log_uniform(0.0, 1.0), "minval must be above 0"),
        (lambda key: initjax.log_uniform(2.0, 1.0), "minval must not exceed maxval, got 2.0 > 1.0"),
        (lambda key: initjax.s4d("imag"), "method must be one of"),
        (lambda key: initjax.s4d("lin", "real"), "part must be one of"),
        (lambda key: initjax.s4d()(key, ()), "at least one axis"),
        (lambda key: initjax.hippo("lmu"), "measure must be one of"),
        (lambda key: initjax.hippo("legs", "B"), "side must be one of state, input"),
        (lambda key: initjax.hippo()(key, (3, 4)), r"needs a shape \(..., n, n\), got \(3, 4\)"),
        (lambda key: initjax.hippo("fourier")(key, (3, 3)), "last axis is even"),
        (lambda key: initjax.s4d()(key, (4,), "int32"), "needs a floating dtype, got int32"),
        (
            lambda key: initjax.s4d("inv", "imag")(key, (512,), "float16"),
            r"up to 3.33e\+05 in the shape \(512,\), but the largest float16 is 6.55e\+04",
        ),
    ],
)
def test_errors_say_what_is_valid(make, message, key):
    with pytest.raises((TypeError, ValueError), match=message):
        make(key)


def test_numbers_that_a_dtype_cannot_hold_are_refused_after_the_function(key):
    for initializer in (
        initjax.inverse_softplus(initjax.log_uniform(1e-3, 1e6)),
        initjax.inverse_softplus(initjax.constant(1e5)),
    ):
        for dtype, largest in (("float16", "6.55e"), ("float8_e4m3fn", "448")):
            with pytest.raises(ValueError, match=f"inverse_softplus.*largest {dtype} is {largest}"):
                initializer(key, (50,), dtype)
    assert initjax.logarithm(initjax.constant(1e30))(key, (2,), "float16").tolist() == [69.0625] * 2


def test_a_negative_number_is_refused_in_complex_dtypes_too(key):
    with pytest.raises(ValueError, match=r"needs an initializer of positive numbers, but it drew"):
        initjax.logarithm(initjax.constant(-1.0))(key, (3,), "complex64")
