"""Programs that are run once or twice are not worth optimizing: it takes longer than they do."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def quickly_compiled():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
