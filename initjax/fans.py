"""What `fan_in` and `fan_out` are: how many inputs a unit sums, how many outputs an input feeds.

Axis arguments, here and in all of initjax, follow `jax.nn.initializers`: `in_axis` and `out_axis`
name the axes of the kernel that hold its input and output features, `batch_axis` those along which
kernels of their own are stacked. Each is an int or a sequence of ints whose sizes are multiplied;
negative ones count from the end. Every axis that is not named is spatial: it is the receptive
field of a convolution and counts in both fans.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from initjax._values import Axes


def compute_fans(
    shape: Sequence[int], in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = ()
) -> tuple[float, float]:
    r"""Computes the effective numbers of inputs and outputs of a kernel.

    With :math:`r` the product of the spatial axes, :math:`fan_{in} = in \cdot r` and
    :math:`fan_{out} = out \cdot r`. `in_axis` and `out_axis` may name the same axis, as Flax's
    `Embed` does; its size then divides twice, as in JAX.

    Args:
      shape: the shape of the kernel, `(..., in, out)` by default.
      in_axis: axis or axes of the input features.
      out_axis: axis or axes of the output features.
      batch_axis: axis or axes along which kernels are stacked.

    Returns:
      `(fan_in, fan_out)` as floats; both 0.0 for a shape without elements.

    Raises:
      ValueError: an axis is outside the shape, as the default `in_axis` is for a bias.

    Example:
      >>> compute_fans((784, 128))
      (784.0, 128.0)
      >>> compute_fans((3, 3, 16, 32))
      (144.0, 288.0)

    Reference:
      `jax.nn.initializers.variance_scaling`, whose meaning this follows.
    """
    shape = tuple(shape)
    inputs, outputs, batch = (
        _size(shape, axes, name)
        for name, axes in (("in_axis", in_axis), ("out_axis", out_axis), ("batch_axis", batch_axis))
    )
    if 0 in shape:
        return 0.0, 0.0
    receptive_field = math.prod(shape) / (inputs * outputs * batch)
    return inputs * receptive_field, outputs * receptive_field


def _size(shape: tuple[int, ...], axes: Axes, name: str) -> int:
    try:
        return math.prod(shape[axis] for axis in ([axes] if isinstance(axes, int) else axes))
    except IndexError:
        hint = " (for a bias use zeros, or name its in_axis)" if len(shape) == 1 else ""
        raise ValueError(
            f"{name}={axes} is outside shape {shape}: the fans of a kernel need at least its input"
            f" and output axes{hint}"
        ) from None
