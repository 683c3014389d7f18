"""The table of equivalents: our initializer follows the law of the other library's.

The laws are stated here in SciPy, from each library's documentation. The script compares real
draws, if the libraries are installed.
"""

import importlib
import pathlib
import re

import jax
import numpy as np
import pytest
import scipy.signal
import scipy.stats

import initjax

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(SCRIPTS)
    EQUIVALENTS = importlib.import_module("equivalents").EQUIVALENTS
    parametrizations = importlib.import_module("_parametrizations")
ROWS = [(peer, there) for peer, pairs in EQUIVALENTS.items() for there in pairs]
IN, OUT = SHAPE = (300, 200)


def uniform(limit):
    return scipy.stats.uniform(-limit, 2 * limit)


def normal(stddev):
    return scipy.stats.norm(0, stddev)


def truncated(variance):
    return scipy.stats.truncnorm(-2, 2, scale=variance**0.5 / 0.87962566103423978)


def orthogonal(kernel):
    np.testing.assert_allclose(kernel.T @ kernel, 1.5**2 * np.eye(OUT), atol=1e-4)


def sparse(kernel):
    assert set((kernel != 0).sum(axis=1)) == {20}
    assert scipy.stats.kstest(kernel[kernel != 0], normal(0.01).cdf).pvalue > 1e-4


def dirac(kernel):
    expected = np.zeros((3, 4, 8))
    for output in range(8):
        expected[1, output % 4, output] = 1
    np.testing.assert_array_equal(kernel, expected)


def transform(kernel):
    window = scipy.signal.get_window("hann", 64, False)
    frames = np.eye(64) * window / np.linalg.norm(window)
    np.testing.assert_allclose(kernel[:, 0], np.fft.rfft(frames).imag, atol=1e-6)


# A law, an exact kernel, or a function that checks one.
TRUE = {
    "Flax": {
        "zeros_init()": np.zeros(SHAPE),
        "ones_init()": np.ones(SHAPE),
        "Embed's default": normal(OUT**-0.5),
    },
    "Keras": {
        "Zeros()": np.zeros(SHAPE),
        "Ones()": np.ones(SHAPE),
        "Constant(3.0)": np.full(SHAPE, 3.0),
        "Identity(2.0)": 2 * np.eye(*SHAPE),
        "RandomUniform(-0.1, 0.3)": scipy.stats.uniform(-0.1, 0.4),
        "RandomNormal(1.0, 0.2)": scipy.stats.norm(1, 0.2),
        "TruncatedNormal(1.0, 0.2)": scipy.stats.truncnorm(-2, 2, loc=1, scale=0.2),
        "VarianceScaling(3.0, 'fan_out', 'normal')": truncated(3 / OUT),
        "VarianceScaling(3.0, 'fan_in', 'untruncated_normal')": normal((3 / IN) ** 0.5),
        "VarianceScaling(3.0, 'fan_avg', 'uniform')": uniform((18 / (IN + OUT)) ** 0.5),
        "GlorotUniform()": uniform((6 / (IN + OUT)) ** 0.5),
        "GlorotNormal()": truncated(2 / (IN + OUT)),
        "HeUniform()": uniform((6 / IN) ** 0.5),
        "HeNormal()": truncated(2 / IN),
        "LecunUniform()": uniform((3 / IN) ** 0.5),
        "LecunNormal()": truncated(1 / IN),
        "Orthogonal(1.5)": orthogonal,
        "STFT('imag', 'hann')": transform,
    },
    "PyTorch": {
        "zeros_": np.zeros(SHAPE),
        "ones_": np.ones(SHAPE),
        "constant_(3.0)": np.full(SHAPE, 3.0),
        "eye_": np.eye(*SHAPE),
        "dirac_(groups=2)": dirac,
        "uniform_": scipy.stats.uniform(0, 1),
        "normal_": normal(1),
        "trunc_normal_": scipy.stats.truncnorm(-2, 2),
        "trunc_normal_(std=0.02)": scipy.stats.truncnorm(-100, 100, scale=0.02),
        "xavier_uniform_(gain=1.5)": uniform(1.5 * (6 / (IN + OUT)) ** 0.5),
        "xavier_normal_(gain=1.5)": normal(1.5 * (2 / (IN + OUT)) ** 0.5),
        "kaiming_uniform_(a=5**0.5)": uniform(IN**-0.5),
        "kaiming_uniform_(nonlinearity='tanh')": uniform(5 / 3 * (3 / IN) ** 0.5),
        "kaiming_normal_": normal((2 / IN) ** 0.5),
        "kaiming_normal_(mode='fan_out', nonlinearity='relu')": normal((2 / OUT) ** 0.5),
        "orthogonal_(gain=1.5)": orthogonal,
        "sparse_(sparsity=0.9)": sparse,
        "Linear's default kernel": uniform(IN**-0.5),
        "Linear's default bias": uniform(IN**-0.5),
    },
    "Haiku": {
        "Constant(3.0)": np.full(SHAPE, 3.0),
        "Identity(2.0)": 2 * np.eye(*SHAPE),
        "RandomNormal(stddev=0.2, mean=1.0)": scipy.stats.norm(1, 0.2),
        "RandomUniform()": scipy.stats.uniform(0, 1),
        "TruncatedNormal(stddev=0.2, mean=1.0, lower=-1.0, upper=3.0)": (
            scipy.stats.truncnorm(-1, 3, loc=1, scale=0.2)
        ),
        "VarianceScaling(2.0, 'fan_avg', 'truncated_normal')": truncated(4 / (IN + OUT)),
        "UniformScaling(2.0)": uniform(2 * (3 / IN) ** 0.5),
        "Orthogonal(1.5)": orthogonal,
    },
    "Equinox": {
        "Linear's default kernel": uniform(OUT**-0.5),  # of a kernel (out, in)
        "Linear's default bias": uniform(IN**-0.5),
    },
    "timm": {
        "trunc_normal_(std=0.02)": scipy.stats.truncnorm(-100, 100, scale=0.02),
        "trunc_normal_tf_(std=0.02)": scipy.stats.truncnorm(-2, 2, scale=0.02),
        "lecun_normal_": truncated(1 / IN),
        "variance_scaling_(scale=2.0)": normal((2 / IN) ** 0.5),
        "init_weights_vit_moco of qkv": uniform((6 / (IN + OUT)) ** 0.5),
        "init_weights_vit_jax of an MLP's bias": normal(1e-6),
    },
    "PEFT": {
        "LoraConfig(r=200): A": uniform(IN**-0.5),
        "LoraConfig(r=200): B": np.zeros(SHAPE),
        "LoraConfig(r=200, init_lora_weights='gaussian'): A": normal(1 / 200),
    },
}
OTHER_SHAPES = {
    dirac: (3, 4, 8),
    transform: (64, 1, 33),
    "init_weights_vit_moco of qkv": (IN, 3 * OUT),
}


@pytest.mark.parametrize(("peer", "there"), ROWS)
def test_our_initializer_follows_the_law_of_theirs(peer, there, key):
    true, initializer = TRUE[peer][there], initjax.parse(EQUIVALENTS[peer][there])
    shape = OTHER_SHAPES.get(there) or (OTHER_SHAPES.get(true, SHAPE) if callable(true) else SHAPE)
    drawn = np.asarray(initializer(key, shape))
    if callable(true):
        true(drawn)
    elif isinstance(true, np.ndarray):
        np.testing.assert_array_equal(drawn, true.astype(np.float32))
    else:
        assert scipy.stats.kstest(np.ravel(drawn), true.cdf).pvalue > 1e-4
        # With so many numbers, the test tells laws apart that differ by 5%.
        assert scipy.stats.kstest(np.ravel(drawn) * 1.05, true.cdf).pvalue < 1e-4


def test_the_file_of_results_has_the_rows_of_the_script():
    text = (SCRIPTS / "results/equivalents.md").read_text()
    found = re.findall(r"^\| (\w+) \| `(.+?)` \| `(.+?)` \| (.+) \|$", text, re.M)
    assert [row[:3] for row in found] == [
        (peer, there, here) for peer, pairs in EQUIVALENTS.items() for there, here in pairs.items()
    ]
    agreements = [row[3] for row in found]
    measured = [float(p) for p in agreements if p not in ("equal", "not compared")]
    assert len(measured) > 30 and min(measured) > 1e-3


def test_the_parametrizations_of_other_libraries_are_ours():
    """What is measured stands in the file; what is told as numbers is compared again."""
    text = (SCRIPTS / "results/equivalents.md").read_text().partition("## Parametrizations")[2]
    lines = re.findall(r"^\| .*`.* \|$", text, re.M)
    counts = {"mup": 5, "unit-scaling": 7, "nanoGPT-mup": 4, "CompleteP": 5}
    assert [line.split(" | ")[0].strip("| ") for line in lines] == [
        name for name in parametrizations.LIBRARIES for _ in range(counts[name])
    ]
    assert min(float(p) for p in re.findall(r"p=(\S+)", text)) > 1e-3
    different = [line for line in lines if "here" in line]
    assert len(different) == 1 and different[0].endswith("| x1, here x4 |")  # nanoGPT-mup's decay
    for name in ("nanoGPT-mup", "CompleteP"):
        again = [f"| {' | '.join(cells)} |" for cells in parametrizations.rows(name)]
        assert again == [line for line in lines if line.startswith(f"| {name} ")]


def test_flax_embed_is_bit_for_bit_equal(key):
    from flax.linen.linear import default_embed_init

    here = initjax.parse(EQUIVALENTS["Flax"]["Embed's default"])
    np.testing.assert_array_equal(
        here(key, SHAPE), default_embed_init(key, SHAPE, jax.numpy.float32)
    )
