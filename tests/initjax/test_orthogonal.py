"""Orthogonal kernels."""

import jax.numpy as jnp
import numpy as np
import pytest

import initjax


@pytest.mark.parametrize("scale", [1.0, 1.7])
@pytest.mark.parametrize("shape", [(40, 40), (60, 30), (30, 60), (3, 3, 8, 16)])
def test_the_shorter_side_is_orthonormal_times_the_scale(shape, scale, key):
    matrix = np.asarray(initjax.orthogonal(scale)(key, shape)).reshape(-1, shape[-1])
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    gram = matrix.T @ matrix
    np.testing.assert_allclose(gram, scale**2 * np.eye(len(gram)), atol=1e-5)


def test_any_axis_can_be_the_column_axis(key):
    kernel = np.asarray(initjax.orthogonal(column_axis=0)(key, (5, 20, 3)))
    rows = kernel.reshape(5, -1)
    np.testing.assert_allclose(rows @ rows.T, np.eye(5), atol=1e-5)


def test_orthogonal_matrices_are_uniform(key):
    """The trace of a uniform orthogonal n x n matrix has mean 0 and variance 1."""
    import jax

    keys = jax.random.split(key, 4000)
    traces = jax.vmap(lambda key: jnp.trace(initjax.orthogonal()(key, (4, 4))))(keys)
    assert abs(np.mean(traces)) < 5 / 4000**0.5
    assert np.var(traces) == pytest.approx(1.0, abs=5 * (2 / 4000) ** 0.5)


def test_bfloat16_is_orthonormal_up_to_rounding(key):
    kernel = np.asarray(initjax.orthogonal()(key, (64, 64), jnp.bfloat16), np.float32)
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(64), atol=0.02)


@pytest.mark.parametrize(("shape", "axis"), [((3,), -1), ((3, 4), 2), ((3, 4), -3)])
def test_a_shape_without_the_axes_is_refused(shape, axis, key):
    with pytest.raises(ValueError, match="needs a shape of at least two axes"):
        initjax.orthogonal(column_axis=axis)(key, shape)


def test_the_column_axis_must_be_one_axis():
    with pytest.raises(TypeError, match="column_axis must be one axis"):
        initjax.orthogonal(column_axis=(0, 1))  # pyright: ignore


@pytest.mark.parametrize("name", ["orthogonal", "delta_orthogonal", "scaled_orthogonal"])
def test_errors_use_the_users_names(name):
    with pytest.raises(ValueError, match=f"^{name}: scale must be a finite number, got inf"):
        initjax.parse(f"{name}(inf)")
