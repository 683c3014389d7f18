"""Initializers and rules of recent language models and vision transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from initjax._drawing import draw_by_law, draw_dtypes
from initjax._fitting import check_drawn
from initjax._laws import Law, normal_center, normal_law
from initjax._values import (
    Axes,
    Initializer,
    called_as,
    checked_axes,
    checked_dtype,
    checked_integer,
    checked_number,
    checked_positive,
    factory,
    initializer,
    resharded,
    settle,
)
from initjax.constants import constant
from initjax.fans import checked_fans, fans_arguments, fans_of
from initjax.sampling import normal

if TYPE_CHECKING:
    import jax


@factory
def small_init(features: int, dtype: Any = None) -> normal:
    r"""Draws from :math:`N(0, 2/(5 d))`, for the kernels of a transformer of width `d`.

    It is Glorot's variance of a kernel of shape (d, 4d), used for all kernels but the last ones of
    the residual branches, which get `wang_init`. Equals `normal((2 / (5 * features))**0.5)`.

    Args:
      features: the width `d` of the residual stream, above 0.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Returns:
      An initializer.

    Raises:
      TypeError, ValueError: features is not an integer above 0.

    Example:
      >>> small_init(4096)
      normal(stddev=0.009882117688026186)

    Reference:
      Nguyen and Salazar 2019, "Transformers without Tears",
      https://arxiv.org/abs/1910.05895, as in GPT-NeoX-20B, https://arxiv.org/abs/2204.06745
    """
    features = checked_integer("small_init", "features", features, 1)
    return called_as("small_init", normal((2 / (5 * features)) ** 0.5, dtype))


@factory
def wang_init(num_layers: int, features: int, dtype: Any = None) -> normal:
    r"""Draws from :math:`N(0, (2/(L \sqrt{d}))^2)`, for the last kernels of residual branches.

    All other kernels get `small_init`. Equals `normal(2 / (num_layers * features**0.5))`.

    Args:
      num_layers: the number of layers `L`, above 0, each with two branches.
      features: the width `d` of the residual stream, above 0.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Returns:
      An initializer.

    Raises:
      TypeError, ValueError: an argument is not an integer above 0.

    Example:
      >>> wang_init(32, 4096)
      normal(stddev=0.0009765625)

    Reference:
      Wang and Komatsuzaki 2021, mesh-transformer-jax, as in GPT-NeoX-20B,
      https://arxiv.org/abs/2204.06745
    """
    num_layers = checked_integer("wang_init", "num_layers", num_layers, 1)
    features = checked_integer("wang_init", "features", features, 1)
    return called_as("wang_init", normal(2 / (num_layers * features**0.5), dtype))


@factory
def layer_scale(num_layers: int, dtype: Any = None) -> constant:
    """Fills a LayerScale with 0.1 for up to 18 layers, 1e-5 for up to 24, and 1e-6 for more.

    LayerScale multiplies each feature of a residual branch. Equals `constant(0.1)` and so on;
    other models use one value at every depth: DINOv2 `constant(1e-5)`, ConvNeXt `constant(1e-6)`.

    Args:
      num_layers: the number of the model's layers, above 0.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Returns:
      An initializer.

    Raises:
      TypeError, ValueError: num_layers is not an integer above 0.

    Example:
      >>> layer_scale(12), layer_scale(24), layer_scale(36)
      (constant(0.1), constant(1e-05), constant(1e-06))

    Reference:
      Touvron et al. 2021, "Going deeper with Image Transformers", section 2,
      https://arxiv.org/abs/2103.17239
    """
    layers = checked_integer("layer_scale", "num_layers", num_layers, 1)
    return constant(0.1 if layers <= 18 else 1e-5 if layers <= 24 else 1e-6, dtype)


def depth_indexed(
    patterns: str | Sequence[str],
    num_layers: int,
    *,
    stddev: float = 0.02,
    branches_per_layer: int = 2,
) -> dict[str, Initializer]:
    r"""Makes rules that draw layer `i` from :math:`N(0, stddev^2/(b\,(i + 1)))`.

    They are for the last kernels of residual branches, `b` in each layer: branch number `n` is
    divided by :math:`\sqrt{n}`, so that each adds its share to the variance of the residual stream.
    (`residual_scaling` divides all by the root of their total number.) torchtitan draws the second
    kernel of a gated MLP in the same way, and all other kernels from :math:`N(0, stddev^2)`.

    Args:
      patterns: a pattern of paths as in `initialize`, or several, with `{}` where a path has the
        layer's index, counted from 0.
      num_layers: the number of layers, above 0.
      stddev: the standard deviation of the model's other kernels.
      branches_per_layer: the number of residual branches in each layer.

    Returns:
      A dictionary from patterns to initializers, for `initialize`. Put it before rules whose
      patterns match the same paths.

    Raises:
      TypeError, ValueError: a pattern has no `{}`, stddev is not a finite number >= 0, or a number
        is not an integer above 0.

    Example:
      >>> rules = depth_indexed("*/layers_{}/out/kernel", 2, branches_per_layer=1, stddev=0.5)
      >>> rules["*/layers_0/out/kernel"], round(rules["*/layers_1/out/kernel"].stddev, 4)
      (normal(stddev=0.5), 0.3536)

    Reference:
      torchtitan's `depth_scaled_std`, as in its Llama 3, DeepSeek-V3 and Qwen3; the authors' bounds
      of ±2, a hundred standard deviations, cut nothing off.
    """
    alone = isinstance(patterns, str) or not isinstance(patterns, Sequence)
    several: list[Any] = [patterns] if alone else list(patterns)
    for pattern in several:
        if not isinstance(pattern, str) or "{}" not in pattern:
            raise ValueError(
                "depth_indexed: a pattern must have {} in place of the layer's index, as in"
                f" '*/layers_{{}}/out/kernel', got {pattern!r}"
            )
    layers = checked_integer("depth_indexed", "num_layers", num_layers, 1)
    branches = checked_integer("depth_indexed", "branches_per_layer", branches_per_layer, 1)
    stddev = checked_number("depth_indexed", "stddev", stddev, 0)
    # The last layer first, so that "*layers_1*" doesn't take "layers_10".
    return {
        pattern.replace("{}", str(index)): normal(stddev / (branches * (index + 1)) ** 0.5)
        for index in reversed(range(layers))
        for pattern in several
    }


@initializer
class spectral:
    r"""Draws from :math:`N(0, scale^2 \min(1, fan_{out}/fan_{in})/fan_{in})`.

    The kernel's spectral norm is then of the order of :math:`\sqrt{fan_{out}/fan_{in}}`, at any
    width: the condition for learning features, as in muP. Hidden kernels get LeCun's variance, and
    a narrow output layer a smaller one.

    Args:
      scale: a factor of the standard deviation.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.
      in_axis, out_axis, batch_axis, fan_in_divisor, fan_out_divisor: the meaning of the kernel's
        axes; see `initjax.fans`.

    Raises:
      TypeError, ValueError: scale is not a finite number >= 0, the others as in `variance_scaling`;
        when called, an axis is outside the shape.

    Example:
      >>> import jax
      >>> kernel = spectral()(jax.random.key(0), (400, 100))
      >>> round(float(kernel.std()) * 400**0.5, 2)
      0.5

    Reference:
      Yang, Simon and Bernstein 2023, "A Spectral Condition for Feature Learning",
      https://arxiv.org/abs/2310.17813
    """

    scale: float = 1.0
    dtype: Any = None
    _: dataclasses.KW_ONLY
    in_axis: Axes = -2
    out_axis: Axes = -1
    batch_axis: Axes = ()
    fan_in_divisor: float = 1.0
    fan_out_divisor: float = 1.0

    def __post_init__(self) -> None:
        settle(
            self,
            scale=checked_number("spectral", "scale", self.scale, minimum=0),
            dtype=checked_dtype("spectral", self.dtype, inexact=True),
            **checked_fans("spectral", **fans_arguments(self)),
        )

    __call__ = draw_by_law

    def _law(self, shape: tuple[int, ...], dtype: np.dtype) -> Law:
        fan_in, fan_out = (fan or 1.0 for fan in fans_of(self, shape))
        return normal_law(self.scale * (min(1.0, fan_out / fan_in) / fan_in) ** 0.5, dtype)


@initializer
class unit_norm:
    r"""Draws vectors of length `scale` in random directions, along one axis.

    The numbers have mean square :math:`scale^2/n`, with `n` the size of the axis. nGPT keeps all
    its matrices like this: `axis=-1` for embeddings and the last kernels of branches, `axis=-2` for
    all other kernels, so always along the axis of the residual stream.

    Args:
      axis: the axis of the vectors; -2 are the inputs of a kernel (in, out).
      scale: their length, above 0.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.

    Raises:
      TypeError, ValueError: axis is not an int, scale is not a finite number above 0; when called,
        the shape lacks the axis.

    Example:
      >>> import jax
      >>> kernel = unit_norm()(jax.random.key(0), (64, 3))
      >>> jax.numpy.linalg.norm(kernel, axis=0).round(5).tolist()
      [1.0, 1.0, 1.0]

    Reference:
      Loshchilov et al. 2024, "nGPT: Normalized Transformer with Representation Learning on the
      Hypersphere", https://arxiv.org/abs/2410.01131, and the authors' code.
    """

    axis: int = -2
    scale: float = 1.0
    dtype: Any = None

    def __post_init__(self) -> None:
        axis = checked_axes("unit_norm", "axis", self.axis)
        if not isinstance(axis, int):
            raise TypeError(f"unit_norm: axis must be one axis (int), got {axis!r}")
        settle(
            self,
            axis=axis,
            scale=checked_positive("unit_norm", "scale", self.scale),
            dtype=checked_dtype("unit_norm", self.dtype, inexact=True),
        )

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        import jax.numpy as jnp

        dtype, wide = draw_dtypes(dtype, self.dtype, repr(self))
        shape = tuple(shape)
        if not -len(shape) <= self.axis < len(shape):
            raise ValueError(f"{self!r} needs a shape that has this axis, got {shape}")
        # An entry is almost normal, and no vector is longer than the scale.
        spread = abs(self.scale) / max(shape[self.axis], 1) ** 0.5
        check_drawn(self, dtype, wide, min(abs(self.scale), 8.3 * spread), normal_center(spread))
        kernel = called_as(repr(self), normal(1.0))(key, shape, wide)
        squares = jnp.sum(jnp.square(jnp.abs(kernel)), self.axis, keepdims=True)
        # One number may be zero, a vector of them practically never.
        length = jnp.sqrt(jnp.maximum(squares, jnp.finfo(wide).tiny))
        return resharded((kernel * (self.scale / length).astype(wide)).astype(dtype), out_sharding)
