"""`fan_in` and `fan_out`: how many inputs a unit sums, and how many outputs an input feeds.

Axis arguments, here and in all of initjax, follow `jax.nn.initializers`: `in_axis` and `out_axis`
name the axes of the kernel that hold its input and output features; `batch_axis` names axes along
which independent kernels are stacked. Each is an int or a sequence of ints whose sizes are
multiplied; negative ones count from the end. All other axes are spatial: they form the receptive
field of a convolution and count in both fans.

Some layers sum fewer products than the kernel's shape suggests: a transposed convolution with
strides, or a stack of kernels that Flax flattens before it calls the initializer. Correct for that
with `fan_in_divisor` and `fan_out_divisor`. The functions below give these arguments for common
layers; `compute_fans` and every initializer with fans accept them:

    kernel_init = he_normal(**conv_transpose_fans(strides=(2, 2)))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from initjax._values import Axes, checked_axes, checked_integer, checked_positive, shown


def compute_fans(
    shape: Sequence[int],
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    fan_in_divisor: float = 1.0,
    fan_out_divisor: float = 1.0,
) -> tuple[float, float]:
    r"""Computes the effective number of inputs and outputs of a kernel.

    With :math:`r` the product of the spatial axes, :math:`fan_{in} = in \cdot r` and
    :math:`fan_{out} = out \cdot r`, each divided by its divisor. `in_axis` and `out_axis` may name
    the same axis, as Flax's `Embed` does; its size is then divided out twice, as in JAX.

    Args:
      shape: the shape of the kernel, `(..., in, out)` by default.
      in_axis: axis or axes of the input features.
      out_axis: axis or axes of the output features.
      batch_axis: axis or axes along which kernels are stacked.
      fan_in_divisor: the factor by which the shape overstates the number of inputs.
      fan_out_divisor: the factor by which the shape overstates the number of outputs.

    Returns:
      `(fan_in, fan_out)` as floats; both 0.0 for an empty shape.

    Raises:
      TypeError, ValueError: an axis is not an int or a sequence of ints, or outside the shape, as
        the default `in_axis` is for a bias; a divisor is not a finite number above 0.

    Example:
      >>> compute_fans((784, 128))
      (784.0, 128.0)
      >>> compute_fans((3, 3, 16, 32))
      (144.0, 288.0)
      >>> compute_fans((3, 3, 1, 64), **conv_fans(groups=64))
      (9.0, 9.0)

    Reference:
      `jax.nn.initializers.variance_scaling`, which defines fans the same way.
    """
    shape = tuple(int(size) for size in shape)
    arguments = in_axis, out_axis, batch_axis, fan_in_divisor, fan_out_divisor
    return _fans("compute_fans", shape, checked_fans("compute_fans", *arguments))


def _fans(owner: str, shape: tuple[int, ...], fans: dict[str, Any]) -> tuple[float, float]:
    inputs, outputs, batch = (
        _size(owner, shape, fans[name], name) for name in ("in_axis", "out_axis", "batch_axis")
    )
    if 0 in shape:
        return 0.0, 0.0
    receptive_field = math.prod(shape) / (inputs * outputs * batch)
    return (
        inputs * receptive_field / fans["fan_in_divisor"],
        outputs * receptive_field / fans["fan_out_divisor"],
    )


def conv_fans(groups: int = 1, strides: int | Sequence[int] = 1) -> dict[str, Any]:
    """Fan arguments for a convolution of any rank: an input feeds its own group only.

    A depthwise convolution has as many groups as input features. The kernel has Flax's layout,
    `(*spatial, in / groups, out)`. Its fan_in needs no correction; its fan_out is too large by
    `groups` times the product of the strides. Flax's `ConvLocal` has one kernel for each output
    position, `(*positions, taps * in, out)`. It needs only the axes of the positions:
    `batch_axis=(0, 1)` in two dimensions.

    Args:
      groups: the number of groups (`feature_group_count` in Flax).
      strides: the strides, one for each spatial axis; 1 means no strides.

    Returns:
      Keyword arguments for `compute_fans` and every initializer with fans.

    Raises:
      TypeError, ValueError: groups or a stride is not an integer above 0, or strides is a single
        number other than 1.

    Example:
      >>> compute_fans((3, 3, 8, 64), **conv_fans(groups=4))
      (72.0, 144.0)
      >>> compute_fans((4, 4, 8, 64), **conv_fans(strides=(2, 2)))
      (128.0, 256.0)
    """
    groups = checked_integer("conv_fans", "groups", groups, 1)
    return {"fan_out_divisor": float(groups * _product("conv_fans", strides))}


def conv_transpose_fans(
    strides: int | Sequence[int] = 1, transpose_kernel: bool = False
) -> dict[str, Any]:
    """Fan arguments for a transposed convolution: each output sees one tap in `strides`.

    Args:
      strides: the strides, one for each spatial axis; 1 means no strides.
      transpose_kernel: whether the kernel is laid out as `(*spatial, out, in)`, as Flax's
        `ConvTranspose(transpose_kernel=True)` has it.

    Returns:
      Keyword arguments for `compute_fans` and every initializer with fans.

    Raises:
      TypeError, ValueError: a stride is not an integer above 0, or strides is a single number other
        than 1.

    Example:
      >>> compute_fans((4, 4, 64, 32), **conv_transpose_fans(strides=(2, 2)))
      (256.0, 512.0)
    """
    axes = {"in_axis": -1, "out_axis": -2} if transpose_kernel else {}
    return {**axes, "fan_in_divisor": float(_product("conv_transpose_fans", strides))}


def einsum_fans(equation: str) -> dict[str, Any]:
    """Fan arguments for the kernel of a Flax `Einsum`, the second operand of its equation.

    Axes that the kernel shares with the input only are inputs. Axes that it shares with the output
    only are outputs. Axes that all three share are batch axes.

    Args:
      equation: as for `jax.numpy.einsum`, with two operands and an output, `"btd,dnh->btnh"`.

    Returns:
      Keyword arguments for `compute_fans` and every initializer with fans.

    Raises:
      ValueError: the equation has another form, the kernel has "..." or a repeated axis, or the
        equation sums an axis of the input that the kernel lacks, whose size isn't known here.

    Example:
      >>> compute_fans((512, 8, 64), **einsum_fans("btd,dnh->btnh"))
      (512.0, 512.0)
    """
    operands, arrow, output = str(equation).replace(" ", "").partition("->")
    inputs, comma, kernel = operands.partition(",")
    letters = kernel.isalpha() and len(set(kernel)) == len(kernel)
    if not (arrow and comma and letters) or not set(output) <= set(operands):
        raise ValueError(
            "einsum_fans: the equation must have two operands and an output, the kernel second and"
            f" its axes as different letters, as in 'btd,dnh->btnh'; got {equation!r}"
        )
    lost = sorted(set(inputs) - set(kernel) - set(output) - {"."})
    if lost:
        raise ValueError(
            f"einsum_fans: {equation!r} sums the input's axis {lost[0]!r}, which the kernel lacks:"
            " its size multiplies the inputs; pass fan_in_divisor = 1 / size"
        )
    batch = set(kernel) & set(inputs) & set(output)
    outputs = (set(kernel) & set(output)) - batch
    axes = {name: [] for name in ("in_axis", "out_axis", "batch_axis")}
    for axis, letter in enumerate(kernel):
        kind = "batch_axis" if letter in batch else "out_axis" if letter in outputs else "in_axis"
        axes[kind].append(axis)
    return {name: tuple(positions) for name, positions in axes.items()}


def stacked_fans(size: int) -> dict[str, Any]:
    """Fan arguments for a stack of kernels whose batch axes Flax flattens into the inputs.

    Linen's `DenseGeneral(batch_dims=...)` and NNX's `LinearGeneral(batch_axis=...)` give an
    initializer the shape `(batch * in, out)`, so there is no batch axis left to name.

    Args:
      size: the number of kernels, the product of the sizes of the batch axes.

    Returns:
      Keyword arguments for `compute_fans` and every initializer with fans.

    Raises:
      TypeError, ValueError: size is not an integer above 0.

    Example:
      >>> compute_fans((8 * 64, 32), **stacked_fans(8))
      (64.0, 32.0)
    """
    return {"fan_in_divisor": float(checked_integer("stacked_fans", "size", size, 1))}


def packed_fans(count: int) -> dict[str, Any]:
    """Fan arguments for kernels concatenated into one, as query, key and value often are (count=3).

    Args:
      count: how many kernels share the output axis.

    Returns:
      Keyword arguments for `compute_fans` and every initializer with fans.

    Raises:
      TypeError, ValueError: count is not an integer above 0.

    Example:
      >>> compute_fans((512, 3 * 512), **packed_fans(3))
      (512.0, 512.0)
    """
    return {"fan_out_divisor": float(checked_integer("packed_fans", "count", count, 1))}


def embedding_fans() -> dict[str, Any]:
    """Fan arguments for an embedding table `(num_embeddings, features)`.

    A lookup sums nothing, so fan_in is 1. (Flax's own default counts the features instead, which
    suits a table that is also the output layer; for that, use `out_axis=0`, as in Flax.)

    Returns:
      Keyword arguments for `compute_fans` and every initializer with fans.

    Example:
      >>> compute_fans((50_000, 512), **embedding_fans())
      (1.0, 512.0)
    """
    return {"in_axis": (), "out_axis": -1, "batch_axis": 0}


def checked_fans(
    owner: str,
    in_axis: Axes,
    out_axis: Axes,
    batch_axis: Axes,
    fan_in_divisor: float,
    fan_out_divisor: float,
) -> dict[str, Any]:
    """The checked arguments of `compute_fans`, by name."""
    return {
        "in_axis": checked_axes(owner, "in_axis", in_axis),
        "out_axis": checked_axes(owner, "out_axis", out_axis),
        "batch_axis": checked_axes(owner, "batch_axis", batch_axis),
        "fan_in_divisor": checked_positive(owner, "fan_in_divisor", fan_in_divisor),
        "fan_out_divisor": checked_positive(owner, "fan_out_divisor", fan_out_divisor),
    }


def fans_arguments(initializer: Any) -> dict[str, Any]:
    """The arguments of `compute_fans` by name, as an initializer has them."""
    return {
        name: getattr(initializer, name)
        for name in ("in_axis", "out_axis", "batch_axis", "fan_in_divisor", "fan_out_divisor")
    }


def fans_of(initializer: Any, shape: Sequence[int]) -> tuple[float, float]:
    """The fans of a kernel by an initializer that has the arguments of `compute_fans`."""
    return _fans(shown(initializer), tuple(shape), fans_arguments(initializer))


def _product(owner: str, strides: int | Sequence[int]) -> int:
    """The product of the strides."""
    if isinstance(strides, Sequence) and not isinstance(strides, str):
        return math.prod(checked_integer(owner, "strides", stride, 1) for stride in strides)
    if isinstance(strides, Integral) and strides == 1:
        return 1
    # Flax applies a single stride to every spatial axis, but their number isn't known here.
    raise ValueError(
        f"{owner}: strides must be 1 or a sequence with one per spatial axis, such as (2, 2), got"
        f" {strides!r}"
    )


def _size(owner: str, shape: tuple[int, ...], axes: Axes, name: str) -> int:
    try:
        return math.prod(shape[axis] for axis in ([axes] if isinstance(axes, int) else axes))
    except IndexError:
        begin = hint = ""
        if len(shape) < 2 and axes == -2:
            begin = (  # JAX's sentence first, since code may look for it
                f"Can't compute input and output sizes of a {len(shape)}-dimensional weights tensor"
                " with default in_axis. Must be at least 2D or specify in_axis explicitly. "
            )
        if len(shape) == 1:
            hint = " (for a bias use zeros or torch_bias(fan_in), or set in_axis)"
        raise ValueError(
            f"{begin}{name}={axes} is outside shape {shape}: {owner} needs a kernel with at least"
            f" an input and an output axis{hint}"
        ) from None
