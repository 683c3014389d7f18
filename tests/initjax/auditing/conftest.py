"""What keeps these tests quick: they compile many programs, and run each once or twice."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def quickly_compiled():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
