"""What all tests share. Set before JAX is imported: compiled programs are kept between sessions."""

import gzip
import importlib.metadata
import os
import pathlib
import signal
import struct
import sys
from typing import Any

import hypothesis
import numpy as np
import pytest

CACHE = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "xla"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# LLVM takes up to eight times as long for a draw at its third level, by what it unrolls there.
# These programs are small: dividing each among LLVM's threads, and compiling its fusions with MLIR
# as JAX 0.10 does, takes as long as all the rest. The bits are the same:
# test_the_compiler_flags_of_the_tests_do_not_change_bits in test_golden.py.
FLAGS = "--xla_backend_optimization_level=2 --xla_cpu_parallel_codegen_split_count=1"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # others end at an unknown flag
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
# With a thread for each core in each worker, NumPy's threads wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A shell has what it starts in the background ignore Ctrl-C, nohup has it ignore a closed terminal,
# and so would the programs under test.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The same cases each time: whether a change lands is no matter of luck.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
# More of them, for who changes what they are about: `pytest --hypothesis-profile=thorough`.
hypothesis.settings.register_profile(
    "thorough", hypothesis.settings.get_profile("same"), max_examples=500
)
hypothesis.settings.load_profile("same")


def pytest_terminal_summary(terminalreporter):
    """Says at the end, for all to see, if there was no cluster to test on."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = {one.longrepr[2] for one in skipped if one.nodeid.startswith("tests/cluster/")}
    for reason in sorted(reasons):
        text = reason.removeprefix("Skipped: ")
        terminalreporter.write_line(f"WARNING: not tested: {text}", yellow=True, bold=True)


# These tests compile many programs, run each once or twice, and are not about the last bit. Almost
# without optimization a program is compiled several times as fast, and rounds differently.
QUICKLY_COMPILED = ("auditing/", "coordinates/", "leaves/", "parametrization/")
QUICKLY_COMPILED += ("test_advice.py", "test_architectures.py")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Other tests run nothing that was compiled quickly before them."""
    quickly = item.nodeid.removeprefix("tests/initjax/").startswith(QUICKLY_COMPILED)
    if quickly or "jax" in sys.modules:
        import jax

        if quickly != jax.config.read("jax_disable_most_optimizations"):
            jax.config.update("jax_disable_most_optimizations", quickly)
            if not quickly:
                jax.clear_caches()


@pytest.fixture
def users_compiler():
    """Compiles a function as on a user's machine, which fuses more than in other tests here."""
    import jax

    option = "xla_cpu_use_fusion_emitters"
    options: Any = {option: True} if option in FLAGS else None

    def compiled(function, *arguments):
        return jax.jit(function).lower(*arguments).compile(compiler_options=options)

    return compiled


@pytest.fixture
def key():
    import jax

    return jax.random.key(42)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def cpu():
    """Skips a test about a CPU's bits or memory on anything else."""
    import jax

    if jax.default_backend() != "cpu":
        pytest.skip(f"needs a CPU, not {jax.default_backend()}")


@pytest.fixture
def same_bits():
    """Asserts that draws of one backend are equal, on a CPU bit for bit.

    An accelerator may round differently what it compiles together: by some units in the last place.
    """
    import jax

    def check(drawn, expected):
        drawn, expected = np.asarray(drawn), np.asarray(expected)
        assert drawn.dtype == expected.dtype
        if jax.default_backend() == "cpu":
            np.testing.assert_array_equal(drawn, expected)
        else:
            unit = float(jax.numpy.finfo(drawn.dtype).eps)
            wide = drawn.astype(np.float64), expected.astype(np.float64)
            np.testing.assert_allclose(*wide, rtol=8 * unit, atol=2 * unit * np.abs(wide[1]).max())

    return check


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Real MNIST images, fewer: 1,000 to train on and 300 to test on, neither a round number."""
    from experiments.common import data

    mnist = data.load()
    path = tmp_path_factory.mktemp("digits")
    for split, images, labels, n in (
        ("train", mnist.train_images, mnist.train_labels, 1000),
        ("t10k", mnist.test_images, mnist.test_labels, 300),
    ):
        for name, array in (("images", images[:n, ..., 0]), ("labels", labels[:n])):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            file = path / f"{split}-{name}-idx{array.ndim}-ubyte.gz"
            file.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))
    return str(path)


def _row(kind, seed, rng, /, **changes):
    """A run as a sweep stores it: accuracies about those of MNIST, those of a seed alike."""
    shift = {"he_normal": 0.0, "glorot_uniform": 0.003, "zeros": 2.2}[kind]
    luck = np.random.default_rng(seed).normal(0, 0.001)
    loss = 0.3 + shift + luck + rng.normal(0, 0.0005)
    acc = 0.1135 if kind == "zeros" else 0.975 - shift / 6 + luck + rng.normal(0, 0.0003)
    steps = np.linspace(2.3, loss, 938)
    return {
        "key": f"{kind}{seed}{sorted(changes.items())}".encode().hex(),
        "status": "finished", "model": "mlp", "inputs": "unit", "steps": None,
        "init": kind, "output_init": "glorot_uniform", "bias_init": "zeros", "seed": seed,
        "hidden": [128, 64], "residual": False, "normalization": "none",
        "activation": "relu", "dtype": "float32", "optimizer": "adam",
        "learning_rate": 0.001, "epochs": 2, "batch_size": 128, "dataset": "mnist", "digest": "d",
        "loss": [loss, loss / 2], "acc": [0.9, 0.95],
        "val_loss": [2.3, loss / 2, loss / 3], "val_acc": [0.1, acc - 0.02, acc],
        "step_loss": steps, "step_acc": np.clip(1 - steps / 3, 0, 1),
        "features": 784, "classes": 10, "test_images": 10_000, "guess_acc": 0.1135,
        "seconds": 1.0, "finished": 0, "host": "<host>", "device": "cpu", "versions": "jax 1",
        **changes,
    }  # fmt: skip


@pytest.fixture(scope="session")
def row():
    """Makes a run of a sweep: (initializer, seed, random numbers, columns that differ)."""
    return _row


@pytest.fixture(scope="session")
def fill():
    """Fills a directory with the runs of three initializers."""
    from experiments.common import sweep_directory

    def fill(directory, seeds=12, **changes):
        rng = np.random.default_rng(1)
        inits = ("he_normal", "glorot_uniform", "zeros")
        with sweep_directory.SweepDirectory(directory) as stored:
            stored.add(
                [_row(init, seed, rng, **changes) for seed in range(seeds) for init in inits]
            )

    return fill
