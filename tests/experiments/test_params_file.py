"""A file of parameters: what does not fit is explained before anything is trained."""

import hashlib
import itertools
import os
import types
from typing import Any

import numpy as np
import pytest

from experiments.common import params_file, run_directory
from experiments.common.config import Config, UsageError


def tree(dtype: Any = np.float32, value=0.5):
    def layer(inputs, outputs):
        return {
            "kernel": np.full((inputs, outputs), value, dtype),
            "bias": np.zeros(outputs, dtype),
        }

    return {"hidden": {0: layer(6, 4), 1: layer(4, 3)}, "output": layer(3, 2)}


SHAPES = run_directory.nested(
    {
        name: types.SimpleNamespace(shape=leaf.shape, dtype=leaf.dtype)
        for name, leaf in run_directory.flatten(tree())
    }
)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "params.safetensors"
    run_directory.save_params(file, tree(), {"epoch": "1"})
    return str(file)


def test_what_was_saved_is_loaded_for_the_network_that_it_fits(path):
    loaded = params_file.load(Config(params=path, hidden=(4, 3)), SHAPES)
    for name, leaf in run_directory.flatten(tree()):
        np.testing.assert_array_equal(dict(run_directory.flatten(loaded))[name], leaf, strict=True)


def test_a_configuration_is_pinned_to_the_content_of_its_file(path):
    assert params_file.pinned(Config()) == Config()
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    pinned = params_file.pinned(Config(params=path))
    assert pinned.params == f"{path}@sha256:{digest[:12]}" and params_file.pinned(pinned) == pinned
    assert pinned.arguments()[:2] == [f"--params={pinned.params}", "--seed=0"]
    with open(path, "ab") as file:
        file.write(b" ")
    with pytest.raises(UsageError, match=f"has changed: its sha256 is .*, expected {digest[:12]};"):
        params_file.pinned(pinned)


@pytest.mark.parametrize("sizes", [(4,), (4, 3, 3), (), (4, 2), (5, 3)])
def test_the_file_of_another_network_is_refused_with_the_flag_that_fits(path, sizes):
    shapes = {"hidden": {}, "output": {}}
    widths = [6, *sizes, 2]
    for number, pair in enumerate(itertools.pairwise(widths)):
        place = (
            shapes["output"] if number == len(sizes) else shapes["hidden"].setdefault(number, {})
        )
        place["kernel"] = types.SimpleNamespace(shape=pair, dtype=np.float32)
        place["bias"] = types.SimpleNamespace(shape=pair[1:], dtype=np.float32)
    flag = f"--hidden={','.join(map(str, sizes))}"
    with pytest.raises(UsageError, match=f"does not fit: .*{flag}.*is for --hidden=4,3"):
        params_file.load(Config(params=path, hidden=sizes), shapes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda params: params["output"]["kernel"].fill(np.nan),
            "6 of the 6 numbers in output/ker",
        ),
        (lambda params: params["hidden"].update(none=np.ones(2, int)), "hidden/none is int64"),
    ],
)
def test_what_no_network_can_start_from_is_refused(tmp_path, change, message):
    params = tree()
    change(params)
    run_directory.save_params(tmp_path / "x", params, {})
    with pytest.raises(UsageError, match=message):
        params_file.pinned(Config(params=str(tmp_path / "x")))


def test_another_dtype_is_refused_with_the_flag_that_fits(tmp_path):
    run_directory.save_params(tmp_path / "x", tree(np.float64), {})
    with pytest.raises(
        UsageError, match=r"is float64, but --dtype=float32 .*; give --dtype=float64"
    ):
        params_file.load(Config(params=str(tmp_path / "x"), hidden=(4, 3)), SHAPES)


@pytest.mark.parametrize(
    ("content", "spec", "message"),
    [
        (None, "x", "--params=.*x cannot be read: No such file"),
        (None, ".", r"is a directory; name a file: .*params\.safetensors"),
        (None, "a" * 300, "cannot be read: File name too long"),
        (b"", "x", "is not a file of parameters .*expected a .safetensors file"),
        (b"\x93NUMPY" * 9, "x", "is not a file of parameters"),
        (b"\x02" + bytes(7) + b"{}", "x@sha256:nothex", "expected 6 to 64 hexadecimal digits"),
        (b"\x02" + bytes(7) + b"{}", "x@sha256:", "expected 6 to 64 hexadecimal digits"),
    ],
)
def test_what_is_no_file_of_parameters_is_refused(tmp_path, content, spec, message):
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        params_file.pinned(Config(params=str(tmp_path / spec)))


def test_a_pipe_is_refused_since_it_is_read_twice(tmp_path):
    os.mkfifo(tmp_path / "x")
    with pytest.raises(UsageError, match="is not a regular file"):
        params_file.pinned(Config(params=str(tmp_path / "x")))


def test_a_file_of_parameters_and_an_initializer_contradict_each_other():
    for name in ("init", "output_init", "bias_init"):
        with pytest.raises(UsageError, match=f"give either --params or --{name}"):
            Config(params="x", **{name: "ones"})  # pyright: ignore[reportArgumentType]


def test_a_file_of_parameters_makes_another_run_and_none_changes_no_key():
    assert Config(params="x").identity("d") != Config().identity("d")
    # Finished runs of sweeps are found again by this key.
    assert Config().identity("d").startswith("a526a35838b69f79")
