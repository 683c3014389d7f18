"""Variance scaling: the variance is right, in the kernel and behind a real layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import linen, nnx

import initjax

NAMED = {
    "lecun_uniform": (1.0, "fan_in", "uniform"),
    "lecun_normal": (1.0, "fan_in", "truncated_normal"),
    "glorot_uniform": (1.0, "fan_avg", "uniform"),
    "glorot_normal": (1.0, "fan_avg", "truncated_normal"),
    "he_uniform": (2.0, "fan_in", "uniform"),
    "he_normal": (2.0, "fan_in", "truncated_normal"),
}


def law(distribution, stddev):
    return {
        "uniform": scipy.stats.uniform(-(3**0.5) * stddev, 2 * 3**0.5 * stddev),
        "normal": scipy.stats.norm(0, stddev),
        "truncated_normal": scipy.stats.truncnorm(-2, 2, scale=stddev / 0.87962566103423978),
    }[distribution]


@pytest.mark.parametrize("distribution", ["uniform", "normal", "truncated_normal"])
@pytest.mark.parametrize(
    ("mode", "n"), [("fan_in", 400), ("fan_out", 900), ("fan_avg", 650), ("fan_geo_avg", 600)]
)
def test_draws_follow_their_law(mode, n, distribution, key):
    kernel = initjax.variance_scaling(1.5, mode, distribution)(key, (400, 900))
    expected = law(distribution, (1.5 / n) ** 0.5)
    assert scipy.stats.kstest(np.ravel(kernel), expected.cdf).pvalue > 1e-4


@pytest.mark.parametrize("name", NAMED)
def test_a_named_method_is_the_core_with_its_arguments_fixed(name):
    method = getattr(initjax, name)()
    assert method == initjax.variance_scaling(*NAMED[name])
    assert repr(method) == f"{name}()"


def test_aliases_are_the_same_function():
    assert initjax.xavier_uniform is initjax.glorot_uniform
    assert initjax.xavier_normal is initjax.glorot_normal
    assert initjax.kaiming_uniform is initjax.he_uniform
    assert initjax.kaiming_normal is initjax.he_normal


@pytest.mark.parametrize("name", NAMED)
def test_the_variance_behind_real_layers(name, key):
    """1/fan_in keeps the mean square of unit inputs, 2/fan_in doubles it, fan_avg lies between."""
    scale, mode, _ = NAMED[name]
    initializer = getattr(initjax, name)()
    key_x, key_kernel = jax.random.split(key)
    x = jax.random.normal(key_x, (256, 600))
    expected = scale * (600 / 400 if mode == "fan_avg" else 1)
    # The kernel's variance is known to .3 %, and the outputs share it: five standard errors.
    dense = linen.Dense(200, kernel_init=initializer)
    output, _ = dense.init_with_output(key_kernel, x)
    assert np.mean(np.square(output)) == pytest.approx(expected, rel=0.05)
    linear = nnx.Linear(600, 200, kernel_init=initializer, rngs=nnx.Rngs(0))
    assert np.mean(np.square(linear(x))) == pytest.approx(expected, rel=0.05)


def test_the_variance_behind_a_convolution(key):
    key_x, key_kernel = jax.random.split(key)
    x = jax.random.normal(key_x, (8, 16, 16, 64))
    conv = linen.Conv(128, (3, 3), padding="VALID", kernel_init=initjax.lecun_normal())
    output, _ = conv.init_with_output(key_kernel, x)
    assert np.mean(np.square(output)) == pytest.approx(1.0, rel=0.05)


def test_the_axes_of_a_stack_of_kernels_do_not_count(key):
    stack = initjax.he_normal(batch_axis=0)(key, (8, 300, 200))
    assert np.std(stack) == pytest.approx((2 / 300) ** 0.5, rel=0.01)


def test_flax_embed_may_name_one_axis_twice(key):
    like_flax = initjax.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
    flax_default = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
    np.testing.assert_array_equal(like_flax(key, (100, 64)), flax_default(key, (100, 64)))


def test_a_huge_fan_keeps_its_variance_in_float16(key):
    kernel = initjax.lecun_normal()(key, (1_000_000, 4), jnp.float16)
    assert np.std(np.asarray(kernel, np.float64)) == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, "fan_in", "normal"), "scale must be a finite number >= 0, got -1"),
        ((1, "fan_inn", "normal"), "mode must be one of fan_in, .*; got 'fan_inn'"),
        ((1, "fan_in", "gaussian"), "distribution must be one of .*; got 'gaussian'"),
    ],
)
def test_a_wrong_argument_is_refused_when_the_initializer_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        initjax.variance_scaling(*arguments)


@pytest.mark.parametrize("axis", [1.0, "in", None, (0, 0.5), True])
def test_an_axis_must_be_an_integer(axis):
    with pytest.raises(TypeError, match="he_normal: in_axis must be an axis"):
        initjax.he_normal(in_axis=axis)


def test_a_bias_is_refused_with_advice(key):
    with pytest.raises(ValueError, match=r"in_axis=-2 is outside shape \(3,\).*for a bias use"):
        initjax.he_normal()(key, (3,))


def mean_square(output, expected):
    assert np.mean(np.square(output)) == pytest.approx(expected, rel=0.05)


# The layers of the field: what the user writes, and the inputs. A gain of 1 by fan_in promises
# outputs of mean square one. In the comments, what Flax's own lecun_normal gives instead.
LAYERS = {
    "dense": (lambda init: linen.Dense(512, kernel_init=init), {}, (256, 512)),
    "conv 1": (lambda init: linen.Conv(256, 3, kernel_init=init), {}, (8, 64, 256)),
    "conv 3": (lambda init: linen.Conv(64, (3, 3, 3), kernel_init=init), {}, (2, 8, 8, 8, 64)),
    "grouped": (
        lambda init: linen.Conv(256, (3, 3), feature_group_count=4, kernel_init=init),
        initjax.conv_fans(4),
        (4, 16, 16, 256),
    ),
    "depthwise conv": (
        lambda init: linen.Conv(4096, (3, 3), feature_group_count=4096, kernel_init=init),
        initjax.conv_fans(4096),
        (1, 16, 16, 4096),
    ),
    "transposed, strides 2": (  # .24
        lambda init: linen.ConvTranspose(128, (4, 4), (2, 2), kernel_init=init),
        initjax.conv_transpose_fans((2, 2)),
        (2, 16, 16, 128),
    ),
    "transposed kernel": (  # .5
        lambda init: linen.ConvTranspose(
            64, (4, 4), (2, 2), transpose_kernel=True, kernel_init=init
        ),
        initjax.conv_transpose_fans((2, 2), transpose_kernel=True),
        (4, 16, 16, 128),
    ),
    "dense general": (
        lambda init: linen.DenseGeneral((8, 64), axis=(-2, -1), kernel_init=init),
        {},
        (256, 8, 64),
    ),
    "dense general with batch axes": (  # .125
        lambda init: linen.DenseGeneral(256, batch_dims=(0,), kernel_init=init),
        initjax.stacked_fans(8),
        (8, 64, 256),
    ),
    "einsum": (  # 16 times too much: Flax shows (512, 8, 64), of which 8 counts as inputs
        lambda init: linen.Einsum((512, 8, 64), "btd,dnh->btnh", use_bias=False, kernel_init=init),
        initjax.einsum_fans("btd,dnh->btnh"),
        (8, 32, 512),
    ),
    "einsum with a batch": (
        lambda init: linen.Einsum((8, 128, 64), "bnd,ndh->bnh", use_bias=False, kernel_init=init),
        initjax.einsum_fans("bnd,ndh->bnh"),
        (256, 8, 128),
    ),
    "nnx linear": (lambda init: nnx.Linear(512, 512, kernel_init=init, rngs=R()), {}, (256, 512)),
    "nnx conv": (
        lambda init: nnx.Conv(64, 256, (3, 3), kernel_init=init, rngs=R()),
        {},
        (2, 16, 16, 64),
    ),
    "nnx grouped": (
        lambda init: nnx.Conv(256, 256, 3, feature_group_count=8, kernel_init=init, rngs=R()),
        initjax.conv_fans(8),
        (8, 64, 256),
    ),
    "nnx transposed": (
        lambda init: nnx.ConvTranspose(128, 128, (4, 4), (2, 2), kernel_init=init, rngs=R()),
        initjax.conv_transpose_fans((2, 2)),
        (2, 16, 16, 128),
    ),
    "nnx general with batch axes": (
        lambda init: nnx.LinearGeneral(256, 256, batch_axis={0: 8}, kernel_init=init, rngs=R()),
        initjax.stacked_fans(8),
        (8, 64, 256),
    ),
    "nnx einsum": (
        lambda init: nnx.Einsum("btd,dnh->btnh", (512, 8, 64), kernel_init=init, rngs=R()),
        initjax.einsum_fans("btd,dnh->btnh"),
        (8, 32, 512),
    ),
}


def R():
    return nnx.Rngs(0)


@pytest.mark.parametrize("name", LAYERS)
def test_the_layers_of_the_field_keep_the_mean_square(name, key):
    make, fans, shape = LAYERS[name]
    layer = make(initjax.lecun_normal(**fans))
    x = jax.random.normal(key, shape)
    if isinstance(layer, linen.Module):
        output, _ = layer.init_with_output(jax.random.key(1), x)
    else:
        output = layer(x)
    spatial = output.ndim - 2 if "conv" in name or "group" in name or "trans" in name else 0
    if name == "depthwise" or (spatial and output.shape[1] > 8):
        output = output[(slice(None), *[slice(3, -3)] * spatial)]  # not the padded rim
    elif name == "conv 3":
        output = output[:, 1:-1, 1:-1, 1:-1]
    mean_square(output, 1)


@pytest.mark.parametrize("heads", [1, 8])
def test_the_projections_of_attention_keep_the_mean_square(heads, key):
    x = jax.random.normal(key, (4, 64, 512))
    attention = linen.MultiHeadDotProductAttention(heads, kernel_init=initjax.lecun_normal())
    params = attention.init(jax.random.key(1), x)["params"]
    for name in ("query", "key", "value"):
        mean_square(jnp.einsum("btd,dnh->btnh", x, params[name]["kernel"]), 1)
    mean_square(
        jnp.einsum("btnh,nhd->btd", x.reshape(4, 64, heads, -1), params["out"]["kernel"]), 1
    )


def test_packed_query_key_and_value_are_scaled_as_if_they_were_apart(key):
    """With fan_out = 3 * 512 Glorot's would give .5."""
    layer = linen.Dense(3 * 512, kernel_init=initjax.glorot_normal(**initjax.packed_fans(3)))
    mean_square(layer.init_with_output(key, jax.random.normal(key, (256, 512)))[0], 1)


def test_rows_of_an_embedding_have_the_mean_square_of_the_scale(key):
    init = initjax.lecun_normal(**initjax.embedding_fans())
    layer = linen.Embed(5000, 64, embedding_init=init)
    mean_square(layer.init_with_output(key, jnp.arange(5000))[0], 1)


@pytest.mark.parametrize("name", NAMED)
def test_a_gain_replaces_that_of_the_method(name):
    scale, mode, distribution = NAMED[name]
    make = getattr(initjax, name)
    assert make(gain=scale**0.5) == make()
    assert make(gain=1.5) == initjax.variance_scaling(2.25, mode, distribution)
    assert make(gain=jax.nn.relu) == make(gain="relu") == make(gain=2**0.5)
    with pytest.raises(ValueError, match="gain must be a finite number >= 0, got -1"):
        make(gain=-1)


def test_the_gain_of_an_activation_keeps_the_mean_square_behind_it(key):
    x = jax.random.normal(key, (512, 800))
    layer = linen.Dense(800, kernel_init=initjax.lecun_normal(gain=jax.nn.gelu))
    mean_square(layer.init_with_output(key, jax.nn.gelu(x))[0], 1)


def test_an_equation_that_hides_its_fan_is_refused():
    for equation in ("btd,dnh", "btd->bt", "bd,d...->b...", "bd,dd->b", ""):
        with pytest.raises(ValueError, match="two operands and an output"):
            initjax.einsum_fans(equation)
    with pytest.raises(ValueError, match="sums the input's axis 't', which the kernel lacks"):
        initjax.einsum_fans("btd,dh->bh")


def test_a_module_built_anew_with_an_equal_initializer_is_not_traced_again():
    """With JAX's: three traces of three."""
    traces = []

    def init(module, key):
        traces.append(module)
        return module.init(key, jnp.ones((1, 3)))

    jitted = jax.jit(init, static_argnums=0)
    for _ in range(3):
        jitted(linen.Dense(4, kernel_init=initjax.he_normal()), jax.random.key(0))
    assert len(traces) == 1
