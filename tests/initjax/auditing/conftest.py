"""What keeps these tests quick and exact on every device."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def quickly_compiled_and_exact():
    """They compile many programs, and run each once or twice. They compare with plain twins, in
    which a GPU would multiply in TF32."""
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_default_matmul_precision", "highest")
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.config.update("jax_default_matmul_precision", None)
