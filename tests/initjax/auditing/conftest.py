"""What keeps these tests exact on every device."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def exact():
    """They compare with plain twins, in which a GPU would multiply in TF32."""
    jax.config.update("jax_default_matmul_precision", "highest")
    yield
    jax.config.update("jax_default_matmul_precision", None)
