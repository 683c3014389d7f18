"""Checkpoints: every bit comes back, and no damage is taken for a state."""

import os
import socket
import subprocess
import sys

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from experiments.common import checkpoints, fitting, sharded_checkpoints, training
from experiments.common.tasks import Metrics

NO_SUMS = Metrics(np.zeros(0), np.zeros(0))


def words(state):
    """The leaves as NumPy arrays, keys as their words."""
    return [
        np.asarray(jax.random.key_data(leaf) if leaf.dtype.name.startswith("key") else leaf)
        for leaf in jax.tree.leaves(state)
    ]


def load(path, like, run):
    found = checkpoints.read(path, run)
    return found._replace(point=found.point._replace(state=checkpoints.state(path, like)))


def checkpoint(params, steps=11, opt_state=(), sums=NO_SUMS, epochs=()):
    point = fitting.Point(training.State(params, opt_state), 2, len(sums.loss), sums)
    return checkpoints.Checkpoint(point, steps, epochs, 1.5)


def test_every_kind_of_leaf_is_restored_bit_for_bit(tmp_path):
    with jax.enable_x64(True):
        params = {
            "hidden": {0: jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3), 10: jnp.float64(1 / 3)},
            "key": jax.random.key(3),
            "keys": jax.random.split(jax.random.key(1, impl="rbg"), 4),
            "odd": (jnp.array([jnp.nan, jnp.inf, -0.0]), jnp.zeros((0, 4), jnp.int8)),
            "flags": jnp.array([True, False]),
            "half": jnp.float16(0.1),
        }
        opt_state = (optax.EmptyState(), optax.adam(1e-3).init(jnp.ones(3)), jnp.int32(7))
        sums = Metrics(np.array([0.1, np.nan, np.inf]), np.array([1.0, 2, 3]))
        epochs = [fitting.Epoch(0, {"val_loss": np.inf, "val_acc": 0.1}, None, None, 0.25)]
        saved = checkpoint(params, 11, opt_state, sums, epochs)
        path = checkpoints.save(tmp_path, saved, "run")
        like = checkpoints.described(saved.point.state)
        loaded = load(path, like, "run")
    assert jax.tree.structure(loaded.point.state) == jax.tree.structure(saved.point.state)
    for leaf, expected in zip(
        jax.tree.leaves(loaded.point.state), jax.tree.leaves(saved.point.state), strict=True
    ):
        assert leaf.dtype == expected.dtype and leaf.sharding == expected.sharding
    for leaf, expected in zip(words(loaded.point.state), words(saved.point.state), strict=True):
        np.testing.assert_array_equal(leaf, expected, strict=True)
    assert loaded.point[1:3] == (2, 3) and loaded[1:] == saved[1:]
    for column, expected in zip(loaded.point.sums, sums, strict=True):
        np.testing.assert_array_equal(column, expected, strict=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small checkpoint: (its path, its content, the description of its state)."""
    saved = checkpoint({"w": jnp.arange(3.0)})
    path = checkpoints.save(tmp_path_factory.mktemp("small"), saved, "run")
    return path, path.read_bytes(), checkpoints.described(saved.point.state)


@hypothesis.given(data=st.data())
def test_no_damage_is_taken_for_a_checkpoint(small, data):
    path, content, like = small
    place = data.draw(st.integers(0, 8 * len(content) - 1))
    damaged = bytearray(content)
    if data.draw(st.booleans()):
        damaged[place // 8] ^= 1 << place % 8
    else:
        del damaged[place // 8 :]
    path.write_bytes(damaged)
    with pytest.raises(checkpoints.Unusable, match="it is damaged"):
        load(path, like, "run")
    path.write_bytes(content)
    assert load(path, like, "run").steps == 11


def test_what_is_no_checkpoint_of_this_run_says_so(tmp_path, monkeypatch):
    saved = checkpoint({"w": jnp.arange(3.0)})
    like = checkpoints.described(saved.point.state)

    def refused(path, message, run="run"):
        with pytest.raises(checkpoints.Unusable, match=message):
            load(path, like, run)

    refused(checkpoints.save(tmp_path, saved, "other"), "it is of another run")
    wider = checkpoint({"w": jnp.arange(4.0)})
    message = r"another network: .*\['w'\] is float32\[4\], not float32\[3\]"
    refused(checkpoints.save(tmp_path, wider, "run"), message)
    more = checkpoint({"w": jnp.arange(3.0), "b": jnp.ones(1)})
    refused(checkpoints.save(tmp_path, more, "run"), r"\['b'\] is float32\[1\], not absent")
    content = b"no tensors"
    named = f"1-{checkpoints._digest(content)}.safetensors"
    (tmp_path / named).write_bytes(content)
    refused(tmp_path / named, "it isn't a checkpoint")
    (tmp_path / "model.safetensors").write_bytes(content)
    refused(tmp_path / "model.safetensors", "it isn't named as a checkpoint is")
    (tmp_path / "2-0123456789abcdef.safetensors").mkdir()
    refused(tmp_path / "2-0123456789abcdef.safetensors", "it can't be read")
    monkeypatch.setattr(checkpoints, "FORMAT", "initjax checkpoint 0")
    old = checkpoints.save(tmp_path, saved, "run")
    monkeypatch.undo()
    refused(old, "its format is initjax checkpoint 0, not initjax checkpoint 1")


def test_earlier_checkpoints_are_removed_but_the_last_and_those_of_later_steps(tmp_path):
    paths = [checkpoints.save(tmp_path, checkpoint({}, 9), "run")]
    for steps in (1, 2, 3):
        paths.append(checkpoints.save(tmp_path, checkpoint({}, steps), "run", [paths[-1]]))
    (tmp_path / ".000000001-0.tmp").touch()
    assert checkpoints.names(tmp_path) == [paths[0], paths[3], paths[2]]
    checkpoints.save(tmp_path, checkpoint({}, 4), "run", [paths[3]], bad=[paths[0]])
    assert [path.name[:9] for path in checkpoints.names(tmp_path)] == ["000000004", "000000003"]


# Saves and restores a state on a mesh of all devices, in one process or in several.
SHARDED = """
import os, pathlib, sys
import jax
rank, number, address, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
if number > 1:
    jax.distributed.initialize(address, number, rank)
import jax.numpy as jnp, numpy as np, optax
from jax.sharding import NamedSharding, PartitionSpec as P
from experiments.common import checkpoints, fitting, sharded_checkpoints, training
from experiments.common.tasks import Metrics

def load(path, like, run):
    found = checkpoints.read(path, run)
    return found._replace(point=found.point._replace(state=checkpoints.state(path, like)))

devices = np.array(jax.devices()).reshape(2, -1)

def on(mesh, columns):
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(None, columns))
    def put(array, sharding):
        return jax.make_array_from_callback(array.shape, sharding, lambda i: array[i])
    weights = np.arange(32, dtype=np.float32).reshape(4, 8) / 3
    state = training.State(
        {"w": put(weights, split), "b": put(weights[0].astype(jnp.bfloat16), whole)},
        (optax.EmptyState(), put(np.int32(5), whole), put(weights + 1, split)),
    )
    return state

def same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype and a.sharding == b.sharding, (a.sharding, b.sharding)
        for mine, theirs in zip(a.addressable_shards, b.addressable_shards, strict=True):
            np.testing.assert_array_equal(mine.data, theirs.data)

mesh = jax.sharding.Mesh(devices, ("data", "model"))
state = on(mesh, "model")
folder = pathlib.Path(folder)
for steps in (7, 8):
    sums = Metrics(np.array([0.5, np.nan]), np.array([1.0, 2.0]))
    point = fitting.Point(state, 2, 2, sums)
    saved = checkpoints.Checkpoint(point, steps, [], 1.0)
    checkpoints.save(folder, saved, "run", [])
path = checkpoints.names(folder)[0]  # the first process may still remove the other
loaded = load(path, checkpoints.described(state), "run")
same(loaded.point.state, state)
assert loaded.steps == 8 and loaded.point.sums.correct.tolist() == [1, 2]
other = on(jax.sharding.Mesh(devices.T, ("data", "model")), "data")
same(load(path, checkpoints.described(other), "run").point.state, other)
if number == 1:
    one = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf), jax.devices()[0]), state)
    same(load(path, checkpoints.described(one), "run").point.state, one)
    files = [file for file in path.rglob("*") if file.is_file()]
    for file in files:
        content = file.read_bytes()
        if content:
            for damaged in (content[:-1], bytes([content[0] ^ 1]) + content[1:]):
                file.write_bytes(damaged)
                try:
                    load(path, checkpoints.described(state), "run")
                except checkpoints.Unusable as error:
                    assert "it is damaged" in str(error)
                else:
                    raise AssertionError(file)
            file.write_bytes(content)
    (path / "state" / "manifest.ocdbt").unlink()  # as if it couldn't be read after all
    try:
        checkpoints.state(path, checkpoints.described(state))
    except checkpoints.Unusable as error:
        assert str(error).startswith("Orbax can't read it ("), error
    else:
        raise AssertionError(path)
print("done", len(jax.devices()), jax.process_count())
"""


def sharded(folder, number, devices):
    """Runs that code in so many processes, each with so many devices."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    env = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COORDINATOR_BIND_ADDRESS": address,
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SHARDED, str(rank), str(number), address, folder],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(number)
    ]  # fmt: skip
    try:
        results = [(*process.communicate(timeout=300), process.returncode) for process in processes]
    finally:  # one that fails leaves the others waiting
        for process in processes:
            process.kill()
            process.communicate()
    assert all(code == 0 for *_, code in results), results
    return [output.splitlines()[-1] for output, *_ in results]  # after what Gloo prints


def test_a_state_on_a_mesh_is_restored_on_this_and_on_other_meshes_and_damage_is_noticed(tmp_path):
    assert sharded(tmp_path, 1, 4) == ["done 4 1"]


def test_several_processes_save_and_restore_one_state_together(tmp_path):
    assert sharded(tmp_path, 2, 2) == ["done 4 2"] * 2
    assert [path.suffix for path in tmp_path.iterdir()] == [".orbax"]


def test_a_sharded_checkpoint_that_was_cut_short_is_hidden(tmp_path):
    """It may be of a process that was killed, or of one that still writes it: it stays."""
    hidden = tmp_path / ".000000008.0123456789abcdef.tmp"
    (hidden / "state").mkdir(parents=True)
    assert checkpoints.names(tmp_path) == []
    state = {"w": jnp.ones(3)}
    path = sharded_checkpoints.save(tmp_path, "000000008", state, b"record")
    assert checkpoints.names(tmp_path) == [path] and {*tmp_path.iterdir()} == {path, hidden}
    assert (path / sharded_checkpoints.RECORD).read_bytes() == b"record"
