"""Compares what initjax draws with what the initializers of other libraries draw.

    python scripts/equivalents.py

Writes a table: an initializer elsewhere, what to write here, and the p value of a two-sample
Kolmogorov-Smirnov test between a draw of each, or "equal" where nothing is random. The rows of
libraries that are not installed say "not compared". `pip install -e '.[benchmark]' timm peft`
installs all of them. A second table compares `initjax.parametrize` with other libraries of muP.
Takes 20 seconds.
"""

import os
from collections.abc import Callable

import _parametrizations
import numpy as np
from benchmarks import _results

# What to write here, by library and by the library's expression. Kernels are (300, 200), (in, out).
EQUIVALENTS = {
    "Flax": {
        "zeros_init()": "zeros",
        "ones_init()": "ones",
        "Embed's default": "variance_scaling(1.0, 'fan_in', 'normal', out_axis=0)",
    },
    "Keras": {
        "Zeros()": "zeros",
        "Ones()": "ones",
        "Constant(3.0)": "constant(3.0)",
        "Identity(2.0)": "identity(2.0)",
        "RandomUniform(-0.1, 0.3)": "random_uniform(-0.1, 0.3)",
        "RandomNormal(1.0, 0.2)": "random_normal(1.0, 0.2)",
        "TruncatedNormal(1.0, 0.2)": "random_truncated_normal(1.0, 0.2)",
        "VarianceScaling(3.0, 'fan_out', 'normal')": (
            "variance_scaling(3.0, 'fan_out', 'truncated_normal')"
        ),
        "VarianceScaling(3.0, 'fan_in', 'untruncated_normal')": (
            "variance_scaling(3.0, 'fan_in', 'normal')"
        ),
        "VarianceScaling(3.0, 'fan_avg', 'uniform')": "variance_scaling(3.0, 'fan_avg', 'uniform')",
        "GlorotUniform()": "glorot_uniform()",
        "GlorotNormal()": "glorot_normal()",
        "HeUniform()": "he_uniform()",
        "HeNormal()": "he_normal()",
        "LecunUniform()": "lecun_uniform()",
        "LecunNormal()": "lecun_normal()",
        "Orthogonal(1.5)": "orthogonal(1.5)",
        "STFT('imag', 'hann')": "stft('imag', 'hann')",
    },
    "PyTorch": {
        "zeros_": "zeros",
        "ones_": "ones",
        "constant_(3.0)": "constant(3.0)",
        "eye_": "identity()",
        "dirac_(groups=2)": "dirac(groups=2)",
        "uniform_": "random_uniform(0.0, 1.0)",
        "normal_": "random_normal(0.0, 1.0)",
        "trunc_normal_": "bounded_normal()",
        "trunc_normal_(std=0.02)": "bounded_normal(stddev=0.02)",
        "xavier_uniform_(gain=1.5)": "glorot_uniform(gain=1.5)",
        "xavier_normal_(gain=1.5)": "variance_scaling(1.0, 'fan_avg', 'normal', gain=1.5)",
        "kaiming_uniform_(a=5**0.5)": "torch_kaiming_uniform(a=5**0.5)",
        "kaiming_uniform_(nonlinearity='tanh')": "torch_kaiming_uniform(nonlinearity='tanh')",
        "kaiming_normal_": "torch_kaiming_normal()",
        "kaiming_normal_(mode='fan_out', nonlinearity='relu')": (
            "torch_kaiming_normal(mode='fan_out', nonlinearity='relu')"
        ),
        "orthogonal_(gain=1.5)": "orthogonal(1.5)",
        "sparse_(sparsity=0.9)": "sparse(20, 0.01, axis=-1)",
        "Linear's default kernel": "torch_kaiming_uniform(a=5**0.5)",
        "Linear's default bias": "torch_bias(300)",
    },
    "Haiku": {
        "Constant(3.0)": "constant(3.0)",
        "Identity(2.0)": "identity(2.0)",
        "RandomNormal(stddev=0.2, mean=1.0)": "random_normal(1.0, 0.2)",
        "RandomUniform()": "random_uniform(0.0, 1.0)",
        "TruncatedNormal(stddev=0.2, mean=1.0, lower=-1.0, upper=3.0)": (
            "random_truncated_normal(1.0, 0.2, -1.0, 3.0)"
        ),
        "VarianceScaling(2.0, 'fan_avg', 'truncated_normal')": (
            "variance_scaling(2.0, 'fan_avg', 'truncated_normal')"
        ),
        "UniformScaling(2.0)": "lecun_uniform(gain=2.0)",
        "Orthogonal(1.5)": "orthogonal(1.5)",
    },
    "Equinox": {
        "Linear's default kernel": "lecun_uniform(gain=3**-0.5, in_axis=-1, out_axis=-2)",
        "Linear's default bias": "torch_bias(300)",
    },
    "timm": {
        "trunc_normal_(std=0.02)": "bounded_normal(stddev=0.02)",
        "trunc_normal_tf_(std=0.02)": "random_truncated_normal(stddev=0.02)",
        "lecun_normal_": "lecun_normal()",
        "variance_scaling_(scale=2.0)": "variance_scaling(2.0, 'fan_in', 'normal')",
        "init_weights_vit_moco of qkv": "glorot_uniform(fan_out_divisor=3)",
        "init_weights_vit_jax of an MLP's bias": "normal(1e-6)",
    },
    "PEFT": {
        "LoraConfig(r=200): A": "torch_kaiming_uniform(a=5**0.5)",
        "LoraConfig(r=200): B": "zeros",
        "LoraConfig(r=200, init_lora_weights='gaussian'): A": "normal(1 / 200)",
    },
}
PACKAGES = {
    "Flax": "flax",
    "Keras": "keras",
    "PyTorch": "torch",
    "Haiku": "dm-haiku",
    "Equinox": "equinox",
    "timm": "timm",
    "PEFT": "peft",
    "mup": "mup",
    "unit-scaling": "unit-scaling",
}
"""The names that `pip install` takes."""
IN, OUT = 300, 200


def flax_draws() -> list[np.ndarray]:
    import flax.linen as nn
    import jax

    key, init = jax.random.key(1), nn.initializers
    embed = nn.linear.default_embed_init
    return [np.asarray(f(key, (IN, OUT))) for f in (init.zeros_init(), init.ones_init(), embed)]


def keras_draws() -> list[np.ndarray]:
    os.environ["KERAS_BACKEND"] = "jax"
    import keras  # pyright: ignore[reportMissingImports]

    init = keras.initializers
    keras.utils.set_random_seed(1)
    made = [
        init.Zeros(),
        init.Ones(),
        init.Constant(3.0),
        init.Identity(2.0),
        init.RandomUniform(-0.1, 0.3),
        init.RandomNormal(1.0, 0.2),
        init.TruncatedNormal(1.0, 0.2),
        init.VarianceScaling(3.0, "fan_out", "normal"),
        init.VarianceScaling(3.0, "fan_in", "untruncated_normal"),
        init.VarianceScaling(3.0, "fan_avg", "uniform"),
        init.GlorotUniform(),
        init.GlorotNormal(),
        init.HeUniform(),
        init.HeNormal(),
        init.LecunUniform(),
        init.LecunNormal(),
        init.Orthogonal(1.5),
    ]
    draws = [np.asarray(initializer((IN, OUT))) for initializer in made]
    return [*draws, np.asarray(init.STFT("imag", "hann")((64, 1, 33)))]


def torch_draws() -> list[np.ndarray]:
    import torch  # pyright: ignore[reportMissingImports]

    torch.manual_seed(1)
    init = torch.nn.init
    linear = torch.nn.Linear(IN, 100 * OUT)

    def draw(fill: Callable, shape: tuple[int, ...] = (OUT, IN), **arguments) -> np.ndarray:
        return fill(torch.empty(shape), **arguments).numpy().T

    return [
        draw(init.zeros_),
        draw(init.ones_),
        draw(init.constant_, val=3.0),
        draw(init.eye_),
        draw(init.dirac_, (8, 4, 3), groups=2),
        draw(init.uniform_),
        draw(init.normal_),
        draw(init.trunc_normal_),
        draw(init.trunc_normal_, std=0.02),
        draw(init.xavier_uniform_, gain=1.5),
        draw(init.xavier_normal_, gain=1.5),
        draw(init.kaiming_uniform_, a=5**0.5),
        draw(init.kaiming_uniform_, nonlinearity="tanh"),
        draw(init.kaiming_normal_),
        draw(init.kaiming_normal_, mode="fan_out", nonlinearity="relu"),
        draw(init.orthogonal_, gain=1.5),
        draw(init.sparse_, sparsity=0.9),
        linear.weight.detach().numpy()[:OUT].T,
        linear.bias.detach().numpy(),
    ]


def haiku_draws() -> list[np.ndarray]:
    import haiku as hk  # pyright: ignore[reportMissingImports]
    import jax

    init = hk.initializers
    made = [
        lambda: init.Constant(3.0),
        lambda: init.Identity(2.0),
        lambda: init.RandomNormal(stddev=0.2, mean=1.0),
        lambda: init.RandomUniform(),
        lambda: init.TruncatedNormal(stddev=0.2, mean=1.0, lower=-1.0, upper=3.0),
        lambda: init.VarianceScaling(2.0, "fan_avg", "truncated_normal"),
        lambda: init.UniformScaling(2.0),
        lambda: init.Orthogonal(1.5),
    ]

    def draw(make: Callable) -> np.ndarray:
        transformed = hk.transform(lambda: make()((IN, OUT), np.float32))
        return np.asarray(transformed.apply({}, jax.random.key(1)))

    return [draw(make) for make in made]


def equinox_draws() -> list[np.ndarray]:
    import equinox
    import jax

    linear = equinox.nn.Linear(IN, 100 * OUT, key=jax.random.key(1))
    return [np.asarray(linear.weight)[:OUT], np.asarray(linear.bias)]


def timm_draws() -> list[np.ndarray]:
    import timm.layers as layers  # pyright: ignore[reportMissingImports]
    import timm.models.vision_transformer as vit  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    torch.manual_seed(1)

    def draw(fill: Callable, **arguments) -> np.ndarray:
        kernel = torch.empty(OUT, IN)
        fill(kernel, **arguments)
        return kernel.numpy().T

    qkv, mlp = torch.nn.Linear(IN, 3 * OUT), torch.nn.Linear(IN, 100 * OUT)
    vit.init_weights_vit_moco(qkv, "blocks.0.attn.qkv")
    vit.init_weights_vit_jax(mlp, "blocks.0.mlp.fc1")
    return [
        draw(layers.trunc_normal_, std=0.02),
        draw(layers.trunc_normal_tf_, std=0.02),
        draw(layers.lecun_normal_),
        draw(layers.variance_scaling_, scale=2.0),
        qkv.weight.detach().numpy().T,
        mlp.bias.detach().numpy(),
    ]


def peft_draws() -> list[np.ndarray]:
    import peft  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    torch.manual_seed(1)

    def adapter(**arguments) -> list[np.ndarray]:
        config = peft.LoraConfig(r=OUT, target_modules=["0"], **arguments)
        model = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(IN, OUT)), config)
        layer = model.base_model.model[0]
        factors = layer.lora_A["default"], layer.lora_B["default"]
        return [factor.weight.detach().numpy().T for factor in factors]

    return [*adapter(), adapter(init_lora_weights="gaussian")[0]]


DRAWS = {
    "Flax": flax_draws,
    "Keras": keras_draws,
    "PyTorch": torch_draws,
    "Haiku": haiku_draws,
    "Equinox": equinox_draws,
    "timm": timm_draws,
    "PEFT": peft_draws,
}


def agreement(theirs: np.ndarray, spec: str) -> str:
    """How well a draw agrees with ours: "equal", or the p value of a Kolmogorov-Smirnov test."""
    import jax
    import scipy.stats

    import initjax

    ours = np.asarray(initjax.parse(spec)(jax.random.key(0), theirs.shape))
    if np.allclose(theirs, ours, rtol=0, atol=1e-5 * np.abs(theirs).max()):
        return "equal"
    if "sparse" in spec:
        lines = [np.unique(np.count_nonzero(kernel, axis=-1)).tolist() for kernel in (theirs, ours)]
        assert lines[0] == lines[1], lines
        theirs, ours = theirs[theirs != 0], ours[ours != 0]
    if "orthogonal" in spec:
        squares = [np.linalg.svd(kernel)[1] for kernel in (theirs, ours)]
        np.testing.assert_allclose(*squares, rtol=1e-4)
    _, p = scipy.stats.ks_2samp(np.ravel(theirs), np.ravel(ours))
    return f"{p:.2g}"


def main() -> None:
    options = _results.parser(__doc__).parse_args()
    rows: list[tuple[str, ...]] = []
    left_out: dict[str, str] = {}
    for library, pairs in EQUIVALENTS.items():
        draws = None
        try:
            draws = DRAWS[library]()
        except ModuleNotFoundError as error:
            left_out[library] = f"{library} was not compared: {error}."
        for number, (there, here) in enumerate(pairs.items()):
            agrees = agreement(draws[number], here) if draws else "not compared"
            rows.append((library, f"`{there}`", f"`{here}`", agrees))
    widths: list[tuple[str, ...]] = []
    for library in _parametrizations.LIBRARIES:
        try:
            widths += _parametrizations.rows(library)
        except ModuleNotFoundError as error:
            left_out[library] = f"{library} was not compared: {error}."
    body = (
        "`p` is that of a two-sample Kolmogorov-Smirnov test between two draws of"
        f' {IN * OUT:,} numbers; "equal" means the same numbers. Kernels of PyTorch, Equinox,'
        " timm and PEFT are (out, in)."
        f"\n\n{_results.table(['library', 'there', 'here', 'p'], rows)}\n\n"
        f"## Parametrizations\n\n{_parametrizations.TEXT}\n\n"
        f"{_results.table(_parametrizations.HEADER, widths)}\n\n"
        f"{' '.join(left_out.values())}"
    )
    compared = [package for library, package in PACKAGES.items() if library not in left_out]
    packages = ["initjax", "jax", *compared]
    title = "Initializers of other libraries, and what to write here"
    _results.write("equivalents", title, body, packages, options.results)


if __name__ == "__main__":
    main()
