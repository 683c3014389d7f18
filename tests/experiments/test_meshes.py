"""Training on several devices equals training on one, up to the order of sums."""

import json
import os
import subprocess
import sys

import pytest

from experiments.common import meshes
from experiments.common.config import UsageError

# What runs on eight simulated devices: JAX has to be started with them, so in a process of its own.
# It prints how far each case is from the same on one device.
COMPARISON = """
import itertools, json, sys
import jax, numpy as np
from experiments.common import data, fitting, meshes, starting, tasks, training
from experiments.common.config import Config

mnist = data.load()
train_set = mnist.train_images[:600], mnist.train_labels[:600]
test_set = mnist.test_images[:300], mnist.test_labels[:300]

def fit(config, placement, **options):
    with starting.precision(config):
        start = starting.start(config, mnist, placement)
        epochs = fitting.fit(
            tasks.classification(start.model.apply), starting.optimizer(config, start.model),
            config.learning_rate, start.packed, starting.order_key(start.key), train_set, test_set,
            epochs=config.epochs, batch_size=config.batch_size, steps=config.steps,
            placement=placement, **options)
        return [epoch._replace(params=jax.device_get(epoch.params)) for epoch in epochs]

def distance(a, b):
    return max(float(np.abs(np.subtract(x, y, dtype=float)).max())
               for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

def first(epochs):
    return np.asarray(epochs[1].batch_metrics.loss[:3])

found = {}
for name, (fields, mesh, options) in json.loads(sys.argv[1]).items():
    fields["hidden"] = tuple(fields["hidden"])
    config = Config(**{"epochs": 1, **fields})
    placement = meshes.Placement(jax.make_mesh(
        tuple(mesh), meshes.Sizes._fields, (jax.sharding.AxisType.Auto,) * 2,
        devices=jax.devices()[:mesh[0] * mesh[1]]))
    paused = {"pause": lambda point: None} if options.get("pause") else {}
    one, many = fit(config, None), fit(config, placement, **paused)
    found[name] = {
        "drawn": distance(one[0].params, many[0].params),
        "first": distance(first(one), first(many)),
        "losses": distance(one[1].batch_metrics.loss, many[1].batch_metrics.loss),
        "last": distance(one[-1].metrics["val_acc"], many[-1].metrics["val_acc"]),
        "programs": training.train_span._cache_size(),
    }
    training.train_span.clear_cache()
print(json.dumps(found))
"""


def compare(cases):
    """Runs {name: (fields of the configuration, sizes of the mesh, options)}."""
    return run(COMPARISON, json.dumps(cases))


def run(script, *arguments):
    """What a script prints as JSON in its last line."""
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def check(found):
    """What was drawn is equal, what was trained up to rounding: 2e-7 in float32 when measured."""
    for name, distances in found.items():
        assert distances["drawn"] == 0, (name, distances)
        assert distances["first"] < 2e-6, (name, distances)
        assert distances["losses"] < 1e-4, (name, distances)
        assert distances["last"] <= 2 / 300, (name, distances)
        assert distances["programs"] == 1, (name, distances)


def test_training_on_a_mesh_equals_training_on_one_device():
    """A batch that no number of devices divides, a last one that is not full, and a stack."""
    check(compare({"all axes": ({"hidden": [32] * 5, "batch_size": 101}, (2, 4), {})}))


MLP = {"hidden": [32, 20]}
CASES = {f"{n} devices": (MLP, (n, 1), {}) for n in (1, 2, 4, 8)}
CASES |= {
    optimizer: ({**MLP, "optimizer": optimizer}, (2, 2), {})
    for optimizer in ("sgd", "momentum", "adam")
}
CASES |= {
    "partial batches": ({**MLP, "batch_size": 101}, (8, 1), {}),
    "steps": ({**MLP, "steps": 11}, (4, 1), {}),
    "pauses": ({**MLP, "epochs": 2}, (4, 1), {"pause": True}),
    "batch of all": ({**MLP, "batch_size": 10_000}, (8, 1), {}),
    "batch of 3": ({**MLP, "batch_size": 3, "steps": 20}, (8, 1), {}),
    "bfloat16": ({**MLP, "dtype": "bfloat16"}, (2, 4), {}),
    "float64": ({**MLP, "dtype": "float64"}, (2, 4), {}),
    "cnn": ({"model": "cnn", "hidden": [16] * 4, "init": "delta_orthogonal"}, (2, 4), {}),
    "transformer": ({"model": "transformer", "hidden": [16] * 4}, (2, 4), {}),
    "resnet": ({"model": "resnet", "hidden": [16] * 2}, (4, 2), {}),
    "mup": ({"hidden": [64, 64], "scheme": "mup", "base": [16, 16]}, (2, 4), {}),
    "orthogonal": ({"hidden": [32] * 5, "init": "orthogonal"}, (1, 8), {}),
    "nothing divides": ({"hidden": [9, 11]}, (1, 8), {}),
}


@pytest.mark.slow  # compiles the programs of each case
@pytest.mark.parametrize("name", CASES)
def test_whatever_is_trained_on_a_mesh_equals_one_device(name):
    check(compare({name: CASES[name]}))


# The bytes that a device needs to draw a network, by the number of devices along `model`.
MEMORY = """
import json
import jax
from experiments.common import data, meshes, starting
from experiments.common.config import Config

def needed(number):
    auto = (jax.sharding.AxisType.Auto,) * 2
    devices = jax.devices()[:number]
    mesh = jax.make_mesh((1, number), meshes.Sizes._fields, auto, devices=devices)
    config = Config(init="he_normal", hidden=(2048, 2048))
    model = starting.model(config, data.load())
    keys = starting._weight_keys(0, model)
    draw = starting.drawer(config, model, meshes.Placement(mesh))
    found = draw.lower(*keys).compile().memory_analysis()
    return found.output_size_in_bytes, found.temp_size_in_bytes

print(json.dumps([needed(1), needed(8)]))
"""


@pytest.mark.slow  # draws millions of numbers
def test_a_device_needs_memory_for_its_own_part_of_the_parameters_alone():
    (drawn, temporary), (own, own_temporary) = run(MEMORY)
    assert drawn > 4 * 2048 * 2048
    assert own < drawn / 7.9 and own_temporary < temporary / 6


@pytest.mark.parametrize(
    "text", ["", "data", "data:", "data:0", "rows:2", "data:-1", "data:2;model:2", "data:9999999"]
)
def test_a_mesh_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match=f"^--mesh={text}: expected NAME:SIZE, with the names"):
        meshes.parse(text)


def test_an_axis_is_given_once():
    with pytest.raises(UsageError, match="--mesh=data:2,data:4: data is given twice"):
        meshes.parse("data:2,data:4")


def test_the_mesh_has_all_devices():
    import jax

    number = jax.device_count() + 1
    with pytest.raises(
        UsageError, match=f"^--mesh=data:{number} is for {number} devices, but there "
    ):
        meshes.placement(meshes.Sizes(number))
    assert meshes.placement(None) is None
