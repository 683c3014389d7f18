"""What keeps these tests quick: they compile many programs, and run each once or twice."""

import jax
import numpy as np
import pytest

from initjax.auditing._measuring import passes


@pytest.fixture(scope="module", autouse=True)
def quickly_compiled():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def without_jacobian(monkeypatch):
    """Leaves out a program of its own, which takes as long to compile as all else."""
    monkeypatch.setattr(passes, "jacobian_probe", lambda traced: None)


@pytest.fixture
def pretended(monkeypatch):
    """A `measurer` that compiles nothing: all that it finds is one."""

    def instead(function):
        def ones(*arguments):
            shapes = jax.eval_shape(function, *arguments)
            return jax.tree.map(lambda shape: np.ones(shape.shape, shape.dtype), shapes)

        return ones

    def measurer(traced):
        with monkeypatch.context() as patched:
            patched.setattr(jax, "jit", instead)
            return passes.measurer(traced)

    return measurer
