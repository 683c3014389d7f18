"""`--model=package.module:function`: made from what it asks for, and trained anew if it changes."""

import dataclasses
import itertools

import numpy as np
import pytest

import initjax
from experiments.common import comparison, data, grid_runs, run_audit, starting, sweep_directory
from experiments.common.config import Config, UsageError

CODE = """
from flax import nnx
import jax.numpy as jnp

class Net(nnx.Module):
    def __init__(self, image_shape, classes, hidden, rngs, activation=jnp.tanh):
        self.conv = nnx.Conv(image_shape[-1], 2, (3, 3), rngs=rngs)
        self.scale = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (2,)))
        self.output = nnx.Linear(2 * image_shape[0] * image_shape[1], classes, rngs=rngs)
        self.factor = FACTOR

    def __call__(self, x):
        x = self.factor * self.conv(x) * self.scale[...]
        return self.output(x.reshape(len(x), -1))

def plain(classes, rngs):
    return nnx.Sequential(lambda x: x.reshape(len(x), -1), nnx.Linear(16, classes, rngs=rngs))

def batch_norm(rngs): return nnx.BatchNorm(1, rngs=rngs)
def dropout(rngs): return nnx.Dropout(0.5, rngs=rngs)
def images(rngs): return nnx.Conv(1, 3, (3, 3), rngs=rngs)
def number(): return 3
def fails(): return 1 / 0
def needs(width): return width
class Nothing(nnx.Module):
    def __call__(self, x): return x.reshape(len(x), -1)[:, :2]
constant = 3
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a new module, and returns its name: what is imported stays as it is in a process."""
    monkeypatch.syspath_prepend(tmp_path)
    numbers = itertools.count()

    def write(code=CODE, factor=1.0):
        name = f"own_{tmp_path.name.replace('-', '_')}_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(code.replace("FACTOR", str(factor)))
        return name

    return write


def digits():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 4, 4, 1)).astype(np.uint8)
    labels = (images.mean(axis=(1, 2, 3)) > 127).astype(np.int32)
    return data.Dataset("dots", "here", "d", 2, images, labels, images[:20], labels[:20])


def test_its_kernels_and_biases_are_drawn_by_the_flags_and_the_rest_by_itself(write):
    config = Config(model=f"{write()}:Net", init="he_normal", output_init="zeros", seed=3)
    config = starting.pinned(config, digits())
    start = starting.start(config, digits())
    assert not start.params["output"]["kernel"].any() and not start.params["conv"]["bias"].any()
    key = initjax.named_key(starting.root_key(3), "weights")
    expected = initjax.he_normal()(initjax.named_key(key, "conv/kernel"), (3, 3, 1, 2))
    np.testing.assert_allclose(start.params["conv"]["kernel"], expected, rtol=1e-6)
    assert 0 < np.abs(start.params["scale"]).max() < 0.2
    other = starting.start(dataclasses.replace(config, seed=4), digits())
    assert (other.params["scale"] != start.params["scale"]).all()
    report = run_audit.auditor(config, start, digits())(start.params)
    assert {layer.name for layer in report.layers} >= {"conv/kernel", "output/kernel"}


def test_it_is_trained_in_a_sweep_and_anew_if_its_code_changes(write, tmp_path):
    dataset = digits()

    def train(module):
        configs = [
            Config(model=f"{module}:Net", seed=seed, init=init, steps=3, batch_size=20)
            for seed in range(2)
            for init in ("he_normal", "zeros")
        ]
        configs = grid_runs.pinned(configs, dataset)
        directory = str(tmp_path / "runs")
        trained, _ = grid_runs.train(configs, dataset, directory, None, lambda missing: [])
        return trained, configs[0]

    module = write()
    first, config = train(module)
    again, _ = train(module)
    assert (first, again) == (4, 0)
    # The flags name what was run.
    (flag,) = (flag for flag in config.arguments() if flag.startswith("--model="))
    assert flag == f"--model={config.model}" and "@sha256:" in flag
    assert starting.pinned(config, dataset) == config
    (setting,) = comparison.settings(sweep_directory.read(tmp_path / "runs"))
    assert setting.fields["model"] == f"{module}:Net"
    changed = starting.pinned(Config(model=f"{write(factor=2.0)}:Net"), dataset)
    assert changed.model.split("@")[1] != config.model.split("@")[1]
    same = starting.pinned(Config(model=f"{write()}:Net"), dataset)
    assert same.model.split("@")[1] == config.model.split("@")[1]
    wrong = dataclasses.replace(config, model=f"{module}:Net@sha256:0123456789ab")
    with pytest.raises(UsageError, match="has changed"):
        starting.pinned(wrong, dataset)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("absent", {}, "has no absent; it has Net, plain"),
        ("constant", {}, "constant is int, not a function"),
        ("batch_norm", {}, r"\(BatchStat\).*use nnx.LayerNorm"),
        ("dropout", {}, "leave dropout out"),
        ("images", {}, r"returned float32 \(2, 4, 4, 3\), expected logits of shape \(2, 2\)"),
        ("number", {}, "returned int, expected an nnx.Module"),
        ("fails", {}, "making the module failed in line .*ZeroDivisionError"),
        ("Nothing", {}, "no parameters to train"),
        ("needs", {}, "its argument width has no default"),
        ("plain", {"hidden": (3,)}, "--hidden=3: .*plain has no argument hidden"),
        ("plain", {"activation": "tanh"}, "has no argument activation"),
        ("plain", {"output_init": "zeros"}, "no layer called output"),
    ],
)
def test_what_does_not_fit_is_reported_in_one_line(write, name, fields, message):
    with pytest.raises(UsageError, match=message):
        starting.pinned(Config(model=f"{write()}:{name}", **fields), digits())


def test_a_module_that_cannot_be_imported_is_named(write):
    with pytest.raises(UsageError, match="there is no module no_such_module"):
        starting.pinned(Config(model="no_such_module.net:Net"), digits())
    with pytest.raises(
        UsageError, match=r"importing own_.* failed: ModuleNotFoundError: .*missing"
    ):
        starting.pinned(Config(model=f"{write('import missing_package')}:Net"), digits())
    with pytest.raises(UsageError, match=r"must be named as package\.module:function"):
        Config(model="my-net:Net")
