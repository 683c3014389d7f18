"""What all tests share. Set before JAX is imported: compiled programs are kept between sessions."""

import os
import pathlib
import signal

import hypothesis
import pytest

CACHE = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "xla"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# A shell has what it starts in the background ignore Ctrl-C, and so would the programs under test.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same cases each time: whether a change lands is no matter of luck.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")


@pytest.fixture
def key():
    import jax

    return jax.random.key(42)
