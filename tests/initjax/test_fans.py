"""Fans of every kind of kernel."""

import hypothesis
import hypothesis.strategies as st
import pytest
from jax._src.nn.initializers import _compute_fans  # the meaning that is followed

import initjax


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((784, 128), {}, (784, 128)),
        ((3, 3, 16, 32), {}, (144, 288)),
        ((5, 16, 32), {}, (80, 160)),
        ((128, 8, 16), {"in_axis": 0, "out_axis": (1, 2)}, (128, 128)),
        ((8, 30, 20), {"batch_axis": 0}, (30, 20)),
        ((64,), {"in_axis": 0, "out_axis": ()}, (64, 1)),
        ((100, 64), {"out_axis": 0}, (64, 64)),  # Flax's Embed, which names axis 0 twice
        ((0, 3), {}, (0, 0)),
    ],
)
def test_fans(shape, axes, expected):
    assert initjax.compute_fans(shape, **axes) == pytest.approx(expected)


@hypothesis.given(
    st.lists(st.integers(1, 50), min_size=2, max_size=5),
    st.integers(-2, 1),
    st.integers(-2, 1),
    st.sampled_from([(), 0, (0,), (0, 1)]),
)
def test_fans_are_those_of_jax(shape, in_axis, out_axis, batch_axis):
    arguments = (tuple(shape), in_axis, out_axis, batch_axis)
    # JAX has changed the order of its divisions, by which the last bit may differ.
    assert initjax.compute_fans(*arguments) == pytest.approx(_compute_fans(*arguments), rel=1e-14)


@pytest.mark.parametrize(("shape", "axes"), [((3,), {}), ((3, 4), {"out_axis": 2}), ((), {})])
def test_an_axis_outside_the_shape_is_named(shape, axes):
    with pytest.raises(ValueError, match=r"(in|out)_axis=-?\d is outside shape"):
        initjax.compute_fans(shape, **axes)
