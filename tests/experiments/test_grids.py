"""Lazy grids: the same as all combinations, made one by one."""

import itertools

import pytest

from experiments.common import grids, shards
from experiments.common.config import Config, UsageError

AXES = {"seed": range(3), "hidden": [(8,), (8, 8)], "learning_rate": [0.1, 0.01]}


def grid(**changes):
    axes = AXES | changes
    return grids.Grid({"epochs": 2}, [grids.axis(name, axes[name]) for name in axes])


def test_a_grid_has_all_combinations_in_the_order_of_their_product():
    expected = [
        Config(epochs=2, seed=seed, hidden=hidden, learning_rate=rate)
        for seed, hidden, rate in itertools.product(*AXES.values())
    ]
    found = grid()
    assert list(found) == expected and len(found) == 12
    assert found[1:3] == expected[1:3]
    with pytest.raises(IndexError):
        found[12]


def test_only_the_part_that_is_asked_for_is_made(monkeypatch):
    made, check = [], Config.__post_init__
    monkeypatch.setattr(Config, "__post_init__", lambda one: (check(one), made.append(one)))
    large = grid(seed=range(50_000))
    part = shards.Shard(7, 1000).part(large)
    assert len(part) == 200
    assert len(made) == 200 + 4  # and each setting once, to report wrong values at once


def test_a_wrong_value_is_reported_whatever_part_it_belongs_to():
    with pytest.raises(UsageError, match="learning_rate=-1: must be"):
        grid(learning_rate=[0.1, 0.2, -1])


def test_the_label_of_a_shard_tells_apart_grids_and_parts():
    digests = {
        grid().digest,
        grid(seed=range(4)).digest,
        grid(learning_rate=[0.01, 0.1]).digest,  # other parts
    }
    assert len(digests) == 3
    one, other = (grids.Grid({"data_dir": path}, grid().axes) for path in ("a", "b"))
    assert one.digest == other.digest != grid().digest
    assert shards.Shard(3, 12).label(grid().digest) == f"{grid().digest[:8]}-03of12"
    assert shards.WHOLE.label(grid().digest) == ""
