"""Fans of every kind of kernel."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from jax._src.nn.initializers import _compute_fans  # the reference

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
def test_fans_equal_jaxs(shape, in_axis, out_axis, batch_axis):
    arguments = (tuple(shape), in_axis, out_axis, batch_axis)
    # JAX changed the order of its divisions, so the last bit may differ.
    assert initjax.compute_fans(*arguments) == pytest.approx(_compute_fans(*arguments), rel=1e-14)


@pytest.mark.parametrize(("shape", "axes"), [((3,), {}), ((3, 4), {"out_axis": 2}), ((), {})])
def test_an_axis_outside_the_shape_is_named(shape, axes):
    with pytest.raises(ValueError, match=r"(in|out)_axis=-?\d is outside shape"):
        initjax.compute_fans(shape, **axes)


@pytest.mark.parametrize("fans", [initjax.conv_fans, initjax.conv_transpose_fans])
@pytest.mark.parametrize(
    ("strides", "divisor"), [(1, 1), ((2,), 2), ([2, 3], 6), ((np.int64(2), 2), 4), ((), 1)]
)
def test_strides_skip_positions(fans, strides, divisor):
    assert set(fans(strides=strides).values()) == {divisor}


@pytest.mark.parametrize("fans", [initjax.conv_fans, initjax.conv_transpose_fans])
@pytest.mark.parametrize(
    ("strides", "message"),
    [
        (2, r"strides must be 1 or a sequence with one per spatial axis, such as \(2, 2\), got 2"),
        (np.int64(3), "strides must be 1 or a sequence with one per spatial axis, .* got np.int64"),
        (None, "strides must be 1 or a sequence with one per spatial axis, .* got None"),
        ("22", "strides must be 1 or a sequence with one per spatial axis, .* got '22'"),
        (1.0, "strides must be 1 or a sequence with one per spatial axis, .* got 1.0"),
        ((2, 0), "strides must be a finite number >= 1, got 0"),
        ((2, 1.5), "strides must be an integer, got 1.5"),
    ],
)
def test_strides_that_could_mean_two_things_are_refused(fans, strides, message):
    """Flax applies a stride of 2 to every spatial axis, but their number isn't known here."""
    with pytest.raises((TypeError, ValueError), match=f"^{fans.__name__}: {message}"):
        fans(strides=strides)


def test_numpy_integers_are_valid_axes():
    axes = {"in_axis": np.int64(0), "out_axis": (np.int32(1),)}
    assert initjax.compute_fans((3, 4), **axes) == (3, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fan_in_divisor": 0}, "compute_fans: fan_in_divisor must be above 0, got 0"),
        ({"fan_out_divisor": -1}, "compute_fans: fan_out_divisor must be a finite number >= 0"),
        ({"in_axis": 0.5}, "compute_fans: in_axis must be an axis"),
        ({"batch_axis": None}, "compute_fans: batch_axis must be an axis"),
    ],
)
def test_a_wrong_argument_is_refused(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        initjax.compute_fans((3, 4), **arguments)
