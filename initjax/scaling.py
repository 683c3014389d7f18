r"""Initializers whose variance follows from the kernel's shape: one core and its named forms.

A unit sums `fan_in` products, so with weights of variance :math:`scale / fan_{in}` its mean square
is `scale` times that of its inputs, whatever their number; `fan_out` does the same for the gradient
in the backward pass. The named methods are `variance_scaling` with these arguments fixed:

=================  =====  =======  ================
name               scale  mode     distribution
=================  =====  =======  ================
`lecun_uniform`    1      fan_in   uniform
`lecun_normal`     1      fan_in   truncated_normal
`glorot_uniform`   1      fan_avg  uniform
`glorot_normal`    1      fan_avg  truncated_normal
`he_uniform`       2      fan_in   uniform
`he_normal`        2      fan_in   truncated_normal
=================  =====  =======  ================

Axis arguments are explained in `initjax.fans`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from initjax._drawing import checked_draw, draw
from initjax._fitting import check_drawn
from initjax._laws import Law, normal_center, normal_law, truncated_normal_law, uniform_law
from initjax._values import (
    Axes,
    call_repr,
    called_as,
    checked_choice,
    checked_dtype,
    checked_number,
    factory,
    initializer,
    settle,
)
from initjax.fans import checked_fans, fans_arguments, fans_of
from initjax.theory.moments import gain as theory_gain

if TYPE_CHECKING:
    import jax

Gain: TypeAlias = float | Callable[[Any], Any] | str
"""A gain: a number, or an activation as a function or a name in `jax.nn`."""

MODES = ("fan_in", "fan_out", "fan_avg", "fan_geo_avg")
DISTRIBUTIONS = ("truncated_normal", "normal", "uniform")

# The standard deviation of a unit normal truncated at two: dividing by it restores the variance.
_TRUNCATED_STDDEV = 0.87962566103423978
# The same for a complex unit normal whose modulus is truncated at two.
_COMPLEX_TRUNCATED_STDDEV = 0.95311164380491208

# The arguments that each named method fixes; the repr uses them to find the name.
_NAMED = {
    (1.0, "fan_in", "uniform"): "lecun_uniform",
    (1.0, "fan_in", "truncated_normal"): "lecun_normal",
    (1.0, "fan_avg", "uniform"): "glorot_uniform",
    (1.0, "fan_avg", "truncated_normal"): "glorot_normal",
    (2.0, "fan_in", "uniform"): "he_uniform",
    (2.0, "fan_in", "truncated_normal"): "he_normal",
}


@initializer
class variance_scaling:
    r"""Draws with mean zero and variance :math:`scale / n`, with `n` from the kernel's shape.

    `n` is, by mode, `fan_in`, `fan_out`, their mean (`fan_avg`) or their geometric mean
    (`fan_geo_avg`). The variance is that of the values actually drawn: `truncated_normal` is
    truncated at two standard deviations and scaled by 1/0.8796 to compensate; `uniform` is
    :math:`U[-\sqrt{3 scale/n}, \sqrt{3 scale/n})`. For a complex dtype the modulus is truncated,
    and `uniform` is a disk.

    Args:
      scale: the variance times n; 1 preserves the mean square through a linear layer, 2 through
        ReLU.
      mode: 'fan_in', 'fan_out', 'fan_avg' or 'fan_geo_avg'.
      distribution: 'truncated_normal', 'normal' or 'uniform'.
      in_axis: axis or axes of the input features.
      out_axis: axis or axes of the output features.
      batch_axis: axis or axes along which kernels are stacked.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.
      fan_in_divisor: the factor by which the shape overstates fan_in; see `initjax.fans`.
      fan_out_divisor: the factor by which the shape overstates fan_out; see `initjax.fans`.
      gain: a factor for the standard deviation; or the activation before the
        layer, whose `initjax.gain` is used; None means 1. It is folded into `scale`, which
        becomes scale · gain²; the initializer's own `gain` is None.

    Raises:
      TypeError, ValueError: scale or its product with gain² is not a finite number >= 0, mode or
        distribution isn't one of the above, an axis is not an int or a sequence of ints, gain is
        neither a number >= 0 nor an activation, a divisor is not above 0, the dtype is neither
        floating nor complex; when called, an axis is outside the shape.

    Example:
      >>> import jax
      >>> kernel = variance_scaling(2.0, "fan_in", "normal")(jax.random.key(0), (1000, 500))
      >>> round(float(kernel.std()) * (1000 / 2) ** 0.5, 2)
      1.0

    Reference:
      `jax.nn.initializers.variance_scaling`, bit for bit in float32 and float64. (In Keras "normal"
      means "truncated_normal".)
    """

    scale: float
    mode: str
    distribution: str
    in_axis: Axes = -2
    out_axis: Axes = -1
    batch_axis: Axes = ()
    dtype: Any = None
    fan_in_divisor: float = dataclasses.field(default=1.0, kw_only=True)
    fan_out_divisor: float = dataclasses.field(default=1.0, kw_only=True)
    gain: dataclasses.InitVar[Gain | None] = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self, gain: Gain | None) -> None:
        owner = "variance_scaling"
        # JAX's sentence first, since code may look for it.
        jax_says = f"invalid mode for variance scaling initializer: {self.mode}"
        checked_choice(owner, "mode", self.mode, MODES, jax_says)
        jax_says = f"invalid distribution for variance scaling initializer: {self.distribution}"
        checked_choice(owner, "distribution", self.distribution, DISTRIBUTIONS, jax_says)
        settle(
            self,
            scale=scaled(owner, self.scale, gain),
            dtype=checked_dtype(owner, self.dtype, inexact=True),
            **checked_fans(owner, **fans_arguments(self)),
        )

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        import jax.numpy as jnp

        dtype, wide = checked_draw(self, key, dtype)
        shape = tuple(shape)
        variance = self._variance(shape)
        if 0 in shape:
            return jnp.zeros(shape, dtype, out_sharding=out_sharding)
        if wide.kind == "c":
            return _complex(self, variance, key, shape, wide, out_sharding)
        return draw(self, key, shape, dtype, wide, out_sharding)

    def _variance(self, shape: tuple[int, ...]) -> float:
        fan_in, fan_out = fans_of(self, shape)
        n = {
            "fan_in": fan_in,
            "fan_out": fan_out,
            "fan_avg": (fan_in + fan_out) / 2,
            "fan_geo_avg": (fan_in * fan_out) ** 0.5,
        }[self.mode]
        return self.scale / n if n else 0.0

    def _law(self, shape: tuple[int, ...], dtype: np.dtype) -> Law:
        variance = self._variance(shape)
        if self.distribution == "normal":
            return normal_law(_root(variance, dtype), dtype)
        if self.distribution == "truncated_normal":
            stddev = _root(variance, dtype) / dtype.type(_TRUNCATED_STDDEV)
            return truncated_normal_law(stddev, -2.0, 2.0, dtype)
        return uniform_law(-1.0, 1.0, dtype, _root(variance, dtype, 3))

    def __repr__(self) -> str:
        name = _NAMED.get((self.scale, self.mode, self.distribution))
        if name is None:
            return call_repr(self, "variance_scaling")
        return call_repr(self, name, fixed=("scale", "mode", "distribution"))


def _root(variance: float, dtype: np.dtype, factor: int = 1) -> Any:
    """The root of factor · variance: of the rounded number, as in JAX, if the dtype holds it."""
    limits = np.finfo(dtype)
    if float(limits.tiny) <= variance and factor * variance < float(limits.max):
        return np.sqrt(dtype.type(factor) * dtype.type(variance))
    return dtype.type(math.sqrt(factor) * math.sqrt(variance))


def scaled(owner: str, scale: Any, gain: Gain | None) -> float:
    """Scale · gain², checked; the gain is a number >= 0 or an activation."""
    scale = checked_number(owner, "scale", scale, minimum=0)
    if gain is None:
        return scale
    if isinstance(gain, str) or callable(gain):
        number = theory_gain(gain)
    else:
        number = checked_number(owner, "gain", gain, minimum=0)
    product = scale * (number * number)
    if not math.isfinite(product):
        raise ValueError(f"{owner}: scale * gain**2 must be finite, got {scale} * {gain!r}**2")
    return float(f"{product:.15g}")  # so that a gain of 2**0.5 gives the same as a scale of 2


def named(
    owner: str, mode: str, distribution: str, gain: Gain, fans: tuple[Any, ...], dtype: Any
) -> variance_scaling:
    """The core with its first arguments fixed; errors about the others start with the name.

    Args:
      owner: the name.
      mode: as in `variance_scaling`.
      distribution: as in `variance_scaling`.
      gain: the factor of the standard deviation.
      fans: the arguments of `compute_fans`, in order.
      dtype: the dtype if a call doesn't give one.
    """
    scale, fans_by_name = scaled(owner, 1.0, gain), checked_fans(owner, *fans)
    dtype = checked_dtype(owner, dtype, inexact=True)
    made = variance_scaling(scale, mode, distribution, dtype=dtype, **fans_by_name)
    return made if repr(made).startswith(owner) else called_as(owner, made)


def _complex(
    initializer: variance_scaling,
    variance: float,
    key: jax.Array,
    shape: tuple[int, ...],
    dtype: Any,
    out: Any,
) -> jax.Array:
    """Draws complex numbers; a uniform or truncated distribution bounds their modulus."""
    import jax
    import jax.numpy as jnp

    distribution, spread = initializer.distribution, math.sqrt(variance)
    reach = {"normal": 8.3 / 2**0.5, "uniform": 2**0.5}.get(
        distribution, 2 / _COMPLEX_TRUNCATED_STDDEV
    )
    check_drawn(initializer, dtype, dtype, reach * spread, normal_center(spread / 2**0.5))
    stddev = dtype.type(_root(variance, dtype))
    if distribution == "normal":
        return jax.random.normal(key, shape, dtype, out_sharding=out) * stddev
    radius, phase = _radius_and_phase(key, shape, dtype, out)
    if distribution == "uniform":
        return ((2 * radius) ** 0.5).astype(dtype) * phase * stddev
    # A normal distribution with variance one before its modulus is truncated at two.
    modulus = jnp.sqrt(-jnp.log1p(-radius * (1 - math.exp(-4.0))))
    return modulus.astype(dtype) * phase * (stddev / dtype.type(_COMPLEX_TRUNCATED_STDDEV))


def _radius_and_phase(key: jax.Array, shape: tuple[int, ...], dtype: Any, out_sharding: Any):
    """Draws from U[0, 1), and from the unit circle of the complex plane."""
    import jax
    import jax.numpy as jnp

    real = jnp.finfo(dtype).dtype
    key_radius, key_phase = jax.random.split(key)
    radius = jax.random.uniform(key_radius, shape, real, out_sharding=out_sharding)
    angle = jax.random.uniform(key_phase, shape, real, maxval=2 * np.pi, out_sharding=out_sharding)
    return radius, jax.lax.complex(jnp.cos(angle), jnp.sin(angle))


@factory
def lecun_uniform(
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = None,
    *,
    gain: Gain = 1.0,
    fan_in_divisor: float = 1.0,
    fan_out_divisor: float = 1.0,
) -> variance_scaling:
    r"""Draws from :math:`U[-\sqrt{3/fan_{in}}, \sqrt{3/fan_{in}})`: variance 1/fan_in.

    Preserves the mean square of a signal through linear layers. Same as
    `variance_scaling(1.0, "fan_in", "uniform")`.

    Args:
      in_axis, out_axis, batch_axis, fan_in_divisor, fan_out_divisor: the meaning of the kernel's
        axes; see `initjax.fans`.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.
      gain: a factor for the standard deviation; or the activation before the
        layer, whose `initjax.gain` is used.

    Returns:
      An initializer.

    Raises:
      TypeError, ValueError: as `variance_scaling`.

    Example:
      >>> import jax
      >>> kernel = lecun_uniform()(jax.random.key(0), (1000, 500))
      >>> round(float(kernel.std()) * 1000**0.5, 2)
      1.0

    Reference:
      LeCun, Bottou, Orr and Müller 1998, "Efficient BackProp", section 4.6,
      http://yann.lecun.com/exdb/publis/pdf/lecun-98b.pdf
    """
    fans = in_axis, out_axis, batch_axis, fan_in_divisor, fan_out_divisor
    return named("lecun_uniform", "fan_in", "uniform", gain, fans, dtype)


@factory
def lecun_normal(
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = None,
    *,
    gain: Gain = 1.0,
    fan_in_divisor: float = 1.0,
    fan_out_divisor: float = 1.0,
) -> variance_scaling:
    r"""Draws from a normal truncated at two sigma, with variance 1/fan_in after truncation.

    Preserves the mean square of a signal through linear layers and SELU; it is Flax's default. Same
    as `variance_scaling(1.0, "fan_in", "truncated_normal")`.

    Args:
      in_axis, out_axis, batch_axis, fan_in_divisor, fan_out_divisor: the meaning of the kernel's
        axes; see `initjax.fans`.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.
      gain: a factor for the standard deviation; or the activation before the
        layer, whose `initjax.gain` is used.

    Returns:
      An initializer.

    Raises:
      TypeError, ValueError: as `variance_scaling`.

    Example:
      >>> import jax
      >>> kernel = lecun_normal()(jax.random.key(0), (1000, 500))
      >>> round(float(kernel.std()) * 1000**0.5, 2)
      1.0

    Reference:
      LeCun, Bottou, Orr and Müller 1998, "Efficient BackProp", section 4.6,
      http://yann.lecun.com/exdb/publis/pdf/lecun-98b.pdf
    """
    fans = in_axis, out_axis, batch_axis, fan_in_divisor, fan_out_divisor
    return named("lecun_normal", "fan_in", "truncated_normal", gain, fans, dtype)


@factory
def glorot_uniform(
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = None,
    *,
    gain: Gain = 1.0,
    fan_in_divisor: float = 1.0,
    fan_out_divisor: float = 1.0,
) -> variance_scaling:
    r"""Draws from :math:`U[-l, l)`, :math:`l=\sqrt{6/(fan_{in} + fan_{out})}`: variance 1/fan_avg.

    A compromise between keeping the signal (fan_in) and keeping the gradient (fan_out) in nets
    that are nearly linear at the start, such as tanh's; it is Keras's default. Same as
    `variance_scaling(1.0, "fan_avg", "uniform")`; also called `xavier_uniform`.

    Args:
      in_axis, out_axis, batch_axis, fan_in_divisor, fan_out_divisor: the meaning of the kernel's
        axes; see `initjax.fans`.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.
      gain: a factor for the standard deviation; or the activation before the
        layer, whose `initjax.gain` is used.

    Returns:
      An initializer.

    Raises:
      TypeError, ValueError: as `variance_scaling`.

    Example:
      >>> import jax
      >>> kernel = glorot_uniform()(jax.random.key(0), (1000, 500))
      >>> round(float(kernel.std()) * 750**0.5, 2)
      1.0

    Reference:
      Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural
      networks", equation 16, https://proceedings.mlr.press/v9/glorot10a.html
    """
    fans = in_axis, out_axis, batch_axis, fan_in_divisor, fan_out_divisor
    return named("glorot_uniform", "fan_avg", "uniform", gain, fans, dtype)


@factory
def glorot_normal(
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = None,
    *,
    gain: Gain = 1.0,
    fan_in_divisor: float = 1.0,
    fan_out_divisor: float = 1.0,
) -> variance_scaling:
    r"""Draws from a normal truncated at two sigma, with variance 1/fan_avg after truncation.

    `glorot_uniform` with another distribution of the same variance. Same as
    `variance_scaling(1.0, "fan_avg", "truncated_normal")`; also called `xavier_normal`.

    Args:
      in_axis, out_axis, batch_axis, fan_in_divisor, fan_out_divisor: the meaning of the kernel's
        axes; see `initjax.fans`.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.
      gain: a factor for the standard deviation; or the activation before the
        layer, whose `initjax.gain` is used.

    Returns:
      An initializer.

    Raises:
      TypeError, ValueError: as `variance_scaling`.

    Example:
      >>> import jax
      >>> kernel = glorot_normal()(jax.random.key(0), (1000, 500))
      >>> round(float(kernel.std()) * 750**0.5, 2)
      1.0

    Reference:
      Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural
      networks", equation 12, https://proceedings.mlr.press/v9/glorot10a.html
    """
    fans = in_axis, out_axis, batch_axis, fan_in_divisor, fan_out_divisor
    return named("glorot_normal", "fan_avg", "truncated_normal", gain, fans, dtype)


@factory
def he_uniform(
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = None,
    *,
    gain: Gain = 2**0.5,
    fan_in_divisor: float = 1.0,
    fan_out_divisor: float = 1.0,
) -> variance_scaling:
    r"""Draws from :math:`U[-\sqrt{6/fan_{in}}, \sqrt{6/fan_{in}})`: variance 2/fan_in.

    Preserves the mean square of a signal through ReLU layers, which halve it. Same as
    `variance_scaling(2.0, "fan_in", "uniform")`; also called `kaiming_uniform`.

    Args:
      in_axis, out_axis, batch_axis, fan_in_divisor, fan_out_divisor: the meaning of the kernel's
        axes; see `initjax.fans`.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.
      gain: a factor for the standard deviation, instead of ReLU's √2; or the
        activation before the layer, whose `initjax.gain` is used.

    Returns:
      An initializer.

    Raises:
      TypeError, ValueError: as `variance_scaling`.

    Example:
      >>> import jax
      >>> kernel = he_uniform()(jax.random.key(0), (1000, 500))
      >>> round(float(kernel.std()) * (1000 / 2) ** 0.5, 2)
      1.0

    Reference:
      He, Zhang, Ren and Sun 2015, "Delving Deep into Rectifiers", equation 10,
      https://arxiv.org/abs/1502.01852
    """
    fans = in_axis, out_axis, batch_axis, fan_in_divisor, fan_out_divisor
    return named("he_uniform", "fan_in", "uniform", gain, fans, dtype)


@factory
def he_normal(
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = None,
    *,
    gain: Gain = 2**0.5,
    fan_in_divisor: float = 1.0,
    fan_out_divisor: float = 1.0,
) -> variance_scaling:
    r"""Draws from a normal truncated at two sigma, with variance 2/fan_in after truncation.

    Preserves the mean square of a signal through ReLU layers, which halve it. Same as
    `variance_scaling(2.0, "fan_in", "truncated_normal")`; also called `kaiming_normal`.

    Args:
      in_axis, out_axis, batch_axis, fan_in_divisor, fan_out_divisor: the meaning of the kernel's
        axes; see `initjax.fans`.
      dtype: the dtype if a call doesn't give one; None means JAX's default float.
      gain: a factor for the standard deviation, instead of ReLU's √2; or the
        activation before the layer, whose `initjax.gain` is used.

    Returns:
      An initializer.

    Raises:
      TypeError, ValueError: as `variance_scaling`.

    Example:
      >>> import jax
      >>> kernel = he_normal()(jax.random.key(0), (1000, 500))
      >>> round(float(kernel.std()) * (1000 / 2) ** 0.5, 2)
      1.0

    Reference:
      He, Zhang, Ren and Sun 2015, "Delving Deep into Rectifiers", equation 10,
      https://arxiv.org/abs/1502.01852
    """
    fans = in_axis, out_axis, batch_axis, fan_in_divisor, fan_out_divisor
    return named("he_normal", "fan_in", "truncated_normal", gain, fans, dtype)


xavier_uniform = glorot_uniform
xavier_normal = glorot_normal
kaiming_uniform = he_uniform
kaiming_normal = he_normal
