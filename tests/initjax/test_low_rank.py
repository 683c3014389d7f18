"""Adapters of LoRA: the numbers of PEFT 0.21.2 (on PyTorch 2.13), and what the papers claim."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import initjax

SPLITS = {
    "pissa": initjax.pissa,
    "olora": initjax.olora,
    "lora_ga": lambda kernel, *args: initjax.lora_ga(kernel, gradient(*kernel.shape[-2:]), *args),
}


def kernel(rows, columns):
    i, j = np.arange(rows)[:, None], np.arange(columns)
    return jnp.asarray(np.cos(3 * i + 2 * j * j) + (i == j), "float32")


def gradient(rows, columns):
    i, j = np.arange(rows)[:, None], np.arange(columns)
    return jnp.asarray(np.sin(i * i + 5 * j) / (1 + i + j), "float32")


# Rank 2 and scale 3: absolute values of A and B (their signs are LAPACK's choice), and the first
# row of what stays frozen. From `get_peft_model(model, LoraConfig(r=2, lora_alpha=6, ...))`.
PEFT = {
    ("pissa", 3, 5): (
        [[0.7118573, 0.1801500], [0.5681875, 0.2429387], [0.4843324, 0.5497790]],
        [
            [0.7678251, 0.3433295, 0.1392241, 0.3090736, 0.4917473],
            [0.0617393, 0.2597609, 0.5521895, 0.0159296, 0.1314371],
        ],
        [0.3268871, 0.4574458, -0.1443924, -0.0083414, -0.1449032],
    ),
    ("olora", 3, 5): (
        [[2.3078768, 0.0], [1.5730375, 1.1269929], [1.2532437, 0.2274477]],
        [
            [0.8665973, 0.1803159, 0.0630450, 0.2861144, 0.3614679],
            [0.3311447, 0.8873336, 0.0840701, 0.0866559, 0.2973307],
        ],
        [-3.9999995, 0.8322937, 0.2910001, -1.3206335, -1.6684468],
    ),
    ("olora", 6, 4): (
        [
            [2.1518285, 0.0],
            [1.3367683, 1.0681536],
            [0.9738634, 0.0588018],
            [0.6118765, 0.2800887],
            [0.7776102, 0.2779729],
            [0.6209172, 0.3990433],
        ],
        [
            [0.9294422, 0.1933924, 0.0676169, 0.3068631],
            [0.2363479, 0.9597324, 0.0804776, 0.1287498],
        ],
        [-4.0000005, 0.8322936, 0.2910001, -1.3206334],
    ),
}
# The directions of PEFT's LoRA-GA; its scale isn't that of the paper and of the authors' code.
PEFT_LORA_GA = (
    [
        [0.6488238, 0.5201345],
        [0.5283979, 0.6251708],
        [0.4016564, 0.3392098],
        [0.1809227, 0.4208253],
        [0.2671943, 0.0533445],
        [0.1853898, 0.2088507],
    ],
    [[0.0403909, 0.4484181, 0.3041463, 0.8395147], [0.5026917, 0.1751054, 0.7713497, 0.3487961]],
)


@pytest.mark.parametrize(("name", "rows", "columns"), PEFT)
def test_a_split_has_the_numbers_of_peft(name, rows, columns):
    lora_a, lora_b, first_row = PEFT[name, rows, columns]
    split = SPLITS[name](kernel(rows, columns), 2, initjax.lora_scale(6, 2))
    np.testing.assert_allclose(jnp.abs(split.lora_a), lora_a, atol=2e-5)
    np.testing.assert_allclose(jnp.abs(split.lora_b), lora_b, atol=2e-5)
    np.testing.assert_allclose(split.kernel[0], first_row, atol=2e-5)


def test_lora_ga_has_the_directions_of_peft_and_the_scale_of_its_authors():
    split = initjax.lora_ga(kernel(6, 4), gradient(6, 4), 2, 3.0)
    scale = 4**0.25 / 16**0.5
    for factor, expected in zip(split[1:], PEFT_LORA_GA, strict=True):
        np.testing.assert_allclose(jnp.abs(factor), scale * np.array(expected), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("name", SPLITS)
def test_a_split_keeps_the_layer_as_it_was(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        before = jnp.stack([kernel(8, 6), 2 * kernel(8, 6)]).astype(dtype)
        gradients = jnp.stack([gradient(8, 6), -gradient(8, 6)]).astype(dtype)
        split = SPLITS[name]
        if name == "lora_ga":
            split = functools.partial(initjax.lora_ga, gradient=gradients, scale=0.7, rank=3)
            frozen, lora_a, lora_b = split(before)
        else:
            frozen, lora_a, lora_b = split(before, 3, 0.7)
        assert lora_a.shape == (2, 8, 3) and lora_b.shape == (2, 3, 6)
        assert frozen.dtype == lora_a.dtype == lora_b.dtype == dtype
        parts = [np.asarray(part, np.float64) for part in (frozen, lora_a, lora_b)]
        whole = parts[0] + 0.7 * parts[1] @ parts[2]
        np.testing.assert_allclose(whole, before, atol=2e-2 if dtype == "bfloat16" else 2e-6)
        jitted = jax.jit(lambda kernel: SPLITS[name](kernel, 3, 0.7))(before[0])
        atol = 2e-2 if dtype == "bfloat16" else 2e-6
        np.testing.assert_allclose(jitted.kernel, frozen[0], atol=atol)


def test_pissa_splits_off_the_best_approximation_of_its_rank(key):
    before = jax.random.normal(key, (30, 20))
    split = initjax.pissa(before, 5, 2.0)
    values = np.linalg.svd(before)[1]
    np.testing.assert_allclose(np.linalg.norm(split.kernel), np.linalg.norm(values[5:]), rtol=1e-4)
    # Both factors have the same size: A^T A = B B^T = S / scale.
    lora_a, lora_b = np.asarray(split.lora_a), np.asarray(split.lora_b)
    for gram in (lora_a.T @ lora_a, lora_b @ lora_b.T):
        np.testing.assert_allclose(gram, np.diag(values[:5] / 2), atol=1e-4)


def test_lora_ga_approximates_the_gradient_of_the_whole_kernel(key):
    """The paper's claim: of all adapters, its first step is nearest to that of full training."""
    before, whole = np.asarray(jax.random.normal(key, (2, 24, 16)))

    def step(*factors):
        lora_a, lora_b = map(np.asarray, factors)
        return lora_a @ lora_a.T @ whole + whole @ lora_b.T @ lora_b

    _, *best = initjax.lora_ga(before, whole, 4, gamma=16**0.5)  # so that A^T A = I
    _, *other = initjax.lora_ga(
        before, jax.random.normal(jax.random.key(1), whole.shape), 4, gamma=4
    )
    errors = [np.linalg.norm(whole - step(*factors)) for factors in (best, other)]
    values = np.linalg.svd(whole)[1]
    assert errors[0] == pytest.approx(np.linalg.norm(values[8:]), rel=1e-4)
    assert errors[1] > 1.5 * errors[0]


@pytest.mark.parametrize("name", SPLITS)
def test_products_have_the_highest_precision_on_every_device(name):
    text = str(jax.make_jaxpr(lambda kernel: SPLITS[name](kernel, 2))(kernel(6, 4)))
    outside = text.count("dot_general")
    assert outside and text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == outside


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: initjax.pissa(jnp.ones((4, 6)), 5), r"rank must be at most 4 .* \(4, 6\), got 5"),
        (lambda: initjax.lora_ga(jnp.ones((4, 6)), jnp.ones((4, 6)), 3), "rank must be at most 2"),
        (lambda: initjax.lora_ga(jnp.ones((4, 6)), jnp.ones(6), 2), r"shape \(4, 6\), got \(6,\)"),
        (lambda: initjax.olora(jnp.ones(4), 1), r"kernel must have shape \(..., in, out\)"),
        (lambda: initjax.olora(jnp.ones((4, 4), int), 1), "kernel must be floating, got int32"),
        (lambda: initjax.pissa(jnp.ones((4, 4)), 1, 0.0), "scale must be above 0"),
        (lambda: initjax.pissa(jnp.ones((4, 4)), 0), "rank must be a finite number >= 1"),
        (
            lambda: initjax.lora_scale(16, 1.5),  # pyright: ignore
            "rank must be an integer",
        ),
    ],
)
def test_errors_say_what_is_valid(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.parametrize("dtype", ["float4_e2m1fn", "float8_e8m0fnu"])
def test_dtypes_that_hold_no_adapter_are_refused_by_name(dtype):
    with pytest.raises(TypeError, match=f"^pissa.*{dtype}"):
        initjax.pissa(jnp.ones((4, 4), dtype), 1)
