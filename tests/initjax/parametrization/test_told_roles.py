"""Roles that a user tells."""

import jax
import pytest

import initjax


def planned(base, shape, role):
    own, narrow = ({"weight": jax.ShapeDtypeStruct(size, "float32")} for size in (shape, base))
    (leaf,) = initjax.parametrize(own, narrow, roles={"weight": role}).leaves
    return leaf


@pytest.mark.parametrize(
    ("role", "base", "shape", "factors"),
    [
        ("output", (10, 64), (10, 256), (256, 4, 0.25, 0.25)),
        ("input", (64, 784), (256, 784), (784, 4, 1, 1)),
        ("hidden", (64, 64, 3, 3), (256, 256, 3, 3), (2304, 4, 0.5, 0.25)),
    ],
)
def test_a_told_role_reads_kernels_of_equinox_and_pytorch(role, base, shape, factors):
    leaf = planned(base, shape, role)
    assert (leaf.fan_in, leaf.ratio, leaf.stddev, leaf.learning_rate) == factors
