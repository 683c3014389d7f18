"""PyTorch's initializers, where they differ from JAX's initializers of similar names."""

from __future__ import annotations

from typing import Any

import numpy as np

from initjax._drawing import draw_by_law
from initjax._laws import Law, uniform_law
from initjax._values import (
    Axes,
    checked_choice,
    checked_dtype,
    checked_number,
    checked_positive,
    factory,
    initializer,
    settle,
)
from initjax.scaling import Gain, named, variance_scaling
from initjax.theory.moments import torch_gain


@factory
def torch_kaiming_uniform(
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    gain: Gain | None = None,
    dtype: Any = None,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    fan_in_divisor: float = 1.0,
    fan_out_divisor: float = 1.0,
) -> variance_scaling:
    r"""Draws as PyTorch's `kaiming_uniform_` does: :math:`U[-g\sqrt{3/n}, g\sqrt{3/n})`.

    With `a = 5**0.5` it is PyTorch's default for the kernels of its layers, U(±1/√fan_in).

    Args:
      a: the slope of 'leaky_relu' below zero.
      mode: 'fan_in' or 'fan_out', which is `n`, of a kernel (*spatial, in, out), as in JAX.
      nonlinearity: a name in PyTorch's table; see `torch_gain`.
      gain: `g`, a number or an activation, instead of the value in the table.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.
      in_axis, out_axis, batch_axis, fan_in_divisor, fan_out_divisor: the meaning of the kernel's
        axes; see `initjax.fans`.

    Returns:
      An initializer.

    Raises:
      TypeError, ValueError: a is not a finite number, mode or nonlinearity isn't one of the above,
        the others as in `variance_scaling`.

    Example:
      >>> import jax
      >>> kernel = torch_kaiming_uniform(a=5**0.5)(jax.random.key(0), (400, 500))
      >>> bool(abs(kernel).max() <= 1 / 400**0.5)
      True

    Reference:
      `torch.nn.init.kaiming_uniform_`.
    """
    fans = in_axis, out_axis, batch_axis, fan_in_divisor, fan_out_divisor
    return _torch_kaiming("uniform", a, mode, nonlinearity, gain, fans, dtype)


@factory
def torch_kaiming_normal(
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    gain: Gain | None = None,
    dtype: Any = None,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    fan_in_divisor: float = 1.0,
    fan_out_divisor: float = 1.0,
) -> variance_scaling:
    r"""Draws as PyTorch's `kaiming_normal_` does: :math:`N(0, g^2/n)`, not truncated.

    Args:
      a: the slope of 'leaky_relu' below zero.
      mode: 'fan_in' or 'fan_out', which is `n`, of a kernel (*spatial, in, out), as in JAX.
      nonlinearity: a name in PyTorch's table; see `torch_gain`.
      gain: `g`, a number or an activation, instead of the value in the table.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.
      in_axis, out_axis, batch_axis, fan_in_divisor, fan_out_divisor: the meaning of the kernel's
        axes; see `initjax.fans`.

    Returns:
      An initializer.

    Raises:
      TypeError, ValueError: a is not a finite number, mode or nonlinearity isn't one of the above,
        the others as in `variance_scaling`.

    Example:
      >>> torch_kaiming_normal()
      variance_scaling(2.0, 'fan_in', 'normal')

    Reference:
      `torch.nn.init.kaiming_normal_`.
    """
    fans = in_axis, out_axis, batch_axis, fan_in_divisor, fan_out_divisor
    return _torch_kaiming("normal", a, mode, nonlinearity, gain, fans, dtype)


def _torch_kaiming(
    distribution: str, a: Any, mode: str, nonlinearity: str, gain: Any, fans: tuple, dtype: Any
) -> variance_scaling:
    owner = f"torch_kaiming_{distribution}"
    slope = checked_number(owner, "a", a)
    checked_choice(owner, "mode", mode, ("fan_in", "fan_out"))
    table = torch_gain(nonlinearity, slope)
    return named(owner, mode, distribution, table if gain is None else gain, fans, dtype)


@initializer
class torch_bias:
    r"""Draws a bias as PyTorch's layers do: :math:`U[-1/\sqrt{fan_{in}}, 1/\sqrt{fan_{in}})`.

    A bias's shape doesn't determine the fan_in of its layer, so it is an argument.

    Args:
      fan_in: the fan_in of the layer's kernel, above 0; see `compute_fans`.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Raises:
      TypeError, ValueError: fan_in is not a finite number above 0.

    Example:
      >>> import jax
      >>> float(abs(torch_bias(100)(jax.random.key(0), (50,))).max()) <= 0.1
      True

    Reference:
      `torch.nn.Linear.reset_parameters`.
    """

    fan_in: float
    dtype: Any = None

    def __post_init__(self) -> None:
        settle(
            self,
            fan_in=checked_positive("torch_bias", "fan_in", self.fan_in),
            dtype=checked_dtype("torch_bias", self.dtype, inexact=True),
        )

    __call__ = draw_by_law

    def _law(self, shape: tuple[int, ...], dtype: np.dtype) -> Law:
        limit = self.fan_in**-0.5
        return uniform_law(-limit, limit, dtype)
