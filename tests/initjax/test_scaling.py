"""Variance scaling: the variance is right, in the kernel and after a real layer."""

import functools
import pickle

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
def test_draws_follow_their_distribution(mode, n, distribution, key):
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
def test_variance_after_real_layers(name, key):
    """1/fan_in keeps the mean square of unit inputs, 2/fan_in doubles it, fan_avg lies between."""
    scale, mode, _ = NAMED[name]
    initializer = getattr(initjax, name)()
    key_x, key_kernel = jax.random.split(key)
    x = jax.random.normal(key_x, (256, 600))
    expected = scale * (600 / 400 if mode == "fan_avg" else 1)
    # The kernel's variance is known to 0.3%, and the outputs share it: five standard errors.
    dense = linen.Dense(200, kernel_init=initializer)
    output, _ = dense.init_with_output(key_kernel, x)
    assert np.mean(np.square(output)) == pytest.approx(expected, rel=0.05)
    linear = nnx.Linear(600, 200, kernel_init=initializer, rngs=nnx.Rngs(0))
    assert np.mean(np.square(linear(x))) == pytest.approx(expected, rel=0.05)


def test_the_axes_of_a_stack_of_kernels_do_not_count(key):
    stack = initjax.he_normal(batch_axis=0)(key, (8, 300, 200))
    assert np.std(stack) == pytest.approx((2 / 300) ** 0.5, rel=0.01)


def test_flax_embed_can_use_one_axis_twice(key):
    like_flax = initjax.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
    flax_default = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
    np.testing.assert_array_equal(like_flax(key, (100, 64)), flax_default(key, (100, 64)))


def test_a_huge_fan_keeps_its_variance_in_float16(key):
    """JAX computes the variance in float16: its standard deviation is 9% too large."""
    shape, stddev = (10_000_000, 1), 10_000_000**-0.5
    drawn = initjax.lecun_normal()(key, shape, jnp.float16)
    theirs = jax.nn.initializers.lecun_normal()(key, shape, jnp.float16)
    assert np.std(np.asarray(drawn, np.float64)) == pytest.approx(stddev, rel=0.01)
    assert np.std(np.asarray(theirs, np.float64)) == pytest.approx(1.09 * stddev, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, "fan_in", "normal"), "scale must be a finite number >= 0, got -1"),
        ((1, "fan_inn", "normal"), "mode must be one of fan_in, .*; got 'fan_inn'"),
        ((1, "fan_in", "gaussian"), "distribution must be one of .*; got 'gaussian'"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(arguments, message):
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


# Common layers: the user's code and the inputs. A gain of 1 by fan_in promises outputs of mean
# square one.
LAYERS = {
    "dense": (lambda init: linen.Dense(512, kernel_init=init), {}, (256, 512)),
    "conv 1": (lambda init: linen.Conv(256, 3, kernel_init=init), {}, (8, 64, 256)),
    "conv 2": (lambda init: linen.Conv(128, (3, 3), kernel_init=init), {}, (8, 16, 16, 64)),
    "conv 3": (lambda init: linen.Conv(64, (3, 3, 3), kernel_init=init), {}, (2, 8, 8, 8, 64)),
    "conv with strides": (
        lambda init: linen.Conv(128, (3, 3), (2, 2), kernel_init=init),
        initjax.conv_fans(strides=(2, 2)),
        (8, 16, 16, 64),
    ),
    "local": (
        lambda init: linen.ConvLocal(16, (3, 3), padding="VALID", kernel_init=init),
        {"batch_axis": (0, 1)},
        (4, 12, 12, 16),
    ),
    "grouped": (
        lambda init: linen.Conv(256, (3, 3), feature_group_count=4, kernel_init=init),
        initjax.conv_fans(4),
        (4, 16, 16, 256),
    ),
    "depthwise": (
        lambda init: linen.Conv(4096, (3, 3), feature_group_count=4096, kernel_init=init),
        initjax.conv_fans(4096),
        (1, 16, 16, 4096),
    ),
    "transposed, strides 2": (
        lambda init: linen.ConvTranspose(128, (4, 4), (2, 2), kernel_init=init),
        initjax.conv_transpose_fans((2, 2)),
        (2, 16, 16, 128),
    ),
    "transposed kernel": (
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
    "dense general with batch axes": (
        lambda init: linen.DenseGeneral(256, batch_dims=(0,), kernel_init=init),
        initjax.stacked_fans(8),
        (8, 64, 256),
    ),
    "einsum": (
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
    "nnx conv 2": (
        lambda init: nnx.Conv(64, 256, (3, 3), kernel_init=init, rngs=R()),
        {},
        (2, 16, 16, 64),
    ),
    "nnx conv 3": (
        lambda init: nnx.Conv(64, 64, (3, 3, 3), kernel_init=init, rngs=R()),
        {},
        (2, 8, 8, 8, 64),
    ),
    "nnx grouped": (
        lambda init: nnx.Conv(256, 256, 3, feature_group_count=8, kernel_init=init, rngs=R()),
        initjax.conv_fans(8),
        (8, 64, 256),
    ),
    "nnx depthwise": (
        lambda init: nnx.Conv(
            4096, 4096, (3, 3), feature_group_count=4096, kernel_init=init, rngs=R()
        ),
        initjax.conv_fans(4096),
        (1, 16, 16, 4096),
    ),
    "nnx transposed, strides 2": (
        lambda init: nnx.ConvTranspose(128, 128, (4, 4), (2, 2), kernel_init=init, rngs=R()),
        initjax.conv_transpose_fans((2, 2)),
        (2, 16, 16, 128),
    ),
    "nnx transposed kernel": (
        lambda init: nnx.ConvTranspose(
            128, 64, (4, 4), (2, 2), transpose_kernel=True, kernel_init=init, rngs=R()
        ),
        initjax.conv_transpose_fans((2, 2), transpose_kernel=True),
        (4, 16, 16, 128),
    ),
    "nnx linear general": (
        lambda init: nnx.LinearGeneral((8, 64), (8, 64), axis=(-2, -1), kernel_init=init, rngs=R()),
        {},
        (256, 8, 64),
    ),
    "nnx linear general with batch axes": (
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
# The mean square with Flax's own default, JAX's lecun_normal, where it is wrong.
FLAX = {
    "local": 1 / 10**2,
    "transposed, strides 2": 1 / 4,
    "transposed kernel": 1 / 2,
    "dense general with batch axes": 1 / 8,
    "einsum": 1 / 8,
    "einsum with a batch": 1 / 8,
    "nnx transposed, strides 2": 1 / 4,
    "nnx transposed kernel": 1 / 2,
    "nnx linear general with batch axes": 1 / 8,
    "nnx einsum": 1 / 8,
}


def R():
    return nnx.Rngs(0)


def inputs(rng, shape):
    """Unit normal numbers from NumPy, which doesn't compile a program for every shape."""
    return jnp.asarray(rng.standard_normal(shape, np.float32))


def output_of(layer, x):
    """A layer's output at initialization, without the border that a convolution pads."""
    if isinstance(layer, linen.Module):
        output, _ = layer.init_with_output(jax.random.key(1), x)
    else:
        output = layer(x)
    if isinstance(layer, linen.Conv | linen.ConvTranspose | nnx.Conv | nnx.ConvTranspose):
        output = inner(output)
    return output


def inner(image):
    """An image without its border."""
    return image[(slice(None), *(slice(size // 4, -size // 4) for size in image.shape[1:-1]))]


@pytest.mark.parametrize("name", LAYERS)
def test_common_layers_preserve_the_mean_square(name, rng):
    make, fans, shape = LAYERS[name]
    x = inputs(rng, shape)
    mean_square(output_of(make(initjax.lecun_normal(**fans)), x), 1)
    if name in FLAX:
        theirs = output_of(make(jax.nn.initializers.lecun_normal()), x)
        mean_square(theirs, FLAX[name])


# Layers whose fan_out doesn't follow from the kernel's shape, and the mean square of the gradient
# with JAX's initializer where it is wrong.
BACKWARD = {
    "grouped": (
        lambda init: linen.Conv(256, (3, 3), feature_group_count=4, kernel_init=init),
        initjax.conv_fans(4),
        (2, 16, 16, 256),
        1 / 4,
    ),
    "depthwise": (
        lambda init: linen.Conv(4096, (3, 3), feature_group_count=4096, kernel_init=init),
        initjax.conv_fans(4096),
        (1, 16, 16, 4096),
        1 / 4096,
    ),
    "strides 2": (
        lambda init: linen.Conv(128, (3, 3), (2, 2), kernel_init=init),
        initjax.conv_fans(strides=(2, 2)),
        (4, 32, 32, 64),
        1 / 4,
    ),
    "grouped, strides 2": (
        lambda init: linen.Conv(256, 3, 2, feature_group_count=4, kernel_init=init),
        initjax.conv_fans(4, strides=(2,)),
        (8, 64, 256),
        1 / 8,
    ),
    "transposed, strides 2": (
        lambda init: linen.ConvTranspose(128, (4, 4), (2, 2), kernel_init=init),
        initjax.conv_transpose_fans((2, 2)),
        (2, 16, 16, 128),
        1,
    ),
    "transposed kernel": (
        lambda init: linen.ConvTranspose(
            64, (4, 4), (2, 2), transpose_kernel=True, kernel_init=init
        ),
        initjax.conv_transpose_fans((2, 2), transpose_kernel=True),
        (2, 16, 16, 128),
        1 / 2,
    ),
    "nnx grouped": (
        lambda init: nnx.Conv(256, 256, 3, feature_group_count=8, kernel_init=init, rngs=R()),
        initjax.conv_fans(8),
        (8, 64, 256),
        1 / 8,
    ),
    "nnx depthwise": (
        lambda init: nnx.Conv(
            4096, 4096, (3, 3), feature_group_count=4096, kernel_init=init, rngs=R()
        ),
        initjax.conv_fans(4096),
        (1, 16, 16, 4096),
        1 / 4096,
    ),
    "nnx strides 2": (
        lambda init: nnx.Conv(64, 128, (3, 3), (2, 2), kernel_init=init, rngs=R()),
        initjax.conv_fans(strides=(2, 2)),
        (4, 32, 32, 64),
        1 / 4,
    ),
    "nnx transposed kernel": (
        lambda init: nnx.ConvTranspose(
            128, 64, (4, 4), (2, 2), transpose_kernel=True, kernel_init=init, rngs=R()
        ),
        initjax.conv_transpose_fans((2, 2), transpose_kernel=True),
        (2, 16, 16, 128),
        1 / 2,
    ),
}


def gradient_behind(layer, x, rng):
    """The gradient that a layer passes back, for one of mean square one, without the border."""
    if isinstance(layer, linen.Module):
        variables = layer.init(jax.random.key(1), x)
        output, pull_back = jax.vjp(lambda x: jnp.asarray(layer.apply(variables, x)), x)
    else:
        output, pull_back = jax.vjp(layer, x)
    return inner(pull_back(inputs(rng, output.shape))[0])


@pytest.mark.parametrize("name", BACKWARD)
def test_fan_out_preserves_the_mean_square_of_the_gradient(name, rng):
    make, fans, shape, by_jax = BACKWARD[name]
    x = inputs(rng, shape)
    arguments = (1.0, "fan_out", "normal")
    mean_square(gradient_behind(make(initjax.variance_scaling(*arguments, **fans)), x, rng), 1)
    theirs = make(jax.nn.initializers.variance_scaling(*arguments))
    mean_square(gradient_behind(theirs, x, rng), by_jax)


@pytest.mark.parametrize("heads", [1, 8])
def test_attention_projections_preserve_the_mean_square(heads, key):
    x = jax.random.normal(key, (4, 64, 512))
    attention = linen.MultiHeadDotProductAttention(heads, kernel_init=initjax.lecun_normal())
    params = attention.init(jax.random.key(1), x)["params"]
    for name in ("query", "key", "value"):
        mean_square(jnp.einsum("btd,dnh->btnh", x, params[name]["kernel"]), 1)
    mean_square(
        jnp.einsum("btnh,nhd->btd", x.reshape(4, 64, heads, -1), params["out"]["kernel"]), 1
    )
    attention = nnx.MultiHeadAttention(
        heads, 512, kernel_init=initjax.lecun_normal(), decode=False, rngs=R()
    )
    for projection in (attention.query, attention.key, attention.value):
        mean_square(projection(x), 1)
    mean_square(attention.out(x.reshape(4, 64, heads, -1)), 1)


def test_packed_query_key_and_value_are_scaled_like_separate_kernels(key):
    x = jax.random.normal(key, (256, 512))
    packed, plain = initjax.glorot_normal(**initjax.packed_fans(3)), initjax.glorot_normal()
    for make in (
        lambda init: linen.Dense(3 * 512, kernel_init=init),
        lambda init: nnx.Linear(512, 3 * 512, kernel_init=init, rngs=R()),
    ):
        mean_square(output_of(make(packed), x), 1)
        mean_square(output_of(make(plain), x), 1 / 2)  # since fan_out is 3 * 512


def test_embedding_rows_have_the_scale_as_mean_square():
    init = initjax.lecun_normal(**initjax.embedding_fans())
    for layer in (
        linen.Embed(5000, 64, embedding_init=init),
        nnx.Embed(5000, 64, embedding_init=init, rngs=R()),
    ):
        mean_square(output_of(layer, jnp.arange(5000)), 1)


@pytest.mark.parametrize("name", NAMED)
def test_a_gain_replaces_the_methods_gain(name):
    scale, mode, distribution = NAMED[name]
    make = getattr(initjax, name)
    assert make(gain=scale**0.5) == make()
    assert make(gain=1.5) == initjax.variance_scaling(2.25, mode, distribution)
    assert make(gain=jax.nn.relu) == make(gain="relu") == make(gain=2**0.5)
    assert make(gain=3).gain is None  # it is folded into the scale


def test_the_gain_of_an_activation_preserves_the_mean_square_after_it(key):
    x = jax.random.normal(key, (512, 800))
    layer = linen.Dense(800, kernel_init=initjax.lecun_normal(gain=jax.nn.gelu))
    mean_square(layer.init_with_output(key, jax.nn.gelu(x))[0], 1)


class Compact(linen.Module):
    """A model that makes its initializer while it is traced, as is common in Linen."""

    @linen.compact
    def __call__(self, x):
        return linen.Dense(4, kernel_init=initjax.he_normal(gain=lambda z: jnp.sin(z)))(x)


class Model(nnx.Module):
    def __init__(self, rngs):
        init = initjax.he_normal(gain=lambda z: jnp.sin(z))
        self.linear = nnx.Linear(3, 4, kernel_init=init, rngs=rngs)


def test_the_gain_of_an_activation_works_inside_every_transformation(key):
    """A new lambda is integrated again; a function of jax.nn would be in the cache."""
    x = jnp.ones((2, 3))
    kernel = jax.jit(Compact().init)(key, x)["params"]["Dense_0"]["kernel"]
    assert (kernel == Compact().init(key, x)["params"]["Dense_0"]["kernel"]).all()
    assert jax.eval_shape(Compact().init, key, x)["params"]["Dense_0"]["kernel"].shape == (3, 4)
    kernel = nnx.jit(lambda: Model(nnx.Rngs(0)))().linear.kernel[...]
    assert (kernel == Model(nnx.Rngs(0)).linear.kernel[...]).all()
    assert nnx.eval_shape(lambda: Model(nnx.Rngs(0))).linear.kernel.shape == (3, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: initjax.he_normal(gain=-1.0), "^he_normal: gain must be a finite number >= 0"),
        (
            lambda: initjax.he_normal(gain=1e200),
            r"^he_normal: scale \* gain\*\*2 must be finite, got",
        ),
        (lambda: initjax.he_normal(gain=1.5, in_axis=1.5), "^he_normal: in_axis must be an axis"),  # pyright: ignore
        (lambda: initjax.lecun_uniform(dtype="int32"), "^lecun_uniform: dtype must be floating or"),
        (lambda: initjax.glorot_normal(fan_in_divisor=0), "^glorot_normal: fan_in_divisor must be"),
        (
            lambda: initjax.variance_scaling(1.0, "fan_avg", "uniform", in_axis=1.5),  # pyright: ignore
            "^variance_scaling: in_axis must be an axis",
        ),
        (
            lambda: initjax.variance_scaling(1e300, "fan_in", "normal", gain=1e10),
            r"^variance_scaling: scale \* gain\*\*2 must be finite, got 1e\+300 \* 10000000000.0",
        ),
        (
            lambda: initjax.torch_kaiming_normal(gain=-1),
            "^torch_kaiming_normal: gain must be a fin",
        ),
        (lambda: initjax.mup_output(8, gain=-1), "^mup_output: gain must be a finite number >= 0"),
    ],
)
def test_errors_use_the_users_names(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_a_traced_number_is_refused_with_advice(key):
    for make in (
        lambda scale: initjax.variance_scaling(scale, "fan_in", "normal"),
        lambda gain: initjax.he_normal(gain=gain),
        initjax.normal,
    ):
        for transform in (jax.jit, jax.vmap, lambda f: jax.vmap(jax.grad(f))):
            with pytest.raises(TypeError, match="must be known in advance, but it is traced"):
                transform(lambda number, make=make: make(number)(key, (2, 3)).sum())(jnp.ones(3))


def test_an_equation_that_hides_its_fan_is_refused():
    for equation in ("btd,dnh", "btd->bt", "bd,d...->b...", "bd,dd->b", ""):
        with pytest.raises(ValueError, match="two operands and an output"):
            initjax.einsum_fans(equation)
    with pytest.raises(ValueError, match="sums the input's axis 't', which the kernel lacks"):
        initjax.einsum_fans("btd,dh->bh")


def traces(init):
    """How often three new modules are traced, in Linen and NNX."""
    traced = {"linen": 0, "nnx": 0}

    @functools.partial(jax.jit, static_argnums=0)
    def draw(module, key):
        traced["linen"] += 1
        return module.init(key, jnp.ones((1, 3)))

    @nnx.jit
    def apply(module):
        traced["nnx"] += 1
        return module(jnp.ones((1, 3)))

    for seed in range(3):
        draw(linen.Dense(4, kernel_init=init()), jax.random.key(seed))
        apply(nnx.Linear(3, 4, kernel_init=init(), rngs=nnx.Rngs(seed)))
    return traced


def test_an_equal_module_is_not_traced_again():
    assert traces(initjax.he_normal) == {"linen": 1, "nnx": 1}
    assert traces(jax.nn.initializers.he_normal)["linen"] == 3


NO_FANS = (
    "Can't compute input and output sizes of a {}-dimensional weights tensor with default in_axis."
    " Must be at least 2D or specify in_axis explicitly."
)


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize(
    "spec", ["he_normal", "glorot_uniform", "mup_output(8)", "siren", "he_normal(gain=1.5)"]
)
def test_errors_about_shapes_begin_with_the_sentence_of_jax(spec, shape, key):
    with pytest.raises(ValueError) as theirs:
        jax.nn.initializers.he_normal()(key, shape)
    with pytest.raises(ValueError) as ours:
        initjax.parse(spec)(key, shape)
    assert str(theirs.value) == NO_FANS.format(len(shape))
    assert str(ours.value).startswith(f"{theirs.value} in_axis=-2 is outside shape {shape}: ")
    name = spec.partition("(")[0]
    assert name in str(ours.value) and "variance_scaling" not in str(ours.value)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda module: module.orthogonal(), (3,)),
        (lambda module: module.delta_orthogonal(), (3, 3)),
        (lambda module: module.delta_orthogonal(), (3, 3, 2)),
        (lambda module: module.variance_scaling(1.0, "fan", "normal"), (3, 3)),
        (lambda module: module.variance_scaling(1.0, "fan_in", "gauss"), (3, 3)),
    ],
)
def test_other_errors_begin_as_those_of_jax(make, shape, key):
    with pytest.raises(ValueError) as theirs:
        make(jax.nn.initializers)(key, shape)
    with pytest.raises(ValueError) as ours:
        make(initjax)(key, shape)
    assert str(ours.value).startswith(str(theirs.value).strip())


def test_a_dtype_in_another_place_is_explained():
    makers = [
        lambda dtype: initjax.variance_scaling(1.0, "fan_in", "normal", dtype),
        lambda dtype: initjax.variance_scaling(1.0, "fan_in", dtype),
        lambda dtype: initjax.he_normal(dtype),
        lambda dtype: initjax.normal(dtype),
        lambda dtype: initjax.orthogonal(1.0, dtype),
        lambda dtype: initjax.sparse(dtype),
    ]
    for make in makers:
        for dtype in (jnp.float32, np.float32, np.dtype("float32"), "float32"):
            with pytest.raises((TypeError, ValueError), match=r"by name: \w+\(.*dtype='float32'\)"):
                make(dtype)


@pytest.mark.parametrize("name", ["he_normal", "glorot_uniform", "torch_kaiming_normal"])
def test_errors_name_the_function_that_was_called(name, key):
    """The repr is a specification and may name another."""
    initializer = getattr(initjax, name)(gain=1e40)
    assert repr(initializer).startswith("variance_scaling(1e+80")
    with pytest.raises(ValueError, match=f"^{name} draws numbers up to"):
        initializer(key, (3, 4), "float32")
    twin = initjax.parse(repr(initializer))
    assert twin == initializer and hash(twin) == hash(initializer)
    with pytest.raises(ValueError, match=r"^variance_scaling\(1e\+80, .* draws numbers up to"):
        twin(key, (3, 4), "float32")
    assert pickle.loads(pickle.dumps(initializer)) == initializer


def test_the_type_of_initializers_can_be_checked():
    for initializer in (initjax.he_normal(), initjax.zeros, jax.nn.initializers.he_normal()):
        assert isinstance(initializer, initjax.Initializer)
        assert isinstance(initializer, jax.nn.initializers.Initializer)
    assert not isinstance("he_normal", initjax.Initializer)


@pytest.mark.parametrize("distribution", ["normal", "truncated_normal", "uniform"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_a_variance_that_a_dtype_cannot_hold_leaves_numbers_that_it_can(distribution, dtype, key):
    """Its square root fits, though the variance itself is infinite or zero in 32 bits."""
    for gain in (1e30, 1e-24):
        initializer = initjax.variance_scaling(1.0, "fan_in", distribution, gain=gain)
        drawn = np.asarray(initializer(key, (50, 400), dtype)).astype(np.complex128)
        assert np.sqrt((np.abs(drawn) ** 2).mean()) * 50**0.5 == pytest.approx(gain, rel=0.02)
